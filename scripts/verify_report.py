"""Recomputes, from saved files alone, the numbers of report.json's circuits that are marked recomputable.

    python scripts/verify_report.py run=runs/quickstart/<stamp>

Weights, means, circuits (those of nonsense twins too), the text of the report cards and all settings come from the run's
folder; pairs are built anew. Number of threads and batch sizes are the recorded ones, so that on a CPU every difference is
0; any other, and any marked number that could not be recomputed, ends with exit code 1.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from json import loads
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.circuit import Circuit, pair_answers
from circuits.evidence.gather import Judge
from circuits.evidence.thresholds import CardConfig
from circuits.find import TWIN, FindConfig, Finder, Pairs
from circuits.means import Means
from circuits.search.learn import Run, calibrated_loss
from circuits.search.search import Pruned, Search
from circuits.tasks import get_task
from circuits.tasks.loss import Calibration
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.entry import entry, require
from sparsetrain.export import latest_export, load_model, read_meta
from sparsetrain.model import Transformer
from sparsetrain.report import load_report, number
from sparsetrain.stats.sets import jaccard
from sparsetrain.typed import from_dict, plain


@dataclass(frozen=True, kw_only=True)
class Row:
    """One number of the report beside what the saved files give.

    Args:
        place: where it stands, e.g. `with_as.circuits[0].task_loss`.
        stored: value and interval as reported.
        recomputed: the same of the recomputed number; None where nothing was recomputed.
    """

    place: str
    stored: tuple[float | None, ...]
    recomputed: tuple[float | None, ...] | None

    @property
    def difference(self) -> float:
        """Largest absolute difference over value, lo and hi; infinite where one of two is missing."""
        if self.recomputed is None:
            return float("inf")
        pairs = zip(self.stored, self.recomputed, strict=True)
        return max(0.0 if a == b else float("inf") if a is None or b is None else abs(a - b) for a, b in pairs)


def numbers(tree: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every `number(...)` below `tree` with its place."""
    if isinstance(tree, dict):
        if {"value", "unit", "status"} <= set(tree):
            yield place, tree
            return
        for key, branch in tree.items():
            yield from numbers(branch, f"{place}.{key}" if place else key)
    elif isinstance(tree, list):
        for i, branch in enumerate(tree):
            yield from numbers(branch, f"{place}[{i}]")


def compare(stored: dict[str, Any], recomputed: dict[str, Any]) -> list[Row]:
    """One row per number of `stored` that is marked recomputable."""
    found = dict(numbers(recomputed))

    def ends(x: dict[str, Any]) -> tuple[float | None, ...]:
        return x["value"], x.get("lo"), x.get("hi")

    return [
        Row(place=place, stored=ends(x), recomputed=ends(found[place]) if place in found else None)
        for place, x in numbers(stored)
        if x["status"] == "recomputable"
    ]


