"""A model that looks up the type of a variable in two hops: a name travels to its value, and a query finds the name there.

Prompts hold two variables, each followed by its value, one a set and one a string: `a set ... b string ... a`. Hop 1, layer 0:
a head that attends to the token before (by concatenated positions) writes the name of the variable onto its value. Hop 2,
layer 1: the last token asks for its own name, the value with that name is attended to, and its type is copied to the
answer. Same idea as the variable-type circuit of Gao et al. 2025 (two heads there).

The query and key channels of hop 1 depend on the position alone: nodes without an edge into them.
"""

from dataclasses import replace
from math import cos, pi, sin

import torch
from string_closing import D_VOCAB, FIRST_WORD, N_WORDS, string_pairs
from torch import Tensor

from circuits.tasks.pairs import PairSet
from sparsetrain.model import ModelConfig, Transformer

SET, STRING, NAME_A, NAME_B, ADD, PLUS = 1, 2, 3, 4, 5, 6  # tokens
NAME, TYPE, COPIED, ANSWER, LEVEL = range(5)  # residual channels; the others are distractors
Q_COS, Q_SIN, V_0, Q_1, V_1 = 8, 9, 8, 12, 12
N_POS, MARGIN, ANGLE, SHARPNESS = 9, 0.75, 2 * pi / 16, 11.0

NODES = {
    "blocks.0.attn.hook_in": (NAME,),
    "blocks.0.attn.hook_q": (Q_COS, Q_SIN),
    "blocks.0.attn.hook_k": (Q_COS, Q_SIN),
    "blocks.0.attn.hook_v": (V_0,),
    "blocks.0.attn.hook_out": (COPIED,),
    "blocks.1.attn.hook_in": (NAME, TYPE, COPIED),
    "blocks.1.attn.hook_q": (Q_1,),
    "blocks.1.attn.hook_k": (Q_1,),
    "blocks.1.attn.hook_v": (V_1,),
    "blocks.1.attn.hook_out": (ANSWER,),
}
EDGES = {
    (f"blocks.0.attn.hook_in:{NAME}", f"blocks.0.attn.hook_v:{V_0}"),
    (f"blocks.0.attn.hook_v:{V_0}", f"blocks.0.attn.hook_out:{COPIED}"),
    (f"blocks.1.attn.hook_in:{NAME}", f"blocks.1.attn.hook_q:{Q_1}"),
    (f"blocks.1.attn.hook_in:{COPIED}", f"blocks.1.attn.hook_k:{Q_1}"),
    (f"blocks.1.attn.hook_in:{TYPE}", f"blocks.1.attn.hook_v:{V_1}"),
    (f"blocks.1.attn.hook_v:{V_1}", f"blocks.1.attn.hook_out:{ANSWER}"),
}


