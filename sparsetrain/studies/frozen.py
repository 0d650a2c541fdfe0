"""Studies of models that are trained already: probes are put to a model, and nothing is trained.

1. One stage per model and set of probes: every item is read once (`representation/items.py`), batch by batch on the disk, so that an interruption
   costs a batch. Everything afterwards is computed from what was read of each item.
2. `ProbeReadings` are what one stage left: arrays by side, level and row. Effects are estimates over rows: levels and sides are compared row by
   row, and intervals are of rows resampled. There is one model, so nothing here holds for other models of its kind.
3. Intervals are widened for the number of shifts a study asks about (Bonferroni), those of a map over layers for its size (max-t).
4. The plan has the hashes of all probes and the versions of the packages they are made of.
"""

import math
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import ClassVar, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from sparsetrain.adapters import LanguageModel, load_language_model
from sparsetrain.data.probes import SIDES, Builder, Probe, Probes, ProbesConfig
from sparsetrain.progress import progress_bar
from sparsetrain.representation.items import (
    Item,
    Looks,
    ReadOut,
    channel_energy,
    read_items_of_any_length,
    read_resumably,
)
from sparsetrain.representation.measures import HEADLINE
from sparsetrain.stats.intervals import Estimate, Floats, over_items
from sparsetrain.stats.number import number
from sparsetrain.store import recall
from sparsetrain.studies.engine import Stage, StageResult
from sparsetrain.studies.readings import FINAL
from sparsetrain.studies.section import ResultTable, TableCell
from sparsetrain.studies.study import R, Study, Subject
from sparsetrain.typed import Count

KINDS = ("resid", "norm", "attn_in", "mlp_in", "mlp_neuron")
"""Hook points that are read: before a norm, behind it without its gain, with it, and neurons."""
NORM, NEURON = ".hook_norm", ".hook_neuron"
"""How names of hook points behind norms, and of MLP neurons, end."""
FAMILY = 0.05
"""Chance that one of a study's intervals misses, shared among its arms."""


@dataclass(frozen=True, kw_only=True)
class FrozenConfig:
    """Which models are read, and with which probes. ours"""

    model: str = ""
    """gguf:<file>, hf:<folder or hub name>, zoo:<name>, or the folder of a run."""
    second: str = ""
    """Another model, whose numbers stand beside; empty: none."""
    probes_of: tuple[str, ...] = ()
    """Sets of probes by name; none given: all of the study's."""
    second_probes_of: tuple[str, ...] = ()
    """Those that the second model reads; none given: those that are text, and what else the study has for a small one."""
    trust_remote_code: bool = False
    """Run the code that comes with hf: models; read it first. Without it such models are refused."""
    plain_only: bool = False
    """Leave out what needs a package of the extra `probes`."""
    batch_size: Count = 8
    """Items of one forward pass; changes the speed alone."""
    n_bootstrap: Count = 10_000
    """Resamples of rows behind every interval."""
    probes: ProbesConfig = field(default_factory=ProbesConfig)


@dataclass(frozen=True, kw_only=True)
class ReadResult(StageResult):
    """What one stage leaves besides its readings."""

    n_items: int
    n_tokens: int


@dataclass(frozen=True, kw_only=True)
class Put:
    """A set of probes put to a model."""

    name: str
    """Of the set."""
    model: str
    """What the user called it."""
    arm: str

    @property
    def is_second(self) -> bool:
        return self.arm != self.name


@cache
def loaded(name: str, device: str, trust_remote_code: bool = False) -> LanguageModel:
    """A model, once per process."""
    return load_language_model(name, device=device, trust_remote_code=trust_remote_code)


def require_model(frozen: FrozenConfig) -> None:
    """Refuses a config that names no model.

    Raises:
        ValueError: says what to give.
    """
    if not frozen.model:
        raise ValueError(
            "study.frozen.model= is missing: give study.frozen.model=gguf:<file>, hf:<folder or hub name>, zoo:<name> or a run's folder; "
            "docs/real_model.md says how to get a small one"
        )


