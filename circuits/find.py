"""A task from its name to its entry of the report: gate, search, evidence. One that does not suit the tokenizer has an entry too.

1. `examined`, the gate: the full model, calibrated on the fit pairs, must meet the target on held-out pairs. Pruning to a loss
   that the model does not reach would manufacture behaviour. If the empty circuit meets the target too, the task is 'bigram'.
   Every number of answers is given calibrated and raw.
2. `circuits.search.task.searched` finds and `save` writes a `Circuit` per seed.
3. `judged`: evidence on held-out pairs. It takes what a search has just found or what was saved of it (`scripts/verify_report.py`).
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from circuits.answers import pair_answers
from circuits.circuit import Circuit
from circuits.edges import NO_EDGES, count_biases, count_edges, has_edges, size_of
from circuits.evidence import random_circuits
from circuits.evidence.effect import necessity
from circuits.evidence.examination import CardInputs, Examination
from circuits.evidence.thresholds import CardConfig
from circuits.explain.graph import drawing
from circuits.explain.words import head_of
from circuits.means import Means
from circuits.search.learn import Progress, silent
from circuits.search.places import disjoint_place, forget, place, save
from circuits.search.search import Pruned
from circuits.search.task import (
    TWIN,
    FindConfig,
    Found,
    NamingTokenizer,
    TaskSearch,
    aim,
    rules_of,
    searched,
)
from circuits.section import (
    AblationEntry,
    CircuitEntry,
    CircuitsSection,
    Definitions,
    DisjointCircuit,
    EdgeCircuitEntry,
    EmptyCircuit,
    ExamplePair,
    MaskSeeds,
    MeansFacts,
    ModelGate,
    ParaphrasedGate,
    RandomLosses,
    RandomNecessity,
    RawNumbers,
    Redundancy,
    Scaling,
    TaskEntry,
    TaskStatus,
    TwinEntry,
)
from circuits.tasks import PairSet, PairText, Task, UnsuitableTask, get_task
from circuits.tasks.loss import TASK_LOSS_CONVENTION, logit_diff, task_loss
from sparsetrain.stats.number import Number, number
from sparsetrain.stats.sets import jaccard
from sparsetrain.store import once
from sparsetrain.typed import to_dict

log = logging.getLogger(__name__)

RANDOM_NOTE = (
    "connected circuits of as many edges (5% more or fewer): whole random paths from the logits to the embedding, along nonzero "
    "weights and channels alive in pretraining text; calibrated by the same rule"
)
RANDOM_NODES_NOTE = (
    "as many nodes at every hook point, drawn from channels alive in the text of the means: without edges every node is connected; "
    "calibrated by the same rule"
)
EDGE_ROW = "edge circuit: deleted edges carry means"
GATE_OFF_NOTE = "gate off: pruned to the loss that the model has on the search's pairs"


def section_of(means: Means, config: FindConfig, tasks: Sequence[TaskEntry], *, linked: bool = True) -> CircuitsSection:
    """The section of these tasks, all searched with one config, with what its numbers mean.

    Args:
        linked: whether the model has edges.
    """
    return CircuitsSection(
        definitions=Definitions(
            task_loss=TASK_LOSS_CONVENTION,
            ablation="mean",
            kind="node circuit" if linked else f"node circuit (no edges: {NO_EDGES})",
            means=MeansFacts(n_tokens=means.n_tokens, source=means.source),
            random=RANDOM_NOTE if linked else RANDOM_NODES_NOTE,
        ),
        **rules_of(config),
        tasks=tuple(tasks),
    )


def find_once(
    model: nn.Module,
    task: Task | str,
    tokenizer: NamingTokenizer,
    means: Means,
    config: FindConfig,
    out_dir: Path,
    progress: Progress = silent,
) -> TaskEntry:
    """`find_task` of a task or its name; done before with the same config, pairs and weights, it is read from disk.

    Args:
        out_dir: gets `<task>/circuit.json`, `circuit.safetensors` (the smallest circuit), `seed_<n>/` (the others),
            `nonsense_twin/`, `edges/` and `result.json`.

    Raises:
        ValueError: an unknown task, or means of another model.
    """
    task = get_task(task) if isinstance(task, str) else task
    subject = subject_of(model, task, tokenizer, means, config, progress)
    task.keep(out_dir)

    def make() -> TaskEntry:
        if isinstance(subject, str):
            forget(out_dir / task.name)
            return unsuitable(task, subject)
        return find_task(subject, out_dir)

    key = {"config": to_dict(config), "weights_sha256": means.weights_sha256, "means": means.sha256}
    key["pairs"] = subject if isinstance(subject, str) else subject.pairs.sha256
    return once(out_dir / task.name / "result.json", key, make, TaskEntry)


def passed_over(
    model: nn.Module, tasks: Sequence[Task], tokenizer: NamingTokenizer, means: Means, config: FindConfig, most: int
) -> dict[str, TaskEntry]:
    """Of the tasks that would be searched, those beyond the `most` that the model does best: name -> its entry, with the gate alone.

    The order is that of the full model's loss on validation pairs.
    """
    losses: dict[str, float] = {}
    entries: dict[str, TaskEntry] = {}
    for task in tasks:
        subject = subject_of(model, task, tokenizer, means, replace(config, nonsense_twin=False))
        if isinstance(subject, str):
            continue
        entry = examined(subject)
        if entry.is_solved:
            losses[task.name] = subject.val_loss
            entries[task.name] = replace(entry, status="not_searched")
    best = sorted(losses, key=losses.__getitem__)[:most]
    return {name: entry for name, entry in entries.items() if name not in best}


def subject_of(
    model: nn.Module,
    task: Task,
    tokenizer: NamingTokenizer,
    means: Means,
    config: FindConfig,
    progress: Progress = silent,
) -> TaskSearch | str:
    """What is searched, or why this tokenizer has no pairs of it."""
    try:
        subject = TaskSearch.of(model, task, tokenizer, means, config, progress)
    except UnsuitableTask as error:
        remarks = task.remarks(tokenizer, config.max_tokens)
        return f"{error}; {remarks}" if remarks else str(error)
    if subject.note:
        log.warning("%s: %s", task.name, subject.note)
    return subject


def find_task(subject: TaskSearch, out_dir: Path | None = None) -> TaskEntry:
    """Searches one task and returns its entry of report.json; circuits are saved under `out_dir/<task>/`."""
    start = time.perf_counter()
    entry = examined(subject)
    if entry.status != "bigram" and (entry.gate.passed or not subject.config.gate):
        found = searched(subject, aim(subject, entry.gate.passed))
        entry = judged(subject, entry, found)
        if out_dir is not None:  # an interruption until here leaves the circuits of an earlier search
            save(subject, found, out_dir)
    elif out_dir is not None:
        forget(out_dir / subject.task)
    return replace(entry, seconds=number(time.perf_counter() - start, "s", "measured"))


def unsuitable(task: Task, reason: str) -> TaskEntry:
    """The entry of a task that has no pairs with this tokenizer: nothing of it was measured."""

    def unknown(unit: str) -> Number:
        return number(None, unit, "measured", n=0)

    return TaskEntry(
        task=task.name,
        description=task.description,
        status="unsuitable",
        gate=ModelGate(
            passed=False,
            accuracy=unknown("fraction"),
            loss=unknown("nats"),
            raw_accuracy=unknown("fraction"),
            raw_loss=unknown("nats"),
            calibration=Scaling(scale=1.0, shift=0.0),
        ),
        empty=EmptyCircuit(loss=unknown("nats")),
        rejected={},
        example=example_of(next(task.examples())),
        circuits=(),
        note=reason,
    )


def example_of(text: PairText) -> ExamplePair:
    """A pair as the page shows it."""
    return ExamplePair(
        positive=text.positive.prompt,
        negative=text.negative.prompt,
        answer_positive=text.positive.answer,
        answer_negative=f"not {text.positive.answer}" if text.rest else text.negative.answer,
    )


def examined(subject: TaskSearch) -> TaskEntry:
    """The gate: model and empty circuit on held-out pairs; the entry of a task before any search."""
    (full, full_fit), (empty, empty_fit) = subject.full, subject.empty
    answers, nothing = full_fit.apply(full), empty_fit.apply(empty)
    limit, pairs = subject.config.target_loss, subject.pairs.heldout
    passed, is_bigram = float(task_loss(answers)) <= limit, float(task_loss(nothing)) <= limit
    return TaskEntry(
        task=subject.task,
        description=subject.description,
        status="bigram" if passed and is_bigram else "failed_by_model",
        gate=ModelGate(
            passed=passed,
            accuracy=subject.accuracy(answers),
            loss=subject.loss(answers),
            raw_accuracy=subject.accuracy(full),
            raw_loss=subject.loss(full),
            calibration=Scaling(scale=float(full_fit.scale), shift=float(full_fit.shift)),
            paraphrased=None if subject.paraphrased is None else paraphrased_gate(subject, subject.paraphrased),
        ),
        empty=EmptyCircuit(loss=subject.loss(nothing)),
        rejected=dict(pairs.rejected),
        example=example_of(pairs.texts[0]),
        circuits=(),
        note=subject.note,
    )


def paraphrased_gate(subject: TaskSearch, pairs: PairSet) -> ParaphrasedGate:
    """What the gate comes to on the task's second wording: the full model's loss, nats, with the shift of the first. ours"""
    raw = pair_answers(subject.model, pairs, subject.config.batch_size)
    answers = subject.full[1].apply(raw)
    return ParaphrasedGate(
        passed=float(task_loss(answers)) <= subject.config.target_loss,
        loss=subject.loss(answers, pairs),
        accuracy=subject.accuracy(answers, pairs),
        raw_accuracy=subject.accuracy(raw, pairs),
    )


def judged(subject: TaskSearch, entry: TaskEntry, found: Found) -> TaskEntry:
    """The entry of a task with the evidence for what was found.

    Args:
        entry: from `examined`.
    """
    circuits = []
    for i, (circuit, pruned) in enumerate(found.circuits):
        subject.progress("evidence", i, len(found.circuits))
        circuits.append(circuit_entry(subject, circuit, pruned, subject.path(*place(i, circuit))))
    if found.edges is not None:
        circuits[0] = replace(circuits[0], edge_circuit=edge_entry(subject, *found.edges))
    sets = [set(circuit.node_ids) for circuit, _ in found.circuits]
    good = [
        circuit
        for (circuit, _), shown in zip(found.circuits, circuits, strict=True)
        if meets_target(shown, subject.config)
    ]
    twin = None if found.twin is None else twin_entry(subject, found.twin)
    return replace(
        entry,
        status=entry.status if not entry.gate.passed else status(circuits, twin, subject.config),
        note="; ".join(filter(None, (entry.note, None if entry.gate.passed else GATE_OFF_NOTE))) or None,
        circuits=tuple(circuits),
        seeds=MaskSeeds(
            jaccard_nodes=number(jaccard(sets), "fraction", n=len(sets)),
            core_nodes=tuple(sorted(set.intersection(*sets) if sets else (), key=subject.space.number)),
            note=seeds_note(good, [size_of(subject.model, subject.space, circuit.keep) for circuit in good]),
            n_searches=subject.config.n_searches,
            n_candidates=number(found.n_candidates, "nodes", "measured"),
        ),
        nonsense_twin=twin,
        redundancy=None if found.disjoint is None else redundancy_entry(subject, found),
    )


def redundancy_entry(subject: TaskSearch, found: Found) -> Redundancy:
    """How many disjoint circuits were found, and what they share all the same."""
    disjoint = found.disjoint or ()
    heads, channels = list[set[str]](), list[set[int]]()
    for circuit in (found.circuits[0][0], *disjoint):
        drawn = drawing(subject.model, circuit, torch.zeros(subject.space.n_nodes), subject.token)
        of_heads = [(node.layer, head_of(node.kind, node.channel, drawn.d_head)) for node in drawn.nodes]
        heads.append({f"layer {layer}, head {head}" for layer, head in of_heads if head is not None})
        channels.append({node.channel for node in drawn.nodes if node.kind.endswith(("_in", "_out"))})
    entries = []
    for i, circuit in enumerate(disjoint):
        raw = circuit.uncalibrated.answers(subject.model, subject.pairs.heldout, batch_size=subject.config.batch_size)
        entries.append(
            DisjointCircuit(
                path=subject.path(disjoint_place(i)),
                n_nodes=number(circuit.n_nodes, "nodes"),
                n_edges=number(circuit.n_edges, "edges"),
                task_loss=subject.loss(subject.heldout_answers(circuit)),
                raw_accuracy=subject.accuracy(raw),
            )
        )
    return Redundancy(
        circuits=tuple(entries),
        exhausted=found.exhausted,
        n_disjoint=number(1 + len(disjoint), "circuits"),
        shared_heads=tuple(sorted(set.intersection(*heads))),
        shared_channels=tuple(sorted(set.intersection(*channels))),
    )


def meets_target(circuit: CircuitEntry, config: FindConfig) -> bool:
    """Whether a circuit reaches the target on held-out pairs, and does the task without any calibration too."""
    loss, accuracy = circuit.task_loss.value, circuit.raw.accuracy.value
    return loss is not None and loss <= config.target_loss and (accuracy or 0.0) >= config.min_raw_accuracy


def status(circuits: Sequence[CircuitEntry], twin: TwinEntry | None, config: FindConfig) -> TaskStatus:
    """How the search of a task that the model does ended; the first circuit is the task's."""
    if not circuits or not meets_target(circuits[0], config):
        return "no_circuit"
    size, twin_size = circuits[0].size.value or 0, None if twin is None else twin.size.value
    if twin_size is not None and twin_size < config.min_twin_ratio * size:
        return "like_nonsense"
    return "circuit"


