"""What the section says of a planted ranking, and its page of a planted comparison: what helps is found, what does not is "not supported"."""

from dataclasses import replace

import numpy as np
import pytest

from sparsetrain.curriculum.arms import ARMS, ChoiceConfig
from sparsetrain.curriculum.compare import Answers
from sparsetrain.curriculum.prompting import Prepared
from sparsetrain.curriculum.prompts import Example, WordingConfig
from sparsetrain.curriculum.scoring import ScoreConfig, Scores
from sparsetrain.curriculum.section import (
    N_ROWS,
    CurriculumSection,
    IntervalConfig,
    comparison_entry,
    curriculum_section,
)
from sparsetrain.report.blocks import Table, Tile, walk
from sparsetrain.report.curriculum_page import answer_of, curriculum
from sparsetrain.representation.section import MeasuredModel

MODEL = MeasuredModel(name="zoo:none", architecture="Planted", n_params=3, n_ctx=8, left_out={})
CONFIG = IntervalConfig(n_bootstrap=100)


def section(n: int, n_levels: int = 5, direction: int = 1) -> CurriculumSection:
    """Sparsity rises with the loss, and falls with the difficulty; odd examples are answered."""
    number = np.arange(n, dtype=np.float64)
    scores = Scores(
        sparsity=number, measured=direction * number, loss=2 * number, entropy=number % 3, logit_norm=number % 5, correct=number % 2, length=number % 7 + 3,
        vectors=np.zeros((n, 1)),
    )  # fmt: skip
    return curriculum_section(
        model=MODEL,
        examples=[Example(question=f"q{i}", answer=f"a{i}", difficulty=-float(i), place=f"pool:{i}") for i in range(n)],
        scores=scores,
        score=ScoreConfig(),
        choice=ChoiceConfig(n_levels=n_levels),
        wording=WordingConfig(),
        n_tokens=8,
        skipped={"pool:99": "torn"},
        n_skipped=1,
        config=CONFIG,
        files=("ordering.csv", "ordering.jsonl"),
    )


def test_levels_and_correlations_are_those_of_the_hand():
    found = section(10)
    assert [(e.level, e.n, e.lowest, e.highest, e.loss.value, e.answered.value) for e in found.levels] == [
        (level, 2, 2.0 * level, 2.0 * level + 1, 4.0 * level + 1, 0.5) for level in range(5)
    ]
    assert found.correlations["loss"].value == pytest.approx(1)
    assert found.correlations["difficulty"].value == pytest.approx(-1)
    assert found.correlations["difficulty given loss"].value is None, "the loss says all of it"
    assert [(e.rank, e.question, e.answered) for e in found.ranked][:2] == [(0, "q0", False), (1, "q1", True)]
    assert "loss of the answer +1.00" in answer_of(found) and "Whether this order helps was not asked" in answer_of(
        found
    )


def test_of_a_large_pool_both_ends_are_kept():
    found = section(3 * N_ROWS)
    ranks = [example.rank for example in found.ranked]
    assert ranks == [*range(N_ROWS), *range(2 * N_ROWS, 3 * N_ROWS)]
    tables = [block for block in walk(curriculum(found)) if isinstance(block, Table) and block.limit == 40]
    assert [t.rows[0][0] for t in tables] == [0, 3 * N_ROWS - 1], "the densest first, and the sparsest first"
    assert len(found.points.loss) == 3 * N_ROWS


def test_a_small_pool_has_one_table():
    (table,) = (block for block in walk(curriculum(section(8))) if isinstance(block, Table) and block.limit == 40)
    assert [row[0] for row in table.rows] == list(range(8))


def planted(n: int, better: float) -> Answers:
    """Half the questions are right at random in every arm; in `matched` the share `better` of the others too."""
    rng = np.random.default_rng(0)
    right = {name: (rng.permutation(n) < n // 2).astype(float) for name in ARMS}
    right["matched"] = right["drawn"].copy()
    wrong = np.flatnonzero(right["drawn"] == 0)
    right["matched"][wrong[: round(better * n)]] = 1
    return Answers(
        right=right, loss={name: 1 - values for name, values in right.items()}, n_dropped=dict.fromkeys(ARMS, 2)
    )


def prepared() -> Prepared:
    return Prepared(items=(), of={}, n_dropped={}, n_same=3)


@pytest.mark.parametrize(("better", "word"), [(0.3, "supported"), (0.0, "not supported")])
def test_an_effect_is_found_and_none_is_not(better, word):
    entry = comparison_entry(planted(1000, better), prepared(), CONFIG, skipped={}, n_skipped=0)
    matched = next(arm for arm in entry.arms if arm.name == "matched")
    assert matched.word == word and matched.gain is not None and matched.gain.value == pytest.approx(better)
    assert matched.fall is not None and matched.fall.value == pytest.approx(better)
    assert entry.n_same == 3 and entry.detectable.value == pytest.approx(
        (2.734 + 0.8416) * (0.2 / 1000) ** 0.5, rel=1e-3
    )
    page = curriculum(replace(section(10), comparison=entry))
    assert not [block for block in walk(page) if isinstance(block, Tile)], (
        "a null is a valid verdict, and no failure of the run"
    )
    assert f"{word}: " in answer_of(replace(section(10), comparison=entry))
    rows = next(b for b in walk(page) if isinstance(b, Table) and b.title == "Every arm on the same questions").rows
    assert len(rows) == len(ARMS)


def test_where_hardly_anything_is_right_no_word_is_given():
    """Nobody answers anything: the arms do not differ at all, which says nothing of them."""
    nothing = planted(1000, 0.0)
    nothing = replace(nothing, right={name: np.zeros(1000) for name in nothing.right})
    entry = comparison_entry(nothing, prepared(), CONFIG, skipped={}, n_skipped=0)
    words = {(arm.word, arm.reason) for arm in entry.arms if arm.control}
    assert {word for word, _ in words} == {"undecided"} and all("0% of the questions right" in why for _, why in words)


@pytest.mark.parametrize("wrong", [{"margin": 0.0}, {"margin": 1.0}, {"confidence": 1.0}, {"n_bootstrap": 0}])
def test_intervals_that_say_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        IntervalConfig(**wrong)
