"""Whether model and circuit answer alike, and what else a circuit damages."""

from dataclasses import replace

import pytest
import torch
from random_exam import as_if, plain_answers

from circuits.answers import run_answers
from circuits.calibrate import calibrated_loss
from circuits.evidence.agreement import cohens_kappa, heldout_agreement, shared_errors
from circuits.evidence.examination import Examination
from circuits.evidence.specificity import damage, other_tasks, pretraining_damage, window_losses
from circuits.masks import ablation_hooks
from circuits.tasks.loss import task_loss
from sparsetrain.hooks import hooked


def test_kappa_by_hand():
    """The textbook table 20, 5, 10, 15: p_o = 0.7, p_e = 0.5, kappa = 0.4."""
    a = torch.tensor([1] * 25 + [0] * 25).bool()
    b = torch.tensor([1] * 20 + [0] * 5 + [1] * 10 + [0] * 15).bool()
    assert float(cohens_kappa(a, b)) == pytest.approx(0.4)
    assert float(cohens_kappa(a, a)) == 1.0
    assert float(cohens_kappa(a, ~a)) == -1.0


def test_agreement_and_shared_errors_by_hand(exam):
    def seen(circuit: torch.Tensor, model: torch.Tensor) -> Examination:
        return as_if(exam, calibrated=circuit, full_calibrated=model)

    right, wrong = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    model = torch.stack([right, right, wrong, wrong])
    circuit = torch.stack([right, wrong, wrong, torch.stack([wrong[0], right[1]])])
    found = heldout_agreement(seen(circuit, model))
    assert (found.value, found.n) == (pytest.approx(0.25), 4)  # 5 of 8 prompts agree; both say A half of the time
    errors = shared_errors(seen(circuit, model))
    assert (errors.value, errors.n) == (0.75, 4)
    only_a = torch.stack([right[0], wrong[1]]).expand(3, 2, 2)  # always A: right on side 0, wrong on side 1
    errors = shared_errors(seen(torch.stack([right, only_a[0], wrong]), torch.stack([only_a[0], only_a[0], right])))
    assert (errors.value, errors.n) == (0.5, 2)
    errors = shared_errors(seen(wrong.expand(3, 2, 2), torch.stack([wrong, wrong, right])))
    assert (errors.value, errors.n) == (1.0, 4)
    one_answer = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).expand(4, 2, 2)
    assert heldout_agreement(seen(one_answer, one_answer)).verdict == "not enough data"


def test_damage_by_its_formula(exam):
    full = [run_answers(exam.model, [pairs]) for pairs in (exam.fit, exam.heldout)]
    _, calibration = calibrated_loss(full[0])
    without = plain_answers(exam, ~exam.keep)
    before, after = (float(task_loss(calibration.apply(x.double()))) for x in (full[1], without[None]))
    assert damage(exam, exam.fit, exam.heldout) == pytest.approx(after - before, abs=1e-5)
    found = other_tasks(replace(exam, inputs=replace(exam.inputs, others={"itself": (exam.fit, exam.heldout)})))
    if after > before:
        assert found.value == pytest.approx(1.0)
    else:
        assert found.verdict == "fail"
    assert other_tasks(exam).verdict == "not enough data"


def test_pretraining_damage_by_brute_force(exam):
    windows = torch.randint(61, (5, 9), generator=torch.Generator().manual_seed(0))
    losses = []
    for keep in (torch.ones_like(exam.keep), ~exam.keep):
        with hooked(exam.model, ablation_hooks(exam.space, keep, exam.circuit.means)):
            logs = exam.model(windows).log_softmax(-1)
        picked = [-float(logs[i, t, windows[i, t + 1]]) for i in range(5) for t in range(8)]
        losses.append(sum(picked) / len(picked))
    found = pretraining_damage(replace(exam, inputs=replace(exam.inputs, windows=windows)))
    assert found.value == pytest.approx(losses[1] - losses[0], abs=1e-5)
    assert float(window_losses(exam.model, windows, {}, batch_size=2).mean()) == pytest.approx(losses[0], abs=1e-5)