def seeds_note(circuits: Sequence[Circuit], sizes: Sequence[int]) -> str:
    """Says that other circuits exist where seeds found several that meet the target; empty where they agree.

    Args:
        circuits: those that meet the target, the smallest first.
        sizes: of each.
    """
    if len({frozenset(circuit.node_ids) for circuit in circuits}) < 2:
        return ""
    best = circuits[0]
    equal = [circuit for circuit, size in zip(circuits, sizes, strict=True) if size == sizes[0]]
    if len({frozenset(circuit.node_ids) for circuit in equal}) > 1:
        shared = set.intersection(*(set(circuit.node_ids) for circuit in equal))
        return f"other circuits of this size exist: seeds share only {len(shared)} of {best.n_nodes} nodes"
    shared = set.intersection(*(set(circuit.node_ids) for circuit in circuits))
    return f"seeds found other, larger circuits: they share {len(shared)} of the smallest one's {best.n_nodes} nodes"


def circuit_entry(subject: TaskSearch, circuit: Circuit, pruned: Pruned, path: str) -> CircuitEntry:
    """One circuit's entry of the report: sufficiency, necessity, random circuits, other ways to delete."""
    config, model, space, keep = subject.config, subject.model, subject.space, circuit.keep
    seed, n_pairs, heldout = circuit.provenance.seed, config.n_random_pairs, subject.pairs.heldout
    (full, full_fit), (empty, empty_fit) = subject.full, subject.empty
    exam = Examination(
        model=model,
        circuit=circuit,
        inputs=CardInputs(fit=subject.pairs.val, heldout=heldout, alive=subject.means.alive),
        config=CardConfig(
            n_pairs=max(config.n_val, config.n_heldout),
            n_random=config.n_random,
            n_random_pairs=n_pairs,
            n_random_necessity=config.n_random_necessity,
            max_rows=config.prune.max_rows,
            seed=seed,
        ),
    )
    answers, linked = subject.heldout_answers(circuit), has_edges(model)
    edge_answers = {EDGE_ROW: subject.heldout_answers(circuit, "edge")} if linked else {}
    zeroed = exam.refitted(
        lambda pairs: exam.hooked_answers(pairs, exam.deleting(keep, torch.zeros_like(circuit.means)))
    )
    raw = circuit.uncalibrated.answers(model, heldout, batch_size=config.batch_size)
    reference = full_fit.apply(full)
    own, *losses = exam.once(random_circuits.losses)
    n_some = exam.some.n_distinct
    needed = necessity(full, empty, exam.without[None])
    others_needed = necessity(full[:n_pairs], empty[:n_pairs], exam.once(random_circuits.without)) or [float("nan")]
    random_needed = torch.tensor(others_needed, dtype=torch.float64)
    return CircuitEntry(
        seed=seed,
        path=path,
        n_nodes=number(circuit.n_nodes, "nodes", seed=seed),
        n_edges=number(circuit.n_edges, "edges", seed=seed) if linked else no_edges("edges"),
        task_loss=subject.loss(answers),
        val_loss=number(pruned.loss, "nats", n=subject.pairs.val.n_distinct),
        accuracy=subject.accuracy(answers),
        agreement=subject.agreement(answers, reference),
        raw=RawNumbers(loss=subject.loss(raw), accuracy=subject.accuracy(raw), agreement=subject.agreement(raw, full)),
        edge_task_loss=subject.loss(edge_answers[EDGE_ROW]) if linked else no_edges("nats"),
        calibration=Scaling(scale=float(circuit.calibration.scale), shift=float(circuit.calibration.shift)),
        necessity=number(needed[0] if needed else None, "fraction", n=heldout.n_distinct),
        necessity_random=RandomNecessity(
            mean=number(float(random_needed.mean()), "fraction", n=n_some, seed=seed),
            hi=number(float(random_needed.max()), "fraction", n=n_some, seed=seed),
            n=config.n_random_necessity,
        ),
        random=RandomLosses(
            n=config.n_random,
            n_beaten=number(sum(own < loss for loss in losses), "circuits", seed=seed, n=n_some),
            circuit_loss=number(own, "nats", n=n_some),
            removed=number(
                float(random_circuits.removed(exam.once(random_circuits.compared).T)), "fraction", seed=seed, n=n_some
            ),
            losses=tuple(losses),
            note=RANDOM_NOTE if linked else RANDOM_NODES_NOTE,
        ),
        biases=number(count_biases(model, space, keep), "biases") if linked else no_edges("biases"),
        graph=drawing(model, circuit, pruned.removal_loss, subject.token),
        ablations=tuple(
            AblationEntry(
                name=name,
                loss=number(float(task_loss(shown)), "nats", n=heldout.n_distinct),
                logit_diff=number(float(logit_diff(shown)), "logits", n=heldout.n_distinct),
            )
            for name, shown in (
                ("full model", reference),
                ("circuit: the rest at its mean", answers),
                ("circuit: the rest at zero", zeroed),
                *edge_answers.items(),
                ("full model without the circuit", full_fit.apply(exam.without)),
                ("empty circuit", empty_fit.apply(empty)),
            )
        ),
    )


