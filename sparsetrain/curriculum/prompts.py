"""Prompts of demonstrations and a question, in one wording for all arms, within a budget of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

from sparsetrain.data.probes import ProbeTokenizer
from sparsetrain.data.probes.prompts import Prompt, tokens_of
from sparsetrain.representation.items import Item

QUESTION, ANSWER = "{question}", "{answer}"
NO_ANSWER = "the answer does not begin with a token of its own"
TOO_LONG = "the question alone is longer than the budget"


@dataclass(frozen=True, kw_only=True)
class Example:
    """A question with its answer."""

    question: str
    answer: str
    difficulty: float | None = None
    """Known from elsewhere; higher is harder."""
    place: str = ""
    """Where it stands: file and line."""


@dataclass(frozen=True, kw_only=True)
class WordingConfig:
    """How an example is written; the question that is asked ends in front of its answer. ours"""

    instruction: str = ""
    """In front of everything."""
    example: str = "Question: {question}\nAnswer: {answer}\n\n"
    """A demonstration, with {question} and {answer}, once each and in this order."""

    def __post_init__(self) -> None:
        head, found, tail = self.example.partition(ANSWER)
        if not found or head.count(QUESTION) != 1 or ANSWER in tail or QUESTION in tail:
            raise ValueError(
                f"example={self.example!r} must have {QUESTION} and then {ANSWER}, once each, as in {type(self).example!r}"
            )

    def demonstration(self, example: Example) -> str:
        """An example with its answer."""
        head, _, tail = self.example.partition(ANSWER)
        return f"{head.replace(QUESTION, example.question, 1)}{example.answer}{tail}"

    def prompt(self, shown: Sequence[Example], asked: Example) -> Prompt:
        """A prompt with the answer that is to be predicted; the blank in front of an answer belongs to the answer."""
        head = self.example.partition(ANSWER)[0].replace(QUESTION, asked.question, 1)
        question = head.rstrip(" ")
        before = f"{self.instruction}{''.join(map(self.demonstration, shown))}{question}"
        return Prompt(before=before, answer=f"{head[len(question) :]}{asked.answer}")


@dataclass(frozen=True, kw_only=True)
class Written:
    """A prompt as the model reads it."""

    item: Item
    n_dropped: int
    """Demonstrations that the budget had no room for."""


def write(
    tokenizer: ProbeTokenizer,
    wording: WordingConfig,
    shown: Sequence[Example],
    asked: Example,
    n_tokens: int | None,
) -> Written | str:
    """A prompt within a budget; whole demonstrations are left out from the front, the farthest from the question first.

    Args:
        tokenizer: of the model.
        wording: of all arms.
        shown: demonstrations in their order.
        asked: the question.
        n_tokens: budget, with the answer; None: as many as it takes.

    Returns:
        The prompt, or why there is none.
    """
    for n_dropped in range(len(shown) + 1):
        found = tokens_of(tokenizer, wording.prompt(shown[n_dropped:], asked))
        if found is None:
            return NO_ANSWER
        tokens, n_answer = found
        if n_tokens is None or len(tokens) <= n_tokens:
            return Written(item=Item(tokens=tokens, n_answer=n_answer), n_dropped=n_dropped)
    return TOO_LONG
