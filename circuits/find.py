"""From a task's name to its circuits with their evidence.

1. Pairs: train (pruning), fit (calibration of the full and the empty model), val (bisection, clean-up, calibration of
   circuits), heldout (everything reported). Disjoint; names differ between train, val and held-out.
2. Gate: the full model, calibrated on fit, must meet the target on held-out pairs. Pruning to a loss that the model
   does not reach would manufacture behaviour. If the empty circuit meets the target too, the task is 'bigram'.
3. Search: all seeds and the nonsense twin in one batch (`circuits.search.search`), towards a stricter loss on val, and no worse on
   train, whose names differ from val's.
4. Evidence on held-out pairs (`circuits.evidence`), a saved `Circuit` per seed, plain data for the report.

One file, because `verify_report.py` walks the same steps over saved circuits: what it recomputes is what is written here.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.circuit import Circuit, Provenance, pair_answers
from circuits.edges import count_biases, count_edges, find_edges
from circuits.evidence.effect import necessity
from circuits.evidence.random_circuits import random_circuits, random_losses
from circuits.explain.graph import drawing
from circuits.intervals import interval
from circuits.masks import NodeSpace
from circuits.means import Means
from circuits.search.edge_pruning import prune_edges
from circuits.search.learn import (
    Progress,
    PruneConfig,
    Run,
    calibrated_loss,
    masked_answers,
)
from circuits.search.search import Pruned, search
from circuits.search.tune import tuned
from circuits.tasks import PairSet, build_pairs, get_task
from circuits.tasks.loss import (
    TASK_LOSS_CONVENTION,
    Calibration,
    logit_diff,
    pair_accuracy,
    pair_task_loss,
    task_loss,
)
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.model import Transformer
from sparsetrain.report import number
from sparsetrain.stats.sets import jaccard
from sparsetrain.store import write_atomic
from sparsetrain.typed import plain

TWIN = "nonsense_twin"
"""Folder of its circuit, and its key in a task's entry of the report."""
RANDOM_NOTE = (
    "same number of nodes at every hook point, drawn from channels alive in pretraining text; same calibration"
)


