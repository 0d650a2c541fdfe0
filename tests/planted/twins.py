"""Twins of planted pairs, made as `circuits.tasks.pairs` makes those of the tasks: same prompts, no meaning."""

from dataclasses import replace
from random import Random

import torch

from circuits.tasks.pairs import PairSet


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
