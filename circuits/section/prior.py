"""Context against prior, typed: how a model answers in conflicts, under every arm, and what was tried to get there."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sparsetrain.stats.number import Number


@dataclass(frozen=True, kw_only=True)
class PriorScores:
    """How cases are answered; intervals are over facts."""

    p_context: Number
    """Probability of the whole answer that the prompt states."""
    p_prior: Number
    """The same of memory's."""
    p_other: Number
    memory_ratio: Number
    """M_R = p_o / (p_o + p_s), of length-normalised probabilities."""
    margin: Number
    """Log-probability of the context's answer less that of memory's, nats/token."""
    says_context: Number
    """Share of greedy answers."""
    says_prior: Number
    says_other: Number
    persuasion: Number
    """KL(p(A | x, q) || p(A | q)) over the answers of a case, nats."""


@dataclass(frozen=True, kw_only=True)
class PriorReference:
    """A prompt that nothing was tuned for."""

    name: str
    n_cases: int
    scores: PriorScores


@dataclass(frozen=True, kw_only=True)
class PriorArm:
    """An arm with the setting that was best on fitting cases, on the evaluation cases that the model knows."""

    name: str
    kind: Literal["prompt", "intervention"]
    setting: str
    source: str
    fitted: Number
    """The measure on the fitting cases that chose the setting."""
    scores: PriorScores
    random: Number | None = None
    """The measure under random heads, directions, nodes or donors of the same size; None: a prompt has no such control."""
    beyond_random: Number | None = None
    """The arm less its random control, of the same cases."""
    restored: Number | None = None
    """Share of greedy answers that are memory's under the opposite intent."""
    collateral: Number
    """KL of the next token on neutral text against the statement said once, nats."""


@dataclass(frozen=True, kw_only=True)
class PriorTried:
    """One setting of one arm on the fitting cases."""

    arm: str
    kind: Literal["prompt", "intervention"]
    setting: str
    n_cases: int
    score: Number
    chosen: bool
    n_learning: int
    """How often learning (heads, a direction) has read each fitting case besides."""


@dataclass(frozen=True, kw_only=True)
class PriorGroup:
    """Cases of one relation, or of one bin of the strength of the prior."""

    name: str
    strength: Number | None = None
    """Mean strength of a bin."""
    n_cases: int
    n_known: int
    """Answered from memory where nothing is stated."""
    n_prior_wins: int
    """Still answered from memory although the opposite is stated once."""
    stated: Number
    """The measure with the statement said once, over the known cases."""
    best_prompt: Number
    best_intervention: Number
    headroom: Number
    """Best intervention less best prompt, of the same known cases."""


@dataclass(frozen=True, kw_only=True)
class PriorHead:
    """An attention head and what it does to the margin towards the context's answer."""

    name: str
    effect: Number
    """Margin with the head less margin without it, nats/token: positive towards the context."""


@dataclass(frozen=True, kw_only=True)
class PriorHalf:
    """Exposures at which P(context) has fallen to one half (`n50`)."""

    prompt: str
    n50: Number


@dataclass(frozen=True, kw_only=True)
class ContextPriorSection:
    """A model whose prompts contradict what it knows: what it answers, and what turns it."""

    model: str
    measure: Literal["p_context", "preference", "says_context"]
    """What arms were tuned and compared by."""
    strength: str
    """What the strength of the prior is, in words."""
    n_cases: int
    n_fit: int
    n_facts: int
    n_facts_fit: int
    """Facts of the fitting cases; those of the others are evaluated."""
    n_known: int
    """Evaluation cases that the model answers from memory where nothing is stated: what arms are judged on."""
    n_prior_wins: int
    n_skipped: int
    skipped: Mapping[str, str]
    """Place -> why it is no case; the first of them."""
    references: tuple[PriorReference, ...]
    arms: tuple[PriorArm, ...]
    left_out: Mapping[str, str]
    """Arm -> why it was not tried."""
    best_prompt: str
    """Chosen on the fitting cases; empty: none could be tried."""
    best_intervention: str
    headroom: Number
    """Best intervention less best prompt."""
    groups: tuple[PriorGroup, ...]
    by_strength: tuple[PriorGroup, ...]
    susceptibility: Number
    """Mean over cases of the mutual information of answer and context, the contexts being the conflicting, the agreeing and the irrelevant one."""
    susceptibility_form: str
    half_points: tuple[PriorHalf, ...] = ()
    budget: tuple[PriorTried, ...]
    head_map: tuple[tuple[float, ...], ...] = ()
    """`[layer][head]`, mean effect over fitting cases."""
    heads: tuple[PriorHead, ...] = ()
    """Those that move most towards the context, then those that move most towards memory."""
