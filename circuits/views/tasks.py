"""The circuits section: one table of all tasks, then per task its evidence, its drawing and its program."""

from dataclasses import replace
from typing import Any

from circuits.explain.words import MAX_EDGES, program, visible
from circuits.section import CircuitEntry, CircuitsSection, Definitions, Redundancy, TaskEntry, TaskStatus, TwinEntry
from circuits.views.baselines import baseline_blocks
from circuits.views.card import card_blocks
from circuits.views.graph import node_table, widget
from sparsetrain.report.blocks import (
    MISSING,
    Block,
    Cell,
    Choice,
    Code,
    Column,
    Details,
    Grid,
    KeyNumber,
    KeyNumbers,
    Panel,
    Reference,
    Strip,
    Table,
    Text,
    Tile,
    Tone,
    format_number,
    note_of,
)
from sparsetrain.stats.number import Number

STATUS: dict[TaskStatus, tuple[str, Tone]] = {
    "circuit": ("circuit found", "pass"),
    "like_nonsense": ("not distinguishable from nonsense", "fail"),
    "bigram": ("bigram", "none"),
    "failed_by_model": ("model fails", "warn"),
    "no_circuit": ("no circuit", "fail"),
    "not_searched": ("model passes, not searched", "none"),
    "unsuitable": ("does not suit", "none"),
}
"""Words and tone of each status."""
STATUS_HELP = (
    "circuit found: the model passes the gate, a circuit reaches the target loss and answers rightly without calibration too; not "
    "distinguishable from nonsense: so it does, but unrelated answers have a circuit of about its size; bigram: the empty circuit, which "
    "sees only the current token, already does; model fails: the full model misses the target, so nothing is pruned; "
    "no circuit: the model passes, the search did not reach the target; not searched: the run "
    "looks for the circuits of the tasks that the model does best, scripts/find_circuits.py for those of the others; does not suit: this tokenizer makes no pairs of the task's texts"
)
COLUMNS = (
    Column(label="Task"),
    Column(label="Status", form="status", tones=dict(STATUS.values()), help=STATUS_HELP),
    Column(label="Model accuracy", form="number", help="full model on held-out pairs: right answer ahead of wrong"),
    Column(label="Model loss", form="number", help="full model's task loss after calibration; the gate"),
    Column(label="Nodes", form="number"),
    Column(label="Edges", form="number", help="nonzero weights between kept nodes: the circuit's size"),
    Column(label="Task loss", form="number", help="of the circuit chosen on validation pairs, on held-out pairs"),
    Column(label="Raw loss", form="number", help="the same without calibration"),
    Column(
        label="Raw accuracy", form="number", unit="fraction", help="of the circuit without calibration; .5 is chance"
    ),
    Column(
        label="Necessity",
        form="number",
        unit="fraction",
        help="share of the logit difference lost when only the circuit is ablated from the full model; 1 is all",
    ),
    Column(label="Twin edges", form="number", help="size of a circuit for nonsense answers; much larger is reassuring"),
    Column(
        label="Seed overlap",
        form="number",
        unit="fraction",
        help="Jaccard overlap of the nodes found from different mask seeds",
    ),
)


def circuits(section: CircuitsSection) -> list[Block]:
    """Which behaviours have a circuit, how small it is, and why one may believe it."""
    tasks, target = section.tasks, section.target_loss
    if not tasks:
        return [Text(text="No task was searched in this run.")]
    intro = (
        "A circuit is a small set of channels that is enough for a behaviour: every other channel is held at its mean "
        f"over ordinary text, and the task loss must stay at {target} or below on pairs the search never saw. Each "
        "task is a pair of prompts with two different right answers."
    )
    first = next((task for task in tasks if task.has_circuit), None)
    return [
        *_verdicts(section),
        Text(text=intro),
        Table(title="Tasks", columns=COLUMNS, rows=tuple(_row(task, target) for task in tasks)),
        Text(text=_definitions(section.definitions), tone="note"),
        *baseline_blocks(section),
        *(_task(task, target, task is first) for task in tasks),
    ]