def label_of(model: str) -> str:
    """A model's name without its folder: `gguf:/somewhere/x.gguf` -> `x.gguf`, `zoo:python-hour` -> `python-hour`."""
    return Path(model.partition(":")[2] or model).name


def points_of(model: LanguageModel) -> tuple[str, ...]:
    """The hook points that are read, in forward order."""
    return tuple(name for name, point in model.hook_points().items() if point.kind in KINDS)


def item_of(probe: Probe) -> Item:
    """A probe as it is read."""
    return Item(tokens=probe.tokens, n_answer=probe.n_answer)


@dataclass(frozen=True, kw_only=True)
class ProbeReadings:
    """One set of probes as one model read it."""

    probes: Probes
    arrays: Mapping[str, Floats] = field(repr=False)
    """As `read_items_of_any_length` returns them, in the order of the probes."""
    read_out: ReadOut
    """Where verdicts are read: `last`, the token that predicts the answer, or `all` tokens of a text."""
    kept: NDArray[np.bool_] | None = None
    """Rows that count, of a matched set; None: all."""
    n_bootstrap: int = 1000
    confidence: float = 0.95

    def __getitem__(self, name: str) -> Floats:
        """An array: of a matched set `[n_sides, n_levels, n_rows]`, the rows that count; else `[n_probes]`."""
        return self.shaped(self.arrays[name])

    def shaped(self, values: Floats) -> Floats:
        """A value per probe by side, level and row."""
        if not self.probes.matched:
            return values
        shaped = values.reshape(self.probes.shape)
        return shaped if self.kept is None else shaped[..., self.kept]

    @cached_property
    def points(self) -> tuple[str, ...]:
        """The hook points that were read."""
        return tuple(dict.fromkeys(name.partition("|")[0] for name in self.arrays if name.count("|") == 3))

    def places(self, ending: str) -> tuple[str, ...]:
        """The hook points of a kind that were read, in forward order."""
        return tuple(name for name in self.points if name.endswith(ending))

    def sparsity(self, control: str = "none", *, point: str = FINAL, read_out: ReadOut | None = None) -> Floats:
        """The headline measure."""
        return self[f"{point}|{control}|{read_out or self.read_out}|{HEADLINE}"]

    def naive(self, control: str = "none") -> Floats:
        """What one reads who leaves nothing out: of texts the mean over all tokens, the first too."""
        if self.read_out != "all":
            return self.sparsity(control)
        others = self["n_tokens"] - 2
        return (others * self.sparsity(control) + self.sparsity(control, read_out="first")) / (others + 1)

    def covariate(self, name: str) -> Floats:
        """loss, entropy or logit_norm: of texts the mean over tokens, of prompts at the answer."""
        if name == "loss" and self.read_out == "last":
            return self["answer_loss"]
        return self[f"{name}|{'all' if self.read_out == 'all' else 'last'}"]

    def rise(self, values: Floats, *, controlled: bool = False, level: int = -1, start: int = 0) -> Floats:
        """The farthest level minus level 0 of each row, in the shift; `controlled`: less the same in the control. `[n_rows]`"""
        of_side = values[:, level] - values[:, start]
        return of_side[0] - of_side[1] if controlled else of_side[0]

    def mean(self, values: Floats) -> Estimate:
        """Mean over the rows that have a value, with its interval; not defined with fewer than two."""
        return mean_of(values, self.n_bootstrap, self.confidence)


def mean_of(values: Floats, n_bootstrap: int, confidence: float = 0.95) -> Estimate:
    """Mean over the rows that have a value (a zero vector has no sparsity), with its bootstrap interval; not defined with fewer than two."""
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return Estimate(value=math.nan, lo=math.nan, hi=math.nan, n=len(known), method="fewer than two rows")
    return over_items(known, n_bootstrap=n_bootstrap, confidence=confidence, seed=0)


Q = TypeVar("Q", bound=ProbeReadings)


