"""The circuits of one run: means once, then task after task, resumable, ending in the report's section.

Used by train.py at the end of a training and by scripts/find_circuits.py on any finished run.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from circuits.find import FindConfig, find_circuits
from circuits.means import Means, measure_means
from circuits.tasks import TASKS, get_task
from sparsetrain.checkpoint import load_model, read_meta
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.run import RunConfig


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
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    names = config.names()
    with Progress(*columns, disable=not progress, transient=True) as bar:
        tasks = bar.add_task("circuits", total=len(names))
        stage_bar = bar.add_task("", total=None)

        def on_stage(task: str, stage: str, done: int, total: int) -> None:
            bar.update(stage_bar, description=f"  {task}: {stage}", completed=done, total=total)

        def on_task_done(task: str, result: dict[str, Any]) -> None:
            bar.advance(tasks)
            if on_task is not None:
                on_task(task, result)

        return find_circuits(
            model,
            names,
            tokenizer,
            means,
            config.find,
            out_dir=run_dir / "circuits",
            on_task=on_task_done,
            progress=on_stage,
        )


def merge_tasks(old: dict[str, Any] | None, new: dict[str, Any]) -> dict[str, Any]:
    """The new section, with the tasks of an old one that were not searched again, in the order they first came."""
    if old is None:
        return new
    done = {task["task"]: task for task in old["tasks"]} | {task["task"]: task for task in new["tasks"]}
    return {**new, "tasks": list(done.values())}


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
