"""The string-closing model with a second behaviour: its quote reader and detector serve two tasks.

Head 3 copies the type of the quote as head 2 does, to a channel that the logits of two other answers read. The circuits of
the tasks share layer 0 and what layer 1 reads of it; key, value and write channel are each task's own.
"""

import torch
from string_closing import ANSWER, CLOSE_DOUBLE, CLOSE_SINGLE, DETECTOR, NODES, QK, TYPE, V, string_closing_model

from circuits.truth.graft import clear_channel_
from sparsetrain.model import Transformer

SECOND_ANSWERS = (5, 6)  # the tokens that the first task does not use
ANSWER_2, QK_2, V_2 = 6, 12, 13
K, VALUE, WRITE = (f"blocks.1.attn.hook_{x}" for x in ("k", "v", "out"))
SECOND_NODES = NODES | {K: (QK_2,), VALUE: (V_2,), WRITE: (ANSWER_2,)}
SECOND_EDGES_OF_LAYER_1 = {
    (f"blocks.1.attn.hook_in:{DETECTOR}", f"{K}:{QK_2}"),
    (f"blocks.1.attn.hook_in:{TYPE}", f"{VALUE}:{V_2}"),
    (f"{VALUE}:{V_2}", f"{WRITE}:{ANSWER_2}"),
}


@torch.no_grad()
def two_task_model() -> Transformer:
    """The planted model; its margin is the same on both tasks."""
    model = string_closing_model()
    clear_channel_(model, ANSWER_2)
    attn = model.blocks[1].attn
    for linear in (attn.W_q, attn.W_k, attn.W_v):
        linear.weight[12:16] = linear.weight[8:12]
        linear.bias[12:16] = linear.bias[8:12]
    assert (QK_2, V_2) == (QK + 4, V + 4)
    attn.W_o.weight[:, 12:16] = 0
    attn.W_o.weight[ANSWER_2, V_2] = 1
    for token, model_for in zip(SECOND_ANSWERS, (CLOSE_SINGLE, CLOSE_DOUBLE), strict=True):
        model.unembed.weight[token, ANSWER_2] = model.unembed.weight[model_for, ANSWER]
    return model
