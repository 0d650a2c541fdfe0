"""What else breaks without the circuit?

The full model without the circuit (its nodes at their means), intact calibration:
1. rise of another task's loss as a share of the rise of its own task's loss;
2. rise of the next-token loss on pretraining text, nats/token.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from circuits.calibrate import model_calibration
from circuits.evidence.examination import Examination, criterion
from circuits.evidence.measurement import NO_WINDOWS, Measurement, floats, missing
from circuits.tasks.loss import task_loss
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import HookFn, hooked


def damage(exam: Examination, fit: PairSet, heldout: PairSet) -> float:
    """Rise of a task's loss in nats when the circuit is taken out of the model, under the model's calibration."""
    calibration = model_calibration(exam.mode, exam.answers(exam.everything[None], fit)[0])
    masks = torch.stack([exam.everything, ~exam.keep])
    before, after = floats(task_loss(calibration.apply(exam.answers(masks, heldout).double())))
    return after - before


@criterion("other tasks", "critique 8", at_most="max_other_damage")
def other_tasks(exam: Examination) -> Measurement:
    """How much does taking the circuit out hurt the most affected other task, beside its own?"""
    if not exam.inputs.others:
        return missing("fraction", "no other task was given")
    own = damage(exam, exam.fit, exam.heldout)
    found = {name: damage(exam, *pairs) for name, pairs in exam.inputs.others.items()}
    worst, n, detail = max(found, key=found.__getitem__), len(found), {"own_nats": own, "others_nats": found}
    if own <= 0:
        note = "taking the circuit out does not hurt its own task"
        return missing("fraction", note, n, detail=detail, verdict="fail")
    note = f"n counts tasks; most hurt: {worst}; own task +{own:.3f} nats"
    return Measurement(value=max(found[worst], 0.0) / own, unit="fraction", n=n, note=note, detail=detail)


@torch.no_grad()
def window_losses(model: nn.Module, windows: Tensor, hooks: Mapping[str, HookFn], batch_size: int = 16) -> Tensor:
    """Next-token loss of each window, `[n]` nats/token.

    Args:
        windows: int64 `[n, pos]`, at least two tokens each.
    """
    device = next(model.parameters()).device
    losses: list[Tensor] = []
    with hooked(model, hooks):
        for batch in torch.split(windows.to(device), batch_size):
            logits: Tensor = model(batch)[:, :-1]
            found = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
            losses.append(found.view(len(batch), -1).mean(1).cpu())
    return torch.cat(losses)


@criterion("pretraining loss", "critique 8", at_most="max_text_damage")
def pretraining_damage(exam: Examination) -> Measurement:
    """By how much does the loss on pretraining text rise without the circuit?"""
    if exam.inputs.windows is None:
        return missing("nats/token", NO_WINDOWS)
    before, after = (window_losses(exam.model, exam.inputs.windows, hooks) for hooks in ({}, exam.deleting(~exam.keep)))
    return exam.estimated((after - before).double(), "nats/token", note="n counts windows")
