"""The study `methods`: ways to make weights sparse, at equal tokens and exactly equal kept positions.

1. An arm is a difference from the run's own config: a method, its learning rate, in few cases a density. Every arm trains with the same data and whole schedule per seed and
   is searched for circuits of the same tasks with the same settings. A model per arm and seed is a run of its own under `<run>/models/`.
2. Every arm but the dense one is compared with one reference of its density, the top-k projection: `study.methods.reference`, or what `apart` names (2:4 at density 1/2).
3. Read are the validation loss, dead units on held-out text, and nodes and edges of circuits; losses and dead units as differences in the same seed, edges as ratios over
   the tasks for which both arms have a circuit at the target.
4. Gates: both arms keep exactly the budget in every tensor, and the same budgets; for circuits also tasks and seeds. Every interval is at 95% for all compared arms together (Bonferroni).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import log2, nan
from pathlib import Path
from statistics import fmean
from typing import Generic

from circuits.comparison import C, Member, Outcome, RunsStudy, mean_size, table
from circuits.section import CircuitSize
from sparsetrain.data import Corpus
from sparsetrain.export import latest_export, load_model
from sparsetrain.report.blocks import Curve
from sparsetrain.run import RunConfig, corpus_of, text_windows
from sparsetrain.sparsity.dead import UnitCounts, dead_units
from sparsetrain.stats.crossed import crossed_difference
from sparsetrain.stats.intervals import Estimate, over_seeds
from sparsetrain.stats.number import Number, number
from sparsetrain.studies.arm import of_arm
from sparsetrain.studies.engine import StageResult
from sparsetrain.studies.readings import seeds_number
from sparsetrain.studies.section import Figure, ResultTable, TableCell
from sparsetrain.studies.study import Gates, Hypothesis, Ruling, Subject, gate
from sparsetrain.training.metrics import read_metrics
from sparsetrain.typed import Above0, Count

CIRCUITS = "circuits"


@dataclass(frozen=True, kw_only=True)
class MethodsConfig:
    """How methods are compared. All numbers are ours."""

    reference: str = "topk"
    """Arm that the others are compared with."""
    apart: dict[str, str] = field(default_factory=dict[str, str])
    """Arm -> another reference, for arms of another density."""
    min_tasks: Count = 3
    """Tasks that both arms must have circuits for, for a verdict on circuits."""
    min_seeds: Count = 3
    """Model seeds that both must have circuits in."""
    min_loss: Above0 = 0.02
    """Smallest difference of validation losses of interest, nats/token."""
    min_dead: Above0 = 0.02
    """Smallest difference of the shares of dead units."""
    min_ratio: float = 1.25
    """Smallest ratio of edges."""
    n_windows: Count = 64
    """Held-out windows on which units are looked at."""

    def __post_init__(self) -> None:
        if not self.min_ratio > 1:
            raise ValueError(f"min_ratio={self.min_ratio} must be above 1")


@dataclass(frozen=True, kw_only=True)
class MethodMember(Member):
    """One finished model of a method."""

    kept: Mapping[str, int]
    """Kept positions of every sparse tensor: of the method's mask where it has one, else nonzeros."""
    budgets: Mapping[str, int]
    nonzeros: Mapping[str, int]
    """Of them not 0 in the export."""
    units: UnitCounts
    """Neurons and attention channels, by weights and on held-out text."""

    @property
    def exact(self) -> bool:
        """Every tensor keeps as many positions as its budget says, and has no nonzero elsewhere."""
        return self.kept == self.budgets and all(self.nonzeros[name] <= n for name, n in self.kept.items())