@dataclass(frozen=True, kw_only=True)
class FrozenStudy(Study[R]):
    """A study of probes put to one model, and to a second one beside it.

    Raises:
        ValueError: no model, a set of probes that does not exist, or a setting of trainings.
    """

    frozen: FrozenConfig
    builders: ClassVar[Mapping[str, Builder]]
    """Sets of probes by name, in the order of the page."""
    texts: ClassVar[frozenset[str]] = frozenset()
    """Those that are text, read at all tokens; the others are prompts, read where the answer is predicted."""
    plain: ClassVar[frozenset[str]]
    """Those that need no package of the extra `probes`."""
    small: ClassVar[frozenset[str]] = frozenset()
    """Prompts that a small model of code may read too."""
    pools: ClassVar[frozenset[str]] = frozenset()
    """Those that are read beside others and have no claims of their own."""

    def __post_init__(self) -> None:
        require_model(self.frozen)
        for key in ("probes_of", "second_probes_of"):
            unknown = [name for name in getattr(self.frozen, key) if name not in self.builders]
            if unknown:
                raise ValueError(f"study.frozen.{key} has {', '.join(unknown)}; there are {', '.join(self.builders)}")
            given = list(getattr(self.frozen, key))
            if twice := sorted({name for name in given if given.count(name) > 1}):
                raise ValueError(f"study.frozen.{key} has {', '.join(twice)} more than once; each is read once")
            if key == "probes_of" and given and all(name in self.pools for name in given):
                raise ValueError(
                    f"study.frozen.{key} has {', '.join(given)} alone, by which others are judged; add one of "
                    f"{', '.join(name for name in self.builders if name not in self.pools)}"
                )
            needy = [name for name in getattr(self.frozen, key) if self.frozen.plain_only and name not in self.plain]
            if needy:
                raise ValueError(
                    f"study.frozen.{key} has {', '.join(needy)}, which needs packages; with study.frozen.plain_only=true there are "
                    f"{', '.join(name for name in self.builders if name in self.plain)}"
                )
        if self.frozen.second_probes_of and not self.frozen.second:
            raise ValueError(
                f"study.frozen.second_probes_of={list(self.frozen.second_probes_of)} is for a second model; give study.frozen.second=<model>"
            )

    @property
    def seeds(self) -> tuple[int, ...]:
        return (self.frozen.probes.seed,)

    @cached_property
    def puts(self) -> tuple[Put, ...]:
        """Every set of probes put to every model, in the order of the stages; pools too."""
        every = tuple(name for name in self.builders if not self.frozen.plain_only or name in self.plain)
        names = self.frozen.probes_of or every
        second = self.frozen.second_probes_of or tuple(name for name in names if name in self.texts | self.small)
        first = [Put(name=name, model=self.frozen.model, arm=name) for name in names]
        if not self.frozen.second:
            return tuple(first)
        label = label_of(self.frozen.second)
        return (*first, *(Put(name=name, model=self.frozen.second, arm=f"{name} ({label})") for name in second))

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(put.arm for put in self.puts if put.name not in self.pools)

    @property
    def confidence(self) -> float:
        """Of every interval that a verdict rests on."""
        return 1 - FAMILY / len(self.subjects)

    def put_of(self, arm: str) -> Put:
        """What an arm's name stands for."""
        return next(put for put in self.puts if put.arm == arm)

    def read_out_of(self, put: Put) -> ReadOut:
        """Where verdicts about a set are read."""
        return "all" if put.name in self.texts else "last"

    def model_of(self, put: Put) -> LanguageModel:
        """The model that reads a set."""
        return loaded(put.model, self.config.trainer.torch_device, self.frozen.trust_remote_code)

    @cached_property
    def probes(self) -> Mapping[str, Probes]:
        """Arm (or pool) -> its probes."""
        built: dict[str, Probes] = {}
        for put in self.puts:
            model = self.model_of(put)
            probes = built[put.arm] = self.builders[put.name](self.frozen.probes, model.tokenizer)
            longest = max(len(probe.tokens) for probe in probes.probes)
            if model.n_ctx is not None and longest - 1 > model.n_ctx:
                raise ValueError(
                    f"study.frozen: the probes of {put.name} have up to {longest} tokens, and {label_of(put.model)} reads {model.n_ctx} positions; "
                    f"lower study.frozen.probes.n_tokens or leave {put.name} out"
                )
        return built

    def paragraphs(self) -> tuple[str, ...]:
        """What the method of all such studies has in common."""
        models = dict.fromkeys(put.model for put in self.puts)
        of_models = "; ".join(
            f"{label_of(name)}: {model.architecture}, {model.n_params:,} parameters, weights sha256 {model.weights_sha256[:12]}"
            for name in models
            for model in [loaded(name, self.config.trainer.torch_device, self.frozen.trust_remote_code)]
        )
        sources = {package: version for probes in self.probes.values() for package, version in probes.sources.items()}
        n_tokens = sum(probes.n_tokens for probes in self.probes.values())
        rejected = {arm: dict(probes.rejected) for arm, probes in self.probes.items() if probes.rejected}
        return (
            f"Models, as they are given: {of_models}. They are read in float32; one that comes from a quantised file is the quantised one.",
            f"{n_tokens:,} tokens in {sum(len(p.probes) for p in self.probes.values()):,} items. Packages: "
            f"{', '.join(f'{name} {version}' for name, version in sorted(sources.items())) or 'none'}. Left out: {rejected or 'nothing'}.",
            "Sets of probes and the sha256 of their tokens: "
            + "; ".join(f"{arm} {probes.sha256[:12]} ({n_of(probes)})" for arm, probes in self.probes.items())
            + ".",
            f"One model and one seed of texts: intervals are of rows resampled ({self.frozen.n_bootstrap} resamples), and widened for "
            f"{len(self.subjects)} {'arms' if len(self.subjects) == len(self.arms) else 'arms and places'} (Bonferroni: {self.confidence:.4f} each, so that all hold together at .95).",
        )

    def announce(self, run_dir: Path) -> str:
        """How much is still to be read, and how long that will take here."""
        left = [put for put in self.puts if recall(run_dir / self.folder(put) / "result.json", ReadResult) is None]
        n_tokens = sum(self.probes[put.arm].n_tokens for put in left)
        if not left:
            return "everything is read; what follows is computed from it"
        seconds = 0.0
        for name in dict.fromkeys(put.model for put in left):
            of_model = [put for put in left if put.model == name]
            probes = [probe for put in of_model for probe in self.probes[put.arm].probes]
            by_length = sorted(probes, key=lambda probe: len(probe.tokens))
            middle, n_timed = len(by_length) // 2, self.frozen.batch_size * torch.get_num_threads()
            some = [item_of(probe) for probe in by_length[middle : middle + n_timed]]
            model = self.model_of(of_model[0])
            looks = Looks(points=points_of(model), controlled=(FINAL,))
            for _ in range(2):  # the first one warms up
                started = time.perf_counter()
                read_items_of_any_length(model.module, some, looks, batch_size=self.frozen.batch_size)
                spent = time.perf_counter() - started
            rate = spent / sum(len(item.tokens) for item in some)
            seconds += rate * sum(len(probe.tokens) for probe in probes) * self.passes
        return f"{n_tokens:,} tokens to read in {len(left)} of {len(self.puts)} stages, about {max(1, round(seconds / 60))} minutes on this machine"

    passes: ClassVar[float] = 1.0
    """How often every token is read."""

    def folder(self, put: Put) -> str:
        """Where a stage keeps what it read, inside the run's folder."""
        return f"{put.name}/{'second' if put.is_second else 'first'}"

    def inputs(self, put: Put) -> Mapping[str, object]:
        """What decides the result of a stage."""
        return {"weights": self.model_of(put).weights_sha256, "probes": self.probes[put.arm].sha256, "kinds": KINDS}

    def stages(self) -> Sequence[Stage]:
        return [
            Stage(name=self.folder(put), inputs=self.inputs(put), run=partial(self.work, put), schema=ReadResult)
            for put in self.puts
        ]

    def work(self, put: Put, folder: Path) -> StageResult:
        """Reads all items of a set."""
        model, probes = self.model_of(put), self.probes[put.arm]
        items = [item_of(probe) for probe in probes.probes]
        nearest = [
            item
            for item, probe in zip(items, probes.probes, strict=True)
            if probe.level == 0 and probe.side == SIDES[0]
        ]
        energy = channel_energy(model.module, nearest, (FINAL,))
        looks = Looks(points=points_of(model), controlled=(FINAL,), energy=energy)
        with progress_bar(self.config.trainer.progress) as bar:
            task = bar.add_task(put.arm, total=len(items))
            read_resumably(
                model.module,
                items,
                looks,
                folder,
                batch_size=self.frozen.batch_size,
                on_items=partial(bar.advance, task),
            )
        return ReadResult(weights_sha256=model.weights_sha256, n_items=len(items), n_tokens=probes.n_tokens)

    def readings(self, run_dir: Path, put: Put, form: type[Q], **more: object) -> Q:
        """What a stage left.

        Args:
            form: of the readings; `more` are the fields of a subclass.
        """
        with np.load(run_dir / self.folder(put) / "readings.npz") as file:
            arrays = {name: file[name] for name in file.files}
        return form(
            probes=self.probes[put.arm],
            arrays=arrays,
            read_out=self.read_out_of(put),
            n_bootstrap=self.frozen.n_bootstrap,
            confidence=self.confidence,
            **more,  # pyright: ignore[reportArgumentType]
        )

    @abstractmethod
    def read_of(self, run_dir: Path, subject: Subject) -> R:
        """What the stages left of a subject."""

    def read(self, run_dir: Path, results: Mapping[str, StageResult]) -> Mapping[Subject, Sequence[R]]:
        return {subject: [self.read_of(run_dir, subject)] for subject in self.subjects}


