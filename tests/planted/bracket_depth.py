"""A two-layer model that counts how deeply brackets are nested, among random weights and a counter of another kind.

One head of layer 0 has no query and no key: it looks at all tokens alike, its sink taking one share more. Its value is +
at an opening and - at a closing square bracket, so that it writes depth / (tokens + 1). A neuron of layer 1 compares this
with a threshold (its bias) between one level and two, and writes the answer. Longer prompts dilute the depth, as in the
nesting-depth circuit found in Gao et al. 2025; the lengths here leave room for one threshold.

A second head and a second neuron count round brackets in the same way, for two other answers. Prompts hold both kinds of
brackets, drawn by lot, so a circuit that reads the round ones, or openings or closings alone, misses the target.
"""

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

D_VOCAB, N_WORDS = 24, 15
EOT, OPEN, CLOSE, ROUND_OPEN, ROUND_CLOSE, ONE_MORE, END, ROUND_ONE_MORE, ROUND_END = range(9)
FIRST_WORD = D_VOCAB - N_WORDS

IS_OPEN, IS_CLOSE, IS_ROUND, DEPTH, ROUND_DEPTH, ANSWER, ROUND_ANSWER, LEVEL = range(8)  # residual channels
HEAD, ROUND_HEAD, V, ROUND_V = 1, 2, 4, 8  # d_head 4
NEURON, ROUND_NEURON = 5, 20
VALUE = 4.0  # times 2 / rms = 1.8: what an opening bracket is worth
THRESHOLD = 0.65  # between 1 x 7.2 / 14 and 2 x 7.2 / 16
STEEPNESS = 16.0

NODES = {
    "blocks.0.attn.hook_in": (IS_OPEN, IS_CLOSE),
    "blocks.0.attn.hook_v": (V,),
    "blocks.0.attn.hook_out": (DEPTH,),
    "blocks.1.mlp.hook_in": (DEPTH,),
    "blocks.1.mlp.hook_neuron": (NEURON,),
    "blocks.1.mlp.hook_out": (ANSWER,),
}
EDGES = {
    (f"blocks.0.attn.hook_in:{IS_OPEN}", f"blocks.0.attn.hook_v:{V}"),
    (f"blocks.0.attn.hook_in:{IS_CLOSE}", f"blocks.0.attn.hook_v:{V}"),
    (f"blocks.0.attn.hook_v:{V}", f"blocks.0.attn.hook_out:{DEPTH}"),
    (f"blocks.1.mlp.hook_in:{DEPTH}", f"blocks.1.mlp.hook_neuron:{NEURON}"),
    (f"blocks.1.mlp.hook_neuron:{NEURON}", f"blocks.1.mlp.hook_out:{ANSWER}"),
}


@torch.no_grad()
def bracket_model() -> Transformer:
    """The planted model; sinks on, AbsTopK keeps half at all eight kinds."""
    config = ModelConfig(
        d_vocab=D_VOCAB, n_layer=2, d_model=16, d_head=4, d_mlp=32, n_ctx=16, abs_topk=dict.fromkeys(NODE_KINDS, 0.5)
    )
    torch.manual_seed(1)
    model = Transformer(config).eval().requires_grad_(False)
    random_background_(model, n_reserved=LEVEL + 1)
    model.embed.weight[:, LEVEL] = 4  # keeps the norm's scale nearly the same for all tokens
    for token, channel, sign in (
        (OPEN, IS_OPEN, 1),
        (CLOSE, IS_CLOSE, 1),
        (ROUND_OPEN, IS_ROUND, 1),
        (ROUND_CLOSE, IS_ROUND, -1),
    ):
        model.embed.weight[token, channel] = 2 * sign
    attn, mlp = model.blocks[0].attn, model.blocks[1].mlp
    for head, v, reads, writes in (
        (HEAD, V, {IS_OPEN: 1, IS_CLOSE: -1}, DEPTH),
        (ROUND_HEAD, ROUND_V, {IS_ROUND: 1}, ROUND_DEPTH),
    ):
        clear_head_(attn, head)
        for channel, sign in reads.items():
            attn.W_v.weight[v, channel] = VALUE * sign
        attn.W_o.weight[writes, v] = 1
    for neuron, reads, writes, answers in (
        (NEURON, DEPTH, ANSWER, (ONE_MORE, END)),
        (ROUND_NEURON, ROUND_DEPTH, ROUND_ANSWER, (ROUND_ONE_MORE, ROUND_END)),
    ):
        mlp.W_in.weight[neuron] = 0
        mlp.W_in.weight[neuron, reads] = STEEPNESS
        mlp.W_in.bias[neuron] = -STEEPNESS * THRESHOLD
        mlp.W_out.weight[:, neuron] = 0
        mlp.W_out.weight[writes, neuron] = 0.3  # small beside LEVEL, so that the final norm's scale hardly moves
        model.unembed.weight[answers[0]], model.unembed.weight[answers[1]] = 0, 0
        model.unembed.weight[answers[0], writes], model.unembed.weight[answers[1], writes] = 1.0, -1.0
    set_margin_(model, bracket_pairs(64, seed=99), MARGIN)
    return model


def bracket_pairs(n: int, seed: int, answers: tuple[int, int] = (ONE_MORE, END)) -> PairSet:
    """Two square brackets open -> ONE_MORE, one open -> END.

    In every other pair the sides differ in an opening bracket, in the rest in a closing one; zero to two more groups are
    opened and closed before. Zero to two round brackets are open, the same on both sides.
    """
    rng = Random(seed)
    tokens, last = torch.full((n, 2, 15), EOT), torch.zeros(n, 2, dtype=torch.int64)
    for i in range(n):
        differs = (OPEN, CLOSE)[i % 2]
        length = rng.randint(12, 14)
        words = [rng.randrange(FIRST_WORD, D_VOCAB) for _ in range(length)]
        groups = [OPEN, CLOSE] * rng.randrange(3)
        if differs == OPEN:
            sides = ([*groups, OPEN, OPEN], [*groups, OPEN, words[0]])
        else:
            sides = ([*groups, OPEN, OPEN, words[0]], [*groups, OPEN, OPEN, CLOSE])
        n_round = rng.randrange(3)
        rounds = [ROUND_OPEN] * n_round + [ROUND_CLOSE] * rng.randrange(n_round + 1)
        n_brackets = len(sides[0]) + len(rounds)
        places = rng.sample(range(length - 1), n_brackets)
        for s, side in enumerate(sides):
            line = words.copy()
            for some, brackets in ((places[: len(side)], side), (places[len(side) :], rounds)):
                for place, bracket in zip(sorted(some), brackets, strict=True):
                    line[place] = bracket
            tokens[i, s, 1 : length + 1] = torch.tensor(line)
        last[i] = length
    return pair_set("planted_brackets", seed, tokens, last, answers, ("v = [[4, 7", "]]"), ("v = [4, 7", "]"))


def bracket_windows(n: int, seed: int) -> Tensor:
    """Stands for pretraining text: words, now and then a bracket of either kind, `[n, 16]` int64."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(FIRST_WORD, D_VOCAB, (n, 16), generator=generator)
    brackets = torch.randint(OPEN, ROUND_CLOSE + 1, (n, 16), generator=generator)
    return torch.where(torch.rand(n, 16, generator=generator) < 0.3, brackets, tokens)
