"""What else breaks without the circuit?

The full model without the circuit (its nodes at their means), intact calibration:
1. rise of another task's loss as a share of the rise of its own task's loss;
2. rise of the next-token loss on pretraining text, nats/token.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from circuits.evidence.measurement import Measurement, bootstrap_statistic
from circuits.evidence.subject import Subject, first
from circuits.masks import ablation_hooks
from circuits.search.learn import calibrated_loss
from circuits.tasks.loss import task_loss
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import HookFn, hooked
from sparsetrain.model import Transformer


def damage(subject: Subject, fit: PairSet, heldout: PairSet) -> float:
    """Rise of a task's loss in nats when the circuit is taken out of the model, under the model's calibration."""
    _, calibration = calibrated_loss(subject.answers(subject.everything[None], fit))
    masks = torch.stack([subject.everything, ~subject.keep])
    before, after = task_loss(first(calibration).apply(subject.answers(masks, heldout).double())).tolist()
    return after - before


def other_tasks(subject: Subject, others: Mapping[str, tuple[PairSet, PairSet]]) -> Measurement:
    """Largest damage to another task as a share of the damage to the circuit's own.

    Args:
        others: task's name -> (fit, held-out) pairs of a task that the model solves.
    """
    if not others:
        return Measurement(value=None, unit="fraction", n=0, note="no other task was given", verdict="not enough data")
    own = damage(subject, subject.fit, subject.heldout)
    found = {name: damage(subject, *pairs) for name, pairs in others.items()}
    worst = max(found, key=lambda name: found[name])
    detail = {"own_nats": own, "others_nats": found}
    if own <= 0:
        note = "taking the circuit out does not hurt its own task"
        return Measurement(value=None, unit="fraction", n=len(found), note=note, detail=detail, verdict="fail")
    note = f"n counts tasks; most hurt: {worst}; own task +{own:.3f} nats"
    return Measurement(value=max(found[worst], 0.0) / own, unit="fraction", n=len(found), note=note, detail=detail)


@torch.no_grad()
def window_losses(model: Transformer, windows: Tensor, hooks: Mapping[str, HookFn], batch_size: int = 16) -> Tensor:
    """Next-token loss of each window, `[n]` nats/token.

    Args:
        windows: int64 `[n, pos]`, at least two tokens each.
    """
    device = next(model.parameters()).device
    losses = []
    with hooked(model, hooks):
        for batch in windows.to(device).split(batch_size):
            logits = model(batch)[:, :-1]
            losses.append(F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none"))
            losses[-1] = losses[-1].unflatten(0, (len(batch), -1)).mean(1).cpu()
    return torch.cat(losses)


def pretraining_damage(subject: Subject, windows: Tensor, seed: int, n_boot: int) -> Measurement:
    """Rise of the next-token loss without the circuit, nats/token; the interval is over windows.

    Args:
        windows: int64 `[n, pos]`, pretraining text.
    """
    device = next(subject.model.parameters()).device
    hooks = ablation_hooks(subject.space, ~subject.keep.to(device), subject.means.to(device))
    rise = window_losses(subject.model, windows, hooks) - window_losses(subject.model, windows, {})
    low, high = bootstrap_statistic(rise, lambda rows: rows.mean(-1), seed, n_boot)
    note = "n counts windows"
    return Measurement(value=float(rise.double().mean()), unit="nats/token", n=len(rise), lo=low, hi=high, note=note)
