"""One circuit under examination: what several criteria share, and what a criterion is.

Answers are raw logits unless their name says calibrated. Logit differences m are always raw, so that the model, the
circuit and everything between them stand on one scale; task losses are always calibrated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import inf
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor, nn

from circuits.answers import Ablated, run_answers
from circuits.calibrate import CalibrationMode, fit_calibrations, model_calibration
from circuits.circuit import Circuit
from circuits.evidence.measurement import Measurement, missing
from circuits.evidence.thresholds import MARGINS, VERDICT, CardConfig
from circuits.intervals import interval, mean_row, n_distinct
from circuits.masks import NodeSpace, ablation_hooks
from circuits.section import CardEntry, CardVerdict, Role, Sense, Threshold
from circuits.tasks.loss import Calibration, logit_diff
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import HookFn, hooked, record
from sparsetrain.model import Transformer
from sparsetrain.stats.number import number
from sparsetrain.typed import Json

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Searched:
    """What a search found where there is nothing to find.

    Args:
        size: edges of its circuit (nodes, in a model without edges) at the target loss; None: it was not reached.
        budget: what was spent, as a share of what was spent on the task itself; 1: the same candidates, seeds and trials.
    """

    size: int | None
    budget: float


@dataclass(frozen=True, kw_only=True)
class CardInputs:
    """What the card is judged on. What is absent leaves its criteria at "not enough data".

    Args:
        fit: pairs on which everything but the circuit is calibrated, disjoint from those below.
        heldout: pairs that nothing was fitted to.
        alive: bool `[n_nodes]`, nodes active in pretraining text (`Means.alive`): random circuits are drawn from them.
        shifted: pairs of the task's shifted split.
        windows: int64 `[n, pos]`, pretraining text that the means were not taken from.
        others: name -> (fit, held-out) pairs of other tasks that the model solves.
        seeds: circuits of this task found from different mask seeds, this one among them.
        paraphrased: held-out pairs in a second wording, used for nothing but judging.
        twins: what was searched for unrelated answers, at equal loss.
        nulls: the same in null models and for null tasks (`circuits.evidence.gather.null_searches`).
        edge_scores: importance of every weight for CPR and CMD, linear's path -> `[target, source]`; None: its magnitude.
    """

    fit: PairSet
    heldout: PairSet
    alive: Tensor
    shifted: PairSet | None = None
    windows: Tensor | None = None
    others: Mapping[str, tuple[PairSet, PairSet]] = field(default_factory=dict[str, tuple[PairSet, PairSet]])
    seeds: Sequence[Circuit] = ()
    paraphrased: PairSet | None = None
    twins: Sequence[Searched] = ()
    nulls: Sequence[Searched] = ()
    edge_scores: Mapping[str, Tensor] | None = None


@dataclass(frozen=True, kw_only=True)
class Examination:
    """A circuit in its model, with what it is judged on; whatever several criteria need is computed when first asked."""

    model: nn.Module
    circuit: Circuit
    inputs: CardInputs
    config: CardConfig
    _kept: dict[Callable[..., Any], Any] = field(default_factory=dict[Callable[..., Any], Any], init=False, repr=False)

    def once(self, compute: "Callable[[Examination], T]") -> T:
        """`compute(self)`, kept for the next criterion that asks."""
        if compute not in self._kept:
            self._kept[compute] = compute(self)
        return self._kept[compute]

    @property
    def transformer(self) -> Transformer:
        """The model, for what is asked of models trained here alone."""
        assert isinstance(self.model, Transformer)
        return self.model

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return next(self.model.parameters()).device

    @property
    def space(self) -> NodeSpace:
        """The model's nodes."""
        return self.circuit.space

    @cached_property
    def keep(self) -> Tensor:
        """The circuit, bool `[n_nodes]`."""
        return self.circuit.keep

    @cached_property
    def everything(self) -> Tensor:
        """The mask of the full model, bool `[n_nodes]`."""
        return torch.ones_like(self.keep)

    @cached_property
    def fit(self) -> PairSet:
        """Pairs on which everything but the circuit is calibrated; no number is reported on them."""
        return self.inputs.fit.batch(slice(0, self.config.n_pairs))

    @cached_property
    def heldout(self) -> PairSet:
        """Pairs that are judged."""
        return self.inputs.heldout.batch(slice(0, self.config.n_pairs))

    @cached_property
    def some(self) -> PairSet:
        """The first held-out pairs, for what is measured very often."""
        return self.heldout.batch(slice(0, self.config.n_random_pairs))

    @cached_property
    def shifted(self) -> PairSet | None:
        """Longer pairs with distractors, where there are any."""
        return None if (pairs := self.inputs.shifted) is None else pairs.batch(slice(0, self.config.n_pairs))

    @cached_property
    def paraphrased(self) -> PairSet | None:
        """Pairs in other words, where there are any."""
        return None if (pairs := self.inputs.paraphrased) is None else pairs.batch(slice(0, self.config.n_pairs))

    @cached_property
    def ablated(self) -> Ablated:
        """The model with deleted nodes at the circuit's means."""
        return Ablated(model=self.model, means=self.circuit.means, max_rows=self.config.max_rows)

    def answers(self, keep: Tensor, pairs: PairSet | None = None) -> Tensor:
        """Answer logits of node circuits `keep` bool `[n_runs, n_nodes]`: `[n_runs, n, side, answer]`."""
        return self.ablated.answers(keep, self.heldout if pairs is None else pairs)

    @cached_property
    def own(self) -> Tensor:
        """Answers of the circuit on the held-out pairs, `[n, side, answer]`."""
        return self.answers(self.keep[None])[0]

    @cached_property
    def full(self) -> Tensor:
        """Answers of the full model."""
        return self.answers(self.everything[None])[0]

    @cached_property
    def empty(self) -> Tensor:
        """Answers of the empty circuit, which sees the current token alone."""
        return self.answers(~self.everything[None])[0]

    @cached_property
    def without(self) -> Tensor:
        """Answers of the full model without the circuit."""
        return self.answers(~self.keep[None])[0]

    @cached_property
    def effect(self) -> float:
        """m(N) - m(nothing): what the model does beyond the current token, in logits."""
        return float(logit_diff(self.full) - logit_diff(self.empty))

    @cached_property
    def full_calibration(self) -> Calibration:
        """The full model's, from the fit pairs."""
        return model_calibration(self.mode, self.answers(self.everything[None], self.fit)[0])

    @property
    def mode(self) -> CalibrationMode:
        """How the circuit was calibrated; everything beside it is calibrated in the same way."""
        mode = self.circuit.provenance.config.get("calibration", "circuit")
        return next(known for known in get_args(CalibrationMode) if known == mode)

    @property
    def kept(self) -> Calibration | None:
        """The calibration that every ablation keeps; None where each has its own fitted on the fit pairs."""
        return None if self.mode == "circuit" else self.circuit.calibration

    def calibration_of(self, masks: Tensor) -> Calibration:
        """Calibrations `[n_runs]` of other circuits of this model, by the circuit's own rule; fitted ones are from the fit pairs.

        Args:
            masks: bool `[n_runs, n_nodes]`.
        """
        return self.calibrated_by(lambda pairs: self.answers(masks, pairs), len(masks))

    def calibrated_by(self, answers: Callable[[PairSet], Tensor], n_runs: int) -> Calibration:
        """Calibrations `[n_runs]` of whatever `answers` runs, `[n_runs, n, side, answer]` of a pair set: kept, or fitted on the fit pairs."""
        if self.kept is not None:
            return self.kept.expand(n_runs)
        with torch.no_grad():
            return fit_calibrations(answers(self.fit))

    @cached_property
    def calibrated(self) -> Tensor:
        """Calibrated answers of the circuit."""
        return self.circuit.calibration.apply(self.own)

    @cached_property
    def full_calibrated(self) -> Tensor:
        """Calibrated answers of the full model."""
        return self.full_calibration.apply(self.full)

    def deleting(self, keep: Tensor, values: Tensor | None = None) -> dict[str, HookFn]:
        """Hooks that put `values` `[n_nodes]` (None: the means) in place of the nodes outside `keep`."""
        values = self.circuit.means if values is None else values
        return ablation_hooks(self.space, keep.to(self.device), values.to(self.device))

    @torch.no_grad()
    def hooked_answers(
        self, pairs: PairSet, hooks: Mapping[str, HookFn], more: Mapping[str, HookFn] | None = None
    ) -> Tensor:
        """Answer logits `[n, side, answer]` of one pass over all pairs with these hooks, `more` after `hooks`."""
        with hooked(self.model, hooks), hooked(self.model, more or {}):
            return run_answers(self.model, [pairs])[0].cpu()

    def refitted(self, answers: Callable[[PairSet], Tensor]) -> Tensor:
        """Held-out answers `[n, side, answer]`, float64, of whatever `answers` runs, calibrated on the fit pairs if none is kept."""
        calibration = self.calibrated_by(lambda pairs: answers(pairs)[None], 1).first
        return calibration.apply(answers(self.heldout).double())

    @torch.no_grad()
    def recorded(
        self, pairs: PairSet, names: Sequence[str], hooks: Mapping[str, HookFn]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """What passes hook points on the prompts of a pair set.

        Args:
            hooks: attached before the recording, so that their effect is seen.

        Returns:
            Name -> `[(n side), pos, width]`, and which positions belong to a prompt: bool `[(n side), pos]`.
        """
        tokens, last = pairs.prompts()
        with hooked(self.model, hooks):
            _, seen = record(self.model, tokens.to(self.device), names, last.to(self.device))
        return {name: x.cpu() for name, x in seen.items()}, torch.arange(tokens.shape[1]) <= last[:, None].cpu()

    def measured(
        self,
        rows: Tensor,
        unit: str,
        statistic: Callable[[Tensor], Tensor] = mean_row,
        *,
        pairs: PairSet | None = None,
        note: str = "",
        detail: Mapping[str, Json] | None = None,
    ) -> Measurement:
        """A statistic of rows, one per pair, with its bootstrap interval; distinct pairs are counted, and resampled.

        Args:
            rows: `[n pairs, ...]`.
            statistic: `[..., n pairs, ...]` -> `[...]`.
            pairs: whose rows they are; None: the held-out pairs, or the first ones.
        """
        pairs = self.heldout.batch(slice(0, len(rows))) if pairs is None else pairs
        assert len(pairs) == len(rows)
        return self.estimated(rows, unit, statistic, groups=pairs.groups, note=note, detail=detail)

    def estimated(
        self,
        rows: Tensor,
        unit: str,
        statistic: Callable[[Tensor], Tensor] = mean_row,
        *,
        groups: Tensor | None = None,
        note: str = "",
        detail: Mapping[str, Json] | None = None,
    ) -> Measurement:
        """A statistic of rows with its bootstrap interval over rows; the note says what rows are, where they are no pairs.

        Args:
            rows: `[n, ...]`.
            statistic: `[..., n, ...]` -> `[...]`.
            groups: see `circuits.intervals.interval`; n counts them.
        """
        low, high = interval(rows, self.config.seed, self.config.n_boot, statistic, groups)
        n = len(rows) if groups is None else n_distinct(groups)
        value = float(statistic(rows))
        return Measurement(value=value, unit=unit, n=n, lo=low, hi=high, note=note, detail=detail or {})

    def no_effect(self, n: int | None = None) -> Measurement:
        """For shares of the effect where there is none."""
        note = "the model and the empty circuit have the same logit difference"
        return missing("fraction", note, len(self.heldout) if n is None else n)


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One question of the card with its measurement; calling it takes the measurement.

    Args:
        name: key of its entry.
        group: which part of the critique or of the metrics it belongs to.
        question: what it asks, one sentence.
        sense: whether the value must be at least or at most the threshold.
        limit: name of the threshold in `CardConfig`.
        measure: takes the measurement.
        needs: name of the smallest sample size in `CardConfig`, None: one.
    """

    name: str
    group: str
    question: str
    sense: Sense
    limit: str
    measure: Callable[[Examination], Measurement]
    needs: str | None = None

    @property
    def role(self) -> Role:
        """Whether the card as a whole depends on it."""
        return "verdict" if self.name in VERDICT else "further"

    def __call__(self, exam: Examination) -> Measurement:
        """The measurement, not judged yet."""
        return self.measure(exam)

    def entry(self, exam: Examination) -> CardEntry:
        """The measurement, judged: the criterion's row of the card."""
        config, found = exam.config, self.measure(exam)
        threshold: float = getattr(config, self.limit)
        n_least: int = 1 if self.needs is None else getattr(config, self.needs)
        value = number(
            found.value, found.unit, n=found.n, lo=found.lo, hi=found.hi, seed=config.seed, note=found.note or None
        )
        return CardEntry(
            name=self.name,
            group=self.group,
            question=self.question,
            role=self.role,
            value=value,
            threshold=Threshold(sense=self.sense, value=threshold),
            verdict=judge(found, self.sense, threshold, n_least),
            detail=found.detail,
        )


def criterion(
    name: str, group: str, *, at_least: str = "", at_most: str = "", needs: str | None = None
) -> Callable[[Callable[[Examination], Measurement]], Criterion]:
    """Makes a criterion of the function that measures it; the first line of the function's docstring is the question.

    Args:
        at_least: name of a threshold in `CardConfig` that the value must reach; or
        at_most: of one that it must not exceed.
        needs: see `Criterion`, like the others.
    """
    assert bool(at_least) != bool(at_most), name

    def made(measure: Callable[[Examination], Measurement]) -> Criterion:
        return Criterion(
            name=name,
            group=group,
            question=(measure.__doc__ or "").partition("\n")[0],
            sense="at least" if at_least else "at most",
            limit=at_least or at_most,
            measure=measure,
            needs=needs,
        )

    return made


def judge(found: Measurement, sense: Sense, threshold: float, n_least: int) -> CardVerdict:
    """The verdict on a measurement: by its own word, by its sample size, by how well it is known, then by its value."""
    if found.verdict is not None:
        return found.verdict
    if found.n < n_least or found.value is None or found.value != found.value:
        return "not enough data"
    low, high = (found.value if end is None else end for end in (found.lo, found.hi))
    if low <= threshold <= high and high - low > 2 * MARGINS.get(found.unit, inf):
        return "not enough data"
    held = found.value >= threshold if sense == "at least" else found.value <= threshold
    return "pass" if held else "fail"
