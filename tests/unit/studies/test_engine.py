"""The machinery of a study: rules stand before the run, stages resume, gates stop verdicts, rules combine claims."""

import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from sparsetrain.report import Report, RunFacts
from sparsetrain.report.blocks import Curve
from sparsetrain.report.document import assemble
from sparsetrain.report.html import to_html
from sparsetrain.report.markdown import to_markdown
from sparsetrain.stats.decisions import DecisionRule
from sparsetrain.stats.intervals import Estimate
from sparsetrain.stats.number import number
from sparsetrain.studies.catalogue import StudyConfig
from sparsetrain.studies.engine import (
    ClaimRule,
    Stage,
    StageResult,
    conclude,
    log_spaced_steps,
    preregister,
    run_stages,
    section_of,
)
from sparsetrain.studies.page import KINDS
from sparsetrain.studies.section import Figure, Gate, Plan, ResultTable, StudySection, VerdictRule
from sparsetrain.typed import from_dict

YES, NO, NOISE = [1.0, 1.1, 0.9, 1.2, 1.0], [-1.0, -1.1, -0.9, -1.2, -1.0], [3.0, -2.0, 1.0, -3.0, 2.0]


def claim_rules(margin: float = 0.5) -> tuple[ClaimRule, ...]:
    return tuple(
        ClaimRule(
            key=key,
            arm="only",
            rule=DecisionRule(claim=f"claim {key}", expected="positive", margin=margin, n_agreeing=4),
            unit="u",
        )
        for key in ("a", "b")
    )


def plan(margin: float = 0.5) -> Plan:
    return Plan(
        question="Is it so?",
        method=("By looking.",),
        seeds=(0, 1, 2, 3, 4),
        arms=("only",),
        gates=(Gate(key="learned", words="accuracy", rule="at least", bound=number(0.9, "fraction")),),
        claims=tuple(rule.claim() for rule in claim_rules(margin)),
        rules=(VerdictRule(name="both", arm="only", statement="a and b", needs=("a", "b")),),
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
    found = conclude(plan(), claim_rules(), gates={"learned": [0.95] * 5}, effects={"a": a, "b": b})
    assert found.interpretable and found.verdicts[0].verdict == word
    claim = found.claims[0]
    assert claim.number.value == pytest.approx(np.mean(a)) and list(claim.per_seed) == a


@pytest.mark.parametrize("value", [0.89, float("nan")])
def test_one_seed_below_a_gate_stops_every_verdict(value):
    found = conclude(plan(), claim_rules(), gates={"learned": [0.95, value, 1.0]}, effects={"a": YES, "b": YES})
    assert not found.interpretable and not found.gates[0].passed
    assert found.gates[0].worst.value in (0.89, None), "no number that would have passed"
    assert found.verdicts[0].verdict == "undecided" and "learned" in found.verdicts[0].reason


def test_one_seed_has_no_interval_and_decides_nothing():
    found = conclude(plan(), claim_rules(), gates={"learned": [1.0]}, effects={"a": [5.0], "b": [5.0]})
    assert found.verdicts[0].verdict == "undecided"


def test_a_claim_may_come_with_an_estimate_of_its_own():
    free = tuple(replace(test, rule=replace(test.rule, n_agreeing=None)) for test in claim_rules())
    planned = replace(plan(), claims=tuple(rule.claim() for rule in free))
    sure = Estimate(value=1.0, lo=0.8, hi=1.2, n=7, method="over tasks")
    found = conclude(planned, free, gates={"learned": [1.0]}, effects={"a": [sure], "b": [replace(sure, lo=-0.1)]})
    assert [claim.verdict for claim in found.claims] == ["supported", "undecided"]
    assert found.claims[0].number == number(1.0, "u", lo=0.8, hi=1.2, n=7, note="over tasks")


def test_rules_cannot_be_changed_afterwards(tmp_path):
    preregister(plan(), tmp_path)
    written = (tmp_path / "plan.json").read_bytes()
    preregister(plan(), tmp_path)
    assert (tmp_path / "plan.json").read_bytes() == written
    assert json.loads(written)["claims"][0]["criterion"].startswith("positive, interval without 0, size at least 0.5")
    with pytest.raises(ValueError, match="another plan"):
        preregister(plan(margin=0.1), tmp_path)


@dataclass(frozen=True, kw_only=True)
class Sized(StageResult):
    size: int


def test_finished_stages_are_not_run_again_and_interrupted_ones_go_on(tmp_path):
    ran: list[tuple[str, list[str]]] = []

    def stage(name: str, size: int, *, fails: bool = False, other: int = 0, whole: bool = True) -> Stage:
        def run(folder):
            ran.append((name, sorted(path.name for path in folder.glob("*.txt"))))
            (folder / "left.txt").write_text(name)
            if fails:
                raise RuntimeError("interrupted")
            return Sized(weights_sha256="0", size=size)

        inputs = {"size": size, "other": other}
        return Stage(name=name, inputs=inputs, run=run, schema=Sized, kept_under=None if whole else {"size": size})

    with pytest.raises(RuntimeError):
        run_stages([stage("x/seed_0", 1), stage("x/seed_1", 1, fails=True)], tmp_path)
    results = run_stages([stage("x/seed_0", 1), stage("x/seed_1", 1)], tmp_path)
    assert ran == [("x/seed_0", []), ("x/seed_1", []), ("x/seed_1", ["left.txt"])]
    assert results == {name: replace(result, size=1) for name, result in results.items()}
    assert all(result.seconds >= 0 for result in results.values())
    assert run_stages([stage("x/seed_0", 1), stage("x/seed_1", 2)], tmp_path)["x/seed_1"] != results["x/seed_1"]
    assert ran[3:] == [("x/seed_1", [])], "what was made under other inputs is thrown away"
    run_stages([stage("y", 1, whole=False)], tmp_path)
    run_stages([stage("y", 1, whole=False, other=1)], tmp_path)
    assert ran[4:] == [("y", []), ("y", ["left.txt"])], "but not what depends on inputs that are as before"


def test_log_spaced_steps():
    assert log_spaced_steps(1000, 4) == (0, 1, 10, 100, 1000)
    assert log_spaced_steps(3, 10) == (0, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class Run:
    study: StudyConfig = field(default_factory=StudyConfig)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"margin": 0.0}, r"study\.margin=0\.0: input should be greater than 0"),
        ({"n_seeds": 0}, r"study\.n_seeds=0: input should be greater than or equal to 1"),
        ({"arms": {"x": {"density": 2}}}, r"study\.arms\.x\.density=2: input should be less than or equal to 1"),
        ({"adaptive": {"kind": "mlp"}}, r"study\.adaptive\.kind='mlp' is unknown; allowed: attn_in, "),
        ({"adaptive": {"arms": ()}}, r"study\.adaptive\.arms=\[\] must name at least one arm"),
        ({"adaptive": {"energy": 0.0}}, r"study\.adaptive\.energy=0\.0: input should be greater than 0"),
        ({"adaptive": {"levels_per_octave": 0}}, r"study\.adaptive\.levels_per_octave=0: input should be greater"),
        ({"knowledge_graph": {"n_relations": 2}}, r"study\.knowledge_graph\.n_relations=2 must be at least 3"),
        ({"shifts": {"names": ()}}, r"study\.shifts\.names=\[\] must be different ones of difficulty, "),
    ],
)
def test_bad_configs_are_named_with_their_path(settings, message):
    with pytest.raises(ValueError, match=message):
        from_dict(Run, {"study": settings})


