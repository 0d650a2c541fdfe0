"""A user's files as splits: names, levels, lengths, what is left out, and every mistake as one line."""

import json
from itertools import pairwise

import numpy as np
import pytest

from sparsetrain.data.texts import PADDING, TextsConfig, read_texts


class Letters:
    """A letter is a token; capitals are unknown; a separator stands in front."""

    special_ids = frozenset({0, 1})
    unknown_id = 1

    def encode(self, text):
        return [0, *(ord(c) - 95 if c.islower() else 1 for c in text if not c.isspace())]

    def characters(self, text):
        places = [i for i, c in enumerate(text) if not c.isspace()]
        return [0, *(i - before for before, i in pairwise([-1, *places]))]


def write(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def read(*paths, **settings):
    return read_texts(paths, Letters(), TextsConfig(**settings))


def test_labels_levels_and_files(tmp_path):
    labelled = write(
        tmp_path / "a.jsonl",
        {"text": "abc", "label": "hard", "level": 2},
        {"text": "de", "label": "easy", "level": 0},
        {"text": "fg", "level": 1},
        {"text": "hij", "label": "hard", "level": 2},
    )
    splits = read(labelled)
    assert [(s.name, s.level, len(s.tokens)) for s in splits] == [("easy", 0, 1), ("level_1", 1, 1), ("hard", 2, 2)]
    hard = splits[2]
    np.testing.assert_array_equal(hard.tokens, [[0, 2, 3, 4], [0, 9, 10, 11]])
    assert hard.places == (f"{labelled}:1", f"{labelled}:4") and hard.description == "a.jsonl"
    plain = tmp_path / "b.txt"
    plain.write_text("abcdefgh\n")
    splits = read(write(tmp_path / "c.jsonl", {"body": "ab"}, {"body": "cd"}), str(plain), text_field="body", n_ctx=4)
    assert [(s.name, s.level) for s in splits] == [("c", 0), ("b", 1)]
    # nine ids in pieces of four; the last one is shorter than two tokens
    np.testing.assert_array_equal(splits[1].tokens, [[0, 2, 3, 4], [5, 6, 7, 8]])
    assert splits[1].n_short == 1 and splits[1].n_cut == 0


def test_lengths_unknown_tokens_and_counts(tmp_path):
    path = write(
        tmp_path / "a.jsonl", {"text": "abXd"}, {"text": "a"}, {"text": "XYZ"}, {"text": ""}, {"text": "abcdefgh"}
    )
    (split,) = read(path, n_ctx=6, min_tokens=3)
    np.testing.assert_array_equal(split.tokens, [[0, 2, 3, 1, 5, PADDING], [0, 2, 3, 4, 5, 6]])
    assert split.lengths.tolist() == [5, 6] and split.unknown_share == pytest.approx(1 / 11)
    assert (split.n_cut, split.n_short, split.n_unknown) == (1, 1, 2)
    matched = read(path, n_ctx=5, min_tokens=5)[0]
    assert (matched.tokens != PADDING).all() and len(matched.tokens) == 2


def test_draw_is_seeded_and_keeps_places(tmp_path):
    words = [chr(97 + i) * (i + 2) for i in range(20)]
    (split,) = read(write(tmp_path / "a.jsonl", *({"text": word} for word in words)))
    drawn, again, other = split.draw(7, 0), split.draw(7, 0), split.draw(7, 1)
    assert len(drawn.tokens) == 7 and drawn.places == again.places != other.places
    for row, place in zip(drawn.tokens, drawn.places, strict=True):
        line = int(place.rpartition(":")[2])
        assert row[row != PADDING].tolist() == Letters().encode(words[line - 1])
    assert split.draw(20, 0) is split


def test_length_fits_the_model():
    assert [TextsConfig().fit(n).n_ctx for n in (None, 64, 1000)] == [256, 64, 256]
    assert TextsConfig(n_ctx=40).fit(64).n_ctx == 40
    with pytest.raises(ValueError, match=r"texts\.n_ctx=65, but the model reads 64 positions; give texts\.n_ctx=64"):
        TextsConfig(n_ctx=65).fit(64)
    with pytest.raises(ValueError, match=r"texts\.min_tokens=65 must lie in \[2, texts\.n_ctx=64\]"):
        TextsConfig(min_tokens=65).fit(64)


def test_rows_that_are_no_text_are_left_out_and_named(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"text": "ab"}\n{"text": null}\n{"text": "a\\ud83db"}\n{"text": "cd"}\n{"text": "tor'
    )
    texts = read(str(tmp_path / "a.jsonl"))
    assert [len(split.tokens) for split in texts] == [2] and texts[0].places == tuple(
        f"{tmp_path}/a.jsonl:{line}" for line in (1, 4)
    )
    assert [(skip.name.rpartition(":")[2], skip.reason.split(" (")[0]) for skip in texts.skipped] == [
        ("2", "no text in field 'text'"),
        ("3", "a lone surrogate"),
        ("5", "not JSON"),
    ]


def test_files_of_one_name_are_splits_of_their_own(tmp_path):
    for folder, text in (("code", "ab"), ("prose", "cde")):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "test.jsonl", {"text": text})
    splits = read(*(str(tmp_path / folder / "test.jsonl") for folder in ("code", "prose")))
    assert [(split.name, split.level, int(split.lengths[0])) for split in splits] == [
        ("code/test", 0, 3),
        ("prose/test", 1, 4),
    ]
    # A folder means the files below it; labels go on saying what belongs together.
    assert [split.name for split in read(str(tmp_path))] == ["code/test", "prose/test"]
    same = [write(tmp_path / folder / "test.jsonl", {"text": "ab", "label": "one"}) for folder in ("code", "prose")]
    assert [(split.name, len(split.tokens)) for split in read(*same)] == [("one", 2)]


