"""The four pair sets of a search: disjoint, in the config's shares of what there is, and known by their tokens."""

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from circuits.search.task import FindConfig, Pairs
from circuits.tasks import PairSet, PairText, get_task
from circuits.tasks.task import Side
from sparsetrain.data.sources.idioms import write_module
from sparsetrain.data.tokenizer import Tokenizer, train_tokenizer


@pytest.fixture
def tokenizer() -> Tokenizer:
    words = (
        " is when not the and of to this that from or it on at be are by can but you all\n"  # some for nonsense twins
    )
    return train_tokenizer([write_module(Random(i)) for i in range(60)] + [words] * 60, 500)


def pairs_of(n: int, path: Path) -> str:
    rows = [{"prompt_a": f"Is the w{i}", "answer_a": "?", "prompt_b": f"The w{i}", "answer_b": "."} for i in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"file:{path}"


def sizes(pairs: Pairs) -> list[int]:
    return [len(made) for made in (pairs.train, pairs.fit, pairs.val, pairs.heldout)]


def test_a_search_takes_of_a_file_what_it_asks_for_or_what_there_is(tokenizer, tmp_path):
    name = pairs_of(100, tmp_path / "p.jsonl")
    assert sizes(Pairs.build(name, tokenizer, FindConfig())) == [40, 15, 15, 30]
    assert sizes(Pairs.build(name, tokenizer, FindConfig(n_train=8, n_fit=4, n_val=8, n_heldout=9))) == [8, 4, 8, 9]
    assert sizes(Pairs.build(name, tokenizer, FindConfig(n_fit=30, n_val=90))) == [40, 8, 22, 30]
    assert sizes(Pairs.build(name, tokenizer, FindConfig(n_fit=1, n_val=500))) == [40, 1, 29, 30]
    made = Pairs.build(name, tokenizer, FindConfig())
    prompts = [{text.positive.prompt for text in own.texts} for own in (made.train, made.fit, made.val, made.heldout)]
    assert len(set().union(*prompts)) == 100
    twin = Pairs.build(name, tokenizer, FindConfig(), "nonsense")
    assert sizes(twin) == sizes(made) and {text.positive.prompt for text in twin.fit.texts} == prompts[1]


def test_pairs_of_a_template_are_as_many_as_asked_for(tokenizer):
    find = FindConfig(n_train=6, n_fit=3, n_val=5, n_heldout=7)
    assert sizes(Pairs.build("for_while", tokenizer, find)) == [6, 3, 5, 7]


def test_a_hash_knows_pairs_by_their_tokens(tokenizer, tmp_path):
    find, name = FindConfig(), pairs_of(60, tmp_path / "p.jsonl")
    first = Pairs.build(name, tokenizer, find).sha256
    assert Pairs.build(get_task(name), tokenizer, find).sha256 == first
    others = [
        Pairs.build(name, tokenizer, replace(find, pair_seed=1)),
        Pairs.build(name, tokenizer, replace(find, n_heldout=8)),
        Pairs.build(name, tokenizer, find, "nonsense"),
        Pairs.build(pairs_of(61, tmp_path / "p.jsonl"), tokenizer, find),
    ]
    assert len({first, *(pairs.sha256 for pairs in others)}) == 5


@pytest.mark.parametrize(
    ("first_group", "border"),
    [(9, 9), (15, 8), (1, 8)],
    ids=["the group stays whole", "one pair would judge nothing", "one pair would fit nothing"],
)
def test_a_border_parts_no_group_where_one_lies_near(first_group: int, border: int) -> None:
    one, other = (Side(prompt=prompt, answer="b", continuation="") for prompt in "ac")
    text = PairText(positive=one, negative=other)
    pairs = PairSet(
        task="", split="val", seed=0, twin=None, tokens=torch.zeros(16, 2, 3, dtype=torch.int64),
        last=torch.zeros(16, 2, dtype=torch.int64), answers=torch.zeros(16, 2, dtype=torch.int64), texts=(text,) * 16,
        groups=(torch.arange(16) >= first_group).long(),
    )  # fmt: skip
    assert pairs.border(8) == border
