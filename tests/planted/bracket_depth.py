"""A model that tells a list in a list from a flat one: it counts open brackets and compares with its sink.

A head of layer 0 attends to all tokens alike and writes the mean of "this is an open bracket": depth / length. A head of
layer 1 takes that as its query against a constant key: at depth 1 its sink gets nearly all of the attention, at depth 2 the
tokens do, and the constant value is written. Brackets of another kind and closing ones are in the prompts and count
nothing. Same idea as the nesting-depth circuit of Gao et al. 2025 (7 nodes, 4 edges there).

Key and value of layer 1 and the query and key of layer 0 are what they are on average, so they are no nodes.
"""

from dataclasses import replace
from math import log

import torch
from shared_detector import clear_channel_
from string_closing import FIRST_WORD, LEVEL, N_WORDS, string_closing_model, string_pairs
from torch import Tensor

from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import record
from sparsetrain.model import Transformer

OPEN, OTHER_OPEN, OTHER_CLOSE, CLOSE_TWO, CLOSE_ONE = 1, 2, 3, 5, 6  # tokens
IS_OPEN, DEPTH, ANSWER, IS_OTHER = 0, 2, 4, 1  # residual channels
V_0, Q_1, K_1, V_1 = 8, 12, 12, 13
HEAD_1, N_POS, MARGIN = 3, 9, 0.75

NODES = {
    "blocks.0.attn.hook_in": (IS_OPEN,),
    "blocks.0.attn.hook_v": (V_0,),
    "blocks.0.attn.hook_out": (DEPTH,),
    "blocks.1.attn.hook_in": (DEPTH,),
    "blocks.1.attn.hook_q": (Q_1,),
    "blocks.1.attn.hook_out": (ANSWER,),
}
EDGES = {
    (f"blocks.0.attn.hook_in:{IS_OPEN}", f"blocks.0.attn.hook_v:{V_0}"),
    (f"blocks.0.attn.hook_v:{V_0}", f"blocks.0.attn.hook_out:{DEPTH}"),
    (f"blocks.1.attn.hook_in:{DEPTH}", f"blocks.1.attn.hook_q:{Q_1}"),
}


@torch.no_grad()
def bracket_model() -> Transformer:
    """The planted model; the random weights around it are those of the string-closing model."""
    model = string_closing_model()
    for channel in range(LEVEL):
        clear_channel_(model, channel)
    model.embed.weight[OPEN, IS_OPEN] = 2
    model.embed.weight[OTHER_OPEN, IS_OTHER] = 2
    first, second = model.blocks[0].attn, model.blocks[1].attn
    for attn, head in ((first, slice(8, 12)), (second, slice(8, 16))):
        for linear in (attn.W_q, attn.W_k, attn.W_v):
            linear.weight[head] = 0
            linear.bias[head] = 0
        attn.W_o.weight[:, head] = 0
    first.W_v.weight[V_0, IS_OPEN] = 2
    first.W_o.weight[DEPTH, V_0] = 2
    second.W_q.weight[Q_1, DEPTH] = 1
    second.W_k.bias[K_1] = 4
    second.W_v.bias[V_1] = 4
    second.W_o.weight[ANSWER, V_1] = 1
    pairs = bracket_pairs(64, seed=99)
    _, seen = record(model, pairs.tokens.flatten(0, 1), ["blocks.1.attn.hook_q"])
    one, two = (seen["blocks.1.attn.hook_q"][side::2, N_POS - 1, Q_1].mean() for side in (1, 0))
    # Scores of +-2 around the point where tokens and sink share the attention; a score is q k / sqrt(d_head).
    second.W_q.weight[Q_1, DEPTH] *= 4 / float((two - one) * 4 / 2)
    middle = 2 * float(two + one) / float(two - one)
    second.sink[HEAD_1] = middle + log(N_POS)
    model.unembed.weight[[CLOSE_TWO, CLOSE_ONE]] = 0
    model.unembed.weight[CLOSE_TWO, ANSWER], model.unembed.weight[CLOSE_ONE, ANSWER] = 1.0, -1.0
    logits = model(pairs.tokens.flatten(0, 1), pairs.last.flatten()).unflatten(0, (-1, 2))
    difference = logits[..., CLOSE_TWO] - logits[..., CLOSE_ONE]
    model.unembed.weight[[CLOSE_TWO, CLOSE_ONE]] *= MARGIN / float((difference[:, 0] - difference[:, 1]).mean() / 2)
    return model


def bracket_pairs(n: int, seed: int, answers: tuple[int, int] = (CLOSE_TWO, CLOSE_ONE)) -> PairSet:
    """`w [ w [ w` -> `]]` against `w [ w ( w` -> `]`: two open brackets, or one and one of another kind; words between.

    On both sides a bracket of the other kind may stand somewhere else too.
    """
    generator = torch.Generator().manual_seed(seed)
    side = torch.randint(FIRST_WORD, FIRST_WORD + N_WORDS, (n, N_POS), generator=generator)
    side[:, 0] = 0
    places = torch.rand(n, N_POS - 2, generator=generator).argsort(1)[:, :3] + 1
    rows = torch.arange(n)
    side[rows, places[:, 0]] = OPEN
    extra = torch.rand(n, generator=generator) < 0.5
    side[rows, places[:, 2]] = torch.where(extra, OTHER_CLOSE, side[rows, places[:, 2]])
    tokens = side[:, None].repeat(1, 2, 1)
    tokens[rows, 0, places[:, 1]] = OPEN
    tokens[rows, 1, places[:, 1]] = OTHER_OPEN
    return replace(string_pairs(n, seed, answers=answers), task="planted_brackets", tokens=tokens)


def bracket_windows(n: int, seed: int) -> Tensor:
    """Text with brackets of both kinds, `[n, 16]` int64."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(FIRST_WORD, FIRST_WORD + N_WORDS, (n, 16), generator=generator)
    brackets = torch.randint(OPEN, OTHER_CLOSE + 1, (n, 16), generator=generator)
    return torch.where(torch.rand(n, 16, generator=generator) < 0.2, brackets, tokens)
