"""Scores of a model's answers against loops over tokens written out here."""

import math

import pytest
import torch

from circuits.calibrate import fit_calibrations
from circuits.tasks.loss import (
    SCALE_MAX,
    SCALE_MIN,
    Calibration,
    answer_logits,
    logit_diff,
    pair_accuracy,
    pair_logit_diff,
    pair_task_loss,
    task_loss,
)

ANSWERS = torch.tensor([[3, 5], [0, 6], [2, -1], [-1, 4], [6, 1]])


def brute_force(logits: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """[n, side, answer] by explicit loops."""
    n, _, d_vocab = logits.shape
    out = torch.zeros(n, 2, 2)
    for i in range(n):
        for side in range(2):
            for k in range(2):
                answer, other = int(answers[i, k]), int(answers[i, 1 - k])
                tokens = [answer] if answer >= 0 else [t for t in range(d_vocab) if t != other]
                out[i, side, k] = math.log(sum(math.exp(float(logits[i, side, t])) for t in tokens))
    return out


def test_answer_logits_against_loops():
    logits = torch.randn(5, 2, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(answer_logits(logits, ANSWERS), brute_force(logits, ANSWERS))


def test_task_loss_against_loops():
    logits = torch.randn(5, 2, 7, generator=torch.Generator().manual_seed(1))
    chosen = brute_force(logits, ANSWERS)
    losses, diffs, right = [], [], []
    for i in range(5):
        p_a = math.exp(chosen[i, 0, 0]) / (math.exp(chosen[i, 0, 0]) + math.exp(chosen[i, 0, 1]))
        p_b = math.exp(chosen[i, 1, 1]) / (math.exp(chosen[i, 1, 0]) + math.exp(chosen[i, 1, 1]))
        losses.append((-math.log(p_a) - math.log(p_b)) / 2)
        diffs.append(float((chosen[i, 0, 0] - chosen[i, 0, 1] + chosen[i, 1, 1] - chosen[i, 1, 0]) / 2))
        right.append(((p_a > 0.5) + (p_b > 0.5)) / 2)
    answered = answer_logits(logits, ANSWERS)
    torch.testing.assert_close(pair_task_loss(answered), torch.tensor(losses))
    torch.testing.assert_close(pair_logit_diff(answered), torch.tensor(diffs))
    torch.testing.assert_close(pair_accuracy(answered), torch.tensor(right))
    torch.testing.assert_close(task_loss(answered), torch.tensor(losses).mean())
    torch.testing.assert_close(logit_diff(answered), torch.tensor(diffs).mean())
    torch.testing.assert_close(pair_accuracy(answered).mean(-1), torch.tensor(right).mean())


def test_hand_computed_loss():
    """Both sides right by a margin of 2: log(1 + exp(-2)) = 0.126928; not twice that."""
    answered = torch.tensor([[[2.0, 0.0], [0.0, 2.0]]])
    assert float(task_loss(answered)) == pytest.approx(0.126928, abs=1e-6)
    assert float(logit_diff(answered)) == 2.0 and float(pair_accuracy(answered).mean(-1)) == 1.0


def test_a_model_that_cannot_tell_the_sides_apart_has_at_least_ln_2():
    one_side = torch.randn(9, 1, 2, generator=torch.Generator().manual_seed(2)).expand(9, 2, 2)
    assert (pair_task_loss(one_side) >= math.log(2) - 1e-6).all()
    assert float(logit_diff(one_side)) == pytest.approx(0, abs=1e-6) and float(pair_accuracy(one_side).mean(-1)) == 0.5


def test_runs_in_front_are_scored_each_for_itself():
    logits = torch.randn(3, 4, 5, 2, 7, generator=torch.Generator().manual_seed(3))
    answered = answer_logits(logits, ANSWERS)
    assert answered.shape == (3, 4, 5, 2, 2) and task_loss(answered).shape == (3, 4)
    for i in range(3):
        for j in range(4):
            alone = answer_logits(logits[i, j], ANSWERS)
            torch.testing.assert_close(answered[i, j], alone)
            torch.testing.assert_close(task_loss(answered)[i, j], task_loss(alone))
            torch.testing.assert_close(pair_accuracy(answered).mean(-1)[i, j], pair_accuracy(alone).mean(-1))


def test_gradients():
    logits = torch.randn(2, 5, 2, 7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: pair_task_loss(answer_logits(x, ANSWERS)), logits)


def test_half_precision_is_scored_in_float32():
    logits = torch.randn(5, 2, 7).bfloat16()
    assert answer_logits(logits, ANSWERS).dtype == torch.float32


def test_both_answers_the_rest_is_refused():
    with pytest.raises(ValueError, match="both answers of a pair are -1"):
        answer_logits(torch.zeros(1, 2, 7), torch.tensor([[-1, -1]]))
    with pytest.raises(ValueError, match=r"got shape \[4, 3\]"):
        task_loss(torch.zeros(4, 3))


def noisy(scale: float, shift: float, n: int = 400) -> torch.Tensor:
    """Answer logits whose best calibration is (1 / scale, -shift / scale), by construction of the labels."""
    g = torch.Generator().manual_seed(5)
    truth = 1.5 * torch.randn(n, 2, generator=g, dtype=torch.float64)
    # right-answer signs are fixed by side, so draw margins whose sign follows the logistic law
    wrong = torch.rand(n, 2, generator=g, dtype=torch.float64) > truth.abs().sigmoid()
    margin = torch.where(wrong, -truth.abs(), truth.abs()) * torch.tensor([1.0, -1.0], dtype=torch.float64)
    margin = scale * margin + shift
    return torch.stack([margin, torch.zeros_like(margin)], dim=-1)


def test_calibration_recovers_scale_and_shift():
    fitted = fit_calibrations(noisy(scale=2.0, shift=3.0))
    assert float(fitted.scale) == pytest.approx(0.5, rel=0.15)
    assert float(fitted.shift) == pytest.approx(-1.5, abs=0.25)


def test_calibration_is_the_best_on_a_grid():
    answered = noisy(scale=0.8, shift=-1.0)
    best = float(task_loss(fit_calibrations(answered).apply(answered)))
    for scale in torch.linspace(0.25, 4.0, 31):
        for shift in torch.linspace(-4, 4, 33):
            assert best <= float(task_loss(Calibration(scale=scale, shift=shift).apply(answered))) + 1e-6
    assert best <= float(task_loss(answered))


def test_calibration_keeps_the_scale_within_its_bounds():
    separable = torch.tensor([[[0.3, 0.0], [0.0, 0.1]]]).expand(8, 2, 2)
    fitted = fit_calibrations(separable)
    assert float(fitted.scale) == SCALE_MAX
    # at the bound the shift is fitted again: margins 4 * 0.3 + s and 4 * 0.1 - s are equal at s = -0.4
    assert float(fitted.shift) == pytest.approx(-0.4, abs=1e-3)
    inverted = fit_calibrations(-separable)
    assert float(inverted.scale) == SCALE_MIN


def test_calibration_of_runs_is_that_of_each_run():
    answered = torch.stack([noisy(2.0, 3.0), noisy(0.5, 0.0)])
    together = fit_calibrations(answered)
    assert together.scale.shape == (2,)
    for i in range(2):
        alone = fit_calibrations(answered[i])
        assert together.scale[i] == alone.scale and together.shift[i] == alone.shift
        torch.testing.assert_close(together.apply(answered)[i], alone.apply(answered[i]))


def test_a_scalar_on_all_logits_does_nothing_and_the_shift_does():
    answered = noisy(1.0, 0.0)
    torch.testing.assert_close(task_loss(answered + 7), task_loss(answered))
    shifted = Calibration(scale=torch.tensor(1.0), shift=torch.tensor(7.0)).apply(answered)
    torch.testing.assert_close(shifted[..., 0] - shifted[..., 1], answered[..., 0] - answered[..., 1] + 7)


def test_fitting_leaves_gradients_and_grad_mode_alone():
    answered = noisy(1.0, 1.0).requires_grad_()
    with torch.no_grad():
        fitted = fit_calibrations(answered)
        assert not torch.is_grad_enabled()
    assert answered.grad is None and not fitted.scale.requires_grad
    task_loss(fitted.apply(answered)).backward()
    assert answered.grad is not None
