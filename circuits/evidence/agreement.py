"""Does the circuit answer as the model does, on prompts it was not fitted to and where the model is wrong?

An answer is the one of the two with the larger logit, calibrated where the criterion's name does not say raw. A prompt is one
side of a pair.
1. Cohen's kappa = (p_o - p_e) / (1 - p_e): p_o the share of prompts where both give the same answer, p_e the share
   expected of two judges with the same habits and no connection.
2. Of the prompts that the model gets wrong, the share that the circuit gets wrong too.
3. Template transfer: the same on pairs in another wording, with the calibration that the first wording gave. A circuit of a
   template is not a circuit of the behaviour.
"""

from math import isfinite

import torch
from torch import Tensor

from circuits.evidence.examination import Examination, criterion
from circuits.evidence.measurement import Measurement, missing, share
from circuits.tasks.loss import pair_task_loss
from circuits.tasks.pairs import PairSet

NO_PARAPHRASES = "the task has no pairs in other words"


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


def _agreement(exam: Examination, circuit: Tensor, model: Tensor, pairs: PairSet | None = None) -> Measurement:
    """Cohen's kappa of answers `[n, side, answer]` to these pairs (None: the held-out ones)."""
    both = torch.stack([answers_first(circuit), answers_first(model)], dim=-1)  # [n, side, judge]

    def kappa(rows: Tensor) -> Tensor:  # [..., n, side, judge]
        flat = rows.flatten(-3, -2)
        return cohens_kappa(flat[..., 0], flat[..., 1])

    if not isfinite(float(kappa(both))):
        return missing("kappa", "circuit and model give one and the same answer to all prompts")
    same = float((both[..., 0] == both[..., 1]).double().mean())
    return exam.measured(both, "kappa", kappa, pairs=pairs, note=f"the same answer on {same:.1%} of the prompts")


@criterion("agreement, held-out", "critique 6", at_least="min_kappa", needs="min_pairs")
def heldout_agreement(exam: Examination) -> Measurement:
    """Does the circuit give the model's answers on held-out prompts (Cohen's kappa)?"""
    return _agreement(exam, exam.calibrated, exam.full_calibrated)


@criterion("raw agreement", "critique 6", at_least="min_raw_kappa", needs="min_pairs")
def raw_agreement(exam: Examination) -> Measurement:
    """Do the logits of the circuit, as they are, give the model's answers on held-out prompts (Cohen's kappa)?"""
    return _agreement(exam, exam.own, exam.full)


def _both(exam: Examination, pairs: PairSet | None) -> tuple[Tensor, Tensor] | None:
    if pairs is None:
        return None
    own, full = exam.answers(torch.stack([exam.keep, exam.everything]), pairs)
    return exam.circuit.calibration.apply(own.double()), exam.full_calibration.apply(full.double())


def shifted_answers(exam: Examination) -> tuple[Tensor, Tensor] | None:
    """Calibrated answers of circuit and model on the shifted pairs; None where there are no such pairs."""
    return _both(exam, exam.shifted)


def paraphrased_answers(exam: Examination) -> tuple[Tensor, Tensor] | None:
    """The same on the paraphrased pairs."""
    return _both(exam, exam.paraphrased)


@criterion("agreement, shifted", "critique 6", at_least="min_kappa", needs="min_pairs")
def shifted_agreement(exam: Examination) -> Measurement:
    """Does the circuit give the model's answers on longer prompts with distractors (Cohen's kappa)?"""
    answers = exam.once(shifted_answers)
    return _agreement(exam, *answers, exam.shifted) if answers else missing("kappa", "no shifted pairs were given")


@criterion("agreement, paraphrased", "critique 6", at_least="min_kappa", needs="min_pairs")
def paraphrased_agreement(exam: Examination) -> Measurement:
    """Does the circuit give the model's answers to the same questions in other words (Cohen's kappa)?"""
    answers = exam.once(paraphrased_answers)
    return _agreement(exam, *answers, exam.paraphrased) if answers else missing("kappa", NO_PARAPHRASES)


@criterion("template transfer", "critique 6", at_most="max_transfer", needs="min_pairs")
def template_transfer(exam: Examination) -> Measurement:
    """How far is the circuit's loss above the model's where the same is asked in other words?"""
    answers = exam.once(paraphrased_answers)
    if not answers:
        return missing("nats", NO_PARAPHRASES)
    own, full = (pair_task_loss(x) for x in answers)
    note = f"task loss: circuit {float(own.mean()):.3f}, model {float(full.mean()):.3f}"
    return exam.measured(own - full, "nats", pairs=exam.paraphrased, note=note)


@criterion("shared errors", "critique 6", at_least="min_shared_errors", needs="min_errors")
def shared_errors(exam: Examination) -> Measurement:
    """Where the model is wrong, is the circuit wrong too?"""
    answers = [(exam.calibrated, exam.full_calibrated), exam.once(shifted_answers)]
    right = torch.tensor([True, False])  # A is right on side 0
    circuit, model = (
        torch.cat([answers_first(x) != right for x in parts]) for parts in zip(*filter(None, answers), strict=True)
    )
    return share(int((circuit & model).sum()), int(model.sum()), note="n counts the model's errors")
