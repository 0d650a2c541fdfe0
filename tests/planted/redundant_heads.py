"""The string-closing model with two heads that copy the quote's type, either of which is enough.

Head 3 is a copy of head 2. One alone gives the margin of the original, so a minimal circuit holds the key and value
channel of one head and no more: there are two of them, which share all other nodes.
"""

import torch
from string_closing import ANSWER, DETECTOR, NODES, QK, TYPE, V, string_closing_model

from sparsetrain.model import Transformer

COPY = 4  # channels from head 2 to head 3
K, VALUE = "blocks.1.attn.hook_k", "blocks.1.attn.hook_v"
MINIMAL = (NODES, NODES | {K: (QK + COPY,), VALUE: (V + COPY,)})


def edges_of(head: int) -> set[tuple[str, str]]:
    """What joins the nodes of layer 1 in the minimal circuit `MINIMAL[head]`."""
    k, v = f"{K}:{QK + COPY * head}", f"{VALUE}:{V + COPY * head}"
    read, write = "blocks.1.attn.hook_in", "blocks.1.attn.hook_out"
    return {(f"{read}:{DETECTOR}", k), (f"{read}:{TYPE}", v), (v, f"{write}:{ANSWER}")}


@torch.no_grad()
def redundant_model() -> Transformer:
    """The planted model."""
    model = string_closing_model()
    attn = model.blocks[1].attn
    for linear in (attn.W_q, attn.W_k, attn.W_v):
        linear.weight[12:16] = linear.weight[8:12]
        linear.bias[12:16] = linear.bias[8:12]
    attn.W_o.weight[:, 12:16] = attn.W_o.weight[:, 8:12]
    return model