def no_edges(unit: str) -> Number:
    """What rests on edges, in a model that has none."""
    return number(None, unit, note=NO_EDGES)


def edge_entry(subject: TaskSearch, circuit: Circuit, val_loss: float, reached: bool) -> EdgeCircuitEntry:
    """The entry of a circuit with fewer weights."""
    ends = {end for edge in circuit.edges for end in (edge.source, edge.target)}
    return EdgeCircuitEntry(
        path=subject.path("edges"),
        n_nodes=number(len(ends), "nodes", note="nodes at the end of a kept edge"),
        n_edges=number(circuit.n_edges, "edges"),
        reached=reached,
        task_loss=subject.loss(subject.heldout_answers(circuit, "edge")),
        val_loss=number(val_loss, "nats", n=subject.pairs.val.n_distinct),
    )


def twin_entry(subject: TaskSearch, pruned: Pruned) -> TwinEntry:
    """The nonsense twin's entry: how large a circuit for unrelated answers the same search finds.

    What misses the target is in no file (it may be most of the model), so its loss is marked as measured.
    """
    assert subject.twin is not None
    heldout, keep = subject.twin.heldout, pruned.keep
    answers = subject.ablated.answers(keep[None], heldout)[0]
    words = [side.answer for side in (heldout.texts[0].positive, heldout.texts[0].negative)]
    status = "recomputable" if pruned.reached else "measured"
    linked = has_edges(subject.model)
    n_edges = count_edges(subject.model, subject.space, keep) if pruned.reached and linked else None
    return TwinEntry(
        path=subject.path(TWIN) if pruned.reached else "",
        reached=pruned.reached,
        n_searches=subject.config.n_searches,
        n_candidates=number(pruned.n_candidates, "nodes", "measured"),
        n_nodes=number(int(keep.sum()) if pruned.reached else None, "nodes", status),
        n_edges=number(n_edges, "edges", status) if linked else no_edges("edges"),
        task_loss=number(float(task_loss(pruned.calibration.apply(answers))), "nats", status, n=heldout.n_distinct),
        note=f"answers {words[0]!r} and {words[1]!r}, same prompts, same budget",
    )
