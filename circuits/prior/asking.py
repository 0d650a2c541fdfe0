"""Cases put to a model: which rows of tokens are read, where the answers are predicted, and what is kept of it.

1. A *stem* is a prompt with all of an answer but its last token. One-token answers share a stem, which is the prompt itself.
2. A *place* is a position that predicts a token of an answer. Places stand in the order of stems, the same for every form, so that
   what is read under two forms of the same case (with and without a statement) belongs together place by place.
3. Rows are filled up on the right, which a causal model does not see. Hooks are attached by `sparsetrain.hooks.hooked`, as everywhere.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from circuits.prior.cases import Case, Form, Neutral, Tokens
from circuits.prior.scores import CaseScores
from sparsetrain.hooks import HookFn, HookPoint, hook_points, hooked
from sparsetrain.representation.evaluate import evaluating
from sparsetrain.representation.items import Arrays, kept_in_batches

C = TypeVar("C", Case, Neutral)
SIZE = 16
"""Cases of one forward pass. ours"""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows of one forward pass."""

    tokens: Tensor
    """`[n_rows, pos]` int64, zeros behind the end."""
    places: Tensor
    """`[n_rows, pos]` bool: where answers are predicted."""
    owner: Tensor
    """`[n_rows]` int64: the case of each row."""

    @cached_property
    def prompt_ends(self) -> Tensor:
        """`[n_rows]` int64: the last position of each prompt, its first place."""
        return self.places.int().argmax(1)


class Asks:
    """Some cases with their answers, as rows of any form.

    Args:
        cases: conflicts, or neutral texts.
    """

    def __init__(self, cases: Sequence[Case] | Sequence[Neutral]) -> None:
        self.cases = tuple(cases)
        stems: dict[tuple[int, Tokens], int] = {}
        n_places: list[int] = []
        self._answers: list[list[tuple[int, Tokens]]] = []
        for i, case in enumerate(self.cases):
            found: list[tuple[int, Tokens]] = []
            for answer in case.answers:
                stem = stems.setdefault((i, answer[:-1]), len(stems))
                if stem == len(n_places):
                    n_places.append(len(answer))
                found.append((stem, answer))
            self._answers.append(found)
        self._stems = tuple(stems)
        self._starts = [0, *np.cumsum(n_places).tolist()]

    @property
    def n_places(self) -> int:
        return self._starts[-1]

    @cached_property
    def place_owner(self) -> NDArray[np.int64]:
        """Case of each place, `[n_places]`."""
        return np.concatenate([np.full(len(stem) + 1, i) for i, stem in self._stems])

    def rows(self, form: Form) -> Rows:
        """The rows under a form that every case has."""
        stems = [(*self.cases[i].prompts[form], *stem) for i, stem in self._stems]
        tokens = torch.zeros(len(stems), max(map(len, stems)), dtype=torch.int64)
        places = torch.zeros_like(tokens, dtype=torch.bool)
        for row, place, stem, (_, continued) in zip(tokens, places, stems, self._stems, strict=True):
            row[: len(stem)] = torch.tensor(stem)
            place[len(stem) - 1 - len(continued) : len(stem)] = True
        return Rows(tokens=tokens, places=places, owner=torch.tensor([i for i, _ in self._stems]))

    def answer_logps(self, logps: Tensor) -> list[list[Tensor]]:
        """Log-probability of every token of every answer, by case: from `[n_places, d_vocab]` log-probabilities."""
        return [
            [logps[self._starts[stem] + torch.arange(len(answer)), torch.tensor(answer)] for stem, answer in answers]
            for answers in self._answers
        ]

    def margins(self, logits: Tensor) -> Tensor:
        """Towards the context's answer, nats/token, differentiable in the logits: `[n_cases]`."""
        answers = self.answer_logps(logits.log_softmax(-1))
        return torch.stack([stated.mean() - known.mean() for stated, known, *_ in answers])


Apply = Callable[[Asks], Tensor]
"""Cases -> logits at all their places, `[n_places, d_vocab]` float32: a model under a prompt or an intervention."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model that is asked.

    Args:
        module: tokens `[batch, pos]` -> logits `[batch, pos, d_vocab]`; causal, with hook points.
        weights_sha256: names what is kept of it.
        batch_size: cases of one forward pass; changes the speed, and which cases' donors the control of activation patching exchanges.
    """

    module: nn.Module
    weights_sha256: str
    batch_size: int = SIZE

    @property
    def device(self) -> torch.device:
        return next(self.module.parameters()).device

    def logits(self, rows: Rows, hooks: Mapping[str, HookFn] | None = None) -> Tensor:
        """Logits at all places with hooks attached: `[n_places, d_vocab]` float32, on the CPU, no gradient."""
        with evaluating(self.module):
            return self._logits(rows, hooks or {})

    def differentiable(self, rows: Rows, hooks: Mapping[str, HookFn]) -> Tensor:
        """The same with gradients to whatever in the hooks asks for them."""
        with evaluating(self.module), torch.enable_grad():
            return self._logits(rows, hooks)

    def _logits(self, rows: Rows, hooks: Mapping[str, HookFn]) -> Tensor:
        with hooked(self.module, hooks):
            return self.module(rows.tokens.to(self.device))[rows.places.to(self.device)].float().cpu()

    def seen(self, rows: Rows, points: Sequence[str]) -> dict[str, Tensor]:
        """What passes hook points untouched, `[n_rows, pos, width]` each, where the model runs."""
        seen: dict[str, Tensor] = {}

        def keep(x: Tensor, point: HookPoint) -> Tensor:
            seen[point.name] = x
            return x

        self.logits(rows, dict.fromkeys(points, keep))
        return seen

    @property
    def streams(self) -> tuple[str, ...]:
        """The residual stream in front of each block's attention, then in front of the last norm: hook points, as far as the model shows them."""
        points = hook_points(self.module)
        return tuple(name for name in points if name.endswith(("attn.norm.hook_resid", "final_norm.hook_resid")))


