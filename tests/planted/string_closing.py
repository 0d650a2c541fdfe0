"""A two-layer model with a string-closing circuit set by hand, among random weights that do not matter.

Layer 0's MLP turns the two kinds of quote into a detector channel (either quote) and a type channel (+ for one, - for
the other). One head of layer 1 has a constant query (a bias), the detector as key and the type as value, so it copies
the type of the quote to the last token; the unembedding reads it. The random weights use other residual channels, which
the answers' logits do not read. Same shape as the string-closing circuit found in Gao et al. 2025.

The logit difference of a pair is MARGIN by construction. Calibration multiplies it by 4 at most, so
- the whole circuit has loss log(1 + exp(-4 MARGIN)) = 0.049,
- without one kind of quote (or one side of anything) half the margin is left: log(1 + exp(-2 MARGIN)) = 0.201,
and at a target of 0.15 every node is needed.
"""

import torch
from torch import Tensor

from circuits.tasks.pairs import PairSet
from circuits.truth.graft import clear_head_
from circuits.truth.hosts import random_background_
from circuits.truth.pairs import pair_set
from sparsetrain.model import ModelConfig, Transformer

D_VOCAB, N_WORDS = 24, 16
EOT, SINGLE, DOUBLE, CLOSE_SINGLE, CLOSE_DOUBLE, NONSENSE_A, NONSENSE_B, FIRST_WORD = range(8)
MARGIN = 0.75

IS_SINGLE, IS_DOUBLE, DETECTOR, TYPE, ANSWER, LEVEL = range(6)  # residual channels; the others are distractors
NEURON_SINGLE, NEURON_DOUBLE = 3, 11
QK, V = 8, 9  # channels of head 2 (d_head 4)

NODES = {
    "blocks.0.mlp.hook_in": (IS_SINGLE, IS_DOUBLE),
    "blocks.0.mlp.hook_neuron": (NEURON_SINGLE, NEURON_DOUBLE),
    "blocks.0.mlp.hook_out": (DETECTOR, TYPE),
    "blocks.1.attn.hook_in": (DETECTOR, TYPE),
    "blocks.1.attn.hook_k": (QK,),
    "blocks.1.attn.hook_v": (V,),
    "blocks.1.attn.hook_out": (ANSWER,),
}
EDGES = {
    (f"blocks.0.mlp.hook_in:{IS_SINGLE}", f"blocks.0.mlp.hook_neuron:{NEURON_SINGLE}"),
    (f"blocks.0.mlp.hook_in:{IS_DOUBLE}", f"blocks.0.mlp.hook_neuron:{NEURON_DOUBLE}"),
    (f"blocks.0.mlp.hook_neuron:{NEURON_SINGLE}", f"blocks.0.mlp.hook_out:{DETECTOR}"),
    (f"blocks.0.mlp.hook_neuron:{NEURON_DOUBLE}", f"blocks.0.mlp.hook_out:{DETECTOR}"),
    (f"blocks.0.mlp.hook_neuron:{NEURON_SINGLE}", f"blocks.0.mlp.hook_out:{TYPE}"),
    (f"blocks.0.mlp.hook_neuron:{NEURON_DOUBLE}", f"blocks.0.mlp.hook_out:{TYPE}"),
    (f"blocks.1.attn.hook_in:{DETECTOR}", f"blocks.1.attn.hook_k:{QK}"),
    (f"blocks.1.attn.hook_in:{TYPE}", f"blocks.1.attn.hook_v:{V}"),
    (f"blocks.1.attn.hook_v:{V}", f"blocks.1.attn.hook_out:{ANSWER}"),
}


@torch.no_grad()
def string_closing_model(abs_topk: float = 0.5) -> Transformer:
    """The planted model; sinks on, AbsTopK keeps the fraction `abs_topk` at all eight kinds."""
    kinds = ("attn_in", "attn_q", "attn_k", "attn_v", "attn_out", "mlp_in", "mlp_neuron", "mlp_out")
    config = ModelConfig(
        d_vocab=D_VOCAB, n_layer=2, d_model=16, d_head=4, d_mlp=32, n_ctx=16, abs_topk=dict.fromkeys(kinds, abs_topk)
    )
    torch.manual_seed(0)
    model = Transformer(config).eval().requires_grad_(False)
    random_background_(model, n_reserved=LEVEL + 1)
    model.embed.weight[:, LEVEL] = 4  # keeps the norm's scale nearly the same for all tokens
    model.embed.weight[SINGLE, IS_SINGLE] = 2
    model.embed.weight[DOUBLE, IS_DOUBLE] = 2
    mlp, attn = model.blocks[0].mlp, model.blocks[1].attn
    for neuron, channel, sign in ((NEURON_SINGLE, IS_SINGLE, 1), (NEURON_DOUBLE, IS_DOUBLE, -1)):
        mlp.W_in.weight[neuron] = 0
        mlp.W_in.weight[neuron, channel] = 2
        mlp.W_out.weight[:, neuron] = 0
        mlp.W_out.weight[DETECTOR, neuron] = 0.5
        mlp.W_out.weight[TYPE, neuron] = 0.5 * sign
    clear_head_(attn, 2)
    attn.W_q.bias[QK] = 4
    attn.W_k.weight[QK, DETECTOR] = 4
    attn.W_v.weight[V, TYPE] = 1
    attn.W_o.weight[ANSWER, V] = 1
    model.unembed.weight[[CLOSE_SINGLE, CLOSE_DOUBLE, NONSENSE_A, NONSENSE_B]] = 0
    model.unembed.weight[CLOSE_SINGLE, ANSWER], model.unembed.weight[CLOSE_DOUBLE, ANSWER] = 1.0, -1.0
    set_margin_(model, string_pairs(64, seed=99), MARGIN)
    return model


@torch.no_grad()
def set_margin_(model: Transformer, pairs: PairSet, margin: float) -> None:
    """Scales the logits of the two answers so that their difference is `margin` on average over both sides."""
    logits = model(pairs.tokens.flatten(0, 1), pairs.last.flatten()).unflatten(0, (-1, 2))
    answers = pairs.answers[0].tolist()
    difference = logits[..., answers[0]] - logits[..., answers[1]]
    model.unembed.weight[answers] *= margin / float((difference[:, 0] - difference[:, 1]).mean() / 2)


def string_pairs(n: int, seed: int, answers: tuple[int, int] = (CLOSE_SINGLE, CLOSE_DOUBLE)) -> PairSet:
    """`word word ' word word` -> `'` against the same with `"`; all prompts of one length, quotes at varying places."""
    generator = torch.Generator().manual_seed(seed)
    side = torch.randint(FIRST_WORD, FIRST_WORD + N_WORDS, (n, 9), generator=generator)
    side[:, 0] = EOT
    tokens = side[:, None].repeat(1, 2, 1)
    place = torch.randint(1, 7, (n,), generator=generator)
    for s, quote in enumerate((SINGLE, DOUBLE)):
        tokens[torch.arange(n), s, place] = quote
    last = torch.full((n, 2), 8)
    return pair_set("planted_strings", seed, tokens, last, answers, ("f('x", "'"), ('f("x', '"'))


def text_windows(n: int, seed: int) -> Tensor:
    """Stands for pretraining text: words, now and then a quote of either kind, `[n, 16]` int64."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(FIRST_WORD, FIRST_WORD + N_WORDS, (n, 16), generator=generator)
    quotes = torch.randint(SINGLE, DOUBLE + 1, (n, 16), generator=generator)
    return torch.where(torch.rand(n, 16, generator=generator) < 0.1, quotes, tokens)
