"""The farther the shift, the sparser? Four graded shifts, each minus its control, in a model of Python or of a graph.

Every level has a measured distance from the training tokens beside its sparsity, so that "farther" is not a matter of names. The
verdict rests on shift minus control; what would have been said without a control stands beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from sparsetrain.data import TokenStream
from sparsetrain.data.distance import UNITS, TrainingTokens
from sparsetrain.data.worlds.code import build_python
from sparsetrain.data.worlds.graded import SIDES, Graded, GradedConfig, Name
from sparsetrain.data.worlds.knowledge_graph import draw_graph
from sparsetrain.data.worlds.triples import N_MARKS, SIZE, Marks, build_triples, training_documents
from sparsetrain.model import Transformer
from sparsetrain.report import number
from sparsetrain.representation.measures import HEADLINE, gaussian_reference
from sparsetrain.representation.watch import row_losses
from sparsetrain.run import RunConfig, corpus_of, init_bigram_
from sparsetrain.stats.correlation import spearman
from sparsetrain.stats.decisions import DecisionRule
from sparsetrain.stats.intervals import over_items
from sparsetrain.studies.arm import ArmRun, as_rows
from sparsetrain.studies.engine import Arm, Claim, Gate, Plan, Rule, Stage, StudyConfig, conclude
from sparsetrain.studies.knowledge_graph import is_gold_first
from sparsetrain.studies.readings import FINAL, RHO_MARGIN, Readings, Recorder, curve, read_points, seeds_number
from sparsetrain.training.objectives import next_token_loss

OWN = "own_loss"
DISTANCES = {OWN: "nats/token", **UNITS}
"""Distances of a row from the training tokens, and their units."""
LOSS_MARGIN = 0.05
"""Smallest difference of a loss that counts as farther, nats/token. ours"""
RATE_MARGIN = 0.01
"""The same of a share of pairs. ours"""
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
class ShiftReadings:
    """One shift in one seed. Arrays over items are `[..., 2, n_levels, n]`: shift and control."""

    levels: tuple[int, ...]
    read: Readings
    """At initialisation and at the end."""
    distances: Mapping[str, NDArray[np.float64]]

    @property
    def shape(self) -> tuple[int, int, int]:
        return 2, len(self.levels), self.read.loss.shape[-1] // (2 * len(self.levels))

    def of(self, series: str, when: int = -1) -> NDArray[np.float64]:
        """A series of the readings at the end, or at initialisation (`when` 0)."""
        return self.read.series(series)[when].reshape(self.shape)

    def distance(self, name: str) -> NDArray[np.float64]:
        """A distance of every row."""
        return self.distances[name].reshape(self.shape)


def object_loss(model: Transformer, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the objects of rows of triples alone, nats; `batch["tokens"]` is `[batch, SIZE * n_triples]` int64."""
    tokens = batch["tokens"]
    logits = model(tokens[:, :-1])[:, OBJECTS]
    return F.cross_entropy(rearrange(logits, "b p v -> (b p) v"), rearrange(tokens[:, 1:][:, OBJECTS], "b p -> (b p)"))


def rise(values: NDArray[np.float64], *, controlled: bool) -> float:
    """The farthest level minus level 0 in the shift; `controlled`: less the same in the control. `[2, n_levels, n]`."""
    of_side = values.mean(-1)[:, -1] - values.mean(-1)[:, 0]
    return float(of_side[0] - of_side[1]) if controlled else float(of_side[0])


