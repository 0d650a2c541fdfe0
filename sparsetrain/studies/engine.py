"""A study: a question, decided by rules that stand in its report before anything runs.

1. A `Plan` names seeds, arms, gates, claims with their criteria, and verdicts made of claims. `preregister` writes it into
   the run folder; a folder that holds another plan is refused.
2. `Stage`s (for instance one training per arm and seed) do the work, each in a folder of its own. A stage that has finished under
   the same inputs is not run again.
3. `conclude` turns one number per claim and seed into an interval over seeds, applies the criteria, and combines claims
   into verdicts. If a gate fails nothing can be read from the study, and every verdict says so.

What a study finds out is up to its own module (`sparsetrain/studies/`); this one knows no model.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sparsetrain.data.worlds.facts import FactsConfig
from sparsetrain.data.worlds.graded import GradedConfig
from sparsetrain.data.worlds.knowledge_graph import GraphConfig
from sparsetrain.hooks import NODE_KINDS
from sparsetrain.report import number
from sparsetrain.stats.decisions import DecisionRule, Word, decide
from sparsetrain.stats.intervals import over_seeds
from sparsetrain.store import write_atomic
from sparsetrain.typed import plain

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """How one arm of a study differs from the run's own config."""

    decay: Literal["linear", "cosine", "constant"] = "constant"
    """Learning rate after the warm-up."""
    density: float = 1.0
    """Nonzeros / entries of the weight matrices at the end; 1: dense."""

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise ValueError(f"study.arms: density={self.density} must lie in (0, 1]; 1 means dense")


