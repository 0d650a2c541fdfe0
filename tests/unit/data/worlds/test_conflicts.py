"""The world of facts and documents: exposures are exact, marginals are even, every document says what it asks for, knobs turn what they name."""

import csv
import gzip
from collections import Counter
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from sparsetrain.data.worlds.conflicts import (
    KINDS,
    LENGTH,
    PLAIN,
    ConflictWorld,
    ConflictWorldConfig,
    check_exposures,
    draw_world,
    write_documents,
)
from sparsetrain.typed import from_dict

SMALL = ConflictWorldConfig(
    n_groups=3, levels=(0, 1, 4, 16), n_given=3, n_given_exposures=40, n_triples=6, n_trust=2, n_wordings=3
)


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Something that has a world in its config."""

    conflicts: ConflictWorldConfig


KNOBS = [{}, {"conflict": 0.1}, {"repetition": 0.5}, {"skew": 0.5}, {"conflict": 0.2, "repetition": 0.3, "skew": 0.7}]


@pytest.fixture(scope="module", params=KNOBS, ids=str)
def world(request: pytest.FixtureRequest) -> ConflictWorld:
    return draw_world(replace(SMALL, **request.param), 3)


def plain(world: ConflictWorld) -> np.ndarray:
    """Triples `[n_documents, n_triples, 3]` as numbers from 0: relation in any wording, subject, object."""
    config = world.config
    numbers = world.triples - [config.relation(0), config.subject(0), config.object(0)]
    numbers[..., 0] %= config.n_relations
    return numbers


def memory(world: ConflictWorld) -> dict[tuple[int, int], tuple[int, int]]:
    """(relation, subject) of every fact -> object, exposures."""
    facts, config = world.facts, world.config
    first = np.array([config.subject(0), config.relation(0), 0, config.object(0)])
    return {
        (int(r), int(s)): (int(o), int(n))
        for (s, r, _, o), n, shown in zip(facts.prompts - first, facts.n, facts.of_kind("shown"), strict=True)
        if shown
    }


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(2, 4),
    st.sampled_from([(0, 1, 2), (0, 3, 7), (0, 1, 2, 8)]),
    st.integers(2, 6),
    st.sampled_from(KNOBS),
)
def test_every_fact_is_shown_as_often_as_it_should_be(seed, n_groups, levels, n_triples, knobs):
    """Counted here from the tokens, for every level and seed; only recall documents show facts as memory has them."""
    knobs = {**knobs, "conflict": 0.0} if n_groups < 3 and "conflict" in knobs else knobs
    config = replace(
        SMALL, n_groups=n_groups, levels=levels, n_triples=n_triples, n_given=2, n_given_exposures=60, **knobs
    )
    world = draw_world(config, seed)
    recalled = plain(world)[(world.kind == 0)[:, None] & world.asked]
    shown = Counter(map(tuple, recalled.tolist()))
    assert shown == {(r, s, o): n for (r, s), (o, n) in memory(world).items() if n}
    assert Counter(Counter(memory(world)[key][1] for key in memory(world)).values()) == {config.n_subjects: len(levels)}


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_marginals_are_even_without_conflict(seed):
    world = draw_world(SMALL, seed)
    numbers, given_ = plain(world), (world.kind == 1)[:, None]
    recalled = numbers[~given_ & world.asked]
    for place, n in ((1, sum(SMALL.levels)), (2, sum(SMALL.levels))):
        counts = np.bincount(recalled[:, place], minlength=SMALL.n_subjects)
        assert (counts == n).all(), "subjects, objects"
    of_relations = Counter(recalled[:, 0].tolist())
    assert set(of_relations) <= set(range(SMALL.n_relations))
    assert set(of_relations.values()) == {sum(SMALL.levels) * SMALL.n_groups}

    # What would not fill the last document is left out, and a repeated statement is one more: fresh ones are counted.
    per_subject = SMALL.n_given * SMALL.n_given_exposures
    fresh = np.bincount(numbers[~world.asked][:, 1], minlength=SMALL.n_subjects)
    assert fresh.max() <= per_subject and fresh.sum() > per_subject * SMALL.n_subjects - 60
    assert fresh.min() > 0.95 * per_subject or fresh.sum() >= per_subject * (SMALL.n_subjects) - 60


def test_no_document_states_two_things_of_a_subject_and_every_question_was_stated(world):
    for numbers, asked, kind in zip(plain(world).tolist(), world.asked, world.kind, strict=True):
        said: dict[int, tuple[int, int]] = {}
        for (r, s, o), of in zip(numbers, asked, strict=True):
            if not of:
                assert said.setdefault(s, (r, o)) == (r, o), "one thing of a subject"
            elif kind == KINDS.index("given"):
                assert said[s] == (r, o), "asked as it was stated before"


def test_a_share_of_all_triples_is_worded_otherwise(world):
    """Of statements, questions and recalled facts alike: a wording tells nothing of the kind of a document."""
    config = world.config
    wording = (world.triples[..., 0] - config.relation(0)) // config.n_relations
    others = wording > 0
    for of in (world.asked, ~world.asked, np.broadcast_to((world.kind == 0)[:, None], others.shape)):
        assert binomtest(int(others[of].sum()), int(of.sum()), config.paraphrased).pvalue > 1e-4
    assert set(np.unique(wording)) == set(range(config.n_wordings))


def test_tokens_are_where_they_belong(world):
    config = world.config
    assert world.tokens.shape[1] == config.n_tokens and world.tokens.max() < config.d_vocab and world.tokens.min() == 0
    numbers = plain(world)
    for place, n in enumerate((config.n_relations, config.n_subjects, config.n_subjects)):
        assert numbers[..., place].min() >= 0 and numbers[..., place].max() < n
    ranges = [[0], *([of(i) for i in range(config.n_subjects)] for of in (config.subject, config.object))]
    ranges += [[config.relation(i, w) for w in range(config.n_wordings) for i in range(config.n_relations)]]
    ranges += [list(config.trust), [config.distrust]]
    assert sorted(token for part in ranges for token in part) == list(range(config.d_vocab))


@pytest.mark.parametrize("conflict", [0.01, 0.1, 1 / 3])
@pytest.mark.parametrize("skew", [0.0, 0.8])
def test_the_share_of_contradictions_is_what_it_should_be(conflict, skew):
    config = replace(SMALL, conflict=conflict, skew=skew, n_given_exposures=200)
    world = draw_world(config, 5)
    known = memory(world)
    numbers = plain(world)
    stated = ~world.asked
    n, found = stated.sum(), (world.contradicts & stated).sum()
    if not skew:
        bound = 4 * sqrt(n * conflict * (1 - conflict)) + n * conflict / config.n_subjects + 60
        assert n * conflict - bound < found < n * conflict + bound, "a draw that agrees with memory is no contradiction"
    differs = np.array(
        [[(r, s) in known and known[r, s][0] != o for r, s, o in document] for document in numbers.tolist()]
    )
    assert (differs == world.contradicts).all(), "as it is flagged"
    assert (numbers[world.contradicts][:, 1] < config.n_contradicted).all()
    assert not world.contradicts[world.kind == 0].any()


def test_clean_facts_never_occur_with_another_object(world):
    known, config = memory(world), world.config
    for r, s, o in plain(world).reshape(-1, LENGTH).tolist():
        if s >= config.n_contradicted and (r, s) in known:
            assert known[r, s][0] == o
    given_ = plain(world)[world.kind == 1].reshape(-1, LENGTH)
    clean = given_[given_[:, 1] >= config.n_contradicted]
    assert not any((r, s) in known for r, s, _ in clean.tolist()), "and no document gives them"
    for n in config.levels:
        facts = world.clean(n)
        assert len(facts) == config.n_subjects - config.n_contradicted and (world.facts.n[facts] == n).all()
        assert (world.facts.subject[facts] >= config.n_contradicted).all()


def test_contradicted_facts_have_every_exposure_alike():
    world = draw_world(replace(SMALL, conflict=0.3, n_given_exposures=150), 2)
    known = memory(world)
    of = Counter(known[r, s][1] for r, s, _ in plain(world)[world.contradicts & ~world.asked].tolist())
    shown = sum(of.values())
    assert 0 not in of or of[0], "what is never shown cannot be contradicted by memory"
    for n in SMALL.levels[1:]:
        assert abs(of[n] / shown - 1 / (len(SMALL.levels) - 1)) < 0.05, of


def again(world: ConflictWorld) -> float:
    """Share of the statements behind the first of a given document that its document has made before."""
    repeated = total = 0
    for document, asked in zip(plain(world)[world.kind == 1].tolist(), world.asked[world.kind == 1], strict=True):
        said: set[tuple[int, ...]] = set()
        for triple, of in zip(map(tuple, document), asked, strict=True):
            if not of:
                total += bool(said)
                repeated += triple in said
                said.add(triple)
    return repeated / total


def world_repeated(world: ConflictWorld) -> int:
    """Statements that their document has made before."""
    return sum(
        len(said := [tuple(t) for t, of in zip(document, asked, strict=True) if not of]) - len(set(said))
        for document, asked in zip(plain(world).tolist(), world.asked, strict=True)
    )


def test_repetition():
    assert again(draw_world(SMALL, 1)) == 0
    for share in (0.25, 0.6):
        assert again(draw_world(replace(SMALL, repetition=share, n_given_exposures=150), 1)) == pytest.approx(
            share, abs=0.03
        )


def test_skew_makes_subjects_of_given_documents_uneven_and_nothing_else():
    plainly, skewed = draw_world(SMALL, 4), draw_world(replace(SMALL, skew=1.0), 4)

    def statements(world: ConflictWorld, place: int) -> np.ndarray:
        return np.sort(np.bincount(plain(world)[~world.asked][:, place]))[::-1]

    counts = statements(skewed, 1)
    n = counts.sum()
    zipf = 1 / np.arange(1, SMALL.n_subjects + 1)
    zipf /= zipf.sum()
    assert np.abs(counts / n - zipf).max() < 0.05 and statements(plainly, 1)[0] <= SMALL.n_given * 40
    assert counts[0] > 4 * counts[-1]

    objects = statements(skewed, 2)
    assert objects[0] / objects[-1] < 1.6, "objects are drawn as before"
    recall = [plain(world)[(world.kind == 0)[:, None] & world.asked] for world in (plainly, skewed)]
    assert Counter(map(tuple, recall[0].tolist())) == Counter(map(tuple, recall[1].tolist()))


def test_too_much_skew_is_refused():
    with pytest.raises(ValueError, match=r"skew=3.0 is too large for 21 subjects and n_triples=6: about \d+ of 2520"):
        draw_world(replace(SMALL, skew=3.0), 0)


def test_statements_fill_documents_but_for_the_last(world):
    """Nothing is lost on the way: fresh statements in documents are those that were to be made."""
    stated = plain(world)[~world.asked]
    fresh = len(stated) - world_repeated(world)
    n = world.config.n_given * world.config.n_given_exposures * world.config.n_subjects
    assert n * 0.97 - 6 <= fresh <= n if world.config.skew else n - 30 <= fresh <= n


def test_trust_begins_given_documents_and_distrust_recall_ones(world):
    config, first = world.config, world.tokens[:, 0]
    given_ = world.kind == KINDS.index("given")
    assert set(first[given_].tolist()) == {PLAIN, *config.trust}
    assert set(first[~given_].tolist()) == {PLAIN, config.distrust}
    for part in (given_, ~given_):
        share = (first[part] != PLAIN).mean()
        assert abs(share - config.trusted) < 4 * sqrt(0.25 / part.sum())
    for trusted, n in ((0.0, 0), (1.0, len(first))):
        of = draw_world(replace(config, trusted=trusted), 3)
        assert (of.tokens[:, 0] != PLAIN).sum() == (n and len(of.tokens))
    assert not np.isin(world.tokens[:, 1:], [PLAIN, *config.trust, config.distrust]).any(), "and stand nowhere else"


def test_the_checker_notices():
    world = draw_world(SMALL, 0)
    check_exposures(world)
    document = int(np.flatnonzero(world.kind == 0)[0])
    wrong_object, less, twice = (world.tokens.copy() for _ in range(3))
    other = world.config.object(0) + (wrong_object[document, 3] - world.config.object(0) + 1) % SMALL.n_subjects
    wrong_object[document, 3] = other
    with pytest.raises(ValueError, match="1 objects that are not memory's"):
        check_exposures(replace(world, tokens=wrong_object))
    twice[document, 1:4] = twice[document, 4:7]
    with pytest.raises(ValueError, match=r"fact \d+ is shown \d+ times, not \d+"):
        check_exposures(replace(world, tokens=twice))
    asked = world.asked.copy()
    asked[document, 0] = False
    with pytest.raises(ValueError, match=r"fact \d+ is shown \d+ times, not \d+"):
        check_exposures(replace(world, tokens=less, asked=asked))


def test_the_log_has_every_triple(tmp_path):
    world = draw_world(replace(SMALL, conflict=0.2), 0)
    write_documents(world, 16, tmp_path / "documents.csv.gz")
    with gzip.open(tmp_path / "documents.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    n_documents, n = world.asked.shape
    assert len(rows) == n_documents * n and rows[17 * n]["step"] == "1" and rows[17 * n]["document"] == "17"
    for i, row in enumerate(rows):
        k, place = divmod(i, n)
        triple = [int(row[name]) for name in ("relation", "subject", "object")]
        assert triple == world.triples[k, place].tolist() and int(row["place"]) == place
        assert (row["asked"], row["contradicts"]) == tuple(
            str(int(of[k, place])) for of in (world.asked, world.contradicts)
        )
        assert row["kind"] == KINDS[world.kind[k]] and int(row["begins"]) == world.tokens[k, 0]
    assert {row["contradicts"] for row in rows} == {"0", "1"}


def test_rows_are_tokens_and_what_is_asked(world):
    n = world.config.n_triples
    assert (world.rows[:, :-n] == world.tokens).all() and (world.rows[:, -n:] == world.asked).all()
    asked, given_ = world.asked, world.kind == 1
    counts = world.counts()
    assert counts["recalled objects"] == sum(of for _, of in memory(world).values()) == asked[~given_].sum()
    assert sum(counts[of] for of in ("recalled objects", "statements", "questions")) == asked.size


def test_a_function_of_the_seed():
    one, same, other = (draw_world(replace(SMALL, conflict=0.1), seed) for seed in (7, 7, 8))
    assert (
        (one.rows == same.rows).all() and (one.kind == same.kind).all() and (one.contradicts == same.contradicts).all()
    )
    assert one.rows.shape != other.rows.shape or not (one.rows == other.rows).all()


def test_kinds_and_exposures_are_spread_over_the_training(world):
    given_ = world.kind == KINDS.index("given")
    for part in np.array_split(given_, 10):
        assert abs(part.sum() - given_.mean() * len(part)) <= 1.01
    often = int(np.flatnonzero(world.facts.of_kind("shown", 16))[0])
    s, r = world.facts.prompts[often, :2] - [world.config.subject(0), world.config.relation(0)]
    at = np.flatnonzero((plain(world)[..., :2] == [r, s]).all(-1).any(1) & ~given_)
    assert abs(np.searchsorted(at, len(given_) / 2) - 8) <= 1, "half of its exposures in half of the training"


def test_a_short_last_recall_document_is_filled_with_statements():
    """7 groups of facts do not fill documents of 5: what is left over is stated, and no exposure is lost."""
    config = replace(SMALL, levels=(0, 1, 2), n_groups=1, n_given=3, n_triples=5)
    world = draw_world(config, 0)
    recall = world.kind == 0
    n_recalled = sum(config.levels) * config.n_subjects
    assert n_recalled % 5 and recall.sum() == -(-n_recalled // 5)
    assert world.asked[recall].sum() == n_recalled and (~world.asked[recall]).sum() == -n_recalled % 5


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"levels": (1, 2, 4)}, r"levels=\[1, 2, 4\] must rise from 0, at least three of them"),
        ({"levels": (0, 4, 2)}, r"levels=\[0, 4, 2\] must rise from 0"),
        ({"levels": (0, 4)}, "at least three of them"),
        ({"conflict": 0.5}, r"conflict=0.5 must lie in \[0, 1/3\]"),
        ({"conflict": -0.1}, r"conflict=-0.1 must lie in \[0, 1/3\]"),
        ({"conflict": 0.1, "n_groups": 2}, "conflict=0.1 with n_groups=2: give 3 groups or more"),
        ({"repetition": 1.0}, r"repetition=1.0 must lie in \[0, 1\)"),
        ({"skew": -1.0}, "skew=-1.0 must be 0 or more"),
        ({"trusted": 1.5}, r"trusted=1.5 must lie in \[0, 1\]"),
        ({"n_groups": 0}, "n_groups=0: input should be greater than or equal to 1"),
        ({"n_triples": 1}, "n_triples=1 must be at least 2: a statement and a question"),
        ({"conflict": float("nan")}, "conflicts.conflict=nan is no finite number"),
        ({"skew": float("nan")}, "conflicts.skew=nan is no finite number"),
    ],
)
def test_bad_configs(given_, message):
    with pytest.raises(ValueError, match=message) as error:
        from_dict(Holder, {"conflicts": given_})
    assert str(error.value).startswith("conflicts") and "\n" not in str(error.value)


def test_another_draw_has_the_same_facts_in_other_documents():
    """New documents are new: recall documents are other groups of facts, given ones give other objects."""
    config = replace(SMALL, n_given_exposures=200)
    training, new = draw_world(config, 3), draw_world(config, 3, draw=4)
    assert memory(training) == memory(new) and (training.facts.n == new.facts.n).all()

    def of_kind(world: ConflictWorld, kind: int) -> set[tuple[int, ...]]:
        return {tuple(row.ravel()) for row in plain(world)[world.kind == kind].tolist() for row in [np.array(row)]}

    for kind in range(len(KINDS)):
        seen, unseen = of_kind(training, kind), of_kind(new, kind)
        assert len(seen & unseen) < 0.02 * len(unseen)
    stated = [{tuple(t) for t in plain(world)[~world.asked].tolist()} for world in (training, new)]
    by_chance = 1 - (1 - 1 / config.n_subjects) ** config.n_given_exposures
    assert len(stated[0] & stated[1]) / len(stated[1]) < by_chance + 0.02