def effects(r: ShiftReadings) -> dict[str, float]:
    """The number of each claim about one shift in one seed."""
    y = r.of("none")
    _, n_levels, n = r.shape
    level = np.repeat(np.arange(n_levels, dtype=np.float64), n)

    def minus_control(series: str) -> NDArray[np.float64]:
        values = r.of(series)
        return (values[0] - values[1]).ravel()

    covariates = [minus_control(series) for series in ("loss", "entropy", "logit_norm")]
    return {
        "naive": rise(y, controlled=False),
        "naive, gain": rise(r.of("gain"), controlled=False),
        "naive per item": spearman(level, y[0].ravel(), n_bootstrap=0, seed=0).value,
        "controlled": rise(y, controlled=True),
        "controlled, gain": rise(r.of("gain"), controlled=True),
        "per item": spearman(level, minus_control("none"), n_bootstrap=0, seed=0).value,
        "beyond prediction": spearman(level, minus_control("none"), given=covariates, n_bootstrap=0, seed=0).value,
        "at init": rise(r.of("none", 0), controlled=True),
        "rotated": rise(r.of("rotated"), controlled=True),
        "trimmed": rise(r.of("trimmed"), controlled=True),
        "own loss": rise(r.distance(OWN), controlled=False),
        "own loss, controlled": rise(r.distance(OWN), controlled=True),
        "bigram loss": rise(r.distance("bigram_loss"), controlled=False),
        "unseen pairs": rise(r.distance("unseen_pairs"), controlled=False),
    }


