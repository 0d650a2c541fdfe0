"""The models that ship with the package (`sparsetrain.shipped`): what they are, what they do, what their circuits say; and how a run becomes one.

1. `ZooModel` is a shipped model as its report has it; `recomputed` is the same with every number of its circuits computed again from its files.
2. `tables` are those of docs/circuits.md: the models, their tasks, their circuits.
3. `ship` copies what is needed of a run's folder, and writes the model's card.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from circuits.run import KINDS
from circuits.section import CircuitEntry, CircuitsSection, TaskEntry, card_verdict
from circuits.verify import VerifiedRun, recompute
from circuits.views.baselines import sizes_by_ranking
from circuits.views.tasks import STATUS
from sparsetrain.data import DataSection
from sparsetrain.export import latest_export, load_model
from sparsetrain.model import Transformer
from sparsetrain.report import Report, load_report
from sparsetrain.report.blocks import MISSING, Block, Column, Table, format_number
from sparsetrain.report.markdown import render_block
from sparsetrain.report.sections import TrainingSection
from sparsetrain.shipped import PREFIX, zoo_dir
from sparsetrain.stats.number import Number
from sparsetrain.store import write_atomic

MAX_EXPORT = 6_000_000
"""Bytes of an export that ships: a wheel is to stay below 40 MB. ours"""
_KEPT = ("config.yaml", "job.json", "metrics.csv", "report.json")
_BLOCKS = "blocks."


@dataclass(frozen=True, kw_only=True)
class ZooModel:
    """A shipped model.

    Args:
        name: without `zoo:`.
        folder: where it lies.
        model: its weights.
        report: of its run.
    """

    name: str
    folder: Path
    model: Transformer
    report: Report

    @classmethod
    def load(cls, name: str, folder: Path) -> "ZooModel":
        """From a folder of the zoo, or of a run.

        Raises:
            FileNotFoundError: no export or no report there.
            ValueError: the report is about other weights, or says nothing of circuits.
        """
        report, run = load_report(folder / "report.json", KINDS), latest_export(folder)
        if not {"circuits", "training", "data"} <= set(report.sections):
            raise ValueError(f"{folder}: its report lacks training, data or circuits, so there is little to say of it")
        return cls(name=name, folder=folder, model=load_model(run), report=report)

    @property
    def tasks(self) -> tuple[TaskEntry, ...]:
        """What is said of each task."""
        return self.report.section("circuits", CircuitsSection).tasks

    @property
    def done(self) -> list[str]:
        """Tasks that the model does on held-out pairs, and not by the current token alone."""
        return [task.task for task in self.tasks if task.is_solved]

    @property
    def n_bytes(self) -> int:
        """Of the export's files."""
        return sum(path.stat().st_size for path in latest_export(self.folder).iterdir())

    @property
    def n_nonzeros(self) -> dict[str, int]:
        """Nonzero parameters: in the `blocks`, and in `all` but the bigram table."""
        counts = {name: int(p.count_nonzero()) for name, p in self.model.named_parameters() if "bigram" not in name}
        return {"blocks": sum(n for name, n in counts.items() if name.startswith(_BLOCKS)), "all": sum(counts.values())}

    @property
    def shape(self) -> str:
        """Depth, width, density and AbsTopK in words."""
        config, weights = (
            self.model.config,
            [p for n, p in self.model.named_parameters() if n.startswith(_BLOCKS) and p.ndim == 2],
        )
        density = sum(int(p.count_nonzero()) for p in weights) / sum(p.numel() for p in weights)
        words = "dense weights" if density > 0.99 else f"weights 1/{1 / density:.0f}"
        shares = {share for share in config.abs_topk.values() if share < 1}
        topk = f", AbsTopK {' or '.join(f'1/{1 / share:.0f}' for share in sorted(shares))}" if shares else ""
        return f"{config.n_layer} layers of {config.d_model}, {words}{topk}"

    def recomputed(self) -> "ZooModel":
        """The same with the whole section of circuits computed again: from weights, means, texts and the nodes of saved circuits."""
        torch.set_num_threads(self.report.run.n_threads)
        run = VerifiedRun.load(self.folder)
        section = self.report.section("circuits", CircuitsSection)
        tasks = tuple(recompute(run, task.task)[0] for task in section.tasks)
        return replace(self, report=self.report.plus(circuits=replace(section, tasks=tasks)))


