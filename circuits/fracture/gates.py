"""The matching gate: only models with the same outputs are compared inside.

Two models match if, on inputs of training and on held-out ones, KL < 1e-3 nats per answer token and the most probable token is the same for
more than 99.5% of the inputs. Of KL(a || b) and KL(b || a) the larger one counts, so that the order of a pair does not.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from circuits.fracture.distil import answer_logits
from sparsetrain.model import Transformer
from sparsetrain.representation.evaluate import evaluating

MAX_KL = 1e-3
"""Nats per answer token."""
MIN_AGREEMENT = 0.995
"""Share of inputs."""
BATCH_SIZE = 1024
"""Inputs of a forward pass. ours"""


@dataclass(frozen=True, kw_only=True)
class Match:
    """How far the outputs of two models are the same on one split."""

    kl: float
    """Nats per answer token, the larger one of both directions."""
    agreement: float
    """Share of inputs with the same most probable token."""
    n: int
    """Inputs."""

    @property
    def passes(self) -> bool:
        """Whether both bounds are kept; what is not a number keeps none."""
        return self.kl < MAX_KL and self.agreement > MIN_AGREEMENT

    def __str__(self) -> str:
        return f"KL {self.kl:.3g} nats/token, agreement {self.agreement:.2%} (n={self.n})"


@dataclass(frozen=True, kw_only=True)
class Matching:
    """Two models on both splits."""

    a: str
    b: str
    """Their names."""
    train: Match
    heldout: Match

    @property
    def passes(self) -> bool:
        return self.train.passes and self.heldout.passes

    @property
    def splits(self) -> tuple[tuple[Literal["train", "held out"], Match], ...]:
        """Both, by name."""
        return ("train", self.train), ("held out", self.heldout)

    def __str__(self) -> str:
        return f"train: {self.train}; held out: {self.heldout}"


@torch.no_grad()
def match(a: Transformer, b: Transformer, rows: Tensor) -> Match:
    """Two models on the same prompts.

    Args:
        a: a model.
        b: another of its vocabulary, on its device.
        rows: `[n, length]` int64; the last token is the answer, which is not looked at.

    Raises:
        ValueError: no rows.
    """
    if not len(rows):
        raise ValueError("no rows to match two models on; give at least one")
    forth = back = same = 0.0
    with evaluating(a), evaluating(b):
        for batch in rows.split(BATCH_SIZE):
            p, q = (answer_logits(model, batch[:, :-1]).double().log_softmax(-1) for model in (a, b))
            forth += float((p.exp() * (p - q)).sum())
            back += float((q.exp() * (q - p)).sum())
            same += float((p.argmax(-1) == q.argmax(-1)).sum())
    n = len(rows)
    # max() would drop one that is not a number, or not, by its place
    kl = float(torch.tensor([forth, back], dtype=torch.float64).max()) / n
    return Match(kl=kl, agreement=same / n, n=n)


def match_pair(names: tuple[str, str], a: Transformer, b: Transformer, train: Tensor, heldout: Tensor) -> Matching:
    """Two models on inputs of training and on held-out ones, `[n, length]` int64 each."""
    return Matching(a=names[0], b=names[1], train=match(a, b, train), heldout=match(a, b, heldout))


def require_match(matching: Matching) -> None:
    """Refuses a pair that misses the gate.

    Raises:
        ValueError: with KL and agreement on both splits, and the bounds.
    """
    if not matching.passes:
        raise ValueError(
            f"{matching.a} and {matching.b} do not have the same outputs and are not compared: {matching}; both splits need KL below {MAX_KL:g} "
            f"and agreement above {MIN_AGREEMENT:.1%}: distil longer or compare other models"
        )
