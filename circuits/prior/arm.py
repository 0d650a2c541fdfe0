"""What can be done to turn an answer: the interface that prompts and interventions share.

An arm has settings, all tried on the same fitting cases; some also learn from these cases (which heads, which direction), which is an array
per case. Whoever learns never sees an evaluation case.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from torch import Tensor

from circuits.prior.asking import Apply, Asks, Subject
from circuits.prior.cases import NOTHING, STATED, Case, Form
from sparsetrain.representation.items import Arrays

Kind = Literal["prompt", "intervention"]
Intent = Literal["context", "prior"]
"""What is to win: the prompt, or (the opposite, a control) memory."""
Setting = Mapping[str, float | int | str | None]
Learned = Arrays
"""What an arm learned of the fitting cases: name -> `[n_fit, ...]`."""


class Arm(ABC):
    """One way to turn answers.

    Attributes:
        name: as reports show it.
        kind: prompt or intervention.
        source: where it comes from.
        settings: tried on fitting cases, as many as any other arm has.
    """

    name: str
    kind: ClassVar[Kind]
    source: ClassVar[str]
    settings: tuple[Setting, ...]

    def forms(self, setting: Setting | None = None) -> tuple[Form, ...]:
        """Forms of prompt that it reads, in a setting or in any."""
        return (STATED, NOTHING)

    @property
    def control_forms(self) -> tuple[Form, ...]:
        """Forms that its control reads in the place of something drawn by lot; without them it has no control."""
        return ()

    def learn(self, subject: Subject, cases: Sequence[Case]) -> Learned:
        """Whatever settings rest on, from fitting cases alone."""
        return {}

    @property
    def identity(self) -> str:
        """What its answers depend on besides setting and what was learned, for naming what is kept."""
        return ""

    @property
    def n_learning(self) -> int:
        """How often `learn` reads each fitting case, backward passes counted as another one."""
        return 0

    @abstractmethod
    def logits(
        self, subject: Subject, asks: Asks, learned: Learned, setting: Setting, intent: Intent, random: int | None
    ) -> Tensor:
        """Logits at all places, `[n_places, d_vocab]`.

        Args:
            learned: what `learn` gave.
            setting: one of `settings`.
            intent: what is to win.
            random: a seed: the control of the same size whose heads, direction, nodes or donor are drawn by lot. None: the arm itself.
        """

    def apply(
        self,
        subject: Subject,
        learned: Learned,
        setting: Setting,
        intent: Intent = "context",
        random: int | None = None,
    ) -> Apply:
        """The arm as something that cases can be put to."""
        return lambda asks: self.logits(subject, asks, learned, setting, intent, random)
