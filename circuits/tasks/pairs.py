"""From paired texts to token ids, for any tokenizer.

1. A task generates a pair with the names of one split; a random generator seeded by (task, split, seed) decides all. Pairs
   that have not come yet are preferred; those that come again have the same group, with other neutral lines.
2. Prompt and prompt + answer + continuation are tokenised. The prompt's ids must be a prefix of the longer ones on both
   sides, and the next tokens must differ; else the hinge (see `Side`) moves to the answers, or the pair is rejected.
3. Neutral lines are put before the prompts: the same on both sides, and where the sides differ in length also a line
   that is longer on one side by as many tokens.
4. Pairs are stacked, right-padded. A twin keeps the prompts and takes the meaning away.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from circuits.tasks.catalogue import get_task
from circuits.tasks.neutral import padding_lines, shared_line
from circuits.tasks.task import PairText, Side, Task
from sparsetrain.data.pools import SPLITS, Pool, Split, pool

Twin = Literal["nonsense", "labels"]
REST = -1  # answer id that means "every token but the other answer"

_MAX_REJECTED = 0.9  # ours: share of tries above which a task does not suit a tokenizer
_MIN_TRIES = 200  # ours: tries before that share is judged
_N_MATCHES = 4  # ours: paddings to draw from, the shortest ones; more make prompts longer
_N_DRAWS = 32  # ours: draws of which the one that came least often is taken
_N_PROBES = 4  # ours: pairs per split whose answers a nonsense twin must avoid
# Frequent words that answer no task. A nonsense twin takes two that are one token each.
_TWIN_WORDS = (  # separated by blanks
    " is when not the and of to this that return import None raise from or it on at be are by can but you all has an "
    "will so because out up"
)


class UnsuitableTask(ValueError):
    """A task cannot be put into pairs with this tokenizer: that says something about the two, and nothing about a model."""


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
class PairSet:
    """Tokenised pairs. Side 0 is positive (right answer A), side 1 negative (right answer B)."""

    task: str
    split: Split
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
    split: Split,
    n: int,
    seed: int,
    twin: Twin | None = None,
    max_tokens: int = 48,
    twin_seed: int = 0,
) -> PairSet:
    """Generate n pairs of a task: a function of (task, tokenizer, split, n, seed, twin, max_tokens, twin_seed).

    Twins keep the prompts. "nonsense" asks for two frequent words that have nothing to do with the task, the same two
    in every split and for every seed (they follow from the task's name and `twin_seed`). "labels" exchanges the prompts
    of half of the pairs, drawn by lot, so that neither answer goes with either side.

    Args:
        task: a task or its name.
        tokenizer: that of the model.
        split: "train", "val", "heldout" or "shifted"; their names are disjoint, and "shifted" also has longer and more
            nested prompts with distractors.
        n: number of pairs.
        seed: decides names, numbers and neutral lines.
        twin: None for the task itself.
        max_tokens: largest number of tokens of a prompt, the document separator at its start included.
        twin_seed: decides the words of the nonsense twin.

    Raises:
        ValueError: on an unknown name, n or max_tokens that is too small.
        UnsuitableTask: a tokenizer in which more than 90% of the pairs are rejected, or with too few words for the nonsense twin; the
            message gives the reasons and their counts.
    """
    task = get_task(task) if isinstance(task, str) else task
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: choose one of {', '.join(SPLITS)}")
    if twin is not None and twin not in get_args(Twin):
        raise ValueError(f"unknown twin {twin!r}: choose None or one of {', '.join(get_args(Twin))}")
    if n < 1:
        raise ValueError(f"n={n} pairs of task {task.name!r}: n must be at least 1")
    if max_tokens < 2:
        raise ValueError(f"max_tokens={max_tokens}: a prompt holds the separator and at least one token")

    names = pool(split)
    rng = Random(f"{task.name}/{split}/{seed}")
    pairs: list[_Pair] = []
    came: Counter[tuple[str, str]] = Counter()  # core -> pairs that have it
    groups: list[int] = []
    seen: set[tuple[str, str]] = set()
    rejected: Counter[str] = Counter()
    while len(pairs) < n:
        core = _core(task, tokenizer, names, rng, max_tokens, came)
        pair = core if isinstance(core, str) else _led(core, task, tokenizer, names, rng, max_tokens)
        if isinstance(pair, _Pair) and pair.core in seen:
            pair = "duplicate"
        if isinstance(core, _Pair) and isinstance(pair, _Pair):
            seen.add(pair.core)
            pairs.append(pair)
            came[core.core] += 1
            groups.append(list(came).index(core.core))
        elif isinstance(pair, str):
            rejected[pair] += 1
        n_rejected = rejected.total()
        if n_rejected >= _MIN_TRIES and n_rejected > _MAX_REJECTED * (n_rejected + len(pairs)):
            reasons = ", ".join(f"{reason}: {count}" for reason, count in rejected.most_common())
            raise UnsuitableTask(
                f"task {task.name!r} (split {split!r}, max_tokens={max_tokens}): {n_rejected} of "
                f"{n_rejected + len(pairs)} pairs rejected ({reasons}); raise max_tokens for too_long, ask for fewer "
                "pairs for duplicate, otherwise leave this task out for this tokenizer"
            )

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
        rejected=dict(rejected),
        groups=torch.tensor(groups),
    )


@dataclass(frozen=True, kw_only=True)
class _Pair:
    text: PairText
    prompts: tuple[list[int], list[int]]  # ids, separator first
    answers: tuple[int, int]

    @property
    def core(self) -> tuple[str, str]:
        """Both prompts: of a pair without neutral lines, what makes it another one."""
        return self.text.positive.prompt, self.text.negative.prompt

    @property
    def n_tokens(self) -> int:
        """Of the longer prompt."""
        return max(map(len, self.prompts))


def _core(
    task: Task, tokenizer: PairTokenizer, names: Pool, rng: Random, max_tokens: int, came: Counter[tuple[str, str]]
) -> _Pair | str:
    """One pair without neutral lines, of several the one that came least often; or the reason why there is none."""
    drawn: list[_Pair] = []
    while len(drawn) < _N_DRAWS and (not drawn or came[drawn[-1].core]):
        text = task.generate(rng, names)
        pair = _tokenise(_settled(text, in_prompt=True), tokenizer)
        if isinstance(pair, str) and text.positive.hinge:
            pair = _tokenise(_settled(text, in_prompt=False), tokenizer)
        if isinstance(pair, str):
            return pair
        if pair.n_tokens > max_tokens:
            return "too_long"
        drawn.append(pair)
    return min(drawn, key=lambda pair: came[pair.core])


def _led(core: _Pair, task: Task, tokenizer: PairTokenizer, names: Pool, rng: Random, max_tokens: int) -> _Pair | str:
    """The pair with neutral lines before it, or the reason why there is none."""
    before = _neutral_lines(task, tokenizer, names, rng, core, max_tokens)
    sides = (replace(side, prompt=line + side.prompt) for side, line in zip(core.text.sides, before, strict=True))
    pair = _tokenise(_with_sides(core.text, *sides), tokenizer)
    return "too_long" if isinstance(pair, _Pair) and pair.n_tokens > max_tokens else pair


def _with_sides(text: PairText, positive: Side, negative: Side) -> PairText:
    return replace(text, positive=positive, negative=negative)


def _settled(text: PairText, *, in_prompt: bool) -> PairText:
    """The text with its hinge at the end of the prompts or at the start of the answers."""
    return _with_sides(
        text,
        *(
            replace(side, prompt=side.prompt + side.hinge, hinge="")
            if in_prompt
            else replace(side, answer=side.hinge + side.answer, hinge="")
            for side in text.sides
        ),
    )


def _split_ids(side: Side, tokenizer: PairTokenizer) -> tuple[list[int], list[int]]:
    """Ids of a prompt as it stands alone, and of prompt, answer and continuation together."""
    return tokenizer.encode(side.prompt), tokenizer.encode(side.prompt + side.answer + side.continuation)


def _tokenise(text: PairText, tokenizer: PairTokenizer) -> _Pair | str:
    prompts, answers = [], []
    for side in text.sides:
        prompt, full = _split_ids(side, tokenizer)
        if full[: len(prompt)] != prompt or len(full) == len(prompt):
            return "prompt_not_a_prefix"
        prompts.append([tokenizer.eot_id, *prompt])
        answers.append(full[len(prompt)])
    if answers[0] == answers[1]:
        return "same_answer_token"
    return _Pair(text=text, prompts=(prompts[0], prompts[1]), answers=(answers[0], REST if text.rest else answers[1]))


def _neutral_lines(
    task: Task, tokenizer: PairTokenizer, names: Pool, rng: Random, pair: _Pair, max_tokens: int
) -> tuple[str, str]:
    """Text before the positive and the negative prompt; of equal length in all where there is room for it."""
    sides = pair.text.sides
    used = "".join([*(side.prompt for side in sides), *(side.answer for side in sides)])
    n_positive, n_negative = (len(ids) for ids in pair.prompts)
    positive = negative = ""
    if n_positive != n_negative:
        lines = [(line, len(tokenizer.encode(line))) for line in padding_lines(rng, names, task.language, used)]
        matches = [
            (p, q, n_positive + n_p)
            for p, n_p in lines
            for q, n_q in lines
            if n_positive + n_p == n_negative + n_q <= max_tokens
        ]
        if matches:
            shortest = sorted(matches, key=lambda match: match[2])[:_N_MATCHES]
            positive, negative, n_positive = rng.choice(shortest)
            used += positive + negative
    room = max_tokens - max(n_positive, n_negative)
    for _ in range(rng.randrange(3)):
        line = shared_line(rng, names, task.language, used)
        room -= len(tokenizer.encode(line))
        if room < 0:
            break
        positive, negative, used = positive + line, negative + line, used + line
    return positive, negative


def _twin_answers(task: Task, tokenizer: PairTokenizer, twin_seed: int) -> tuple[tuple[str, str], tuple[int, int]]:
    """Two unrelated words of one token each, and their ids. Neither answers the task with any name of any split."""
    start = tokenizer.encode("x")

    def inside_line(text: str) -> list[int]:  # blanks at the very start of a text may be read as indentation
        return tokenizer.encode(f"x{text}")[len(start) :]

    taken = {inside_line(f" {name}")[0] for split in SPLITS for name in pool(split).names}
    for split in SPLITS:
        rng = Random(f"{task.name}/{split}/probe")
        for _ in range(_N_PROBES):
            text = task.generate(rng, pool(split))
            for in_prompt in (True, False):
                for side in _settled(text, in_prompt=in_prompt).sides:
                    prompt, full = _split_ids(side, tokenizer)
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


def _nonsense(pair: _Pair, words: tuple[str, str], ids: tuple[int, int]) -> _Pair:
    sides = (replace(side, answer=word, continuation="") for side, word in zip(pair.text.sides, words, strict=True))
    return replace(pair, text=replace(_with_sides(pair.text, *sides), rest=False), answers=ids)


def _swap_prompts(pair: _Pair) -> _Pair:
    positive, negative = pair.text.sides
    sides = replace(positive, prompt=negative.prompt), replace(negative, prompt=positive.prompt)
    return replace(pair, text=_with_sides(pair.text, *sides), prompts=(pair.prompts[1], pair.prompts[0]))
