"""All arms on conflicts: tuned on some facts, read on others, beside random controls, the opposite intent and neutral text.

    outcome = examine(subject, deal(cases, n_fit=16), [*PROMPT_ARMS, *interventions(subject)[0]], neutral, config, folder)

Whoever asks more of the same readings (a curve over exposures, several models) takes them from the `Outcome`, case by case.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from circuits.prior.arm import Arm, Intent
from circuits.prior.asking import Apply, Subject, ask, damage, plain
from circuits.prior.cases import STATED, Case, Dealt, Form, Neutral
from circuits.prior.heads import Heads, head_effects
from circuits.prior.prompts import DISTRUST, REFERENCES, PromptArm, form_of
from circuits.prior.scores import CaseScores, Floats, Measure, susceptibility
from circuits.prior.tuning import Chosen, Tuned, name_of, tune
from sparsetrain.store import fingerprint
from sparsetrain.typed import Count, Index

MOST_FIT = 16
"""Cases for tuning where nothing else is said. ours"""


@dataclass(frozen=True, kw_only=True)
class ExamineConfig:
    """How arms are tuned and judged. ours"""

    measure: Measure = "p_context"
    """What arms are tuned and compared by: p_context (probability of the context's answer), preference (1 - M_R) or says_context (share of
    greedy answers)."""
    n_fit: Count | None = None
    """Cases for tuning, of facts that are not evaluated: every setting of every arm is tried on all of them. None: a third of the cases,
    at most 16."""
    n_random: Count = 3
    """Random controls of each intervention."""
    n_heads: Index = 16
    """Fitting cases that the map of attention heads is taken over; 0: no map."""
    min_facts: Count = 30
    """Fewer facts that the model knows, and no headroom is reported."""
    n_bins: Count = 4
    """Bins of the strength of the prior, of equally many cases."""
    n_bootstrap: Count = 1000
    seed: Index = 0
    """Of the deal, the controls and the intervals."""

    def fitting(self, n_cases: int) -> int:
        """Cases for tuning of so many."""
        return min(MOST_FIT, max(1, n_cases // 3)) if self.n_fit is None else self.n_fit


DEFAULT = ExamineConfig()


@dataclass(frozen=True, kw_only=True)
class ArmScores:
    """A tuned arm on evaluation cases."""

    chosen: Chosen
    scores: CaseScores
    random: tuple[CaseScores, ...] = ()
    """Its random controls; none of a prompt, or where the cases lack what the control reads."""
    restored: CaseScores | None = None
    """With the opposite intent; None: it has none."""
    damage: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    """KL on neutral texts against the statement said once, nats, `[n_texts]`; of a prompt what its words do to the text behind it."""

    def beyond_random(self, measure: Measure) -> Floats:
        """The measure less its mean over the random controls, case by case."""
        return getattr(self.scores, measure) - np.mean([getattr(one, measure) for one in self.random], axis=0)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything that was read."""

    config: ExamineConfig
    dealt: Dealt
    tuned: Tuned
    references: Mapping[str, CaseScores]
    """Prompts that nothing was tuned for (`prompts.REFERENCES`) and `asked to distrust`; rows of cases without such a prompt are NaN."""
    arms: Mapping[str, ArmScores]
    left_out: Mapping[str, str]
    """Arm -> why it was not tried."""
    heads: Heads | None
    effects: NDArray[np.float64] | None
    """Effect of every head, `[n_fit_cases, n_heads]`, nats/token; None: no heads."""

    @property
    def cases(self) -> tuple[Case, ...]:
        return self.dealt.evaluated

    @property
    def facts(self) -> list[str]:
        """Of each evaluated case."""
        return [case.fact for case in self.cases]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Cases that the model answers from memory where nothing is stated."""
        return self.references["no context"].says_prior > 0

    @property
    def prior_wins(self) -> NDArray[np.bool_]:
        """Known cases that it still answers from memory although the opposite is stated once."""
        return self.known & (self.references["stated once"].says_prior > 0)

    def best(self, kind: str, without: Collection[str] = ()) -> ArmScores | None:
        """The arm of a kind that was best on the fitting cases, those named `without` left out."""
        chosen = self.tuned.best("prompt" if kind == "prompt" else "intervention", without)
        return None if chosen is None else self.arms[chosen.arm.name]

    def susceptibility(self) -> Floats:
        """Mutual information of answer and context over the prompts that say the context's answer, memory's and something else, case by case, nats."""
        stated = [
            self.references[name].over_answers for name in ("stated once", "agreeing context", "irrelevant context")
        ]
        there = [
            ~np.isnan(self.references[name].p_prior)
            for name in ("stated once", "agreeing context", "irrelevant context")
        ]
        values = [
            susceptibility([p[i] for p, known in zip(stated, there, strict=True) if known[i]]).value if sum(known[i] for known in there) > 1 else np.nan
            for i in range(len(self.cases))
        ]  # fmt: skip
        return np.array(values)


def forms_for(arms: Sequence[Arm]) -> tuple[Form, ...]:
    """All forms that cases need to be put through these arms and their controls."""
    forms = [form for arm in arms for form in (*arm.forms(), *arm.control_forms)]
    return tuple(dict.fromkeys([*REFERENCES.values(), DISTRUST, *forms]))


def n_asked(dealt: Dealt, arms: Sequence[Arm], config: ExamineConfig) -> int:
    """How many answers `examine` reads, for a progress bar; arms that are left out count too."""
    each = sum(1 if arm.kind == "prompt" else 2 + config.n_random for arm in arms) + len(REFERENCES) + 1
    return len(dealt.fit) * sum(len(arm.settings) for arm in arms) + len(dealt.evaluated) * each


def examine(
    subject: Subject,
    dealt: Dealt,
    arms: Sequence[Arm],
    neutral: Sequence[Neutral] = (),
    config: ExamineConfig = DEFAULT,
    folder: Path | None = None,
    on_cases: Callable[[int], object] = lambda n: None,
) -> Outcome:
    """Tunes every arm, reads all of them, and their controls, on the evaluation cases.

    Args:
        subject: the model.
        dealt: cases, dealt to two parts.
        arms: prompts and interventions of equal budgets.
        neutral: texts on which damage is measured; none: it is not.
        config: measure, numbers of controls.
        folder: keeps every reading under a name of its content: what an interruption left is not read again.
        on_cases: called with numbers of cases as they are done.

    Raises:
        ValueError: see `tune`.
    """
    tuned = tune(subject, arms, dealt.fit, dealt.evaluated, config.measure, folder, on_cases)

    def read(what: object, apply: Apply, cases: Sequence[Case]) -> CaseScores:
        place = (
            None if folder is None else folder / fingerprint([subject.weights_sha256, dealt.sha256, repr(what)])[:32]
        )
        return ask(subject, cases, apply, place, on_cases)

    def reference(form: Form) -> CaseScores:
        rows = [i for i, case in enumerate(dealt.evaluated) if form in case.prompts]
        if len(rows) == len(dealt.evaluated):
            return read(form, plain(subject, form), dealt.evaluated)
        return _spread(
            read(form, plain(subject, form), [dealt.evaluated[i] for i in rows]) if rows else None,
            rows,
            dealt.evaluated,
        )

    def of_arm(chosen: Chosen) -> ArmScores:
        arm, setting, learned = chosen.arm, chosen.setting, chosen.learned

        def under(intent: Intent = "context", random: int | None = None) -> CaseScores:
            name = name_of(subject, (), arm, setting, learned, intent, random)
            return read(name, arm.apply(subject, learned, setting, intent, random), dealt.evaluated)

        if isinstance(arm, PromptArm):
            return ArmScores(chosen=chosen, scores=under(), damage=hurt(chosen))
        n_random = 1 if arm.control_forms else config.n_random  # what is not drawn is the same every time
        if any(form not in case.prompts for form in arm.control_forms for case in dealt.evaluated):
            n_random = 0
        on_cases((config.n_random - n_random) * len(dealt.evaluated))
        seeds = [config.seed + 1 + i for i in range(n_random)]
        return ArmScores(
            chosen=chosen,
            scores=under(),
            random=tuple(under(random=seed) for seed in seeds),
            restored=under("prior"),
            damage=hurt(chosen),
        )

    def hurt(chosen: Chosen) -> NDArray[np.float64]:
        arm = chosen.arm
        needed = {STATED, *arm.forms(chosen.setting)}
        texts = [text for text in neutral if needed <= set(text.prompts)]
        if not texts:
            return np.empty(0)
        form = form_of(chosen.setting) if isinstance(arm, PromptArm) else STATED
        place = None
        if folder is not None:
            name = name_of(subject, texts, arm, chosen.setting, chosen.learned, "damage", repr(form))
            place = folder / name
        return damage(subject, texts, plain(subject, STATED), arm.apply(subject, chosen.learned, chosen.setting), place)

    references = {name: reference(form) for name, form in REFERENCES.items()}
    references["asked to distrust"] = reference(DISTRUST)
    found = {chosen.arm.name: of_arm(chosen) for chosen in tuned.chosen}
    heads, effects = None, None
    if config.n_heads:
        try:
            heads = Heads.of(subject.module)
        except ValueError:
            heads = None
        if heads is not None:
            effects = head_effects(subject, heads, dealt.fit[: config.n_heads], STATED)["effects"]
    return Outcome(
        config=config,
        dealt=dealt,
        tuned=tuned,
        references=references,
        arms=found,
        left_out=tuned.left_out,
        heads=heads,
        effects=effects,
    )


def _spread(scores: CaseScores | None, rows: Sequence[int], cases: Sequence[Case]) -> CaseScores:
    """Scores of some of the cases at their places among all, NaN elsewhere."""
    width = max(len(case.answers) for case in cases)
    found: dict[str, Floats] = {}
    for name in CaseScores.__annotations__:
        whole = np.full((len(cases), width) if name == "mean_logp" else len(cases), np.nan)
        if scores is not None:
            values = getattr(scores, name)
            if name == "mean_logp":
                whole[np.array(rows)[:, None], np.arange(values.shape[1])] = values
            else:
                whole[rows] = values
        found[name] = whole
    return CaseScores(**found)
