"""The circuits section: one table of all tasks, then per task its evidence, its drawing and its program."""

from collections.abc import Mapping
from typing import Any

from circuits.section import CardEntry
from circuits.views.baselines import baseline_blocks
from circuits.views.card import card_blocks
from circuits.views.graph import visible, widget
from circuits.views.words import MAX_EDGES, program
from sparsetrain.report import value_of
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
from sparsetrain.typed import from_dict

STATUS_WORDS = {
    "circuit": "circuit found",
    "bigram": "bigram",
    "failed_by_model": "model fails",
    "no_circuit": "no circuit",
}
STATUS_TONES: dict[str, Tone] = {
    "circuit found": "pass",
    "bigram": "none",
    "model fails": "warn",
    "no circuit": "fail",
}
STATUS_HELP = (
    "circuit found: the model passes the gate and a circuit reaches the target loss; bigram: the empty circuit, which "
    "sees only the current token, already does; model fails: the full model misses the target, so nothing is pruned; "
    "no circuit: the model passes, the search did not reach the target"
)


def circuits(section: Mapping[str, Any]) -> list[Block]:
    """Which behaviours have a circuit, how small it is, and why one may believe it."""
    tasks, target = section.get("tasks", []), section.get("target_loss")
    if not tasks:
        return [Text(text="No task was searched in this run.")]
    intro = (
        "A circuit is a small set of channels that is enough for a behaviour: every other channel is held at its mean "
        f"over ordinary text, and the task loss must stay at {target} or below on pairs the search never saw. Each "
        "task is a pair of prompts with two different right answers."
    )
    # a task that is solved without any node stays out of the verdicts
    blocks: list[Block] = [*_verdicts(tasks, target), Text(text=intro), _table(tasks, target)]
    blocks += [Text(text=text, tone="note") for text in _definitions(section.get("definitions", {}))]
    blocks += baseline_blocks(section)
    first = next((task["task"] for task in tasks if task["status"] == "circuit"), None)
    blocks += [_task(task, target, task["task"] == first) for task in tasks]
    return blocks


def best(task: Mapping[str, Any], target: float | None) -> dict[str, Any] | None:
    """The smallest circuit that reaches the target, or the one of lowest loss if none does."""
    found = [circuit for circuit in task.get("circuits", []) if value_of(circuit.get("task_loss")) is not None]
    reached = [circuit for circuit in found if target is None or value_of(circuit["task_loss"]) <= target]
    if reached:
        return min(reached, key=lambda circuit: value_of(circuit["n_edges"]))
    return min(found, key=lambda circuit: value_of(circuit["task_loss"]), default=None)


def _verdicts(tasks: list[dict[str, Any]], target: float | None) -> list[Block]:
    solved = [(task, circuit) for task in tasks if task["status"] == "circuit" and (circuit := best(task, target))]
    blocks: list[Block] = [
        Tile(
            label="Tasks with a circuit",
            value=f"{len(solved)} of {len(tasks)}",
            tone="pass" if solved else "fail",
            note=f"task loss {target} or below on held-out pairs",
        )
    ]
    randoms = [circuit["random"] for _, circuit in solved if circuit.get("random")]
    if randoms:
        beaten = sum(value_of(random["n_beaten"]) == value_of(random["n"]) for random in randoms)
        blocks.append(
            Tile(
                label="Circuits that beat every random one",
                value=f"{beaten} of {len(randoms)}",
                tone="pass" if beaten == len(randoms) else "fail",
                note="random circuits have the same size in the same places",
            )
        )
    twins = [(task["nonsense_twin"], circuit) for task, circuit in solved if task.get("nonsense_twin")]
    if twins:
        larger = sum(_twin_is_larger(twin, circuit) for twin, circuit in twins)
        blocks.append(
            Tile(
                label="Nonsense twins that are larger",
                value=f"{larger} of {len(twins)}",
                tone="pass" if larger == len(twins) else "warn",
                note="a twin asks for unrelated answers; a real circuit should be smaller",
            )
        )
    return blocks


