"""Views of what sparsetrain itself reports: training, data, sparsity, representation."""

from collections.abc import Mapping
from typing import Any

from sparsetrain.report import value_of
from sparsetrain.report.blocks import (
    Block,
    Column,
    Curve,
    Details,
    Grid,
    KeyNumber,
    KeyNumbers,
    Lines,
    Reference,
    Table,
    Text,
    Tile,
    View,
    format_number,
    note_of,
)
from sparsetrain.report.sparsity_page import measurement, representation
from sparsetrain.report.studies import study

BIGRAM_MARGIN = 0.2  # nats/token; ours: less than this below a bigram table and the weights have learned little


def training(data: Mapping[str, Any]) -> list[Block]:
    """Loss against a bigram table, and the curves of the run."""
    loss, bigram = data["val_loss"], data.get("bigram_loss", {})
    mixed, table = value_of(loss.get("mixed")), value_of(bigram.get("mixed"))
    blocks: list[Block] = []
    if mixed is not None and table is not None:
        blocks.append(
            Tile(
                label="Validation loss",
                value=loss["mixed"],
                tone="pass" if mixed <= table - BIGRAM_MARGIN else "fail",
                note=f"a smoothed bigram table reaches {format_number(table)}; "
                f"to pass, the model must be {BIGRAM_MARGIN} below",
            )
        )
    names = {"val_loss": "validation loss", "n_steps": "steps", "n_tokens": "training tokens"}
    names |= {"n_params": "parameters", "tokens_per_s": "tokens/s"}
    items = [_key("validation loss", loss["mixed"])] if "mixed" in loss else []
    items += [_key("bigram table", bigram["mixed"])] if "mixed" in bigram else []
    # the label already says the unit of a count
    items += [
        KeyNumber(label=names[name], value=value_of(data[name]), note=note_of(data[name]))
        for name in ("n_tokens", "n_steps", "n_params", "tokens_per_s")
        if name in data
    ]
    blocks.append(KeyNumbers(items=tuple(items)))
    sources = [name for name in loss if name != "mixed"]
    if sources:
        columns = (
            Column(label="Source"),
            Column(label="Validation loss", form="number"),
            Column(label="Bigram table", form="number"),
        )
        rows = tuple((name, loss[name], bigram.get(name)) for name in ["mixed", *sources] if name in loss)
        blocks.append(Table(title="Loss by source, nats/token", columns=columns, rows=rows))
    blocks += _training_curves(data.get("curves", {}), table)
    notes = [f"Loss: {data['loss_convention']}." if data.get("loss_convention") else ""]
    notes += [f"Bigram table for comparison: {bigram['smoothing']}." if bigram.get("smoothing") else ""]
    notes += [
        f"The model's own bigram table: {bigram['model_bigram_init']}." if bigram.get("model_bigram_init") else ""
    ]
    note = " ".join(text.replace("..", ".") for text in notes if text)
    return blocks + ([Text(text=note, tone="note")] if note else [])


def _training_curves(curves: Mapping[str, Any], bigram: float | None) -> list[Block]:
    blocks: list[Block] = []
    losses = [_curve(name.replace("_loss", ""), curves[name]) for name in ("train_loss", "val_loss") if name in curves]
    if losses:
        references = (Reference(label="bigram table", value=bigram),) if bigram is not None else ()
        blocks.append(
            Lines(title="Loss", x_label="step", y_label="nats/token", curves=tuple(losses), references=references)
        )
    small = {
        "density": Lines(title="Density", x_label="step", y_label="nonzeros / entries", curves=(), log_y=True),
        "tokens_per_s": Lines(title="Speed", x_label="step", y_label="tokens/s", curves=()),
        "lr": Lines(title="Learning rate", x_label="step", y_label="learning rate", curves=()),
    }
    grid = [
        Lines(
            title=lines.title,
            x_label=lines.x_label,
            y_label=lines.y_label,
            log_y=lines.log_y,
            curves=(_curve(name.replace("_per_s", "/s"), curves[name]),),
        )
        for name, lines in small.items()
        if name in curves
    ]
    by_source = [_curve(name.partition("/")[2], curves[name]) for name in curves if name.startswith("val_loss/")]
    if len(by_source) > 1:
        title = "Validation loss by source"
        blocks.append(Lines(title=title, x_label="step", y_label="nats/token", curves=tuple(by_source)))
    known = {"train_loss", "val_loss", *small}
    grid += [
        Lines(title=name, x_label="step", y_label=name, curves=(_curve(name, curves[name]),))
        for name in curves
        if name not in known and not name.startswith("val_loss/")
    ]
    return blocks + ([Grid(blocks=tuple(grid))] if grid else [])


