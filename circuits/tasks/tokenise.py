"""One pair of texts as token ids, for any tokenizer, or the reason why it has none.

Prompt and prompt + answer + continuation are tokenised. The prompt's ids must be a prefix of the longer ones on both sides, and the
next tokens must differ; else the hinge (see `Side`) moves to the answers, or the pair is rejected.
"""

from dataclasses import dataclass, replace
from typing import Literal

from circuits.tasks.task import PairText, PairTokenizer, Side

REST = -1  # answer id that means "every token but the other answer"

Flaw = Literal["prompt_not_a_prefix", "same_answer_token", "too_long"]
"""Why a pair has no token ids."""


@dataclass(frozen=True, kw_only=True)
class TokenPair:
    """A pair as text and as token ids."""

    text: PairText
    prompts: tuple[list[int], list[int]]  # ids, separator first
    answers: tuple[int, int]

    @property
    def key(self) -> tuple[str, str]:
        """Both prompts: what makes it another pair."""
        return self.text.positive.prompt, self.text.negative.prompt

    @property
    def n_tokens(self) -> int:
        """Of the longer prompt."""
        return max(map(len, self.prompts))


def tokenise(text: PairText, tokenizer: PairTokenizer, max_tokens: int) -> TokenPair | Flaw:
    """The pair with its hinge where this tokenizer has it, or what is wrong with it."""
    pair = _tokenised(settled(text, in_prompt=True), tokenizer)
    if isinstance(pair, str) and text.positive.hinge:
        pair = _tokenised(settled(text, in_prompt=False), tokenizer)
    return "too_long" if isinstance(pair, TokenPair) and pair.n_tokens > max_tokens else pair


def settled(text: PairText, *, in_prompt: bool) -> PairText:
    """The text with its hinge at the end of the prompts or at the start of the answers."""
    return with_sides(
        text,
        *(
            replace(side, prompt=side.prompt + side.hinge, hinge="")
            if in_prompt
            else replace(side, answer=side.hinge + side.answer, hinge="")
            for side in text.sides
        ),
    )


def with_sides(text: PairText, positive: Side, negative: Side) -> PairText:
    """The text with other sides."""
    return replace(text, positive=positive, negative=negative)


def split_ids(side: Side, tokenizer: PairTokenizer) -> tuple[list[int], list[int]]:
    """Ids of a prompt as it stands alone, and of prompt, answer and continuation together."""
    return tokenizer.encode(side.prompt), tokenizer.encode(side.prompt + side.answer + side.continuation)


def _tokenised(text: PairText, tokenizer: PairTokenizer) -> TokenPair | Flaw:
    prompts, answers = [], []
    for side in text.sides:
        prompt, full = split_ids(side, tokenizer)
        if full[: len(prompt)] != prompt or len(full) == len(prompt):
            return "prompt_not_a_prefix"
        prompts.append([tokenizer.eot_id, *prompt])
        answers.append(full[len(prompt)])
    if answers[0] == answers[1]:
        return "same_answer_token"
    rest = REST if text.rest else answers[1]
    return TokenPair(text=text, prompts=(prompts[0], prompts[1]), answers=(answers[0], rest))
