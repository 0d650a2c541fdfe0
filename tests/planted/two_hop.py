"""A three-layer model that finds a variable's type in two hops, among random weights that do not matter.

In `a = set`, `b = ""`, `p = a`, `q = b`, `p` the last token's type stands where `a` was assigned, and that it is `a` stands
where `p` was assigned. Prompts hold both chains and the sides of a pair differ in which of `a`, `b` is the set: no single
token, and no single hop, tells them apart.

1. A head of layer 0 looks at the token before, by concatenated positions (a cosine and a sine), and notes beside each
   value which variable it was assigned to.
2. A head of layer 1 looks from the last token to where its variable was assigned, and copies which variable stands there.
3. A head of layer 2 looks from there to where that one was assigned, and copies the type.

A variable is the sign of a channel: `a` and `b` are + and - in one, `p` and `q` in another, so that query times key is
positive where they match, negative where they are the other, 0 (the sink's score) at all other tokens.
"""

from math import cos, pi, sin
from random import Random

import torch
from string_closing import MARGIN, set_margin_
from torch import Tensor

from circuits.tasks.pairs import PairSet
from circuits.truth.graft import clear_head_
from circuits.truth.hosts import random_background_
from circuits.truth.pairs import pair_set
from sparsetrain.hooks import NODE_KINDS
from sparsetrain.model import ModelConfig, Transformer

D_VOCAB, N_WORDS, N_CTX = 24, 15, 16
EOT, A, B, P, Q, SET, STRING, ADD, PLUS = range(9)
FIRST_WORD = D_VOCAB - N_WORDS

# residual channels; the others are distractors
IS_A_OR_B, IS_P_OR_Q, TYPE, TO_A_OR_B, TO_P_OR_Q, HOP, ANSWER, LEVEL = range(8)
HEADS = (1, 2, 3)  # of layers 0, 1, 2
COSINE, SINE = 4, 5  # q and k channels of the head of layer 0 (d_head 4)
V_A_OR_B, V_P_OR_Q = 6, 7
QK_1, V_1, QK_2, V_2 = 8, 9, 12, 13
NEARNESS = 10.0  # scores of the head of layer 0 are NEARNESS^2 cos(angle) / 2
MATCH = 2.5

NODES = {
    "blocks.0.attn.hook_in": (IS_A_OR_B, IS_P_OR_Q),
    "blocks.0.attn.hook_q": (COSINE, SINE),
    "blocks.0.attn.hook_k": (COSINE, SINE),
    "blocks.0.attn.hook_v": (V_A_OR_B, V_P_OR_Q),
    "blocks.0.attn.hook_out": (TO_A_OR_B, TO_P_OR_Q),
    "blocks.1.attn.hook_in": (IS_A_OR_B, IS_P_OR_Q, TO_P_OR_Q),
    "blocks.1.attn.hook_q": (QK_1,),
    "blocks.1.attn.hook_k": (QK_1,),
    "blocks.1.attn.hook_v": (V_1,),
    "blocks.1.attn.hook_out": (HOP,),
    "blocks.2.attn.hook_in": (TYPE, TO_A_OR_B, HOP),
    "blocks.2.attn.hook_q": (QK_2,),
    "blocks.2.attn.hook_k": (QK_2,),
    "blocks.2.attn.hook_v": (V_2,),
    "blocks.2.attn.hook_out": (ANSWER,),
}
EDGES = {
    (f"blocks.0.attn.hook_in:{IS_A_OR_B}", f"blocks.0.attn.hook_v:{V_A_OR_B}"),
    (f"blocks.0.attn.hook_in:{IS_P_OR_Q}", f"blocks.0.attn.hook_v:{V_P_OR_Q}"),
    (f"blocks.0.attn.hook_v:{V_A_OR_B}", f"blocks.0.attn.hook_out:{TO_A_OR_B}"),
    (f"blocks.0.attn.hook_v:{V_P_OR_Q}", f"blocks.0.attn.hook_out:{TO_P_OR_Q}"),
    (f"blocks.1.attn.hook_in:{IS_P_OR_Q}", f"blocks.1.attn.hook_q:{QK_1}"),
    (f"blocks.1.attn.hook_in:{TO_P_OR_Q}", f"blocks.1.attn.hook_k:{QK_1}"),
    (f"blocks.1.attn.hook_in:{IS_A_OR_B}", f"blocks.1.attn.hook_v:{V_1}"),
    (f"blocks.1.attn.hook_v:{V_1}", f"blocks.1.attn.hook_out:{HOP}"),
    (f"blocks.2.attn.hook_in:{HOP}", f"blocks.2.attn.hook_q:{QK_2}"),
    (f"blocks.2.attn.hook_in:{TO_A_OR_B}", f"blocks.2.attn.hook_k:{QK_2}"),
    (f"blocks.2.attn.hook_in:{TYPE}", f"blocks.2.attn.hook_v:{V_2}"),
    (f"blocks.2.attn.hook_v:{V_2}", f"blocks.2.attn.hook_out:{ANSWER}"),
}


