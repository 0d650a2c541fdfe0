"""What two models are asked to see whether their outputs are the same, and what their insides do: prompts of rules in contexts, some of training, some held out.

1. Those of a rule language can all be listed; `of_language` lists them.
2. Those of a user stand in a file: rows of `prompt answer rule`, and where there are such `context` and `split` (`train`, `heldout`). Without splits questions are dealt by a hash of
   their content. A row that makes no question is left out, with its place and the reason.

A rule in a context is a behaviour. Prompts may differ in length: shorter ones are filled up behind their last token, which no token before it sees.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from circuits.fracture.distil import PADDING
from circuits.fracture.engine import Asked
from sparsetrain.data.reading import Fields, Skip, find_files, read_found
from sparsetrain.data.worlds.rules import RulesConfig, RuleWorld, draw_rules
from sparsetrain.store import write_atomic
from sparsetrain.typed import from_json, plain

LANGUAGE = "language.json"
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
TEXTS = ("prompt", "answer", "rule")
MORE = ("context", "split")
SPLITS = ("train", "heldout")
HELD_SHARE = 0.3
"""Of questions without a split. ours"""
FEWEST = 4
"""Questions of training that a behaviour needs, on which its circuit is searched. ours"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Questions:
    """Prompts with their answers; arrays of `[n]`, in the order of rule and context."""

    tokens: Ints
    """`[n, length]`, the last one the answer; prompts that are shorter are filled up with `PADDING`."""
    rule: Ints
    context: Ints
    held: Bools
    rules: tuple[str, ...]
    contexts: tuple[str, ...]
    d_vocab: int
    world: RuleWorld | None = None
    """The language that they are of; None: they are a user's."""
    skipped: tuple[Skip, ...] = ()

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def behaviours(self) -> tuple[str, ...]:
        """`<rule> in <context>`, in the order of their numbers."""
        return tuple(f"{rule} in {context}" for rule in self.rules for context in self.contexts)

    @property
    def n_behaviours(self) -> int:
        return len(self.rules) * len(self.contexts)

    @property
    def behaviour(self) -> Ints:
        """Number of each question's behaviour."""
        return self.rule * len(self.contexts) + self.context

    def asked(self, held: bool | None = None) -> Asked:
        """Those of training (False), those held out (True), or all."""
        chosen = np.ones(len(self), dtype=np.bool_) if held is None else self.held == held
        return Asked(
            tokens=torch.from_numpy(self.tokens[chosen]),
            behaviour=torch.from_numpy(self.behaviour[chosen]),
            n_behaviours=self.n_behaviours,
        )

    def partners(self, first: int) -> Ints:
        """Questions of training of the same context with another answer: with the same operands under another rule's word, where the language
        can be listed and has such, else of another rule where there are such, else any."""
        answers, chosen = self.tokens[:, -1], (self.context == self.context[first]) & ~self.held
        others = chosen & (answers != answers[first])
        kinds = [others & (self.rule != self.rule[first]), others]
        if self.world is not None:
            inputs = self.world.inputs
            kinds.insert(0, others & (inputs.a == inputs.a[first]) & (inputs.b == inputs.b[first]))
        return next((np.flatnonzero(kind) for kind in kinds if kind.any()), np.empty(0, dtype=np.int64))


@dataclass(frozen=True, kw_only=True)
class Language:
    """Which language a student answers; it stands in a file beside its export."""

    config: RulesConfig
    seed: int

    def save(self, folder: Path) -> None:
        write_atomic(folder / LANGUAGE, json.dumps(plain(self), indent=1) + "\n")

    @classmethod
    def beside(cls, export: Path) -> "Language | None":
        """Of the export's run; None: it has none."""
        return next(
            (from_json(cls, folder / LANGUAGE) for folder in export.parents[:2] if (folder / LANGUAGE).is_file()), None
        )

    def questions(self) -> "Questions":
        return of_language(draw_rules(self.config, self.seed))


def of_language(world: RuleWorld) -> Questions:
    """Every input of a rule language."""
    inputs, config = world.inputs, world.config
    return Questions(
        tokens=inputs.tokens,
        rule=inputs.rule,
        context=inputs.context,
        held=inputs.held,
        rules=config.rules,
        contexts=tuple(map(str, range(config.n_contexts))),
        d_vocab=config.d_vocab,
        world=world,
    )


class TextTokenizer(Protocol):
    """What is needed of a tokenizer."""

    @property
    def eot_id(self) -> int:
        """The separator that stands before every prompt."""
        ...

    def encode(self, text: str) -> list[int]: ...


@dataclass(frozen=True, kw_only=True)
class Row:
    """A question of a user's file."""

    place: str
    prompt: str
    answer: str
    rule: str
    context: str
    split: str | None


