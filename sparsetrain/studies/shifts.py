"""The farther the shift, the sparser? Four graded shifts, each minus its control, in a model of Python or of a graph.

Every level has a measured distance from the training tokens beside its sparsity, so that "farther" is not a matter of names. The
verdict rests on shift minus control; what would have been said without a control stands beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from sparsetrain.data import TokenStream
from sparsetrain.data.distance import UNITS, TrainingTokens
from sparsetrain.data.worlds.code import build_python
from sparsetrain.data.worlds.graded import SIDES, Graded, GradedConfig, Name
from sparsetrain.data.worlds.knowledge_graph import GraphConfig
from sparsetrain.data.worlds.triples import N_MARKS, SIZE, build_triples, check_length, training_documents
from sparsetrain.model import Transformer
from sparsetrain.representation.evaluate import row_losses
from sparsetrain.representation.measures import HEADLINE
from sparsetrain.run import RunConfig, corpus_of, init_bigram_
from sparsetrain.stats.intervals import Floats, over_items
from sparsetrain.stats.number import Number, number
from sparsetrain.studies.arm import train_arm
from sparsetrain.studies.engine import StageResult, section_of
from sparsetrain.studies.knowledge_graph import graph_of, is_gold_first
from sparsetrain.studies.readings import (
    FINAL,
    Readings,
    both_gains,
    correlation,
    gaussian,
    item_reader,
    load_arrays,
    over_seeds_figure,
    rank_correlation,
    sparsity,
)
from sparsetrain.studies.section import Figure, ResultTable, TableCell
from sparsetrain.studies.study import Gates, Hypothesis, Ruling, Subject, TrainedStudy, gate
from sparsetrain.training.objectives import next_token_loss

OWN = "own_loss"
DISTANCES = {OWN: "nats/token", **UNITS}
"""Distances of a row from the training tokens, and their units."""
MARGINS = {"nats/token": 0.05, "fraction": 0.01}
"""Smallest differences of a loss, and of a share of pairs, that count as farther. ours"""
ANSWERED = {"python": 0.75, "graph": 0.9}
"""Share of level 0 that a model must answer for the shift to mean anything. ours"""
OBJECTS = slice(SIZE - 2, None, SIZE)
"""Positions of a row of triples whose next token is an object."""
N_VAL = 4
"""Validation batches."""
WHAT = {
    ("python", "difficulty"): ("words inside the string in quotes of the other kind", "as many words in brackets"),
    ("python", "choices"): ("brackets that are open, of another kind each", "as many brackets, closed again"),
    ("python", "context"): ("tokens of code in front, same document", "the same code in front, another document"),
    ("python", "conflict"): ("functions in front indented by two blanks", "as many indented by four"),
    ("graph", "difficulty"): (
        "0 trained, 1 medium, 2 hard (derivation)",
        "trained triples, same relation, like subject",
    ),
    ("graph", "choices"): ("objects of the asked relation in front", "objects of another relation in front"),
    ("graph", "context"): ("triples in front, same document", "the same triples in front, another document"),
    ("graph", "conflict"): ("triples in front that contradict the trained one", "as often the trained one itself"),
}
"""What a level counts, in the shift and in its control."""


@dataclass(frozen=True, kw_only=True)
class ShiftReadings(Readings):
    """One shift in one seed, at initialisation and at the end. Items are `[2, n_levels, n]`, flat: shift and control."""

    levels: tuple[int, ...]
    distances: Mapping[str, Floats]

    def of(self, series: str, when: int = -1) -> Floats:
        """A series of the readings at the end, or at initialisation (`when` 0), or a distance of every row, `[2, n_levels, n]`."""
        values = self.distances[series] if series in self.distances else self.series(series)[when]
        return values.reshape(2, len(self.levels), -1)

    def rise(self, series: str, *, controlled: bool = False, when: int = -1) -> float:
        """The farthest level minus level 0 in the shift; `controlled`: less the same in the control."""
        means = self.of(series, when).mean(-1)
        of_side = means[:, -1] - means[:, 0]
        return float(of_side[0] - of_side[1]) if controlled else float(of_side[0])

    def per_item(self, *given: str, controlled: bool = True) -> float:
        """Rank correlation of level and sparsity over rows, shift minus control, given series."""

        def values(series: str) -> Floats:
            shift, control = self.of(series)
            return (shift - control if controlled else shift).ravel()

        y = values("none")
        level = np.repeat(np.arange(len(self.levels), dtype=np.float64), len(y) // len(self.levels))
        return rank_correlation(level, y, *(values(series) for series in given))


def object_loss(model: Transformer, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the objects of rows of triples alone, nats; `batch["tokens"]` is `[batch, SIZE * n_triples]` int64."""
    tokens = batch["tokens"]
    logits = model(tokens[:, :-1])[:, OBJECTS]
    return F.cross_entropy(rearrange(logits, "b p v -> (b p) v"), rearrange(tokens[:, 1:][:, OBJECTS], "b p -> (b p)"))


