"""Facts (subject, relation) -> object with known exposure counts, where only the binding differs in familiarity.

1. Every subject has one fact per role; a role says how often and when the fact is shown: n times for n of `levels`, in one
   half of the training only (switched on, switched off), or n times with an object drawn anew (unlearnable).
2. Which relation carries which role is a random Latin square over subjects, and within a role every object is used once.
   So every subject, relation and object is shown equally often, and exposure belongs to the binding alone.
   The facts of the other roles are each other's filler.
3. n exposures are spread evenly over the training, at random within each n-th of it: no level is seen later than another.
4. All prompts have one length and end in the same token: [subject, relation, ask] -> object.

Besides, facts of subjects that are never shown at all are measured; they are no part of the balance.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from sparsetrain.store import write_atomic
from sparsetrain.typed import Count, Index

ASK = 0
"""The token that every prompt ends in."""


class Exposed(Protocol):
    """What says how many facts there are and how often each is shown: whoever has it can have its facts drawn."""

    @property
    def n_groups(self) -> int:
        """Subjects (and objects) in multiples of the number of roles."""
        ...

    @property
    def roles(self) -> Sequence["Role"]:
        """One per relation."""
        ...

    @property
    def n_new_subjects(self) -> int:
        """Subjects that are never shown."""
        ...


@dataclass(frozen=True, kw_only=True)
class FactsConfig:
    """How many facts, and how often each is shown. The number of optimizer steps follows from them. ours"""

    n_groups: Count = 5
    """Subjects (and objects) in multiples of the number of roles."""
    levels: tuple[int, ...] = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
    """Exposure counts of facts with one object; 0 is one of them and the largest is even."""
    unlearnable: tuple[int, ...] = (16, 256)
    """Exposure counts of facts whose object is drawn anew at every exposure."""
    n_new_subjects: Index = 10
    """Subjects that are never shown, measured only."""

    def __post_init__(self) -> None:
        levels = self.levels
        if len(levels) < 3 or list(levels) != sorted(set(levels)) or levels[0] != 0 or levels[-1] % 2:
            raise ValueError(f"levels={list(levels)} must rise from 0 to an even number, at least three of them")
        if not set(self.unlearnable) <= set(levels) - {0} or levels[-1] not in self.unlearnable:
            raise ValueError(
                f"unlearnable={list(self.unlearnable)} must be among the levels above 0 and have the largest"
            )

    @property
    def roles(self) -> tuple["Role", ...]:
        """One per relation."""
        half = self.levels[-1] // 2
        return (
            *(Role(name=f"shown {n}", kind="shown", n=n) for n in self.levels),
            Role(name="switched on", kind="on", n=half),
            Role(name="switched off", kind="off", n=half),
            *(Role(name=f"unlearnable {n}", kind="unlearnable", n=n) for n in self.unlearnable),
        )

    @property
    def n_subjects(self) -> int:
        """Shown subjects; as many objects."""
        return self.n_groups * len(self.roles)

    @property
    def d_vocab(self) -> int:
        """Tokens: ask, subjects, objects, relations, new subjects."""
        return 1 + 2 * self.n_subjects + len(self.roles) + self.n_new_subjects


@dataclass(frozen=True, kw_only=True)
class Role:
    """How a fact is shown."""

    name: str
    kind: str
    """shown: over the whole training; on: in its second half; off: in its first half; unlearnable: as shown, with an object
    drawn anew each time; new: never, and neither is its subject."""
    n: int
    """Exposures."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A drawn set of facts and the order in which they are shown."""

    roles: tuple[Role, ...]
    """Those of the config, then `new subject`."""
    role: NDArray[np.int64]
    """Index in `roles` of each fact, `[n_facts]`."""
    subject: NDArray[np.int64]
    """0-based, new ones after the shown ones, `[n_facts]`."""
    prompts: NDArray[np.int64]
    """`[n_facts, 4]`: subject, relation, ask, object. The object of an unlearnable fact is the one shown last."""
    order: NDArray[np.int64]
    """Fact of each exposure, `[n_exposures]`."""
    rows: NDArray[np.int64]
    """What is trained on, `[n_exposures, 4]`."""
    n_first_half: int
    """Exposures before facts are switched."""

    @property
    def n(self) -> NDArray[np.int64]:
        """Planned exposures of each fact, `[n_facts]`."""
        return np.array([r.n for r in self.roles])[self.role]

    def of_kind(self, kind: str, n: int | None = None) -> NDArray[np.bool_]:
        """Which facts have a role of this kind (and count), `[n_facts]` bool."""
        wanted = [r.kind == kind and n in (None, r.n) for r in self.roles]
        return np.array(wanted)[self.role]

    def counts(self, n_exposures: int | None = None) -> NDArray[np.int64]:
        """How often each fact has been shown after the first `n_exposures`, `[n_facts]`."""
        return np.bincount(self.order[:n_exposures], minlength=len(self.role))


