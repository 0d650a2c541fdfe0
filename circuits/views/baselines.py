"""Learned pruning beside other ways to rank nodes: one table of ratios, one of sizes."""

from circuits.section import CircuitsSection, TaskEntry
from sparsetrain.report.blocks import MISSING, Block, Column, Details, Table, Text


def baseline_blocks(section: CircuitsSection) -> list[Block]:
    """What the baselines of the circuits section say; nothing where none was run."""
    if not section.baselines:
        return []
    methods = [ratio.method for ratio in section.baselines]
    text = (
        "Other rankings of the nodes, with the same pairs, target, clean-up and calibration as learned pruning. Ratios are "
        "geometric means of edges over the tasks that both solve, with 95% intervals over tasks; above 1, learned pruning "
        "gives fewer edges. A ranking is one pass; learned pruning keeps the smallest of its searches at the prices of circuits.find.settle "
        f"(or of circuits.find.trials) in each seed, which favours it where there are several. The best baseline is {methods[0]}."
    )
    ratios = Table(
        title="Sizes beside learned pruning",
        columns=(
            Column(label="Ranking"),
            Column(label="Its edges / learned", form="number"),
            Column(label="Tasks", form="number"),
            Column(label="Solved by learned pruning alone"),
            Column(label="Solved by the ranking alone"),
        ),
        rows=tuple(
            (
                ratio.method,
                ratio.ratio,
                len(ratio.tasks),
                ", ".join(ratio.only_learned) or MISSING,
                ", ".join(ratio.only_baseline) or MISSING,
            )
            for ratio in section.baselines
        ),
    )
    sizes = Table(
        title="Edges by ranking",
        columns=(Column(label="Task"), Column(label="learned"), *(Column(label=method) for method in methods)),
        rows=tuple(sizes_by_ranking(task, methods) for task in section.tasks if task.baselines is not None),
    )
    return [Details(summary="Learned pruning beside other rankings", blocks=(Text(text=text), ratios, sizes))]


def sizes_by_ranking(task: TaskEntry, methods: list[str]) -> tuple[str, ...]:
    """The task, edges of its learned circuits, and of the circuit by each ranking."""
    found = {ranked.method: ranked.n_edges for ranked in task.baselines or () if ranked.reached}
    learned = ", ".join(str(circuit.n_edges.value) for circuit in task.circuits) or "none found"
    sizes = [found.get(method) for method in methods]
    return (task.task, learned, *("none found" if size is None else str(size.value) for size in sizes))
