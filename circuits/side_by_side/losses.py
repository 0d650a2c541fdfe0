"""How well the models of two runs predict text: final losses per token and per character, and their curves."""

from collections.abc import Mapping

from circuits.side_by_side.run import SideRun
from circuits.side_by_side.section import CurvePair, LossEntry, LossesEntry, NumberPair
from sparsetrain.stats.bits import UNIT
from sparsetrain.stats.intervals import minus
from sparsetrain.stats.number import Number, StepCurve, number

VAL, TRAIN, BITS = "val_loss", "train_loss", "val_bits_per_char"
MIXED = "mixed"


def pair(a: Number | None, b: Number | None) -> NumberPair:
    """Two numbers and, where both are there, their difference."""
    return NumberPair(a=a, b=b, difference=None if a is None or b is None else minus(b, a))


def compare_losses(a: SideRun, b: SideRun) -> LossesEntry:
    """Validation losses of both runs, final and over training; of an unfinished run those of its last validation."""
    per_token, per_character = [final_losses(run) for run in (a, b)], [bits_per_char(run) for run in (a, b)]
    curves = {
        name: CurvePair(a=a.curves.get(name), b=b.curves.get(name))
        for name in dict.fromkeys((VAL, TRAIN, BITS, *a.curves, *b.curves))
        if name.partition("/")[0] in (VAL, TRAIN, BITS)
    }
    return LossesEntry(
        per_token=_pairs(*per_token),
        per_character=_pairs(*per_character),
        curves={name: curve for name, curve in curves.items() if curve.a or curve.b},
        notes=tuple(_notes(a, b)),
    )


def _pairs(a: Mapping[str, Number], b: Mapping[str, Number]) -> tuple[LossEntry, ...]:
    return tuple(LossEntry(source=name, **vars(pair(a.get(name), b.get(name)))) for name in dict.fromkeys([*a, *b]))


def final_losses(run: SideRun) -> dict[str, Number]:
    """Source -> validation loss, nats/token; `mixed` first."""
    return _last(run, VAL, "nats/token") if run.training is None else _mixed_first(run.training.val_loss)


def bits_per_char(run: SideRun) -> dict[str, Number]:
    """Source -> validation loss, bits/char; `mixed` first. Empty for a run that did not count characters."""
    return _last(run, BITS, UNIT) if run.training is None else _mixed_first(run.training.bits_per_char)


def _last(run: SideRun, series: str, unit: str) -> dict[str, Number]:
    """The last of metrics.csv."""
    found: dict[str, Number] = {}
    for name, curve in run.curves.items():
        kind, _, source = name.partition("/")
        if kind == series:
            step, value = curve.step[-1], curve.value[-1]
            found[source or MIXED] = number(value, unit, "measured", note=f"at step {step:,}")
    return _mixed_first(found)


def _mixed_first(losses: Mapping[str, Number]) -> dict[str, Number]:
    return dict(sorted(losses.items(), key=lambda entry: entry[0] != MIXED))


def _notes(a: SideRun, b: SideRun) -> list[str]:
    notes = [f"{side} has no validation loss{_why(run)}." for side, run in _sides(a, b) if not final_losses(run)]
    for side, run in _sides(a, b):
        if run.training is None and (curve := run.curves.get(VAL)):
            notes.append(
                f"{side} has no finished training: its losses are the last of metrics.csv, of step {curve.step[-1]:,}."
            )
    if a.data is not None and b.data is not None and a.data.content_hash != b.data.content_hash:
        ours, theirs = (data.content_hash[:12] for data in (a.data, b.data))
        notes.append(
            f"The corpora differ (content hash {ours} and {theirs}): losses are of different text or in different tokens, "
            f"and a difference is not one of the models alone."
        )
    weights = [{name: source.weight for name, source in run.data.sources.items()} for run in (a, b) if run.data]
    if len(weights) == 2 and weights[0] != weights[1]:
        notes.append("The sources are mixed with different weights: compare them one by one, not the mixture.")
    last = {side: curve.step[-1] for side, run in _sides(a, b) if (curve := run.curves.get(VAL)) and curve.step}
    if len(set(last.values())) == 2 and (both := last_common(a.curves.get(VAL), b.curves.get(VAL))):
        step, ours, theirs = both
        notes.append(f"At step {step:,}, the last that both validated: {ours:.3f} in a, {theirs:.3f} in b, nats/token.")
    per_step = [
        training.n_tokens.value / training.n_steps.value
        for training in (a.training, b.training)
        if training and training.n_tokens.value and training.n_steps.value
    ]
    if len(set(per_step)) == 2:
        notes.append(f"A step is {per_step[0]:,.0f} tokens in a and {per_step[1]:,.0f} in b.")
    return notes


def _sides(a: SideRun, b: SideRun) -> tuple[tuple[str, SideRun], ...]:
    return (("a", a), ("b", b))


def _why(run: SideRun) -> str:
    if run.kind == "study":
        return ": it is a study, whose models have folders of their own inside it"
    return ": it measured a model and trained none" if run.kind == "measurement" else ""


def last_common(a: StepCurve | None, b: StepCurve | None) -> tuple[int, float, float] | None:
    """The last step of which both curves have a value, and the values."""
    if a is None or b is None:
        return None
    ours, theirs = (
        {step: value for step, value in zip(curve.step, curve.value, strict=True) if value is not None}
        for curve in (a, b)
    )
    step = max(ours.keys() & theirs.keys(), default=None)
    return None if step is None else (step, ours[step], theirs[step])
