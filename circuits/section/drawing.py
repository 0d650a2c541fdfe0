"""What a page draws of a circuit: its nodes and edges, and what they do on prompts and text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Side = Literal["positive", "negative"]


NodeKind = Literal["attn_in", "attn_q", "attn_k", "attn_v", "attn_z", "attn_out", "mlp_in", "mlp_neuron", "mlp_out"]
"""The places whose channels are nodes, in forward order; `attn_z` (what heads hand to the output projection) in models of other people."""
SIDES: tuple[Side, Side] = ("positive", "negative")
"""Names of the two prompts of a pair."""


Short = int | float
"""A number of three significant digits; a whole one stays an int, since a page holds thousands of them."""


@dataclass(frozen=True, kw_only=True)
class Wire:
    """One thing that a node reads or writes: another node, a token, a bias."""

    what: str
    weight: float | None


@dataclass(frozen=True, kw_only=True)
class DrawnNode:
    """A node, `<hook point>:<channel>`; it reads and writes nodes, or the strongest tokens of its (un)embedding column."""

    id: str
    layer: int
    kind: NodeKind
    channel: int
    mean: float | None
    reads: tuple[Wire, ...]
    writes: tuple[Wire, ...]
    ablation_delta: float | None = None
    """Rise of the task loss without it, nats."""


@dataclass(frozen=True, kw_only=True)
class DrawnEdge:
    """An edge of a drawing: a nonzero weight between two nodes."""

    source: str
    target: str
    weight: float


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A circuit as its page draws it."""

    nodes: tuple[DrawnNode, ...]
    edges: tuple[DrawnEdge, ...]
    d_head: int | None = None


@dataclass(frozen=True, kw_only=True)
class TextFacts:
    """The text on which activations were read."""

    source: str
    n_windows: int
    n_tokens: int


@dataclass(frozen=True, kw_only=True)
class PromptTokens:
    """One side of a pair as tokens; an answer that is any other token is None."""

    pair: int
    side: Side
    tokens: tuple[str, ...]
    right: str | None
    wrong: str | None


@dataclass(frozen=True, kw_only=True)
class TextActivity:
    """A window of text where a node departs most from its mean, in the full model; it was chosen for its `peak`."""

    tokens: tuple[str, ...]
    values: tuple[Short, ...]
    peak: int


@dataclass(frozen=True, kw_only=True)
class PromptActivity:
    """A node's activation along a prompt (an index into `prompts`), in the circuit."""

    prompt: int
    values: tuple[Short, ...]


@dataclass(frozen=True, kw_only=True)
class NodeActivity:
    """What a node does."""

    importance: Short
    """Share of the influence on the answer that runs through the node."""
    direct: tuple[tuple[Short, ...], ...] | None
    """Effect on logits `[side][answer]`, mean over pairs, through the unembedding with the norm frozen; None: does not reach it."""
    removal: tuple[tuple[Short, ...], ...]
    """How much lower the logits `[side][answer]` are when the node is removed from the circuit."""
    text: tuple[TextActivity, ...]
    prompts: tuple[PromptActivity, ...]


@dataclass(frozen=True, kw_only=True)
class HeadAttention:
    """Attention of one head on one prompt, in the circuit; row i of `weights` has the shares of keys 0 to i, then the sink's."""

    layer: int
    head: int
    prompt: int
    weights: tuple[tuple[Short, ...], ...]


@dataclass(frozen=True, kw_only=True)
class DrawnPath:
    """A strongest path on a prompt of the first pair; `share` is of the influence, `effect` first-order, on logit(right) - logit(wrong)."""

    prompt: int
    nodes: tuple[str, ...]
    tokens: tuple[tuple[int, Short], ...]
    """Position and share."""
    share: Short
    effect: Short


@dataclass(frozen=True, kw_only=True)
class Viewer:
    """What the page shows beyond the drawing, in three digits; it illustrates, and no verdict rests on it."""

    text: TextFacts
    n_pairs: int
    """Held-out pairs behind effects and prompts."""
    n_flow_pairs: int
    """Held-out pairs behind importance."""
    prompts: tuple[PromptTokens, ...]
    nodes: Mapping[str, NodeActivity]
    edges: tuple[Short, ...]
    """Importance of each edge, in the order of `graph.edges`."""
    heads: tuple[HeadAttention, ...]
    paths: tuple[DrawnPath, ...]
    token_share: tuple[Short, ...]
    """Per prompt of the first pair: influence that begins at a token; the rest begins at biases and silenced channels."""
    token_effect: tuple[Short, ...]
    """Per prompt: logits that the last token adds directly, through embedding and bigram table."""
