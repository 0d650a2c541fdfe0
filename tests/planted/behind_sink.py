"""A head that tells whether a token occurred, by a threshold that its sink sets.

The head's key is large at a single quote and 0 elsewhere, its query and its value are constants (biases). Without a quote
the sink takes nearly all of the attention and the head writes nothing; with one, the quote takes it from the sink and the
head writes its constant value. Query and value are what they are on average, so they are no nodes of the circuit: the
pattern alone carries the signal, from read to key to write.
"""

from dataclasses import replace

import torch
from string_closing import (
    FIRST_WORD,
    IS_SINGLE,
    MARGIN,
    SINGLE,
    set_margin_,
    string_closing_model,
    string_pairs,
)

from circuits.tasks.pairs import PairSet
from circuits.truth.graft import clear_channel_, clear_head_
from sparsetrain.model import Transformer

SEEN, NOT_SEEN = 5, 6  # answers
QK, V, ANSWER = 12, 13, 6
HEAD, SINK = 3, 6.0
NODES = {
    "blocks.1.attn.hook_in": (IS_SINGLE,),
    "blocks.1.attn.hook_k": (QK,),
    "blocks.1.attn.hook_out": (ANSWER,),
}
EDGES = {(f"blocks.1.attn.hook_in:{IS_SINGLE}", f"blocks.1.attn.hook_k:{QK}")}


@torch.no_grad()
def sink_model() -> Transformer:
    """The planted model."""
    model = string_closing_model()
    clear_channel_(model, ANSWER)
    attn = model.blocks[1].attn
    clear_head_(attn, HEAD)
    attn.W_q.bias[QK] = 4
    attn.W_k.weight[QK, IS_SINGLE] = 4
    attn.sink[HEAD] = SINK
    attn.W_v.bias[V] = 4
    attn.W_o.weight[ANSWER, V] = 1
    model.unembed.weight[SEEN, ANSWER], model.unembed.weight[NOT_SEEN, ANSWER] = 1.0, -1.0
    set_margin_(model, sink_pairs(64, seed=99), MARGIN)
    return model


def sink_pairs(n: int, seed: int, answers: tuple[int, int] = (SEEN, NOT_SEEN)) -> PairSet:
    """A single quote somewhere -> SEEN, a word in its place -> NOT_SEEN."""
    pairs = string_pairs(n, seed, answers=answers)
    tokens = pairs.tokens.clone()
    tokens[:, 1] = torch.where(pairs.tokens[:, 0] == SINGLE, FIRST_WORD, pairs.tokens[:, 0])
    return replace(pairs, tokens=tokens)