def farther(key: str, claim: str, series: str, *, controlled: bool = False) -> Hypothesis:
    """A hypothesis about a distance from the training tokens."""
    return Hypothesis(
        key=key,
        claim=f"distance: {claim}",
        expected="positive",
        effect=lambda r: r.rise(series, controlled=controlled),  # pyright: ignore[reportAttributeAccessIssue]
        unit=DISTANCES[series],
        margin=MARGINS[DISTANCES[series]],
    )


@dataclass(frozen=True, kw_only=True)
class ShiftsResult(StageResult):
    """What one training leaves besides its readings: of each shift length, number and rejections of its rows."""

    length: Mapping[str, int]
    n_rows: Mapping[str, int]
    rejected: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, kw_only=True)
class Material:
    """What one training works with."""

    rows: NDArray[np.int64]
    """Training rows."""
    val: NDArray[np.int64]
    shifts: Sequence[Graded]
    tokenizer: str | None = None
    """Text of a tokenizer.json."""


@dataclass(frozen=True, kw_only=True)
class ShiftsStudy(TrainedStudy[ShiftReadings]):
    """One training per seed, with the run's own optimizer and weight sparsity; claims are made about each shift."""

    question = "Do representations get sparser as input gets harder, longer, or contradicts what was learned?"
    hypotheses = (
        *both_gains("naive", "positive", "without control: the farthest level is sparser than level 0", lambda r, c: r.rise(c)),
        correlation("naive per item", "positive", "without control: farther rows are sparser, row by row (Spearman)", lambda r: r.per_item(controlled=False)),
        *both_gains("controlled", "positive", "shift minus control: the farthest level is sparser than level 0", lambda r, c: r.rise(c, controlled=True)),
        correlation("per item", "positive", "shift minus control: farther rows are sparser, row by row (Spearman)", lambda r: r.per_item()),
        correlation("beyond prediction", "positive", "the same given loss, entropy and logit norm of the answer (partial Spearman)", lambda r: r.per_item("loss", "entropy", "logit_norm")),
        sparsity("at init", "none", "control: shift minus control is nothing at initialisation", lambda r: r.rise("none", controlled=True, when=0)),
        sparsity("rotated", "none", "control: shift minus control is nothing in a random basis", lambda r: r.rise("rotated", controlled=True)),
        sparsity("trimmed", "positive", "control: shift minus control without the strongest 1% of channels", lambda r: r.rise("trimmed", controlled=True)),
        farther("own loss", "the model's own loss of the row is higher at the farthest level", OWN),
        farther("own loss, controlled", "the same, shift minus control", OWN, controlled=True),
        farther("bigram loss", "the bigram table's loss of the row is higher at the farthest level", "bigram_loss"),
        farther("unseen pairs", "more pairs of tokens that training never showed at the farthest level", "unseen_pairs"),
    )  # fmt: skip
    rulings = (
        Ruling(
            name="farther, sparser",
            statement="beyond what length, position and form of the row do",
            needs=("controlled", "controlled, gain"),
        ),
        Ruling(
            name="naive: farther, sparser",
            statement="what would be said without a control",
            needs=("naive", "naive, gain"),
        ),
        Ruling(
            name="is farther",
            statement="the level is farther from the training tokens by the model's own loss",
            needs=("own loss",),
        ),
    )

    result = ShiftsResult

    shifts: GradedConfig
    graph: GraphConfig

    @property
    def arms(self) -> tuple[Name, ...]:
        return self.shifts.names

    @property
    def levels(self) -> Mapping[str, tuple[int, ...]]:
        return dict(**self.shifts.levels(self.shifts.world))

    def method(self) -> tuple[str, ...]:
        shifts, world = self.shifts, self.shifts.world
        graded = "; ".join(
            f"{name}: {WHAT[world, name][0]}, levels {', '.join(map(str, self.levels[name]))} (control: {WHAT[world, name][1]})"
            for name in self.arms
        )
        of_graph = (
            f" ({self.graph.n_eval} of difficulty), of {shifts.n_triples} triples; the graph: {self.graph}"
            if world == "graph"
            else ""
        )
        return (
            "Each shift has levels from 0, as in training, to farthest, and a control whose rows change as those of the shift do "
            "(length, position of every line or triple, kind of tokens) without what is claimed to matter. All rows of a shift and "
            "its control have the same number of tokens and end in the same kind of token; row k of all of them has the same names. ",
            f"{graded}.",
            f"Rows of each level: {shifts.n_items}{of_graph}.",
            f"Read at the last token, at {FINAL}, before and after its gain; the {HEADLINE} of a Gaussian vector is .414, more is "
            f"sparser. Verdicts rest on (farthest level minus level 0) of the shift minus the same of its control. Distance "
            f"of a row from the training tokens: the model's own loss, the loss of the bigram table of those tokens, and the share "
            f"of tokens and of pairs that training never showed.",
            "One number per seed and claim; every seed has models, rows and a graph of its own. Intervals of claims are Student's t "
            "over seeds; those in the table of levels are bootstrapped over examples.",
        )

    def gates(self) -> Gates[ShiftReadings]:
        def answered(r: ShiftReadings) -> float:
            return float(r.of("correct")[:, 0].mean())  # level 0 is the same in the control

        def n_choices(name: Name) -> int:
            return self.graph.n_choices if self.shifts.world == "graph" else 3 if name == "choices" else 2

        bound = number(ANSWERED[self.shifts.world], "fraction")
        words = {name: f"{name}: level 0 answered among {n_choices(name)}" for name in self.arms}
        return [gate(name, words[name], bound, answered, arm=name) for name in self.arms]

    def folder(self, arm: str, seed: int) -> str:
        return f"seed_{seed}"

    def config_of(self, arm: str, seed: int) -> RunConfig:
        model = self.config.model
        if self.shifts.world == "graph":
            with section_of("study.shifts"):
                check_length(self.shifts, model.n_ctx)
            model = replace(model, d_vocab=self.graph.d_vocab + N_MARKS)
        return replace(self.config, seed=seed, model=model)

    def inputs(self, config: RunConfig) -> Mapping[str, object]:
        data = config.data if self.shifts.world == "python" else self.graph
        return {**config.recipe.key(), "bigram_init": config.bigram_init, "shifts": self.shifts, "data": data}

    def work(self, config: RunConfig, folder: Path) -> ShiftsResult:
        """Trains, reads at the start and at the end, and measures distances."""
        python = self.shifts.world == "python"
        given = self._python(config) if python else self._graph(config)
        counted = TrainingTokens.count([given.rows], config.model.d_vocab, [given.val])
        readers = {
            shift.name: item_reader(
                torch.from_numpy(shift.rows),
                config.model.n_layer,
                partial(is_gold_first, choices=torch.from_numpy(shift.choices.reshape(-1, shift.choices.shape[-1]))),
            )
            for shift in given.shifts
        }

        def start(model: Transformer) -> None:
            if config.model.bigram and config.bigram_init == "counts":
                init_bigram_(model, counted.table)

        model, weights = train_arm(
            config,
            given.rows,
            folder,
            (0, config.trainer.n_steps),
            readers,
            objective=next_token_loss if python else object_loss,
            start=start,
            tokenizer=given.tokenizer,
        )
        for shift in given.shifts:
            readers[shift.name].save(folder / f"{shift.name}.npz")
            own = row_losses(model, torch.from_numpy(shift.rows), at=slice(None) if python else OBJECTS)
            distances = {OWN: own.numpy(), **counted.distances(shift.rows)}
            np.savez(folder / f"{shift.name}_distances.npz", **distances)  # pyright: ignore[reportArgumentType]
        return ShiftsResult(
            weights_sha256=weights,
            length={shift.name: shift.tokens.shape[-1] - 1 for shift in given.shifts},
            n_rows={shift.name: len(shift.rows) for shift in given.shifts},
            rejected={shift.name: shift.rejected for shift in given.shifts},
        )

    def _python(self, config: RunConfig) -> Material:
        corpus, n_ctx, batch_size = corpus_of(config), config.model.n_ctx, config.trainer.batch_size

        def rows(split: str, n: int) -> NDArray[np.int64]:
            stream = TokenStream(corpus, split, n_ctx, batch_size, config.seed)
            return np.concatenate([stream.batch(k) for k in range(n)])

        with section_of("study.shifts"):
            shifts = build_python(self.shifts, corpus.tokenizer, n_ctx, config.seed)
        return Material(
            shifts=shifts,
            rows=rows("train", config.trainer.n_steps),
            val=rows("val", N_VAL),
            tokenizer=corpus.tokenizer.to_json(),
        )

    def _graph(self, config: RunConfig) -> Material:
        graph = graph_of(self.graph, config.seed)
        n_ctx, batch_size = config.model.n_ctx, config.trainer.batch_size
        with section_of("study.shifts"):
            shifts = build_triples(self.shifts, graph, n_ctx, config.seed)
        n_rows = config.trainer.n_steps * batch_size
        # One stream of rows, so that training and validation never share random numbers.
        rows = training_documents(graph, n_rows + N_VAL * batch_size, (n_ctx + 1) // SIZE, config.seed)
        return Material(rows=rows[:n_rows], val=rows[n_rows:], shifts=shifts)

    def load(self, folder: Path, subject: Subject, seed: int) -> ShiftReadings:
        levels, distances = self.levels[subject.arm], load_arrays(folder / f"{subject.arm}_distances.npz")
        return ShiftReadings.load(folder / f"{subject.arm}.npz", levels=levels, distances=distances)

    def figures(self, read: Mapping[Subject, Sequence[ShiftReadings]]) -> Sequence[Figure]:
        reference = gaussian(self.config.model.d_model)
        return [
            over_seeds_figure(
                f"{name}_{key}",
                f"{name}: {label}",
                [float(level) for level in runs[0].levels],
                {side: [r.of(series)[i].mean(-1) for r in runs] for i, side in enumerate(SIDES)},
                x_label=f"level: {WHAT[self.shifts.world, name][0]}",
                y_label=label,
                references=reference if key == "gini" else (),
            )
            for name, runs in ((subject.arm, runs) for subject, runs in read.items())
            for series, key, label in (("none", "gini", HEADLINE), (OWN, OWN, "own loss of the row, nats/token"))
        ]

    def tables(
        self, read: Mapping[Subject, Sequence[ShiftReadings]], results: Mapping[str, StageResult]
    ) -> Sequence[ResultTable]:
        shown = {
            "none": (f"{HEADLINE}, without gain", HEADLINE),
            "gain": (f"{HEADLINE}, with gain", HEADLINE),
            "correct": ("answered", "fraction"),
            **{key: (key.replace("_", " "), unit) for key, unit in DISTANCES.items()},
            "loss": ("loss of the answer", "nats"),
            "entropy": ("entropy of the answer", "nats"),
        }

        def cell(runs: Sequence[ShiftReadings], series: str, side: int, level: int) -> Number:
            pooled = np.concatenate([r.of(series)[side, level] for r in runs])
            return over_items(pooled, n_bootstrap=400, seed=0).number(shown[series][1])

        rows: list[tuple[TableCell, ...]] = []
        for stage, result in results.items():
            assert isinstance(result, ShiftsResult)
            for name in self.arms:
                rejected = ", ".join(f"{reason}: {n}" for reason, n in sorted(result.rejected[name].items())) or "none"
                n_rows = number(result.n_rows[name], "rows")
                rows.append((stage, name, number(result.length[name], "tokens"), n_rows, rejected))
        return (
            ResultTable(
                title="Every level: sparsity, and distance from the training tokens",
                columns=("shift", "level", "side", *(label for label, _ in shown.values())),
                rows=tuple(
                    (subject.arm, str(level), label, *(cell(runs, series, side, i) for series in shown))
                    for subject, runs in read.items()
                    for i, level in enumerate(runs[0].levels)
                    for side, label in enumerate(SIDES)
                ),
                note="examples of all seeds together; intervals: 95% percentile bootstrap over examples (400 resamples, seed 0)",
            ),
            ResultTable(
                title="The rows: length, number and what was rejected",
                columns=("training", "shift", "length", "rows", "rejected"),
                rows=tuple(rows),
                note="rows of all levels, shift and control; a rejected row is left out at every level and in the control",
            ),
        )
