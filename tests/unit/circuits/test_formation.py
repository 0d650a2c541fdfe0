"""Circuits as they form: which steps are looked at and what a section says."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from report_example import filled

from circuits.circuit import Circuit
from circuits.formation import FormationConfig, formation_section, halving_steps
from circuits.run import CircuitsConfig, TrainRun
from circuits.section import CircuitsSection, TaskEntry
from circuits.tasks import TASKS
from circuits.views.formation import formation as view
from sparsetrain.report import Report
from sparsetrain.report.blocks import Table
from sparsetrain.report.sections import TrainingSection
from sparsetrain.stats.number import StepCurve, number
from sparsetrain.typed import plain


def test_steps_halve_from_the_end():
    assert halving_steps(1600, 4) == [100, 200, 400, 800]
    assert halving_steps(5, 10) == [1, 2]
    assert halving_steps(1, 3) == []


def test_a_followed_task_must_be_searched_at_the_end_too():
    with pytest.raises(ValueError, match=r"\['with_as'\], which circuits.tasks has not"):
        TrainRun(formation=FormationConfig(tasks=("with_as",)), circuits=CircuitsConfig(tasks=("var_if",)))


def test_pairs_of_a_file_are_followed_under_their_task_s_name(tmp_path):
    path = tmp_path / "mine.jsonl"
    pairs = [{"prompt_a": f"Is w{i}", "answer_a": "?", "prompt_b": f"The w{i}", "answer_b": "."} for i in range(30)]
    path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    mine = f"file:{path}"
    run = TrainRun(formation=FormationConfig(tasks=(mine,)), circuits=CircuitsConfig(tasks=("all", "with_as", mine)))
    assert run.circuits.names() == (*TASKS, *run.formation.names()) and run.formation.names()[0].startswith("mine-")
    with pytest.raises(ValueError, match=r"\['mine-[0-9a-f]{8}'\], which circuits.tasks has not"):
        TrainRun(formation=FormationConfig(tasks=(mine,)), circuits=CircuitsConfig(tasks=("all",)))


def entry(name: str, loss: float, nodes: int | None, monkeypatch_nodes: dict[str, int], place: str) -> TaskEntry:
    circuits = []
    if nodes is not None:
        path = f"circuits/{name}/circuit.json"
        monkeypatch_nodes[f"{place}/{path}"] = nodes
        circuits = [
            {
                "path": path,
                "n_nodes": number(nodes, "nodes"),
                "n_edges": number(2 * nodes, "edges"),
                "task_loss": number(0.1, "nats"),
            }
        ]
    gate = {"passed": loss < 0.15, "loss": number(loss, "nats"), "accuracy": number(0.5, "fraction")}
    status = "circuit" if nodes is not None else "failed_by_model"
    seeds = {"jaccard_nodes": number(0.8, "fraction")}
    return filled(TaskEntry, {"task": name, "status": status, "gate": gate, "circuits": circuits, "seeds": seeds})


def test_each_step_is_compared_with_the_finished_model(tmp_path, monkeypatch):
    nodes: dict[str, int] = {}

    def load(path: Path) -> SimpleNamespace:  # a circuit of n nodes: n0 ... n-1
        return SimpleNamespace(node_ids=[f"n{i}" for i in range(nodes[str(path)])])

    monkeypatch.setattr(Circuit, "load", staticmethod(load))
    found = {
        100: [entry("a", 0.6, None, nodes, ""), entry("b", 0.5, None, nodes, "")],
        200: [
            entry("a", 0.1, 8, nodes, str(tmp_path / "formation" / "step_200")),
            entry("b", 0.4, None, nodes, ""),
        ],
    }
    for step, tasks in found.items():
        folder = tmp_path / "formation" / f"step_{step}"
        folder.mkdir(parents=True)
        (folder / "section.json").write_text(json.dumps(plain(filled(CircuitsSection, {"tasks": tasks}))))
    last = [entry("a", 0.05, 4, nodes, str(tmp_path)), entry("b", 0.1, 2, nodes, str(tmp_path))]
    curves = {"density": StepCurve(step=(0,), value=(1.0,))}
    sections = {
        "circuits": filled(CircuitsSection, {"tasks": last}),
        "training": filled(TrainingSection, {"curves": curves}),
    }
    report = replace(filled(Report), sections=sections)
    section = formation_section(tmp_path, ["a", "b"], 400, report)
    a, b = (task.points for task in section.tasks)
    assert [point.step for point in a] == [100, 200, 400]
    assert a[0].n_edges is None and a[0].model_loss.value == 0.6
    assert a[1].jaccard_final.value == 4 / 8 and a[1].jaccard_other_tasks.value == 2 / 8
    assert a[2].jaccard_final.value == 1.0 and b[2].jaccard_other_tasks.value == 2 / 4
    assert all(point.model_loss.status == "measured" for point in a)
    assert section.density == StepCurve(step=(0,), value=(1.0,))
    first = next(block for block in view(section) if isinstance(block, Table))
    assert first.rows[0] == ("a", 200, 200, 16, 8, 0.5)
    assert first.rows[1] == ("b", 400, 400, 4, 4, 1.0)
