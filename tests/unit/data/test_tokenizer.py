"""The tokenizer: exact round trips, pieces that follow Python's layout, and a separator that text cannot forge."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsetrain.data import DataConfig, FilesSource, IdiomsSource, Tokenizer, prepare_corpus, train_tokenizer
from sparsetrain.data.sources import Document
from sparsetrain.data.tokenizer import EOT

TEXTS = [item.text for item in IdiomsSource(n_chars=60_000, seed=1).read() if isinstance(item, Document)]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, d_vocab=400)


@settings(max_examples=80, deadline=None)
@given(text=st.text(max_size=60) | st.text(alphabet=" \n\t\r'\"([{_ab1:é漢\U0001f600<|endoftext|>", max_size=60))
def test_any_text_comes_back_exactly(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert list(tokenizer.encode_documents([[text], [text]])) == [(0, ids), (1, ids)]
    assert tokenizer.eot_id not in ids
    assert tokenizer.n_chars[ids].sum() == len(text)


def test_a_character_of_several_tokens_counts_in_the_first_and_the_separator_has_none(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("é")
    assert len(ids) == 2 and tokenizer.n_chars[ids].tolist() == [1, 0]
    assert tokenizer.n_chars[tokenizer.encode("\n    ")].tolist() == [1, 4]
    assert tokenizer.n_chars[tokenizer.eot_id] == 0 and tokenizer.n_chars.shape == (400,)


def surface(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.token(id) for id in tokenizer.encode(text)]


def test_newlines_and_indentation_are_tokens_of_their_own(tokenizer: Tokenizer) -> None:
    text = "def f(x):\n    for i in x:\n        print(i)\n\n    return x\n"
    pieces = surface(tokenizer, text)
    assert pieces.count("\\n") == text.count("\n")
    assert not any("\\n" in piece and piece != "\\n" for piece in pieces)
    after_newline = [b for a, b in pairwise(pieces) if a == "\\n"]
    assert after_newline == ["    ", "        ", "\\n", "    "]


@pytest.mark.parametrize("indent", [" ", "  ", "   ", "\t", "     "])
def test_an_indentation_never_takes_part_of_the_word_behind_it(tokenizer: Tokenizer, indent: str) -> None:
    for text in (f"{indent}word", f"\n{indent}word"):
        ids = tokenizer.encode(text)
        word = tokenizer.encode("word")
        assert ids[-len(word) :] == word


def test_digits_are_single(tokenizer: Tokenizer) -> None:
    pieces = surface(tokenizer, "v[123] = 45 + 6.78e10")
    assert all(sum(char.isdigit() for char in piece) <= 1 for piece in pieces)


@pytest.mark.parametrize("head", ["print('red fox", 'd = {"k', "v = [[4, 7], [5, 3", "    if x", "def f(n):\n"])
@pytest.mark.parametrize("tail", ["'", "')\n", '": 1}', "]]\n", "]\n", " == 1", " = 1", "    x", "        y"])
def test_a_prompt_is_a_prefix_of_its_continuations(tokenizer: Tokenizer, head: str, tail: str) -> None:
    joined = tokenizer.encode(head + tail)
    word_goes_on = head[-1].isalnum() and tail[0].isalnum()
    assert word_goes_on or joined[: len(tokenizer.encode(head))] == tokenizer.encode(head)


def test_text_that_spells_the_separator_is_bytes(tokenizer: Tokenizer) -> None:
    assert tokenizer.eot_id == 0
    assert tokenizer.eot_id not in tokenizer.encode(EOT)
    assert tokenizer.decode([0, *tokenizer.encode("x")]) == EOT + "x"


def test_saved_and_loaded_is_the_same(tokenizer: Tokenizer, tmp_path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    text = TEXTS[0] + EOT
    assert loaded.encode(text) == tokenizer.encode(text)
    assert (loaded.d_vocab, loaded.eot_id) == (400, 0)


@pytest.mark.parametrize("content", ["", "[]", '{"version": "1.0"', '{"hello": 1}'])
def test_a_file_that_is_no_tokenizer_is_named(content: str, tmp_path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json is no tokenizer"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_training_is_deterministic(tokenizer: Tokenizer) -> None:
    assert train_tokenizer(TEXTS, d_vocab=400).to_json() == tokenizer.to_json()


def test_tokens_are_readable(tokenizer: Tokenizer) -> None:
    assert tokenizer.token(tokenizer.encode("\n")[0]) == "\\n"
    assert tokenizer.token(tokenizer.encode("\t")[0]) == "\\t"
    assert tokenizer.token(0) == EOT
    assert tokenizer.token(tokenizer.encode("é")[0]) == "\\xc3"
    assert len({tokenizer.token(id) for id in range(400)}) == 400


def test_errors_name_the_value(tokenizer: Tokenizer, tmp_path) -> None:
    with pytest.raises(ValueError, match="d_vocab=256"):
        train_tokenizer(TEXTS, d_vocab=256)
    with pytest.raises(ValueError, match="gives only"):
        train_tokenizer(["a b"], d_vocab=300)
    with pytest.raises(ValueError, match="no tokenizer at"):
        Tokenizer.load(tmp_path / "absent.json")
    with pytest.raises(ValueError, match="no token with id 400"):
        tokenizer.token(400)


def test_a_tokenizer_that_is_not_spelled_in_bytes_is_refused_before_any_text_is_read(tmp_path):
    """As of models whose added tokens have blanks in them."""
    import tokenizers

    backend = tokenizers.Tokenizer.from_str(train_tokenizer(TEXTS, 300).to_json())
    backend.add_tokens(["  "])
    path = tmp_path / "tokenizer.json"
    path.write_text(backend.to_str())
    (tmp_path / "text.txt").write_text("def f(x):\n    return x\n" * 2000)
    config = DataConfig(
        sources={"mine": FilesSource(paths=(str(tmp_path / "text.txt"),))}, d_vocab=301, tokenizer=str(path)
    )
    with pytest.raises(ValueError, match=r"data\.tokenizer=.* is no byte-level BPE: token \d+ is '  '"):
        prepare_corpus(config, tmp_path / "cache", progress=False)