def best(task: TaskEntry) -> CircuitEntry | None:
    """The circuit that was chosen on validation pairs."""
    return task.circuits[0] if task.circuits else None


def _size(entry: CircuitEntry | TwinEntry) -> int | float:
    size = entry.size.value
    return -1 if size is None else size


def _verdicts(section: CircuitsSection) -> list[Block]:
    # a task that is solved without any node stays out of the verdicts
    tasks, target = section.tasks, section.target_loss
    solved = [(task, circuit) for task in tasks if task.has_circuit and (circuit := best(task))]
    n_suited = sum(task.status != "unsuitable" for task in tasks)
    others = f"; {len(tasks) - n_suited} more do not suit the tokenizer" if n_suited < len(tasks) else ""
    done = [task for task in tasks if task.is_solved]
    worded = [task.gate.paraphrased.passed for task in done if task.gate.paraphrased is not None]
    n_bigram = sum(task.status == "bigram" for task in tasks)
    notes = [f"task loss {target} or below on held-out pairs"]
    notes += [f"{sum(worded)} of {len(worded)} also in a second wording"] if worded else []
    notes += [f"{n_bigram} more that the current token decides"] if n_bigram else []
    blocks: list[Block] = [
        Tile(
            label="Tasks that the model does",
            value=f"{len(done)} of {n_suited}",
            tone="pass" if done else "fail" if n_suited else "none",
            note="; ".join(notes),
        ),
        Tile(
            label="Tasks with a circuit",
            value=f"{len(solved)} of {n_suited}",
            tone="pass" if solved else "fail" if n_suited else "none",
            note=f"task loss {target} or below on held-out pairs{others}",
        ),
    ]
    if solved:
        beaten = sum(circuit.random.n_beaten.value == circuit.random.n for _, circuit in solved)
        blocks.append(
            Tile(
                label="Circuits that beat every random one",
                value=f"{beaten} of {len(solved)}",
                tone="pass" if beaten == len(solved) else "fail",
                note="random circuits are connected and have as many edges",
            )
        )
    twins = [task.nonsense_twin for task, _ in solved if task.nonsense_twin]
    if twins:
        larger = sum(task.status == "circuit" for task, _ in solved if task.nonsense_twin)
        blocks.append(
            Tile(
                label="Circuits that nonsense does not have",
                value=f"{larger} of {len(twins)}",
                tone="pass" if larger == len(twins) else "fail",
                note=f"no circuit for unrelated answers has less than {section.min_twin_ratio:g} times the edges, at equal budget",
            )
        )
    return blocks


def _row(task: TaskEntry, target: float) -> tuple[Any, ...]:
    accuracy, circuit = task.gate.accuracy, best(task)
    found: tuple[Any, ...] = (None,) * 6
    if circuit is not None:
        raw = circuit.raw
        numbers = (circuit.n_nodes, circuit.n_edges, circuit.task_loss, raw.loss, raw.accuracy, circuit.necessity)
        found = tuple(number.value for number in numbers)
    return (
        Cell(value=task.task, sub=task.description),
        STATUS[task.status][0],
        Number(value=accuracy.value, unit=accuracy.unit),  # without its interval: the columns are narrow
        task.gate.loss.value,
        *found,
        _twin_edges(task.nonsense_twin),
        None if task.seeds is None else task.seeds.jaccard_nodes.value,
    )


def _twin_edges(twin: TwinEntry | None) -> str:
    if twin is None:
        return MISSING
    if not twin.reached:
        return "none found"
    return format_number(twin.n_edges.value) if twin.n_edges.value is not None else twin.size_words


def _definitions(definitions: Definitions) -> str:
    means = definitions.means
    text = (
        f"Task loss: {definitions.task_loss}. Ablation: {definitions.ablation}, of a {definitions.kind}. "
        f"Means: of {format_number(means.n_tokens)} tokens, {means.source}."
    )
    return text.replace("..", ".")


