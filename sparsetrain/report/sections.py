"""Views of what sparsetrain itself reports: training, data, sparsity, representation, a pool of demonstrations."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sparsetrain.curriculum.section import CurriculumSection
from sparsetrain.data import DataSection
from sparsetrain.export import Ancestor
from sparsetrain.report import Kinds, SectionKind
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
    Value,
    format_number,
    note_of,
)
from sparsetrain.report.curriculum_page import curriculum
from sparsetrain.report.sparsity_page import measurement, representation
from sparsetrain.representation.section import MeasurementSection, RepresentationSection
from sparsetrain.sparsity import DeadUnits, SparsitySection
from sparsetrain.stats.bits import CONVENTION, UNIT
from sparsetrain.stats.number import Number, StepCurve

BIGRAM_MARGIN = 0.2  # nats/token; ours: less than this below a bigram table and the weights have learned little


@dataclass(frozen=True, kw_only=True)
class LineageEntry:
    """Where the weights come from that a training started from."""

    ancestors: tuple[Ancestor, ...]
    """The trainings behind them, the first one first."""
    schedule: str
    """Of this training, in words."""
    n_tokens: Number
    """Training tokens of all of them and of this one."""
    first_batch: int
    """Number of this training's first batch in its stream: behind the last one of an ancestor of the same corpus and seed; 0: the beginning."""
    changed: tuple[str, ...]
    """Settings of the model that differ from those of the last ancestor."""


@dataclass(frozen=True, kw_only=True)
class TimeBudget:
    """The time that a training was given instead of a number of steps (`trainer.minutes`)."""

    given: Number
    step: Number
    """What a step takes: the number of steps is `given` over this."""
    step_median: Number
    """Far above `step`: the machine was busy while it was timed."""
    trained: Number
    """What the steps took in the end, alone."""


@dataclass(frozen=True, kw_only=True)
class DeadEntry:
    """Neurons and attention channels of the finished model that compute nothing of the text (`sparsetrain/sparsity/dead.py`)."""

    share: Number
    """Dead units / units."""
    units: DeadUnits
    """Counts, by hook point and reason."""


@dataclass(frozen=True, kw_only=True)
class TrainingSection:
    """What one training reached, and how fast."""

    n_steps: Number
    n_tokens: Number
    tokens_per_s: Number
    n_params: int
    loss_convention: str
    val_loss: Mapping[str, Number]
    """`mixed` in the training mixture, and per source."""
    bigram_loss: Mapping[str, Number | str]
    """Of a bigram table fitted on the same tokens; in words its `smoothing`, and `model_bigram_init`: where the model's own began."""
    bits_per_char: Mapping[str, Number] = field(default_factory=dict[str, Number])
    """`val_loss` per character of the predicted tokens, which models of different vocabularies can be compared by; empty in runs before there was any."""
    bigram_bits_per_char: Mapping[str, Number] = field(default_factory=dict[str, Number])
    """The same of the bigram table."""
    lineage: LineageEntry | None = None
    """None: the weights were drawn."""
    curves: Mapping[str, StepCurve]
    """Scalars of metrics.csv: `train_loss val_loss val_loss/<source> val_bits_per_char val_bits_per_char/<source> density lr tokens_per_s
    dead_units/<what>`."""
    budget: TimeBudget | None = None
    dead: DeadEntry | None = None
    """None in runs before there was any."""


def training(data: TrainingSection) -> list[Block]:
    """Loss against a bigram table, and the curves of the run."""
    loss, bigram = data.val_loss, data.bigram_loss
    mixed, baseline = loss["mixed"], bigram["mixed"]
    assert isinstance(baseline, Number) and baseline.value is not None
    passed = mixed.value is not None and mixed.value <= baseline.value - BIGRAM_MARGIN
    speed = (("training tokens", data.n_tokens), ("steps", data.n_steps), ("tokens/s", data.tokens_per_s))
    # The label already says the unit of a count.
    counts = [KeyNumber(label=label, value=value.value, note=note_of(value)) for label, value in speed]
    counts.insert(2, KeyNumber(label="parameters", value=data.n_params))
    if data.budget is not None:
        counts += [_key("time given", data.budget.given), _key("time of its steps", data.budget.trained)]
    if data.dead is not None:
        counts.append(_key("dead units", data.dead.share))
    shown = {
        "Validation loss, nats/token": loss,
        "Bigram table, nats/token": bigram,
        f"Validation loss, {UNIT}": data.bits_per_char,
        f"Bigram table, {UNIT}": data.bigram_bits_per_char,
    }
    known = {label: values for label, values in shown.items() if values}
    columns = (Column(label="Source"), *(Column(label=label, form="number") for label in known))
    rows = tuple(
        (name, *(values.get(name) for values in known.values()))
        for name in sorted(loss, key=lambda name: name != "mixed")
    )
    note = (
        f"Loss: {data.loss_convention}. {CONVENTION}. Bigram table for comparison: {bigram['smoothing']}. "
        f"The model's own bigram table: {bigram['model_bigram_init']}."
    )
    return [
        Tile(
            label="Validation loss",
            value=mixed,
            tone="pass" if passed else "fail",
            note=f"a smoothed bigram table reaches {format_number(baseline.value)}; "
            f"to pass, the model must be {BIGRAM_MARGIN} below",
        ),
        KeyNumbers(
            items=(
                _key("validation loss", mixed),
                *([_key("validation loss", data.bits_per_char["mixed"])] if data.bits_per_char else []),
                _key("bigram table", baseline),
                *counts,
            )
        ),
        Table(title="Loss by source", columns=columns, rows=rows),
        *([] if data.lineage is None else _lineage(data.lineage, data)),
        *_training_curves(data.curves, baseline.value),
        *([] if data.dead is None else _dead(data.dead.units)),
        Text(text=note, tone="note"),
    ]