def test_a_file_given_twice_counts_once(tmp_path):
    path = write(tmp_path / "a.jsonl", {"text": "ab"}, {"text": "cd"})
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    texts = read(path, str(tmp_path / "link.jsonl"), str(tmp_path / "*.jsonl"))
    assert [(split.name, len(split.tokens)) for split in texts] == [("a", 2)]
    assert [skip.reason.split(" (")[0].split(",")[0] for skip in texts.skipped] == [
        "1 of its files counted once already",
        "2 of its files counted once already",
    ]


def test_rows_of_tables_have_labels_and_levels(tmp_path):
    (tmp_path / "a.tsv").write_bytes(b'level\ttext\tlabel\r\n0\tab\tnear\r\n2\t"c\r\nd"\tfar\r\n\tef\t\r\n')
    splits = read(str(tmp_path / "a.tsv"))
    assert {split.name: (split.level, split.places) for split in splits} == {
        "near": (0, (f"{tmp_path}/a.tsv:2",)),
        "far": (2, (f"{tmp_path}/a.tsv:3",)),
        "a": (2, (f"{tmp_path}/a.tsv:5",)),  # the third by order of appearance
    }


def test_mistakes_are_one_line(tmp_path):
    def failing(match, *paths, **settings):
        with pytest.raises((ValueError, FileNotFoundError), match=match) as error:
            read(*paths, **settings)
        assert "\n" not in str(error.value)

    failing("no text file; give data=")
    failing("no such text file", str(tmp_path / "none.jsonl"))
    failing(r"split 'a' is empty: .*a\.jsonl has no text", write(tmp_path / "a.jsonl"))
    (tmp_path / "b.txt").write_text(" \n")
    failing(r"split 'b' is empty: .*b\.txt has no text", str(tmp_path / "b.txt"))
    failing(
        r"split 'far' has no single known token in 2 examples \(.*c\.jsonl:2",
        write(tmp_path / "c.jsonl", {"text": "ab"}, *({"text": "XY", "label": "far"} for _ in range(2))),
    )
    failing(
        r"longest example has 3 tokens, texts\.min_tokens=9", write(tmp_path / "d.jsonl", {"text": "ab"}), min_tokens=9
    )
    failing(
        r"all 1 rows of .* the first .*e\.jsonl:1: no text in field 'text' \(its fields: words\)",
        write(tmp_path / "e.jsonl", {"words": "ab"}),
    )
    failing(r"f\.jsonl:1: no text in field 'text' \(the row is a list\)", write(tmp_path / "f.jsonl", ["ab"]))
    (tmp_path / "g.jsonl").write_text('{"text": \n')
    failing(r"g\.jsonl:1: not JSON \(Expecting value", str(tmp_path / "g.jsonl"))
    for level in ("far", 1.5, 1.0, True, 10**12):
        failing(
            r"h\.jsonl:1: level=.* must be a whole number \(1, not 1\.0\)",
            write(tmp_path / "h.jsonl", {"text": "ab", "level": level}),
        )
    two = [{"text": "ab", "label": "x", "level": level} for level in (0, 3)]
    failing(r"i\.jsonl:2: split 'x' has level 0 and 3", write(tmp_path / "i.jsonl", *two))
    (tmp_path / "j.txt").write_bytes(b"ab\xff")
    failing(r"j\.txt is not UTF-8 text \(byte 2\)", str(tmp_path / "j.txt"))
    failing(r"texts\.n_ctx=1", write(tmp_path / "k.jsonl", {"text": "ab"}), n_ctx=1)
    failing(r"texts\.min_tokens=9 must lie in \[2, texts\.n_ctx=4\]", "x", n_ctx=4, min_tokens=9)
