"""What studies have in common: a study says what it asks and how to read it, and plan and conclusions follow from that.

1. `Hypothesis`: a claim with the number that decides it, as a function of what was read of one subject in one seed.
2. A `Subject` is what the claims are about: an arm, or a place in an arm.
3. `Study.plan` makes a claim of every hypothesis and subject; its stages do the work (in a `TrainedStudy` they train every arm in every
   seed); `Study.conclude` reads every subject in every seed, applies the plan, and adds figures and tables.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

from sparsetrain.run import RunConfig
from sparsetrain.stats.decisions import DecisionRule
from sparsetrain.stats.intervals import Estimate
from sparsetrain.stats.number import Number
from sparsetrain.studies.engine import ClaimRule, Stage, StageResult, StudyRules, conclude
from sparsetrain.studies.section import Figure, Gate, Overview, Plan, ResultTable, StudySection, VerdictRule

R = TypeVar("R")
"""What is read of one subject in one seed."""
Gates = Sequence[tuple[Gate, Callable[[R], float]]]
"""Gates, and their values in what is read of an arm (of its first place) in one seed."""


def gate(
    key: str,
    words: str,
    bound: Number,
    value: Callable[[R], float],
    *,
    rule: Literal["at least", "at most"] = "at least",
    arm: str | None = None,
) -> tuple[Gate, Callable[[R], float]]:
    """A gate with its value."""
    return Gate(key=key, words=words, rule=rule, bound=bound, arm=arm), value


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What claims are made about."""

    arm: str
    place: str = ""
    """A part of the arm, where it has several."""

    @property
    def key(self) -> str:
        return f"{self.arm}, {self.place}" if self.place else self.arm


@dataclass(frozen=True, kw_only=True)
class Hypothesis(Generic[R]):
    """A claim of a study about each of its subjects."""

    key: str
    claim: str
    expected: Literal["positive", "negative", "none"]
    effect: Callable[[R], float | Estimate]
    unit: str
    margin: float | None = None
    """Smallest effect of interest; None: the study's."""
    per_seed: bool = True
    """Whether `effect` is a number in each seed; False: an estimate of all seeds together, over other items."""


@dataclass(frozen=True, kw_only=True)
class Ruling:
    """A verdict of a study about each of its subjects."""

    name: str
    statement: str
    needs: tuple[str, ...]
    """Keys of hypotheses."""


