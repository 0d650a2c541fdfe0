"""Attention heads knocked out or made louder, chosen by their effect on fitting cases."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from circuits.prior.arm import Arm, Intent, Learned, Setting
from circuits.prior.asking import Asks, Subject
from circuits.prior.cases import STATED, Case
from circuits.prior.heads import Heads, drawn_heads, head_effects


class HeadScaling(Arm):
    """z times `memory` in the heads that move most towards memory, times `context` in those that move most towards the context; at all positions.

    Opposite: memory's heads get the factor of the context's and the other way round. Control: as many other heads drawn by lot.

    Args:
        heads: of the model.
        n: heads of each kind in the settings that take several; None: a twentieth of all, at least two. ours

    Source: Yu et al. 2023, section 6 (one head's value scaled); Jin et al. 2024, PH3 (memory's or context's heads pruned); Ortu et al. 2024.
    """

    name = "head scaling"
    kind: ClassVar = "intervention"
    source: ClassVar[str] = "Yu et al. 2023; Jin et al. 2024 (PH3)"

    def __init__(self, heads: Heads, n: int | None = None) -> None:
        n = max(2, heads.n // 20) if n is None else n
        self.heads = heads
        self.settings = (
            {"n": 1, "memory": 0.0, "context": 1.0},
            {"n": n, "memory": 0.0, "context": 1.0},
            {"n": n, "memory": 1.0, "context": 2.0},
            {"n": n, "memory": 0.0, "context": 2.0},
        )

    def learn(self, subject: Subject, cases: Sequence[Case]) -> Learned:
        return head_effects(subject, self.heads, cases, STATED)

    @property
    def n_learning(self) -> int:
        return 2

    def factors(self, learned: Learned, setting: Setting, intent: Intent, random: int | None) -> NDArray[np.float64]:
        """What every head is multiplied by, `[n_heads]`."""
        effects, n = learned["effects"].mean(0), int(setting["n"] or 0)
        towards_memory, towards_context = effects.argsort()[:n], effects.argsort()[::-1][:n]
        memory, context = towards_memory[effects[towards_memory] < 0], towards_context[effects[towards_context] > 0]
        if random is not None:
            drawn = drawn_heads(self.heads.n, [*memory, *context], random)
            memory, context = drawn[: len(memory)], drawn[len(memory) : len(memory) + len(context)]
        if intent == "prior":
            memory, context = context, memory
        factors = np.ones(self.heads.n)
        factors[memory], factors[context] = float(setting["memory"] or 0), float(setting["context"] or 0)
        return factors

    def logits(
        self, subject: Subject, asks: Asks, learned: Learned, setting: Setting, intent: Intent, random: int | None
    ) -> Tensor:
        return subject.logits(asks.rows(STATED), self.heads.scaled(self.factors(learned, setting, intent, random)))
