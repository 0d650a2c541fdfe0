"""Tasks and circuits of two runs: gates and sizes side by side, and how many nodes the circuits share."""

from collections.abc import Mapping

import numpy as np

from circuits.circuit import Circuit
from circuits.section import TaskEntry
from circuits.side_by_side.run import SideRun
from circuits.side_by_side.section import SharedNodes, TaskPair, TasksEntry, TaskSide
from sparsetrain.stats.number import number
from sparsetrain.stats.sets import central_range, jaccard, shared_at_random


def compare_tasks(a: SideRun, b: SideRun, same_start: bool | None) -> TasksEntry:
    """Every task of either run, in the order of a, then of b.

    Args:
        a: a run.
        b: another.
        same_start: whether both trainings began with the same weights; None: not known.
    """
    of_a, of_b = (_tasks(run) for run in (a, b))
    pairs = tuple(_pair(name, (a, of_a.get(name)), (b, of_b.get(name))) for name in dict.fromkeys([*of_a, *of_b]))
    notes = [
        f"{side} has no circuits: none were searched, or the search has not ended."
        for side, found in (("a", of_a), ("b", of_b))
        if not found
    ]
    sections = [run.circuits for run in (a, b)]
    targets = [section.target_loss for section in sections if section is not None]
    if len(set(targets)) == 2:
        notes.append(f"A circuit must reach a task loss of {targets[0]:g} in a and of {targets[1]:g} in b.")
    if any(pair.shared for pair in pairs):
        notes.append(START[same_start])
    return TasksEntry(tasks=pairs, notes=tuple(notes))


START = {
    True: "Both trainings began with the same weights, so that a channel may mean the same in both.",
    False: "The trainings did not begin with the same weights: channel 5 of the one has nothing to do with channel 5 of the other, and "
    "circuits are expected to share what random ones do.",
    None: "Whether both trainings began with the same weights is not known; if not, circuits are expected to share what random ones do.",
}


def _tasks(run: SideRun) -> Mapping[str, TaskEntry]:
    return {} if run.circuits is None else {task.task: task for task in run.circuits.tasks}


def _side(task: TaskEntry) -> TaskSide:
    circuit = task.circuits[0] if task.circuits else None
    found = {} if circuit is None else {key: getattr(circuit, key) for key in ("n_nodes", "n_edges", "task_loss")}
    return TaskSide(
        status=task.status,
        gate_passed=task.gate.passed,
        model_accuracy=task.gate.accuracy,
        model_loss=task.gate.loss,
        empty_loss=task.empty.loss,
        jaccard_seeds=task.seeds.jaccard_nodes if task.seeds is not None else None,
        **found,
    )


def _pair(name: str, a: tuple[SideRun, TaskEntry | None], b: tuple[SideRun, TaskEntry | None]) -> TaskPair:
    sides = [None if task is None else _side(task) for _, task in (a, b)]
    found: list[Circuit] = []
    note: str | None = None
    try:
        found = [Circuit.load(run.folder / task.circuits[0].path) for run, task in (a, b) if task and task.circuits]
    except (OSError, ValueError, KeyError) as error:
        note = f"a circuit cannot be read: {error}"
    if len(found) == 2 and found[0].space != found[1].space:
        note = f"the nodes cannot be compared: {found[0].space.n_nodes:,} channels in a, {found[1].space.n_nodes:,} in b, of models of different width or depth"
    if len(found) == 2 and note is None:
        empty = [side for side, circuit in zip("ab", found, strict=True) if not circuit.n_nodes]
        if empty:
            note = f"nothing can be shared, the circuit of {' and of '.join(empty)} has no nodes"
    shared = shared_nodes(*found) if len(found) == 2 and note is None else None
    return TaskPair(task=name, a=sides[0], b=sides[1], shared=shared, note=note)


def shared_nodes(a: Circuit, b: Circuit) -> SharedNodes:
    """Nodes in both circuits, which are of models with the same channels.

    The random circuits have as many nodes as these at every hook point, drawn evenly and independently; what they share is known
    exactly, without drawing.
    """
    assert a.space == b.space
    ours, theirs = set(a.node_ids), set(b.node_ids)
    both = [node for node in a.node_ids if node in theirs]
    widths = dict(zip(a.space.names, a.space.widths, strict=True))
    chance = shared_at_random(
        (len(a.nodes.get(name, ())), len(b.nodes.get(name, ())), width) for name, width in widths.items()
    )
    counts = np.arange(len(chance))
    ratios = counts / np.maximum(len(ours) + len(theirs) - counts, 1) if ours or theirs else np.ones(1)
    low, high = central_range(chance)
    return SharedNodes(
        n_shared=number(len(both), "nodes"),
        jaccard=number(jaccard([ours, theirs]), "fraction"),
        n_random=number(chance @ counts, "nodes", lo=low, hi=high),
        jaccard_random=number(chance @ ratios, "fraction", lo=ratios[low], hi=ratios[high]),
        nodes=tuple(both),
    )