def _twin_is_larger(twin: Mapping[str, Any], circuit: Mapping[str, Any]) -> bool:
    """Whether the nonsense twin needs more edges than the circuit, or cannot be pruned to the target at all."""
    size = value_of(twin.get("n_edges"))
    return not twin["reached"] or (size is not None and size > value_of(circuit["n_edges"]))


def _table(tasks: list[dict[str, Any]], target: float | None) -> Table:
    columns = (
        Column(label="Task"),
        Column(label="Status", form="status", tones=STATUS_TONES, help=STATUS_HELP),
        Column(label="Model accuracy", form="number", help="full model on held-out pairs: right answer ahead of wrong"),
        Column(label="Model loss", form="number", help="full model's task loss after calibration; the gate"),
        Column(
            label="Empty", form="number", help="task loss of the circuit without nodes, which sees the current token"
        ),
        Column(label="Nodes", form="number"),
        Column(label="Edges", form="number", help="nonzero weights between kept nodes: the circuit's size"),
        Column(label="Task loss", form="number", help="of the smallest circuit found, on held-out pairs"),
        Column(
            label="Random beaten", form="number", help="random circuits of the same size and place with a higher loss"
        ),
        Column(
            label="Necessity",
            form="number",
            unit="fraction",
            help="share of the logit difference lost when only the circuit is ablated from the full model; 1 is all",
        ),
        Column(
            label="Twin edges", form="number", help="size of a circuit for nonsense answers; much larger is reassuring"
        ),
        Column(
            label="Seed overlap",
            form="number",
            unit="fraction",
            help="Jaccard overlap of the nodes found from different mask seeds",
        ),
    )
    return Table(title="Tasks", columns=columns, rows=tuple(_row(task, target) for task in tasks))


def _row(task: Mapping[str, Any], target: float | None) -> tuple[Any, ...]:
    gate, circuit = task.get("gate", {}), best(task, target) or {}
    random = circuit.get("random")
    return (
        Cell(value=task["task"], sub=task.get("description", "")),
        STATUS_WORDS[task["status"]],
        value_and_unit(gate.get("accuracy")),
        value_of(gate.get("loss")),
        value_of(task.get("empty", {}).get("loss")),
        value_of(circuit.get("n_nodes")),
        value_of(circuit.get("n_edges")),
        value_of(circuit.get("task_loss")),
        f"{value_of(random['n_beaten'])}/{value_of(random['n'])}" if random else MISSING,
        value_of(circuit.get("necessity")),
        _twin_words(task.get("nonsense_twin")),
        value_of((task.get("seeds") or {}).get("jaccard_nodes")),
    )


def value_and_unit(entry: Any) -> Any:
    """A `number(...)` without its interval, for narrow columns."""
    return {"value": entry["value"], "unit": entry["unit"]} if isinstance(entry, dict) else entry


def _twin_words(twin: Mapping[str, Any] | None) -> str:
    if not twin:
        return MISSING
    return format_number(value_of(twin.get("n_edges"))) if twin["reached"] else "none found"


def _definitions(definitions: Mapping[str, Any]) -> list[str]:
    means = definitions.get("means", {})
    parts = [f"Task loss: {definitions['task_loss']}." if definitions.get("task_loss") else ""]
    parts += [f"Ablation: {definitions['ablation']}, of a {definitions.get('kind', 'node circuit')}."]
    if isinstance(means, Mapping) and means.get("source"):
        parts.append(f"Means: of {format_number(means.get('n_tokens'))} tokens, {means['source']}.")
    text = " ".join(part.replace("..", ".") for part in parts if part)
    return [text] if definitions else []


