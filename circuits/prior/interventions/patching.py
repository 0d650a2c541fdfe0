"""Activation patching: the residual stream at one layer as it is in a run in which the context has its way."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.prior.arm import Arm, Intent, Learned, Setting
from circuits.prior.asking import Asks, Subject
from circuits.prior.cases import NOTHING, STATED, Form
from circuits.prior.interventions.direction import ONE_PLACE, spread
from sparsetrain.hooks import HookPoint

LOUDER = Form(n=4)


class Patching(Arm):
    """h + s (h_donor - h) where answers are predicted, h_donor from the same case in a form that says it louder.

    It reads more of the case than one statement: what it is worth is what it does beyond the donor's own prompt, which is among the prompt arms.

    Opposite: the donor is the prompt without a statement. Control: every case of a forward pass has another one's donor, place by place, each scaled
    to the size of its own difference (of one case alone: its own, turned round by one channel). Which case that is hangs on `batch_size`.

    Args:
        streams: hook points, see `Subject.streams`.
        donor: form of the donor; every case must have it.
        depths: shares of the way through the model at which it is tried.
        strengths: s; None: 1 and 2, or 1 to 4 where there is one place to try.

    Source: Vig et al. 2020; Meng et al. 2022, section 2 (causal tracing). Ours: the donor of the same case in another form.
    """

    name = "activation patching"
    kind: ClassVar = "intervention"
    source: ClassVar[str] = "Vig et al. 2020; Meng et al. 2022"

    def __init__(
        self,
        streams: Sequence[str],
        donor: Form = LOUDER,
        depths: tuple[float, ...] = (0.5, 0.75),
        strengths: tuple[float, ...] | None = None,
    ) -> None:
        self.donor, self.points = donor, spread(streams, depths)
        strengths = strengths or ((1.0, 2.0) if len(self.points) > 1 else ONE_PLACE)
        self.settings = tuple({"point": point, "strength": s} for point in self.points for s in strengths)

    @property
    def identity(self) -> str:
        return repr(self.donor)

    def forms(self, setting: Setting | None = None) -> tuple[Form, ...]:
        return STATED, NOTHING, self.donor

    def logits(
        self, subject: Subject, asks: Asks, learned: Learned, setting: Setting, intent: Intent, random: int | None
    ) -> Tensor:
        rows, point = asks.rows(STATED), str(setting["point"])
        donor = asks.rows(self.donor if intent == "context" else NOTHING)
        given = subject.seen(donor, [point])[point][donor.places.to(subject.device)]  # [place, width]
        own = subject.seen(rows, [point])[point][rows.places.to(subject.device)]
        difference = float(setting["strength"] or 0) * (given - own)
        if random is not None:
            order = of_others(asks.place_owner, random)
            other = difference.roll(1, -1) if order is None else difference[order.to(difference.device)]
            difference = other * (
                difference.norm(dim=-1, keepdim=True) / other.norm(dim=-1, keepdim=True).clamp_min(1e-12)
            )

        def put(h: Tensor, _: HookPoint) -> Tensor:
            changed = h.clone()
            changed[rows.places.to(h.device)] += difference.to(h)
            return changed

        return subject.logits(rows, {point: put})


def of_others(owner: NDArray[np.int64], seed: int) -> Tensor | None:
    """For every place one of another case, `[n_places]`: of the case that stands some drawn number of cases further on, the place of the same number.

    Args:
        owner: case of each place, `[n_places]`, ascending.
        seed: of the draw.

    Returns:
        Numbers of places; None: there is one case alone.
    """
    cases = np.unique(owner)
    n = len(cases)
    if n < 2:
        return None
    step = int(torch.randint(1, n, (), generator=torch.Generator().manual_seed(seed)))
    places = [np.flatnonzero(owner == case) for case in cases]
    chosen = np.empty(len(owner), dtype=np.int64)
    for i, own in enumerate(places):
        given = places[(i + step) % n]
        chosen[own] = given[np.arange(len(own)) % len(given)]
    return torch.from_numpy(chosen)
