"""The farther the shift, the sparser? A model pretrained on a knowledge graph, read on what it was and was not trained on.

All splits have the same relations equally often and prompts that end in the same token. Training triples that are deducible are
compared with triples that are deducible and left out: `medium` (three training triples or more are needed) and `hard`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sparsetrain.data.worlds.knowledge_graph import SPLITS, KnowledgeGraph, draw_graph
from sparsetrain.model import Transformer
from sparsetrain.report import number
from sparsetrain.representation.measures import HEADLINE, gaussian_reference
from sparsetrain.representation.tracker import SparsityTracker, TrackerConfig, curves_for_report
from sparsetrain.run import RunConfig
from sparsetrain.stats.correlation import spearman
from sparsetrain.stats.decisions import DecisionRule
from sparsetrain.studies.arm import ArmRun, as_rows
from sparsetrain.studies.engine import Claim, Gate, Plan, Rule, Stage, StudyConfig, conclude, log_spaced_steps
from sparsetrain.studies.readings import (
    FINAL,
    RHO_MARGIN,
    Readings,
    Recorder,
    curve,
    read_points,
    seeds_number,
)

R_MARGIN = 0.5
"""Smallest correlation between the curves of two splits that counts as moving together. ours"""

WORDS = {
    "id atomic": "training triples that no rule gives",
    "id deducible": "training triples that also follow from others by the rules",
    "medium": "left out, the shortest derivation takes three training triples or more",
    "hard": "left out, the shortest derivation takes two training triples",
}


@dataclass(frozen=True, kw_only=True)
class TripleSplit:
    """Triples as windows of tokens, for the tracker."""

    name: str
    level: int
    tokens: Tensor
    description: str


def as_splits(graph: KnowledgeGraph) -> list[TripleSplit]:
    """The evaluated splits; both kinds of training triples are level 0."""
    return [
        TripleSplit(
            name=name, level=max(0, i - 1), tokens=as_rows(graph.rows(graph.splits[name])), description=WORDS[name]
        )
        for i, name in enumerate(SPLITS)
    ]


def is_gold_first(logits: Tensor, choices: Tensor) -> Tensor:
    """Whether the first choice has the largest logit: `[n, d_vocab]`, tokens `[n, n_choices]` -> bool `[n]`."""
    scores = logits.gather(-1, choices)
    return scores[:, 0] > scores[:, 1:].amax(-1)


def training_rows(graph: KnowledgeGraph, n_rows: int, seed: int) -> Tensor:
    """Training triples drawn with replacement, as tokens `[n_rows, 4]`."""
    drawn = np.random.default_rng(seed).integers(len(graph.train), size=n_rows)
    return as_rows(graph.rows(graph.train))[drawn]


@dataclass(frozen=True)
class KnowledgeGraphStudy:
    """The study of one config; see `sparsetrain.studies.run.Study`."""

    config: RunConfig

    @property
    def study(self) -> StudyConfig:
        return self.config.study

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.config.seed + i for i in range(self.study.n_seeds))

    @property
    def steps(self) -> tuple[int, ...]:
        return log_spaced_steps(self.config.trainer.n_steps, self.study.n_checkpoints)

    def tracker(self) -> TrackerConfig:
        """The run's tracker at log-spaced steps and at the position that predicts the object."""
        n_steps = self.config.trainer.n_steps
        return replace(
            self.config.ood.tracker,
            every_n_steps=n_steps,
            at_steps=self.steps,
            positions="last",
            n_windows=self.study.knowledge_graph.n_eval,
        )

    def plan(self) -> Plan:
        sizes, margin, agree = self.study.knowledge_graph, self.study.margin, self.study.n_agreeing
        first = next(iter(self.study.arms))
        claims: list[Claim] = []
        rules: list[Rule] = []
        positive, none = "positive", "none"
        rows: list[tuple[str, str, Any, float, str]] = [
            ("hard", "hard triples are sparser than deducible training triples (without gain)", positive, margin, HEADLINE),
            ("hard, gain", "hard triples are sparser than deducible training triples (with gain)", positive, margin, HEADLINE),
            ("medium", "medium triples are sparser than deducible training triples (without gain)", positive, margin, HEADLINE),
            ("medium, gain", "medium triples are sparser than deducible training triples (with gain)", positive, margin, HEADLINE),
            ("per item", "farther triples are sparser, item by item (Spearman)", positive, RHO_MARGIN, "rho"),
            ("per item given loss", "farther triples are sparser, item by item, given the loss (partial Spearman)", positive, RHO_MARGIN, "rho"),
            ("peak over init", "sparsity of training triples rises early in training", positive, margin, HEADLINE),
            ("peak over end", "sparsity of training triples comes back from its peak", positive, margin, HEADLINE),
            ("together", "the curves of training and hard triples move together over training (correlation)", positive, R_MARGIN, "r"),
            ("atomic", "control: atomic training triples are as sparse as deducible ones", none, margin, HEADLINE),
            ("at init", "control: hard and training triples do not differ at initialisation", none, margin, HEADLINE),
            ("rotated", "control: hard and training triples do not differ in a random basis", none, margin, HEADLINE),
            ("trimmed", "control: the difference survives without the strongest 1% of channels", positive, margin, HEADLINE),
        ]  # fmt: skip
        for arm in self.study.arms:
            extra = [("as first arm", f"the difference between hard and training triples is that of arm {first}", none, margin, HEADLINE)]  # fmt: skip
            claims += [
                Claim(
                    key=f"{arm}: {key}",
                    arm=arm,
                    criterion=DecisionRule(
                        claim=claim,
                        expected=expected,
                        margin=bound,
                        n_agreeing=None if expected == none else agree,
                    ),
                    unit=unit,
                )
                for key, claim, expected, bound, unit in rows + (extra if arm != first else [])
            ]
            verdicts = {
                "farther, sparser": (
                    "the farther from the training triples, the sparser",
                    ("hard", "hard, gain", "medium", "medium, gain"),
                ),
                "beyond loss": ("distance makes sparser beyond what the loss tells", ("per item given loss",)),
                "rise and return": (
                    "sparsity peaks early and comes back, of all splits together",
                    ("peak over init", "peak over end", "together"),
                ),
            }
            rules += [
                Rule(name=name, arm=arm, statement=statement, needs=tuple(f"{arm}: {key}" for key in needs))
                for name, (statement, needs) in verdicts.items()
            ]
        return Plan(
            question="Do representations get sparser on triples farther from the training distribution?",
            method=(
                f"A graph of {sizes.n_entities} entities and {sizes.n_relations} relations grown under {sizes.n_rules_used} acyclic "
                f"chain rules; {sizes.n_train} training triples, half of them deducible, drawn with replacement. Left out and "
                f"still derivable: medium (three training triples or more needed) and hard (two). {sizes.n_eval} triples of each split, "
                f"with the same relations equally often. Single tokens; all prompts are [subject, relation, ask].",
                f"Read at the last token, at {FINAL}, before and after its gain; the {HEADLINE} of a Gaussian vector is .414, "
                f"more is sparser. Accuracy: gold against {sizes.n_choices - 1} random entities that are no answer.",
                "One number per seed and claim; every seed has a graph of its own. Intervals are Student's t over seeds.",
            ),
            seeds=self.seeds,
            arms=tuple(self.study.arms),
            gates=(
                Gate(
                    key="recall",
                    words=f"{sizes.n_choices}-way accuracy on training triples at the end",
                    rule="at least",
                    bound=0.9,
                    unit="fraction",
                ),
            ),
            claims=tuple(claims),
            rules=tuple(rules),
        )

    def stages(self) -> list[Stage]:
        stages = []
        sizes = self.study.knowledge_graph
        for name in self.study.arms:
            for seed in self.seeds:
                run = self._arm(name, seed)
                inputs = {
                    **run.inputs(),
                    "graph": asdict(sizes),
                    "steps": self.steps,
                    "tracker": asdict(self.tracker()) if self.config.ood.enabled else None,
                }
                stages.append(Stage(name=f"{name}/seed_{seed}", inputs=inputs, run=_Training(self, run)))
        return stages

    def conclude(self, plan: Plan, results: Mapping[str, Mapping[str, Any]], run_dir: Path) -> dict[str, Any]:
        read = {
            arm: [Readings.load(run_dir / f"{arm}/seed_{seed}/items.npz") for seed in self.seeds]
            for arm in self.study.arms
        }
        effects: dict[str, list[float]] = {}
        for arm, seeds in read.items():
            for r in seeds:
                for key, value in self.effects(r).items():
                    effects.setdefault(f"{arm}: {key}", []).append(value)
        first = next(iter(self.study.arms))
        for arm in list(self.study.arms)[1:]:
            pairs = zip(effects[f"{arm}: hard"], effects[f"{first}: hard"], strict=True)
            effects[f"{arm}: as first arm"] = [a - b for a, b in pairs]
        n = self.study.knowledge_graph.n_eval
        recall = [float(r.correct[-1][: 2 * n].mean()) for seeds in read.values() for r in seeds]
        study = conclude(plan, gates={"recall": recall}, effects=effects)
        study["figures"] = self._figures(read)
        study["tables"] = [self._splits_table(read), self._points_table(read), self._graphs_table(results)]
        study["models"] = {name: result["weights_sha256"] for name, result in results.items()}
        if not self.config.ood.enabled:
            return {"study": study}
        folder = run_dir / f"{first}/seed_{self.seeds[0]}"
        model = Transformer(self._arm(first, self.seeds[0]).model_config)
        splits = as_splits(draw_graph(self.study.knowledge_graph, self.seeds[0]))
        curves = curves_for_report(folder / "ood_sparsity.csv", splits, self.tracker(), model=model)
        return {"study": study, "representation": curves}

    def _arm(self, name: str, seed: int) -> ArmRun:
        sizes = self.study.knowledge_graph
        n_steps = self.config.trainer.n_steps
        return ArmRun(config=self.config, arm=self.study.arms[name], seed=seed, d_vocab=sizes.d_vocab, n_steps=n_steps)

    def _items(self, split: str) -> slice:
        """Where a split's items stand in the readings."""
        n, i = self.study.knowledge_graph.n_eval, SPLITS.index(split)
        return slice(i * n, (i + 1) * n)

    def effects(self, r: Readings) -> dict[str, float]:
        """The number of each claim in one seed."""
        plain, gain = r.of("none"), r.of("gain")

        def gap(values: np.ndarray, a: str, b: str = "id deducible") -> float:
            return float(values[self._items(a)].mean() - values[self._items(b)].mean())

        compared = [self._items(name) for name in SPLITS[1:]]
        level = np.repeat(np.arange(3), self.study.knowledge_graph.n_eval)
        y, loss = (np.concatenate([values[-1][items] for items in compared]) for values in (plain, r.loss))
        over_time = {name: plain[:, self._items(name)].mean(1) for name in ("id deducible", "hard")}
        of_training = over_time["id deducible"]
        return {
            "hard": gap(plain[-1], "hard"),
            "hard, gain": gap(gain[-1], "hard"),
            "medium": gap(plain[-1], "medium"),
            "medium, gain": gap(gain[-1], "medium"),
            "per item": spearman(level, y, n_bootstrap=0, seed=0).value,
            "per item given loss": spearman(level, y, given=[loss], n_bootstrap=0, seed=0).value,
            "peak over init": float(of_training.max() - of_training[0]),
            "peak over end": float(of_training.max() - of_training[-1]),
            "together": float(np.corrcoef(of_training, over_time["hard"])[0, 1]),
            "atomic": gap(plain[-1], "id atomic"),
            "at init": gap(plain[0], "hard"),
            "rotated": gap(r.of("rotated")[-1], "hard"),
            "trimmed": gap(r.of("trimmed")[-1], "hard"),
        }

    def _figures(self, read: Mapping[str, Sequence[Readings]]) -> list[dict[str, Any]]:
        reference = gaussian_reference(self.config.model.d_model)[HEADLINE]
        figures = []
        for arm, runs in read.items():
            for array, title, label in (
                ("correct", "Ten-way accuracy", "accuracy"),
                ("none", f"{HEADLINE} at the last token", HEADLINE),
                ("loss", "Loss of the object", "loss, nats"),
            ):
                if arm != next(iter(read)) and array == "loss":
                    continue
                x = [math.log2(1 + step) for step in runs[0].steps]
                curves = [
                    curve(name, x, np.array([r.series(array)[:, self._items(name)].mean(1) for r in runs]))
                    for name in SPLITS
                ]
                figures.append(
                    {
                        "key": f"{arm}_{'gini' if array == 'none' else array}",
                        "title": f"{title}, arm {arm}",
                        "x_label": "log2(1 + step)",
                        "y_label": label,
                        "curves": curves,
                        "references": [{"label": "Gaussian", "value": reference}] if array == "none" else [],
                        "note": f"mean over {len(runs)} seeds, band: 95% t interval over seeds",
                    }
                )
        return figures

    def _splits_table(self, read: Mapping[str, Sequence[Readings]]) -> dict[str, Any]:
        arrays = (("correct", "fraction"), ("loss", "nats"), ("entropy", "nats"), ("logit_norm", "l2"), ("none", HEADLINE), ("gain", HEADLINE))  # fmt: skip
        rows = [
            [arm, name, *(seeds_number([float(r.series(array)[-1][self._items(name)].mean()) for r in seeds], unit) for array, unit in arrays)]
            for arm, seeds in read.items()
            for name in SPLITS
        ]  # fmt: skip
        return {
            "title": "Every split at the end",
            "columns": ["arm", "split", "accuracy", "loss", "entropy", "logit norm", f"{HEADLINE}, without gain", f"{HEADLINE}, with gain"],
            "rows": rows,
            "note": "; ".join(f"{name}: {words}" for name, words in WORDS.items()),
        }  # fmt: skip

    def _points_table(self, read: Mapping[str, Sequence[Readings]]) -> dict[str, Any]:
        rows = []
        for arm, seeds in read.items():
            for point, control, measure in seeds[0].values:
                last = [r.values[point, control, measure][-1] for r in seeds]
                gaps = [float(v[self._items("hard")].mean() - v[self._items("id deducible")].mean()) for v in last]
                rows.append([arm, point, control, measure, seeds_number(gaps, measure)])
        return {
            "title": "Hard minus deducible training triples at the end, everywhere (exploratory: no verdict rests on it)",
            "columns": ["arm", "hook point", "control", "measure", "difference"],
            "rows": rows,
            "note": "controls: none, with the gain, random basis, without the strongest 1% of channels",
        }

    def _graphs_table(self, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        first = next(iter(self.study.arms))
        rows = []
        for seed in self.seeds:
            found = results[f"{first}/seed_{seed}"]["n_out"]
            rows.append([str(seed), *(number(found[name], "triples") for name in SPLITS)])
        return {
            "title": "The graphs: triples of each split before relations were matched",
            "columns": ["seed", *SPLITS],
            "rows": rows,
            "note": f"{self.study.knowledge_graph.n_eval} of each are read, with the same number of each relation",
        }


@dataclass(frozen=True)
class _Training:
    """The work of a stage: draw the graph, train one arm, watch and read all splits at log-spaced steps."""

    study: KnowledgeGraphStudy
    run: ArmRun

    def __call__(self, folder: Path) -> dict[str, Any]:
        sizes, trainer = self.study.study.knowledge_graph, self.run.config.trainer
        graph = draw_graph(sizes, self.run.seed)
        splits = as_splits(graph)
        prompts = torch.cat([split.tokens for split in splits])
        choices = 1 + as_rows(np.concatenate([graph.choices[name] for name in SPLITS]))

        recorder = Recorder(
            prompts, read_points(self.run.config.model.n_layer), lambda logits: is_gold_first(logits, choices)
        )
        tracker = SparsityTracker(self.study.tracker(), splits, folder / "ood_sparsity.csv")
        watchers = [tracker] if self.run.config.ood.enabled else []
        rows = training_rows(graph, self.run.n_steps * trainer.batch_size, self.run.seed)
        _, meta = self.run.train(rows, folder, self.study.steps, recorder, watchers=watchers)
        recorder.save(folder / "items.npz")
        return {
            "weights_sha256": meta["weights_sha256"],
            "n_out": dict(graph.n_out),
            "tracker_seconds": tracker.seconds,
        }
