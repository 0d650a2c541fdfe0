"""A circuit in its model, with the pairs it is judged on: what most measures need, computed once.

Answers are raw logits unless their name says calibrated. Logit differences m are always raw, so that the model, the
circuit and everything between them stand on one scale; task losses are always calibrated.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from circuits.masks import NodeSpace
from circuits.search.learn import calibrated_loss, masked_answers, run_answers
from circuits.tasks.loss import Calibration, logit_diff
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import HookFn, hooked
from sparsetrain.model import Transformer


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Who stands before the critics.

    Args:
        model: the whole model.
        space: its nodes.
        keep: bool `[n_nodes]`, the circuit.
        means: float `[n_nodes]`, what deleted nodes emit.
        calibration: the circuit's.
        fit: pairs on which everything but the circuit is calibrated; no number is reported on them.
        heldout: pairs that are judged.
        max_rows: prompts per pass.
    """

    model: Transformer
    space: NodeSpace
    keep: Tensor
    means: Tensor
    calibration: Calibration
    fit: PairSet
    heldout: PairSet
    max_rows: int = 256

    def answers(self, keep: Tensor, pairs: PairSet | None = None) -> Tensor:
        """Answer logits of node circuits `keep` bool `[n_runs, n_nodes]`: `[n_runs, n, side, answer]`."""
        pairs = self.heldout if pairs is None else pairs
        return masked_answers(self.model, self.space, keep, self.means, [pairs] * len(keep), self.max_rows)

    @cached_property
    def everything(self) -> Tensor:
        """The mask of the full model, bool `[n_nodes]`."""
        return torch.ones_like(self.keep)

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
    def full_calibration(self) -> Calibration:
        """The full model's, from the fit pairs."""
        return first(calibrated_loss(self.answers(self.everything[None], self.fit))[1])

    @cached_property
    def effect(self) -> float:
        """m(N) - m(nothing): what the model does beyond the current token, in logits."""
        return float(logit_diff(self.full) - logit_diff(self.empty))


def first(calibration: Calibration) -> Calibration:
    """The calibration of the first run."""
    return Calibration(scale=calibration.scale[0], shift=calibration.shift[0])


@torch.no_grad()
def hooked_answers(
    model: Transformer, pairs: PairSet, hooks: Mapping[str, HookFn], more: Mapping[str, HookFn] | None = None
) -> Tensor:
    """Answer logits `[n, side, answer]` of one pass over all pairs with these hooks, `more` after `hooks`."""
    with hooked(model, hooks), hooked(model, more or {}):
        return run_answers(model, [pairs])[0].cpu()


def refit_answers(answers: Callable[[PairSet], Tensor], fit: PairSet, heldout: PairSet) -> Tensor:
    """Held-out answers `[n, side, answer]`, float64, calibrated on `fit`, of whatever `answers` runs."""
    _, calibration = calibrated_loss(answers(fit)[None])
    return first(calibration).apply(answers(heldout).double())