@dataclass(frozen=True, kw_only=True)
class FindConfig:
    """How circuits are looked for and judged. All numbers are ours where `PruneConfig` does not say otherwise."""

    target_loss: float = 0.15
    """Task loss to reach, nats (paper, section 2.2)."""
    margin: float = 0.85
    """The search aims at margin * target_loss on its own pairs, so that held-out pairs meet the target too."""
    gate: bool = True
    """False prunes even where the model fails, to the loss that it has: for smoke tests, and the report says so."""
    seeds: tuple[int, ...] = (0, 1)
    settle: tuple[float, ...] = (0.6, 1.0)
    """Grid of prices: each seed searches once per entry, all in one batch, and keeps its smallest circuit. An entry is the loss
    at which the price of a node settles, as a multiple of the search's aim."""
    trials: int = 0
    """Optuna trials per task (and per nonsense twin) over the search's hyperparameters, instead of the grid; 0: the grid. Each
    trial is a search; needs the extra `search`."""
    nonsense_twin: bool = True
    prune_edges: bool = False
    """Also drop weights of each task's smallest circuit that can be spared (an edge circuit, saved beside it). It takes from
    seconds to a minute or two a task."""
    n_train: int = 128
    n_fit: int = 32
    n_val: int = 32
    n_heldout: int = 64
    pair_seed: int = 0
    max_tokens: int = 32
    """Longest prompt, document separator included."""
    n_random: int = 100
    n_random_pairs: int = 16
    """Pairs of val and of heldout on which random circuits (and the circuit beside them) are calibrated and scored."""
    n_random_necessity: int = 10
    n_boot: int = 1000
    batch_size: int = 64
    """Pairs per pass when a saved circuit is evaluated; part of the recorded number."""
    prune: PruneConfig = field(default_factory=PruneConfig)

    def __post_init__(self) -> None:
        if not self.settle or not all(0 < settle <= 1 for settle in self.settle):
            raise ValueError(f"circuits.settle={list(self.settle)} must be numbers in (0, 1], at least one")
        if self.trials < 0:
            raise ValueError(f"circuits.trials={self.trials} must be 0 (the grid) or more")
        for name in ("n_train", "n_fit", "n_val", "n_heldout", "n_random", "n_random_pairs", "n_boot", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"circuits.{name}={getattr(self, name)} must be at least 1")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"circuits.seeds={list(self.seeds)} must be at least one seed, each once")
        if not self.target_loss > 0:
            raise ValueError(f"circuits.target_loss={self.target_loss} must be above 0")
        if not 0 < self.margin <= 1:
            raise ValueError(f"circuits.margin={self.margin} must lie in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The four disjoint pair sets of a task."""

    train: PairSet
    fit: PairSet
    val: PairSet
    heldout: PairSet

    @classmethod
    def build(cls, task: str, tokenizer: Tokenizer, config: FindConfig, twin: Any = None) -> "Pairs":
        """Pairs of a task (or of its twin: the same prompts), a function of the config."""

        def pairs(split: Any, n: int) -> PairSet:
            return build_pairs(task, tokenizer, split, n, config.pair_seed, twin=twin, max_tokens=config.max_tokens)

        val = pairs("val", config.n_fit + config.n_val)
        return cls(
            train=pairs("train", config.n_train),
            fit=val.batch(slice(0, config.n_fit)),
            val=val.batch(slice(config.n_fit, None)),
            heldout=pairs("heldout", config.n_heldout),
        )


def heldout_pairs(circuit: Circuit, tokenizer: Tokenizer) -> PairSet:
    """The held-out pairs on which a saved circuit's task loss was reported."""
    config = circuit.provenance.config
    return build_pairs(
        circuit.task,
        tokenizer,
        "heldout",
        config["n_heldout"],
        config["pair_seed"],
        max_tokens=config["max_tokens"],
    )


def find_circuits(
    model: Transformer,
    tasks: Sequence[str],
    tokenizer: Tokenizer,
    means: Means,
    config: FindConfig,
    *,
    out_dir: Path,
    on_task: Callable[[str, dict[str, Any]], None] | None = None,
    progress: Callable[[str, str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Finds the circuits of several tasks; a task done before (same config, same weights) is read from disk.

    Args:
        out_dir: gets `<task>/circuit.json`, `circuit.safetensors` (the smallest circuit), `seed_<n>/` (the others),
            `nonsense_twin/` and `result.json`.
        on_task: called with (task, result) as each task is done.
        progress: called with (task, stage, done, total).

    Returns:
        The `circuits` section of report.json.

    Raises:
        ValueError: an unknown task, before anything is searched.
    """
    names = [get_task(task).name for task in tasks]
    key = {"config": json.loads(json.dumps(asdict(config))), "weights_sha256": means.weights_sha256}
    results = []
    for name in names:
        path = out_dir / name / "result.json"
        saved = json.loads(path.read_text()) if path.is_file() else {}
        if saved.get("key") == key:
            result = saved["result"]
        else:
            for stale in [*path.parent.rglob("circuit.*")]:
                stale.unlink()  # of a search with other settings or weights
            report = None if progress is None else _named(progress, name)
            result = find_circuit(model, name, tokenizer, means, config, out_dir=out_dir, progress=report)
            write_atomic(path, (json.dumps({"key": key, "result": result}, indent=1) + "\n").encode())
        results.append(result)
        if on_task is not None:
            on_task(name, result)
    return {
        "definitions": definitions(means),
        "target_loss": config.target_loss,
        "gates": "on" if config.gate else "off",
        "tasks": results,
    }


def definitions(means: Means) -> dict[str, Any]:
    """What the numbers of the section mean."""
    return {
        "task_loss": TASK_LOSS_CONVENTION,
        "ablation": "mean",
        "kind": "node circuit",
        "means": {"n_tokens": means.n_tokens, "source": means.source},
        "random": RANDOM_NOTE,
    }


def find_circuit(
    model: Transformer,
    task: str,
    tokenizer: Tokenizer,
    means: Means,
    config: FindConfig,
    *,
    out_dir: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Searches one task and returns its entry of report.json; circuits are saved under `out_dir/<task>/`.

    Raises:
        ValueError: an unknown task, or means of another model.
    """
    chosen = get_task(task)
    pairs = Pairs.build(chosen.name, tokenizer, config)
    twin = Pairs.build(chosen.name, tokenizer, config, twin="nonsense") if config.nonsense_twin else None
    return find_in_pairs(
        model, chosen.name, chosen.description, pairs, twin, means, config, tokenizer.token, out_dir, progress
    )


def find_in_pairs(
    model: Transformer,
    name: str,
    description: str,
    pairs: Pairs,
    twin: Pairs | None,
    means: Means,
    config: FindConfig,
    token: Callable[[int], str],
    out_dir: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """`find_circuit` for pairs that are there already: any behaviour that can be put into pairs.

    Args:
        twin: the same prompts with unrelated answers, or None.
        token: id -> readable text.

    Raises:
        ValueError: means of another model.
    """
    space = NodeSpace.of(model)
    if space != means.space:
        raise ValueError(f"the means are of a model with {means.space.n_nodes} nodes, this one has {space.n_nodes}")
    return Finder(model, name, description, pairs, twin, means, config, token, out_dir, progress).run()


def seeds_note(circuits: Sequence[Circuit]) -> str:
    """Says that other circuits exist where seeds found several that meet the target; empty where they agree.

    Args:
        circuits: those that meet the target, the smallest first.
    """
    if len({frozenset(circuit.node_ids) for circuit in circuits}) < 2:
        return ""
    best = circuits[0]
    equal = [circuit for circuit in circuits if circuit.n_edges == best.n_edges]
    if len({frozenset(circuit.node_ids) for circuit in equal}) > 1:
        shared = set.intersection(*(set(circuit.node_ids) for circuit in equal))
        return f"other circuits of this size exist: seeds share only {len(shared)} of {best.n_nodes} nodes"
    shared = set.intersection(*(set(circuit.node_ids) for circuit in circuits))
    return f"seeds found other, larger circuits: they share {len(shared)} of the smallest one's {best.n_nodes} nodes"


class Finder:
    """One task's search; holds what its steps share. `scripts/verify_report.py` puts saved circuits in its place."""

    def __init__(
        self,
        model: Transformer,
        name: str,
        description: str,
        pairs: Pairs,
        twin: Pairs | None,
        means: Means,
        config: FindConfig,
        token: Callable[[int], str],
        out_dir: Path | None,
        progress: Progress | None,
    ) -> None:
        self.model, self.name, self.description, self.token = model, name, description, token
        self.pairs, self.twin, self.means, self.config = pairs, twin, means, config
        self.space, self.values = means.space, means.values
        self.folder = None if out_dir is None else out_dir / name
        self.progress = progress
        self.max_rows = config.prune.max_rows
        self.some_val = self.pairs.val.batch(slice(0, config.n_random_pairs))
        self.some_heldout = self.pairs.heldout.batch(slice(0, config.n_random_pairs))

    def run(self) -> dict[str, Any]:
        start = time.perf_counter()
        full, full_fit = self._calibrated(None)
        empty, empty_fit = self._calibrated(torch.zeros(self.space.n_nodes, dtype=torch.bool))
        losses = [float(task_loss(fit.apply(x))) for x, fit in ((full, full_fit), (empty, empty_fit))]
        passed = losses[0] <= self.config.target_loss
        result: dict[str, Any] = {
            "task": self.name,
            "description": self.description,
            "status": "failed_by_model",
            "gate": {
                "passed": passed,
                "accuracy": self._accuracy(full_fit.apply(full)),
                "loss": self._loss(full_fit.apply(full)),
                "loss_uncalibrated": self._loss(full),
                "scale": number(float(full_fit.scale), "factor", n=self.config.n_fit),
            },
            "empty": {"loss": self._loss(empty_fit.apply(empty))},
            "rejected": dict(self.pairs.heldout.rejected),
            "example": self._example(),
            "circuits": [],
        }
        is_bigram = losses[1] <= self.config.target_loss
        if passed and is_bigram:
            result["status"] = "bigram"
        elif passed or not self.config.gate:
            self._search(result, full, full_fit, empty, empty_fit)
        result["seconds"] = number(time.perf_counter() - start, "s", "measured")
        return result

    def _search(
        self, result: dict[str, Any], full: Tensor, full_fit: Calibration, empty: Tensor, empty_fit: Calibration
    ) -> None:
        target = self.config.margin * self.config.target_loss
        if not result["gate"]["passed"]:
            loss, _ = calibrated_loss(pair_answers(self.model, self.pairs.val, self.config.batch_size))
            target = max(target, float(loss) + 0.01)
            result["note"] = "gate off: pruned to the loss that the model has on the search's pairs"
        pruned, twin = self.best(target)
        found = [
            (seed, p, self.circuit(seed, p)) for seed, p in zip(self.config.seeds, pruned, strict=True) if p.reached
        ]
        scored = []
        for i, (seed, p, circuit) in enumerate(found):
            if self.progress is not None:
                self.progress("evidence", i, len(found))
            scored.append((circuit, self._evidence(seed, p, circuit, full, full_fit, empty, empty_fit)))
        limit = self.config.target_loss
        scored.sort(key=lambda entry: (entry[1]["task_loss"]["value"] > limit, entry[0].n_edges, entry[0].n_nodes))
        for i, (circuit, entry) in enumerate(scored):
            name = "." if i == 0 else f"seed_{circuit.provenance.seed}"
            if self.folder is not None:
                circuit.save(self.folder / name)
            entry["path"] = self.path(name)
            result["circuits"].append(entry)
        if self.config.prune_edges and scored:
            scored[0][1]["edge_circuit"] = self._edge_circuit(scored[0][0], target)
        reached = any(entry["task_loss"]["value"] <= limit for _, entry in scored)
        if result["gate"]["passed"]:
            result["status"] = "circuit" if reached else "no_circuit"
        sets = [set(circuit.node_ids) for circuit, _ in scored]
        core = set.intersection(*sets) if sets else set()
        result["seeds"] = {
            "jaccard_nodes": number(jaccard(sets), "fraction", n=len(sets)),
            "core_nodes": sorted(core, key=self.space.number),
            "note": seeds_note([circuit for circuit, entry in scored if entry["task_loss"]["value"] <= limit]),
        }
        if self.twin is not None:
            assert twin is not None
            result[TWIN] = self._twin(twin, self.twin)
            if twin.reached and self.folder is not None:
                self.circuit(self.config.seeds[0], twin).save(self.folder / TWIN)

    def best(self, target: float) -> tuple[list[Pruned], Pruned | None]:
        """The best of every seed's trials, and of the nonsense twin's, which gets as many.

        Args:
            target: calibrated task loss on the validation pairs, nats.
        """
        config, n_seeds = self.config, len(self.config.seeds)
        wanted = [(self.pairs, seed) for seed in config.seeds]
        if self.twin is not None:
            wanted.append((self.twin, config.seeds[0]))
        if config.trials:
            best = [self._tuned(pairs, seed, target) for pairs, seed in wanted]
        else:
            runs = [
                Run(seed=seed, train=pairs.train, val=pairs.val, settle=settle)
                for pairs, seed in wanted
                for settle in config.settle
            ]
            pruned = search(self.model, self.space, self.values, runs, target, config.prune, self.progress)
            n = len(config.settle)
            best = [self._smallest(pruned[i : i + n]) for i in range(0, len(pruned), n)]
        return best[:n_seeds], best[n_seeds] if self.twin is not None else None

    def _tuned(self, pairs: Pairs, seed: int, target: float) -> Pruned:
        def once(settings: PruneConfig, settle: float) -> Pruned:
            run = Run(seed=seed, train=pairs.train, val=pairs.val, settle=settle)
            return search(self.model, self.space, self.values, [run], target, settings, self.progress)[0]

        return tuned(once, self._cost, self.config.prune, self.config.trials, seed)

    def _cost(self, pruned: Pruned) -> float:
        """Edges of a circuit that meets the aim; more than any circuit has, growing with the loss, of one that does not."""
        if pruned.reached:
            return float(count_edges(self.model, self.space, pruned.keep))
        return float(sum(weights.numel() for weights in self.model.parameters())) * (1 + pruned.loss)

    def _smallest(self, pruned: Sequence[Pruned]) -> Pruned:
        return min(pruned, key=self._cost)

    def path(self, name: str) -> str:
        """A circuit's place in the run's folder."""
        return "/".join(["circuits", self.name, *([] if name == "." else [name]), "circuit.json"])

    def _edge_circuit(self, circuit: Circuit, target: float) -> dict[str, Any]:
        """The circuit with fewer weights, saved beside it: its entry of the report."""
        pruned = prune_edges(
            self.model,
            self.space,
            circuit.keep,
            circuit.edges,
            self.values,
            self.pairs.val,
            target,
            self.config.prune,
            self.progress,
        )
        smaller = replace(circuit, edges=pruned.edges, calibration=pruned.calibration)
        if self.folder is not None:
            smaller.save(self.folder / "edges")
        ends = {end for edge in pruned.edges for end in (edge.source, edge.target)}
        return {
            "path": self.path("edges"),
            "n_nodes": number(len(ends), "nodes", note="nodes at the end of a kept edge"),
            "n_edges": number(smaller.n_edges, "edges"),
            "reached": pruned.loss <= target,
            "task_loss": self._loss(smaller.answers(self.model, self.pairs.heldout, "edge", self.config.batch_size)),
            "val_loss": number(pruned.loss, "nats", n=self.config.n_val),
        }

    def _calibrated(self, keep: Tensor | None) -> tuple[Tensor, Calibration]:
        """Held-out answer logits of the full model (None) or a node circuit, and its calibration on the fit pairs."""
        if keep is None:
            fit, heldout = (
                pair_answers(self.model, pairs, self.config.batch_size)
                for pairs in (self.pairs.fit, self.pairs.heldout)
            )
        else:
            fit, heldout = (
                masked_answers(self.model, self.space, keep[None], self.values, [pairs], self.max_rows)[0]
                for pairs in (self.pairs.fit, self.pairs.heldout)
            )
        return heldout, calibrated_loss(fit)[1]

    def circuit(self, seed: int, pruned: Pruned) -> Circuit:
        """What a search found, as a circuit with its provenance."""
        return Circuit(
            task=self.name,
            nodes=self.space.nodes(pruned.keep),
            edges=tuple(find_edges(self.model, self.space, pruned.keep)),
            space=self.space,
            means=self.values,
            calibration=pruned.calibration,
            provenance=Provenance(
                weights_sha256=self.means.weights_sha256,
                seed=seed,
                config=json.loads(json.dumps(asdict(self.config))),
                loss_convention=TASK_LOSS_CONVENTION,
                means_source=self.means.source,
                means_n_tokens=self.means.n_tokens,
            ),
        )

    def _evidence(
        self,
        seed: int,
        pruned: Pruned,
        circuit: Circuit,
        full: Tensor,
        full_fit: Calibration,
        empty: Tensor,
        empty_fit: Calibration,
    ) -> dict[str, Any]:
        """One circuit's entry of the report."""
        config, heldout, keep = self.config, self.pairs.heldout, pruned.keep
        answers, edge_answers = (
            circuit.answers(self.model, heldout, kind, config.batch_size) for kind in ("node", "edge")
        )
        zeroed = masked_answers(
            self.model, self.space, keep[None], torch.zeros_like(self.values), [heldout], self.max_rows
        )[0]
        random = random_circuits(self.space, keep, self.means.alive, config.n_random, seed)
        losses = random_losses(
            self.model,
            self.space,
            torch.cat([keep[None], random]),
            self.values,
            self.some_val,
            self.some_heldout,
            self.max_rows,
        ).tolist()

        def without(sets: Tensor, on: PairSet) -> Tensor:
            return masked_answers(self.model, self.space, ~sets, self.values, [on] * len(sets), self.max_rows)

        answers_without, some = without(keep[None], heldout), self.some_heldout
        needed = necessity(full, empty, answers_without)
        random_without = without(random[: config.n_random_necessity], some)
        random_needed = necessity(full[: len(some)], empty[: len(some)], random_without) or [float("nan")]
        random_needed = torch.tensor(random_needed, dtype=torch.float64)
        scale, shift = float(circuit.calibration.scale), float(circuit.calibration.shift)
        passes = [
            ("full model", full, full_fit),
            ("circuit: the rest at its mean", answers, None),
            ("circuit: the rest at zero", zeroed, circuit.calibration),
            ("edge circuit: deleted edges carry means", edge_answers, None),
            ("full model without the circuit", answers_without[0], full_fit),
            ("empty circuit", empty, empty_fit),
        ]
        n_pairs = config.n_random_pairs
        return {
            "seed": seed,
            "path": "",
            "n_nodes": number(circuit.n_nodes, "nodes", seed=seed),
            "n_edges": number(circuit.n_edges, "edges", seed=seed),
            "task_loss": self._loss(answers),
            "val_loss": number(pruned.loss, "nats", n=config.n_val),
            "accuracy": self._accuracy(answers),
            "edge_task_loss": self._loss(edge_answers),
            "calibration": {"scale": scale, "shift": shift},
            "necessity": number(needed[0] if needed else None, "fraction", n=len(heldout)),
            "necessity_random": {
                "mean": number(float(random_needed.mean()), "fraction", n=n_pairs, seed=seed),
                "hi": number(float(random_needed.max()), "fraction", n=n_pairs, seed=seed),
                "n": config.n_random_necessity,
            },
            "random": {
                "n": config.n_random,
                "n_beaten": number(sum(losses[0] < loss for loss in losses[1:]), "circuits", seed=seed, n=n_pairs),
                "circuit_loss": number(losses[0], "nats", n=n_pairs),
                "losses": losses[1:],
                "note": RANDOM_NOTE,
            },
            "biases": number(count_biases(self.model, self.space, keep), "biases"),
            "graph": plain(drawing(self.model, circuit, pruned.removal_loss, self.token)),
            "ablations": [self._ablation(*entry) for entry in passes],
        }

    def size_and_loss(self, circuit: Circuit, val_loss: float) -> dict[str, Any]:
        """The numbers of a node circuit that stands beside others."""
        answers = circuit.answers(self.model, self.pairs.heldout, "node", self.config.batch_size)
        return {
            "n_nodes": number(circuit.n_nodes, "nodes"),
            "n_edges": number(circuit.n_edges, "edges"),
            "task_loss": self._loss(answers),
            "val_loss": number(val_loss, "nats", n=self.config.n_val),
        }

    def _ablation(self, name: str, answers: Tensor, calibration: Calibration | None) -> dict[str, Any]:
        calibrated = answers if calibration is None else calibration.apply(answers)
        n = len(self.pairs.heldout)
        return {
            "name": name,
            "loss": number(float(task_loss(calibrated)), "nats", n=n),
            "logit_diff": number(float(logit_diff(calibrated)), "logits", n=n),
        }

    def _twin(self, pruned: Pruned, twin: Pairs) -> dict[str, Any]:
        """The nonsense twin's entry: how large a circuit for unrelated answers the same search finds.

        What misses the target is in no file (it may be most of the model), so its loss is marked as measured.
        """
        answers = masked_answers(self.model, self.space, pruned.keep[None], self.values, [twin.heldout], self.max_rows)
        loss = float(task_loss(pruned.calibration.apply(answers[0])))
        words = [side.answer for side in (twin.heldout.texts[0].positive, twin.heldout.texts[0].negative)]
        size = pruned.keep if pruned.reached else None
        status = "recomputable" if pruned.reached else "measured"
        return {
            "path": self.path(TWIN) if pruned.reached else "",
            "reached": pruned.reached,
            "n_nodes": number(None if size is None else int(size.sum()), "nodes", status),
            "n_edges": number(None if size is None else count_edges(self.model, self.space, size), "edges", status),
            "task_loss": number(loss, "nats", status, n=len(twin.heldout)),
            "note": f"answers {words[0]!r} and {words[1]!r}, same prompts, same search",
        }

    def _example(self) -> dict[str, str]:
        text = self.pairs.heldout.texts[0]
        return {
            "positive": text.positive.prompt,
            "negative": text.negative.prompt,
            "answer_positive": text.positive.answer,
            "answer_negative": f"not {text.positive.answer}" if text.rest else text.negative.answer,
        }

    def _loss(self, answers: Tensor) -> dict[str, Any]:
        return self._mean(pair_task_loss(answers), "nats", float(task_loss(answers)))

    def _accuracy(self, answers: Tensor) -> dict[str, Any]:
        return self._mean(pair_accuracy(answers), "fraction", float(pair_accuracy(answers).mean()))

    def _mean(self, values: Tensor, unit: str, value: float) -> dict[str, Any]:
        low, high = interval(values, self.config.pair_seed, self.config.n_boot)
        return number(value, unit, n=len(values), lo=low, hi=high, seed=self.config.pair_seed)


def _named(progress: Callable[[str, str, int, int], None], task: str) -> Progress:
    def report(stage: str, done: int, total: int) -> None:
        progress(task, stage, done, total)

    return report