class SavedCircuits(Finder):
    """The finder of a task with the circuits of a run in place of a search.

    Args:
        run: the run's folder.
        stored: the task's entry in report.json; names the files.
    """

    def __init__(
        self,
        run: Path,
        stored: dict[str, Any],
        model: Transformer,
        tokenizer: Tokenizer,
        means: Means,
        config: FindConfig,
    ) -> None:
        task = get_task(stored["task"])
        pairs = Pairs.build(task.name, tokenizer, config)
        twin = Pairs.build(task.name, tokenizer, config, twin="nonsense") if TWIN in stored else None
        super().__init__(model, task.name, task.description, pairs, twin, means, config, tokenizer.token, None, None)
        self.folder_of_run, self.stored = run, stored

    def _search(
        self, result: dict[str, Any], full: Tensor, full_fit: Calibration, empty: Tensor, empty_fit: Calibration
    ) -> None:
        circuits = [self._load(saved["path"]) for saved in self.stored["circuits"]]
        for circuit, saved in zip(circuits, self.stored["circuits"], strict=True):
            seed, pruned = circuit.provenance.seed, self._pruned(circuit, self.pairs)
            result["circuits"].append(self._evidence(seed, pruned, circuit, full, full_fit, empty, empty_fit))
            if "edge_circuit" in saved:
                result["circuits"][-1]["edge_circuit"] = self._saved_edges(self._load(saved["edge_circuit"]["path"]))
        sets = [set(circuit.node_ids) for circuit in circuits]
        result["seeds"] = {"jaccard_nodes": number(jaccard(sets), "fraction", n=len(sets))}
        if self.twin is not None and self.stored[TWIN]["reached"]:
            result[TWIN] = self._twin(self._pruned(self._load(self.stored[TWIN]["path"]), self.twin), self.twin)

    def baselines(self) -> list[dict[str, Any]]:
        """The entries of the baselines, from their saved circuits."""
        entries = []
        for stored in self.stored["baselines"]:
            entry = {"method": stored["method"]}
            if stored["reached"]:
                circuit = self._load(stored["path"])
                entry |= self.size_and_loss(circuit, self._pruned(circuit, self.pairs).loss)
            entries.append(entry)
        return entries

    def _pruned(self, circuit: Circuit, pairs: Pairs) -> Pruned:
        run = Run(seed=circuit.provenance.seed, train=pairs.train, val=pairs.val)
        looking = Search(self.model, self.space, self.values, [run], self.config.target_loss, self.config.prune)
        losses, _ = looking.loss(circuit.keep[None], [0])
        return Pruned(
            keep=circuit.keep,
            loss=float(losses[0]),
            reached=True,  # only such circuits are saved
            calibration=circuit.calibration,
            n_ranked=circuit.n_nodes,
            removal_loss=torch.zeros(self.space.n_nodes),  # drawn in the graph, and no number of the report
        )

    def _load(self, path: str) -> Circuit:
        circuit = Circuit.load(self.folder_of_run / path)
        if circuit.provenance.weights_sha256 != self.means.weights_sha256:
            raise ValueError(f"{path} was found in other weights than the run's export; find its circuits again")
        return circuit

    def _saved_edges(self, circuit: Circuit) -> dict[str, Any]:
        with circuit.attached(self.model, "edge"):
            val = pair_answers(self.model, self.pairs.val, max(1, self.max_rows // 2))
        ends = {end for edge in circuit.edges for end in (edge.source, edge.target)}
        heldout = circuit.answers(self.model, self.pairs.heldout, "edge", self.config.batch_size)
        return {
            "n_nodes": number(len(ends), "nodes"),
            "n_edges": number(circuit.n_edges, "edges"),
            "task_loss": self._loss(heldout),
            "val_loss": number(float(calibrated_loss(val)[0]), "nats"),
        }


def recompute(run: Path, stored: dict[str, Any], tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """A task's entry of report.json, from the files of the run's folder.

    Args:
        run: folder of a finished run.
        stored: the task's entry in report.json.
        tasks: those of all tasks.

    Raises:
        FileNotFoundError: a file that the entry rests on is not there.
        ValueError: files of other weights than the export's.
    """
    export = latest_export(run)
    model, tokenizer = load_model(export), Tokenizer.load(export / "tokenizer.json")
    means = Means.load(run / "circuits" / "means.safetensors")
    if means.weights_sha256 != read_meta(export)["weights_sha256"]:
        raise ValueError(f"{run}/circuits/means.safetensors was measured on other weights than {export}")
    settings = loads((run / "circuits" / stored["task"] / "result.json").read_text())["key"]["config"]
    config = from_dict(FindConfig, settings)
    saved = SavedCircuits(run, stored, model, tokenizer, means, config)
    result = saved.run()
    if "baselines" in stored:
        result["baselines"] = saved.baselines()
    if any("card" in circuit for circuit in stored["circuits"]):
        key = loads((run / "circuits" / stored["task"] / "card.json").read_text())["key"]
        judge = Judge(export, run, tasks, from_dict(FindConfig, key["find"]), key["solved"])
        result["circuits"][0]["card"] = plain(judge.card(stored, from_dict(CardConfig, key["card"])))
    return result


@dataclass(frozen=True, kw_only=True)
class VerifyRun:
    """Which run."""

    run: str = ""
    """Folder of a finished run."""


@entry(VerifyRun, "verify_report")
def main(config: VerifyRun, run_dir: Path) -> None:
    """Prints the table, the share of recomputable numbers and what is wrong."""
    run = Path(require("run", config.run))
    report = load_report(run / "report.json")
    if "circuits" not in report:
        raise ValueError(f"run={run}: its report holds no circuits; scripts/find_circuits.py finds some")
    torch.set_num_threads(report["run"]["n_threads"])
    tasks = report["circuits"]["tasks"]
    rows: list[Row] = []
    for stored in tasks:
        named = compare({stored["task"]: stored}, {stored["task"]: recompute(run, stored, tasks)})
        for row in named:
            recomputed = "-" if row.recomputed is None else f"{row.recomputed[0]}"
            print(f"{row.place:<70} {row.stored[0]!s:>24} {recomputed:>24} {row.difference:>10.3g}")
        rows += named
    n_all = sum(1 for _ in numbers(tasks))
    missing = [row for row in rows if row.recomputed is None]
    different = [row for row in rows if row.recomputed is not None and row.difference != 0]
    print(f"{len(rows)} of {n_all} numbers of the circuits are marked recomputable ({len(rows) / max(1, n_all):.1%})")
    print(f"{len(rows) - len(missing)} recomputed, {len(different)} differ, {len(missing)} could not be recomputed")
    for row in different + missing:
        print(f"not as stored: {row.place}", file=sys.stderr)
    if different or missing:
        sys.exit(1)


if __name__ == "__main__":
    main()
