"""All tasks by name.

The twenty Python tasks are those of Gao et al. 2025 (arXiv 2511.13653, table 1) with prompts of our own; the three
English ones come from the critique of that paper and are for models trained on stories. Where a task is named, `file:<path>`
names the pairs of a file.
"""

import difflib
from collections.abc import Sequence
from pathlib import Path

from circuits.tasks import assignments, brackets, english, files, functions, keywords, loops, quotes
from circuits.tasks.pair_file import PREFIX, FileTask, file_task
from circuits.tasks.task import GeneratedTask, Task

TASKS: dict[str, GeneratedTask] = {
    task.name: task
    for family in (quotes, brackets, functions, assignments, keywords, loops, files, english)
    for task in family.TASKS
}
PYTHON_TASKS: tuple[str, ...] = tuple(name for name, task in TASKS.items() if task.language == "python")
ENGLISH_TASKS: tuple[str, ...] = tuple(name for name, task in TASKS.items() if task.language == "english")


def get_task(name: str, kept: Path | None = None) -> Task:
    """The task of that name, or the pairs of a file for `file:<path>`.

    Args:
        name: of a task.
        kept: a folder of tasks (`<run>/circuits`) in which files of pairs may have been kept.

    Raises:
        ValueError: if there is none; the message gives the near names and lists all. A file that cannot be read or has too few pairs.
    """
    if name.startswith(PREFIX):
        return file_task(name)
    if name not in TASKS:
        if kept is not None and (found := FileTask.kept(name, kept)) is not None:
            return found
        near = difflib.get_close_matches(name, TASKS, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"unknown task {name!r}: {hint}tasks are {', '.join(TASKS)}, or file:<pairs.jsonl>")
    return TASKS[name]


def get_tasks(names: Sequence[str]) -> dict[str, Task]:
    """Tasks by name, each once; `all` names every one.

    Raises:
        ValueError: as `get_task`.
    """
    every = [one for name in names for one in (TASKS if name == "all" else [name])]
    return {task.name: task for task in map(get_task, every)}
