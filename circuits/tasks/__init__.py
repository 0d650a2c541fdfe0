"""Paired prompts with two answers: the behaviours whose circuits are looked for.

`TASKS` and `get_task` name them, `build_pairs` tokenises pairs for any tokenizer and split, `circuits.tasks.loss`
scores a model's answers. To add a task: write a function with `@task()` in a family's file and add it to that file's `TASKS`.
"""

from circuits.tasks.catalogue import ENGLISH_TASKS, PYTHON_TASKS, TASKS, get_task, get_tasks
from circuits.tasks.pairs import PairSet, Twin, UnsuitableTask, build_pairs
from circuits.tasks.task import PAIR_SPLITS, GeneratedTask, PairSplit, PairText, PairTokenizer, Side, Task

__all__ = [
    "ENGLISH_TASKS",
    "PAIR_SPLITS",
    "PYTHON_TASKS",
    "TASKS",
    "GeneratedTask",
    "PairSet",
    "PairSplit",
    "PairText",
    "PairTokenizer",
    "Side",
    "Task",
    "Twin",
    "UnsuitableTask",
    "build_pairs",
    "get_task",
    "get_tasks",
]
