"""How well a model's logits tell the two prompts of a pair apart.

Everything is a function of the answer logits [..., n, side, answer]: at the last position of side 0 (positive, right
answer A) and side 1 (negative, right answer B), the logits of A and B. Leading axes are runs (seeds, masks).

Task loss: softmax over the two answers, minus log p(A | positive) minus log p(B | negative), averaged over the sides.
Deviation from the source: the authors' code sums the two sides; we average, as their figures do. Nats.

Source: Gao et al. 2025 (arXiv 2511.13653), sections 2.2 and A.5.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from torch import Tensor

TASK_LOSS_CONVENTION = (
    "two-sided two-logit cross-entropy in nats: softmax over the two answers at the last position, "
    "-log p(A | positive) and -log p(B | negative) averaged over the two sides"
)
SCALE_MIN, SCALE_MAX = 0.25, 4.0  # bounds of the calibration's scale


def answer_logits(logits: Tensor, answers: Tensor) -> Tensor:
    """The logits of the two answers on both sides; "the rest" is the logsumexp over every token but the other answer.

    Args:
        logits: [..., n, 2, d_vocab] float, at the last position.
        answers: [n, 2] int64, ids of A and B; -1 is "the rest".

    Returns:
        [..., n, side, answer] float, at least float32.

    Raises:
        ValueError: if both answers of a pair are "the rest".
    """
    rest = answers < 0
    if bool(rest.all(dim=1).any()):
        raise ValueError("both answers of a pair are -1 (the rest): at most one of them may be")
    logits = logits if logits.dtype == torch.float64 else logits.float()
    index = repeat(answers.clamp(min=0), "n answer -> n side answer", side=2).expand(*logits.shape[:-1], 2)
    chosen = logits.gather(-1, index)
    if not bool(rest.any()):
        return chosen
    # the single answer of a pair with a rest; where there is no rest the value is computed and not used
    single = torch.where(rest, rearrange(answers, "n answer -> answer n").flip(0).T, answers).clamp(min=0)
    others = logits.scatter(
        -1, repeat(single[:, :1], "n 1 -> n side 1", side=2).expand(*logits.shape[:-1], 1), -torch.inf
    )
    total = rearrange(others.logsumexp(-1), "... n side -> ... n side 1")
    return torch.where(rearrange(rest, "n answer -> n 1 answer"), total, chosen)


def pair_logit_diff(answer_logits: Tensor) -> Tensor:
    """logit(right answer) - logit(wrong answer), averaged over the two sides of each pair.

    Args:
        answer_logits: [..., n, side, answer].

    Returns:
        [..., n] in logits.
    """
    return reduce(_margin(answer_logits), "... n side -> ... n", "mean")


def logit_diff(answer_logits: Tensor) -> Tensor:
    """Mean of `pair_logit_diff` over the pairs: [...]."""
    return pair_logit_diff(answer_logits).mean(-1)


def pair_task_loss(answer_logits: Tensor) -> Tensor:
    """Two-sided two-logit loss of each pair: the mean over sides of log(1 + exp(-margin)).

    Args:
        answer_logits: [..., n, side, answer].

    Returns:
        [..., n] in nats; ln 2 for a model that cannot tell the sides apart at its best.
    """
    return reduce(F.softplus(-_margin(answer_logits)), "... n side -> ... n", "mean")


def task_loss(answer_logits: Tensor) -> Tensor:
    """Mean of `pair_task_loss` over the pairs: [...] in nats."""
    return pair_task_loss(answer_logits).mean(-1)


def pair_accuracy(answer_logits: Tensor) -> Tensor:
    """Fraction of each pair's two sides on which the right answer has strictly the larger logit: [..., n]."""
    return reduce((_margin(answer_logits) > 0).float(), "... n side -> ... n", "mean")


def _margin(answer_logits: Tensor) -> Tensor:
    """Right minus wrong logit: [..., n, side]."""
    if answer_logits.shape[-2:] != (2, 2):
        raise ValueError(f"answer logits must end in [side, answer] = [2, 2], got shape {list(answer_logits.shape)}")
    difference = answer_logits[..., 0] - answer_logits[..., 1]
    return difference * torch.tensor([1.0, -1.0], dtype=difference.dtype, device=difference.device)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """logit(A) - logit(B) -> scale * (logit(A) - logit(B)) + shift.

    The shift stands between the two answers: half is added to A, half is taken from B. A scalar added to all logits
    would cancel in the softmax and do nothing.
    """

    scale: Tensor  # [...] one per run, within [SCALE_MIN, SCALE_MAX]
    shift: Tensor  # [...] one per run, in logits

    def expand(self, n_runs: int) -> "Calibration":
        """One calibration for each of `n_runs` runs: that of a single run repeated, or these."""
        return Calibration(scale=self.scale.expand(n_runs), shift=self.shift.expand(n_runs))

    @property
    def first(self) -> "Calibration":
        """That of the first run."""
        return Calibration(scale=self.scale[0], shift=self.shift[0])

    def apply(self, answer_logits: Tensor) -> Tensor:
        """Calibrated answer logits, of the same shape [..., n, side, answer] and differentiable in them."""
        scale = self.scale.to(answer_logits)[..., None, None, None]
        half = self.shift.to(answer_logits)[..., None, None, None] / 2
        return scale * answer_logits + half * torch.tensor([1.0, -1.0], dtype=half.dtype, device=half.device)
