"""The machinery of a study: rules stand before the run, stages resume, gates stop verdicts, rules combine claims."""

import json
from dataclasses import replace

import numpy as np
import pytest

from sparsetrain.report import RunFacts, value_of
from sparsetrain.report.document import assemble
from sparsetrain.report.html import to_html
from sparsetrain.report.markdown import to_markdown
from sparsetrain.report.sections import VIEWS
from sparsetrain.stats.decisions import DecisionRule
from sparsetrain.studies.engine import (
    AdaptiveConfig,
    Arm,
    Claim,
    Gate,
    Plan,
    Rule,
    Stage,
    StudyConfig,
    conclude,
    log_spaced_steps,
    preregister,
    run_stages,
)
from sparsetrain.typed import plain

YES, NO, NOISE = [1.0, 1.1, 0.9, 1.2, 1.0], [-1.0, -1.1, -0.9, -1.2, -1.0], [3.0, -2.0, 1.0, -3.0, 2.0]


def plan(margin: float = 0.5) -> Plan:
    def claim(key: str) -> Claim:
        criterion = DecisionRule(claim=f"claim {key}", expected="positive", margin=margin, n_agreeing=4)
        return Claim(key=key, arm="only", criterion=criterion, unit="u")

    return Plan(
        question="Is it so?",
        method=("By looking.",),
        seeds=(0, 1, 2, 3, 4),
        arms=("only",),
        gates=(Gate(key="learned", words="accuracy", rule="at least", bound=0.9, unit="fraction"),),
        claims=(claim("a"), claim("b")),
        rules=(Rule(name="both", arm="only", statement="a and b", needs=("a", "b")),),
    )


@pytest.mark.parametrize(
    ("a", "b", "word"),
    [
        (YES, YES, "supported"),
        (YES, NO, "not supported"),
        (YES, NOISE, "undecided"),
        (NOISE, NO, "not supported"),
        (NO, NO, "not supported"),
    ],
)
def test_verdicts_combine_claims(a, b, word):
    found = conclude(plan(), gates={"learned": [0.95] * 5}, effects={"a": a, "b": b})
    assert found["interpretable"] and found["verdicts"][0]["verdict"] == word
    claim = found["claims"][0]
    assert value_of(claim["number"]) == pytest.approx(np.mean(a)) and claim["per_seed"] == a


@pytest.mark.parametrize("value", [0.89, float("nan")])
def test_one_seed_below_a_gate_stops_every_verdict(value):
    found = conclude(plan(), gates={"learned": [0.95, value, 1.0]}, effects={"a": YES, "b": YES})
    assert not found["interpretable"] and not found["gates"][0]["passed"]
    assert found["verdicts"][0]["verdict"] == "undecided" and "learned" in found["verdicts"][0]["reason"]


def test_one_seed_has_no_interval_and_decides_nothing():
    found = conclude(plan(), gates={"learned": [1.0]}, effects={"a": [5.0], "b": [5.0]})
    assert found["verdicts"][0]["verdict"] == "undecided"


def test_rules_cannot_be_changed_afterwards(tmp_path):
    preregister(plan(), tmp_path)
    written = (tmp_path / "plan.json").read_bytes()
    preregister(plan(), tmp_path)
    assert (tmp_path / "plan.json").read_bytes() == written
    assert json.loads(written)["claims"][0]["criterion"].startswith("positive, interval without 0, size at least 0.5")
    with pytest.raises(ValueError, match="another plan"):
        preregister(plan(margin=0.1), tmp_path)


def test_finished_stages_are_not_run_again(tmp_path):
    ran = []

    def stage(name: str, size: int, fails: bool = False) -> Stage:
        def run(folder):
            ran.append(name)
            if fails:
                raise RuntimeError("interrupted")
            (folder / "left.txt").write_text(name)
            return {"size": size}

        return Stage(name=name, inputs={"size": size}, run=run)

    with pytest.raises(RuntimeError):
        run_stages([stage("x/seed_0", 1), stage("x/seed_1", 1, fails=True)], tmp_path)
    results = run_stages([stage("x/seed_0", 1), stage("x/seed_1", 1)], tmp_path)
    assert ran == ["x/seed_0", "x/seed_1", "x/seed_1"]
    assert [results[name]["size"] for name in results] == [1, 1] and results["x/seed_0"]["seconds"] >= 0
    run_stages([stage("x/seed_0", 1), stage("x/seed_1", 2)], tmp_path)
    assert ran[3:] == ["x/seed_1"]


def test_log_spaced_steps():
    assert log_spaced_steps(1000, 4) == (0, 1, 10, 100, 1000)
    assert log_spaced_steps(3, 10) == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"margin": 0.0}, "study.margin=0.0 must be above 0"),
        ({"n_seeds": 0}, "study.n_seeds=0 must be at least 1"),
        ({"arms": {}}, "study.arms is empty"),
    ],
)
def test_bad_configs(settings, message):
    with pytest.raises(ValueError, match=message):
        StudyConfig(**settings)
    with pytest.raises(ValueError, match=r"density=2 must lie in \(0, 1\]"):
        Arm(density=2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "mlp"}, r"study\.adaptive\.kind='mlp' is unknown; allowed: attn_in, "),
        ({"arms": ()}, "must name at least one arm"),
        ({"energy": 0.0}, r"energy=0\.0 must lie in \(0, 1\]"),
        ({"levels_per_octave": 0}, "levels_per_octave=0 must be at least 1"),
    ],
)
def test_bad_settings_of_active_channels(settings, message):
    with pytest.raises(ValueError, match=message):
        AdaptiveConfig(**settings)


def page(done: bool, gates: list[float]) -> dict:
    hostile = replace(plan(), question="<script>window.pwned=1</script>")
    data = {"status": "planned", "plan": hostile.section(), "plan_sha256": hostile.sha256()}
    if done:
        figure = {"key": "f", "title": "T", "x_label": "x", "y_label": "y", "references": [], "note": "n"}
        curve = {"name": "c", "x": [0, 1], "y": [1, 2], "lo": [0, 1], "hi": [2, 3]}
        table = {"title": "Other", "columns": ["what", "value"], "rows": [["w", 1.5]], "note": "note"}
        data |= conclude(hostile, gates={"learned": gates}, effects={"a": YES, "b": NO})
        data |= {"status": "done", "figures": [{**figure, "curves": [curve]}], "tables": [table], "models": {}}
    run = plain(RunFacts.now(name="s", seed=0, command="", device="cpu"))
    return {"schema_version": 1, "run": run, "study": data}


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (page(False, []), "Not run yet"),
        (page(True, [1.0]), "not supported: b"),
        (page(True, [0.1]), "Not interpretable: accuracy"),
    ],
)
def test_the_page_says_what_stands_and_escapes_it(report, said):
    document = assemble(report, VIEWS)
    markdown, html = to_markdown(document), to_html(document)
    assert said in markdown and said in html
    assert "<script>window" not in html and "<script>" not in markdown
    assert "at least 0.5" in markdown  # the rules stand there, before and after


def test_verdicts_become_tiles():
    tiles = assemble(page(True, [1.0]), VIEWS).tiles
    assert [(tile.label, tile.value, tile.tone) for tile in tiles] == [("both (only)", "not supported", "fail")]
