"""Two models of the same outputs side by side, typed: how far the outputs are the same, what differs inside, and what differs between models of one recipe."""

from dataclasses import dataclass
from typing import Literal

from sparsetrain.stats.number import Number

Called = Literal["different", "alike", "not judged"]


@dataclass(frozen=True, kw_only=True)
class FractureMatch:
    """The matching gate of two models on one split."""

    pair: str
    split: Literal["train", "held out"]
    kl: Number
    """The larger one of both directions, nats per answer token."""
    agreement: Number
    """Share of inputs with the same most probable token."""


@dataclass(frozen=True, kw_only=True)
class FractureRow:
    """One measure of both models."""

    key: str
    words: str
    less: Literal["lower", "higher", ""]
    """Which is less fractured or less entangled; empty: it decides nothing."""
    main: bool
    """Whether the pair is called different by it; the others stand beside."""
    a: Number
    b: Number
    difference: Number
    """b - a."""
    null: Number
    """Largest difference between two models of the null."""
    bound: Number
    """From which size on a difference is one."""
    called: Called


@dataclass(frozen=True, kw_only=True)
class FractureSection:
    """Two models that have the same outputs."""

    a: str
    b: str
    weights_a: str
    """sha256."""
    weights_b: str
    inputs: str
    """What they were asked, in words."""
    rules: tuple[str, ...]
    contexts: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    """Rows of a user's file that made no question, and why."""
    target_kl: Number
    """Mean output KL of every perturbation set, nats."""
    matches: tuple[FractureMatch, ...]
    """Of a and b, and of every pair of the null."""
    rows: tuple[FractureRow, ...]
    null: tuple[str, ...]
    """Models of one recipe, without a and b."""
    method: tuple[str, ...]
    """Paragraphs."""
