"""Pairs of token ids whose right answers are known, and their twins, without tokenizer and text."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import torch
from torch import Tensor

from circuits.search.task import Pairs
from circuits.tasks.pairs import PairSet
from circuits.tasks.task import PairText, Side
from sparsetrain.data.pools import Split

N_PAIRS = {"train": 96, "fit": 32, "val": 32, "heldout": 48}
"""Pairs of each kind. ours"""


def pair_set(
    task: str,
    seed: int,
    tokens: Tensor,
    last: Tensor,
    answers: tuple[int, int],
    positive: tuple[str, str],
    negative: tuple[str, str],
    split: Split = "train",
) -> PairSet:
    """Pairs of token ids `[n, side, pos]` whose texts are all the same example of (prompt, answer)."""
    text = PairText(
        positive=Side(prompt=positive[0], answer=positive[1], continuation=""),
        negative=Side(prompt=negative[0], answer=negative[1], continuation=""),
    )
    n = len(tokens)
    return PairSet(
        task=task,
        split=split,
        seed=seed,
        twin=None,
        tokens=tokens,
        last=last,
        answers=torch.tensor([answers] * n),
        texts=(text,) * n,
    )


def nonsense_twin(pairs: PairSet, answers: tuple[int, int]) -> PairSet:
    """The same prompts with the same two unrelated answers throughout."""
    return replace(pairs, twin="nonsense", answers=torch.tensor([answers] * len(pairs)))


def label_twin(pairs: PairSet) -> PairSet:
    """The prompts of half of the pairs, drawn by lot, exchanged, so that neither answer goes with either side."""
    n = len(pairs)
    swapped = Random(f"{pairs.task}/{pairs.split}/{pairs.seed}/labels").sample(range(n), n // 2)
    tokens, last = pairs.tokens.clone(), pairs.last.clone()
    tokens[swapped], last[swapped] = tokens[swapped].flip(1), last[swapped].flip(1)
    return replace(pairs, twin="labels", tokens=tokens, last=last)


def changed(pairs: Pairs, change: Callable[[PairSet], PairSet]) -> Pairs:
    """All four sets of a task, each changed in the same way (into those of a twin)."""
    return Pairs(train=change(pairs.train), fit=change(pairs.fit), val=change(pairs.val), heldout=change(pairs.heldout))