def _curve(name: str, data: Mapping[str, Any]) -> Curve:
    return Curve(
        name=name,
        x=tuple(data["step"]),
        y=tuple(data["value"]),
        lo=tuple(data.get("lo") or ()),
        hi=tuple(data.get("hi") or ()),
    )


def _key(label: str, value: Any) -> KeyNumber:
    return KeyNumber(label=label, value=value, note=note_of(value))


def data(section: Mapping[str, Any]) -> list[Block]:
    """What the model was trained on."""
    tokenizer = section.get("tokenizer", {})
    items = [_key("synthetic share of the text", section["synthetic_share"])] if "synthetic_share" in section else []
    items += [_key("tokens in the vocabulary", tokenizer["d_vocab"])] if "d_vocab" in tokenizer else []
    items += [_key("characters per token", tokenizer["chars_per_token"])] if "chars_per_token" in tokenizer else []
    blocks: list[Block] = [KeyNumbers(items=tuple(items))] if items else []
    sources = section.get("sources", {})
    splits = list(dict.fromkeys(split for source in sources.values() for split in source.get("n_tokens", {})))
    splits.sort(key=lambda split: (split != "train", split))
    columns = (
        Column(label="Source"),
        Column(label="Kind", form="status"),
        Column(label="Weight", form="number", unit="fraction", help="share of the training tokens from this source"),
        Column(label="Documents", form="number"),
        *(Column(label=f"Tokens, {split}", form="number") for split in splits),
        Column(label="Skipped", form="number", help="files left out, with the reason, listed below"),
    )
    rows = []
    for name, source in sources.items():
        docs = source.get("n_docs")
        n_docs = sum(docs.values()) if isinstance(docs, Mapping) else docs
        counts = (source.get("n_tokens", {}).get(split) for split in splits)
        kind = "synthetic" if source.get("synthetic") else "real"
        rows.append((name, kind, source.get("weight"), n_docs, *counts, source.get("n_skipped", 0)))
    if rows:
        blocks.append(Table(title="Sources", columns=columns, rows=tuple(rows)))
    skipped = [
        (name, entry["name"], entry["reason"])
        for name, source in sources.items()
        for entry in source.get("skipped", [])
    ]
    if skipped:
        columns = (Column(label="Source"), Column(label="File", form="code"), Column(label="Reason"))
        table = Table(columns=columns, rows=tuple(skipped), limit=50)
        n = "1 skipped file" if len(skipped) == 1 else f"{len(skipped):,} skipped files"
        blocks.append(Details(summary=n, blocks=(table,)))
    if section.get("content_hash"):
        blocks.append(Text(text=f"Content hash of the token files: {section['content_hash']}", tone="note"))
    return blocks


def sparsity(section: Mapping[str, Any]) -> list[Block]:
    """Whether every sparse tensor has exactly the nonzeros it may have."""
    tensors = section.get("tensors", [])
    method = section.get("method")
    words = method if isinstance(method, str) else ", ".join(f"{key} {word}" for key, word in (method or {}).items())
    if not tensors:
        return [Text(text=f"No tensor of this model is sparse (method: {words or 'none'}).")]
    exact = sum(bool(tensor["exact"]) for tensor in tensors)
    columns = (
        Column(label="Tensor", form="code"),
        Column(label="Shape"),
        Column(label="Target density", form="number", help="nonzeros / entries asked for"),
        Column(label="Nonzeros", form="number"),
        Column(label="Budget", form="number", help="nonzeros allowed: target density x entries, rounded down"),
        Column(label="Entries", form="number"),
        Column(label="Floor", form="number", help="nonzeros that each unit keeps at least"),
        Column(label="Exact", form="status", tones={"yes": "pass", "no": "fail"}),
    )
    rows = tuple(
        (
            tensor["name"],
            " × ".join(map(str, tensor["shape"])),
            tensor.get("density_target"),
            tensor["nonzeros"],
            tensor.get("budget"),
            tensor.get("entries"),
            tensor.get("floor"),
            "yes" if tensor["exact"] else "no",
        )
        for tensor in tensors
    )
    return [
        Tile(
            label="Tensors exactly at their density",
            value=f"{exact} of {len(tensors)}",
            tone="pass" if exact == len(tensors) else "fail",
            note="nonzeros counted in the exported weights",
        ),
        Text(text=f"Method: {words}. Density is nonzeros / entries; each tensor below was counted after export."),
        Table(columns=columns, rows=rows),
    ]


VIEWS: dict[str, View] = {
    "study": study,
    "training": training,
    "sparsity": sparsity,
    "representation": representation,
    "measurement": measurement,
    "data": data,
}
"""The views of sparsetrain in reading order; the entry point adds those of others."""