def read_questions(paths: Sequence[str], tokenizer: TextTokenizer, d_vocab: int, n_ctx: int) -> Questions:
    """The questions of files, folders or patterns; the answer is the first token behind the prompt.

    Args:
        paths: as `find_files` takes them.
        tokenizer: of both models.
        d_vocab: of both models.
        n_ctx: of both models.

    Raises:
        OSError: a file that was named is missing, or must not be read.
        ValueError: no question, a behaviour without questions of training, or fewer than two of them; says why the first row was none.
    """
    skipped: list[Skip] = []
    rows: list[Row] = []
    tokens: dict[str, list[int]] = {}
    answers: dict[str, int] = {}
    seen: dict[str, str] = {}
    fields = Fields(text=TEXTS[0], others=(*TEXTS[1:], *MORE))
    for document in read_found(find_files(paths, "questions"), fields):
        made = document.reason if isinstance(document, Skip) else _row(document.name, {TEXTS[0]: document.text, **document.fields})  # fmt: skip
        if isinstance(made, Row):
            ids = [tokenizer.eot_id, *tokenizer.encode(made.prompt)]
            whole = [tokenizer.eot_id, *tokenizer.encode(made.prompt + made.answer)]
            if made.prompt in seen:
                made = f"the prompt of {seen[made.prompt]} again"
            elif whole[: len(ids)] != ids or len(whole) == len(ids):
                made = "this tokenizer joins the end of the prompt with its answer"
            elif len(ids) > n_ctx:
                made = f"a prompt of {len(ids)} tokens, of which the models take {n_ctx}"
            else:
                seen[made.prompt] = made.place
                tokens[made.place], answers[made.place] = ids, whole[len(ids)]
                rows.append(made)
        if isinstance(made, str):
            skipped.append(Skip(document.name, made))
    rows = _whole_behaviours(rows, skipped)
    if not rows:
        first = f"; {skipped[0].name}: {skipped[0].reason}" if skipped else ""
        raise ValueError(
            f"no question in questions={','.join(paths)}{first}; a row needs {', '.join(TEXTS)}, and a rule in a context {FEWEST} rows of training and one held out"
        )
    rules, contexts = (tuple(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("rule", "context"))
    rows.sort(key=lambda row: (rules.index(row.rule), contexts.index(row.context)))
    present = {(row.rule, row.context) for row in rows}
    if lacking := [(rule, context) for rule in rules for context in contexts if (rule, context) not in present]:
        rule, context = lacking[0]
        raise ValueError(
            f"questions={','.join(paths)}: rule {rule!r} has no usable rows in context {context!r}, which other rules have; every rule needs "
            f"{FEWEST} rows of training and one held out in each context"
        )
    length = max(len(tokens[row.place]) for row in rows)
    padded = [tokens[row.place] + [PADDING] * (length - len(tokens[row.place])) + [answers[row.place]] for row in rows]
    questions = Questions(
        tokens=np.array(padded, dtype=np.int64),
        rule=np.array([rules.index(row.rule) for row in rows]),
        context=np.array([contexts.index(row.context) for row in rows]),
        held=np.array([_is_held(row) for row in rows]),
        rules=rules,
        contexts=contexts,
        d_vocab=d_vocab,
        skipped=tuple(skipped),
    )
    for first in np.flatnonzero(~questions.held):
        if not len(questions.partners(int(first))):
            raise ValueError(
                f"questions={','.join(paths)}: {rows[first].place} has no partner in context {rows[first].context!r}: all questions of training there begin with the same "
                f"answer token, and a circuit is searched on pairs of two; give other answers too"
            )
    return questions


def _row(place: str, fields: Mapping[str, Any]) -> Row | str:
    """The question of a row, or what is wrong with it."""
    for name in TEXTS:
        if name not in fields or fields[name] is None:
            return f"no field {name!r}"
        if not isinstance(fields[name], str):
            return f"{name!r} is no text"
        if not fields[name]:
            return f"{name!r} is empty"
    split = fields.get("split") or None  # a table has empty cells
    if split not in (None, *SPLITS):
        return f"split {split!r}; give one of {', '.join(SPLITS)}, or none"
    context = fields.get("context")
    if context is not None and not isinstance(context, str):
        return f"'context' is no text: {context!r}"
    return Row(place=place, prompt=fields["prompt"], answer=fields["answer"], rule=fields["rule"], context=context or "one", split=split)  # fmt: skip


def _is_held(row: Row) -> bool:
    if row.split is not None:
        return row.split == SPLITS[1]
    digest = sha256(f"{row.prompt}\0{row.answer}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < HELD_SHARE


def _whole_behaviours(rows: Sequence[Row], skipped: list[Skip]) -> list[Row]:
    """Rows of behaviours that have enough of both splits; the others are named."""
    held: dict[tuple[str, str], list[bool]] = {}
    for row in rows:
        held.setdefault((row.rule, row.context), []).append(_is_held(row))
    kept: list[Row] = []
    for row in rows:
        of = held[row.rule, row.context]
        n = len(of) - sum(of)
        if n >= FEWEST and sum(of):
            kept.append(row)
        else:
            skipped.append(Skip(row.place, f"rule {row.rule!r} in context {row.context!r} has {n} rows of training and {sum(of)} held out; {FEWEST} and 1 are needed"))  # fmt: skip
    return kept
