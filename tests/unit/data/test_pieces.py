"""Long texts in pieces: whole, the same however they come in, with the tokens, normal form and groups of the uncut text."""

import random

import pytest
from data_example import groups_of
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsetrain.data import IdiomsSource, Tokenizer, train_tokenizer
from sparsetrain.data.duplicates import normalise, normalised
from sparsetrain.data.mix import ENDS
from sparsetrain.data.pieces import cut
from sparsetrain.data.sources import Document
from sparsetrain.data.spool import Facts
from sparsetrain.data.tokenizer import SEAMS, text_parts

CODE = "\n".join(item.text for item in IdiomsSource(n_chars=60_000, seed=1).read() if isinstance(item, Document))
SIGNS = " \t\n\r\x0b\x0c\x1c\x85\xa0\u2028\u3000\u200b_-aZé漢。、ー'\"([{0９\u0301\U0001f600<|endoftext|>"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([CODE, SIGNS * 3], d_vocab=400)


def parts(text: str, size: int) -> list[str]:
    return list(cut([text], size, ENDS))


def blocks(text: str, n: int) -> list[str]:
    return [text[i : i + n] for i in range(0, len(text), n)]


@given(st.text(st.sampled_from("ab \t\r\n"), max_size=400), st.integers(1, 40))
def test_pieces_are_the_text(text, size):
    pieces = parts(text, size)
    assert "".join(pieces) == text
    assert all(size <= len(piece) <= 2 * size for piece in pieces[:-1]) and len(pieces[-1]) <= 2 * size


def test_pieces_end_where_the_text_allows_it():
    paragraph = "word word word\n" * 4
    assert all(piece.endswith("\n\n") for piece in parts((paragraph + "\n") * 50, 70)[:-1])
    assert all(piece.endswith("\r\n\r\n") for piece in parts((paragraph + "\n").replace("\n", "\r\n") * 50, 80)[:-1])
    assert all(piece.endswith("word\n") for piece in parts(paragraph * 50, 70)[:-1])
    assert all(piece.endswith("word ") for piece in parts("word " * 500, 70)[:-1])
    assert [len(piece) for piece in parts("x" * 500, 70)] == [140, 140, 140, 80]


@given(st.text(st.sampled_from("ab(1 \t\r\n"), max_size=300), st.integers(1, 30), st.integers(1, 50), st.booleans())
def test_blocks_make_no_difference(text, size, n, anywhere):
    ends = ENDS if anywhere else SEAMS
    whole = list(cut([text], size, ends, anywhere=anywhere))
    assert list(cut(blocks(text, n), size, ends, anywhere=anywhere)) == whole
    assert "".join(whole) == text


@given(st.text(st.sampled_from("ab \t\r\n\x0b\x85\u2028\u3000"), max_size=200), st.integers(1, 30))
def test_the_normal_form_of_blocks_is_that_of_the_text(text, n):
    assert "".join(normalised(blocks(text, n))) == normalise(text)
    facts = Facts()
    assert b"".join(facts.see(blocks(text, n))) == text.encode()
    assert (facts.n_chars, facts.is_blank, facts.returns) == (len(text), not text.strip(), "\r" in text)


def small_parts(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr("sparsetrain.data.tokenizer.SEAM_SIZE", size)
    monkeypatch.setattr("sparsetrain.data.tokenizer.BATCH", 5 * size)


def encoded(tokenizer: Tokenizer, texts: list[str], n: int) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in texts]
    for number, ids in tokenizer.encode_documents(blocks(text, n) for text in texts):
        found[number] += ids
    return found


@pytest.mark.parametrize("size", [1, 2, 7])
@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(
        st.text(st.sampled_from(SIGNS) | st.characters(exclude_categories=["Cs"]), max_size=120), max_size=3
    ),
    n=st.integers(1, 40),
)
def test_tokens_of_the_parts_are_those_of_the_text(tokenizer, size, texts, n):
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_parts(monkeypatch, size)
        assert encoded(tokenizer, texts, n) == [tokenizer.encode(text) for text in texts]


ADVERSARIAL = {
    "code": CODE,
    "one line of words": CODE.replace("\n", " "),
    "runs of blanks": CODE.replace(" ", "  \t").replace("\n", " \r"),
    "carriage returns": CODE.replace("\n", "\r\n"),
    "no blanks": "".join(CODE.split()),
    "minified": CODE.replace(" ", "").replace("\n", ";"),
    "letters alone": "".join(char for char in CODE if char.isalpha()),
    "blanks alone": " " * 5_000,
    "newlines alone": "\n" * 5_000,
    "digits": "0123456789" * 500,
    "chinese": "漢字仮名交じり文、これは。" * 400,
    "marks and emoji": "e\u0301 \U0001f600\u200d\U0001f600 " * 500,
    "spelled separators": "<|endoftext|>" * 400 + " <|endoftext|>\n" * 50,
}  # fmt: skip


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_tokens_of_adversarial_texts(tokenizer, name, monkeypatch):
    small_parts(monkeypatch, 50)
    text = ADVERSARIAL[name]
    assert encoded(tokenizer, [text, "x", text[:999]], 301) == [tokenizer.encode(t) for t in (text, "x", text[:999])]


def test_texts_with_seams_are_cut_and_words_are_not(monkeypatch):
    small_parts(monkeypatch, 50)
    longest = {name: max(map(len, text_parts([text]))) for name, text in ADVERSARIAL.items()}
    whole = {name for name, size in longest.items() if size == len(ADVERSARIAL[name])}
    assert whole == {"letters alone", "blanks alone"}
    assert max(size for name, size in longest.items() if name not in whole) < 400


def test_a_tokenizer_trained_on_parts_is_that_of_the_text(monkeypatch):
    whole = train_tokenizer([CODE], d_vocab=400).to_json()
    small_parts(monkeypatch, 200)
    assert train_tokenizer(text_parts([CODE]), d_vocab=400).to_json() == whole


def test_near_duplicates_of_long_texts_are_found(monkeypatch, tmp_path):
    monkeypatch.setattr("sparsetrain.data.duplicates.CHUNK", 4_000)
    rng = random.Random(0)
    long = [" ".join(f"w{rng.randrange(10**6)}" for _ in range(5_000)) for _ in range(3)]
    changed = long[1].split(" ")
    changed[1_000:1_100] = ["other"] * 100
    texts = [
        "short text of its own",
        long[0],
        " ".join(changed),
        long[1],
        "another short text",
        long[2],
        long[0] + "\n\n",
    ]
    assert groups_of(texts, tmp_path) == [0, 1, 2, 2, 3, 4, 1]