def _task(task: TaskEntry, target: float, is_open: bool) -> Details:
    blocks: list[Block] = [Text(text=task.description)] if task.description else []
    example = task.example
    sides = (
        ("Positive", example.positive, example.answer_positive),
        ("Negative", example.negative, example.answer_negative),
    )
    prompts = (
        Code(text=prompt, caption=f"{side} prompt, right answer {visible(answer).replace(' ', '␣')}")
        for side, prompt, answer in sides
    )
    blocks.append(Grid(blocks=tuple(prompts)))
    if task.status == "unsuitable":
        blocks += _remarks(task)
        words, tone = STATUS[task.status]
        return Details(summary=task.task, blocks=tuple(blocks), open=is_open, status=words, tone=tone)
    gate = {
        "model accuracy": task.gate.accuracy,
        "model loss": task.gate.loss,
        "model loss, raw": task.gate.raw_loss,
        "model accuracy, raw": task.gate.raw_accuracy,
        "empty circuit": task.empty.loss,
    }
    if task.gate.paraphrased is not None:
        gate["model accuracy, second wording"] = task.gate.paraphrased.accuracy
        gate["model loss, second wording"] = task.gate.paraphrased.loss
    blocks.append(KeyNumbers(items=tuple(_key(label, value) for label, value in gate.items())))
    circuit = best(task)
    if len(task.circuits) > 1:
        panels = [
            Panel(
                keys=(f"seed {found.seed}: {format_number(found.size.value)} {found.size.unit}",),
                blocks=tuple(_circuit(task, found, target)),
            )
            for found in sorted(task.circuits, key=lambda found: found is not circuit)
        ]
        blocks.append(Choice(labels=("Circuit",), panels=tuple(panels)))
    elif task.circuits:
        blocks += _circuit(task, task.circuits[0], target)
    blocks += _remarks(task)
    words, tone = STATUS[task.status]
    if circuit is not None and task.status == "circuit":
        words = circuit.size_words
    return Details(summary=task.task, blocks=tuple(blocks), open=is_open, status=words, tone=tone)


def _key(label: str, value: Number) -> KeyNumber:
    return KeyNumber(label=label, value=value, note=note_of(value))


def _count(label: str, value: Number) -> KeyNumber:
    """A count's unit is left out: the label says it."""
    return _key(label, replace(value, unit="") if isinstance(value.value, int) else value)


def _circuit(task: TaskEntry, circuit: CircuitEntry, target: float) -> list[Block]:
    items = [
        _count("nodes", circuit.n_nodes),
        _count("edges", circuit.n_edges),
        _key("task loss, held out", circuit.task_loss),
        _key("task loss, raw", circuit.raw.loss),
        _key("accuracy", circuit.accuracy),
        _key("accuracy, raw", circuit.raw.accuracy),
        _key("agreement with the model", circuit.agreement),
        _key("agreement, raw", circuit.raw.agreement),
        _key("task loss as edge circuit", circuit.edge_task_loss),
        _key("necessity", circuit.necessity),
        _count("biases, counted apart", circuit.biases),
    ]
    edges = circuit.edge_circuit
    if edges is not None:
        missed = "" if edges.reached else " (misses the search's aim with all its edges: none dropped)"
        items.append(replace(_count(f"edges after edge pruning{missed}", edges.n_edges), note=""))
        items.append(_key("task loss with these edges", edges.task_loss))
    items.append(KeyNumber(label="necessity, random circuits", value=circuit.necessity_random.mean))
    items.append(KeyNumber(label="loss of random circuits taken away", value=circuit.random.removed))
    linked = circuit.n_edges.value is not None
    items = [item for item in items if linked or not isinstance(item.value, Number) or item.value.value is not None]
    blocks: list[Block] = [KeyNumbers(items=tuple(items))]
    if circuit.graph.nodes and not linked:
        blocks.append(node_table(circuit.graph))
    elif circuit.graph.nodes:
        blocks.append(widget(circuit.graph, f"Circuit of {task.task}, seed {circuit.seed}", circuit.viewer))
        words = program(circuit.graph)
        if words:
            blocks.append(Code(text=words, caption="The circuit in words"))
        else:
            blocks.append(Text(text=f"More than {MAX_EDGES} edges: too many for a program in words.", tone="note"))
    blocks += _controls(task, circuit, target)
    if circuit.card:
        blocks += card_blocks(circuit.card)
    scale, shift = format_number(circuit.calibration.scale), format_number(circuit.calibration.shift)
    blocks.append(Text(text=f"Final logits are calibrated: scale {scale}, shift {shift}.", tone="note"))
    if circuit.path:
        blocks.append(Text(text=f"Saved in {circuit.path}; it can be loaded and run by itself.", tone="note"))
    return blocks