def models_table(models: Sequence[ZooModel]) -> Table:
    """A row per model: what it is, how well it reads, how much it does."""
    labels = (
        "model", "what it is", "export, MB", "nonzeros", "of them in the blocks", "bits/char, real code", "tasks", "circuits", "cards that pass",
    )  # fmt: skip
    rows = []
    for member in models:
        bits = member.report.section("training", TrainingSection).bits_per_char
        found = [task for task in member.tasks if task.status == "circuit"]
        cards = [verdict for task in member.tasks if (verdict := _card(task)) != MISSING]
        rows.append(
            (
                f"{PREFIX}{member.name}",
                member.shape,
                f"{member.n_bytes / 1e6:.1f}",
                *(f"{member.n_nonzeros[place]:,}" for place in ("all", "blocks")),
                f"{bits['stdlib'].value:.2f}" if "stdlib" in bits else MISSING,
                f"{len(member.done)} of {len(member.tasks)}",
                f"{len(found)} of {sum(bool(task.circuits or task.nonsense_twin) for task in member.tasks)} searched",
                f"{cards.count('passes')} of {len(cards)}",
            )
        )
    return Table(columns=tuple(Column(label=label) for label in labels), rows=tuple(rows))


def gates_table(models: Sequence[ZooModel]) -> Table:
    """Task by model: the full model's calibrated loss on held-out pairs, and where it misses the target how often it is right."""
    names = list(dict.fromkeys(task.task for member in models for task in member.tasks))
    rows = []
    for name in names:
        entries = [next((task for task in member.tasks if task.task == name), None) for member in models]
        rows.append((name, *map(_gate, entries)))
    columns = (Column(label="task"), *(Column(label=member.name) for member in models))
    return Table(columns=columns, rows=tuple(rows))


def _gate(task: TaskEntry | None) -> str:
    if task is None or task.status == "unsuitable":
        return MISSING
    loss = _nats(task.gate.loss)
    if task.status == "bigram":
        return "bigram"
    return loss if task.gate.passed else f"misses: {loss}, right {format_number(task.gate.raw_accuracy)}"


def circuits_table(models: Sequence[ZooModel]) -> Table:
    """A row per circuit: calibrated numbers beside raw ones, its twin, its card."""
    labels = (
        "model", "task", "model's loss, raw accuracy", "nodes", "edges", "loss", "raw loss", "raw accuracy", "agreement (raw)", "twin's edges",
        "shown as", "worst restored unit", "card",
    )  # fmt: skip
    rows = [
        (member.name, task.task, *_circuit(task, task.circuits[0]))
        for member in models
        for task in member.tasks
        if task.circuits
    ]
    return Table(columns=tuple(Column(label=label) for label in labels), rows=tuple(rows))


def _circuit(task: TaskEntry, circuit: CircuitEntry, target: float) -> tuple[str, ...]:
    twin, agreement = task.nonsense_twin, (circuit.agreement.value, circuit.raw.agreement.value)
    twins = MISSING if twin is None else format_number(twin.n_edges.value) if twin.reached else "none found"
    restored = [entry.value for entry in circuit.card or () if entry.name == "worst restored unit"]
    return (
        f"{_nats(task.gate.loss)}, {format_number(task.gate.raw_accuracy)}",
        format_number(circuit.n_nodes.value),
        format_number(circuit.n_edges.value),
        _nats(circuit.task_loss),
        _nats(circuit.raw.loss),
        format_number(circuit.raw.accuracy),
        "{} ({})".format(*(format_number(value, "fraction") for value in agreement)),
        twins,
        _shown_as(task, circuit, target),
        _nats(restored[0]) if restored else MISSING,
        _card(task),
    )