@dataclass(frozen=True, kw_only=True)
class Study(ABC, Generic[R]):
    """One study of one config: what `run_study` runs."""

    config: RunConfig
    """Model, optimizer and trainer, from which arms differ."""
    rules: StudyRules

    question: ClassVar[str]
    hypotheses: ClassVar[Sequence[Hypothesis]]
    rulings: ClassVar[Sequence[Ruling]]
    overviews: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {}
    """Pictures of several claims: key -> title, and the hypotheses that each subject is shown with."""
    in_minutes: ClassVar[bool] = False
    """Whether arms may be trained for `trainer.minutes`, each for as many steps as fit: those that are whole runs."""
    as_first: ClassVar[tuple[str, str] | None] = None
    """A hypothesis whose effect is compared with that of the first arm, and what differs in it, in words."""

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.config.seed + i for i in range(self.rules.n_seeds))

    @property
    @abstractmethod
    def arms(self) -> tuple[str, ...]:
        """What the claims are sorted by; the first is the one that the others are compared with."""

    @property
    def subjects(self) -> tuple[Subject, ...]:
        return tuple(Subject(arm=arm) for arm in self.arms)

    @abstractmethod
    def method(self) -> tuple[str, ...]:
        """Paragraphs on how it is found out."""

    @abstractmethod
    def gates(self) -> Gates[R]: ...

    def asked(self, subject: Subject) -> Sequence[Hypothesis]:
        """The hypotheses about a subject; all of the study's, where it does not say otherwise."""
        return self.hypotheses

    def ruled(self, subject: Subject) -> Sequence[Ruling]:
        """The verdicts about a subject; all of the study's, where it does not say otherwise."""
        return self.rulings

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """All work, in its order."""

    @abstractmethod
    def read(self, run_dir: Path, results: Mapping[str, StageResult]) -> Mapping[Subject, Sequence[R]]:
        """What the stages left, of each subject in each seed."""

    def begun(self, run_dir: Path) -> Self:
        """The study with what has to be measured before its first stage."""
        return self

    def announce(self, run_dir: Path) -> str:
        """A line that is printed before the stages begin: how much there is to do, where that is known; empty: nothing."""
        return ""

    def figures(self, read: Mapping[Subject, Sequence[R]]) -> Sequence[Figure]:
        return ()

    def tables(self, read: Mapping[Subject, Sequence[R]], results: Mapping[str, StageResult]) -> Sequence[ResultTable]:
        return ()

    def sections(
        self, run_dir: Path, results: Mapping[str, StageResult], section: StudySection
    ) -> Mapping[str, object]:
        """More sections of the report, beside the study's own."""
        return {}

    def effects(self, r: R, subject: Subject | None = None) -> dict[str, float | Estimate]:
        """The number of each hypothesis about a subject (None: of all there are) in one seed."""
        hypotheses = self.hypotheses if subject is None else self.asked(subject)
        return {hypothesis.key: hypothesis.effect(r) for hypothesis in hypotheses}

    def plan(self) -> Plan:
        """All that is fixed before the run."""
        return Plan(
            question=self.question,
            method=self.method(),
            seeds=self.seeds,
            arms=self.arms,
            gates=tuple(gate for gate, _ in self.gates()),
            claims=tuple(rule.claim() for rule in self.claims()),
            rules=tuple(
                VerdictRule(
                    name=f"{ruling.name}, {subject.place}" if subject.place else ruling.name,
                    arm=subject.arm,
                    statement=ruling.statement,
                    needs=tuple(f"{subject.key}: {key}" for key in ruling.needs),
                )
                for subject in self.subjects
                for ruling in self.ruled(subject)
            ),
        )

    def claims(self) -> tuple[ClaimRule, ...]:
        """Every hypothesis about every subject."""
        return tuple(
            ClaimRule(
                key=f"{subject.key}: {hypothesis.key}",
                arm=subject.arm,
                rule=DecisionRule(
                    claim=f"{subject.place}: {hypothesis.claim}" if subject.place else hypothesis.claim,
                    expected=hypothesis.expected,
                    margin=self.rules.margin if hypothesis.margin is None else hypothesis.margin,
                    n_agreeing=self.rules.n_agreeing if hypothesis.per_seed and hypothesis.expected != "none" else None,
                ),
                unit=hypothesis.unit,
            )
            for subject in self.subjects
            for hypothesis in (*self.asked(subject), *self._as_first(subject))
        )

    def _as_first(self, subject: Subject) -> list[Hypothesis]:
        if self.as_first is None or subject.arm == self.arms[0]:
            return []
        key, words = self.as_first
        compared = next(hypothesis for hypothesis in self.hypotheses if hypothesis.key == key)
        claim = f"the difference {words} is that of arm {self.arms[0]}"
        return [replace(compared, key="as first arm", claim=claim, expected="none")]

    def conclude(self, plan: Plan, run_dir: Path, results: Mapping[str, StageResult]) -> StudySection:
        """The section of the report.

        Args:
            plan: as preregistered.
            run_dir: folder with the stages' folders.
            results: of the stages.
        """
        read = self.read(run_dir, results)
        effects: dict[str, list[Any]] = {}
        for subject, seeds in read.items():
            for r in seeds:
                for key, value in self.effects(r, subject).items():
                    effects.setdefault(f"{subject.key}: {key}", []).append(value)
        if self.as_first is not None:
            for subject in read:
                own, first = (effects[f"{s.key}: {self.as_first[0]}"] for s in (subject, replace(subject, arm=self.arms[0])))  # fmt: skip
                effects[f"{subject.key}: as first arm"] = [a - b for a, b in zip(own, first, strict=True)]
        once_per_arm = {subject.arm: seeds for subject, seeds in [*read.items()][::-1]}
        gates = {
            gate.key: [value(r) for arm, seeds in once_per_arm.items() if gate.arm in (None, arm) for r in seeds]
            for gate, value in self.gates()
        }
        asked = {subject: {hypothesis.key: hypothesis.unit for hypothesis in self.asked(subject)} for subject in read}
        return replace(
            conclude(plan, self.claims(), gates=gates, effects=effects),
            overviews=tuple(
                Overview(
                    key=key,
                    title=title,
                    unit=units[0],
                    claims=tuple(
                        f"{subject.key}: {name}" for subject in read for name in shown if name in asked[subject]
                    ),
                )
                for key, (title, shown) in self.overviews.items()
                if (units := [of[shown[0]] for of in asked.values() if shown[0] in of])
            ),
            figures=tuple(self.figures(read)),
            tables=tuple(self.tables(read, results)),
            models={name: result.weights_sha256 for name, result in results.items()},
        )


@dataclass(frozen=True, kw_only=True)
class TrainedStudy(Study[R]):
    """A study that trains every arm in every seed."""

    result: ClassVar[type[StageResult]] = StageResult
    """What a stage leaves."""

    @property
    def trained(self) -> tuple[str, ...]:
        """The arms that are trained."""
        return self.arms

    @abstractmethod
    def config_of(self, arm: str, seed: int) -> RunConfig:
        """The training of an arm.

        Raises:
            ValueError: sizes that cannot hold.
        """

    @abstractmethod
    def inputs(self, config: RunConfig) -> Mapping[str, object]:
        """What decides the result of a stage."""

    def kept_under(self, config: RunConfig) -> Mapping[str, object] | None:
        """`Stage.kept_under`."""
        return None

    @abstractmethod
    def work(self, config: RunConfig, folder: Path) -> StageResult:
        """Trains and reads in the folder of a stage."""

    def load(self, folder: Path, subject: Subject, seed: int) -> R:
        """What a stage left of a subject; a study that reads several stages at once has a `read` of its own."""
        raise TypeError(
            f"{type(self).__name__} says neither how a stage is loaded nor has a `read` of its own; give it one"
        )

    def folder(self, arm: str, seed: int) -> str:
        """Where an arm is trained, inside the run's folder; arms of one folder share its training."""
        return f"{arm}/seed_{seed}"

    def stages(self) -> Sequence[Stage]:
        """One training per arm and seed."""
        configs = {self.folder(arm, seed): self.config_of(arm, seed) for arm in self.trained for seed in self.seeds}
        return [
            Stage(
                name=name,
                inputs=self.inputs(config),
                run=partial(self.work, config),
                schema=self.result,
                kept_under=self.kept_under(config),
            )
            for name, config in configs.items()
        ]

    def read(self, run_dir: Path, results: Mapping[str, StageResult]) -> Mapping[Subject, Sequence[R]]:
        """What the stages left, of each subject in each seed."""
        return {
            subject: [self.load(run_dir / self.folder(subject.arm, seed), subject, seed) for seed in self.seeds]
            for subject in self.subjects
        }
