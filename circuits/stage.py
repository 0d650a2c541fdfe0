"""The circuits of one run: means once, then task after task, resumable, ending in the report's section.

Used by train.py at the end of a training and by scripts/find_circuits.py on any finished run.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from circuits.activity import MAX_NODES, VERSION, activity
from circuits.card import CardConfig, CardInputs, report_card
from circuits.circuit import Circuit
from circuits.find import FindConfig, Pairs, find_circuits, heldout_pairs
from circuits.means import Means, measure_means
from circuits.tasks import TASKS, PairSet, build_pairs, get_task
from sparsetrain.checkpoint import load_model, read_meta, sha256, write_atomic
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.model import Transformer
from sparsetrain.report import value_of
from sparsetrain.run import RunConfig

ADDED = ("card", "viewer")
"""Keys of a circuit's entry that are put in after its search."""
N_TEXT_WINDOWS = 64  # ours: windows of held-out text on which the circuit page looks for activations
TEXT_SOURCE = "held-out documents in the training mixture"


@dataclass(frozen=True, kw_only=True)
class CircuitsConfig:
    """Which tasks are searched, and how."""

    tasks: tuple[str, ...] = ()
    """Names of tasks; `all` for every one; none: no circuits."""
    n_means_windows: int = 256
    """Windows of n_ctx tokens over which the means of deleted nodes are taken. ours"""
    find: FindConfig = field(default_factory=FindConfig)

    def __post_init__(self) -> None:
        if self.n_means_windows < 1:
            raise ValueError(f"circuits.n_means_windows={self.n_means_windows} must be at least 1")
        self.names()

    def names(self) -> tuple[str, ...]:
        """The tasks meant.

        Raises:
            ValueError: an unknown task; lists them all.
        """
        return tuple(TASKS) if "all" in self.tasks else tuple(get_task(name).name for name in self.tasks)


@dataclass(frozen=True, kw_only=True)
class TrainRun(RunConfig):
    """A training run and the circuits looked for in its model."""

    circuits: CircuitsConfig = field(default_factory=CircuitsConfig)


def run_circuits(
    export: Path,
    run_dir: Path,
    config: CircuitsConfig,
    windows: Callable[[], torch.Tensor],
    *,
    windows_source: str,
    text: Callable[[], torch.Tensor] | None = None,
    text_source: str = "",
    on_task: Callable[[str, dict[str, Any]], None] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Finds the circuits of an exported model and returns the `circuits` section of report.json.

    Args:
        export: folder of the model.
        run_dir: gets `circuits/means.safetensors` and `circuits/<task>/`.
        config: tasks and search.
        windows: gives token windows `[n, n_ctx]` for the means, used for nothing else; called only if there are no
            means of these weights yet.
        windows_source: what those windows are, in words.
        text: gives held-out token windows `[n, n_ctx]` on which the circuit page shows activations; called only if a
            circuit's page is not on disk yet. None: the report's drawings have no such data.
        text_source: what that text is, in words.
        on_task: called with (task, result) as each task is done.
        progress: draw a progress bar on stderr.
    """
    model = load_model(export)
    tokenizer = Tokenizer.load(export / "tokenizer.json")
    weights_sha256 = read_meta(export)["weights_sha256"]
    path = run_dir / "circuits" / "means.safetensors"
    means = Means.load(path) if path.is_file() else None
    if means is None or means.weights_sha256 != weights_sha256:
        means = measure_means(model, windows(), source=windows_source, weights_sha256=weights_sha256)
        means.save(path)
    names = config.names()
    with progress_bar(progress) as bar:
        tasks = bar.add_task("circuits", total=len(names))
        stage_bar = bar.add_task("", total=None)

        def on_stage(task: str, stage: str, done: int, total: int) -> None:
            bar.update(stage_bar, description=f"  {task}: {stage}", completed=done, total=total)

        def on_task_done(task: str, result: dict[str, Any]) -> None:
            bar.advance(tasks)
            if on_task is not None:
                on_task(task, result)

        section = find_circuits(
            model,
            names,
            tokenizer,
            means,
            config.find,
            out_dir=run_dir / "circuits",
            on_task=on_task_done,
            progress=on_stage,
        )
        if text is not None:
            _add_activity(model, tokenizer, run_dir, section["tasks"], text, text_source, on_stage)
    return section


def _add_activity(
    model: Transformer,
    tokenizer: Tokenizer,
    run_dir: Path,
    tasks: list[dict[str, Any]],
    text: Callable[[], torch.Tensor],
    text_source: str,
    progress: Callable[[str, str, int, int], None],
) -> None:
    """Puts `viewer` into the best circuit of every task, if it has at most `MAX_NODES`; made before: read from disk."""
    found = [task for task in tasks if task["circuits"] and value_of(task["circuits"][0]["n_nodes"]) <= MAX_NODES]
    windows: torch.Tensor | None = None
    for i, task in enumerate(found):
        best = task["circuits"][0]
        path = run_dir / "circuits" / task["task"] / "viewer.json"
        key = {"version": VERSION, "circuit": sha256(run_dir / best["path"]), "text": text_source}
        saved = json.loads(path.read_text()) if path.is_file() else {}
        if saved.get("key") != key:
            progress(task["task"], "circuit page", i, len(found))
            windows = text() if windows is None else windows
            circuit = Circuit.load(run_dir / best["path"])
            pairs = heldout_pairs(circuit, tokenizer)
            saved = {"key": key, "viewer": activity(model, circuit, pairs, windows, text_source, tokenizer.token)}
            write_atomic(path, (json.dumps(saved) + "\n").encode())
        best["viewer"] = saved["viewer"]


def progress_bar(shown: bool) -> Progress:
    """A bar per task and one per stage of it, on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, disable=not shown, transient=True)


