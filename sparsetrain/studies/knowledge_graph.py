"""The farther the shift, the sparser? A model pretrained on a knowledge graph, read on what it was and was not trained on.

All splits have the same relations equally often and prompts that end in the same token. Training triples that are deducible are
compared with triples that are deducible and left out: `medium` (three training triples or more are needed) and `hard`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sparsetrain.data.shifts.split import ShiftedSplit
from sparsetrain.data.worlds.knowledge_graph import SPLITS, GraphConfig, KnowledgeGraph, draw_graph
from sparsetrain.model import Transformer
from sparsetrain.representation.measures import HEADLINE
from sparsetrain.representation.section import table_section
from sparsetrain.representation.tracker import SparsityTracker, TrackerConfig
from sparsetrain.run import RunConfig
from sparsetrain.stats.number import number
from sparsetrain.studies.arm import WorldStudy, train_arm
from sparsetrain.studies.engine import StageResult, log_spaced_steps, section_of
from sparsetrain.studies.readings import (
    FINAL,
    Readings,
    both_gains,
    correlation,
    groups_table,
    item_reader,
    over_training,
    points_table,
    rank_correlation,
    sparsity,
)
from sparsetrain.studies.section import Figure, ResultTable, StudySection
from sparsetrain.studies.study import Gates, Hypothesis, Ruling, Subject, gate

R_MARGIN = 0.5
"""Smallest correlation between the curves of two splits that counts as moving together. ours"""

WORDS = {
    "id atomic": "training triples that no rule gives",
    "id deducible": "training triples that also follow from others by the rules",
    "medium": "left out, the shortest derivation takes three training triples or more",
    "hard": "left out, the shortest derivation takes two training triples",
}
SPLITS_NOTE = "; ".join(f"{name}: {words}" for name, words in WORDS.items())
TRAINED = SPLITS[:2]
COMPARED = SPLITS[1:]
"""Splits of deducible triples, which differ in whether they were trained on; nearest first."""


def graph_of(config: GraphConfig, seed: int) -> KnowledgeGraph:
    """The graph of a seed; a ValueError names the config's section."""
    with section_of("study.knowledge_graph"):
        return draw_graph(config, seed)


def as_splits(graph: KnowledgeGraph) -> list[ShiftedSplit]:
    """The evaluated splits; both kinds of training triples are level 0."""
    return [
        ShiftedSplit(name=name, level=max(0, i - 1), tokens=graph.rows(graph.splits[name]), description=WORDS[name])
        for i, name in enumerate(SPLITS)
    ]


def split_groups(splits: Sequence[str], n_eval: int) -> dict[str, slice]:
    """Where each of several splits stands among their items."""
    return {name: slice(i * n_eval, (i + 1) * n_eval) for i, name in enumerate(splits)}


