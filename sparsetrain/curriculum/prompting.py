"""Every question in every arm, put to a model: which prompts there are, and how they are answered.

1. `prepare` writes the prompts of all arms. Arms that come to the same prompt share it: it is answered once.
2. `answer` puts them to the model, batch by batch on the disk, so that an interruption costs a batch.
3. An example with the same question as the one that is asked is never shown to it, and counted.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparsetrain.adapters import LanguageModel
from sparsetrain.curriculum.arms import Asked, ChoiceConfig, Pool, arms_of, chosen
from sparsetrain.curriculum.compare import Answers
from sparsetrain.curriculum.prompts import Example, WordingConfig, write
from sparsetrain.curriculum.ranking import levels_of, ranks
from sparsetrain.curriculum.scoring import SIZE, Scores
from sparsetrain.data.probes import ProbeTokenizer
from sparsetrain.folder import own
from sparsetrain.representation.active import Prompts
from sparsetrain.representation.items import Arrays, Item, by_length, kept_in_batches
from sparsetrain.store import fingerprint, write_atomic
from sparsetrain.typed import plain


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The prompts of all arms."""

    items: tuple[Item, ...] = field(repr=False)
    """Each prompt once."""
    of: Mapping[str, NDArray[np.int64]]
    """Arm -> which prompt, `[n_asked, n_draws]`."""
    n_dropped: Mapping[str, int]
    """Arm -> demonstrations that the budget had no room for, over all its prompts."""
    n_same: int
    """Examples that were kept from a question because it is theirs."""

    @property
    def n_tokens(self) -> int:
        return sum(len(item.tokens) for item in self.items)

    @property
    def sha256(self) -> str:
        """Of all prompts."""
        return fingerprint([plain(item) for item in self.items])


def pool_of(examples: Sequence[Example], scores: Scores) -> Pool:
    """Scores of the pool as arms see them; difficulty counts where every example has one."""
    known = [example.difficulty for example in examples if example.difficulty is not None]
    return Pool(
        sparsity=scores.sparsity,
        loss=scores.loss,
        length=scores.length,
        difficulty=np.array(known, dtype=np.float64) if len(known) == len(examples) else None,
    )


def same_question(text: str) -> str:
    """What a question shares with copies of it that differ in case, blanks or the last mark alone: shown, they would give the answer away."""
    return " ".join(text.casefold().split()).rstrip(" .?!:;,") or text.strip()


def prepare(
    tokenizer: ProbeTokenizer,
    wording: WordingConfig,
    choice: ChoiceConfig,
    *,
    pool: Sequence[Example],
    of_pool: Scores,
    asked: Sequence[Example],
    of_asked: Scores,
    n_tokens: int | None,
    on_asked: Callable[[int], object] = lambda n: None,
) -> Prepared:
    """Prompts of every question in every arm.

    Args:
        tokenizer: of the model.
        wording: of all arms.
        choice: of all arms.
        pool: examples that may be shown.
        of_pool: their scores.
        asked: questions.
        of_asked: their scores.
        n_tokens: budget of a prompt with its answer; None: none.
        on_asked: called with 1 for every question whose prompts are written.

    Raises:
        ValueError: fewer examples may be shown than are asked for, or fewer than levels; a question that the tokenizer cannot write within the budget.
    """
    known, similarity = pool_of(pool, of_pool), of_pool.similarity(of_asked)
    arms, number = arms_of(known), dict[Item, int]()
    of: dict[str, list[list[int]]] = {name: [] for name in arms}
    n_dropped, n_same = Counter(dict.fromkeys(arms, 0)), 0
    questions = np.array([same_question(example.question) for example in pool], dtype=object)
    for i, question in enumerate(asked):
        allowed = questions != same_question(question.question)
        n_same += int((~allowed).sum())
        seen = Asked(sparsity=float(of_asked.sparsity[i]), similarity=similarity[i], allowed=allowed)
        for name in arms:
            places: list[int] = []
            for order in chosen(known, seen, choice, name, i):
                written = write(tokenizer, wording, [pool[j] for j in order], question, n_tokens)
                if isinstance(written, str):
                    raise ValueError(
                        f"{question.place or 'a question'}: {question.question!r} cannot be asked in arm {name}, {written}; leave it out"
                    )
                n_dropped[name] += written.n_dropped
                places.append(number.setdefault(written.item, len(number)))
            of[name].append(places)
        on_asked(1)
    return Prepared(
        items=tuple(number),
        of={name: np.array(places, dtype=np.int64) for name, places in of.items()},
        n_dropped=dict(n_dropped),
        n_same=n_same,
    )


def answer(
    model: LanguageModel,
    prepared: Prepared,
    folder: Path,
    *,
    batch_size: int = SIZE,
    on_items: Callable[[int], object] = lambda n: None,
) -> Answers:
    """Puts every prompt to the model, or finds what was answered.

    Args:
        model: that answers.
        prepared: the prompts.
        folder: gets a folder named by their content and the model's.
        batch_size: prompts of one forward pass; changes the speed alone.
        on_items: called with the number of prompts of each batch.
    """
    items = prepared.items

    def read(numbers: Sequence[int]) -> Arrays:
        found = Prompts(model.module, [items[i] for i in numbers]).answer({})
        return {"correct": found.correct.numpy(), "loss": found.loss.numpy()}

    kept = folder / fingerprint({"weights": model.weights_sha256, "prompts": prepared.sha256})[:32]
    with own(kept, wait=True):
        arrays = kept_in_batches(read, by_length(items), kept, batch_size=batch_size, on_items=on_items)
    return Answers(
        right={name: arrays["correct"][at].mean(1) for name, at in prepared.of.items()},
        loss={name: arrays["loss"][at].mean(1) for name, at in prepared.of.items()},
        n_dropped=prepared.n_dropped,
    )


ORDERING = "ordering.csv"
COLUMNS = ("rank", "level", "sparsity", "loss", "correct", "tokens", "difficulty", "question", "answer", "place")


def write_ordering(path: Path, examples: Sequence[Example], scores: Scores, n_levels: int) -> None:
    """A pool from the densest example, taken for the easiest, to the sparsest, as a table.

    Args:
        path: of the table.
        examples: of the pool.
        scores: of the pool.
        n_levels: of difficulty, by rank; fewer where the pool is smaller.
    """
    place, levels = ranks(scores.sparsity), levels_of(scores.sparsity, min(n_levels, len(examples)))
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(COLUMNS)
    for i in np.argsort(place):
        example = examples[i]
        numbers = (scores.measured[i], scores.loss[i], int(scores.correct[i]), int(scores.length[i]))
        known = "" if example.difficulty is None else example.difficulty
        row = (int(place[i]), int(levels[i]), *numbers, known, example.question, example.answer, example.place)
        table.writerow(row)
    write_atomic(path, text.getvalue())


def write_answers(path: Path, asked: Sequence[Example], answers: Answers) -> None:
    """How every question is answered in every arm, as a table.

    Args:
        path: of the table.
        asked: questions.
        answers: to them; `right` is the share of the arm's draws, `loss` their mean in nats/token.
    """
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(("place", "question", "answer", "arm", "right", "loss"))
    for i, example in enumerate(asked):
        for name, right in answers.right.items():
            table.writerow((example.place, example.question, example.answer, name, right[i], answers.loss[name][i]))
    write_atomic(path, text.getvalue())
