"""Circuits that were searched at different times in one section: what is found again as it was keeps what was found out about it."""

from collections.abc import Collection
from dataclasses import replace

from circuits.section import CircuitEntry, CircuitsSection
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


RULES = ("target_loss", "min_raw_accuracy", "min_twin_ratio", "calibration", "gates")
"""Fields of a section by which every circuit on its page was found and judged."""


def under_one_rule(old: CircuitsSection | None, new: CircuitsSection, tasks: Collection[str]) -> CircuitsSection | None:
    """What a page has of an old section beside tasks that are searched now; None: nothing that may stand beside them.

    Raises:
        ValueError: circuits of other tasks were found by other rules, and one page can state one only.
    """
    if old is None or all(getattr(old, key) == getattr(new, key) for key in RULES):
        return old
    others = [task.task for task in old.tasks if task.task not in tasks]
    if others:
        differing = [key for key in RULES if getattr(old, key) != getattr(new, key)]
        named = ", ".join(f"{key}={getattr(old, key)} there, {getattr(new, key)} here" for key in differing)
        theirs = " ".join(_typed(key, getattr(old, key)) for key in differing)
        raise ValueError(
            f"the report has circuits of {', '.join(others)} that were found by other rules: {named}; a page states one. Search them again "
            f"too (task={','.join(dict.fromkeys([*others, *tasks]))}), or keep their rules ({theirs})"
        )
    return None


def _typed(rule: str, value: object) -> str:
    """A rule of a section as the search's config says it."""
    return f"circuits.find.gate={str(value == 'on').lower()}" if rule == "gates" else f"circuits.find.{rule}={value}"


def _found(circuit: CircuitEntry) -> str:
    """Tells a circuit's entry from others as the search left it."""
    return fingerprint(plain(replace(circuit, card=None, viewer=None)))