def prompts_of(graph: KnowledgeGraph, splits: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Prompts of splits, and the tokens to choose from, the right one first."""
    prompts = np.concatenate([graph.rows(graph.splits[name]) for name in splits])
    choices = 1 + np.concatenate([graph.choices[name] for name in splits])
    return torch.from_numpy(prompts), torch.from_numpy(choices)


def is_gold_first(logits: Tensor, choices: Tensor) -> Tensor:
    """Whether the first choice has the largest logit: `[n, d_vocab]`, tokens `[n, n_choices]` -> bool `[n]`."""
    scores = logits.gather(-1, choices)
    return scores[:, 0] > scores[:, 1:].amax(-1)


def training_rows(graph: KnowledgeGraph, config: RunConfig) -> NDArray[np.int64]:
    """Training triples drawn with replacement, as tokens `[n_rows, 4]`."""
    n_rows = config.trainer.n_steps * config.trainer.batch_size
    drawn = np.random.default_rng(config.seed).integers(len(graph.train), size=n_rows)
    return graph.rows(graph.train)[drawn]


EARLY = 0.25
"""Share of the steps in which sparsity is to peak. ours"""


def distance_of(n_eval: int) -> NDArray[np.int64]:
    """How far each item of the compared splits is from training: 0, 1, 2."""
    return np.repeat(np.arange(len(COMPARED)), n_eval)


@dataclass(frozen=True, kw_only=True)
class TripleReadings(Readings):
    """Readings of triples; groups are splits, and `compared`."""

    def per_item(self, *given: str) -> float:
        """Rank correlation of distance and sparsity over items at the end, given series."""
        y, *others = (self.series(name)[-1][self.groups["compared"]] for name in ("none", *given))
        return rank_correlation(distance_of(len(y) // len(COMPARED)), y, *others)

    def peak_over(self, when: int) -> float:
        """The early peak of training triples' sparsity minus that at a checkpoint.

        The peak is the highest checkpoint after the start and within the first quarter of the steps. It is chosen on every other triple and
        read on the rest, and the other way round: a maximum read where it was chosen would lie above everything by chance alone.
        NaN without such a checkpoint, or with one triple.
        """
        early = [i for i, step in enumerate(self.steps) if 0 < step <= EARLY * self.steps[-1]]
        values = self.series("none")[:, self.groups["id deducible"]]
        halves = values[:, ::2].mean(1), values[:, 1::2].mean(1)
        if not early or values.shape[1] < 2:
            return nan
        differences = [read[early[chosen[early].argmax()]] - read[when] for chosen, read in (halves, halves[::-1])]
        return float(np.mean(differences))

    def together(self) -> float:
        """Correlation of the curves of training and hard triples."""
        return float(np.corrcoef(self.over_time("none", "id deducible"), self.over_time("none", "hard"))[0, 1])


@dataclass(frozen=True, kw_only=True)
class GraphResult(StageResult):
    """What one training leaves besides its readings."""

    n_out: Mapping[str, int]
    """Triples of each split before relations were matched."""
    tracker_seconds: float


@dataclass(frozen=True, kw_only=True)
class KnowledgeGraphStudy(WorldStudy[TripleReadings]):
    """A graph per seed."""

    question = "Do representations get sparser on triples farther from the training distribution?"
    hypotheses = (
        *both_gains("hard", "positive", "hard triples are sparser than deducible training triples", lambda r, c: r.gap(c, "hard", "id deducible")),
        *both_gains("medium", "positive", "medium triples are sparser than deducible training triples", lambda r, c: r.gap(c, "medium", "id deducible")),
        correlation("per item", "positive", "farther triples are sparser, item by item (Spearman)", lambda r: r.per_item()),
        correlation("per item given loss", "positive", "farther triples are sparser, item by item, given the loss (partial Spearman)", lambda r: r.per_item("loss")),
        sparsity("peak over init", "positive", f"sparsity of training triples rises early in training: the peak of its first {EARLY:.0%} less the start", lambda r: r.peak_over(0)),
        sparsity("peak over end", "positive", "sparsity of training triples comes back from that peak: less the end", lambda r: r.peak_over(-1)),
        Hypothesis(key="together", expected="positive", claim="the curves of training and hard triples move together over training (correlation)", effect=TripleReadings.together, unit="r", margin=R_MARGIN),
        sparsity("atomic", "none", "control: atomic training triples are as sparse as deducible ones", lambda r: r.gap("none", "id atomic", "id deducible")),
        sparsity("at init", "none", "control: hard and training triples do not differ at initialisation", lambda r: r.gap("none", "hard", "id deducible", when=0)),
        sparsity("rotated", "none", "control: hard and training triples do not differ in a random basis", lambda r: r.gap("rotated", "hard", "id deducible")),
        sparsity("trimmed", "positive", "control: the difference survives without the strongest 1% of channels", lambda r: r.gap("trimmed", "hard", "id deducible")),
    )  # fmt: skip
    rulings = (
        Ruling(
            name="farther, sparser",
            statement="the farther from the training triples, the sparser",
            needs=("hard", "hard, gain", "medium", "medium, gain"),
        ),
        Ruling(
            name="beyond loss",
            statement="distance makes sparser beyond what the loss tells",
            needs=("per item given loss",),
        ),
        Ruling(
            name="rise and return",
            statement="sparsity peaks early and comes back, of all splits together",
            needs=("peak over init", "peak over end", "together"),
        ),
    )
    as_first = ("hard", "between hard and training triples")
    result = GraphResult

    graph: GraphConfig

    @property
    def steps(self) -> tuple[int, ...]:
        return log_spaced_steps(self.config.trainer.n_steps, self.rules.n_checkpoints)

    def tracker(self) -> TrackerConfig:
        """The run's tracker at log-spaced steps and at the position that predicts the object."""
        return replace(
            self.config.ood.tracker,
            every_n_steps=self.config.trainer.n_steps,
            at_steps=self.steps,
            positions="last",
            n_windows=self.graph.n_eval,
        )

    def method(self) -> tuple[str, ...]:
        sizes = self.graph
        return (
            f"A graph of {sizes.n_entities} entities and {sizes.n_relations} relations grown under {sizes.n_rules_used} acyclic "
            f"chain rules; {sizes.n_train} training triples, half of them deducible, drawn with replacement. Left out and "
            f"still derivable: medium (three training triples or more needed) and hard (two). {sizes.n_eval} triples of each split, "
            f"with the same relations equally often. Single tokens; all prompts are [subject, relation, ask].",
            f"Read at the last token, at {FINAL}, before and after its gain; the {HEADLINE} of a Gaussian vector is .414, "
            f"more is sparser. Accuracy: gold against {sizes.n_choices - 1} random entities that are no answer.",
            "One number per seed and claim; every seed has a graph of its own. Intervals are Student's t over seeds.",
        )

    def gates(self) -> Gates[TripleReadings]:
        words = f"{self.graph.n_choices}-way accuracy on training triples at the end"
        return [gate("recall", words, number(0.9, "fraction"), lambda r: r.mean("correct", "trained"))]

    def config_of(self, arm: str, seed: int) -> RunConfig:
        return self.sized(arm, seed, d_vocab=self.graph.d_vocab)

    def inputs(self, config: RunConfig) -> Mapping[str, object]:
        tracker = self.tracker() if self.config.ood.enabled else None
        return {**config.recipe.key(), "graph": self.graph, "steps": self.steps, "tracker": tracker}

    def work(self, config: RunConfig, folder: Path) -> GraphResult:
        graph = graph_of(self.graph, config.seed)
        prompts, choices = prompts_of(graph, SPLITS)
        reader = item_reader(prompts, config.model.n_layer, lambda logits: is_gold_first(logits, choices))
        tracker = SparsityTracker(self.tracker(), as_splits(graph), folder / "ood_sparsity.csv")
        watchers = [tracker] if config.ood.enabled else []
        rows = training_rows(graph, config)
        _, weights = train_arm(config, rows, folder, self.steps, {"items": reader}, watchers=watchers)
        reader.save(folder / "items.npz")
        return GraphResult(weights_sha256=weights, n_out=graph.n_out, tracker_seconds=tracker.seconds)

    def load(self, folder: Path, subject: Subject, seed: int) -> TripleReadings:
        n = self.graph.n_eval
        groups = {**split_groups(SPLITS, n), "trained": slice(2 * n), "compared": slice(n, None)}
        return TripleReadings.load(folder / "items.npz", groups=groups)

    def sections(
        self, run_dir: Path, results: Mapping[str, StageResult], section: StudySection
    ) -> Mapping[str, object]:
        if not self.config.ood.enabled:
            return {}
        arm, seed = self.arms[0], self.seeds[0]
        model = Transformer(self.config_of(arm, seed).model)
        table = run_dir / self.folder(arm, seed) / "ood_sparsity.csv"
        splits = as_splits(graph_of(self.graph, seed))
        return {"representation": table_section(table, splits, self.tracker(), model=model)}

    def figures(self, read: Mapping[Subject, Sequence[TripleReadings]]) -> Sequence[Figure]:
        shown = (
            ("correct", "correct", "Ten-way accuracy", "accuracy"),
            ("none", "gini", f"{HEADLINE} at the last token", HEADLINE),
            ("loss", "loss", "Loss of the object", "loss, nats"),
        )
        width = self.config.model.d_model
        return [
            over_training(f"{arm}_{key}", f"{title}, arm {arm}", label, series, SPLITS, runs, width)
            for arm, runs in ((subject.arm, runs) for subject, runs in read.items())
            for series, key, title, label in shown
            if arm == self.arms[0] or series != "loss"
        ]

    def tables(
        self, read: Mapping[Subject, Sequence[TripleReadings]], results: Mapping[str, StageResult]
    ) -> Sequence[ResultTable]:
        rows = []
        for seed in self.seeds:
            result = results[self.folder(self.arms[0], seed)]
            assert isinstance(result, GraphResult)
            rows.append((str(seed), *(number(result.n_out[name], "triples") for name in SPLITS)))
        controls = "controls: none, with the gain, random basis, without the strongest 1% of channels"
        return (
            groups_table("Every split at the end", "split", "accuracy", SPLITS, read, SPLITS_NOTE),
            points_table("Hard minus deducible training triples", "hard", "id deducible", read, controls),
            ResultTable(
                title="The graphs: triples of each split before relations were matched",
                columns=("seed", *SPLITS),
                rows=tuple(rows),
                note=f"{self.graph.n_eval} of each are read, with the same number of each relation",
            ),
        )