def _task(task: Mapping[str, Any], target: float | None, is_open: bool) -> Details:
    blocks: list[Block] = [Text(text=task["description"])] if task.get("description") else []
    example = task.get("example")
    if example:
        pair = []
        for side in ("positive", "negative"):
            answer = visible(example[f"answer_{side}"]).replace(" ", "␣")
            pair.append(Code(text=example[side], caption=f"{side.capitalize()} prompt, right answer {answer}"))
        blocks.append(Grid(blocks=tuple(pair)))
    gate = task.get("gate", {})
    blocks.append(KeyNumbers(items=tuple(_gate(task, gate))))
    found = task.get("circuits", [])
    if len(found) > 1:
        panels = [
            Panel(keys=(_circuit_label(circuit),), blocks=tuple(_circuit(task, circuit, target))) for circuit in found
        ]
        order = best(task, target)
        panels.sort(key=lambda panel: order is None or panel.keys[0] != _circuit_label(order))
        blocks.append(Choice(labels=("Circuit",), panels=tuple(panels)))
    elif found:
        blocks += _circuit(task, found[0], target)
    blocks += _remarks(task)
    circuit = best(task, target)
    words = STATUS_WORDS[task["status"]]
    if circuit is not None and task["status"] == "circuit":
        n_nodes, n_edges = (format_number(value_of(circuit[key])) for key in ("n_nodes", "n_edges"))
        words = f"{n_nodes} nodes, {n_edges} edges"
    tone = STATUS_TONES[STATUS_WORDS[task["status"]]]
    return Details(summary=task["task"], blocks=tuple(blocks), open=is_open, status=words, tone=tone)


def _gate(task: Mapping[str, Any], gate: Mapping[str, Any]) -> list[KeyNumber]:
    names = {"accuracy": "model accuracy", "loss": "model loss", "loss_uncalibrated": "uncalibrated", "scale": "scale"}
    items = [
        KeyNumber(label=words, value=gate[name], note=note_of(gate[name]))
        for name, words in names.items()
        if name in gate
    ]
    empty = task.get("empty", {}).get("loss")
    return items + ([KeyNumber(label="empty circuit", value=empty, note=note_of(empty))] if empty else [])


def _circuit_label(circuit: Mapping[str, Any]) -> str:
    return f"seed {circuit['seed']}: {format_number(value_of(circuit['n_edges']))} edges"


def _circuit(task: Mapping[str, Any], circuit: Mapping[str, Any], target: float | None) -> list[Block]:
    names = {
        "n_nodes": "nodes",
        "n_edges": "edges",
        "task_loss": "task loss, held out",
        "accuracy": "accuracy",
        "edge_task_loss": "task loss as edge circuit",
        "necessity": "necessity",
        "biases": "biases, counted apart",
    }
    items = [
        KeyNumber(label=words, value=value_and_bounds(circuit[name]), note=note_of(circuit[name]))
        for name, words in names.items()
        if circuit.get(name) is not None
    ]
    edges = circuit.get("edge_circuit")
    if edges:
        reached = "" if edges["reached"] else " (misses the search's aim with all its edges: none dropped)"
        items.append(KeyNumber(label=f"edges after edge pruning{reached}", value=value_and_bounds(edges["n_edges"])))
        items.append(
            KeyNumber(label="task loss with these edges", value=edges["task_loss"], note=note_of(edges["task_loss"]))
        )
    random_necessity = circuit.get("necessity_random")
    if random_necessity:
        items.append(KeyNumber(label="necessity, random sets", value=random_necessity.get("mean")))
    blocks: list[Block] = [KeyNumbers(items=tuple(items))]
    graph = circuit.get("graph")
    if graph and graph["nodes"]:
        title = f"Circuit of {task['task']}, seed {circuit['seed']}"
        blocks.append(widget(graph, title, circuit.get("viewer")))
        words = program(graph)
        if words:
            blocks.append(Code(text=words, caption="The circuit in words"))
        else:
            blocks.append(Text(text=f"More than {MAX_EDGES} edges: too many for a program in words.", tone="note"))
    blocks += _controls(task, circuit, target)
    if circuit.get("card"):
        blocks += card_blocks(from_dict(tuple[CardEntry, ...], circuit["card"]))
    calibration = circuit.get("calibration")
    if calibration:
        shift = calibration.get("shift")
        shifts = shift if isinstance(shift, list) else [shift]
        words = ", ".join(format_number(value_of(entry)) for entry in shifts)
        scale = format_number(value_of(calibration.get("scale")))
        blocks.append(Text(text=f"Final logits are calibrated: scale {scale}, shift {words}.", tone="note"))
    if circuit.get("path"):
        blocks.append(Text(text=f"Saved in {circuit['path']}; it can be loaded and run by itself.", tone="note"))
    return blocks


