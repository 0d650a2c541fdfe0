"""Circuits that were searched at different times in one section: what is found again as it was keeps what was found out about it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from shlex import quote

from circuits.search.task import FindConfig, rules_of
from circuits.section import CircuitEntry, CircuitsSection
from circuits.tasks import Task
from circuits.tasks.pair_file import PREFIX, FileTask
from sparsetrain.store import fingerprint
from sparsetrain.typed import plain


def merge_tasks(old: CircuitsSection | None, new: CircuitsSection) -> CircuitsSection:
    """The new section, with the tasks of an old one that were not searched again, in the order they first came.

    A circuit found again as it was keeps its report card, and the data of its page if no new ones were made; its task keeps the
    circuits of the baselines.
    """
    if old is None:
        return new
    tasks = {task.task: task for task in old.tasks}
    for task in new.tasks:
        before = tasks.get(task.task)
        known = {} if before is None else {_found(circuit): circuit for circuit in before.circuits}
        circuits = []
        for circuit in task.circuits:
            same = known.get(_found(circuit), circuit)
            circuits.append(replace(circuit, card=circuit.card or same.card, viewer=circuit.viewer or same.viewer))
        same_circuits = list(known) == [_found(circuit) for circuit in task.circuits]
        baselines = before.baselines if before is not None and same_circuits else None
        tasks[task.task] = replace(task, circuits=tuple(circuits), baselines=task.baselines or baselines)
    return replace(new, tasks=tuple(tasks.values()))


def under_one_rule(
    old: CircuitsSection | None, find: FindConfig, tasks: Mapping[str, Task], folder: Path
) -> CircuitsSection | None:
    """What a page has of an old section beside tasks that are searched now; None: nothing that may stand beside them.

    Args:
        old: the section, if there is one.
        find: how tasks are searched now.
        tasks: those, by name.
        folder: of circuits, with the files of pairs that tasks rest on.

    Raises:
        ValueError: circuits of other tasks were found by other rules, and one page can state one only.
    """
    rules = rules_of(find)
    differing = {} if old is None else {key: getattr(old, key) for key in rules if getattr(old, key) != rules[key]}
    if old is None or not differing:
        return old
    others = [task.task for task in old.tasks if task.task not in tasks]
    if others:
        named = ", ".join(f"{key}={there} there, {rules[key]} here" for key, there in differing.items())
        theirs = " ".join(_typed(key, there) for key, there in differing.items())
        again = ",".join(dict.fromkeys(_named(name, tasks.get(name), folder) for name in (*others, *tasks)))
        raise ValueError(
            f"the report has circuits of {', '.join(others)} that were found by other rules: {named}; a page states one. Keep their rules "
            f"({theirs}), or search them again too ({quote(f'task={again}')}; in train.py {quote(f'circuits.tasks=[{again}]')})"
        )
    return None


def _typed(rule: str, value: object) -> str:
    """A rule of a section as the search's config says it."""
    return f"circuits.find.gate={str(value == 'on').lower()}" if rule == "gates" else f"circuits.find.{rule}={value}"


def _named(name: str, task: Task | None, folder: Path) -> str:
    """A task as a command names it: one of a file of pairs by the file, or by the copy of it that was kept."""
    if isinstance(task, FileTask):
        return f"{PREFIX}{task.path}"
    return next((f"{PREFIX}{path}" for path in (folder / name / "pairs").glob("*")), name)


def _found(circuit: CircuitEntry) -> str:
    """Tells a circuit's entry from others as the search left it."""
    return fingerprint(plain(replace(circuit, card=None, viewer=None)))
