"""The card of a Hub repository (README.md), from an export's config.json and meta.json and, where there is one, the report of its run."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sparsetrain.hooks import NODE_KINDS
from sparsetrain.model import Transformer
from sparsetrain.report import Report
from sparsetrain.report.blocks import MISSING, Column, Table, Value, format_number
from sparsetrain.report.markdown import render_block
from sparsetrain.report.sections import TrainingSection

FACTS = {
    "name": "experiment",
    "step": "steps",
    "n_tokens": "training tokens",
    "seed": "seed",
    "schedule": "schedule",
    "corpus_hash": "corpus",
    "version": "sparsetrain",
    "weights_sha256": "SHA-256 of the export's weights",
}
"""Key of meta.json -> what the card calls it; others stand under their own names."""


def card(
    name: str,
    place: str,
    model: Transformer,
    meta: Mapping[str, Any],
    *,
    report: Report | None = None,
    licence: str = "",
    more: Sequence[str] = (),
) -> str:
    """The page, markdown with the hub's header.

    Args:
        name: its title.
        place: what it is loaded from, `<owner>/<name>` or a folder.
        model: its weights.
        meta: meta.json of the export.
        report: of the run that these weights are of; None: nothing is said of losses.
        licence: as the hub writes it (`mit`, `apache-2.0`); empty: the header says none.
        more: further paragraphs, of circuits for instance.
    """
    head = ["---", "library_name: transformers", "pipeline_tag: text-generation"]
    head += [f"license: {licence}"] if licence else []
    head += ["tags:", "- sparsetrain", "- weight-sparse", "- mechanistic-interpretability", "---"]
    config = model.config
    positions = {"none": "no positions", "learned": "learned positions, added", "concat": f"{config.d_pos} channels of learned positions, read by every layer and written by none"}  # fmt: skip
    parts = [
        "\n".join(head),
        f"# {name}",
        f"A causal transformer trained with sparse weights by sparsetrain: {config.n_layer} layers of {config.d_model}, {config.heads} heads of {config.d_head}, "
        f"{config.mlp_width} neurons a layer, {config.d_vocab:,} tokens, context {config.n_ctx}; RMSNorm, {positions[config.positions]}, "
        f"attention {'with' if config.sink else 'without'} a learned sink, {'a' if config.bigram else 'no'} table of bigrams added to the logits.",
        "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f"model = AutoModelForCausalLM.from_pretrained({json.dumps(place)}, trust_remote_code=True)\n"
        f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(place)}, trust_remote_code=True)\n```",
        "Loading runs `modeling_sparsetrain.py` of this repository. It was made out of sparsetrain's sources and needs torch and transformers alone. Every hook point is a module "
        "(`model.model.blocks[0].attn.hook_q`), so any tool that watches modules sees it.",
        "## AbsTopK",
        _abs_topk(model),
        "## Weights",
        render_block(_weights(model)),
        "## Training",
        render_block(_facts(meta)),
        *_losses(report),
        *more,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _abs_topk(model: Transformer) -> str:
    """The places that keep the largest magnitudes of a row alone."""
    config = model.config
    on = [kind for kind in NODE_KINDS if config.k(kind) < config.width(kind)]
    if not on:
        return "Nowhere: activations are what the weights make them."
    rows: list[tuple[Value, ...]] = [(kind, config.k(kind) if kind in on else MISSING, config.width(kind)) for kind in NODE_KINDS]  # fmt: skip
    labels = ("place in every block", "channels kept, by magnitude", "of")
    return render_block(Table(columns=tuple(Column(label=label) for label in labels), rows=tuple(rows)))


def _weights(model: Transformer) -> Table:
    """Nonzero entries of each kind of tensor."""
    counts: dict[str, list[int]] = {}
    for name, p in model.named_parameters():
        kind = ".".join(part for part in name.split(".") if not part.isdecimal())
        found = counts.setdefault(kind, [0, 0])
        found[0] += int(p.count_nonzero())
        found[1] += p.numel()
    rows: list[tuple[Value, ...]] = [(kind, f"{nonzero:,}", f"{n:,}", f"{nonzero / n:.4g}") for kind, (nonzero, n) in counts.items()]  # fmt: skip
    labels = ("tensors", "nonzero", "entries", "density")
    return Table(columns=tuple(Column(label=label) for label in labels), rows=tuple(rows))


def _facts(meta: Mapping[str, Any]) -> Table:
    """What meta.json says."""
    keys = [*(key for key in FACTS if key in meta), *(key for key in meta if key not in FACTS)]
    rows: list[tuple[Value, ...]] = [(FACTS.get(key, key), _word(meta[key])) for key in keys]
    return Table(columns=(Column(label="of the training"), Column(label="")), rows=tuple(rows))


def _word(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return MISSING if value is None else str(value).lower()
    return f"{value:,}" if isinstance(value, int) else str(value)


def _losses(report: Report | None) -> list[str]:
    """Losses on validation text, beside a table of bigrams fitted on the same tokens."""
    if report is None or "training" not in report.sections:
        return []
    training = report.section("training", TrainingSection)
    rows: list[tuple[Value, ...]] = []
    for source, loss in training.val_loss.items():
        bits, table = training.bits_per_char.get(source), training.bigram_loss.get(source)
        rows.append(
            (
                source,
                format_number(loss.value),
                MISSING if bits is None else format_number(bits.value),
                MISSING if table is None or isinstance(table, str) else format_number(table.value),
            )
        )
    labels = ("validation text", "nats/token", "bits/char", "bigram table, nats/token")
    return ["## Loss", render_block(Table(columns=tuple(Column(label=label) for label in labels), rows=tuple(rows))), f"Command: `{report.run.command}`."]  # fmt: skip
