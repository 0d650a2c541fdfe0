"""The page of a search: which trials are on the front, what is said of them, and when held-out pairs are looked at."""

from pathlib import Path
from typing import Any

import pytest
from report_example import example_report

from circuits.recipe import frontier
from circuits.recipe.frontier import front_of, write_frontier
from circuits.recipe.selection import SelectionConfig
from circuits.run import KINDS
from circuits.section import FrontierSection, HeldoutGates
from circuits.views.recipe import frontier as view
from circuits.views.recipe import picture
from sparsetrain.job import RETURNED, Trial, Trials
from sparsetrain.report import load_report, save_report
from sparsetrain.report.blocks import Table, Text
from sparsetrain.stats.number import number

TWO = ("selection.capability_loss", "selection.circuit_edges")


def trial(n: int, *values: float, state: Any = "complete") -> Trial:
    return Trial(
        number=n,
        state=state,
        overrides={"optim.lr_peak": "0.0123456", "data.d_vocab": "2048"},
        values=values or None,
        rungs={"0.25": 2.0},
    )


def search(folder: Path, *trials: Trial, is_whole: bool = True, objectives: tuple[str, ...] = TWO) -> FrontierSection:
    """The section of a sweep whose finished trials have the example's report."""
    for one in trials:
        (folder / str(one.number)).mkdir(parents=True, exist_ok=True)
        if one.state == "complete":
            save_report(example_report(), folder / str(one.number) / "report.json")
    Trials(objectives=objectives, is_whole=is_whole, trials=trials).save(folder)
    return write_frontier(
        folder, KINDS, lambda run: SelectionConfig(tasks=("with_as",), circuits=("with_as",)), "train.py"
    )


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the trials whose models are shown held-out pairs."""
    seen: list[str] = []

    def gates(export: Path, run: Path, config: SelectionConfig) -> HeldoutGates:
        seen.append(run.name)
        one = number(1, "tasks")
        return HeldoutGates(n_passed=one, n_bigram=one, task_loss=number(0.1, "nats"), failed=("var_if",))

    monkeypatch.setattr(frontier, "heldout_gates", gates)
    monkeypatch.setattr(frontier, "latest_export", lambda run: run)
    monkeypatch.setattr(frontier, "sha256", lambda path: "0")
    return seen


def test_the_front_is_what_no_other_beats() -> None:
    trials = [trial(0, 1, 9), trial(1, 2, 5), trial(2, 2, 6), trial(3, 9, 1), trial(4, 9, 1), trial(5, 3, 5), trial(6, state="pruned"), trial(7, state="fail")]  # fmt: skip
    assert front_of(trials) == {0, 1, 3, 4}
    assert front_of([trial(0, 3.0), trial(1, 2.0), trial(2, 2.5)]) == {1}
    assert front_of([]) == frozenset()


def test_heldout_pairs_are_shown_to_the_front_alone_after_the_last_trial(tmp_path: Path, judged: list[str]) -> None:
    trials = (
        trial(0, 2.0, 50.0),
        trial(1, 2.1, 60.0),
        trial(2, 3.0, 5.0),
        trial(3, state="pruned"),
        trial(4, state="fail"),
    )
    before = search(tmp_path, *trials, is_whole=False)
    assert judged == [] and all(one.heldout is None for one in before.trials)
    assert any(isinstance(block, Text) and "is not over" in block.text for block in view(before))
    whole = search(tmp_path, *trials)
    assert judged == ["0", "2"] and [one.heldout is not None for one in whole.trials] == [
        True,
        False,
        True,
        False,
        False,
    ]
    assert search(tmp_path, *trials) == whole and judged == ["0", "2"], "once"


def test_the_page_has_every_trial_and_its_picture(tmp_path: Path, judged: list[str]) -> None:
    section = search(tmp_path, trial(0, 2.0, 50.0), trial(1, 2.1, 60.0), trial(2, 3.0, 5.0), trial(3, state="pruned"))
    assert load_report(tmp_path / "report.json", KINDS).section("frontier", FrontierSection) == section
    assert [one.unit for one in section.trials[0].values] == ["fraction", "fraction"], "those of the report"
    assert section.trials[0].seed == 1 and section.trials[3].seed is None
    lines = picture(section)
    assert [(c.name, c.x, c.y) for c in lines.curves] == [
        ("front", (5.0, 50.0), (3.0, 2.0)),
        ("other trials", (60.0,), (2.1,)),
    ]
    assert lines.log_x and [c.joined for c in lines.curves] == [True, False]
    table = next(block for block in view(section) if isinstance(block, Table) and block.title == "Trials")
    assert [row[:2] for row in table.rows] == [("0", "front"), ("2", "front"), ("1", "complete"), ("3", "pruned")]
    assert table.rows[0][-1] == "optim.lr_peak=0.0123 data.d_vocab=2048"
    assert (
        "<svg" in (tmp_path / "frontier.svg").read_text()
        and "capability loss" in (tmp_path / "report.html").read_text()
    )


def test_one_objective_has_a_table_and_no_picture(tmp_path: Path, judged: list[str]) -> None:
    section = search(tmp_path, trial(0, 3.0), trial(1, 2.0), objectives=(RETURNED,))
    assert [one.on_front for one in section.trials] == [False, True] and not (tmp_path / "frontier.svg").exists()
    assert section.trials[1].values[0].unit == ""


def test_a_search_in_which_nothing_finished_has_a_page_too(tmp_path: Path) -> None:
    assert search(tmp_path, trial(0, state="fail"), trial(1, state="pruned")).trials[0].values == ()
    assert "failed: **1**" in (tmp_path / "report.md").read_text()