def _shown_as(task: TaskEntry, circuit: CircuitEntry, target: float) -> str:
    if task.status != "no_circuit":
        return STATUS[task.status][0]
    missed = circuit.task_loss.value is None or circuit.task_loss.value > target
    return "misses the target on held-out pairs" if missed else "right too seldom without calibration"


def _nats(number: Number) -> str:
    return MISSING if number.value is None else f"{number.value:.3f}"


def _card(task: TaskEntry) -> str:
    card = task.circuits[0].card if task.circuits else None
    return (
        MISSING if not card else {"pass": "passes", "fail": "fails", "not enough data": "undecided"}[card_verdict(card)]
    )


def rankings_table(models: Sequence[ZooModel]) -> Table | None:
    """Edges of circuits by other rankings of the nodes, of the tasks for which there are any."""
    judged = [(member, task) for member in models for task in member.tasks if task.baselines]
    methods = list(dict.fromkeys(ranked.method for _, task in judged for ranked in task.baselines or ()))
    columns = (
        Column(label="model"),
        Column(label="task"),
        Column(label="learned"),
        *(Column(label=method) for method in methods),
    )
    rows = tuple((member.name, *sizes_by_ranking(task, methods)) for member, task in judged)
    return Table(columns=columns, rows=rows) if rows else None


def tables(models: Sequence[ZooModel]) -> dict[str, str]:
    """The tables of docs/circuits.md as markdown, by name."""
    made: dict[str, Block | None] = {
        "models": models_table(models),
        "tasks": gates_table(models),
        "circuits": circuits_table(models),
        "rankings": rankings_table(models),
    }
    return {name: render_block(block) for name, block in made.items() if block is not None}


def row_differences(stored: str, made: str) -> list[tuple[str, str]]:
    """Lines of a table that differ, in pairs; an empty one stands for a line that the other has not."""
    old, new = stored.strip().splitlines(), made.strip().splitlines()
    longer = max(len(old), len(new))
    pairs = zip([*old, *[""] * (longer - len(old))], [*new, *[""] * (longer - len(new))], strict=True)
    return [(a, b) for a, b in pairs if a != b]


def ship(run: Path, name: str, about: str) -> Path:
    """Makes a finished run a model of the zoo.

    Args:
        run: its folder; it was trained with `callbacks.export_packed=true`, so that what was read is what ships.
        name: in the zoo.
        about: what it is there for, a sentence or two for the card.

    Returns:
        Its folder.

    Raises:
        ValueError: an export that is too large, or a name that is taken.
    """
    member, folder = ZooModel.load(name, run), zoo_dir() / name
    if folder.exists():
        raise ValueError(f"name={name}: {folder} is there already; remove it first")
    if member.n_bytes > MAX_EXPORT:
        raise ValueError(
            f"add={run}: its export has {member.n_bytes / 1e6:.1f} MB, at most {MAX_EXPORT / 1e6:.0f} ship; train with callbacks.export_packed=true"
        )
    export = latest_export(run)
    shutil.copytree(export, folder / export.relative_to(run))
    shutil.copytree(run / "circuits", folder / "circuits")
    for file in _KEPT:
        if (run / file).is_file():
            shutil.copy2(run / file, folder / file)
    write_atomic(folder / "README.md", card(replace(member, folder=folder), about).encode())
    return folder