def _controls(task: TaskEntry, circuit: CircuitEntry, target: float) -> list[Block]:
    # random circuits are scored on fewer pairs, where the circuit has a loss of its own
    marks = {
        "circuit": circuit.random.circuit_loss.value,
        "model": task.gate.loss.value,
        "empty": task.empty.loss.value,
        "target": target,
    }
    blocks: list[Block] = []
    if circuit.random.losses:
        blocks.append(
            Strip(
                title="Task loss beside random connected circuits of as many edges",
                unit="nats",
                values=circuit.random.losses,
                values_label="random circuits",
                marks=tuple(Reference(label=label, value=v) for label, v in marks.items() if v is not None),
            )
        )
    if circuit.ablations:
        columns = (
            Column(label="Ablation"),
            Column(label="Task loss", form="bar"),
            Column(label="Logit difference", form="number", help="right answer minus wrong answer, mean over prompts"),
        )
        rows = tuple((entry.name, entry.loss, entry.logit_diff) for entry in circuit.ablations)
        blocks.append(Table(title="Ablations", columns=columns, rows=rows))
    return blocks


def _sentence(note: str) -> str:
    """A note as a sentence."""
    return f"{note[:1].upper()}{note[1:]}."


def _remarks(task: TaskEntry) -> list[Block]:
    """Twin, seeds, rejected pairs and search time, in sentences."""
    sentences = [_sentence(task.note)] if task.note else []
    twin, seeds = task.nonsense_twin, task.seeds
    if twin is not None:
        outcome = f"did not reach the target (task loss {format_number(twin.task_loss.value)})"
        if twin.reached:
            outcome = f"reached the target with {twin.size_words}"
        note = f" ({twin.note})" if twin.note else ""
        sentences.append(f"The nonsense twin, same prompts and unrelated answers, {outcome}{note}.")
    if seeds is not None and seeds.jaccard_nodes.value is not None:
        overlap = format_number(seeds.jaccard_nodes.value, "fraction")
        n_core = len(seeds.core_nodes)
        sentences.append(f"Circuits from different seeds overlap by {overlap} (Jaccard); {n_core} nodes are in all.")
        sentences += [_sentence(seeds.note)] if seeds.note else []
    if task.redundancy is not None:
        sentences.append(_redundancy(task.redundancy))
    if task.rejected:
        words = ", ".join(f"{reason} {count:,}" for reason, count in task.rejected.items())
        sentences.append(f"Rejected pairs: {words}.")
    if task.seconds is not None:
        sentences.append(f"The search took {format_number(task.seconds, 's')}.")
    return [Text(text=" ".join(sentences), tone="note")] if sentences else []


def _redundancy(found: Redundancy) -> str:
    """How many disjoint circuits there are, in a sentence."""
    n = found.n_disjoint.value
    sizes = ", ".join(
        f"{format_number(circuit.n_edges.value)} edges (loss {format_number(circuit.task_loss.value)})"
        for circuit in found.circuits
    )
    end = "and then none" if found.exhausted else "and the search was not asked for more"
    others = f"without its nodes: {sizes}, {end}" if sizes else "without its nodes the search finds no other"
    shared = f"they share {len(found.shared_heads)} heads and {len(found.shared_channels)} residual channels"
    return f"Disjoint circuits: {n}; {others}{f'; {shared}' if sizes else ''}."
