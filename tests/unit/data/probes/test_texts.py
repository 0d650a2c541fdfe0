"""Where texts come from: pieces begin where something begins, packages come in turn, nothing comes twice."""

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from probe_machine import WORDS, add_described, add_package, make_machine, sentences

from sparsetrain.data.probes.exchange import exchange_letters, exchange_words, mean_frequency, random_letters
from sparsetrain.data.probes.messages import deal, messages
from sparsetrain.data.probes.texts import KINDS, in_turn, installed, pieces_of, version_of


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_machine(tmp_path, monkeypatch)


def texts_of(kind: str, n_tokens: int = 20, seed: int = 0) -> list[str]:
    return [piece.text for piece in pieces_of(kind, seed, n_tokens)]


def test_pieces_follow_the_seed_and_none_comes_twice(machine: Path) -> None:
    for kind in KINDS:
        found = list(pieces_of(kind, 0, 20))
        assert found and found == list(pieces_of(kind, 0, 20)), kind
        assert len({piece.text for piece in found}) == len(found)
        other = list(pieces_of(kind, 1, 20))
        assert found != other, kind
        assert {piece.package for piece in found} == {piece.package for piece in other}


def test_packages_come_in_turn(machine: Path) -> None:
    add_described(
        machine / "site", "huge", "\n\n".join(sentences(np.random.default_rng(i), 50) for i in range(100, 150))
    )
    packages = [piece.package for piece in pieces_of("prose", 0, 20)]
    assert Counter(packages)["huge"] == 50
    assert sorted(packages[:5]) == ["huge", "p0", "p1", "p2", "p3"] == sorted(packages[5:10])
    assert list(in_turn(["abc", "", "d"])) == ["a", "d", "b", "c"]


def test_what_has_been_said_is_left_out(machine: Path) -> None:
    said = sentences(np.random.default_rng(100), 40)
    before = texts_of("licences")
    for name, text in (("first", said), ("second", said.replace(" the ", " every ", 1)), ("third", said.upper())):
        add_package(machine / "site", name, {f"{name}-1.0.dist-info/LICENSE.txt": text})
    assert len(texts_of("licences")) == len(before) + 1


def test_prose_has_no_markup_lists_or_licences(machine: Path) -> None:
    kept = "See [the `guide`](https://x.org/a) and `the other one <https://x.org>`_ for **all** that can be read and\n  written of this library."
    left_out = (
        "Read https://x.org/a where everything is written that can be read of this library and other ones.",
        "This software comes without a warranty of any kind, and you can use it for whatever you want.",
        "- This item of a list is written so that it reads as prose in every other way, which it is not.",
        "1. This item of a list is written so that it reads as prose.\n2. In every other way, which it is not.",
        "Größer als alles andere ist dieser Satz, der in einer anderen Sprache geschrieben ist als die anderen.",
        "code = function(value) # with_names and [lists] of {things} * that | nobody < reads > as = prose at all.",
    )
    for name in ("p0", "p1", "p2", "p3"):
        (machine / "site" / f"{name}-1.0.dist-info" / "METADATA").unlink()
    add_described(machine / "site", "marked", "\n\n".join([*left_out, kept]))
    assert texts_of("prose", n_tokens=10) == [
        "See the guide and the other one for all that can be read and written of this library."
    ]


def test_code_begins_at_statements_and_rules(machine: Path) -> None:
    for kind, begin in (("python", "def "), ("css", "rule_"), ("javascript", "script_"), ("c", "int ")):
        found = texts_of(kind)
        assert len(found) > 4 and all(text.startswith(begin) and len(text) <= 120 for text in found), kind
    whole = "".join(path.read_text() for path in (machine / "lib").iterdir())
    assert all(whole.count(text) == 1 for text in texts_of("python"))


@pytest.mark.parametrize(
    "text",
    [
        "x" * 500,
        "/*\n\nfirst line of a comment {\n}\n*/\n",
        "const x = 1; `\n\nfirst line of a string {\n}\n`\n",
        "\n{% template %}\n",
        "rule { }\n/* Copyright of someone */\n",
    ],
)
def test_what_is_no_code_is_left_out(text: str, machine: Path) -> None:
    before = set(texts_of("javascript"))
    add_package(machine / "site", "more", {"more/a.js": f"\n{text}", "more/vendor/b.js": "rule_1_2 { };\n"})
    found = set(texts_of("javascript")) - before
    assert all(one.startswith("const") for one in found) and len(found) <= 1