@dataclass(frozen=True, kw_only=True)
class Compared:
    """An arm beside its reference, over seeds."""

    arm: Sequence[MethodMember]
    reference: Sequence[MethodMember]
    n_compared: int
    """Arms that are compared: intervals hold for all of them together."""
    losses: tuple[Curve, ...] = ()
    """Validation loss of every arm over training, mean over seeds with its range."""

    @property
    def confidence(self) -> float:
        return 1 - 0.05 / self.n_compared

    def per_seed(self, value: Callable[[MethodMember], float]) -> list[float]:
        """The arm's value less the reference's in every seed."""
        return [value(a) - value(b) for a, b in zip(self.arm, self.reference, strict=True)]

    def difference(self, value: Callable[[MethodMember], float]) -> Estimate:
        """The same over seeds."""
        return over_seeds(self.per_seed(value), confidence=self.confidence)

    @property
    def same_positions(self) -> bool:
        """Every tensor of both keeps exactly its budget, and the budgets are equal."""
        both = zip(self.arm, self.reference, strict=True)
        return all(a.exact and b.exact and a.kept == b.kept for a, b in both)

    @cached_property
    def circuits(self) -> tuple[dict[str, tuple[CircuitSize, ...]], dict[str, tuple[CircuitSize, ...]]]:
        """Task -> circuits in all seeds, of both arms."""
        return by_task(self.arm), by_task(self.reference)

    @property
    def tasks(self) -> list[str]:
        """Those that both have circuits for."""
        arm, reference = self.circuits
        return sorted(set(arm) & set(reference))

    @property
    def mean_edges(self) -> tuple[Number, Number]:
        """Of the arm's circuits and of the reference's, over tasks and seeds."""
        arm, reference = self.circuits
        return mean_size(arm, self.tasks, "edges"), mean_size(reference, self.tasks, "edges")

    @property
    def n_seeds(self) -> int:
        """Of the arm that has fewer, those with a circuit of such a task."""
        return min(len({size.seed for task in self.tasks for size in arm[task]}) for arm in self.circuits)

    @property
    def octaves(self) -> Estimate:
        """log2 of the arm's edges over the reference's, over tasks and seeds."""
        if not self.tasks:
            return Estimate(value=nan, lo=nan, hi=nan, n=0, method="no task that both solve")
        arm, reference = (table(sizes, self.tasks, "edges") for sizes in self.circuits)
        return crossed_difference(reference, arm, confidence=self.confidence)


def by_task(members: Sequence[Member]) -> dict[str, tuple[CircuitSize, ...]]:
    """Task -> its circuits in every seed that has one."""
    found: dict[str, tuple[CircuitSize, ...]] = {}
    for member in members:
        for task, size in member.circuits.items():
            found[task] = (*found.get(task, ()), size)
    return found


def val_loss(member: MethodMember) -> float:
    return member.val_loss


def dead_share(member: MethodMember) -> float:
    return member.units.dead_share


OVERVIEWS = {
    "loss": ("Validation loss less the reference's, same data and seed", ("loss",)),
    "dead": ("Share of dead units less the reference's", ("dead",)),
}