@torch.no_grad()
def two_hop_model() -> Transformer:
    """The planted model; sinks on, positions concatenated, AbsTopK keeps half at all eight kinds."""
    config = ModelConfig(
        d_vocab=D_VOCAB,
        n_layer=3,
        d_model=20,
        d_head=4,
        d_mlp=32,
        n_ctx=N_CTX,
        positions="concat",
        d_pos=2,
        abs_topk=dict.fromkeys(NODE_KINDS, 0.5),
    )
    torch.manual_seed(2)
    model = Transformer(config).eval().requires_grad_(False)
    random_background_(model, n_reserved=LEVEL + 1)
    model.embed.weight[:, LEVEL] = 4  # keeps the norm's scale nearly the same for all tokens
    for plus, minus, channel in ((A, B, IS_A_OR_B), (P, Q, IS_P_OR_Q), (SET, STRING, TYPE)):
        model.embed.weight[plus, channel], model.embed.weight[minus, channel] = 2, -2
    angle = 2 * pi / N_CTX
    assert model.positions is not None
    model.positions.copy_(torch.tensor([[cos(angle * i), sin(angle * i)] for i in range(N_CTX)]))
    before, first, second = (block.attn for block in model.blocks)
    for attn, head in zip((before, first, second), HEADS, strict=True):
        clear_head_(attn, head)

    before.W_q.weight[[COSINE, SINE], -2:] = NEARNESS * torch.eye(2)
    # turned by one position: the score of query i and key j falls with the distance of j + 1 from i
    turn = torch.tensor([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    before.W_k.weight[[COSINE, SINE], -2:] = NEARNESS * turn
    for v, reads, writes in ((V_A_OR_B, IS_A_OR_B, TO_A_OR_B), (V_P_OR_Q, IS_P_OR_Q, TO_P_OR_Q)):
        before.W_v.weight[v, reads] = 1
        before.W_o.weight[writes, v] = 1
    for attn, qk, v, query, key, value, writes in (
        (first, QK_1, V_1, IS_P_OR_Q, TO_P_OR_Q, IS_A_OR_B, HOP),
        (second, QK_2, V_2, HOP, TO_A_OR_B, TYPE, ANSWER),
    ):
        attn.W_q.weight[qk, query] = MATCH
        attn.W_k.weight[qk, key] = MATCH
        attn.W_v.weight[v, value] = 1
        attn.W_o.weight[writes, v] = 1
    model.unembed.weight[[ADD, PLUS]] = 0
    model.unembed.weight[ADD, ANSWER], model.unembed.weight[PLUS, ANSWER] = 1.0, -1.0
    set_margin_(model, two_hop_pairs(64, seed=99), MARGIN)
    return model


def two_hop_pairs(n: int, seed: int, answers: tuple[int, int] = (ADD, PLUS)) -> PairSet:
    """The last variable leads to a set -> ADD, to a string -> PLUS; the other chain ends in the other type.

    By lot: which of p, q comes last, which of them was assigned a, the order of the assignments, words between them.
    """
    rng = Random(seed)
    tokens = torch.full((n, 2, N_CTX), EOT)
    n_gaps = N_CTX - 2 - 8  # words; four assignments of two tokens, the separator and the last variable
    for i in range(n):
        asked, sources = rng.choice((P, Q)), rng.sample((A, B), 2)
        wanted = sources[asked == Q]
        chains = [[P, sources[0]], [Q, sources[1]]]
        order, cuts = rng.sample((A, B), 2), sorted(rng.randint(0, n_gaps) for _ in range(4))
        rng.shuffle(chains)
        words = [rng.randrange(FIRST_WORD, D_VOCAB) for _ in range(n_gaps)]
        for s, (right, other) in enumerate(((SET, STRING), (STRING, SET))):
            lines = [[name, right if name == wanted else other] for name in order] + chains
            line = [EOT]
            for start, end, assignment in zip([0, *cuts[:-1]], cuts, lines, strict=True):
                line += words[start:end] + assignment
            tokens[i, s] = torch.tensor([*line, *words[cuts[-1] :], asked])
    last = torch.full((n, 2), N_CTX - 1)
    positive, negative = ('a = set()\nb = ""\np = a\np', ".add"), ('a = ""\nb = set()\np = a\np', " +=")
    return pair_set("planted_two_hop", seed, tokens, last, answers, positive, negative)


def two_hop_windows(n: int, seed: int) -> Tensor:
    """Stands for pretraining text: words, now and then a variable or a type, `[n, 16]` int64."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(FIRST_WORD, D_VOCAB, (n, N_CTX), generator=generator)
    others = torch.randint(A, STRING + 1, (n, N_CTX), generator=generator)
    return torch.where(torch.rand(n, N_CTX, generator=generator) < 0.4, others, tokens)
