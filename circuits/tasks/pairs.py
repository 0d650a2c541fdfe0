"""Sets of pairs as token ids, for any tokenizer.

1. A task gives texts with the names of one split; random generators seeded by (task, split, seed) decide all. Pairs that have not come
   yet are preferred; those that come again have the same group, with other neutral lines.
2. `circuits.tasks.tokenise` makes token ids of a pair, or says why it has none.
3. Neutral lines are put before the prompts, the same on both sides.
4. Pairs are stacked, right-padded. A twin keeps the prompts and takes the meaning away.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from random import Random
from typing import Literal, get_args

import torch
from torch import Tensor

from circuits.tasks.catalogue import get_task
from circuits.tasks.neutral import neutral_lines
from circuits.tasks.task import MIN_PAIRS, PAIR_SPLITS, PairSplit, PairText, PairTokenizer, Task, names_of
from circuits.tasks.tokenise import Flaw, TokenPair, settled, split_ids, tokenise, with_sides
from sparsetrain.data.pools import SPLITS, pool

Twin = Literal["nonsense", "labels"]

_MAX_REJECTED = 0.9  # ours: share of tries above which a task does not suit a tokenizer
_MIN_TRIES = 200  # ours: tries before that share is judged
_N_DRAWS = 32  # ours: draws of which the one that came least often is taken
# Frequent words that answer no task. A nonsense twin takes two that are one token each.
_TWIN_WORDS = (  # separated by blanks
    " is when not the and of to this that return import None raise from or it on at be are by can but you all has an "
    "will so because out up"
)


class UnsuitableTask(ValueError):
    """A task cannot be put into pairs with this tokenizer: that says something about the two, and nothing about a model."""


@dataclass(frozen=True, kw_only=True)
class PairSet:
    """Tokenised pairs. Side 0 is positive (right answer A), side 1 negative (right answer B)."""

    task: str
    split: PairSplit
    seed: int
    twin: Twin | None
    tokens: Tensor  # [n, side, pos] int64: eot, prompt, then eot to the right as padding
    last: Tensor  # [n, side] int64: position of the prompt's last token, where the answers are compared
    answers: Tensor  # [n, 2] int64: ids of A and B; REST (-1) is every token but the other
    texts: tuple[PairText, ...]  # as tokenised, neutral lines included
    rejected: dict[str, int] = field(default_factory=dict)  # reason -> number of pairs thrown away on the way
    groups: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """[n] int64: pairs whose prompts are the same but for neutral lines share a number; not given, those of equal tokens do."""

    def __post_init__(self) -> None:
        n = len(self.texts)
        if not len(self.groups):
            object.__setattr__(self, "groups", self.tokens.flatten(1).unique(dim=0, return_inverse=True)[1])
        assert self.groups.shape == (n,)
        assert self.tokens.ndim == 3 and self.tokens.shape[:2] == (n, 2)
        assert self.last.shape == (n, 2) and self.answers.shape == (n, 2)
        assert int(self.last.max()) < self.tokens.shape[2]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def n_distinct(self) -> int:
        """Pairs that differ in more than neutral lines."""
        return len(self.groups.unique())

    def border(self, at: int) -> int:
        """The place nearest to `at` that parts no group of pairs which stand together, as those of a file that share a prompt do; `at`, where
        none lies within a quarter of the pairs, since a side of few pairs judges nothing."""
        changes = (self.groups[1:] != self.groups[:-1]).nonzero().flatten() + 1
        near = [place for place in changes.tolist() if abs(place - at) <= len(self) / 4]
        return min(near, key=lambda place: abs(place - at), default=at)

    def prompts(self) -> tuple[Tensor, Tensor]:
        """Tokens `[(n side), pos]` without columns that are padding in every row, and last positions `[(n side)]`.

        Padding is behind every prompt's last token, where causal attention cannot see it.
        """
        return self.tokens[..., : int(self.last.max()) + 1].flatten(0, 1), self.last.flatten()

    def batches(self, size: int) -> Iterator["PairSet"]:
        """All pairs in turn, `size` (at least one) at a time."""
        for rows in torch.arange(len(self)).split(max(1, size)):
            yield self.batch(rows)

    def batch(self, index: Tensor | Sequence[int] | slice) -> "PairSet":
        """The pairs at these positions, with the same padding.

        Args:
            index: positions, [n_batch] integers or a slice.
        """
        at = torch.arange(len(self))[index] if isinstance(index, slice) else torch.as_tensor(index, dtype=torch.int64)
        rows = at.to(self.tokens.device)
        return replace(
            self,
            tokens=self.tokens[rows],
            last=self.last[rows],
            answers=self.answers[rows],
            texts=tuple(self.texts[i] for i in at.tolist()),
            groups=self.groups[at.to(self.groups.device)],
        )


def build_pairs(
    task: Task | str,
    tokenizer: PairTokenizer,
    split: PairSplit,
    n: int,
    seed: int,
    twin: Twin | None = None,
    max_tokens: int = 48,
    twin_seed: int = 0,
) -> PairSet:
    """n pairs of a task, fewer where it has no more: a function of (task, tokenizer, split, n, seed, twin, max_tokens, twin_seed).

    Twins keep the prompts. "nonsense" asks for two frequent words that have nothing to do with the task, the same two
    in every split and for every seed (they follow from the task's name and `twin_seed`). "labels" exchanges the prompts
    of half of the pairs, drawn by lot, so that neither answer goes with either side.

    Args:
        task: a task or its name.
        tokenizer: that of the model.
        split: "train", "val", "heldout" or "shifted"; their names are disjoint, and "shifted" also has longer and more
            nested prompts with distractors; or "paraphrased", the names of "heldout" in another template.
        n: number of pairs.
        seed: decides names, numbers and neutral lines.
        twin: None for the task itself.
        max_tokens: largest number of tokens of a prompt, the document separator at its start included.
        twin_seed: decides the words of the nonsense twin.

    Raises:
        ValueError: on an unknown name, n or max_tokens that is too small.
        UnsuitableTask: no pairs of this split, a tokenizer in which more than 90% of the pairs are rejected, or with too few words for the nonsense twin; the
            message gives the reasons and their counts.
    """
    task = get_task(task) if isinstance(task, str) else task
    if split not in PAIR_SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(PAIR_SPLITS)}")
    if twin is not None and twin not in get_args(Twin):
        raise ValueError(f"unknown twin {twin!r}: choose None or one of {', '.join(get_args(Twin))}")
    if n < 1:
        raise ValueError(f"n={n} pairs of task {task.name!r}: n must be at least 1")
    if max_tokens < 2:
        raise ValueError(f"max_tokens={max_tokens}: a prompt holds the separator and at least one token")

    drawn = _Draws(task, tokenizer, split, seed, max_tokens)
    pairs, groups = drawn.pairs(n)
    n = len(pairs)
    if twin == "nonsense":
        words, ids = _twin_answers(task, tokenizer, twin_seed)
        pairs = [_nonsense(pair, words, ids) for pair in pairs]
    elif twin == "labels":
        swapped = set(Random(f"{task.name}/{split}/{seed}/labels").sample(range(n), n // 2))
        pairs = [_swap_prompts(pair) if i in swapped else pair for i, pair in enumerate(pairs)]

    tokens = torch.full((n, 2, max(pair.n_tokens for pair in pairs)), tokenizer.eot_id)
    for i, pair in enumerate(pairs):
        for side, ids in enumerate(pair.prompts):
            tokens[i, side, : len(ids)] = torch.tensor(ids)
    return PairSet(
        task=task.name,
        split=split,
        seed=seed,
        twin=twin,
        tokens=tokens,
        last=torch.tensor([[len(ids) - 1 for ids in pair.prompts] for pair in pairs]),
        answers=torch.tensor([pair.answers for pair in pairs]),
        texts=tuple(pair.text for pair in pairs),
        rejected=dict(drawn.rejected),
        groups=torch.tensor(groups),
    )


class _Draws:
    """Pairs with neutral lines before them, one after another."""

    def __init__(self, task: Task, tokenizer: PairTokenizer, split: PairSplit, seed: int, max_tokens: int) -> None:
        self.task, self.tokenizer, self.max_tokens = task, tokenizer, max_tokens
        self.split: PairSplit = split
        self.texts = task.texts(split, Random(f"{task.name}/{split}/{seed}"))
        self.rng = Random(f"{task.name}/{split}/{seed}/lines")
        self.came: Counter[tuple[str, str]] = Counter()  # key of a pair without its lines -> how often
        self.rejected: Counter[str] = Counter()

    def pairs(self, n: int) -> tuple[list[TokenPair], list[int]]:
        """n different pairs, and the group of each."""
        pairs: dict[tuple[str, str], TokenPair] = {}
        groups: list[int] = []
        numbers: dict[tuple[str, str], int] = {}  # what counts as one -> its number
        while len(pairs) < n and (core := self.core()) is not None:
            pair = core if isinstance(core, str) else self.led(core)
            if isinstance(pair, TokenPair) and pair.key in pairs:
                self.rejected["duplicate"] += 1
            elif isinstance(core, TokenPair) and isinstance(pair, TokenPair):
                pairs[pair.key] = pair
                self.came[core.key] += 1
                groups.append(numbers.setdefault(self.task.tied(core.key), len(numbers)))
            elif isinstance(pair, str):
                self.rejected[pair] += 1
            self.check(len(pairs))
        if len(pairs) < min(n, MIN_PAIRS):
            raise UnsuitableTask(
                f"task {self.task.name!r} has {len(pairs)} pairs of split {self.split!r} with this tokenizer, and "
                f"{min(n, MIN_PAIRS)} are the least"
            )
        return list(pairs.values()), groups

    def core(self) -> TokenPair | Flaw | None:
        """One pair without neutral lines: of several the one that came least often; None: there are no more."""
        drawn: list[TokenPair] = []
        for text in islice(self.texts, _N_DRAWS):
            pair = tokenise(text, self.tokenizer, self.max_tokens)
            if isinstance(pair, str):
                return pair
            drawn.append(pair)
            if not self.came[pair.key]:
                break
        return min(drawn, key=lambda pair: self.came[pair.key], default=None)

    def led(self, core: TokenPair) -> TokenPair | Flaw:
        """The pair with neutral lines before it, where there are any for its language."""
        if self.task.language is None:
            return core
        used = "".join([*(side.prompt for side in core.text.sides), *(side.answer for side in core.text.sides)])
        room = self.max_tokens - core.n_tokens
        lines = neutral_lines(self.rng, self.tokenizer, names_of(self.split), self.task.language, used, room)
        sides = (replace(side, prompt=lines + side.prompt) for side in core.text.sides)
        return tokenise(with_sides(core.text, *sides), self.tokenizer, self.max_tokens)

    def check(self, n: int) -> None:
        """Stops where nearly everything is rejected."""
        n_rejected = self.rejected.total()
        if n_rejected >= _MIN_TRIES and n_rejected > _MAX_REJECTED * (n_rejected + n):
            reasons = ", ".join(f"{reason}: {count}" for reason, count in self.rejected.most_common())
            raise UnsuitableTask(
                f"task {self.task.name!r} (split {self.split!r}, max_tokens={self.max_tokens}): {n_rejected} of "
                f"{n_rejected + n} pairs rejected ({reasons}); raise max_tokens for too_long, ask for fewer "
                "pairs for duplicate, otherwise leave this task out for this tokenizer"
            )


def _twin_answers(task: Task, tokenizer: PairTokenizer, twin_seed: int) -> tuple[tuple[str, str], tuple[int, int]]:
    """Two unrelated words of one token each, and their ids. Neither answers the task with any name of any split."""
    start = tokenizer.encode("x")

    def inside_line(text: str) -> list[int]:  # blanks at the very start of a text may be read as indentation
        return tokenizer.encode(f"x{text}")[len(start) :]

    taken = {inside_line(f" {name}")[0] for split in SPLITS for name in pool(split).names}
    for text in task.examples():
        for in_prompt in (True, False):
            for side in settled(text, in_prompt=in_prompt).sides:
                prompt, full = split_ids(side, tokenizer)
                taken.update(full[len(prompt) : len(prompt) + 1])
    words = {f" {word}": inside_line(f" {word}") for word in _TWIN_WORDS.split()}
    free = sorted((word, ids[0]) for word, ids in words.items() if len(ids) == 1 and ids[0] not in taken)
    if len(free) < 2:
        raise UnsuitableTask(
            f"no nonsense twin of task {task.name!r}: fewer than two of its {len(words)} words are single tokens of this tokenizer; "
            "train it on more text or leave the twin out"
        )
    (word_a, a), (word_b, b) = Random(f"{task.name}/nonsense/{twin_seed}").sample(free, 2)
    return (word_a, word_b), (a, b)


def _nonsense(pair: TokenPair, words: tuple[str, str], ids: tuple[int, int]) -> TokenPair:
    sides = (replace(side, answer=word, continuation="") for side, word in zip(pair.text.sides, words, strict=True))
    return replace(pair, text=replace(with_sides(pair.text, *sides), rest=False), answers=ids)


def _swap_prompts(pair: TokenPair) -> TokenPair:
    positive, negative = pair.text.sides
    sides = replace(positive, prompt=negative.prompt), replace(negative, prompt=positive.prompt)
    return replace(pair, text=with_sides(pair.text, *sides), prompts=(pair.prompts[1], pair.prompts[0]))
