"""Recomputes, from saved files alone, the numbers of report.json's circuits that are marked recomputable.

    python scripts/verify_report.py run=runs/quickstart/<stamp>

Weights, means, circuits (those of nonsense twins too), the text of the report cards and all settings come from the run's
folder; pairs are built anew. Number of threads and batch sizes are the recorded ones, so that on a CPU every difference is
0; any other, and any marked number that could not be recomputed, ends with exit code 1.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from circuits.answers import pair_answers
from circuits.calibrate import calibrated_loss
from circuits.circuit import Circuit
from circuits.evidence.gather import RunFiles, card_of
from circuits.evidence.thresholds import CardConfig
from circuits.find import examined, judged
from circuits.means import Means
from circuits.run import KINDS
from circuits.search.comparison import ranked_entry
from circuits.search.learn import MaskRun
from circuits.search.search import Pruned, Search
from circuits.search.task import FindConfig, Found, Pairs, TaskSearch, aim
from circuits.section import CircuitsSection, TaskEntry
from circuits.tasks import get_task
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.entry import entry, require
from sparsetrain.export import latest_export, load_model, read_meta
from sparsetrain.report import load_report
from sparsetrain.typed import from_dict, from_json, plain


@dataclass(frozen=True, kw_only=True)
class CheckedNumber:
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


def compare(stored: dict[str, Any], recomputed: dict[str, Any]) -> list[CheckedNumber]:
    """One row per number of `stored` that is marked recomputable."""
    found = dict(numbers(recomputed))

    def ends(x: dict[str, Any]) -> tuple[float | None, ...]:
        return x["value"], x.get("lo"), x.get("hi")

    return [
        CheckedNumber(place=place, stored=ends(x), recomputed=ends(found[place]) if place in found else None)
        for place, x in numbers(stored)
        if x["status"] == "recomputable"
    ]


def saved(run: Path, subject: TaskSearch, stored: TaskEntry) -> Found:
    """The circuits that a task's entry names, in place of a search's."""

    def load(path: str) -> Circuit:
        circuit = Circuit.load(run / path)
        if circuit.provenance.weights_sha256 != subject.means.weights_sha256:
            raise ValueError(f"{path} was found in other weights than the run's export; find its circuits again")
        return circuit

    def pruned(circuit: Circuit, pairs: Pairs) -> Pruned:
        return Pruned(
            keep=circuit.keep,
            loss=val_loss(subject, circuit, pairs),
            reached=True,  # only such circuits are saved
            calibration=circuit.calibration,
            n_candidates=0,  # measured
            n_ranked=circuit.n_nodes,
            removal_loss=torch.zeros(subject.space.n_nodes),  # drawn in the graph, and no number of the report
        )

    circuits = [load(entry.path) for entry in stored.circuits]
    twin, edges = None, None
    if subject.twin is not None and stored.nonsense_twin is not None and stored.nonsense_twin.reached:
        twin = pruned(load(stored.nonsense_twin.path), subject.twin)
    if stored.circuits and stored.circuits[0].edge_circuit is not None:
        fewer = load(stored.circuits[0].edge_circuit.path)
        with fewer.attached(subject.model, "edge"):
            answers = pair_answers(subject.model, subject.pairs.val, max(1, subject.config.prune.max_rows // 2))
        edges = fewer, float(calibrated_loss(answers[None], subject.kept_calibration(subject.pairs))[0]), True
    return Found(circuits=[(circuit, pruned(circuit, subject.pairs)) for circuit in circuits], edges=edges, twin=twin)


def val_loss(subject: TaskSearch, circuit: Circuit, pairs: Pairs) -> float:
    """Loss of a saved circuit on the validation pairs, as its search measured it."""
    kept = subject.kept_calibration(pairs)
    run = MaskRun(seed=circuit.provenance.seed, train=pairs.train, val=pairs.val, calibration=kept)
    return float(Search(aim(subject), [run]).loss(circuit.keep[None], [0])[0][0])


def key_of(path: Path, *names: str) -> dict[str, Any]:
    """What a saved result rests on.

    Raises:
        ValueError: the file does not say all of `names`.
    """
    key = from_json(dict[str, Any], path).get("key")
    if not isinstance(key, dict) or not set(names) <= set(key):
        raise ValueError(f"{path} is damaged: it does not say what it rests on ({', '.join(names)})")
    return key


def recompute(run: Path, stored: TaskEntry) -> TaskEntry:
    """A task's entry of report.json, from the files of the run's folder.

    Args:
        run: folder of a finished run.
        stored: the task's entry in report.json.

    Raises:
        FileNotFoundError: a file that the entry rests on is not there.
        ValueError: files of other weights than the export's.
    """
    if stored.status == "unsuitable":
        return stored  # nothing of it was measured
    export, folder = latest_export(run), run / "circuits" / stored.task
    model, tokenizer = load_model(export), Tokenizer.load(export / "tokenizer.json")
    means = Means.load(run / "circuits" / "means.safetensors")
    if means.weights_sha256 != read_meta(export)["weights_sha256"]:
        raise ValueError(f"{run}/circuits/means.safetensors was measured on other weights than {export}")
    config = from_dict(FindConfig, key_of(folder / "result.json", "config")["config"])
    subject = TaskSearch.of(model, get_task(stored.task, run / "circuits"), tokenizer, means, config)
    result = examined(subject)
    if stored.seeds is not None:
        result = judged(subject, result, saved(run, subject, stored))
    if stored.baselines is not None:
        entries = []
        for ranked in stored.baselines:
            circuit = None if ranked.path is None else Circuit.load(run / ranked.path)
            loss = 0.0 if circuit is None else val_loss(subject, circuit, subject.pairs)
            entries.append(ranked_entry(subject, ranked.method, circuit, loss))
        result = replace(result, baselines=tuple(entries))
    if any(circuit.card is not None for circuit in stored.circuits):
        key = key_of(folder / "card.json", "find", "solved", "card")
        files = RunFiles.load(export, run, from_dict(FindConfig, key["find"]))
        card = card_of(files, stored, key["solved"], from_dict(CardConfig, key["card"]))
        best, *others = result.circuits
        result = replace(result, circuits=(replace(best, card=card), *others))
    return result


@dataclass(frozen=True, kw_only=True)
class VerifyRun:
    """Which run."""

    run: str = ""
    """Folder of a finished run."""


@entry(VerifyRun, "verify_report", run="read", literal=("run",))
def main(config: VerifyRun, run_dir: Path) -> None:
    """Prints the table, the share of recomputable numbers and what is wrong."""
    run = Path(require("run", config.run))
    report = load_report(run / "report.json", KINDS)
    if "circuits" not in report.sections:
        raise ValueError(f"run={run}: its report holds no circuits; scripts/find_circuits.py finds some")
    torch.set_num_threads(report.run.n_threads)
    tasks = report.section("circuits", CircuitsSection).tasks
    rows: list[CheckedNumber] = []
    for stored in tasks:
        named = compare({stored.task: plain(stored)}, {stored.task: plain(recompute(run, stored))})
        for row in named:
            recomputed = "-" if row.recomputed is None else f"{row.recomputed[0]}"
            print(f"{row.place:<70} {row.stored[0]!s:>24} {recomputed:>24} {row.difference:>10.3g}")
        rows += named
    n_all = sum(1 for _ in numbers(plain(tasks)))
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
