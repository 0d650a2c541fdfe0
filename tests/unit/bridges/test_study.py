"""What the study keeps of a task: curves and movements of every control, on models whose bridge is known to carry exactly."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from bridge_example import pairs, turned_steering

from circuits.bridges import study
from circuits.bridges.readings import NAN, NODE, TaskSteering
from circuits.bridges.steer import CONTROLS, DRAWN, PATCHED
from circuits.bridges.study import BridgeStudyConfig, steered


@pytest.fixture(scope="module")
def steering():
    return turned_steering()


def subject():
    answers = torch.zeros(6, 2, 2)
    calibration = SimpleNamespace(apply=lambda x: x)
    return SimpleNamespace(full=(answers, calibration), pairs=SimpleNamespace(train=pairs(), heldout=pairs(seed=1)))


def found(*nodes: str):
    circuit = SimpleNamespace(node_ids=nodes, n_nodes=len(nodes), n_edges=2, save=lambda folder: None)
    return lambda subject, aim: SimpleNamespace(circuits=[(circuit, None)])


def test_a_task_has_a_curve_and_a_movement_of_every_control(steering, monkeypatch, tmp_path):
    monkeypatch.setattr(study, "aim", lambda subject, passed: None)
    monkeypatch.setattr(study, "searched", found("blocks.0.mlp.hook_in:2", "blocks.1.attn.hook_in:5", "blocks.1.mlp.hook_neuron:1"))  # fmt: skip
    settings = BridgeStudyConfig(n_strengths=3, n_draws=2, find=study.FindConfig(gate=False))
    one = steered(steering, subject(), settings, 0, tmp_path)  # pyright: ignore
    assert one.n_candidates == 2 and one.n_rows == 10, "neurons read no residual stream"
    assert set(one.curves) == {NODE, PATCHED, *CONTROLS} and set(one.moved) == set(CONTROLS)
    assert all(len(curve) == 3 for curve in one.curves.values())
    assert len({curve[0] for curve in one.curves.values()}) == 1, "at strength 0 all are the model itself"
    assert one.site in ("0.mlp", "1.attn") and one.node


def test_without_a_circuit_there_is_nothing_to_claim(steering, tmp_path):
    one = steered(steering, subject(), BridgeStudyConfig(), 0, tmp_path)  # pyright: ignore
    assert one.n_candidates == 0 and not one.carries
    assert one.reaches != one.reaches and one.movement(CONTROLS[0]) != one.movement(CONTROLS[0]), NAN


@pytest.mark.parametrize("tasks", [(), ("for_while", "for_while")])
def test_tasks_are_named_once(tasks):
    with pytest.raises(ValueError, match="must be at least one task, each once"):
        BridgeStudyConfig(tasks=tasks)


@pytest.mark.parametrize(
    ("curve", "over"),
    [((0.1, 0.4, 0.7), 0.2), ((0.1, 0.8, 0.4), 0.3), ((0.6, 0.9, 0.9), -0.1), ((0.1, 0.2, 0.3), -0.2)],
)
def test_a_curve_crosses_a_half_from_below(curve, over):
    """A teacher that says the other answer without being steered has not been turned."""
    one = TaskSteering(
        dense_accuracy=1, sparse_loss=0, n_nodes=1, n_edges=1, node="", site="", n_candidates=1, n_rows=1,
        curves={NODE: curve}, whole={}, moved=dict.fromkeys(CONTROLS, 0.0),
    )  # fmt: skip
    assert one.crosses == pytest.approx(over) and one.carries == (over > 0)
    assert not replace(one, moved=dict.fromkeys(CONTROLS, 0.2)).carries
    by_means = replace(one, moved={name: 0.0 if name in DRAWN else 0.9 for name in CONTROLS})
    assert not by_means.carries and by_means.carries_beside(DRAWN) == (over > 0)


def test_a_control_that_chance_decides_moves_as_far_as_its_draws_do_on_average(steering, monkeypatch, tmp_path):
    """The largest would grow with their number, and more draws would turn a pass into a fail."""
    monkeypatch.setattr(study, "aim", lambda subject, passed: None)
    monkeypatch.setattr(study, "searched", found("blocks.0.mlp.hook_in:2"))
    movements = iter([0.1, 0.3] * len(CONTROLS))
    monkeypatch.setattr(study, "moved", lambda curve: next(movements))
    one = steered(steering, subject(), BridgeStudyConfig(n_strengths=2, n_draws=2, find=study.FindConfig(gate=False)), 0, tmp_path)  # pyright: ignore  # fmt: skip
    assert all(one.moved[name] == pytest.approx(0.2) for name in DRAWN)