@torch.no_grad()
def two_hop_model() -> Transformer:
    """The planted model, with positions concatenated to what layers read; AbsTopK keeps half at all kinds."""
    kinds = ("attn_in", "attn_q", "attn_k", "attn_v", "attn_out", "mlp_in", "mlp_neuron", "mlp_out")
    config = ModelConfig(
        d_vocab=D_VOCAB,
        n_layer=2,
        d_model=16,
        d_head=4,
        d_mlp=32,
        n_ctx=16,
        positions="concat",
        d_pos=2,
        abs_topk=dict.fromkeys(kinds, 0.5),
    )
    torch.manual_seed(0)
    model = Transformer(config).eval().requires_grad_(False)
    distractor = torch.ones(16)
    distractor[: LEVEL + 1] = 0
    model.embed.weight.copy_(0.2 * torch.randn(D_VOCAB, 16) * distractor)
    model.embed.weight[:, LEVEL] = 4
    model.embed.weight[[NAME_A, NAME_B], NAME] = torch.tensor([2.0, -2.0])
    model.embed.weight[[SET, STRING], TYPE] = torch.tensor([2.0, -2.0])
    assert model.positions is not None
    model.positions.copy_(torch.tensor([[cos(ANGLE * p), sin(ANGLE * p)] for p in range(16)]))
    readers = torch.cat([distractor, torch.zeros(2)])
    for block in model.blocks:
        attn, mlp = block.attn, block.mlp
        for linear in (attn.W_q, attn.W_k, attn.W_v, mlp.W_in):
            some = torch.rand_like(linear.weight) < 0.3
            linear.weight.copy_(0.2 * torch.randn_like(linear.weight) * readers * some)
        for linear in (attn.W_o, mlp.W_out):
            some = distractor[:, None] * (torch.rand_like(linear.weight) < 0.3)
            linear.weight.copy_(0.2 * torch.randn_like(linear.weight) * some)
    first, second = model.blocks[0].attn, model.blocks[1].attn
    for attn in (first, second):
        for linear in (attn.W_q, attn.W_k, attn.W_v):
            linear.weight[8:] = 0
        attn.W_o.weight[:, 8:] = 0
    # The key says where it is, the query where the token before is: the angle turned back by one.
    first.W_k.weight[[Q_COS, Q_SIN], 16:] = SHARPNESS * torch.eye(2)
    back = torch.tensor([[cos(ANGLE), sin(ANGLE)], [-sin(ANGLE), cos(ANGLE)]])
    first.W_q.weight[[Q_COS, Q_SIN], 16:] = SHARPNESS * back
    first.W_v.weight[V_0, NAME] = 1
    first.W_o.weight[COPIED, V_0] = 1
    second.W_q.weight[Q_1, NAME] = 3
    second.W_k.weight[Q_1, COPIED] = 3
    second.W_v.weight[V_1, TYPE] = 1
    second.W_o.weight[ANSWER, V_1] = 1
    model.unembed.weight.copy_(torch.randn(D_VOCAB, 16) * distractor)
    model.unembed.weight[[ADD, PLUS, 0, 7]] = 0
    model.unembed.weight[ADD, ANSWER], model.unembed.weight[PLUS, ANSWER] = 1.0, -1.0
    pairs = two_hop_pairs(64, seed=99)
    logits = model(pairs.tokens.flatten(0, 1), pairs.last.flatten()).unflatten(0, (-1, 2))
    difference = logits[..., ADD] - logits[..., PLUS]
    model.unembed.weight[[ADD, PLUS]] *= MARGIN / float((difference[:, 0] - difference[:, 1]).mean() / 2)
    return model


def two_hop_pairs(n: int, seed: int, answers: tuple[int, int] = (ADD, PLUS)) -> PairSet:
    """`a set w b string w a` -> ADD against `a string w b set w a` -> PLUS; which name is asked for, and when, varies."""
    generator = torch.Generator().manual_seed(seed)
    side = torch.randint(FIRST_WORD + 1, FIRST_WORD + N_WORDS, (n, N_POS), generator=generator)
    side[:, 0] = 0
    rows = torch.arange(n)
    place_1 = torch.randint(1, 3, (n,), generator=generator)
    place_2 = torch.randint(4, 6, (n,), generator=generator)
    swapped = torch.rand(n, generator=generator) < 0.5
    asked_first = torch.rand(n, generator=generator) < 0.5
    name_1, name_2 = torch.where(swapped, NAME_B, NAME_A), torch.where(swapped, NAME_A, NAME_B)
    side[rows, place_1], side[rows, place_2] = name_1, name_2
    side[:, N_POS - 1] = torch.where(asked_first, name_1, name_2)
    tokens = side[:, None].repeat(1, 2, 1)
    for s, (own, other) in enumerate(((SET, STRING), (STRING, SET))):
        tokens[rows, s, place_1 + 1] = torch.where(asked_first, own, other)
        tokens[rows, s, place_2 + 1] = torch.where(asked_first, other, own)
    return replace(string_pairs(n, seed, answers=answers), task="planted_two_hop", tokens=tokens)


def two_hop_windows(n: int, seed: int) -> Tensor:
    """Text with names and values now and then, `[n, 16]` int64."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(FIRST_WORD + 1, FIRST_WORD + N_WORDS, (n, 16), generator=generator)
    special = torch.randint(SET, NAME_B + 1, (n, 16), generator=generator)
    return torch.where(torch.rand(n, 16, generator=generator) < 0.2, special, tokens)
