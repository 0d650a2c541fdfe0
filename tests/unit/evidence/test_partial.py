"""Circuits ablated in part, and the worst of them."""

import pytest
import torch
from random_exam import keeping, plain_answers, with_settings

from circuits.evidence import partial
from circuits.evidence.examination import Examination
from circuits.evidence.partial import heldout_losses, random_partial, worst_partial
from circuits.tasks.loss import task_loss


def test_partial_ablation_ends_at_circuit_and_model(exam):
    everything = torch.ones_like(exam.keep)
    for case in (exam, keeping(exam)):  # calibrated anew on the fit pairs, or not at all
        with torch.no_grad():
            losses = heldout_losses(case, torch.tensor([[0.0], [1.0]]).expand(2, exam.space.n_nodes))
        for row, keep in zip(losses, (exam.keep, everything), strict=True):
            expected = task_loss(case.calibration_of(keep[None]).first.apply(plain_answers(exam, keep)))
            assert float(row.mean()) == pytest.approx(float(expected), abs=1e-5)
    assert keeping(exam).calibration_of(exam.keep[None]).first.scale == 2.0


def test_adversary_finds_worse_than_chance_draws_and_stays_in_bounds(exam, monkeypatch):
    drawn = random_partial(with_settings(exam, n_partial=8))
    worst = worst_partial(with_settings(exam, n_adversary_steps=10, n_adversary_starts=2, adversary_step=0.2))
    assert worst.value is not None and drawn.value is not None
    assert worst.value > float(drawn.note.rsplit(" ", 1)[1])

    tried = []

    def spy(exam: Examination, r: torch.Tensor) -> torch.Tensor:
        tried.append(r.detach())
        return heldout_losses(exam, r)

    monkeypatch.setattr(partial, "heldout_losses", spy)
    worst_partial(with_settings(exam, n_adversary_steps=3, n_adversary_starts=2, adversary_step=0.4))
    assert len(tried) == 4 and bool((torch.stack(tried) >= 0).all()) and bool((torch.stack(tried) <= 1).all())


def test_gradient_of_a_partial_ablation(exam):
    r = torch.full((1, exam.space.n_nodes), 0.5, requires_grad=True)
    (grad,) = torch.autograd.grad(heldout_losses(exam, r).mean(), [r])
    assert not bool(grad[0, exam.keep].any())
    node = int(grad[0].abs().argmax())
    change = torch.zeros_like(r)
    change[0, node] = 1e-3
    with torch.no_grad():
        up, down = (heldout_losses(exam, r + s * change).mean() for s in (1, -1))
    assert float(up - down) / 2e-3 == pytest.approx(float(grad[0, node]), rel=0.05)
