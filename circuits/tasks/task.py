"""What a task is: a generator of paired texts that differ in one respect and therefore in their next token.

1. A `Side` is a prompt, the answer that follows it and a natural continuation after the answer.
2. A `PairText` holds the positive side (answer A) and the negative side (answer B, or "anything but A").
3. A `Task` gives texts of a split; it knows text only, never token ids. A `GeneratedTask` has a generator
   `generate(rng, pool) -> PairText`, and a second one, its paraphrase, for the split `paraphrased`.

`circuits.tasks.pairs.build_pairs` turns texts into token ids for whatever tokenizer the model has.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Literal, Protocol, get_args

from sparsetrain.data.pools import Pool, pool

Language = Literal["python", "english"]
PairSplit = Literal["train", "val", "heldout", "shifted", "paraphrased"]
"""A split of names; `paraphrased` has those of held-out, in a second template that is used for nothing but judging."""
PAIR_SPLITS: tuple[PairSplit, ...] = get_args(PairSplit)
MIN_PAIRS = 6  # ours: of a split; fewer are no sample
_N_EXAMPLES = 4  # ours: of every split


class PairTokenizer(Protocol):
    """What is asked of a tokenizer."""

    @property
    def eot_id(self) -> int:
        """Id of the document separator."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without a separator before or after it."""
        ...


@dataclass(frozen=True, kw_only=True)
class Side:
    """One prompt with the text that follows it.

    The hinge is the last piece of the prompt where some tokenizers join prompt and answer into one token (`"` before
    `:` in `{"key":`). It stays in the prompt if the tokenizer allows, and moves to the answer, on both sides of the
    pair, if it does not.
    """

    prompt: str  # the text the model reads, before the hinge
    answer: str  # what follows; its first token is the answer id
    continuation: str  # natural text after the answer, so that the answer is tokenised as it is in real text
    hinge: str = ""  # end of the prompt that may have to move to the answer

    def __post_init__(self) -> None:
        for text in (self.prompt, self.prompt + self.hinge):
            if not text or text.endswith(" "):
                raise ValueError(
                    f"a prompt must be non-empty and not end in a space, got {text!r}: move it to the answer"
                )
        if not self.answer:
            raise ValueError(f"the answer to {self.prompt!r} is empty: give the text that follows the prompt")


@dataclass(frozen=True, kw_only=True)
class PairText:
    """Two prompts that ask for different answers."""

    positive: Side  # right answer: A
    negative: Side  # right answer: B
    rest: bool = False  # True: B is every token but A, and `negative.answer` is only one example of it

    def __post_init__(self) -> None:
        if self.positive.hinge != self.negative.hinge:
            raise ValueError(
                f"the sides of a pair have different hinges, {self.positive.hinge!r} and {self.negative.hinge!r}: "
                "it moves to the answer on both sides or on neither, so it must be the same"
            )

    @property
    def sides(self) -> tuple[Side, Side]:
        """Positive, negative."""
        return self.positive, self.negative


Generate = Callable[[Random, Pool], PairText]
"""A pair drawn with the identifiers of one split."""


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A behaviour to look for in a model."""

    name: str  # also that of its folder
    description: str  # one line, in words
    language: Language | None = (
        "python"  # what the model must have read; also the kind of neutral line; None: no such lines
    )

    @abstractmethod
    def texts(self, split: PairSplit, rng: Random) -> Iterator[PairText]:
        """Pairs of a split, in an order that `rng` decides; none where the task has no such split."""

    @abstractmethod
    def examples(self) -> Iterator[PairText]:
        """Pairs that show every answer the task has; the first one is its example."""

    def remarks(self, tokenizer: PairTokenizer, max_tokens: int) -> str | None:
        """What a reader has to know of the pairs that this tokenizer makes."""
        return None

    def tied(self, key: tuple[str, str]) -> tuple[str, str]:
        """The pair that stands for all that a pair of these prompts (without neutral lines) counts with as one: itself."""
        return key

    def keep(self, folder: Path) -> None:
        """Keeps in a folder of tasks what the pairs are made of, where that is no code."""
        return


@dataclass(frozen=True, kw_only=True)
class GeneratedTask(Task):
    """A task of templates, which are filled with names."""

    generate: Generate
    paraphrase: Generate | None = None  # the same behaviour with the same answers, on another surface

    def texts(self, split: PairSplit, rng: Random) -> Iterator[PairText]:
        """Pairs without end."""
        generate = self.paraphrase if split == "paraphrased" else self.generate
        while generate is not None:
            yield generate(rng, names_of(split))

    def examples(self) -> Iterator[PairText]:
        """A few pairs of every split."""
        splits: tuple[PairSplit, ...] = ("heldout", *PAIR_SPLITS)
        for split in splits:
            yield from islice(self.texts(split, Random(f"{self.name}/{split}/example")), _N_EXAMPLES)


def names_of(split: PairSplit) -> Pool:
    """The names with which a split's pairs, and the lines before them, are made."""
    return pool("heldout" if split == "paraphrased" else split)


def task(language: Language = "python", *, paraphrase: Generate | None = None) -> Callable[[Generate], GeneratedTask]:
    """Makes a task of its generator: the function's name is the task's, its docstring the description."""

    def made(generate: Generate) -> GeneratedTask:
        return GeneratedTask(
            name=generate.__name__,
            description=generate.__doc__ or "",
            generate=generate,
            paraphrase=paraphrase,
            language=language,
        )

    return made


def flip(rng: Random, first: str, second: str) -> tuple[str, str]:
    """The two strings in random order."""
    return (first, second) if rng.random() < 0.5 else (second, first)


def nested(rng: Random, pool: Pool, parameter: str) -> str:
    """In the shifted split the header of a function around a prompt, elsewhere nothing."""
    return f"def {rng.choice(pool.functions)}({parameter}):\n    " if pool.shifted else ""