def value_and_bounds(entry: Any) -> Any:
    """A `number(...)` whose unit is left out where the label already says it (counts)."""
    if isinstance(entry, dict) and isinstance(entry.get("value"), int):
        return {**entry, "unit": ""}
    return entry


def _controls(task: Mapping[str, Any], circuit: Mapping[str, Any], target: float | None) -> list[Block]:
    blocks: list[Block] = []
    losses = [loss for loss in (circuit.get("random") or {}).get("losses", []) if loss is not None]
    # random circuits are scored on fewer pairs, where the circuit has a loss of its own
    own = (circuit.get("random") or {}).get("circuit_loss", circuit.get("task_loss"))
    marks = [("circuit", own), ("model", task.get("gate", {}).get("loss"))]
    marks += [("empty", task.get("empty", {}).get("loss")), ("target", target)]
    if losses:
        known = tuple(
            Reference(label=label, value=value) for label, entry in marks if (value := value_of(entry)) is not None
        )
        blocks.append(
            Strip(
                title="Task loss beside random circuits of the same size",
                unit="nats",
                values=tuple(losses),
                values_label="random circuits",
                marks=known,
            )
        )
    ablations = circuit.get("ablations", [])
    if ablations:
        columns = (
            Column(label="Ablation"),
            Column(label="Task loss", form="bar"),
            Column(label="Logit difference", form="number", help="right answer minus wrong answer, mean over prompts"),
        )
        rows = tuple((entry["name"], entry.get("loss"), entry.get("logit_diff")) for entry in ablations)
        blocks.append(Table(title="Ablations", columns=columns, rows=rows))
    return blocks


def _remarks(task: Mapping[str, Any]) -> list[Block]:
    """Twin, seeds, rejected pairs and search time, in sentences."""
    sentences = [f"{task['note'].capitalize()}."] if task.get("note") else []
    twin = task.get("nonsense_twin")
    if twin:
        size = f"{format_number(value_of(twin.get('n_nodes')))} nodes and {_twin_words(twin)} edges"
        loss = format_number(value_of(twin.get("task_loss")))
        reached = (
            f"reached the target with {size}" if twin["reached"] else f"did not reach the target (task loss {loss})"
        )
        note = f" ({twin['note']})" if twin.get("note") else ""
        sentences.append(f"The nonsense twin, same prompts and unrelated answers, {reached}{note}.")
    seeds = task.get("seeds")
    if seeds and value_of(seeds.get("jaccard_nodes")) is not None:
        core = seeds.get("core_nodes", [])
        overlap = format_number(value_of(seeds["jaccard_nodes"]), "fraction")
        sentences.append(f"Circuits from different seeds overlap by {overlap} (Jaccard); {len(core)} nodes are in all.")
        if seeds.get("note"):
            sentences.append(f"{seeds['note'].capitalize()}.")
    rejected = task.get("rejected") or {}
    if rejected:
        words = ", ".join(f"{reason} {count:,}" for reason, count in rejected.items())
        sentences.append(f"Rejected pairs: {words}.")
    if task.get("seconds") is not None:
        sentences.append(f"The search took {format_number(task['seconds'], 's')}.")
    return [Text(text=" ".join(sentences), tone="note")] if sentences else []