@dataclass(frozen=True, kw_only=True)
class AdaptiveConfig:
    """How the number of active channels is set by hand. ours"""

    arms: tuple[str, ...] = ("constant", "weight_sparse")
    """Which of `study.arms` are trained; the first is the one that the others are compared with."""
    kind: str = "mlp_neuron"
    """Kind of hook point at which channels are set in each layer, besides the final norm."""
    levels_per_octave: int = 2
    """Numbers of channels tried per factor of two, from 1 to all."""
    energy: float = 0.95
    """Share of the energy that an item's own active channels carry."""
    n_bootstrap: int = 1000
    """Resamples of items behind a best number of channels."""

    def __post_init__(self) -> None:
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise ValueError(f"study.adaptive.arms={list(self.arms)} must name at least one arm, each once")
        if self.kind not in NODE_KINDS:
            raise ValueError(f"study.adaptive.kind={self.kind!r} is unknown; allowed: {', '.join(NODE_KINDS)}")
        for name in ("levels_per_octave", "n_bootstrap"):
            if getattr(self, name) < 1:
                raise ValueError(f"study.adaptive.{name}={getattr(self, name)} must be at least 1")
        if not 0 < self.energy <= 1:
            raise ValueError(f"study.adaptive.energy={self.energy} must lie in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Which study is run instead of a single training, and by which rules. ours"""

    kind: Literal["none", "adaptive_sparsity", "familiarity", "knowledge_graph", "shifts"] = "none"
    n_seeds: int = 5
    """Seeds of the study: the run's seed and those that follow it."""
    n_agreeing: int = 4
    """Seeds that must agree on the sign of an effect."""
    n_checkpoints: int = 12
    """Log-spaced steps at which models are read, besides step 0."""
    margin: float = 0.005
    """Smallest difference of interest of a sparsity measure."""
    arms: dict[str, Arm] = field(
        default_factory=lambda: {"constant": Arm(), "cosine": Arm(decay="cosine"), "weight_sparse": Arm(density=0.25)}
    )
    """The first is the one that the others are compared with."""
    adaptive: AdaptiveConfig = field(default_factory=AdaptiveConfig)
    familiarity: FactsConfig = field(default_factory=FactsConfig)
    knowledge_graph: GraphConfig = field(default_factory=GraphConfig)
    shifts: GradedConfig = field(default_factory=GradedConfig)

    def __post_init__(self) -> None:
        for name in ("n_seeds", "n_agreeing", "n_checkpoints"):
            if getattr(self, name) < 1:
                raise ValueError(f"study.{name}={getattr(self, name)} must be at least 1")
        if not self.margin > 0:
            raise ValueError(f"study.margin={self.margin} must be above 0: without one no data could say no")
        if not self.arms:
            raise ValueError("study.arms is empty; give at least one")


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What must hold in every seed for the study, or one arm of it, to be interpretable."""

    key: str
    words: str
    rule: Literal["at least", "at most"]
    bound: float
    unit: str
    arm: str | None = None
    """The arm that it decides about; None: all."""

    @property
    def where(self) -> str:
        """Where it must hold, in words."""
        return "in every seed and arm" if self.arm is None else f"in every seed of arm {self.arm}"

    def passed(self, values: Sequence[float]) -> bool:
        """Whether the rule holds for all seeds (a NaN fails it)."""
        v = np.asarray(values, dtype=np.float64)
        return bool(len(v) and ((v >= self.bound) if self.rule == "at least" else (v <= self.bound)).all())


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One number per seed and what it must show."""

    key: str
    arm: str
    criterion: DecisionRule
    unit: str


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A verdict made of claims: supported if all are, not supported if one is not, undecided otherwise."""

    name: str
    arm: str
    statement: str
    needs: tuple[str, ...]
    """Keys of claims."""

    def combine(self, words: Mapping[str, Word]) -> tuple[Word, str]:
        """The verdict from the words of its claims, and why."""
        for word in ("not supported", "undecided"):
            those = [key for key in self.needs if words[key] == word]
            if those:
                return word, f"{word}: {', '.join(those)}"
        return "supported", f"all of {', '.join(self.needs)}"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All that is fixed before a study runs."""

    question: str
    method: tuple[str, ...]
    """Paragraphs."""
    seeds: tuple[int, ...]
    arms: tuple[str, ...]
    gates: tuple[Gate, ...]
    claims: tuple[Claim, ...]
    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        keys = [claim.key for claim in self.claims]
        assert len(set(keys)) == len(keys), keys
        assert all(need in keys for rule in self.rules for need in rule.needs), keys

    def section(self) -> dict[str, Any]:
        """The plan as it stands in the report, before and after the run."""
        return {
            "question": self.question,
            "method": list(self.method),
            "seeds": list(self.seeds),
            "arms": list(self.arms),
            "gates": [
                {"key": g.key, "words": g.words, "rule": g.rule, "bound": number(g.bound, g.unit)} for g in self.gates
            ],
            "claims": [
                {"key": c.key, "arm": c.arm, "claim": c.criterion.claim, "criterion": c.criterion.describe()}
                for c in self.claims
            ],
            "rules": [asdict(rule) for rule in self.rules],
        }

    def sha256(self) -> str:
        """Hash of the plan."""
        return fingerprint(self.section())


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A piece of work with a folder of its own."""

    name: str
    """Path of its folder inside the run's, for instance `constant/seed_0`."""
    inputs: Mapping[str, Any]
    """Plain data that decide the result."""
    run: Callable[[Path], dict[str, Any]]
    """folder -> plain data; may leave files there."""


def fingerprint(data: Mapping[str, Any]) -> str:
    """sha256 of plain data."""
    return hashlib.sha256(json.dumps(plain(dict(data)), sort_keys=True).encode()).hexdigest()


def preregister(plan: Plan, run_dir: Path) -> None:
    """Writes `plan.json`, once.

    Raises:
        ValueError: the folder holds another plan.
    """
    path = run_dir / "plan.json"
    text = json.dumps({"sha256": plan.sha256(), **plain(plan.section())}, indent=1) + "\n"
    if path.is_file() and path.read_text() != text:
        raise ValueError(f"{path} holds another plan; rules are not changed after the fact, use another hydra.run.dir")
    write_atomic(path, text.encode())


def run_stages(stages: Sequence[Stage], run_dir: Path) -> dict[str, dict[str, Any]]:
    """Runs each stage that has not finished under the same inputs; returns name -> result, with `seconds`.

    A stage is done once its `result.json` stands; one that was interrupted finds its folder as it left it, one whose inputs
    have changed an empty one.
    """
    results = {}
    for i, stage in enumerate(stages):
        path, expected = run_dir / stage.name / "result.json", fingerprint(stage.inputs)
        saved = json.loads(path.read_text()) if path.is_file() else {}
        if saved.get("inputs_sha256") != expected:
            log.info("stage %d of %d: %s ...", i + 1, len(stages), stage.name)
            inputs = path.with_name("inputs.sha256")
            if path.parent.is_dir() and not (inputs.is_file() and inputs.read_text() == expected):
                shutil.rmtree(path.parent)  # under other inputs
            write_atomic(inputs, expected)
            started = time.perf_counter()
            result = plain(stage.run(path.parent))
            saved = {"inputs_sha256": expected, "result": {**result, "seconds": time.perf_counter() - started}}
            write_atomic(path, (json.dumps(saved) + "\n").encode())
            log.info("%s took %.1f s", stage.name, saved["result"]["seconds"])
        results[stage.name] = saved["result"]
    return results


def conclude(
    plan: Plan,
    *,
    gates: Mapping[str, Sequence[float]],
    effects: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """Applies the plan's rules.

    Args:
        plan: as preregistered.
        gates: key -> the value in each seed (and arm).
        effects: key of each claim -> the effect in each seed.

    Returns:
        The sections `gates`, `claims` and `verdicts` of the study, plain data.
    """
    judged = [(gate, gates[gate.key], gate.passed(gates[gate.key])) for gate in plan.gates]
    failed = [gate for gate, _, passed in judged if not passed]
    verdicts = {c.key: decide(c.criterion, over_seeds(effects[c.key]), effects[c.key]) for c in plan.claims}
    words: dict[str, Word] = {key: verdict.word for key, verdict in verdicts.items()}
    rules = []
    for rule in plan.rules:
        word, reason = rule.combine(words)
        missed = [gate.key for gate in failed if gate.arm in (None, rule.arm)]
        if missed:
            word, reason = "undecided", f"not interpretable, these gates failed: {', '.join(missed)}"
        rules.append(
            {"name": rule.name, "arm": rule.arm, "statement": rule.statement, "verdict": word, "reason": reason}
        )
    return {
        "interpretable": any(
            all(gate.arm not in (None, arm) for gate in failed) for arm in (rule.arm for rule in plan.rules)
        ),
        "gates": [
            {
                "key": gate.key,
                "words": gate.words,
                "criterion": f"{gate.rule} {gate.bound:g} {gate.where}",
                "worst": number((min if gate.rule == "at least" else max)(values), gate.unit, n=len(values)),
                "passed": passed,
            }
            for gate, values, passed in judged
        ],
        "claims": [
            {
                "key": claim.key,
                "arm": claim.arm,
                "claim": claim.criterion.claim,
                "criterion": claim.criterion.describe(),
                "number": number(
                    v.estimate.value,
                    claim.unit,
                    lo=_finite(v.estimate.lo),
                    hi=_finite(v.estimate.hi),
                    n=v.estimate.n,
                    note=v.estimate.method,
                ),
                "per_seed": list(effects[claim.key]),
                "verdict": v.word,
                "reason": v.reason,
            }
            for claim, v in ((claim, verdicts[claim.key]) for claim in plan.claims)
        ],
        "verdicts": rules,
    }


def _finite(x: float) -> float | None:
    return x if np.isfinite(x) else None


def log_spaced_steps(n_steps: int, n: int) -> tuple[int, ...]:
    """Step 0 and up to n steps from 1 to n_steps, evenly spaced in logarithm, each once."""
    return (0, *sorted({round(float(step)) for step in np.geomspace(1, n_steps, n)}))