@dataclass(frozen=True)
class ShiftsStudy:
    """The study of one config; see `sparsetrain.studies.run.Study`."""

    config: RunConfig

    @property
    def study(self) -> StudyConfig:
        return self.config.study

    @property
    def shifts(self) -> GradedConfig:
        return self.study.shifts

    @property
    def levels(self) -> Mapping[str, tuple[int, ...]]:
        return self.shifts.levels(self.shifts.world)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.config.seed + i for i in range(self.study.n_seeds))

    def plan(self) -> Plan:
        margin, agree = self.study.margin, self.study.n_agreeing
        rows: list[tuple[str, str, Any, float, str]] = [
            ("naive", "without control: the farthest level is sparser than level 0 (without gain)", "positive", margin, HEADLINE),
            ("naive, gain", "without control: the farthest level is sparser than level 0 (with gain)", "positive", margin, HEADLINE),
            ("naive per item", "without control: farther rows are sparser, row by row (Spearman)", "positive", RHO_MARGIN, "rho"),
            ("controlled", "shift minus control: the farthest level is sparser than level 0 (without gain)", "positive", margin, HEADLINE),
            ("controlled, gain", "shift minus control: the farthest level is sparser than level 0 (with gain)", "positive", margin, HEADLINE),
            ("per item", "shift minus control: farther rows are sparser, row by row (Spearman)", "positive", RHO_MARGIN, "rho"),
            ("beyond prediction", "the same given loss, entropy and logit norm of the answer (partial Spearman)", "positive", RHO_MARGIN, "rho"),
            ("at init", "control: shift minus control is nothing at initialisation", "none", margin, HEADLINE),
            ("rotated", "control: shift minus control is nothing in a random basis", "none", margin, HEADLINE),
            ("trimmed", "control: shift minus control without the strongest 1% of channels", "positive", margin, HEADLINE),
            ("own loss", "distance: the model's own loss of the row is higher at the farthest level", "positive", LOSS_MARGIN, "nats/token"),
            ("own loss, controlled", "distance: the same, shift minus control", "positive", LOSS_MARGIN, "nats/token"),
            ("bigram loss", "distance: the bigram table's loss of the row is higher at the farthest level", "positive", LOSS_MARGIN, "nats/token"),
            ("unseen pairs", "distance: more pairs of tokens that training never showed at the farthest level", "positive", RATE_MARGIN, "fraction"),
        ]  # fmt: skip
        verdicts = {
            "farther, sparser": (
                "beyond what length, position and form of the row do",
                ("controlled", "controlled, gain"),
            ),
            "naive: farther, sparser": ("what would be said without a control", ("naive", "naive, gain")),
            "is farther": ("the level is farther from the training tokens by the model's own loss", ("own loss",)),
        }
        claims: list[Claim] = []
        rules: list[Rule] = []
        for name in self.shifts.names:
            claims += [
                Claim(
                    key=f"{name}: {key}",
                    arm=name,
                    criterion=DecisionRule(
                        claim=claim, expected=expected, margin=bound, n_agreeing=None if expected == "none" else agree
                    ),
                    unit=unit,
                )
                for key, claim, expected, bound, unit in rows
            ]
            rules += [
                Rule(name=rule, arm=name, statement=statement, needs=tuple(f"{name}: {key}" for key in needs))
                for rule, (statement, needs) in verdicts.items()
            ]
        world = self.shifts.world
        gates = tuple(
            Gate(
                key=name,
                words=f"{name}: level 0 answered among {self._n_choices(name)}",
                rule="at least",
                bound=ANSWERED[world],
                unit="fraction",
                arm=name,
            )
            for name in self.shifts.names
        )
        return Plan(
            question="Do representations get sparser as input gets harder, longer, or contradicts what was learned?",
            method=(
                "Each shift has levels from 0, as in training, to farthest, and a control whose rows change as those of the shift do "
                "(length, position of every line or triple, kind of tokens) without what is claimed to matter. All rows of a shift and "
                "its control have the same number of tokens and end in the same kind of token; row k of all of them has the same names. ",
                "; ".join(
                    f"{name}: {WHAT[world, name][0]}, levels {', '.join(map(str, self.levels[name]))} (control: {WHAT[world, name][1]})"
                    for name in self.shifts.names
                )
                + ".",
                f"Rows of each level: {self.shifts.n_items}."
                if world == "python"
                else f"Rows of each level: {self.shifts.n_items} ({self.study.knowledge_graph.n_eval} of difficulty), of "
                f"{self.shifts.n_triples} triples; the graph: {self.study.knowledge_graph}.",
                f"Read at the last token, at {FINAL}, before and after its gain; the {HEADLINE} of a Gaussian vector is .414, more is "
                f"sparser. Verdicts rest on (farthest level minus level 0) of the shift minus the same of its control. Distance "
                f"of a row from the training tokens: the model's own loss, the loss of the bigram table of those tokens, and the share "
                f"of tokens and of pairs that training never showed.",
                "One number per seed and claim; every seed has models, rows and a graph of its own. Intervals of claims are Student's t "
                "over seeds; those in the table of levels are bootstrapped over examples.",
            ),
            seeds=self.seeds,
            arms=self.shifts.names,
            gates=gates,
            claims=tuple(claims),
            rules=tuple(rules),
        )

    def stages(self) -> list[Stage]:
        self._check()
        stages = []
        for seed in self.seeds:
            run = self._training(seed)
            wanted = {
                "world": self.shifts.world,
                "names": self.shifts.names,
                "levels": {name: self.levels[name] for name in self.shifts.names},
                "n_items": self.shifts.n_items,
                "n_triples": self.shifts.n_triples,
            }
            inputs = {**run.inputs(), "bigram_init": self.config.bigram_init, "shifts": wanted}
            of_world = asdict(self.config.data) if self.shifts.world == "python" else asdict(self.study.knowledge_graph)
            stages.append(Stage(name=f"seed_{seed}", inputs={**inputs, "data": of_world}, run=_Training(self, run)))
        return stages

    def conclude(self, plan: Plan, results: Mapping[str, Mapping[str, Any]], run_dir: Path) -> dict[str, Any]:
        read: dict[Name, list[ShiftReadings]] = {
            name: [self._load(run_dir / f"seed_{seed}", name) for seed in self.seeds] for name in self.shifts.names
        }
        found: dict[str, list[float]] = {}
        for name, seeds in read.items():
            for r in seeds:
                for key, value in effects(r).items():
                    found.setdefault(f"{name}: {key}", []).append(value)
        # Level 0 is the same in the control.
        gates = {name: [float(r.of("correct")[:, 0].mean()) for r in seeds] for name, seeds in read.items()}
        study = conclude(plan, gates=gates, effects=found)
        study["figures"] = self._figures(read)
        study["tables"] = [self._levels_table(read), self._rows_table(results)]
        study["models"] = {name: result["weights_sha256"] for name, result in results.items()}
        return {"study": study}

    def _check(self) -> None:
        """Refuses sizes that cannot hold before anything is trained."""
        if self.shifts.world == "graph" and SIZE * self.shifts.n_triples - 1 > self.config.model.n_ctx:
            raise ValueError(
                f"study.shifts.n_triples={self.shifts.n_triples} needs rows of {SIZE * self.shifts.n_triples - 1} tokens, "
                f"model.n_ctx={self.config.model.n_ctx}; lower it or raise model.n_ctx"
            )

    def _n_choices(self, name: Name) -> int:
        """Answers that the right one is compared with, itself included."""
        if self.shifts.world == "graph":
            return self.study.knowledge_graph.n_choices
        return 3 if name == "choices" else 2

    def _training(self, seed: int) -> ArmRun:
        """The run's own model, optimizer and weight sparsity; of the graph with its vocabulary and the loss on objects alone."""
        config, world = self.config, self.shifts.world
        return ArmRun(
            config=config,
            arm=Arm(decay=config.optim.decay, density=config.sparsity.density),
            seed=seed,
            d_vocab=config.model.d_vocab if world == "python" else self.study.knowledge_graph.d_vocab + N_MARKS,
            n_steps=config.trainer.n_steps,
            objective=next_token_loss if world == "python" else object_loss,
            n_prompt=SIZE * self.shifts.n_triples - 1 if world == "graph" else 1,
        )

    def _load(self, folder: Path, name: Name) -> ShiftReadings:
        with np.load(folder / f"{name}_distances.npz") as file:
            distances = {key: file[key].astype(np.float64) for key in file.files}
        return ShiftReadings(levels=self.levels[name], read=Readings.load(folder / f"{name}.npz"), distances=distances)

    def _figures(self, read: Mapping[Name, Sequence[ShiftReadings]]) -> list[dict[str, Any]]:
        reference = gaussian_reference(self.config.model.d_model)[HEADLINE]
        figures = []
        for name, runs in read.items():
            for what, label, values in (
                ("gini", HEADLINE, lambda r: r.of("none")),
                ("own_loss", "own loss of the row, nats/token", lambda r: r.distance(OWN)),
            ):
                x = [float(level) for level in runs[0].levels]
                figures.append(
                    {
                        "key": f"{name}_{what}",
                        "title": f"{name}: {label}",
                        "x_label": f"level: {WHAT[self.shifts.world, name][0]}",
                        "y_label": label,
                        "curves": [
                            curve(side, x, np.array([values(r)[i].mean(-1) for r in runs]))
                            for i, side in enumerate(SIDES)
                        ],
                        "references": [{"label": "Gaussian", "value": reference}] if what == "gini" else [],
                        "note": f"mean over {len(runs)} seeds, band: 95% t interval over seeds",
                    }
                )
        return figures

    def _levels_table(self, read: Mapping[Name, Sequence[ShiftReadings]]) -> dict[str, Any]:
        rows = []
        for name, runs in read.items():
            for i, level in enumerate(runs[0].levels):
                for side, label in enumerate(SIDES):

                    def cell(values: Sequence[NDArray[np.float64]], unit: str, at: tuple[int, int] = (side, i)) -> Any:
                        pooled = np.concatenate([v[at] for v in values])
                        return seeds_number(over_items(pooled, n_bootstrap=400, seed=0), unit)

                    rows.append(
                        [
                            name,
                            str(level),
                            label,
                            cell([r.of("none") for r in runs], HEADLINE),
                            cell([r.of("gain") for r in runs], HEADLINE),
                            cell([r.of("correct") for r in runs], "fraction"),
                            *(cell([r.distance(key) for r in runs], unit) for key, unit in DISTANCES.items()),
                            cell([r.of("loss") for r in runs], "nats"),
                            cell([r.of("entropy") for r in runs], "nats"),
                        ]
                    )
        return {
            "title": "Every level: sparsity, and distance from the training tokens",
            "columns": [
                "shift",
                "level",
                "side",
                f"{HEADLINE}, without gain",
                f"{HEADLINE}, with gain",
                "answered",
                "own loss",
                "bigram loss",
                "unseen tokens",
                "unseen pairs",
                "loss of the answer",
                "entropy of the answer",
            ],
            "rows": rows,
            "note": "examples of all seeds together; intervals: 95% percentile bootstrap over examples (400 resamples, seed 0)",
        }

    def _rows_table(self, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        rows = [
            [
                stage,
                name,
                number(result["length"][name], "tokens"),
                number(result["n_rows"][name], "rows"),
                ", ".join(f"{reason}: {n}" for reason, n in sorted(result["rejected"][name].items())) or "none",
            ]
            for stage, result in results.items()
            for name in self.shifts.names
        ]
        return {
            "title": "The rows: length, number and what was rejected",
            "columns": ["training", "shift", "length", "rows", "rejected"],
            "rows": rows,
            "note": "rows of all levels, shift and control; a rejected row is left out at every level and in the control",
        }


@dataclass(frozen=True)
class _Training:
    """The work of a stage: rows and shifts of a world, one training, readings at its start and end, distances."""

    study: ShiftsStudy
    run: ArmRun

    def __call__(self, folder: Path) -> dict[str, Any]:
        rows, val, shifts, tokenizer = self._python() if self.study.shifts.world == "python" else self._graph()
        counted_at = slice(None) if self.study.shifts.world == "python" else OBJECTS
        counted = TrainingTokens.count([rows], self.run.d_vocab, [val])
        recorders = {
            shift.name: Recorder(
                as_rows(shift.rows),
                read_points(self.run.config.model.n_layer),
                partial(is_gold_first, choices=as_rows(shift.choices.reshape(-1, shift.choices.shape[-1]))),
            )
            for shift in shifts
        }

        def look(model: Transformer, step: int) -> None:
            for recorder in recorders.values():
                recorder(model, step)

        def start(model: Transformer) -> None:
            if self.run.config.model.bigram and self.run.config.bigram_init == "counts":
                init_bigram_(model, counted.table)

        model, meta = self.run.train(
            as_rows(rows), folder, (0, self.run.n_steps), look, start=start, tokenizer=tokenizer
        )
        for shift in shifts:
            recorders[shift.name].save(folder / f"{shift.name}.npz")
            own = row_losses(model, as_rows(shift.rows), at=counted_at)
            distances = {OWN: own.numpy(), **counted.distances(shift.rows)}
            np.savez(folder / f"{shift.name}_distances.npz", **distances)  # pyright: ignore[reportArgumentType]
        return {
            "weights_sha256": meta["weights_sha256"],
            "length": {shift.name: shift.tokens.shape[-1] - 1 for shift in shifts},
            "n_rows": {shift.name: len(shift.rows) for shift in shifts},
            "rejected": {shift.name: dict(shift.rejected) for shift in shifts},
        }

    def _python(self) -> tuple[NDArray[np.int64], NDArray[np.int64], list[Graded], str]:
        config, seed = self.run.config, self.run.seed
        corpus = corpus_of(config)
        n_ctx, batch_size = config.model.n_ctx, config.trainer.batch_size
        shifts = build_python(self.study.shifts, corpus.tokenizer, n_ctx, seed)
        stream = TokenStream(corpus, "train", n_ctx, batch_size, seed)
        val = TokenStream(corpus, "val", n_ctx, batch_size, seed)
        return (
            np.concatenate([stream.batch(k) for k in range(self.run.n_steps)]),
            np.concatenate([val.batch(k) for k in range(N_VAL)]),
            shifts,
            corpus.tokenizer.to_json(),
        )

    def _graph(self) -> tuple[NDArray[np.int64], NDArray[np.int64], list[Graded], None]:
        config, seed, sizes = self.run.config, self.run.seed, self.study.study.knowledge_graph
        graph, marks = draw_graph(sizes, seed), Marks.of(sizes.d_vocab)
        shifts = build_triples(self.study.shifts, graph, marks, sizes.n_choices, config.model.n_ctx, seed)
        n_triples = (config.model.n_ctx + 1) // SIZE
        n_rows = self.run.n_steps * config.trainer.batch_size
        # One stream of rows, so that training and validation never share random numbers.
        rows = training_documents(graph, marks, n_rows + N_VAL * config.trainer.batch_size, n_triples, seed)
        return rows[:n_rows], rows[n_rows:], shifts, None
