"""A shipped model's card: what it is, how it was made, of which text, what it does, what its circuits are, and what it cannot tell."""

from circuits.zoo.member import ZooModel
from circuits.zoo.tables import circuits_table, gate_words
from sparsetrain.data import DataSection
from sparsetrain.report.blocks import MISSING, Column, Table, format_number
from sparsetrain.report.markdown import render_block
from sparsetrain.report.sections import TrainingSection
from sparsetrain.shipped import PREFIX


def card(member: ZooModel, about: str) -> str:
    """The model's card, markdown."""
    report, run = member.report, member.report.run
    training, data = report.section("training", TrainingSection), report.section("data", DataSection)
    minutes = {stage.name: (stage.seconds.value or 0) / 60 for stage in report.stages}
    losses = Table(
        columns=tuple(
            Column(label=label)
            for label in ("text", "share of training", "nats/token", "bits/char", "bigram table, bits/char")
        ),
        rows=tuple(_losses(training, data, source) for source in (*data.sources, "mixed")),
    )
    nonzeros = member.n_nonzeros
    misses = [task for task in member.tasks if not task.is_solved and task.status != "unsuitable"]
    lacking = "; ".join(f"`{task.task}` ({gate_words(task)})" for task in misses)
    parts = [
        f"# {PREFIX}{member.name}",
        about,
        "## What it is",
        f"A causal transformer: {member.shape}, context {member.model.config.n_ctx}, vocabulary {member.model.config.d_vocab:,} (byte-level BPE), with a table of bigrams. "
        f"{nonzeros['all']:,} nonzero parameters beside that table, {nonzeros['blocks']:,} of them in the blocks. The export has {member.n_bytes / 1e6:.1f} MB: nonzero values as they are, "
        f"the table of bigrams rounded to 256 levels a row; everything said here is of the rounded model. Weights' SHA-256: `{member.weights_sha256}`.",
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
        f"{len(member.done)} of {len(member.tasks)} on held-out pairs, by the full model's loss after one shift per task (target {member.target_loss} nats): "
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
    cards = f"python scripts/find_circuits.py run=runs/quickstart/<stamp> circuits.most={n_searched} card=quick"
    return [member.report.run.command, *([cards] if judged else [])]


def _losses(training: TrainingSection, data: DataSection, source: str) -> tuple[str, ...]:
    share = data.sources[source].weight if source in data.sources else None
    numbers = (
        training.val_loss.get(source),
        training.bits_per_char.get(source),
        training.bigram_bits_per_char.get(source),
    )
    words = (MISSING if number is None else format_number(number.value) for number in numbers)
    return (source, MISSING if share is None else format_number(share, "fraction"), *words)
