"""A study: a question, decided by rules that stand in its report before anything runs.

1. A `Plan` names seeds, arms, gates, claims with their criteria, and verdicts made of claims. `preregister` writes it into
   the run folder; a folder that holds another plan is refused.
2. `Stage`s (for instance one training per arm and seed) do the work, each in a folder of its own. A stage that has finished under
   the same inputs is not run again; one that was interrupted finds in its folder what it had left there.
3. `conclude` turns one number per claim and seed into an interval over seeds, applies the criteria, and combines claims
   into verdicts. If a gate fails nothing can be read from the study, and every verdict says so.

What a study finds out is up to its own module; this one knows no study.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from sparsetrain.folder import MARK
from sparsetrain.sparsity import Method
from sparsetrain.stats.decisions import DecisionRule, Word, decide
from sparsetrain.stats.intervals import Estimate, over_seeds
from sparsetrain.stats.number import number
from sparsetrain.store import fingerprint, once, write_atomic
from sparsetrain.studies.section import (
    Claim,
    ClaimEntry,
    Gate,
    GateEntry,
    Plan,
    StudySection,
    VerdictEntry,
    VerdictRule,
)
from sparsetrain.typed import Above0, Count, Index, Share, plain

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """How one arm of a study differs from the run's own config; what is null is as there."""

    d_model: Count | None = None
    density: Share | None = None
    """Nonzeros / entries of the weight matrices at the end; 1: dense."""
    embed_density: Share | None = None
    """Of embedding and unembedding; without a density of 1."""
    floor: Index | Literal["auto"] | None = None
    method: Method | None = None
    """By which the weights are made sparse."""
    anneal_end: Share | None = None
    """Fraction of the steps at which the density has reached its target."""
    compute: Literal["dense", "sparse", "auto"] | None = None
    """How products with sparse weights are computed."""
    refresh_every: Count | None = None
    """Steps from one dense gradient to the next, where they are computed by their nonzeros."""
    refresh_falling: Count | None = None
    """The same while the density falls."""
    exact_above: Share | None = None
    """Density above which they have a dense gradient in every step."""
    moments: Literal["dense", "compressed"] | None = None
    """Adam's, likewise."""
    abs_topk: Share | None = None
    """Share of every place's width that AbsTopK keeps; 1: no AbsTopK."""
    lr_peak: Above0 | None = None
    eps: Above0 | None = None
    """AdamW's."""
    decay: Literal["linear", "cosine", "constant"] | None = None
    """Learning rate after the warm-up."""


@dataclass(frozen=True, kw_only=True)
class StudyRules:
    """By which rules a study is run. ours"""

    n_seeds: Count = 5
    """Seeds of the study: the run's seed and those that follow it."""
    n_agreeing: Count = 4
    """Seeds that must agree on the sign of an effect."""
    n_checkpoints: Count = 12
    """Log-spaced steps at which models are read, besides step 0."""
    margin: Above0 = 0.005
    """Smallest difference of interest of a sparsity measure; without one no data could say no."""
    arms: dict[str, Arm] = field(default_factory=dict)
    """The first is the one that the others are compared with. None given: those that the study has of its own."""


@dataclass(frozen=True, kw_only=True)
class ClaimRule:
    """A claim of the plan with what decides it."""

    key: str
    arm: str
    rule: DecisionRule
    unit: str

    def claim(self) -> Claim:
        """As it stands in the plan."""
        return Claim(key=self.key, arm=self.arm, claim=self.rule.claim, criterion=self.rule.describe())

    def decide(self, effects: Sequence[float | Estimate]) -> ClaimEntry:
        """The claim after the run, from the effect in each seed, or from one estimate where seeds are not what is sampled."""
        per_seed = [effect for effect in effects if not isinstance(effect, Estimate)]
        estimate = effects[0] if effects and isinstance(effects[0], Estimate) else over_seeds(per_seed)
        decision = decide(self.rule, estimate, per_seed or None)
        found = estimate.number(self.unit)
        return ClaimEntry(
            **vars(self.claim()),
            number=replace(found, note="; ".join(filter(None, (estimate.method, found.note)))),
            per_seed=tuple(per_seed),
            verdict=decision.word,
            reason=decision.reason,
        )


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What every stage leaves; studies add to it."""

    weights_sha256: str
    seconds: float = 0.0
    """Filled in by `run_stages`."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A piece of work with a folder of its own."""

    name: str
    """Path of its folder inside the run's, for instance `constant/seed_0`."""
    inputs: Mapping[str, object]
    """Plain data or dataclasses that decide the result."""
    run: Callable[[Path], StageResult]
    """Works in the folder; goes on with what an interruption left there."""
    schema: type[StageResult] = StageResult
    kept_under: Mapping[str, object] | None = None
    """Inputs that what lies in the folder depends on: where these are as before the work goes on, under others the folder is emptied. None: all."""