def n_of(probes: Probes) -> str:
    """The size of a set, in words."""
    if not probes.matched:
        return f"{len(probes.probes)} items"
    n_sides, n_levels, n_rows = probes.shape
    return f"{n_rows} rows, {n_levels} levels, {n_sides} sides" if n_sides > 1 else f"{n_rows} rows, {n_levels} levels"


def levels_table(read: Mapping[Subject, Sequence[ProbeReadings]]) -> ResultTable:
    """Every level and side of every set: distance, sparsity, answers."""
    rows: list[tuple[TableCell, ...]] = []
    for subject, (r,) in read.items():
        columns: list[tuple[Floats, str]] = [
            (r.covariate("loss"), "nats/token"),
            (r["loss|all"], "nats/token"),
            (r.covariate("entropy"), "nats"),
            (r.sparsity(), HEADLINE),
            (r.sparsity("gain"), HEADLINE),
            (r.sparsity(point=r.places(NEURON)[-1]), HEADLINE),
        ]
        if r.read_out == "last":
            columns.append((r["correct"], "fraction"))
        n_sides, n_levels, _ = r.sparsity().shape
        frequencies = r.shaped(r.probes.frequencies())
        for side in range(n_sides):
            for level in range(n_levels):
                cells: list[TableCell] = [
                    mean_of(values[side, level], r.n_bootstrap).number(unit) for values, unit in columns
                ]
                frequency = float(frequencies[side, level].mean())
                cells.insert(2, number(frequency, "Zipf") if math.isfinite(frequency) else None)
                answered = [] if r.read_out == "last" else [None]
                label = r.probes.levels[level]
                rows.append(
                    (subject.arm, label, SIDES[side], number(r.sparsity().shape[-1], "rows"), *cells, *answered)
                )
    return ResultTable(
        title="Every level: distance, sparsity, answers",
        columns=("shift", "level", "side", "rows", "own loss", "loss of all tokens", "word frequency, Zipf", "entropy", f"{HEADLINE}, without gain", f"{HEADLINE}, with gain", f"{HEADLINE}, last neurons", "answered"),
        rows=tuple(rows),
        note="intervals: 95% percentile bootstrap over rows, not widened; texts: mean over tokens but the first; prompts: at the token that predicts the answer, own loss that of the answer",
    )  # fmt: skip
