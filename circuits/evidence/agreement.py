"""Does the circuit answer as the model does, on prompts it was not fitted to and where the model is wrong?

An answer is the one of the two with the larger calibrated logit. A prompt is one side of a pair.
1. Cohen's kappa = (p_o - p_e) / (1 - p_e): p_o the share of prompts where both give the same answer, p_e the share
   expected of two judges with the same habits and no connection.
2. Of the prompts that the model gets wrong, the share that the circuit gets wrong too.
"""

from math import isfinite

import torch
from torch import Tensor

from circuits.evidence.examination import Examination, criterion
from circuits.evidence.measurement import Measurement, missing, share


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


def _agreement(exam: Examination, circuit: Tensor, model: Tensor) -> Measurement:
    """Cohen's kappa of calibrated answers `[n, side, answer]`; the interval is over pairs, n counts prompts."""
    both = torch.stack([answers_first(circuit), answers_first(model)], dim=-1)  # [n, side, judge]

    def kappa(rows: Tensor) -> Tensor:  # [..., n, side, judge]
        flat = rows.flatten(-3, -2)
        return cohens_kappa(flat[..., 0], flat[..., 1])

    if not isfinite(float(kappa(both))):
        return missing("kappa", "circuit and model give one and the same answer to all prompts")
    same = float((both[..., 0] == both[..., 1]).double().mean())
    return exam.measured(both, "kappa", kappa, n=2 * len(both), note=f"the same answer on {same:.1%} of the prompts")


@criterion("agreement, held-out", "critique 6", at_least="min_kappa", needs="min_pairs", core=True)
def heldout_agreement(exam: Examination) -> Measurement:
    """Does the circuit give the model's answers on held-out prompts (Cohen's kappa)?"""
    return _agreement(exam, exam.calibrated, exam.full_calibrated)


def shifted_answers(exam: Examination) -> list[Tensor]:
    """Calibrated answers of circuit and model on the shifted pairs; none where there are no such pairs."""
    if exam.inputs.shifted is None:
        return []
    pairs = exam.inputs.shifted.batch(slice(0, exam.config.n_pairs))
    own, full = exam.answers(torch.stack([exam.keep, exam.everything]), pairs)
    return [exam.circuit.calibration.apply(own), exam.full_calibration.apply(full)]


@criterion("agreement, shifted", "critique 6", at_least="min_kappa", needs="min_pairs")
def shifted_agreement(exam: Examination) -> Measurement:
    """Does the circuit give the model's answers on longer prompts with distractors (Cohen's kappa)?"""
    answers = exam.once(shifted_answers)
    return _agreement(exam, *answers) if answers else missing("kappa", "no shifted pairs were given")


@criterion("shared errors", "critique 6", at_least="min_shared_errors", needs="min_errors")
def shared_errors(exam: Examination) -> Measurement:
    """Where the model is wrong, is the circuit wrong too?"""
    answers = [(exam.calibrated, exam.full_calibrated), exam.once(shifted_answers)]
    right = torch.tensor([True, False])  # A is right on side 0
    circuit, model = (
        torch.cat([answers_first(x) != right for x in parts]) for parts in zip(*filter(None, answers), strict=True)
    )
    return share(int((circuit & model).sum()), int(model.sum()), note="n counts the model's errors")