def run_cards(
    export: Path,
    run_dir: Path,
    tasks: list[dict[str, Any]],
    names: Sequence[str],
    find: FindConfig,
    card: CardConfig,
    windows: torch.Tensor,
    *,
    on_card: Callable[[str, list[dict[str, Any]]], None] | None = None,
    progress: bool = True,
) -> None:
    """Puts a report card into the best circuit of every task that has one; a card made before is read from disk.

    Args:
        export: folder of the model.
        run_dir: the run, whose circuits are loaded.
        tasks: the report's `circuits.tasks`; a circuit is judged beside all of these that the model solves.
        names: tasks to judge; those with status `circuit` get `circuits[0]["card"]`.
        find: the search's settings, for its pairs.
        card: thresholds and sizes.
        windows: int64 `[n, n_ctx]`, pretraining text that the means were not taken from.
        on_card: called with (task, card) as each is done.
        progress: draw a progress bar on stderr.
    """
    model = load_model(export)
    means = Means.load(run_dir / "circuits" / "means.safetensors")
    pairs = _Evidence(Tokenizer.load(export / "tokenizer.json"), find)
    solved = [task["task"] for task in tasks if task["gate"]["passed"] and task["status"] != "bigram"]
    judged = [task for task in tasks if task["task"] in names and task["status"] == "circuit"]
    with progress_bar(progress) as bar:
        done = bar.add_task("report cards", total=len(judged))
        criteria = bar.add_task("", total=None)
        for task in judged:
            name, best = task["task"], task["circuits"][0]

            def on_criterion(criterion: str, i: int, total: int, name: str = name) -> None:
                bar.update(criteria, description=f"  {name}: {criterion}", completed=i, total=total)

            seeds = [Circuit.load(run_dir / entry["path"]) for entry in task["circuits"]]
            path = run_dir / "circuits" / name / "card.json"
            key = {"card": asdict(card), "circuit": sha256(run_dir / best["path"]), "others": solved}
            saved = json.loads(path.read_text()) if path.is_file() else {}
            if saved.get("key") != key:
                twin = task.get("nonsense_twin")
                evidence = CardInputs(
                    fit=pairs.of(name).fit,
                    heldout=pairs.of(name).heldout,
                    alive=means.alive,
                    shifted=pairs.shifted(name),
                    windows=windows,
                    others={other: (pairs.of(other).fit, pairs.of(other).heldout) for other in solved if other != name},
                    seeds=seeds,
                    twin_n_edges=[value_of(twin["n_edges"])] if twin else [],
                )
                saved = {"key": key, "card": report_card(model, seeds[0], evidence, card, on_criterion)}
                write_atomic(path, (json.dumps(saved, indent=1) + "\n").encode())
            best["card"] = saved["card"]
            bar.advance(done)
            if on_card is not None:
                on_card(name, best["card"])


class _Evidence:
    """The pairs of tasks, built once each."""

    def __init__(self, tokenizer: Tokenizer, find: FindConfig) -> None:
        self.tokenizer, self.find = tokenizer, find
        self.built: dict[str, Pairs] = {}

    def of(self, task: str) -> Pairs:
        if task not in self.built:
            self.built[task] = Pairs.build(task, self.tokenizer, self.find)
        return self.built[task]

    def shifted(self, task: str) -> PairSet:
        """Held-out in names and longer: prompts of up to twice the search's length."""
        find = self.find
        return build_pairs(
            task, self.tokenizer, "shifted", find.n_heldout, find.pair_seed, max_tokens=2 * find.max_tokens
        )


def merge_tasks(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """The new section, with the tasks of an old one that were not searched again, in the order they first came.

    A circuit found again as it was keeps its report card, and the data of its page if no new ones were made.
    """
    if old is None:
        return new
    before = {task["task"]: task for task in old["tasks"]}
    for task in new["tasks"]:
        for circuit, same in zip(task["circuits"], before.get(task["task"], {}).get("circuits", []), strict=False):
            if _found(circuit) == _found(same):
                circuit.update({name: same[name] for name in ADDED if name in same and name not in circuit})
    return {**new, "tasks": list((before | {task["task"]: task for task in new["tasks"]}).values())}


def _found(circuit: dict[str, Any]) -> dict[str, Any]:
    """A circuit's entry as the search left it."""
    return {name: value for name, value in circuit.items() if name not in ADDED}


def describe_task(name: str, result: dict[str, Any]) -> str:
    """One line for the terminal: how a task's search ended."""
    gate = result["gate"]
    text = f"{name}: {result['status']}, model {gate['accuracy']['value']:.0%} right, loss {gate['loss']['value']:.3f}"
    if result["circuits"]:
        best = result["circuits"][0]
        text += (
            f"; circuit of {best['n_nodes']['value']} nodes and {best['n_edges']['value']} edges, loss "
            f"{best['task_loss']['value']:.3f}, beats {best['random']['n_beaten']['value']} of {best['random']['n']} random ones"
        )
    return text
