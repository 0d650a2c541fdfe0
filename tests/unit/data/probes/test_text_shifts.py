"""Shifts of text: rows of one length, levels of one material, controls of the same tokens; the config decides everything."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from probe_machine import PieceTokenizer, forget_packages, make_machine

from sparsetrain.data.probes import Probes, ProbesConfig
from sparsetrain.data.probes.text_shifts import TEXTS

CONFIG = ProbesConfig(n_texts=5, n_tokens=24, n_split_tokens=24, languages=("en", "es", "ja"), order=(1, 2, 4, 0))


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_machine(tmp_path, monkeypatch)


@pytest.fixture
def tokenizer() -> PieceTokenizer:
    return PieceTokenizer()


def rows_of(probes: Probes) -> np.ndarray:
    """`[n_sides, n_levels, n_rows, n_tokens]`"""
    return np.array([probe.tokens for probe in probes.probes]).reshape(*probes.shape, -1)


LEVELS = {
    "splits": ("code", "prose", "shuffled words", "random letters"),
    "noise": ("0", "0.02", "0.05", "0.1", "0.2", "0.4"),
    "order": ("1", "2", "4", "all"),
    "languages": ("en", "es", "ja"),
    "code": ("python", "javascript", "c", "css"),
    "natural": ("python", "javascript", "c", "css", "prose", "en", "es", "ja"),
    "licences": ("0", "0.1", "0.25", "0.5"),
}
PACKAGES = {"p0", "p1", "p2", "p3"}
SOURCES = {
    "splits": PACKAGES | {"python"},
    "noise": PACKAGES,
    "order": PACKAGES,
    "languages": {"django"},
    "code": PACKAGES | {"python"},
    "natural": PACKAGES | {"python", "django"},
    "licences": PACKAGES | {"wordfreq"},
}


@pytest.mark.parametrize("name", TEXTS)
def test_rows_have_one_length_and_follow_the_config(name: str, tokenizer: PieceTokenizer) -> None:
    probes = TEXTS[name](CONFIG, tokenizer)
    assert probes.matched and probes.levels == LEVELS[name]
    assert rows_of(probes).shape == (1 if name == "natural" else 2, len(LEVELS[name]), 5, 24)
    assert all(probe.tokens[0] == 0 and 0 not in probe.tokens[1:] and probe.n_answer == 0 for probe in probes.probes)
    assert set(probes.sources) == SOURCES[name] and all(probes.sources.values())
    assert len({probe.tokens for probe in probes.probes if probe.level == 0 and probe.side == "shift"}) == 5
    assert TEXTS[name](CONFIG, tokenizer).sha256 == probes.sha256
    other = ProbesConfig(
        n_texts=5, n_tokens=24, n_split_tokens=24, languages=("en", "es", "ja"), order=(1, 2, 4, 0), seed=1
    )
    assert TEXTS[name](other, tokenizer).sha256 != probes.sha256


@pytest.mark.parametrize("name", ["splits", "noise", "languages", "code"])
def test_controls_are_the_same_tokens_in_another_order(name: str, tokenizer: PieceTokenizer) -> None:
    shift, control = rows_of(TEXTS[name](CONFIG, tokenizer))
    assert (np.sort(shift) == np.sort(control)).all() and (shift != control).any(-1).all()
    assert (shift[..., :1] == control[..., :1]).all()


def test_splits_are_one_text_and_its_ruins(tokenizer: PieceTokenizer) -> None:
    code, prose, shuffled, letters = rows_of(TEXTS["splits"](CONFIG, tokenizer))[0]
    assert (np.sort(prose) == np.sort(shuffled)).all() and (prose != shuffled).any(-1).all()
    for row in range(5):
        assert tokenizer.decode(code[row, 1:]).startswith("def ")
        words, mixed = (tokenizer.decode(tokens[1:]).split() for tokens in (prose[row], shuffled[row]))
        assert Counter(words) == Counter(mixed) and words[0] == mixed[0]
        drawn = tokenizer.decode(letters[row, 1:]).split()
        assert list(map(len, drawn))[:-1] == list(map(len, words))[: len(drawn) - 1]


def test_order_keeps_words_within_their_pieces(tokenizer: PieceTokenizer) -> None:
    sides = rows_of(TEXTS["order"](CONFIG, tokenizer))
    assert (np.sort(sides) == np.sort(sides[:1, :1])).all()
    for side in range(2):
        for row in range(5):
            levels = [tokenizer.decode(tokens[1:]).split() for tokens in sides[side, :, row]]
            reference = levels[0]
            for size, words in zip((1, 2, 4), levels[:3], strict=True):
                for start in range(1, len(words), size):
                    assert Counter(words[start : start + size]) == Counter(reference[start : start + size])
            assert Counter(levels[3]) == Counter(reference) and {words[0] for words in levels} == {reference[0]}
    noise = rows_of(TEXTS["noise"](CONFIG, tokenizer))
    assert (sides[0, 0] == noise[0, 0]).all()
    assert (sides[1, 0] != sides[0, 0]).any(-1).all()


def test_noise_begins_with_the_text_as_it_is(tokenizer: PieceTokenizer) -> None:
    levels = rows_of(TEXTS["noise"](CONFIG, tokenizer))[0]
    changed = [np.mean(level != levels[0]) for level in levels]
    assert changed[0] == 0 and changed == sorted(changed) and changed[-1] > 0.3


def test_languages_say_the_same(tokenizer: PieceTokenizer) -> None:
    english, spanish, japanese = rows_of(TEXTS["languages"](CONFIG, tokenizer))[0]
    for row in range(5):
        first = tokenizer.decode(english[row, 1:]).splitlines()[0].upper()
        for word, tokens in (("ñandú ", spanish[row]), ("言葉 ", japanese[row])):
            said = tokenizer.decode(tokens[1:]).splitlines()[0].removeprefix(word)
            assert first.startswith(said) or said.startswith(first)
    frequencies = TEXTS["languages"](CONFIG, tokenizer).frequencies().reshape(2, 3, 5)
    assert (np.isfinite(frequencies) == np.array([True, False, False])[:, None]).all()


def test_licences_and_descriptions_are_exchanged_likewise(tokenizer: PieceTokenizer, machine: Path) -> None:
    probes = TEXTS["licences"](CONFIG, tokenizer)
    sides = rows_of(probes)
    written = " ".join(" ".join(path.read_text().split()) for path in machine.rglob("LICENSE"))
    described = " ".join(" ".join(path.read_text().split()) for path in machine.rglob("METADATA"))
    for side, text in zip(sides, (written, described), strict=True):
        assert all(tokenizer.decode(tokens[1:]) in text for tokens in side[0])
        assert (np.mean(side[1:] != side[0], axis=(1, 2)) > 0).all()
    drift = probes.frequencies().reshape(probes.shape).mean(-1)
    assert np.isfinite(drift).all() and (np.abs(drift - drift[:, :1]) < 0.3).all()


def test_short_rows_are_counted_and_too_few_are_an_error(tokenizer: PieceTokenizer, machine: Path) -> None:
    (machine / "lib" / "a.py").write_text("\n\nx = 1\n")
    probes = TEXTS["code"](
        ProbesConfig(n_texts=12, n_tokens=24, code=("python",), languages=("en",), order=(1,)), tokenizer
    )
    assert probes.rejected == {"fewer than 24 tokens": 1}
    with pytest.raises(
        ValueError,
        match=r"^n_texts=100, but there are only \d+ rows of prose for noise; lower n_texts or the 24 tokens of a row",
    ):
        TEXTS["noise"](ProbesConfig(n_tokens=24), tokenizer)
    with pytest.raises(ValueError, match="there are only 0 rows of messages for languages"):
        TEXTS["languages"](ProbesConfig(n_texts=2, n_tokens=2000, languages=("en", "es")), tokenizer)


def test_text_that_spells_a_separator_is_left_out(tokenizer: PieceTokenizer) -> None:
    encode = tokenizer.encode
    tokenizer.encode = lambda text: [0 if tokenizer.pieces[i] == "pac" else i for i in encode(text)]
    probes = TEXTS["code"](ProbesConfig(n_texts=3, n_tokens=24, code=("python",)), tokenizer)
    assert probes.rejected["tokens that stand for no text"] > 0
    assert not any("pac" in tokenizer.decode(probe.tokens) for probe in probes.probes)


def test_without_the_extra_frequencies_are_not_known(
    tokenizer: PieceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = TEXTS["noise"](CONFIG, tokenizer)
    assert np.isfinite(before.frequencies()).all()
    forget_packages(monkeypatch)
    probes = TEXTS["noise"](CONFIG, tokenizer)
    assert np.isnan(probes.frequencies()).all() and probes.sha256 == before.sha256
    with pytest.raises(ValueError, match=r"wordfreq is not installed.*sparsetrain\[probes\]"):
        TEXTS["licences"](CONFIG, tokenizer)
    with pytest.raises(ValueError, match=r"django is not installed.*sparsetrain\[probes\]"):
        TEXTS["languages"](CONFIG, tokenizer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": ()}, r"noise=\[\] must rise from 0"),
        ({"noise": (0.1, 0.2)}, r"noise=\[0.1, 0.2\] must rise from 0"),
        ({"exchanged": (0.0, 0.5, 0.5)}, r"exchanged=\[0.0, 0.5, 0.5\] must rise from 0, .* to at most 1; try"),
        ({"exchanged": (0.0, 1.5)}, "to at most 1"),
        ({"order": (2, 0)}, r"order=\[2, 0\] must be different numbers of words, 1"),
        ({"order": (1, 4, 4)}, "must be different"),
        ({"order": (1, -4)}, r"order=\[1, -4\]"),
        ({"languages": ("es", "en")}, r"languages=\['es', 'en'\] must be different ones, 'en' first"),
        ({"code": ()}, r"code=\[\] must be different ones, 'python' first"),
        ({"code": ("python", "cobol")}, "no kind 'cobol'; choose of python, javascript, c, css"),
    ],
)
def test_wrong_levels_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProbesConfig(**settings)