def preregister(plan: Plan, run_dir: Path) -> StudySection:
    """Writes `plan.json`, once; returns the study before its run.

    Raises:
        ValueError: the folder holds another plan.
    """
    path, sha256 = run_dir / "plan.json", plan.sha256()
    text = json.dumps({"sha256": sha256, **plain(plan)}, indent=1) + "\n"
    if path.is_file() and path.read_text() != text:
        raise ValueError(f"{path} holds another plan; rules are not changed after the fact, use another hydra.run.dir")
    write_atomic(path, text)
    return StudySection(status="planned", plan=plan, plan_sha256=sha256)


def run_stages(
    stages: Sequence[Stage],
    run_dir: Path,
    around: Callable[[str], AbstractContextManager[None]] = lambda name: nullcontext(),
) -> dict[str, StageResult]:
    """Runs each stage that has not finished under the same inputs; returns name -> result.

    Args:
        stages: in their order.
        run_dir: of the study.
        around: a stage's name -> what it runs in.
    """
    results: dict[str, StageResult] = {}
    for i, stage in enumerate(stages, start=1):
        folder, place = run_dir / stage.name, f"stage {i} of {len(stages)}"
        with around(stage.name):
            results[stage.name] = once(
                folder / "result.json", stage.inputs, partial(_run, stage, folder, place), stage.schema
            )
    return results


def _run(stage: Stage, folder: Path, place: str) -> StageResult:
    log.info("%s: %s ...", place, stage.name)
    mark = folder / MARK
    key = fingerprint(stage.inputs if stage.kept_under is None else stage.kept_under)
    if folder.is_dir() and not (mark.is_file() and mark.read_text() == key):
        shutil.rmtree(folder)
    write_atomic(mark, key)
    started = time.perf_counter()
    result = replace(stage.run(folder), seconds=time.perf_counter() - started)
    log.info("%s took %.1f s", stage.name, result.seconds)
    return result


def conclude(
    plan: Plan,
    claims: Sequence[ClaimRule],
    *,
    gates: Mapping[str, Sequence[float]],
    effects: Mapping[str, Sequence[float | Estimate]],
) -> StudySection:
    """Applies the plan's rules.

    Args:
        plan: as preregistered.
        claims: its claims, with what decides them.
        gates: key -> the value in each seed (and arm).
        effects: key of each claim -> the effect in each seed, or one estimate.

    Returns:
        The section without figures, tables and models.
    """
    assert plan.claims == tuple(rule.claim() for rule in claims)
    decided = tuple(rule.decide(effects[rule.key]) for rule in claims)
    judged = tuple(_judge(gate, gates[gate.key]) for gate in plan.gates)
    failed = [gate for gate, entry in zip(plan.gates, judged, strict=True) if not entry.passed]
    words: dict[str, Word] = {claim.key: claim.verdict for claim in decided}
    arms = {rule.arm for rule in plan.rules} or {None}
    return StudySection(
        status="done",
        plan=plan,
        plan_sha256=plan.sha256(),
        interpretable=any(all(gate.arm not in (None, arm) for gate in failed) for arm in arms),
        gates=judged,
        claims=decided,
        verdicts=tuple(_combine(rule, words, failed) for rule in plan.rules),
    )


def _judge(gate: Gate, values: Sequence[float]) -> GateEntry:
    """Whether a gate holds for all seeds (a NaN fails it)."""
    v, bound, least = np.asarray(values, dtype=np.float64), gate.bound.value, gate.rule == "at least"
    assert bound is not None
    worst = float((v.min if least else v.max)()) if len(v) else None
    worst = int(worst) if worst is not None and worst.is_integer() else worst  # a count
    where = "in every seed and arm" if gate.arm is None else f"in every seed of arm {gate.arm}"
    return GateEntry(
        key=gate.key,
        words=gate.words,
        criterion=f"{gate.rule} {bound:g} {where}",
        worst=number(worst, gate.bound.unit, n=len(v)),
        passed=bool(len(v) and (v >= bound if least else v <= bound).all()),
    )


def _combine(rule: VerdictRule, words: Mapping[str, Word], failed: Sequence[Gate]) -> VerdictEntry:
    """The verdict from the words of its claims and the gates that failed, and why."""
    missed = [gate.key for gate in failed if gate.arm in (None, rule.arm)]
    word, reason = "supported", f"all of {', '.join(rule.needs)}"
    for found in ("undecided", "not supported"):
        those = [key for key in rule.needs if words[key] == found]
        word, reason = (found, f"{found}: {', '.join(those)}") if those else (word, reason)
    if missed:
        word, reason = "undecided", f"not interpretable, these gates failed: {', '.join(missed)}"
    return VerdictEntry(name=rule.name, arm=rule.arm, statement=rule.statement, verdict=word, reason=reason)


@contextmanager
def section_of(path: str) -> Iterator[None]:
    """Puts the path of a config's section in front of a ValueError whose message begins with one of its fields."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}.{error}") from None


def log_spaced_steps(n_steps: int, n: int) -> tuple[int, ...]:
    """Step 0 and up to n steps from 1 to n_steps, evenly spaced in logarithm, each once."""
    return (0, *sorted({round(float(step)) for step in np.geomspace(1, n_steps, n)}))