def draw_facts(config: Exposed, seed: int) -> Facts:
    """Draws facts and exposures; a function of config and seed, checked by `check_balance`."""
    rng = np.random.default_rng(seed)
    roles = config.roles
    n_roles, n_subjects = len(roles), len(roles) * config.n_groups
    first_object, first_relation = 1 + n_subjects, 1 + 2 * n_subjects
    # Latin square of each group of subjects: cyclic shifts with shuffled rows and columns.
    shifts = (np.arange(n_roles)[:, None] + np.arange(n_roles)) % n_roles
    squares = [shifts[rng.permutation(n_roles)][:, rng.permutation(n_roles)] for _ in range(config.n_groups)]
    role = np.concatenate(squares)  # [subject, relation]
    objects = np.empty_like(role)
    for r in range(n_roles):
        objects[role == r] = rng.permutation(n_subjects)
    subject, relation = (index.ravel() for index in np.indices(role.shape))
    role, objects = role.ravel(), objects.ravel()
    prompts = np.stack(
        [1 + subject, first_relation + relation, np.full_like(role, ASK), first_object + objects], axis=1
    )

    order, times, shown = [], [], []
    for index, r in enumerate(roles):
        facts = np.flatnonzero(role == index)
        bins = (np.arange(r.n) + rng.random((len(facts), r.n))) / max(r.n, 1)
        start, length = {"on": (0.5, 0.5), "off": (0.0, 0.5)}.get(r.kind, (0.0, 1.0))
        order.append(np.repeat(facts, r.n))
        times.append((start + length * bins).ravel())
        if r.kind == "unlearnable":
            # Every object as often as any other, in any order.
            shown.append(rng.permutation(np.repeat(np.arange(n_subjects), r.n)) + first_object)
        else:
            shown.append(prompts[order[-1], 3])
    order, times, shown = (np.concatenate(parts) for parts in (order, times, shown))
    by_time = np.argsort(times, kind="stable")
    order, shown = order[by_time], shown[by_time]
    rows = prompts[order]
    rows[:, 3] = shown
    unlearnable = np.array([r.kind == "unlearnable" for r in roles])[role[order]]
    # Later exposures overwrite earlier ones.
    prompts[order[unlearnable], 3] = shown[unlearnable]

    new = np.repeat(np.arange(config.n_new_subjects), n_roles)
    new_prompts = np.stack(
        [
            first_relation + n_roles + new,
            first_relation + np.tile(np.arange(n_roles), config.n_new_subjects),
            np.full_like(new, ASK),
            first_object + rng.integers(n_subjects, size=len(new)),
        ],
        axis=1,
    )
    facts = Facts(
        roles=(*roles, Role(name="new subject", kind="new", n=0)),
        role=np.concatenate([role, np.full(len(new), n_roles)]),
        subject=np.concatenate([subject, n_subjects + new]),
        prompts=np.concatenate([prompts, new_prompts]),
        order=order,
        rows=rows,
        n_first_half=int((times < 0.5).sum()),
    )
    check_balance(facts)
    return facts


def check_balance(facts: Facts) -> None:
    """Counts in the exposures themselves how often every token and fact is shown.

    Raises:
        ValueError: a token or a fact is shown more or less often than it should be; says which.
    """
    for place, name in ((0, "subject"), (1, "relation"), (3, "object")):
        known = np.unique(facts.prompts[facts.role < len(facts.roles) - 1, place])
        counts = np.array([(facts.rows[:, place] == token).sum() for token in known])
        if len(set(counts)) > 1 or counts.sum() != len(facts.rows):
            odd = known[np.argmax(np.abs(counts - np.median(counts)))]
            raise ValueError(
                f"{name}s are not balanced: token {odd} is shown {counts[known == odd][0]} times, the median is "
                f"{np.median(counts):g}; familiarity would belong to tokens, not to bindings"
            )
    wrong = np.flatnonzero(facts.counts() != facts.n)
    if len(wrong):
        raise ValueError(f"fact {wrong[0]} is shown {facts.counts()[wrong[0]]} times, not {facts.n[wrong[0]]}")


def write_exposures(facts: Facts, batch_size: int, path: Path) -> None:
    """The exposure log: `step,fact,role,subject,relation,object` of every exposure in order, tokens as numbers."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["step", "fact", "role", "subject", "relation", "object"])
    names = [r.name for r in facts.roles]
    for k, (fact, (subject, relation, _, obj)) in enumerate(zip(facts.order, facts.rows, strict=True)):
        writer.writerow([k // batch_size, fact, names[facts.role[fact]], subject, relation, obj])
    write_atomic(path, out.getvalue().encode())
