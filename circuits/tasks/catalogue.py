"""All tasks by name.

The twenty Python tasks are those of Gao et al. 2025 (arXiv 2511.13653, table 1) with prompts of our own; the three
English ones come from the critique of that paper and are for models trained on stories.
"""

import difflib

from circuits.tasks import assignments, brackets, english, files, functions, keywords, loops, quotes
from circuits.tasks.task import GeneratedTask, Task

TASKS: dict[str, GeneratedTask] = {
    task.name: task
    for family in (quotes, brackets, functions, assignments, keywords, loops, files, english)
    for task in family.TASKS
}
PYTHON_TASKS: tuple[str, ...] = tuple(name for name, task in TASKS.items() if task.language == "python")
ENGLISH_TASKS: tuple[str, ...] = tuple(name for name, task in TASKS.items() if task.language == "english")


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        ValueError: if there is none; the message gives the near names and lists all.
    """
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=3)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise ValueError(f"unknown task {name!r}: {hint}tasks are {', '.join(TASKS)}")
    return TASKS[name]