def card(member: ZooModel, about: str) -> str:
    """The model's card, markdown."""
    run, training, data = (
        member.report.run,
        member.report.section("training", TrainingSection),
        member.report.section("data", DataSection),
    )
    minutes = {stage.name: (stage.seconds.value or 0) / 60 for stage in member.report.stages}
    losses = Table(
        columns=tuple(
            Column(label=label)
            for label in ("text", "share of training", "nats/token", "bits/char", "bigram table, bits/char")
        ),
        rows=tuple(_losses(training, data, source) for source in (*data.sources, "mixed")),
    )
    nonzeros = member.n_nonzeros
    misses = [task for task in member.tasks if not task.is_solved and task.status != "unsuitable"]
    lacking = "; ".join(f"`{task.task}` ({_gate(task)})" for task in misses)
    parts = [
        f"# {PREFIX}{member.name}",
        about,
        "## What it is",
        f"A causal transformer: {member.shape}, context {member.model.config.n_ctx}, vocabulary {member.model.config.d_vocab:,} (byte-level BPE), with a table of bigrams. "
        f"{nonzeros['all']:,} nonzero parameters beside that table, {nonzeros['blocks']:,} of them in the blocks. The export has {member.n_bytes / 1e6:.1f} MB: nonzero values as they are, "
        f"the table of bigrams rounded to 256 levels a row; everything said here is of the rounded model. Weights' SHA-256: `{member.report.weights.sha256 if member.report.weights else ''}`.",
        f'```python\nfrom sparsetrain.export import load_model\n\nmodel = load_model("{PREFIX}{member.name}")\n```',
        "## How it was made",
        "```sh\n" + "\n".join(_commands(member)) + "\n```",
        f"sparsetrain {run.version}, torch {run.torch}, seed {run.seed}, {run.n_threads} CPU thread{'s' if run.n_threads > 1 else ''}: {minutes.get('training', 0):.0f} minutes of training "
        f"({format_number(training.n_tokens.value)} tokens), {sum(minutes.values()):.0f} in all. Another machine's Python has another standard library and rounds otherwise, so the command gives a like model, not this one.",
        "## Data",
        "Training text: the standard library of CPython 3.11 as it was installed (`stdlib`), and Python statements made by the project's own generator (`idioms`). Corpus: "
        f"`{data.content_hash}`.",
        render_block(losses),
        "## Tasks",
        f"{len(member.done)} of {len(member.tasks)} on held-out pairs, by the full model's loss after one shift per task (target 0.15 nats): "
        + ", ".join(f"`{name}`" for name in member.done)
        + ".",
        f"Not: {lacking}." if lacking else "",
        "## Circuits",
        render_block(circuits_table([member])),
        f"All of it is computed again by `python scripts/verify_report.py run={PREFIX}{member.name}`; `python scripts/report.py run={PREFIX}{member.name}` draws the page.",
        "## Limits",
        "A small model of one programming language, trained for minutes: it completes templates of Python, knows nothing else, and writes no working programs. A circuit that pruning finds is enough "
        "for its task on one template of prompts; it need not be the only one, nor what the model does elsewhere. Numbers rest on one seed.",
        "## Licences",
        "Weights, circuits and generated text: MIT, as the project. The windows of text in `circuits/text_windows.safetensors`, in `circuits/*/viewer.json` and in `report.json` are excerpts of CPython's standard library, "
        "Copyright Python Software Foundation, under the PSF License Version 2 (parts of the library have notices of their own).",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _commands(member: ZooModel) -> list[str]:
    """The training, and the cards where there are any."""
    judged = any(circuit.card for task in member.tasks for circuit in task.circuits)
    n_searched = sum(bool(task.circuits or task.nonsense_twin) for task in member.tasks)
    cards = (
        f"python scripts/find_circuits.py run=runs/quickstart/<stamp> task=all circuits.most={n_searched} card=quick"
    )
    return [member.report.run.command, *([cards] if judged else [])]


def _losses(training: TrainingSection, data: DataSection, source: str) -> tuple[Any, ...]:
    share = data.sources[source].weight if source in data.sources else None
    numbers = (
        training.val_loss.get(source),
        training.bits_per_char.get(source),
        training.bigram_bits_per_char.get(source),
    )
    words = (MISSING if number is None else format_number(number.value) for number in numbers)
    return (source, MISSING if share is None else format_number(share, "fraction"), *words)
