"""What was read of one trained model: how every case is answered under every arm, and what follows from it about exposures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from circuits.prior.arm import Kind
from circuits.prior.interventions import Patching, RecallNodes
from circuits.prior.scores import CaseScores, half_point
from circuits.prior.study import Outcome
from circuits.section.prior import ContextPriorSection, PriorArm
from sparsetrain.stats.correlation import spearman
from sparsetrain.stats.intervals import Floats
from sparsetrain.studies.engine import StageResult

Ints = NDArray[np.int64]
KEPT = ("p_context", "p_prior", "says_context", "says_prior")
"""Of every prompt and arm, case by case."""
NO_CONTEXT, STATED, AGREEING = "no context", "stated once", "agreeing context"
RANDOM, RESTORED = ", random", ", restored"
"""Behind an intervention's name: its random controls, their mean; the opposite intent."""
NO_HARM: Mapping[Kind, str] = {"prompt": "best prompt at no harm", "intervention": "best intervention at no harm"}


@dataclass(frozen=True, kw_only=True)
class TrainedResult(StageResult):
    """What a stage leaves besides the arrays."""

    section: ContextPriorSection
    recall_loss: float
    """Of new documents, nats: objects that have to be remembered."""
    given_loss: float
    """The same: objects that the document gives."""
    at_no_harm: Mapping[str, str]
    """prompt, intervention -> the arm and setting that was best among those that leave neutral questions alone; absent: there is none."""
    training_s: float
    n_circuit: int
    """Nodes of the recall circuit; 0: none was found."""
    n_edges: int
    circuit_reason: str
    """Why the circuit does not count; empty: it does."""
    circuit_loss: float
    """Calibrated, on facts that its search has not seen, nats."""
    n_nonzero: int
    """Weights of the model that are not zero."""


def kept(outcome: Outcome, more: Mapping[str, CaseScores]) -> dict[str, Floats]:
    """Arrays of an outcome and of more prompts, `<prompt or arm>|<score>`."""
    named = {**outcome.references, **more}
    found: dict[str, Floats] = {}
    for name, one in outcome.arms.items():
        named[name] = one.scores
        if one.restored is not None:
            named[f"{name}{RESTORED}"] = one.restored
        if one.random:
            for score in KEPT:
                found[f"{name}{RANDOM}|{score}"] = np.mean([getattr(r, score) for r in one.random], axis=0)
    for name, scores in named.items():
        for score in KEPT:
            found[f"{name}|{score}"] = getattr(scores, score)
    return found


