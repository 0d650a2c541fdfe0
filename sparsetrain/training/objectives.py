"""What a training minimises: a function of the model and a batch, in nats/token."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from sparsetrain.model import Transformer
from sparsetrain.optim import OptimConfig


class Objective(Protocol):
    """Maps a batch to a scalar loss in nats/token."""

    def __call__(self, model: Transformer, batch: Mapping[str, Tensor]) -> Tensor: ...


@runtime_checkable
class LearningObjective(Protocol):
    """An objective with weights of its own, which are trained beside the model's.

    They are dense: no sparsity method sees them, and the density raises no learning rate of theirs. Their gradient is scaled by itself, so
    that the model's step is what it is without them. They ride in the checkpoint.
    """

    beside: nn.Module
    """Holds them; trained in place."""
    optim: OptimConfig
    """How; shape and length of the schedule are the training's."""
    terms: Mapping[str, Tensor]
    """Parts of the last loss by name, detached scalars, to be logged."""

    def __call__(self, model: Transformer, batch: Mapping[str, Tensor]) -> Tensor: ...


def next_token_loss(model: Transformer, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean cross-entropy of each next token, nats/token; `batch["tokens"]` is `[batch, n_ctx + 1]` int64."""
    tokens = batch["tokens"]
    logits = model(tokens[:, :-1])
    return F.cross_entropy(rearrange(logits, "b p v -> (b p) v"), rearrange(tokens[:, 1:], "b p -> (b p)"))


def answer_loss(model: Transformer, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean cross-entropy of the last token of each row alone, nats; `batch["tokens"]` is `[batch, length]` int64."""
    tokens = batch["tokens"]
    at = torch.full((len(tokens),), tokens.shape[1] - 2, device=tokens.device)
    return F.cross_entropy(model(tokens[:, :-1], at=at), tokens[:, -1])


def answers_loss(every: int) -> Objective:
    """Mean cross-entropy of the last token of each group of `every` tokens, nats: rows of pairs that each end in an answer.

    `batch["tokens"]` is `[batch, n_pairs * every]` int64.
    """

    def loss(model: Transformer, batch: Mapping[str, Tensor]) -> Tensor:
        tokens = batch["tokens"]
        logits = model(tokens[:, :-1])[:, every - 2 :: every]
        return F.cross_entropy(
            rearrange(logits, "b n v -> (b n) v"), rearrange(tokens[:, every - 1 :: every], "b n -> (b n)")
        )

    return loss


def asked_loss(every: int) -> Objective:
    """Mean cross-entropy of the last token of those groups of `every` tokens that are asked, nats: rows of groups behind a first token, behind
    them 1 for every group that is asked and 0 for the others.

    `batch["tokens"]` is `[batch, 1 + n_groups * every + n_groups]` int64.
    """

    def loss(model: Transformer, batch: Mapping[str, Tensor]) -> Tensor:
        n = (batch["tokens"].shape[1] - 1) // (every + 1)
        tokens, asked = batch["tokens"][:, :-n], batch["tokens"][:, -n:].bool()
        logits, answers = model(tokens[:, :-1])[:, every - 1 :: every], tokens[:, every::every]
        return F.cross_entropy(logits[asked], answers[asked])

    return loss
