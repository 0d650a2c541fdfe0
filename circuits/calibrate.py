"""The calibration of many circuits at once: scale and shift, or the shift alone, of least task loss, found by Newton steps.

With d = logit(A) - logit(B) and y = +1, -1 for the two sides, the calibrated loss mean softplus(-y (scale d + shift))
is a logistic regression in two parameters: convex, so its optimum within 1/4 <= scale <= 4 is a function of the logits
and not of the optimiser. The source fits it with 16 LBFGS steps, one circuit at a time; a search needs thousands.

1. For scale at each bound, the best shift; where the loss still falls beyond the bound, the optimum lies there.
2. Otherwise damped Newton steps in both parameters, from scale 1.

Which calibration a circuit gets (`CalibrationMode`):
- "model": the shift of the full model, at scale 1, kept for everything that is made of it: circuits, random circuits, ablations.
  A shift of its own could do a circuit's task, and a scale of its own could make up for what it does not do.
- "circuit": scale and shift fitted to the circuit, the way of Gao et al. 2025.
- "none": logits as they are.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import Tensor

from circuits.tasks.loss import SCALE_MAX, SCALE_MIN, Calibration, task_loss

CalibrationMode = Literal["model", "circuit", "none"]
_N_STEPS = 50  # ours: a bound; ten are enough for almost every fit
_DAMPING = (1.0, 0.5, 0.25, 0.0625, 1 / 256)  # ours: step lengths tried
_TOLERANCE = 1e-9  # ours: largest gradient left, nats per unit


def fit_calibrations(answer_logits: Tensor) -> Calibration:
    """Scale and shift that minimise the task loss of each run on these pairs.

    Args:
        answer_logits: `[..., n, side, answer]`.

    Returns:
        Calibration with scale and shift `[...]`, float64 on the CPU.

    Source: Gao et al. 2025, A.5; the bounds on the scale and the optimiser are ours.
    """
    shape = answer_logits.shape[:-3]
    d, y = _differences(answer_logits)
    ones = torch.ones(len(d), dtype=torch.float64)
    settled = torch.zeros(len(d), dtype=torch.bool)
    scale, shift = ones.clone(), ones.clone()
    for bound, outward in ((SCALE_MIN, -1.0), (SCALE_MAX, 1.0)):
        at_bound, best = _newton(d, y, bound * ones, settled, fix_scale=True)
        beyond = outward * _gradient(d, y, at_bound, best)[0] <= 0
        scale, shift = torch.where(beyond, at_bound, scale), torch.where(beyond, best, shift)
        settled = settled | beyond
    inner, inner_shift = _newton(d, y, ones, settled, fix_scale=False)
    scale, shift = torch.where(settled, scale, inner), torch.where(settled, shift, inner_shift)
    return Calibration(scale=scale.reshape(shape), shift=shift.reshape(shape))


def fit_shifts(answer_logits: Tensor) -> Calibration:
    """The shift that minimises the task loss of each run on these pairs at scale 1; shapes as in `fit_calibrations`."""
    shape = answer_logits.shape[:-3]
    d, y = _differences(answer_logits)
    scale, shift = _newton(d, y, torch.ones(len(d)).double(), torch.zeros(len(d), dtype=torch.bool), fix_scale=True)
    return Calibration(scale=scale.reshape(shape), shift=shift.reshape(shape))


def model_calibration(mode: CalibrationMode, answer_logits: Tensor) -> Calibration:
    """The full model's own calibration under a mode, from its answers `[n, side, answer]` on pairs that are not reported on."""
    if mode == "none":
        return Calibration(scale=torch.tensor(1.0).double(), shift=torch.tensor(0.0).double())
    return (fit_shifts if mode == "model" else fit_calibrations)(answer_logits)


def calibrated_loss(answers: Tensor, kept: Calibration | None = None) -> tuple[Tensor, Calibration]:
    """Task loss of each run, calibrated on the same pairs.

    Args:
        answers: `[n_runs, n, side, answer]`.
        kept: calibrations `[n_runs]` (or of one run, for all) that are kept instead.
    """
    calibration = fit_calibrations(answers) if kept is None else kept.expand(len(answers))
    return task_loss(calibration.apply(answers.double())), calibration


def stacked(calibrations: Sequence[Calibration | None]) -> Calibration | None:
    """The calibrations that runs keep, `[n_runs]`; None where they are fitted. All runs do the same."""
    kept = [calibration for calibration in calibrations if calibration is not None]
    assert len(kept) in (0, len(calibrations)), "of runs side by side all keep a calibration or none"
    if not kept:
        return None
    return Calibration(
        scale=torch.stack([calibration.scale for calibration in kept]),
        shift=torch.stack([calibration.shift for calibration in kept]),
    )


def _differences(answer_logits: Tensor) -> tuple[Tensor, Tensor]:
    """logit(A) - logit(B) of every prompt, `[run, row]` float64, and +1 or -1 for its side, `[row]`."""
    runs = answer_logits.detach().to("cpu", torch.float64).reshape(-1, *answer_logits.shape[-3:])
    d = rearrange(runs[..., 0] - runs[..., 1], "run n side -> run (side n)")
    return d, torch.cat([torch.ones(runs.shape[1]), -torch.ones(runs.shape[1])]).double()


def _loss(d: Tensor, y: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return F.softplus(-y * (scale[..., None] * d + shift[..., None])).mean(-1)


def _gradient(d: Tensor, y: Tensor, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    wrong = torch.sigmoid(-y * (scale[:, None] * d + shift[:, None])) * y
    return -(wrong * d).mean(-1), -wrong.mean(-1)


def _newton(d: Tensor, y: Tensor, scale: Tensor, settled: Tensor, *, fix_scale: bool) -> tuple[Tensor, Tensor]:
    """Minimises each run's loss over the shift (and the scale, kept within twice its bounds): `[run]` each.

    A settled run stands still, so that every run ends where it would end alone.
    """
    shift = -scale * d.mean(-1)
    lengths = torch.tensor((*_DAMPING, 0.0), dtype=torch.float64)[:, None]
    for _ in range(_N_STEPS):
        slope_scale, slope_shift = _gradient(d, y, scale, shift)
        slope_scale = torch.zeros_like(scale) if fix_scale else slope_scale
        settled = settled | (torch.maximum(slope_scale.abs(), slope_shift.abs()) < _TOLERANCE)
        if bool(settled.all()):
            break
        p = torch.sigmoid(scale[:, None] * d + shift[:, None])
        w = p * (1 - p)
        ss, st, tt = (reduce(x, "run row -> run", "mean") + e for x, e in ((w * d * d, 1e-9), (w * d, 0), (w, 1e-9)))
        if fix_scale:
            ss, st = torch.ones_like(ss), torch.zeros_like(st)
        determinant = ss * tt - st * st
        step_scale = -(tt * slope_scale - st * slope_shift) / determinant
        step_shift = -(ss * slope_shift - st * slope_scale) / determinant
        scales = (
            (scale + lengths * step_scale).clamp(SCALE_MIN / 2, SCALE_MAX * 2) if not fix_scale else scale.expand(6, -1)
        )
        shifts = shift + lengths * step_shift
        best = _loss(d, y, scales, shifts).argmin(0)
        settled = settled | (best == len(_DAMPING))  # no length helps: rounding is all that is left
        scale = torch.where(settled, scale, scales.gather(0, best[None])[0])
        shift = torch.where(settled, shift, shifts.gather(0, best[None])[0])
    return scale, shift