def test_python_that_does_not_parse_and_our_own_packages_are_left_out(machine: Path) -> None:
    (machine / "lib" / "three.py").write_text("\n\nprint 'three'\n")
    (machine / "site" / "broken-1.0.dist-info").mkdir()
    add_described(machine / "site", "sparsetrain", sentences(np.random.default_rng(9)))
    assert not [text for text in texts_of("python") if "three" in text]
    assert sorted(installed()) == ["django", "p0", "p1", "p2", "p3", "wordfreq"]
    assert version_of("wordfreq") == "3.0" and version_of("python").startswith("3.")


def test_messages_are_translated_everywhere(machine: Path) -> None:
    found = messages(("en", "es", "ja"))
    assert len(found) == 12 and [text["en"] for text in found] == sorted(text["en"] for text in found)
    for text in found:
        assert text["es"] == f"ñandú {text['en'].upper()}" and text["ja"] == f"言葉 {text['en'].upper()}"
    with pytest.raises(ValueError, match=r"Django has no 'xx'; choose of en, es, ja, pt-br$"):
        messages(("en", "xx"))
    assert messages(("en", "pt-br")) == []


def test_hands_hold_every_number_equally_often() -> None:
    hands = list(islice(deal(10, lambda hand: len(hand) == 4, 0), 50))
    assert len(hands) == 50
    assert all(len(set(hand)) == 4 for hand in hands)
    counts = Counter(number for hand in hands for number in hand)
    assert len(counts) == 10 and max(counts.values()) - min(counts.values()) <= 1
    assert list(deal(3, lambda hand: False, 0)) == []
    assert len(next(deal(3, lambda hand: len(hand) == 3, 0))) == 3


def test_letters_are_exchanged_in_nested_shares() -> None:
    text = "The Quick brown fox, 123: jumps!"
    shares = (0.0, 0.1, 0.5, 1.0)
    found = exchange_letters(text, shares, np.random.default_rng(0))
    letters = [i for i, char in enumerate(text) if char.isalpha()]
    changed = [{i for i in range(len(text)) if one[i] != text[i]} for one in found]
    assert found[0] == text and [len(places) for places in changed] == [round(s * len(letters)) for s in shares]
    assert changed[1] < changed[2] < changed[3] == set(letters)
    for less, more, places in zip(found[:-1], found[1:], changed[:-1], strict=True):
        assert all(less[i] == more[i] for i in places)
    assert [char.isupper() for char in found[3]] == [char.isupper() for char in text]


def test_words_are_exchanged_for_equally_frequent_ones(machine: Path) -> None:
    text = "The tool can Read THIS file.txt of unknownword, people-like: library we use"
    shares = (0.0, 0.3, 1.0)
    found = exchange_words(text, shares, np.random.default_rng(0))
    words = [one.split() for one in found]
    assert found[0] == text and len(set(map(len, found))) == 1
    changed = [{i for i, (a, b) in enumerate(zip(words[0], one, strict=True)) if a != b} for one in words]
    # Neither a file, nor a compound, nor a word that is not known.
    assert changed[2] == {0, 1, 2, 3, 4, 6, 9, 10, 11} and changed[1] < changed[2] and len(changed[1]) == 3
    assert all(words[1][i] == words[2][i] for i in changed[1])
    assert words[2][4].isupper() and words[2][0].istitle() and words[2][1].islower()
    nearest = exchange_words(" ".join(WORDS), (1.0,), np.random.default_rng(0))[0]
    assert abs(mean_frequency(nearest) - mean_frequency(" ".join(WORDS))) < 0.3


def test_frequency_is_the_mean_over_words(machine: Path) -> None:
    assert mean_frequency("A of, a 12!") == pytest.approx((7 + 6.7 + 7) / 3)
    assert mean_frequency("of qqq") == pytest.approx(6.7 / 2)
    assert np.isnan(mean_frequency("12 = 3"))


def test_random_letters_have_the_lengths_of_the_words() -> None:
    found = random_letters("One word, then  another.", np.random.default_rng(0))
    assert list(map(len, found.split())) == [3, 5, 4, 8] and found.islower()
