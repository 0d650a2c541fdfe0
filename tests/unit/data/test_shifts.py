"""Shift splits: one shape, fixed by the seed; renamed code means the same; what cannot be built is recorded."""

import ast
import contextlib
import io
from pathlib import Path

import numpy as np
import pytest
from data_example import small_corpus

from sparsetrain.data import Corpus
from sparsetrain.data.shifts import KINDS, ShiftsConfig, build_shifts, headers
from sparsetrain.data.shifts.prose import is_prose
from sparsetrain.data.shifts.renamed import rename_identifiers
from sparsetrain.typed import from_dict


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return small_corpus(tmp_path_factory.mktemp("data"))


def test_all_splits_have_one_shape_and_follow_the_seed(corpus: Corpus) -> None:
    config = ShiftsConfig(n_tokens=1000)
    splits = build_shifts(config, corpus, n_ctx=32, seed=0)
    assert [split.name for split in splits] == list(KINDS) and not splits.left_out
    assert [split.level for split in splits] == list(range(7))
    for split in splits:
        assert split.tokens.shape == (31, 32) and split.tokens.dtype == np.int64
        assert split.tokens.min() >= 0 and split.tokens.max() < corpus.tokenizer.d_vocab
        assert split.description
    again, other = build_shifts(config, corpus, 32, seed=0), build_shifts(config, corpus, 32, seed=1)
    for a, b, c in zip(splits, again, other, strict=True):
        assert (a.tokens == b.tokens).all() and not (a.tokens == c.tokens).all()


def test_a_split_does_not_depend_on_which_others_are_built(corpus: Corpus) -> None:
    everything = {split.name: split.tokens for split in build_shifts(ShiftsConfig(n_tokens=320), corpus, 32, 0)}
    few = build_shifts(ShiftsConfig(n_tokens=320, kinds=("heldout", "uniform")), corpus, 32, 0)
    assert [split.name for split in few] == ["heldout", "uniform"]
    for split in few:
        assert (split.tokens == everything[split.name]).all()


def test_heldout_windows_come_from_heldout_documents_of_real_sources(corpus: Corpus) -> None:
    base = build_shifts(ShiftsConfig(n_tokens=320), corpus, 32, 0)[0]
    tokens = np.asarray(corpus.tokens("code", "heldout"), np.int64)
    heldout = {tuple(tokens[i : i + 32]) for i in range(len(tokens))}
    # Documents stand in another order here, so windows across a boundary are not in the file.
    inside = [row for row in base.tokens.tolist() if corpus.tokenizer.eot_id not in row[1:]]
    assert inside and all(tuple(row) in heldout for row in inside)


def test_shuffled_windows_keep_their_tokens(corpus: Corpus) -> None:
    splits = {split.name: split.tokens for split in build_shifts(ShiftsConfig(n_tokens=640), corpus, 32, 0)}
    assert (np.sort(splits["shuffled"], axis=1) == np.sort(splits["heldout"], axis=1)).all()
    assert not (splits["shuffled"] == splits["heldout"]).all(axis=1).any()
    assert corpus.tokenizer.eot_id not in splits["uniform"]


def test_what_the_machine_lacks_is_recorded(corpus: Corpus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sysconfig.get_paths", lambda: dict.fromkeys(("include", "purelib"), str(tmp_path)))
    monkeypatch.setattr("numpy.get_include", lambda: str(tmp_path / "none"))
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "__init__.py").write_text("x = 1\n")
    splits = build_shifts(ShiftsConfig(n_tokens=320), corpus, 32, 0)
    assert [split.name for split in splits] == ["heldout", "renamed", "shuffled", "uniform"]
    assert "no C headers" in splits.left_out["headers"]
    assert "10 windows of 32 tokens asked, its text gives 0" in splits.left_out["packages"]
    assert "prose" in splits.left_out


def test_too_small_a_corpus_is_an_error(corpus: Corpus) -> None:
    with pytest.raises(
        ValueError, match=r"split 'heldout' \(level 0\) is too small: 100000 windows of 32 tokens asked"
    ):
        build_shifts(ShiftsConfig(n_tokens=3_200_000), corpus, 32, 0)
    with pytest.raises(ValueError, match="less than one window"):
        build_shifts(ShiftsConfig(n_tokens=31), corpus, 32, 0)


def test_bad_configs_are_named() -> None:
    with pytest.raises(ValueError, match="must contain 'heldout'"):
        ShiftsConfig(kinds=("prose",))
    with pytest.raises(ValueError, match="must be different ones"):
        ShiftsConfig(kinds=("heldout", "heldout"))
    with pytest.raises(ValueError, match="n_tokens=0"):
        from_dict(ShiftsConfig, {"n_tokens": 0})


