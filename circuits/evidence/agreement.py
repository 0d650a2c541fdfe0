"""Does the circuit answer as the model does, on prompts it was not fitted to and where the model is wrong?

An answer is the one of the two with the larger calibrated logit. A prompt is one side of a pair.
1. Cohen's kappa = (p_o - p_e) / (1 - p_e): p_o the share of prompts where both give the same answer, p_e the share
   expected of two judges with the same habits and no connection.
2. Of the prompts that the model gets wrong, the share that the circuit gets wrong too.
"""

from math import isfinite

import torch
from torch import Tensor

from circuits.evidence.measurement import Measurement, bootstrap_statistic, missing, share


def answers_first(answers: Tensor) -> Tensor:
    """Whether answer A has the larger logit: `[..., n, side, answer]` -> bool `[..., n, side]`."""
    return answers[..., 0] > answers[..., 1]


def cohens_kappa(a: Tensor, b: Tensor) -> Tensor:
    """Cohen's kappa of two judges with two answers.

    Args:
        a: bool `[..., n]`.
        b: the same.

    Returns:
        float64 `[...]`, 1 for full agreement, 0 for chance; nan where both give one and the same answer to everything.
    """
    a, b = a.double(), b.double()
    agree = (a == b).double().mean(-1)
    p_a, p_b = a.mean(-1), b.mean(-1)
    chance = p_a * p_b + (1 - p_a) * (1 - p_b)
    return torch.where(chance < 1, (agree - chance) / (1 - chance), torch.nan)


def agreement(circuit: Tensor, model: Tensor, seed: int, n_boot: int) -> Measurement:
    """Cohen's kappa of the answers of circuit and model; the interval is over pairs, n counts prompts.

    Args:
        circuit: calibrated answer logits `[n, side, answer]`.
        model: the same of the full model.
    """
    both = torch.stack([answers_first(circuit), answers_first(model)], dim=-1)  # [n, side, judge]

    def kappa(rows: Tensor) -> Tensor:  # [..., n, side, judge]
        flat = rows.flatten(-3, -2)
        return cohens_kappa(flat[..., 0], flat[..., 1])

    value = float(kappa(both))
    if not isfinite(value):
        return missing("kappa", "circuit and model give one and the same answer to all prompts")
    low, high = bootstrap_statistic(both, kappa, seed, n_boot)
    same = float((both[..., 0] == both[..., 1]).double().mean())
    note = f"the same answer on {same:.1%} of the prompts"
    return Measurement(value=value, unit="kappa", n=2 * len(both), lo=low, hi=high, note=note)


def shared_errors(circuit: Tensor, model: Tensor) -> Measurement:
    """Of the prompts that the model gets wrong, the share that the circuit gets wrong too.

    Args:
        circuit: calibrated answer logits `[n, side, answer]`.
        model: the same of the full model.
    """
    right = torch.tensor([True, False])  # A is right on side 0
    wrong_circuit, wrong_model = (answers_first(x) != right for x in (circuit, model))
    return share(int((wrong_circuit & wrong_model).sum()), int(wrong_model.sum()), note="n counts the model's errors")