def test_what_a_world_refuses_is_named_with_its_path():
    with pytest.raises(ValueError, match=r"^study\.shifts\.n_items=3 is too many$"), section_of("study.shifts"):
        raise ValueError("n_items=3 is too many")


def page(done: bool, gates: list[float]) -> Report:
    hostile = replace(plan(), question="<script>window.pwned=1</script>")
    section = StudySection(status="planned", plan=hostile, plan_sha256=hostile.sha256())
    if done:
        curve = Curve(name="c", x=(0, 1), y=(1, 2), lo=(0, 1), hi=(2, 3))
        figure = Figure(key="f", title="T", x_label="x", y_label="y", curves=(curve,), note="n")
        table = ResultTable(title="Other", columns=("what", "value"), rows=(("w", 1.5),), note="note")
        found = conclude(hostile, claim_rules(), gates={"learned": gates}, effects={"a": YES, "b": NO})
        section = replace(found, figures=(figure,), tables=(table,))
    run = RunFacts.now(name="s", seed=0, command="", device="cpu")
    return Report(run=run, sections={"study": section})


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (page(False, []), "Not run yet"),
        (page(True, [1.0]), "not supported: b"),
        (page(True, [0.1]), "Not interpretable: accuracy"),
    ],
)
def test_the_page_says_what_stands_and_escapes_it(report, said):
    document = assemble(report, KINDS)
    markdown, html = to_markdown(document), to_html(document)
    assert said in markdown and said in html
    assert "<script>window" not in html and "<script>" not in markdown
    assert "at least 0.5" in markdown  # the rules stand there, before and after


def test_verdicts_become_tiles():
    tiles = assemble(page(True, [1.0]), KINDS).tiles
    assert [(tile.label, tile.value, tile.tone) for tile in tiles] == [("both (only)", "not supported", "fail")]
