"""The prompt arms: what can be done by words alone. Each is a list of forms, of which the best on fitting cases is used.

| arm | its settings |
|---|---|
| repeat | the statement once, twice, four times, eight times |
| place | filler in front of the statement (near) or behind it (far), two or eight sentences |
| trust | a sentence that asks to believe the prompt in front, four of them |
| paraphrase | four other wordings of the statement |
| trust, repeated | two of the sentences, the statement twice or four times |
| paraphrase, repeated | two of the wordings, twice or four times |

A form that cases of a world do not have (no trust token, one wording) leaves its arm out, which the report says.
Source: Longpre et al. 2021; Xie et al. 2024, Adaptive chameleon or stubborn sloth, section 4 (repetition, wording).
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import ClassVar

from torch import Tensor

from circuits.prior.arm import Arm, Intent, Learned, Setting
from circuits.prior.asking import Asks, Subject
from circuits.prior.cases import AGREEING, IRRELEVANT, NOTHING, STATED, Form


class PromptArm(Arm):
    """Another prompt, and the model as it stands. A setting is a `Form` by its differences from the plain statement.

    Args:
        name: of the arm.
        forms: its settings.
    """

    kind: ClassVar = "prompt"
    source: ClassVar[str] = "Longpre et al. 2021; Xie et al. 2024"

    def __init__(self, name: str, forms: Sequence[Form]) -> None:
        plain = asdict(Form())
        self.name = name
        self.settings = tuple(
            {key: value for key, value in asdict(form).items() if value != plain[key]} for form in forms
        )

    def forms(self, setting: Setting | None = None) -> tuple[Form, ...]:
        chosen = self.settings if setting is None else (setting,)
        return tuple(form_of(one) for one in chosen)

    def logits(
        self, subject: Subject, asks: Asks, learned: Learned, setting: Setting, intent: Intent, random: int | None
    ) -> Tensor:
        assert intent == "context" and random is None, "a prompt has no opposite and no random control"
        return subject.logits(asks.rows(form_of(setting)))


def form_of(setting: Mapping[str, object]) -> Form:
    """The form of a setting of a prompt arm."""
    return Form(**setting)  # pyright: ignore[reportArgumentType]


REPEATS = (1, 2, 4, 8)
PROMPT_ARMS: tuple[PromptArm, ...] = (
    PromptArm("repeat", [Form(n=n) for n in REPEATS]),
    PromptArm("place", [Form(before=2), Form(before=8), Form(behind=2), Form(behind=8)]),
    PromptArm("trust", [Form(trust=i) for i in range(4)]),
    PromptArm("paraphrase", [Form(wording=1 + i) for i in range(4)]),
    PromptArm("trust, repeated", [Form(trust=i, n=n) for i in range(2) for n in (2, 4)]),
    PromptArm("paraphrase, repeated", [Form(wording=1 + i, n=n) for i in range(2) for n in (2, 4)]),
)
SATURATION = ("stated 4 times", "stated 8 times")
"""References between which repeating should add nothing more."""
REFERENCES: Mapping[str, Form] = {
    "no context": NOTHING,
    "stated once": STATED,
    SATURATION[0]: Form(n=4),
    SATURATION[1]: Form(n=8),
    "agreeing context": AGREEING,
    "irrelevant context": IRRELEVANT,
}
"""Prompts that nothing is tuned for: the control of every arm."""
DISTRUST = Form(distrust=0)
"""Its opposite intent: answer from memory."""
