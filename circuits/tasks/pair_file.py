"""A behaviour as a user gives it: pairs of prompts in a file, `task=file:<pairs.jsonl>`.

1. A row has `prompt_a answer_a prompt_b answer_b`, texts all, and a `split` or none. JSON lines, and whatever else
   `sparsetrain.data.reading` reads. A row that makes no pair is left out, with its line and the reason.
2. Without splits pairs are dealt by a hash of their content, `SHARES` of them to each; pairs that share a prompt go together.
3. Prompts are taken as they are, nothing is put before them, and they may differ in length.
4. The task is named for its file and the file's content, `<stem>-<8 hex digits>`: a changed file is another task. A copy is kept with
   what was found (`keep`), from which everything is made again (`kept`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

from circuits.tasks.task import MIN_PAIRS, PAIR_SPLITS, PairSplit, PairText, PairTokenizer, Side, Task
from circuits.tasks.tokenise import tokenise
from sparsetrain.data.reading import FORMATS, Fields, Skip, ending, expand_home, read_rows
from sparsetrain.store import write_atomic

PREFIX = "file:"
FIELDS = ("prompt_a", "answer_a", "prompt_b", "answer_b")
SHARES: Mapping[PairSplit, float] = {"train": 0.4, "val": 0.3, "heldout": 0.3}  # ours
N_NAMED = 12  # reasons that a message names, and lines of each
_FLAWS = {
    "prompt_not_a_prefix": "this tokenizer joins the end of a prompt with its answer",
    "same_answer_token": "both answers begin with the same token",
    "too_long": "a prompt of more than circuits.find.max_tokens={max_tokens} tokens",
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A pair, where it stands and where it belongs."""

    line: int
    split: PairSplit
    text: PairText


@dataclass(frozen=True, kw_only=True)
class FileTask(Task):
    """The pairs of a file."""

    path: Path
    content: bytes = field(repr=False)
    rows: Sequence[Row]
    flaws: Mapping[int, str]  # line -> why it is no pair

    @classmethod
    def read(cls, path: Path) -> "FileTask":
        """Reads a file of pairs.

        Raises:
            OSError: no such file, or no permission.
            ValueError: no text, or too few pairs; the message names lines and what is wrong with them.
        """
        rows, flaws = _rows(path)
        content = path.read_bytes()
        digest = sha256(content).hexdigest()
        stem = re.sub(r"[^A-Za-z0-9_]+", "_", path.name.partition(".")[0]).strip("_")[:40]
        task = cls(
            name=f"{stem or 'pairs'}-{digest[:8]}",
            description=f"{len(rows)} pairs of {path.name}, sha256 {digest}",
            language=None,
            path=path,
            content=content,
            rows=rows,
            flaws=flaws,
        )
        for split in SHARES:
            n = sum(row.split == split for row in rows)
            if n < MIN_PAIRS:
                all_of = f"{len(rows)} pairs, {n} of them for" if rows else "no pairs for"
                raise ValueError(
                    f"{path} has {all_of} split {split!r}; each of {', '.join(SHARES)} needs at least {MIN_PAIRS}, and pairs that share a "
                    "prompt go to one" + task.left_out(task.flaws)
                )
        return task

    @classmethod
    def kept(cls, name: str, folder: Path) -> "FileTask | None":
        """The task of that name whose file was kept in a folder of tasks; None: there is none.

        Raises:
            ValueError: the file there is not the one that the name tells.
        """
        for path in sorted((folder / name / "pairs").glob("*")):
            if (task := cls.read(path)).name != name:
                raise ValueError(f"{path} is not the file whose pairs {name} rests on: its content was changed")
            return task
        return None

    def keep(self, folder: Path) -> None:
        """Copies the file into a folder of tasks, so that no change of it can reach what was found."""
        write_atomic(folder / self.name / "pairs" / self.path.name, self.content)

    @cached_property
    def _group_of(self) -> Mapping[str, Sequence[int]]:
        """Prompt -> numbers of the rows that are tied to it, directly or through others."""
        return tied_to({i: row.text for i, row in enumerate(self.rows)})

    def texts(self, split: PairSplit, rng: Random) -> Iterator[PairText]:
        """The pairs of a split, each once; those that share a prompt come together."""
        texts = [row.text for row in self.rows if row.split == split]
        rng.shuffle(texts)
        order: dict[int, list[PairText]] = {}
        for text in texts:
            order.setdefault(self._group_of[text.positive.prompt][0], []).append(text)
        yield from chain.from_iterable(order.values())

    def tied(self, key: tuple[str, str]) -> tuple[str, str]:
        """Pairs of a file that share a prompt are no independent ones."""
        first = self.rows[self._group_of[key[0]][0]].text
        return first.positive.prompt, first.negative.prompt

    def examples(self) -> Iterator[PairText]:
        """All pairs."""
        yield from (row.text for row in self.rows)

    def remarks(self, tokenizer: PairTokenizer, max_tokens: int) -> str | None:
        """The lines that are left out, those that have no token ids among them."""
        flaws = dict(self.flaws)
        for row in self.rows:
            if isinstance(flaw := tokenise(row.text, tokenizer, max_tokens), str):
                flaws[row.line] = _FLAWS[flaw].format(max_tokens=max_tokens)
        return self.left_out(flaws).removeprefix("; ") or None

    def left_out(self, flaws: Mapping[int, str]) -> str:
        """Lines and reasons as the end of a sentence."""
        told: dict[str, list[int]] = {}  # reason -> lines
        for line in sorted(flaws):
            told.setdefault(flaws[line], []).append(line)
        named = [f"{_lines(lines)} ({reason})" for reason, lines in [*told.items()][:N_NAMED]]
        more = [f"{len(told) - N_NAMED} more reasons"] if len(told) > N_NAMED else []
        return f"; left out of {self.path.name}: {', '.join([*named, *more])}" if flaws else ""


