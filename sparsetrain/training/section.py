"""The section `training` of a report: losses beside those of the bigram table, curves, speed."""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from sparsetrain.data import BigramTable
from sparsetrain.export import n_params
from sparsetrain.report.sections import DeadEntry, LineageEntry, TimeBudget, TrainingSection
from sparsetrain.sparsity import DeadUnits
from sparsetrain.stats.bits import UNIT
from sparsetrain.stats.number import Number, StepCurve, number
from sparsetrain.training.budget import StepBudget
from sparsetrain.training.callbacks import StepScalars, Validation
from sparsetrain.training.dead import SCALARS
from sparsetrain.training.fit import Trained
from sparsetrain.training.metrics import read_metrics

CURVES = ("train_loss", "val_loss", "val_bits_per_char", "density", "lr", "tokens_per_s", SCALARS)
"""Scalars of metrics.csv that the report shows, those of validation also per source: `val_loss/<source>`."""


def training_section(
    trained: Trained,
    validation: Validation,
    bigram: BigramTable,
    model_bigram_init: str,
    budget: StepBudget | None = None,
    dead: DeadUnits | None = None,
) -> TrainingSection:
    """What the training reached, how and how fast.

    Args:
        trained: a finished training.
        validation: its validation batches.
        bigram: the baseline, fitted on the same tokens.
        model_bigram_init: where the model's own bigram table started, in words.
        budget: how the number of steps was found, if it was.
        dead: units of the finished model that compute nothing of the text.
    """
    recipe, scalars, val = trained.exporter.recipe, trained.scalars, validation.batches
    counts = {source: sum(t.shape[0] * (t.shape[1] - 1) for t in batches) for source, batches in val.items()}
    counts["mixed"] = sum(counts.values())

    def nats(values: Mapping[str, float]) -> dict[str, Number]:
        return {k: number(v, "nats/token", n=counts[k], seed=recipe.seed) for k, v in values.items()}

    lengths = validation.mixed(validation.chars_per_token)

    def bits(losses: Mapping[str, float]) -> dict[str, Number]:
        found = validation.bits_per_char(losses).items()
        notes = {k: f"{lengths[k]:.3f} characters per predicted token" for k in losses}
        return {k: number(v, UNIT, n=counts[k], seed=recipe.seed, note=notes[k]) for k, v in found}

    losses = validation.evaluate(trained.model)
    by_table = validation.mixed({source: bigram.loss(torch.cat(batches)) for source, batches in val.items()})
    n_tokens = recipe.n_tokens(recipe.n_steps)
    return TrainingSection(
        n_steps=number(recipe.n_steps, "steps", "measured"),
        n_tokens=number(n_tokens, "tokens", "measured"),
        tokens_per_s=number(
            scalars.n_tokens / scalars.seconds if scalars.seconds else None,
            "tokens/s",
            "measured",
            n=scalars.n_steps_run,
            note="training steps of the last process alone; validation, tracking and saving left out",
        ),
        n_params=n_params(trained.model),
        loss_convention="mean cross-entropy of the next token, nats/token; mixed: per-source means weighted by the training mixture",
        val_loss=nats(losses),
        bits_per_char=bits(losses),
        bigram_bits_per_char=bits(by_table),
        bigram_loss={**nats(by_table), "smoothing": bigram.description, "model_bigram_init": model_bigram_init},
        lineage=lineage_entry(trained, n_tokens),
        curves=training_curves(trained.exporter.folder / "metrics.csv"),
        budget=None if budget is None else budget_entry(budget, scalars),
        dead=None if dead is None else dead_entry(dead),
    )


def dead_entry(dead: DeadUnits) -> DeadEntry:
    """Dead units as the report has them."""
    share = number(dead.total.dead_share, "fraction", n=dead.total.n_units, note="of neurons and attention channels")
    return DeadEntry(share=share, units=dead)


def budget_entry(budget: StepBudget, scalars: StepScalars) -> TimeBudget:
    """The time that was given, the steps that were to fill it, and the time they took."""

    def seconds(value: float | None, **more: Any) -> Number:
        return number(value, "s", "measured", **more)

    return TimeBudget(
        given=seconds(60 * budget.minutes),
        step=seconds(budget.seconds_per_step, n=budget.n_timed, note="lower quartile of timed steps of a copy"),
        step_median=seconds(budget.median, n=budget.n_timed),
        trained=seconds(
            scalars.seconds if scalars.n_steps_run == budget.n_steps else None,
            note=None
            if scalars.n_steps_run == budget.n_steps
            else "the run was resumed: no process has taken all steps",
        ),
    )


def lineage_entry(trained: Trained, n_tokens: int) -> LineageEntry | None:
    """Where the weights come from; None: they were drawn."""
    exporter, start = trained.exporter, trained.exporter.recipe.start
    if start is None:
        return None
    before = [one.n_tokens for one in start.ancestors]
    known = [n for n in before if n is not None]
    total = number(sum(known) + n_tokens, "tokens", "measured")
    if len(known) < len(before):
        total = number(None, "tokens", "measured", note="an ancestor of an older version did not count its tokens")
    return LineageEntry(
        ancestors=start.ancestors,
        schedule=exporter.recipe.schedule,
        n_tokens=total,
        first_batch=exporter.first_batch,
        changed=start.changed,
    )


def training_curves(path: Path) -> dict[str, StepCurve]:
    """The scalars of a metrics.csv that the report shows; what is not finite is a gap."""
    rows = [row for row in read_metrics(path) if row[1].partition("/")[0] in CURVES]
    return {
        name: StepCurve(
            step=tuple(step for step, n, _ in rows if n == name),
            value=tuple(value if isfinite(value) else None for _, n, value in rows if n == name),
        )
        for name in dict.fromkeys(name for _, name, _ in rows)
    }