def plain(subject: Subject, form: Form) -> Apply:
    """The model as it stands, under a form."""
    return lambda asks: subject.logits(asks.rows(form))


def read_answers(asks: Asks, logits: Tensor, n_answers: int) -> dict[str, NDArray[np.float64]]:
    """What `CaseScores` are made of, case by case.

    Args:
        asks: the cases.
        logits: `[n_places, d_vocab]`.
        n_answers: columns of `mean_logp`: the most answers that any case has.
    """
    logps = logits.double().log_softmax(-1)
    best = logps.amax(-1)
    by_case = asks.answer_logps(logps)
    mean = np.full((len(by_case), n_answers), np.nan)
    joint, greedy = np.zeros((len(by_case), 2)), np.zeros((len(by_case), 2))
    greatest = asks.answer_logps(best[:, None].expand_as(logps))
    for i, (answers, highest) in enumerate(zip(by_case, greatest, strict=True)):
        mean[i, : len(answers)] = [float(tokens.mean()) for tokens in answers]
        joint[i] = [float(tokens.sum().exp()) for tokens in answers[:2]]
        greedy[i] = [bool((t == h).all()) for t, h in zip(answers[:2], highest[:2], strict=True)]
    names = ("p_context", "p_prior", "says_context", "says_prior")
    columns = dict(zip(names, (*joint.T, *greedy.T), strict=True))
    return {"mean_logp": mean, **columns}


def ask(
    subject: Subject,
    cases: Sequence[Case],
    apply: Apply,
    folder: Path | None = None,
    on_cases: Callable[[int], object] = lambda n: None,
) -> CaseScores:
    """Every case answered, batch by batch.

    Args:
        subject: gives the batch size.
        cases: that have what `apply` needs.
        apply: how the model is asked.
        folder: keeps batches, so that an interruption costs one; whoever calls sees to it that it is of this model, these cases and this `apply`.
            None: nothing is kept.
        on_cases: called with the number of cases of each batch.
    """
    n_answers = max(len(case.answers) for case in cases)

    def read(numbers: Sequence[int]) -> Arrays:
        asks = Asks([cases[i] for i in numbers])
        return read_answers(asks, apply(asks), n_answers)

    return CaseScores.of(over(cases, read, subject.batch_size, folder, on_cases))


def damage(
    subject: Subject, texts: Sequence[Neutral], before: Apply, after: Apply, folder: Path | None = None
) -> NDArray[np.float64]:
    """KL(before || after) of the next token, mean over the places of each neutral text, nats: `[n_texts]`."""

    def read(numbers: Sequence[int]) -> Arrays:
        asks = Asks([texts[i] for i in numbers])
        p, q = (apply(asks).double().log_softmax(-1) for apply in (before, after))
        kl = (p.exp() * (p - q)).sum(-1).clamp_min(0).numpy()
        sums = np.bincount(asks.place_owner, weights=kl, minlength=len(asks.cases))
        return {"kl": sums / np.bincount(asks.place_owner, minlength=len(asks.cases))}

    return over(texts, read, subject.batch_size, folder)["kl"]


def over(
    cases: Sequence[C],
    read: Callable[[Sequence[int]], Arrays],
    batch_size: int,
    folder: Path | None = None,
    on_cases: Callable[[int], object] = lambda n: None,
) -> dict[str, NDArray[np.float64]]:
    """`read` over batches of cases of similar length, kept in a folder or not: name -> `[n_cases, ...]` in the cases' order."""
    order = sorted(range(len(cases)), key=lambda i: max(map(len, cases[i].prompts.values())))
    if folder is not None:
        return dict(kept_in_batches(read, order, folder, batch_size=batch_size, on_items=on_cases))
    found: dict[str, NDArray[np.float64]] = {}
    for start in range(0, len(order), batch_size):
        numbers = order[start : start + batch_size]
        for name, values in read(numbers).items():
            found.setdefault(name, np.full((len(order), *values.shape[1:]), np.nan))[numbers] = values
        on_cases(len(numbers))
    return found