def file_task(name: str) -> FileTask:
    """The task `file:<path>`; a relative path starts at the working directory.

    Raises:
        ValueError: no such file, not readable, or too few pairs.
    """
    if name == PREFIX:
        raise ValueError(f"task {name!r} names no file; give file:<pairs.jsonl>")
    path = expand_home(name.removeprefix(PREFIX))
    try:
        return FileTask.read(path)
    except OSError as error:
        raise ValueError(f"task {name!r}: {error.strerror or error}: {path.absolute()}; give a file of pairs") from None


def _lines(numbers: Sequence[int]) -> str:
    """Lines by number, the first of them."""
    named = ", ".join(map(str, numbers[:N_NAMED]))
    more = f" and {len(numbers) - N_NAMED} more" if len(numbers) > N_NAMED else ""
    return f"line{'s' * (len(numbers) > 1)} {named}{more}"


def _rows(path: Path) -> tuple[list[Row], dict[int, str]]:
    """The pairs of a file, dealt to splits, and what is wrong with the other lines."""
    texts: dict[int, PairText] = {}
    splits: dict[int, Any] = {}
    flaws: dict[int, str] = {}
    first: dict[tuple[str, str], int] = {}
    if path.is_file() and ending(path) not in FORMATS:
        raise ValueError(
            f"{path} holds no rows; give pairs as {', '.join(FORMATS)}, with the fields {', '.join(FIELDS)}"
        )
    for row in read_rows(path, Fields(text=FIELDS[0], others=(*FIELDS[1:], "split"))):
        line = int(row.name.rpartition(":")[2])
        if isinstance(row, Skip):
            flaws[line] = row.reason
            continue
        made = _pair({FIELDS[0]: row.text, **row.fields})
        if isinstance(made, str):
            flaws[line] = made
        elif (same := first.setdefault((made.positive.prompt, made.negative.prompt), line)) != line:
            flaws[line] = f"the prompts of line {same} again"
        else:
            texts[line], splits[line] = made, row.fields.get("split") or None  # a table has empty cells
    if set(splits.values()) <= {None}:
        dealt = _dealt(texts)
        return [Row(line=line, split=dealt[line], text=text) for line, text in texts.items()], flaws
    rows: list[Row] = []
    place: dict[str, PairSplit] = {}  # prompt -> split of the first pair that has it
    for line, text in texts.items():
        split, prompts = splits[line], [side.prompt for side in text.sides]
        if split not in PAIR_SPLITS:
            flaws[line] = f"split {split!r}; give each line one of {', '.join(PAIR_SPLITS)}, or none of the lines any"
        elif other := {place.get(prompt, split) for prompt in prompts} - {split}:
            flaws[line] = f"a prompt of split {split!r} that is in {other.pop()!r} too"
        else:
            place.update(dict.fromkeys(prompts, split))
            rows.append(Row(line=line, split=split, text=text))
    return rows, flaws


def _pair(row: Mapping[str, Any]) -> PairText | str:
    """The pair of a row, or what is wrong with it."""
    for name in FIELDS:
        if name not in row:
            return f"no field {name!r}"
        if not isinstance(row[name], str):
            return f"{name!r} is no text"
        if not row[name]:
            return f"{name!r} is empty"
    if row["answer_a"] == row["answer_b"]:
        return "both answers are the same"
    if row["prompt_a"] == row["prompt_b"]:
        return "both prompts are the same"
    try:
        sides = (Side(prompt=row[f"prompt_{side}"], answer=row[f"answer_{side}"], continuation="") for side in "ab")
        return PairText(positive=next(sides), negative=next(sides))
    except ValueError as error:
        return str(error)


def tied_to(texts: Mapping[int, PairText]) -> dict[str, Sequence[int]]:
    """Prompt -> the pairs that are tied to it, in their order: those that have it, those that share a prompt with these, and so on."""
    group: dict[str, set[int]] = {}
    for number, text in texts.items():
        tied = {number}.union(*(group.get(side.prompt, set()) for side in text.sides))
        for prompt in {side.prompt for at in tied for side in texts[at].sides}:
            group[prompt] = tied
    return {prompt: sorted(tied) for prompt, tied in group.items()}


def _dealt(texts: Mapping[int, PairText]) -> dict[int, PairSplit]:
    """A split for each pair, in the order of a hash of their content; pairs that share a prompt are dealt as one."""
    group = tied_to(texts)
    digests = {line: sha256(repr(text).encode()).hexdigest() for line, text in texts.items()}
    groups = {min(digests[line] for line in tied): tied for tied in group.values()}
    n_dealt: dict[PairSplit, int] = dict.fromkeys(SHARES, 0)
    dealt: dict[int, PairSplit] = {}
    for digest in sorted(groups):
        split = min(SHARES, key=lambda split: n_dealt[split] / SHARES[split])
        n_dealt[split] += len(groups[digest])
        dealt.update(dict.fromkeys(groups[digest], split))
    return dealt
