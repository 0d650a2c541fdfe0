"""One direction at one layer that says whom to believe: its coordinate is set, everything else stays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.prior.arm import Arm, Intent, Learned, Setting
from circuits.prior.asking import Asks, Subject, over
from circuits.prior.cases import NOTHING, STATED, Case, Form
from sparsetrain.hooks import HookPoint
from sparsetrain.representation.items import Arrays


@dataclass(frozen=True, kw_only=True)
class Direction:
    """Learned at one place.

    Args:
        u: unit vector `[width]`.
        context: mean of u . h on prompts of that intent.
        prior: likewise.
    """

    u: NDArray[np.float64]
    context: float
    prior: float

    def value(self, intent: Intent, reach: float) -> float:
        """v: as far from the middle as the mean of that intent, times `reach`."""
        middle, half = (self.context + self.prior) / 2, (self.context - self.prior) / 2
        return middle + reach * (half if intent == "context" else -half)


INTENTS = (Form(trust=0), Form(distrust=0))
"""Opposite intents: believe the prompt, answer from memory."""


ONE_PLACE = (1.0, 2.0, 3.0, 4.0)
"""Reaches, or strengths, where a model has one place to try: as many settings as any arm."""


class OneDirection(Arm):
    """h + (v - u . h) u where answers are predicted, in the residual stream in front of one block.

    u is the mean difference of h at the end of the prompt between pairs of opposite intent: the same conflict behind a sentence that asks to
    believe the prompt, and behind one that asks to answer from memory. Opposite: v of the other intent. Control: a unit vector drawn by lot,
    moved along by as much as u would be.

    Args:
        streams: hook points, see `Subject.streams`.
        pair: forms of context intent and of memory intent; every fitting case must have them.
        depths: shares of the way through the model at which it is tried.
        reaches: v in units of the half difference of both intents; 1: the mean of the intended one. None: 1 and 3,
            or 1 to 4 where there is one place to try.

    Source: Minder et al. 2025, Controllable context sensitivity and the knob behind it, section 5. Ours: u by difference of means instead of
        gradient descent, so that it costs two reads of each fitting case.
    """

    name = "one direction"
    kind: ClassVar = "intervention"
    source: ClassVar[str] = "Minder et al. 2025"

    def __init__(
        self,
        streams: Sequence[str],
        pair: tuple[Form, Form] = INTENTS,
        depths: tuple[float, ...] = (0.5, 0.75),
        reaches: tuple[float, ...] | None = None,
    ) -> None:
        self.pair = pair
        self.points = spread(streams, depths)
        reaches = reaches or ((1.0, 3.0) if len(self.points) > 1 else ONE_PLACE)
        self.settings = tuple({"point": point, "reach": reach} for point in self.points for reach in reaches)

    def forms(self, setting: Setting | None = None) -> tuple[Form, ...]:
        return (STATED, NOTHING) if setting is not None else (STATED, NOTHING, *self.pair)

    def learn(self, subject: Subject, cases: Sequence[Case]) -> Learned:
        def read(numbers: Sequence[int]) -> Arrays:
            asks, found = Asks([cases[i] for i in numbers]), dict[str, NDArray[np.float64]]()
            for intent, form in zip(("context", "prior"), self.pair, strict=True):
                rows = asks.rows(form)
                first = torch.tensor([rows.owner.tolist().index(i) for i in range(len(numbers))])
                ends = rows.prompt_ends[first]
                for point, h in subject.seen(rows, self.points).items():
                    found[f"{intent}|{point}"] = h[first.to(h.device), ends.to(h.device)].double().cpu().numpy()
            return found

        return over(cases, read, subject.batch_size)

    @property
    def n_learning(self) -> int:
        return 2

    def direction(self, learned: Learned, point: str) -> Direction:
        """What was learned at a hook point."""
        stated, known = learned[f"context|{point}"], learned[f"prior|{point}"]
        difference = (stated - known).mean(0)
        u = difference / max(float(np.linalg.norm(difference)), 1e-12)
        return Direction(u=u, context=float((stated @ u).mean()), prior=float((known @ u).mean()))

    def logits(
        self, subject: Subject, asks: Asks, learned: Learned, setting: Setting, intent: Intent, random: int | None
    ) -> Tensor:
        rows, point = asks.rows(STATED), str(setting["point"])
        found = self.direction(learned, point)
        u, v = torch.from_numpy(found.u).float(), found.value(intent, float(setting["reach"] or 0))
        along = u if random is None else drawn_direction(len(u), random)
        places = rows.places.to(subject.device)

        def move(h: Tensor, _: HookPoint) -> Tensor:
            moved = h + (v - h @ u.to(h))[..., None] * along.to(h)
            return torch.where(places[..., None], moved, h)

        return subject.logits(rows, {point: move})


def drawn_direction(width: int, seed: int) -> Tensor:
    """A unit vector drawn by lot, `[width]` float32."""
    drawn = torch.randn(width, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm()


def spread(streams: Sequence[str], depths: Sequence[float]) -> tuple[str, ...]:
    """Hook points at shares of the way through the model, each once: in front of blocks behind the first.

    The embedding, and the stream behind the last block, where everything is decided, are among them only where there is nothing else.
    """
    inner = list(streams[1:-1]) or list(streams[1:]) or list(streams)
    return tuple(dict.fromkeys(inner[round(depth * (len(inner) - 1))] for depth in depths))