@dataclass(frozen=True, kw_only=True)
class MethodsStudy(RunsStudy[C, Compared], Generic[C]):
    """Arms are models; claims are about every method beside its reference, and about its circuits."""

    question = "At equal tokens and equal kept positions, which way of making weights sparse gives the lowest loss, the fewest dead units and the smallest circuits?"
    hypotheses = ()
    rulings = ()
    overviews = OVERVIEWS
    result = MethodMember
    in_minutes = False  # methods are compared at equal tokens

    settings: MethodsConfig
    searched: bool
    """Whether circuits are looked for."""
    most: int = 0
    """Of `circuits.most`, which would search other tasks in every arm."""

    def __post_init__(self) -> None:
        if self.most:
            raise ValueError(f"circuits.most={self.most}: methods are compared on the same tasks; give circuits.most=0")
        arms = self.rules.arms
        named = {"study.methods.reference": self.settings.reference}
        named |= {f"study.methods.apart.{arm}": reference for arm, reference in self.settings.apart.items()}
        for key, arm in [*named.items(), *((f"study.methods.apart, key {arm}", arm) for arm in self.settings.apart)]:
            if arm not in arms:
                raise ValueError(
                    f"{key}={arm} is no arm; allowed: {', '.join(arms) or 'none, since study.arms is empty'}"
                )

    @cached_property
    def runs(self) -> dict[str, C]:
        """Name of a model -> its run in the first seed. A debug run tries out the reference and the last two methods compared with it."""
        runs = {name: of_arm(self.config, arm, self.config.seed, name=name) for name, arm in self.rules.arms.items()}
        if not self.config.debug:
            return runs
        reference, apart = self.settings.reference, self.settings.apart
        sparse = [name for name, run in runs.items() if not run.sparsity.is_dense]
        compared = [name for name in sparse if name not in {reference, *apart, *apart.values()}]
        return {name: runs[name] for name in (reference, *compared[-2:])}

    @property
    def references(self) -> dict[str, str]:
        """Compared arm -> its reference; dense arms and references are compared with nothing."""
        apart = self.settings.apart
        known = {self.settings.reference, *apart.values()}
        sparse = [name for name, run in self.runs.items() if not run.sparsity.is_dense and name not in known]
        return {name: apart.get(name, self.settings.reference) for name in sparse}

    @property
    def subjects(self) -> tuple[Subject, ...]:
        about = ("", f": {CIRCUITS}") if self.searched else ("",)
        return tuple(
            Subject(arm=f"{arm} / {reference}{what}") for what in about for arm, reference in self.references.items()
        )

    @property
    def arms(self) -> tuple[str, ...]:
        return (*self.runs, *(subject.arm for subject in self.subjects))

    def asked(self, subject: Subject) -> Sequence[Hypothesis[Compared]]:
        rules = self.settings
        if subject.arm.endswith(CIRCUITS):
            return (
                Hypothesis(key="edges", claim="edges of circuits, the method's over the reference's (log2 of the ratio of geometric means over tasks)", expected="positive", effect=lambda r: r.octaves, unit="octaves", margin=log2(rules.min_ratio), per_seed=False),
            )  # fmt: skip
        return (
            Hypothesis(key="loss", claim="validation loss less the reference's in the same seed", expected="positive", effect=lambda r: r.difference(val_loss), unit="nats/token", margin=rules.min_loss, per_seed=False),
            Hypothesis(key="dead", claim="share of dead units less the reference's in the same seed", expected="positive", effect=lambda r: r.difference(dead_share), unit="fraction", margin=rules.min_dead, per_seed=False),
        )  # fmt: skip

    def ruled(self, subject: Subject) -> Sequence[Ruling]:
        if subject.arm.endswith(CIRCUITS):
            return (Ruling(name="larger circuits", statement="its circuits have more edges than those of the reference", needs=("edges",)),)  # fmt: skip
        return (
            Ruling(name="worse loss", statement="it ends at a higher validation loss than the reference", needs=("loss",)),
            Ruling(name="more dead units", statement="more of its units are dead than of the reference's", needs=("dead",)),
        )  # fmt: skip

    def method(self) -> tuple[str, ...]:
        rules, n = self.settings, len(self.references)
        return (
            f"Arms: {', '.join(self.runs)}. All have the same data, tokens and weights at the start (per seed), the whole schedule, and the learning rate "
            "that stands in the table. Compared: " + ", ".join(f"{arm} with {reference}" for arm, reference in self.references.items()) + ".",
            "Kept positions are those of the method's mask; of a method without one, the nonzeros. Both arms must keep exactly the budget in every tensor, and the same budgets.",
            f"A unit is a neuron or an attention channel; dead: without incoming or outgoing nonzeros, or the same on all of {rules.n_windows} held-out windows (sparsetrain/sparsity/dead.py).",
            f"Circuits: over the tasks for which both arms have a circuit at the target; intervals over tasks and model seeds. Losses are not matched: they stand beside. Every interval is at {1 - 0.05 / max(1, n):.2%}, so that those of one kind hold for all {n} arms together at 95% (Bonferroni).",
        )  # fmt: skip

    def gates(self) -> Gates[Compared]:
        rules = self.settings
        found: Gates[Compared] = [
            gate(f"{subject.arm}: positions", f"{subject.arm}: every tensor keeps exactly the same number of positions in both (1: yes)", number(1, "yes or no"), lambda r: float(r.same_positions), arm=subject.arm)
            for subject in self.subjects
        ]  # fmt: skip
        for subject in self.subjects:
            if subject.arm.endswith(CIRCUITS):
                found = [
                    *found,
                    gate(f"{subject.arm}: tasks", f"{subject.arm}: tasks that both have circuits for", number(rules.min_tasks, "tasks"), lambda r: len(r.tasks), arm=subject.arm),
                    gate(f"{subject.arm}: seeds", f"{subject.arm}: model seeds of each", number(rules.min_seeds, "seeds"), lambda r: r.n_seeds, arm=subject.arm),
                ]  # fmt: skip
        return found

    def inputs(self, config: RunConfig) -> Mapping[str, object]:
        return {**super().inputs(config), "n_windows": self.settings.n_windows}

    @cached_property
    def _corpus(self) -> Corpus:
        return corpus_of(self.config)

    def member(self, config: C, folder: Path, found: Outcome) -> MethodMember:
        model = load_model(latest_export(folder))
        windows = text_windows(self._corpus, config, "heldout", self.settings.n_windows)
        nonzeros = {name: int(p.count_nonzero()) for name, p in model.named_parameters()}
        return MethodMember(
            **vars(super().member(config, folder, found)),
            kept={one.name: one.nonzeros if one.kept is None else one.kept for one in found.tensors},
            budgets={one.name: one.budget for one in found.tensors},
            nonzeros={one.name: nonzeros[one.name] for one in found.tensors},
            units=dead_units(model, windows.split(16)).total,
        )

    def members(self, results: Mapping[str, StageResult]) -> dict[str, list[MethodMember]]:
        """Arm -> its models, by seed."""
        found: dict[str, list[MethodMember]] = {}
        for arm in self.runs:
            for seed in self.seeds:
                result = results[self.folder(arm, seed)]
                assert isinstance(result, MethodMember)
                found.setdefault(arm, []).append(result)
        return found

    def read(self, run_dir: Path, results: Mapping[str, StageResult]) -> Mapping[Subject, Sequence[Compared]]:
        members, references = self.members(results), self.references
        pairs = {f"{arm} / {reference}": (arm, reference) for arm, reference in references.items()}
        losses = tuple(self._losses(run_dir, name) for name in self.runs)
        found: dict[Subject, Sequence[Compared]] = {}
        for subject in self.subjects:
            arm, reference = pairs[subject.arm.removesuffix(f": {CIRCUITS}")]
            found[subject] = [
                Compared(arm=members[arm], reference=members[reference], n_compared=len(references), losses=losses)
            ]
        return found

    def _losses(self, run_dir: Path, arm: str) -> Curve:
        """Validation loss over training, of all seeds."""
        found: dict[int, list[float]] = {}
        for seed in self.seeds:
            path = run_dir / self.folder(arm, seed) / "metrics.csv"
            for step, name, value in (
                read_metrics(path) if path.is_file() else ()
            ):  # a finished model's may have been cleared away
                if name == "val_loss":
                    found.setdefault(step, []).append(value)
        steps = sorted(found)
        values = [found[step] for step in steps]
        return Curve(
            name=arm,
            x=tuple(map(float, steps)),
            y=tuple(map(fmean, values)),
            lo=tuple(map(min, values)),
            hi=tuple(map(max, values)),
        )

    def figures(self, read: Mapping[Subject, Sequence[Compared]]) -> Sequence[Figure]:
        curves = next((pair.losses for pairs in read.values() for pair in pairs), ())
        shown = tuple(curve for curve in curves if curve.x)
        note = f"mean and range over {len(self.seeds)} seeds"
        return [Figure(key="losses", title="Validation loss over training", x_label="optimizer steps", y_label="nats/token", curves=shown, note=note)] if shown else []  # fmt: skip

    def tables(
        self, read: Mapping[Subject, Sequence[Compared]], results: Mapping[str, StageResult]
    ) -> Sequence[ResultTable]:
        members = self.members(results)
        return (
            self._arms_table(members),
            self._units_table(members),
            self._circuits_table(members),
            self._seeds_table(members),
        )

    def _arms_table(self, members: Mapping[str, Sequence[MethodMember]]) -> ResultTable:
        rows: list[tuple[TableCell, ...]] = []
        for arm, run in self.runs.items():
            models, reference = members[arm], self.references.get(arm)
            pair = (
                None
                if reference is None
                else Compared(arm=models, reference=members[reference], n_compared=len(self.references))
            )
            rows.append((
                arm, "none" if run.sparsity.is_dense else run.sparsity.method, number(run.sparsity.density, "fraction"), run.optim.lr_peak,
                seeds_number([one.val_loss for one in models], "nats/token"), None if pair is None else pair.difference(val_loss).number("nats/token"),
                sum(models[0].kept.values()), "yes" if all(one.exact for one in models) else "no", min(sum(one.nonzeros.values()) for one in models),
                seeds_number([one.seconds for one in models], "s"),
            ))  # fmt: skip
        return ResultTable(
            title="Methods",
            columns=("arm", "method", "density", "peak rate", "validation loss", "less the reference's, same seed", "kept positions", "exact in every tensor", "of them not 0, fewest", "training and circuits"),
            rows=tuple(rows),
            note=f"means over {len(self.seeds)} seeds; 95% t intervals, of the differences for all compared arms together; kept positions of the tensors that are sparse",
        )  # fmt: skip

    def _units_table(self, members: Mapping[str, Sequence[MethodMember]]) -> ResultTable:
        def shares(models: Sequence[MethodMember], count: Callable[[UnitCounts], int | None]) -> TableCell:
            return seeds_number([(count(one.units) or 0) / one.units.n_units for one in models], "fraction")

        kinds: Mapping[str, Callable[[UnitCounts], int | None]] = {
            "dead": lambda u: u.dead,
            "without incoming": lambda u: u.without_incoming,
            "without outgoing": lambda u: u.without_outgoing,
            "never active": lambda u: u.never_active,
            "constant": lambda u: u.constant,
        }
        return ResultTable(
            title="Dead units",
            columns=("arm", "units", *kinds),
            rows=tuple(
                (arm, models[0].units.n_units, *(shares(models, count) for count in kinds.values()))
                for arm, models in members.items()
            ),
            note="neurons and attention channels; shares, means over seeds; a unit may be counted in several columns",
        )

    def _circuits_table(self, members: Mapping[str, Sequence[MethodMember]]) -> ResultTable:
        rows: list[tuple[TableCell, ...]] = []
        for arm, models in members.items():
            reference = self.references.get(arm)
            both: tuple[TableCell, ...] = (None, None, None)
            if reference is not None:
                pair = Compared(arm=models, reference=members[reference], n_compared=len(self.references))
                both = (len(pair.tasks), *pair.mean_edges)
            passed = [set(one.passed) for one in models]
            n_found = sum(len(one.circuits) for one in models)
            rows.append((arm, len(set.intersection(*passed)), sum(map(len, passed)), n_found, *both))
        return ResultTable(
            title="Circuits",
            columns=("arm", "tasks passed in every seed", "passed, of all tasks and seeds", "circuits found", "tasks that the reference has circuits for, too", "edges there", "the reference's"),
            rows=tuple(rows),
            note="edges: geometric means over the tasks that an arm and its reference have circuits for, and over seeds",
        )  # fmt: skip

    def _seeds_table(self, members: Mapping[str, Sequence[MethodMember]]) -> ResultTable:
        return ResultTable(
            title="Validation loss, seed by seed",
            columns=("arm", *(f"seed {seed}" for seed in self.seeds)),
            rows=tuple(
                (arm, *(number(one.val_loss, "nats/token") for one in models)) for arm, models in members.items()
            ),
            note="training mixture",
        )
