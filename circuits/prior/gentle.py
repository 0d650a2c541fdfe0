"""The best prompt and the best intervention among those that leave neutral text alone: every setting counts, also one that was not its arm's best.

Chosen on the fitting cases and on neutral text, read on the evaluation cases, like everything else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from circuits.prior.arm import Kind, Setting
from circuits.prior.asking import Subject, ask, damage, plain
from circuits.prior.cases import STATED, Neutral
from circuits.prior.scores import CaseScores
from circuits.prior.study import Outcome
from circuits.prior.tuning import Chosen


@dataclass(frozen=True, kw_only=True)
class Gentle:
    """An arm in a setting that changes neutral text by no more than it may."""

    arm: str
    setting: Setting
    collateral: float
    """KL on neutral text, nats."""
    scores: CaseScores
    """On the evaluation cases."""


def gentle(subject: Subject, outcome: Outcome, neutral: Sequence[Neutral], kind: Kind, harm: float) -> Gentle | None:
    """The best of a kind at no harm; None: every setting of every arm does harm, or has no neutral text.

    Args:
        subject: the model of the outcome.
        outcome: gives arms, what they learned, and how their settings did on the fitting cases.
        neutral: texts that must not change.
        kind: prompt or intervention.
        harm: largest KL of the next token of neutral text, mean over texts, nats.
    """
    found: list[tuple[tuple[float, float], Chosen, Setting, float]] = []
    for chosen in outcome.tuned.chosen:
        if chosen.arm.kind != kind:
            continue
        for setting in chosen.arm.settings:
            needed = {STATED, *chosen.arm.forms(setting)}
            texts = [text for text in neutral if needed <= set(text.prompts)]
            if not texts:
                continue
            after = chosen.arm.apply(subject, chosen.learned, setting)
            changed = float(damage(subject, texts, plain(subject, STATED), after).mean())
            if changed <= harm:
                found.append((_rank(outcome, chosen, setting), chosen, setting, changed))
    if not found:
        return None
    _, chosen, setting, changed = max(found, key=lambda one: one[0])
    scores = ask(subject, outcome.cases, chosen.arm.apply(subject, chosen.learned, setting))
    return Gentle(arm=chosen.arm.name, setting=setting, collateral=changed, scores=scores)


def _rank(outcome: Outcome, chosen: Chosen, setting: Setting) -> tuple[float, float]:
    tried = next(row for row in outcome.tuned.log if row.arm == chosen.arm.name and row.setting == setting)
    return tried.score, tried.margin
