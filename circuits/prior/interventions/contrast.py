"""Contrastive decoding: what the context changes in the logits is taken once more."""

from typing import ClassVar

from torch import Tensor

from circuits.prior.arm import Arm, Intent, Learned, Setting
from circuits.prior.asking import Asks, Subject
from circuits.prior.cases import IRRELEVANT, NOTHING, STATED, Form


class Contrast(Arm):
    """(1 + a) logits(with the statement) - a logits(without).

    Opposite: the two change places. Control: a times what an irrelevant statement changes is added.

    Args:
        alphas: a of each setting; the source uses .5 and 1.

    Source: Shi et al. 2023, Trusting your evidence: context-aware decoding, equation 2.
    """

    name = "contrastive decoding"
    kind: ClassVar = "intervention"
    source: ClassVar[str] = "Shi et al. 2023 (CAD)"

    def __init__(self, alphas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)) -> None:
        self.settings = tuple({"alpha": alpha} for alpha in alphas)

    @property
    def control_forms(self) -> tuple[Form, ...]:
        return (IRRELEVANT,)

    def logits(
        self, subject: Subject, asks: Asks, learned: Learned, setting: Setting, intent: Intent, random: int | None
    ) -> Tensor:
        alpha = float(setting["alpha"] or 0)
        stated, without = (subject.logits(asks.rows(form)) for form in (STATED, NOTHING))
        if random is not None:
            return stated + alpha * (subject.logits(asks.rows(IRRELEVANT)) - without)
        if intent == "prior":
            return without + alpha * (without - stated)
        return stated + alpha * (stated - without)