def _lineage(lineage: LineageEntry, data: TrainingSection) -> list[Block]:
    columns = (
        Column(label="Training"),
        Column(label="Steps", form="number"),
        Column(label="Tokens", form="number"),
        Column(label="Seed", form="number"),
        Column(label="Schedule"),
        Column(label="Weights", form="code", help="first signs of their SHA-256"),
    )
    rows: list[tuple[Value, ...]] = [
        (one.name, one.step, one.n_tokens, one.seed, one.schedule, one.weights_sha256[:12]) for one in lineage.ancestors
    ]
    rows.append(("this one", data.n_steps, data.n_tokens, None, lineage.schedule, "see the head of the page"))
    place = "the beginning of its stream: data or seed are not those of the trainings before"
    if lineage.first_batch:
        place = f"batch {lineage.first_batch:,} of the same stream, behind the last one that was trained on"
    text = (
        f"This training started from given weights, with a schedule and an optimizer state of its own. Data: from {place}. "
        f"Training tokens, together with those before: {format_number(lineage.n_tokens)}."
    )
    changed = f"Settings of the model that differ from the training before: {'; '.join(lineage.changed)}."
    return [
        Table(title="Where the weights come from", columns=columns, rows=tuple(rows)),
        Text(text=text),
        *([Text(text=changed, tone="warning")] if lineage.changed else []),
    ]


def _training_curves(curves: Mapping[str, StepCurve], bigram: float) -> list[Block]:
    def lines(title: str, y_label: str, names: Mapping[str, str], **more: Any) -> Lines:
        shown = tuple(
            Curve(name=label, x=curves[name].step, y=curves[name].value)
            for name, label in names.items()
            if name in curves
        )
        return Lines(title=title, x_label="step", y_label=y_label, curves=shown, **more)

    def by_source(name: str) -> dict[str, str]:
        found = {one: one.partition("/")[2] for one in curves if one.startswith(f"{name}/")}
        return found if len(found) > 1 else {}

    baseline = (Reference(label="bigram table", value=bigram),)
    loss = lines("Loss", "nats/token", {"train_loss": "train", "val_loss": "val"}, references=baseline)
    small = (
        lines("Density", "nonzeros / entries", {"density": "density"}, log_y=True),
        lines("Speed", "tokens/s", {"tokens_per_s": "tokens/s"}),
        lines("Learning rate", "learning rate", {"lr": "lr"}),
    )
    bits = "val_bits_per_char"
    validation = (
        lines("Validation loss by source", "nats/token", by_source("val_loss")),
        lines("Validation loss per character", UNIT, {bits: "mixed", **by_source(bits)}),
    )
    names = {"all": "all", "mlp_neuron": "neurons", "attn_q": "q", "attn_k": "k", "attn_v": "v"}
    reasons = {
        name: name.replace("_", " ") for name in ("without_incoming", "without_outgoing", "never_active", "constant")
    }
    dead = (
        lines("Dead units", "share of the units", {f"dead_units/{name}": label for name, label in names.items()}),
        lines(
            "Why they are dead", "share of all units", {f"dead_units/{name}": label for name, label in reasons.items()}
        ),
    )
    drawn = tuple(block for block in validation if block.curves)
    return [
        loss,
        *([Grid(blocks=drawn)] if drawn else []),
        Grid(blocks=tuple(block for block in (*small, *dead) if block.curves)),
    ]


