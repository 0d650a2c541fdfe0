"""Prompts about what was seen often and seldom: one form, one token that is read, as many of each length. The facts are stand-ins."""

from collections import Counter
from collections.abc import Iterator, Sequence
from math import log10
from pathlib import Path

import pytest
from probe_machine import PieceTokenizer

from sparsetrain.data.knowledge import Fact
from sparsetrain.data.probes import Probes, ProbesConfig
from sparsetrain.data.probes import familiar as module
from sparsetrain.data.probes.familiar import FAMILIAR, NAMES
from sparsetrain.data.sources.stdlib import StdlibSource

CONFIG = ProbesConfig(n_prompts=6)
PREPOSITIONS = ("in", "on", "to", "at", "of", "by", "up", "as")
OBJECTS = ("file", "line", "text", "node", "path", "name", "list", "item")


@pytest.fixture(autouse=True)
def facts(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(relation: str) -> Sequence[Fact]:
        subjects = [f"{'ab' * (1 + i % 2 + (i > 50))}{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(60)]
        return [
            Fact(relation=relation, subject=s, answer=f"no{s}", fame=6 - 0.1 * i - 0.02 * i * i / 60)
            for i, s in enumerate(subjects)
        ]

    monkeypatch.setattr(module, "facts_of", of)
    monkeypatch.setattr(module, "versions", lambda relations: {"stand-in": "1.0"})


@pytest.fixture(autouse=True)
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A library of names made of a preposition and an object, some of them in many modules; half of the pairs stand nowhere."""
    names = [f"{a}_{b}" for i, a in enumerate(PREPOSITIONS) for j, b in enumerate(OBJECTS) if (i + j) % 2]
    for i in range(16):
        here = names[: len(names) - 2 * i]
        (tmp_path / f"module_{i}.py").write_text("\n".join(here) + "\nodd_ones = very_in_file + in_file_x\n")
    monkeypatch.setattr("sparsetrain.data.sources.stdlib.sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    monkeypatch.setattr(module, "COMMON", 4)
    module.library_names.cache_clear()
    yield
    module.library_names.cache_clear()


def by_subject(probes: Probes) -> list[list]:
    found: dict[int, list] = {}
    for probe in probes.probes:
        found.setdefault(probe.row, []).append(probe)
    return list(found.values())


@pytest.mark.parametrize("name", FAMILIAR)
def test_every_subject_stands_in_every_template_and_the_token_read_is_the_same(name: str) -> None:
    tokenizer = PieceTokenizer()
    probes = FAMILIAR[name](CONFIG, tokenizer)
    subjects = by_subject(probes)
    assert not probes.matched and len(probes.levels) == 3 and probes.control == ""
    assert {len(of) for of in subjects} == {3}
    assert all(len({(p.level, p.frequency, p.side) for p in of}) == 1 for of in subjects)
    for template in range(3):
        read = {of[template].tokens[-1 - of[template].n_answer] for of in subjects}
        first = {of[template].tokens[:3] for of in subjects}
        assert len(read) == len(first) == 1
    assert FAMILIAR[name](CONFIG, tokenizer).sha256 == probes.sha256


@pytest.mark.parametrize("name", FAMILIAR)
def test_levels_are_equally_large_and_ever_less_frequent(name: str) -> None:
    probes = FAMILIAR[name](CONFIG, PieceTokenizer())
    frequency = [[of[0].frequency for of in by_subject(probes) if of[0].level == level] for level in range(3)]
    assert len({len(of) for of in frequency}) == 1 and len(frequency[0]) in (5, 6)
    means = [sum(of) / len(of) for of in frequency]
    assert means[0] > means[1] > means[2]


@pytest.mark.parametrize("name", ["words", "identifiers"])
def test_as_many_of_each_length_are_at_every_level(name: str) -> None:
    probes = FAMILIAR[name](CONFIG, PieceTokenizer())
    lengths = [Counter(len(p.tokens) for p in probes.probes if p.level == level) for level in range(3)]
    assert lengths[0] == lengths[1] == lengths[2] and len(lengths[0]) > 1


def test_countries_are_thirds_of_all_whatever_their_length() -> None:
    every = FAMILIAR["countries"](ProbesConfig(n_prompts=1000), PieceTokenizer())
    subjects = by_subject(every)
    assert len(subjects) == 60
    ordered = sorted(subjects, key=lambda of: -of[0].frequency)
    assert [of[0].level for of in ordered] == [0] * 20 + [1] * 20 + [2] * 20


def test_made_up_names_are_pairs_that_stand_nowhere_of_words_that_do() -> None:
    tokenizer = PieceTokenizer()
    probes = FAMILIAR["identifiers"](CONFIG, tokenizer)
    before, _, behind = NAMES[0].partition("{}")
    names = {
        level: [
            tokenizer.decode(of[0].tokens[1 : len(of[0].tokens) - of[0].n_answer])
            .removeprefix(before)
            .removesuffix(behind)
            for of in by_subject(probes)
            if of[0].level == level
        ]
        for level in range(3)
    }
    library = "\n".join(document.text for document in StdlibSource().read())  # pyright: ignore[reportAttributeAccessIssue]
    assert all(name in library for level in (0, 1) for name in names[level])
    assert len(set(names[2])) == len(names[2]) and not any(name in library for name in names[2])
    words = {word for level in (0, 1) for name in names[level] for word in name.split("_")}
    assert {word for name in names[2] for word in name.split("_")} <= words
    assert all(p.frequency == 0 for p in probes.probes if p.level == 2)
    most = max(p.frequency for p in probes.probes)
    assert most == pytest.approx(log10(1 + 16))


def test_a_subject_that_runs_into_what_stands_around_it_is_left_out() -> None:
    class Greedy(PieceTokenizer):
        """Joins some names with the word behind them."""

        def encode(self, text: str) -> list[int]:
            return super().encode(text.replace("aa is", "aais"))

    probes = FAMILIAR["countries"](ProbesConfig(n_prompts=1000), Greedy())
    assert sum(probes.rejected.values()) == 1
    assert len(by_subject(probes)) == 57  # thirds of 59


def test_too_few_subjects_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"n_prompts=1: only 3 subjects of 'thirds of countries.*raise n_prompts or leave"
    ):
        FAMILIAR["countries"](ProbesConfig(n_prompts=1), PieceTokenizer())