PROGRAM = '''
import os.path as place
from collections import namedtuple

Point = namedtuple("Point", "left, right")
__all__ = ["exported"]
LIMIT = 3

class Shape(object):
    """A shape with width."""

    sides = 4

    def __init__(self, width, depth=LIMIT):
        self.width = width
        self._depth = depth

    def area(self, scale=1):
        total = self.width * scale
        return total + self.sides

def exported(first, *rest, option=None, **others):
    global LIMIT
    LIMIT += 1
    amount = first
    for index, item in enumerate(rest):
        amount += item if item > index else -index
    try:
        raise ValueError(amount)
    except ValueError as problem:
        message = f"{amount}: {option}"
        print(message, problem)
    match amount:
        case [one, *more]:
            found = one
        case {"key": found, **remainder}:
            pass
        case _:
            found = None
    if (length := len(rest)) > 1:
        del amount
    return [length * number for number in rest], found

shape = Shape(2, depth=7)
print(shape.area(scale=LIMIT), shape.width, place.join("a", "b"))
print(exported(1, 2, 3, option="x", key=4), Point(left=1, right=2))
make = lambda value, other=2: value + other
print(make(3), sorted([3, 1], key=lambda entry: -entry))
'''


def run(code: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(code, "program", "exec"), {"__name__": "program"})
    return out.getvalue()


@pytest.mark.parametrize("seed", range(5))
def test_a_renamed_program_does_the_same(seed: int) -> None:
    renamed = rename_identifiers(PROGRAM, np.random.default_rng(seed))
    assert renamed is not None
    assert run(renamed) == run(PROGRAM) != ""
    for gone in (
        "index",
        "item",
        "problem",
        "rest",
        "length",
        "number",
        "make",
        "Shape",
        "total",
        "LIMIT",
        "remainder",
    ):
        assert gone not in {node.id for node in ast.walk(ast.parse(renamed)) if isinstance(node, ast.Name)}, gone
    for kept in ("self.width", "area", "scale", "depth", "option", "amount", "exported", "place", "Point", "enumerate"):
        assert kept in renamed, kept
    assert '"""A shape with width."""' in renamed
    assert len(renamed) == len(PROGRAM)


def test_lines_are_those_that_python_counts() -> None:
    """A form feed ends a line for `str.splitlines` alone."""
    code = "a = 1\n\f\nlonger = a + 1\x0c\nprint(longer, '\u2028', a)\n"
    renamed = rename_identifiers(code, np.random.default_rng(0))
    assert renamed is not None and run(renamed) == run(code) and "longer" not in renamed


def test_headers_are_drawn_by_their_whole_names(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal names in several folders come in an order that no file system decides."""
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.h").write_text(f"int {folder}_function(int {folder});\n" * 400)
    built = []
    for backwards in (False, True):
        found = sorted(tmp_path.rglob("*.h"), reverse=backwards)
        monkeypatch.setattr(headers, "header_files", lambda found=found: {"python": found})
        monkeypatch.setattr(headers, "_roots", lambda: {"python": tmp_path})
        built.append(build_shifts(ShiftsConfig(kinds=("heldout", "headers"), n_tokens=2000), corpus, 16, 0)[1].tokens)
    assert np.array_equal(*built)


def test_renaming_is_a_bijection_of_the_syntax_tree(corpus: Corpus) -> None:
    n_changed = 0
    for i in range(len(corpus.starts("code", "heldout"))):
        code = corpus.text("code", "heldout", i)
        renamed = rename_identifiers(code, np.random.default_rng(i))
        assert renamed is not None
        mapping: dict[str, str] = {}
        for before, after in zip(ast.walk(ast.parse(code)), ast.walk(ast.parse(renamed)), strict=True):
            assert type(before) is type(after)
            if isinstance(before, ast.Name) and isinstance(after, ast.Name):
                assert mapping.setdefault(before.id, after.id) == after.id
                n_changed += before.id != after.id
            if isinstance(before, ast.Attribute) and isinstance(after, ast.Attribute):
                assert before.attr == after.attr
        assert len(set(mapping.values())) == len(mapping)
    assert n_changed > 100


@pytest.mark.parametrize("code", ["x = = 1", "from os import *\nx = 1", "x = 1\nprint(locals())", "print 'x'"])
def test_what_cannot_be_renamed_safely_is_left_out(code: str) -> None:
    assert rename_identifiers(code, np.random.default_rng(0)) is None


def test_prose_is_told_from_code_and_lists() -> None:
    assert is_prose("Permission is hereby granted, free of charge, to any person who obtains a copy of this software.")
    assert not is_prose("too short.")
    assert not is_prose("x = [1, 2, 3]; y = {4: 5}; z = f(x)[0] + g(y)[1] * 3 / 4 == 7 | q & r # so it goes on and on;")
