"""Other ways to delete, scrubbing, binarisation."""

import pytest
import torch
from random_exam import with_nodes, with_settings

from circuits.calibrate import calibrated_loss
from circuits.edges import find_edges
from circuits.evidence.deletions import (
    Cell,
    deleted_loss,
    robustness,
    scale_hooks,
    scrub_hooks,
    scrubbed,
    task_means,
    text_values,
)
from circuits.evidence.roles import (
    binarised,
    fit_steps,
)
from circuits.tasks.loss import task_loss
from sparsetrain.hooks import HookPoint, hooked


def test_values_of_text_come_from_one_place_each(exam):
    windows = torch.randint(61, (6, 7), generator=torch.Generator().manual_seed(0))
    values = text_values(with_settings(exam, seed=1), windows, 60)
    seen = {}

    def keep(x: torch.Tensor, point: HookPoint) -> torch.Tensor:
        seen[point.name] = x
        return x

    with hooked(exam.model, dict.fromkeys(exam.space.names, keep)):
        exam.model(windows)
    everywhere = exam.space.join(seen).flatten(0, 1)
    distance = torch.cdist(values.double(), everywhere.double())
    assert float(distance.min(1).values.max()) < 1e-4
    assert len((distance.argmin(1) // 7).unique()) == 6 and len((distance.argmin(1) % 7).unique()) == 7


def test_task_means_leave_padding_out(exam):
    seen, valid = exam.recorded(exam.fit, exam.space.names, {})
    assert valid.sum(1).tolist() == (exam.fit.last.flatten() + 1).tolist()
    name = exam.space.names[4]
    rows = [seen[name][i, : int(n) + 1] for i, n in enumerate(exam.fit.last.flatten())]
    means = exam.space.split(task_means(exam))[name]
    torch.testing.assert_close(means, torch.cat(rows).mean(0))


def test_cells_of_the_table(exam, circuit):
    """Node circuit under its means; all kept and all norms frozen at their own scale is the model itself."""
    fit = exam.answers(exam.keep[None], exam.fit)
    _, calibration = calibrated_loss(fit)
    expected = float(task_loss(calibration.apply(exam.own[None].double())))
    assert deleted_loss(exam, exam.circuit.means) == pytest.approx(expected, abs=1e-5)
    whole = with_nodes(exam, exam.everything)
    scales = scale_hooks(whole, whole.fit), scale_hooks(whole, whole.heldout)
    edges = find_edges(exam.model, exam.space, exam.everything)
    plain = deleted_loss(whole, exam.circuit.means)
    assert deleted_loss(whole, exam.circuit.means, edges, scales) == pytest.approx(plain, abs=1e-5)
    own = scale_hooks(exam, exam.fit), scale_hooks(exam, exam.heldout)
    frozen, moving = (deleted_loss(exam, exam.circuit.means, circuit.edges, scales) for scales in (own, ({}, {})))
    assert abs(frozen - moving) > 1e-6


def test_robustness_counts_cells(exam, monkeypatch):
    cells = [Cell("zero", "nodes", "moving", loss) for loss in (0.1, 0.2, 0.4, 0.1)]
    monkeypatch.setattr("circuits.evidence.deletions.ablation_table", lambda exam: cells)
    found = robustness(with_settings(exam, max_robust_loss=0.2))
    assert (found.value, found.n, found.lo) == (0.75, 4, None)
    assert "0.400" in found.note


def test_scrub_hooks_put_the_drawn_rows(exam):
    pool = torch.randn(4, exam.space.n_nodes)
    places = torch.tensor([[0, 3, 1], [2, 2, 0]])
    name = exam.space.names[6]
    hook = scrub_hooks(exam.space, exam.keep, pool, places)[name]
    width = exam.space.widths[6]
    x, point = torch.randn(2, 3, width), HookPoint("mlp_neuron", width)
    point.name = name
    out = hook(x, point)
    keep, rows = exam.space.split(exam.keep)[name], exam.space.split(pool)[name]
    torch.testing.assert_close(out[1, 2], torch.where(keep, x[1, 2], rows[0]))
    torch.testing.assert_close(out[0, 1], torch.where(keep, x[0, 1], rows[3]))


def test_scrubbing_nothing_recovers_all_and_everything_nothing(exam):
    pool = torch.randn(8, exam.space.n_nodes, generator=torch.Generator().manual_seed(0))
    whole = with_nodes(exam, exam.everything)
    assert scrubbed(with_settings(whole, n_scrub=2), pool).value == pytest.approx(1.0, abs=1e-4)
    constant = pool[:1].expand(8, -1)  # no luck in the draws: the empty circuit and the random one are the same
    empty = with_nodes(exam, ~exam.everything)
    assert scrubbed(with_settings(empty, n_scrub=2), constant).value == pytest.approx(0.0, abs=1e-6)


def test_steps_by_brute_force():
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 5.0
    x[:, 2] = torch.tensor([0.0] * 9 + [7.0] * 3)
    steps = fit_steps(x)

    def error(column: torch.Tensor, threshold: float) -> float:
        parts = [column[column > threshold], column[column <= threshold]]
        return sum(float(((part - part.mean()) ** 2).sum()) for part in parts if len(part))

    column = x[:, 0].double()
    best = min(error(column, t) for t in column.tolist())
    fitted = torch.where(column > steps.threshold[0], steps.hi[0], steps.lo[0])
    assert float(((column - fitted) ** 2).sum()) == pytest.approx(best, rel=1e-9)
    assert float(steps.lo[1]) == float(steps.hi[1]) == 5.0
    assert (float(steps.lo[2]), float(steps.threshold[2]), float(steps.hi[2])) == (0.0, 3.5, 7.0)


def test_binarising_the_empty_circuit_changes_nothing(exam):
    empty = with_nodes(exam, ~exam.everything)
    assert binarised(empty).value == pytest.approx(deleted_loss(empty, exam.circuit.means), abs=1e-6)
    assert abs(binarised(exam).value - deleted_loss(exam, exam.circuit.means)) > 1e-6