@dataclass(frozen=True, kw_only=True)
class TrainedReadings:
    """One model of one arm and seed.

    `strongest` are the cases with the most exposures: where the prior is strongest.
    """

    levels: tuple[int, ...]
    recalled_from: int
    """Exposures from which on facts have to be known."""
    arrays: Mapping[str, NDArray[np.float64]]
    """`n` and `<prompt or arm>|<score>`, `[n_cases]`; `gini|<prompt>`; `steps`, and `<prompt>|<score>|steps` `[n_steps, n_cases]`."""
    result: TrainedResult
    dense: "TrainedReadings | None" = None
    """Of the same seed and share of contradictions with dense weights."""
    uncontradicted: "TrainedReadings | None" = None
    """Of the same seed and weights in a world without contradictions."""

    @classmethod
    def load(cls, path: Path, **more: object) -> "TrainedReadings":
        """From `read.npz`."""
        with np.load(path) as file:
            return cls(arrays={name: file[name] for name in file.files}, **more)  # pyright: ignore[reportArgumentType]

    @property
    def section(self) -> ContextPriorSection:
        return self.result.section

    @cached_property
    def n(self) -> Floats:
        """Exposures of each case."""
        return self.arrays["n"]

    @property
    def strongest(self) -> NDArray[np.bool_]:
        return self.n == self.levels[-1]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Cases that have to be known."""
        return self.n >= self.recalled_from

    def score(self, name: str, score: str = "p_context") -> Floats:
        """Of a prompt or arm, `[n_cases]`; NaN: it could not be tried."""
        return self.arrays[f"{name}|{score}"] if self.has(name) else np.full(len(self.n), np.nan)

    def at(self, n: int, name: str, score: str = "p_context") -> float:
        """Mean over the cases of an exposure count."""
        return float(self.score(name, score)[self.n == n].mean())

    def curve(self, name: str, score: str = "p_context") -> Floats:
        """The same at every count, `[n_levels]`."""
        return np.array([self.at(n, name, score) for n in self.levels])

    def best(self, kind: str) -> str:
        """The arm of a kind that was best on the fitting cases."""
        return self.section.best_prompt if kind == "prompt" else self.section.best_intervention

    def best_without_patching(self) -> str:
        """The best intervention on the fitting cases that reads nothing but one statement."""
        others = [arm for arm in self.section.arms if arm.kind == "intervention" and arm.name != Patching.name]
        return max(others, key=lambda arm: arm.fitted.value or 0.0).name

    def headroom(self, intervention: str | None = None, prompt: str | None = None) -> Floats:
        """Best intervention less best prompt, or of two others, `[n_cases]`; NaN: one of them is not there."""
        a, b = intervention, prompt
        a, b = self.best("intervention") if a is None else a, self.best("prompt") if b is None else b
        return self.score(a) - self.score(b)

    def headroom_at_no_harm(self) -> Floats:
        """Of the best settings that leave neutral questions alone."""
        return self.headroom(NO_HARM["intervention"], NO_HARM["prompt"])

    def reads(self) -> float:
        """Share of greedy answers that are the statement's at no exposures."""
        return self.at(0, STATED, "says_context")

    def remembers(self) -> float:
        """Share that are memory's where nothing is stated, of facts that have to be known."""
        return float(self.score(NO_CONTEXT, "says_prior")[self.known].mean())

    def gained(self, values: Floats) -> float:
        """Mean over the cases with the strongest prior less mean over those with none."""
        return float(values[self.strongest].mean() - values[self.n == 0].mean())

    def beyond_random(self) -> float:
        """Best intervention less its random controls, where the prior is strongest."""
        best = self.best("intervention")
        return float((self.score(best) - self.score(f"{best}{RANDOM}"))[self.strongest].mean())

    def edited(self) -> float:
        """What the edit of the recall circuit adds to one statement, where the prior is strongest; NaN: it was not tried."""
        return float((self.score(RecallNodes.name) - self.score(STATED))[self.strongest].mean())

    def restored(self) -> float:
        """Memory's share of the answers under the opposite intent less that under the statement alone, where the prior is known."""
        best = self.best("intervention")
        return float(
            (self.score(f"{best}{RESTORED}", "says_prior") - self.score(STATED, "says_prior"))[self.known].mean()
        )

    def collateral(self) -> float:
        """KL of the best intervention on neutral questions, nats."""
        value = self.arm(self.best("intervention")).collateral.value
        return float("nan") if value is None else value

    def references(self) -> list[str]:
        """Prompts that nothing was tuned for."""
        return [reference.name for reference in self.section.references]

    def has(self, name: str) -> bool:
        """Whether a prompt, arm or control was read."""
        return f"{name}|p_context" in self.arrays

    def is_arm(self, name: str) -> bool:
        """Whether it was tuned."""
        return any(arm.name == name for arm in self.section.arms)

    def arm(self, name: str) -> PriorArm:
        """An arm as the section has it."""
        return next(arm for arm in self.section.arms if arm.name == name)

    def dose(self) -> float:
        """Rank correlation of exposures with P(context) under one statement."""
        return spearman(self.n, self.score(STATED), n_bootstrap=0, seed=0).value

    def more_sparse(self) -> Floats:
        """How much sparser the last norm is where the statement contradicts than where it agrees, `[n_cases]`."""
        return self.arrays[f"gini|{STATED}"] - self.arrays[f"gini|{AGREEING}"]

    def half(self, name: str) -> float:
        """n50, exposures; an end of those tried where one half is not crossed."""
        facts = [str(i) for i in range(len(self.n))]
        return half_point(self.score(name), self.n, facts, n_bootstrap=0).n50

    def over_training(self, name: str, score: str, n: int) -> Floats:
        """Mean over the cases of an exposure count at every checkpoint, `[n_steps]`."""
        return self.arrays[f"{name}|{score}|steps"][:, self.n == n].mean(1)

    @property
    def steps(self) -> Sequence[int]:
        return [int(step) for step in self.arrays["steps"]]

    def beside(self, dense: "TrainedReadings | None", uncontradicted: "TrainedReadings | None") -> "TrainedReadings":
        """With what it is compared with."""
        return replace(self, dense=dense, uncontradicted=uncontradicted)
