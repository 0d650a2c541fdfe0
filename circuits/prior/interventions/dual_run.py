"""Dual run: a first run caches what chosen heads hand on, a second adds or subtracts a multiple of it."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuits.prior.arm import Arm, Intent, Learned, Setting
from circuits.prior.asking import Asks, Subject
from circuits.prior.cases import STATED, Case, Form
from circuits.prior.heads import Heads, drawn_heads, head_effects

N_HEADS = 5
"""Added and subtracted at most (source, section 4)."""


KINDS = (STATED, Form(n=2), Form(wording=1))


class DualRun(Arm):
    """z + a z_first in the best heads, z - a z_first in the worst, where answers are predicted; z_first is that of an untouched run of the same prompt.

    A head's score is its effect on the margin; only heads count whose mean effect has the same sign under every form that fitting cases
    have. Since one head can serve both sides, changing it changes what later heads see: the cache holds what it was before that.
    Opposite: best and worst change places. Control: as many other heads drawn by lot.

    Args:
        heads: of the model.
        alphas: a of each setting.
        kinds: forms under which heads are scored; those that a fitting case lacks are left out.

    Source: Li et al. 2025, JuICE, arXiv 2503.10996, section 4. Ours: scores by first-order effects, the forms.
    """

    name = "dual run"
    kind: ClassVar = "intervention"
    source: ClassVar[str] = "Li et al. 2025 (JuICE)"

    def __init__(
        self,
        heads: Heads,
        alphas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0),
        kinds: tuple[Form, ...] = KINDS,
    ) -> None:
        self.heads, self.kinds = heads, kinds
        self.settings = tuple({"alpha": alpha} for alpha in alphas)

    def learn(self, subject: Subject, cases: Sequence[Case]) -> Learned:
        kinds = [form for form in self.kinds if all(form in case.prompts for case in cases)]
        return {
            f"effects_{i}": head_effects(subject, self.heads, cases, form)["effects"] for i, form in enumerate(kinds)
        }

    @property
    def n_learning(self) -> int:
        return 2 * len(self.kinds)

    def signs(self, learned: Learned, intent: Intent, random: int | None) -> NDArray[np.float64]:
        """1 for the best heads, -1 for the worst, 0 for the others, `[n_heads]`."""
        means = np.stack([effects.mean(0) for effects in learned.values()])
        low, high, order = means.min(0), means.max(0), means.mean(0).argsort()
        best = [i for i in order[::-1] if low[i] > 0][:N_HEADS]
        worst = [i for i in order if high[i] < 0][:N_HEADS]
        if random is not None:
            drawn = drawn_heads(self.heads.n, [*best, *worst], random)
            best, worst = drawn[: len(best)], drawn[len(best) : len(best) + len(worst)]
        signs = np.zeros(self.heads.n)
        signs[best], signs[worst] = 1.0, -1.0
        return -signs if intent == "prior" else signs

    def logits(
        self, subject: Subject, asks: Asks, learned: Learned, setting: Setting, intent: Intent, random: int | None
    ) -> Tensor:
        rows, alpha = asks.rows(STATED), float(setting["alpha"] or 0)
        signs = torch.from_numpy(self.signs(learned, intent, random)).float()
        signs = signs.reshape(len(self.heads.layers), self.heads.n_head)
        touched = [layer for layer, row in enumerate(signs) if row.any()]
        if not touched:
            return subject.logits(rows)
        cache: dict[int, Tensor] = {}
        places = rows.places.to(subject.device)[:, :, None, None]

        def keep(z: Tensor, layer: int) -> Tensor:
            cache[layer] = z
            return z

        def add(z: Tensor, layer: int) -> Tensor:
            return z + places * alpha * signs[layer].to(z)[:, None] * cache[layer]

        subject.logits(rows, self.heads.hooks(keep, touched))
        return subject.logits(rows, self.heads.hooks(add, touched))
