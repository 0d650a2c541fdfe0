"""What a training minimises, against cross-entropy written out place by place."""

from typing import Any

import pytest
import torch
from torch import nn

from sparsetrain.training.objectives import asked_loss

EVERY, N, D_VOCAB = 3, 4, 11


def batch() -> dict[str, torch.Tensor]:
    """Five rows of a first token, four groups of three, and which of them are asked: none in the second row."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(D_VOCAB, (5, 1 + N * EVERY), generator=generator)
    asked = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0], [0, 1, 0, 1]])
    return {"tokens": torch.cat([tokens, asked], 1)}


class Table(nn.Module):
    """Logits that are parameters, whatever is read."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.logits = nn.Parameter(torch.randn(5, N * EVERY, D_VOCAB, generator=generator))
        self.read = torch.empty(0)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.read = tokens
        return self.logits


def test_asked_loss_by_hand():
    model: Any = Table()
    rows = batch()["tokens"]
    tokens, asked = rows[:, : 1 + N * EVERY], rows[:, 1 + N * EVERY :]
    losses = [
        -model.logits[row, place * EVERY + 2].log_softmax(-1)[tokens[row, place * EVERY + 3]].item()
        for row in range(5)
        for place in range(N)
        if asked[row, place]
    ]
    assert len(losses) == 9
    assert asked_loss(EVERY)(model, batch()).item() == pytest.approx(sum(losses) / 9, rel=1e-6)
    assert torch.equal(model.read, tokens[:, :-1]), "the model reads neither the last answer nor what is asked"


def test_asked_loss_of_a_transformer(make_model):
    model, rows = make_model(d_vocab=D_VOCAB), batch()["tokens"]
    tokens, asked = rows[:, : 1 + N * EVERY], rows[:, 1 + N * EVERY :].bool()
    log_p = model(tokens[:, :-1]).log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    expected = -log_p[:, EVERY - 1 :: EVERY][asked].mean()
    assert asked_loss(EVERY)(model, batch()).item() == pytest.approx(expected.item(), rel=1e-6)


def test_what_is_not_asked_teaches_nothing():
    """Another answer where nothing is asked changes neither the loss nor its gradient; one that is asked does."""

    def gradient(rows: torch.Tensor) -> tuple[float, torch.Tensor]:
        model: Any = Table()
        loss = asked_loss(EVERY)(model, {"tokens": rows})
        return loss.item(), torch.autograd.grad(loss, model.logits)[0]

    rows = batch()["tokens"]
    loss, grad = gradient(rows)
    asked = rows[:, 1 + N * EVERY :].bool()
    assert torch.equal(grad.abs().sum(-1)[:, EVERY - 1 :: EVERY] > 0, asked)
    others = torch.ones(N * EVERY, dtype=torch.bool)
    others[EVERY - 1 :: EVERY] = False
    assert not grad[:, others].any()
    for row in range(5):
        for place in range(N):
            changed = rows.clone()
            at = (row, (place + 1) * EVERY)
            changed[at] = (changed[at] + 1) % D_VOCAB
            same = gradient(changed)
            assert (same[0] == loss and torch.equal(same[1], grad)) != bool(asked[row, place])
