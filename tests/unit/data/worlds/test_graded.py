"""Graded shifts: rows of one length, right answers, levels that grow in what is claimed and controls that do not."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from data_example import small_corpus

from sparsetrain.data import Tokenizer
from sparsetrain.data.distance import TrainingTokens
from sparsetrain.data.pools import pool
from sparsetrain.data.worlds.code import build_python
from sparsetrain.data.worlds.graded import NAMES, GradedConfig
from sparsetrain.data.worlds.knowledge_graph import GraphConfig, draw_graph
from sparsetrain.data.worlds.triples import REPEATED, SIZE, build_triples, training_documents
from sparsetrain.typed import from_dict

LEVELS = {"difficulty": (0, 1, 3), "choices": (1, 2, 3), "context": (0, 16, 32), "conflict": (0, 1, 2)}
CONFIG = GradedConfig(n_items=6, n_triples=6, python=LEVELS, graph={**LEVELS, "difficulty": (0, 1, 2), "choices": (0, 2, 4), "context": (0, 2, 5)})  # fmt: skip
N_CTX = 96
SIZES = GraphConfig(n_entities=80, closure_every=30, n_train=300, n_eval=6, n_choices=5)
BEGIN = SIZES.d_vocab + 1


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return small_corpus(tmp_path_factory.mktemp("data")).tokenizer


@pytest.fixture(scope="module")
def python(tokenizer: Tokenizer):
    return {shift.name: shift for shift in build_python(CONFIG, tokenizer, N_CTX, 0)}


@pytest.fixture(scope="module")
def graph():
    return draw_graph(SIZES, 0)


@pytest.fixture(scope="module")
def triples(graph):
    return {shift.name: shift for shift in build_triples(CONFIG, graph, N_CTX, 0)}


def texts(shift, tokenizer: Tokenizer, side: int, level: int) -> list[tuple[str, str]]:
    """(text behind the last separator but the answer, answer) of each row."""
    found = []
    for row in shift.tokens[side, level]:
        prompt = tokenizer.decode(row[:-1]).rpartition("<|endoftext|>")[2]
        found.append((prompt, tokenizer.decode(row[-1:])))
    return found


def counts(shift, tokenizer: Tokenizer, count) -> np.ndarray:
    """What `count(prompt)` gives, `[2, n_levels, n]`."""
    return np.array(
        [[[count(text) for text, _ in texts(shift, tokenizer, s, i)] for i in range(len(shift.levels))] for s in (0, 1)]
    )


def test_rows_have_one_length_end_alike_and_follow_the_seed(python, tokenizer: Tokenizer) -> None:
    assert list(python) == list(NAMES)
    for shift in python.values():
        assert shift.tokens.shape[:3] == (2, 3, 6) and shift.tokens.shape[3] <= N_CTX + 1
        assert shift.choices.shape[3] == (3 if shift.name == "choices" else 2)
        assert (shift.tokens[0, 0] == shift.tokens[1, 0]).all(), "level 0 is the same in the control"
        assert all((shift.choices[..., i] != shift.choices[..., 0]).all() for i in (1, -1))
        assert min(shift.rejected.values(), default=1) >= 1
    again = build_python(replace(CONFIG, names=("conflict", "choices")), tokenizer, N_CTX, 0)
    assert all((shift.tokens == python[shift.name].tokens).all() for shift in again)
    other = build_python(CONFIG, tokenizer, N_CTX, 1)
    assert all((shift.tokens != python[shift.name].tokens).any() for shift in other)


def test_names_are_of_one_split_alone(python, tokenizer: Tokenizer) -> None:
    own = set(pool("shifted").names)
    known = {name for split in ("train", "val", "heldout") for name in pool(split).names}
    assert own.isdisjoint(known)
    for name, pattern in (
        ("difficulty", r"(?:print\(|return |assert ).(.*)"),
        ("conflict", r"def (\w+)\((\w+)\)"),
        ("choices", r"^(\w+) ="),
    ):
        for side in (0, 1):
            for text, _ in texts(python[name], tokenizer, side, 2):
                words = re.findall(
                    r"\w+", " ".join("".join(found) for found in re.findall(pattern, text, re.MULTILINE))
                )
                used = {word for word in words if not word.isdigit()}
                assert used and not used & known


def test_difficulty_counts_quoted_words_and_answers_by_the_first_quote(python, tokenizer: Tokenizer) -> None:
    shift = python["difficulty"]
    for side in (0, 1):
        for level, n in enumerate(shift.levels):
            for text, answer in texts(shift, tokenizer, side, level):
                quote, *said = re.match(r"(?:print\(|return |assert )(.)(.*)", text).groups()
                said = said[0].split()
                assert answer[0] == quote and text.count(quote) == 1
                ends = [word[0] + word[-1] for word in said if not word[0].isalpha()]
                quoted = {"'": '""', '"': "''"}[quote]
                assert len(ends) == shift.levels[-1] and ends.count(quoted) == (0 if side else n)
                assert len(set(ends)) == (2 if 0 < n < shift.levels[-1] else 1)


def test_choices_are_open_brackets_and_in_the_control_closed_ones(python, tokenizer: Tokenizer) -> None:
    shift = python["choices"]
    closers = {"(": ")", "[": "]", "{": "}"}
    for side in (0, 1):
        for level, n in enumerate(shift.levels):
            for row, (text, answer) in enumerate(texts(shift, tokenizer, side, level)):
                opened = [c for c in text if c in closers]
                closed = [c for c in text if c in closers.values()]
                assert len(opened) == len(set(opened)) == n and len(closed) == (n - 1 if side else 0)
                assert closers[opened[-1]] == answer
                others = {tokenizer.decode(shift.choices[side, level, row, i : i + 1]) for i in (0, 1, 2)}
                assert others == set(closers.values())


def test_context_is_code_of_the_own_document(python, tokenizer: Tokenizer) -> None:
    shift = python["context"]
    own = counts(shift, tokenizer, lambda text: len(tokenizer.encode(text)))
    for (low, here), (high, there) in pairwise(zip(shift.levels, own[0], strict=True)):
        assert (there > here).all() and (there - own[0, 0] <= high).all() and low < high
    assert (own[1] == own[0, 0]).all(), "in the control nothing in front belongs to the task"
    n_separators = (shift.tokens == tokenizer.eot_id).sum(-1)
    assert (n_separators[0] >= 1).all() and (n_separators[1, 1:] > n_separators[0, 1:]).all()
    separators = [[np.flatnonzero(row == tokenizer.eot_id) for row in shift.tokens[side, 2]] for side in (0, 1)]
    for a, b in zip(*separators, strict=True):
        assert set(a - 1) <= set(b), "the same code stands in front"


def test_conflict_contradicts_and_its_control_agrees(python, tokenizer: Tokenizer) -> None:
    shift = python["conflict"]
    for side in (0, 1):
        for level, n in enumerate(shift.levels):
            for text, answer in texts(shift, tokenizer, side, level):
                assert answer == ("  " if n and not side else "    ")
                *before, asked, end = re.split(r"^(?=def )", text, flags=re.MULTILINE)[1:] + [""]
                assert len(before) == n and not end and asked.endswith("):\n")
                assert all(re.search(r"\n( *)return", function).group(1) == answer for function in before)


def rows_of(shift, side: int, level: int) -> np.ndarray:
    """Subject, relation, object as counted from 0, `[n, n_triples, 3]`."""
    rows = shift.tokens[side, level].reshape(-1, CONFIG.n_triples, SIZE)
    return rows[..., [1, 2, 4]] - np.array([1, 1 + SIZES.n_entities, 1])


def marks_of(shift, side: int, level: int) -> np.ndarray:
    """Whether each triple begins a document, `[n, n_triples]`."""
    return shift.tokens[side, level].reshape(-1, CONFIG.n_triples, SIZE)[..., 0] == BEGIN


def test_triples_have_one_form_and_follow_the_seed(triples, graph) -> None:
    assert list(triples) == list(NAMES)
    for shift in triples.values():
        assert shift.tokens.shape == (2, 3, 6, SIZE * CONFIG.n_triples)
        assert (shift.tokens[..., -2] == 0).all() and (shift.choices[..., 1:] != shift.choices[..., :1]).all()
        assert (shift.tokens[0, 0] == shift.tokens[1, 0]).all()
    again = build_triples(CONFIG, graph, N_CTX, 0)
    assert all((shift.tokens == triples[shift.name].tokens).all() for shift in again)
    other = build_triples(CONFIG, graph, N_CTX, 1)
    assert all((shift.tokens != triples[shift.name].tokens).any() for shift in other)


def test_what_is_asked_is_left_out_and_in_the_control_trained(triples, graph) -> None:
    train = {tuple(t) for t in graph.train.tolist()}
    for level, split in enumerate(("id deducible", "medium", "hard")):
        asked, control = (rows_of(triples["difficulty"], side, level)[:, -1] for side in (0, 1))
        assert (asked == graph.splits[split]).all() and (asked[:, 1] == control[:, 1]).all()
        assert all(tuple(t) in train for t in control.tolist())
        assert all((tuple(t) in train) == (level == 0) for t in asked.tolist())
        for (subject, relation, _), (other, _, _) in zip(asked.tolist(), control.tolist(), strict=True):
            counts = {s: sum(t[0] == s for t in train) for s in {subject, *(s for s, r, _ in train if r == relation)}}
            near = min(abs(counts[s] - counts[subject]) for s, r, _ in train if r == relation)
            assert level == 0 or abs(counts[other] - counts[subject]) == near, "its subject is trained on as often"


def test_alternatives_context_and_conflict_of_triples(triples, graph) -> None:
    train = {tuple(t) for t in graph.train.tolist()}
    for level, n in enumerate(CONFIG.graph["choices"]):
        for side in (0, 1):
            for *before, asked in rows_of(triples["choices"], side, level).tolist():
                assert sum(t[1] == asked[1] for t in before) == (0 if side else n)
                objects = [t[2] for t in before if t[1] == asked[1]]
                assert len({*objects, asked[2]}) == len(objects) + 1, "each is an alternative"
                assert (
                    all(tuple(t) in train for t in [*before, asked]) and [t[:2] for t in before].count(asked[:2]) == 0
                )
    for level, n in enumerate(CONFIG.graph["context"]):
        begins = [marks_of(triples["context"], side, level) for side in (0, 1)]
        last = CONFIG.n_triples - 1
        assert begins[0][:, [0, last - n]].all() and begins[1][:, [0, last - n, last]].all()
        assert (begins[0].sum(1) == len({0, last - n})).all()
        assert (rows_of(triples["context"], 0, level) == rows_of(triples["context"], 1, level)).all()
    for level, n in enumerate(CONFIG.graph["conflict"]):
        for side in (0, 1):
            for *before, asked in rows_of(triples["conflict"], side, level).tolist():
                told = [t for t in before if t[:2] == asked[:2]]
                assert len(told) == n and all(t == asked for t in told)
                assert (tuple(asked) in train) == (side == 1 or n == 0)


def test_training_documents_repeat_within_documents_alone(graph) -> None:
    rows = training_documents(graph, 400, 12, 3).reshape(400, 12, SIZE)
    train = {tuple(t) for t in graph.rows(graph.train).tolist()}
    assert {tuple(t) for t in rows[..., 1:].reshape(-1, 4).tolist()} <= train
    begins = rows[..., 0] == BEGIN
    assert begins[:, 0].all() and 0.2 < begins[:, 1:].mean() < 0.3
    inside = [(rows[i, t, 1:] == rows[i, t - 1, 1:]).all() for i, t in zip(*np.nonzero(~begins), strict=True)]
    across = [(rows[i, t, 1:] == rows[i, t - 1, 1:]).all() for i, t in zip(*np.nonzero(begins), strict=True) if t]
    assert np.mean(inside) > REPEATED / 4 > 5 * np.mean(across)
    document = begins.cumsum(1)
    same = (rows[:, :, None, 1:] == rows[:, None, :, 1:]).all(-1) & np.tri(12, k=-1, dtype=bool)
    own = document[:, :, None] == document[:, None, :]
    assert (same & ~own).sum() < 0.1 * (same & own).sum(), "what is repeated stands in the own document"


def test_levels_that_cannot_be_held_are_refused_in_a_line(tokenizer: Tokenizer, graph) -> None:
    for config, n_ctx, match in (
        (replace(CONFIG, names=("context",)), 20, r"^python.context=\[0, 16, 32\] needs rows of more than 32 tokens, model.n_ctx=20; lower the levels or raise"),
        (replace(CONFIG, names=("difficulty",), python={**LEVELS, "difficulty": (0, 500)}), 128, "needs 502 names of equal length, this tokenizer gives"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            build_python(config, tokenizer, n_ctx, 0)
    with pytest.raises(ValueError, match=r"n_triples=6 needs rows of 29 tokens, model.n_ctx=28"):
        build_triples(CONFIG, graph, 28, 0)
    with pytest.raises(ValueError, match=r"rows were rejected \(few_triples: 200\); lower the levels or n_triples"):
        build_triples(replace(CONFIG, names=("context",), n_triples=400), graph, 2000, 0)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"names": ("length",)}, r"names\.0='length': input should be 'difficulty', 'choices', 'context' or 'conflict'"),
        ({"world": "java"}, r"world='java': input should be 'python' or 'graph'"),
        ({"python": {"nesting": (0, 1)}}, r"python\.nesting.*: input should be 'difficulty', "),
        ({"python": {"difficulty": (0, 1)}}, "^python has no levels of choices"),
        ({"graph": {**LEVELS, "difficulty": (0, 3)}}, r"^graph.difficulty=\[0, 3\] must rise from 0 and end at 2 at most"),
        ({"python": {**LEVELS, "choices": (0, 3)}}, r"^python.choices=\[0, 3\] must rise from 1 and end at 3"),
        ({"n_triples": 3, "graph": {**LEVELS, "choices": (0, 5)}}, "end at 2 at most"),
        ({"n_items": 1}, "n_items=1: input should be greater than or equal to 2"),
    ],
)  # fmt: skip
def test_mistakes_in_the_config_name_value_and_choice(changes, match) -> None:
    with pytest.raises(ValueError, match=match):
        from_dict(GradedConfig, changes)


def test_distances_by_hand() -> None:
    batch = np.array([[0, 1, 0, 1, 2]])
    counted = TrainingTokens.count([batch], 4, [batch])
    rows = np.array([[0, 1, 0, 1], [3, 0, 2, 2]])
    found = counted.distances(rows)
    assert found["unseen_tokens"].tolist() == [0, 0.25]
    assert found["unseen_pairs"].tolist() == [0, 1]
    want = [counted.table.loss(row[None]) for row in rows]
    assert np.allclose(found["bigram_loss"], want) and want[1] > want[0]
