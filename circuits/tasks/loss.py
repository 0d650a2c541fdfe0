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
_N_LBFGS_STEPS = 16  # paper A.5


def last_logits(logits: Tensor, last: Tensor) -> Tensor:
    """Logits at the last token of every prompt.

    Args:
        logits: [..., n, 2, pos, d_vocab] float.
        last: [n, 2] int64, position of the prompt's last token (`PairSet.last`).

    Returns:
        [..., n, 2, d_vocab].
    """
    index = last[..., None, None].expand(*logits.shape[:-2], 1, logits.shape[-1])
    return rearrange(logits.gather(-2, index), "... 1 d_vocab -> ... d_vocab")


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


def accuracy(answer_logits: Tensor) -> Tensor:
    """Mean of `pair_accuracy` over the pairs: [...], 0.5 for a model that cannot tell the sides apart."""
    return pair_accuracy(answer_logits).mean(-1)


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

    def apply(self, answer_logits: Tensor) -> Tensor:
        """Calibrated answer logits, of the same shape [..., n, side, answer] and differentiable in them."""
        scale = self.scale.to(answer_logits)[..., None, None, None]
        half = self.shift.to(answer_logits)[..., None, None, None] / 2
        return scale * answer_logits + half * torch.tensor([1.0, -1.0], dtype=half.dtype, device=half.device)


def fit_calibration(answer_logits: Tensor) -> Calibration:
    """The scale and shift that minimise the task loss on these pairs, each run for itself.

    16 LBFGS steps in float64 from scale 1 and shift 0. The problem is convex, so where the best scale lies outside
    [1/4, 4] the constrained optimum has the scale at the bound and the shift fitted again.

    Args:
        answer_logits: [..., n, side, answer]; of pairs that are used for nothing else.

    Returns:
        Calibration with scale and shift [...] float64 on the CPU.

    Source: Gao et al. 2025, A.5; the bounds on the scale are ours.
    """
    runs = answer_logits.detach().to("cpu", torch.float64).reshape(-1, *answer_logits.shape[-3:])
    fitted = [_fit_run(run) for run in runs]
    shape = answer_logits.shape[:-3]
    return Calibration(
        scale=torch.tensor([scale for scale, _ in fitted], dtype=torch.float64).reshape(shape),
        shift=torch.tensor([shift for _, shift in fitted], dtype=torch.float64).reshape(shape),
    )


def _fit_run(answer_logits: Tensor) -> tuple[float, float]:
    scale, shift = _minimise(answer_logits, scale=1.0, shift=0.0, fix_scale=False)
    bounded = min(max(scale, SCALE_MIN), SCALE_MAX)
    return (scale, shift) if bounded == scale else _minimise(answer_logits, scale=bounded, shift=shift, fix_scale=True)


def _minimise(answer_logits: Tensor, *, scale: float, shift: float, fix_scale: bool) -> tuple[float, float]:
    values = {name: torch.tensor(value, dtype=torch.float64) for name, value in (("scale", scale), ("shift", shift))}
    free = [values["shift"].requires_grad_()] + ([] if fix_scale else [values["scale"].requires_grad_()])
    optimizer = torch.optim.LBFGS(free, max_iter=_N_LBFGS_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = task_loss(Calibration(**values).apply(answer_logits))
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return float(values["scale"].detach()), float(values["shift"].detach())