def _dead(found: DeadUnits) -> list[Block]:
    """Dead units by hook point, and a sentence on them all."""
    total, residual = found.total, found.residual
    active = found.n_tokens is not None
    columns = (
        Column(label="Hook point", form="code"),
        Column(label="Units", form="number"),
        Column(label="Dead", form="number", help="units that any of the following is true of"),
        Column(label="No incoming", form="number", help="no nonzero weight comes in"),
        Column(label="Only a bias", form="number", help="of those: a bias is all that moves them"),
        Column(label="No outgoing", form="number", help="no nonzero weight goes out; q and k have none to count"),
        Column(label="Never active", form="number", help="zero on every token of the text below"),
        Column(label="Constant", form="number", help="not zero, but the same on every token of that text"),
    )
    rows = tuple(
        (name, c.n_units, c.dead, c.without_incoming, c.only_bias, c.without_outgoing, c.never_active, c.constant)
        for name, c in (*found.points.items(), ("all", total))
    )
    text = f" Activity was looked at on {found.n_tokens:,} tokens of validation text." if active else ""
    return [
        Table(title="Dead units", columns=columns, rows=rows),
        Text(
            text=f"{total.dead:,} of {total.n_units:,} neurons and attention channels are dead.{text} Of {residual.n_channels:,} channels of "
            f"the residual stream {residual.unwritten:,} are written by no weight ({residual.only_bias:,} of them by a bias) and {residual.unread:,} "
            f"read by none."
        ),
    ]


def _key(label: str, value: Any) -> KeyNumber:
    return KeyNumber(label=label, value=value, note=note_of(value))


def data(section: DataSection) -> list[Block]:
    """What the model was trained on."""
    items = (
        _key("synthetic share of the text", section.synthetic_share),
        _key("tokens in the vocabulary", section.tokenizer.d_vocab),
        _key("characters per token", section.tokenizer.chars_per_token),
    )
    splits = dict.fromkeys(split for source in section.sources.values() for split in source.n_tokens)
    order = sorted(splits, key=lambda split: (split != "train", split))
    columns = (
        Column(label="Source"),
        Column(label="Kind", form="status"),
        Column(label="Weight", form="number", unit="fraction", help="share of the training tokens from this source"),
        Column(label="Documents", form="number"),
        *(Column(label=f"Tokens, {split}", form="number") for split in order),
        Column(label="Skipped", form="number", help="files and rows left out, with the reason, listed below"),
    )
    rows = tuple(
        (
            name,
            "synthetic" if source.synthetic else "real",
            source.weight,
            sum(source.n_docs.values()),
            *(source.n_tokens.get(split) for split in order),
            source.n_skipped,
        )
        for name, source in section.sources.items()
    )
    blocks: list[Block] = [
        KeyNumbers(items=items),
        Table(title="Sources", columns=columns, rows=rows),
    ]
    for name, source in section.sources.items():
        blocks += [Text(text=f"{name}: {note}.", tone="warning") for note in source.notes]
    skipped = tuple((name, s.name, s.reason) for name, source in section.sources.items() for s in source.skipped)
    if skipped:
        columns = (Column(label="Source"), Column(label="Place", form="code"), Column(label="Reason"))
        n_skipped = sum(source.n_skipped for source in section.sources.values())
        n = "1 file or row left out" if n_skipped == 1 else f"{n_skipped:,} files or rows left out"
        blocks.append(Details(summary=n, blocks=(Table(columns=columns, rows=skipped, limit=50),)))
    return [*blocks, Text(text=f"Content hash of the token files: {section.content_hash}", tone="note")]


def sparsity(section: SparsitySection) -> list[Block]:
    """Whether every sparse tensor has exactly the nonzeros it may have."""
    tensors = section.tensors
    if not tensors:
        return [Text(text=f"No tensor of this model is sparse (method: {section.method}).")]
    exact = sum(tensor.exact for tensor in tensors)
    columns = (
        Column(label="Tensor", form="code"),
        Column(label="Shape"),
        Column(label="Target density", form="number", help="nonzeros / entries asked for"),
        Column(label="Nonzeros", form="number"),
        Column(label="Budget", form="number", help="nonzeros allowed: target density x entries, rounded"),
        Column(label="Entries", form="number"),
        Column(label="Floor", form="number", help="nonzeros that each unit keeps at least"),
        Column(label="Exact", form="status", tones={"yes": "pass", "no": "fail"}),
    )
    rows = tuple(
        (
            tensor.name,
            " × ".join(map(str, tensor.shape)),
            tensor.density_target,
            tensor.nonzeros,
            tensor.budget,
            tensor.entries,
            tensor.floor,
            "yes" if tensor.exact else "no",
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
        Text(
            text=f"Method: {section.method}. Density is nonzeros / entries; each tensor below was counted after export."
        ),
        Table(columns=columns, rows=rows),
    ]


KINDS: Kinds = {
    "training": SectionKind(schema=TrainingSection, view=training),
    "sparsity": SectionKind(schema=SparsitySection, view=sparsity),
    "representation": SectionKind(schema=RepresentationSection, view=representation),
    "measurement": SectionKind(schema=MeasurementSection, view=measurement),
    "curriculum": SectionKind(schema=CurriculumSection, view=curriculum),
    "data": SectionKind(schema=DataSection, view=data),
}
"""The kinds of sections of sparsetrain in reading order; the entry point adds those of others."""
