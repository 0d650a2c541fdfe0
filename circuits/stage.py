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
from safetensors.torch import save_file

from circuits.circuit import Circuit
from circuits.evidence.gather import CARD_WINDOWS, Judge
from circuits.evidence.thresholds import CardConfig
from circuits.explain.activity import MAX_NODES, VERSION, activity
from circuits.find import FindConfig, Finder, Pairs, find_circuits, heldout_pairs
from circuits.means import Means, measure_means
from circuits.search.comparison import baseline_circuits
from circuits.tasks import TASKS, get_task
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.export import load_model, read_meta
from sparsetrain.model import Transformer
from sparsetrain.report import value_of
from sparsetrain.store import sha256, write_atomic
from sparsetrain.typed import plain

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
            viewer = activity(model, circuit, pairs, windows, text_source, tokenizer.token)
            saved = {"key": key, "viewer": plain(viewer)}
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
        run_dir: the run, whose circuits are loaded; gets `circuits/card_windows.safetensors` and
            `circuits/<task>/card.json`.
        tasks: the report's `circuits.tasks`; a circuit is judged beside all of these that the model solves.
        names: tasks to judge; those with status `circuit` get `circuits[0]["card"]`.
        find: the search's settings, for its pairs.
        card: thresholds and sizes.
        windows: int64 `[n, n_ctx]`, pretraining text that the means were not taken from.
        on_card: called with (task, card) as each is done.
        progress: draw a progress bar on stderr.
    """
    save_file({"windows": windows.contiguous()}, run_dir / "circuits" / CARD_WINDOWS)
    judge = Judge(export, run_dir, tasks, find)
    judged = [task for task in tasks if task["task"] in names and task["status"] == "circuit"]
    with progress_bar(progress) as bar:
        done = bar.add_task("report cards", total=len(judged))
        criteria = bar.add_task("", total=None)
        for task in judged:
            name, best = task["task"], task["circuits"][0]

            def on_criterion(criterion: str, i: int, total: int, name: str = name) -> None:
                bar.update(criteria, description=f"  {name}: {criterion}", completed=i, total=total)

            settings = {"card": asdict(card), "find": asdict(find), "solved": judge.solved}
            key = {**settings, "circuit": sha256(run_dir / best["path"])}
            path = run_dir / "circuits" / name / "card.json"
            best["card"] = _once(
                path, key, lambda task=task, report=on_criterion: plain(judge.card(task, card, report))
            )
            bar.advance(done)
            if on_card is not None:
                on_card(name, best["card"])


def run_baselines(
    export: Path,
    run_dir: Path,
    tasks: list[dict[str, Any]],
    names: Sequence[str],
    find: FindConfig,
    *,
    on_task: Callable[[str, list[dict[str, Any]]], None] | None = None,
    progress: bool = True,
) -> None:
    """Puts the circuits of the baselines beside those of learned pruning; found before, they are read from disk.

    Args:
        export: folder of the model.
        run_dir: the run; gets `circuits/<task>/baselines/` and `baselines.json`.
        tasks: the report's `circuits.tasks`.
        names: tasks to compare; those that the model solves, and the empty circuit does not, get `baselines`.
        find: the search's settings.
        on_task: called with (task, entries) as each is done.
        progress: draw a progress bar on stderr.
    """
    model, tokenizer = load_model(export), Tokenizer.load(export / "tokenizer.json")
    means = Means.load(run_dir / "circuits" / "means.safetensors")
    compared = [task for task in tasks if task["task"] in names and task["status"] in ("circuit", "no_circuit")]
    with progress_bar(progress) as bar:
        done = bar.add_task("baselines", total=len(compared))
        methods = bar.add_task("", total=None)
        for task in compared:
            name = task["task"]

            def on_method(method: str, i: int, total: int, name: str = name) -> None:
                bar.update(methods, description=f"  {name}: {method}", completed=i, total=total)

            pairs = Pairs.build(name, tokenizer, find)
            finder = Finder(
                model,
                name,
                task["description"],
                pairs,
                None,
                means,
                find,
                tokenizer.token,
                run_dir / "circuits",
                on_method,
            )
            key = {"find": asdict(find), "weights_sha256": means.weights_sha256}
            path = run_dir / "circuits" / name / "baselines.json"
            task["baselines"] = _once(path, key, lambda finder=finder: baseline_circuits(finder))
            bar.advance(done)
            if on_task is not None:
                on_task(name, task["baselines"])


def _once(path: Path, key: dict[str, Any], make: Callable[[], Any]) -> Any:
    """What `make` gave for this key: read from the file where it stands there, else made and written."""
    plain = json.loads(json.dumps(key))
    saved = json.loads(path.read_text()) if path.is_file() else {}
    if saved.get("key") != plain:
        saved = {"key": plain, "result": json.loads(json.dumps(make()))}
        write_atomic(path, (json.dumps(saved, indent=1) + "\n").encode())
    return saved["result"]


def merge_tasks(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """The new section, with the tasks of an old one that were not searched again, in the order they first came.

    A circuit found again as it was keeps its report card, and the data of its page if no new ones were made; its task keeps the
    circuits of the baselines.
    """
    if old is None:
        return new
    before = {task["task"]: task for task in old["tasks"]}
    for task in new["tasks"]:
        old_task = before.get(task["task"], {"circuits": []})
        for circuit in task["circuits"]:
            same = next((other for other in old_task["circuits"] if _found(other) == _found(circuit)), {})
            circuit.update({name: same[name] for name in ADDED if name in same and name not in circuit})
        same_circuits = [_found(circuit) for circuit in old_task["circuits"]] == [
            _found(circuit) for circuit in task["circuits"]
        ]
        if same_circuits and "baselines" in old_task:
            task["baselines"] = old_task["baselines"]
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
