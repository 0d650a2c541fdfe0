"""The section `circuits` of report.json, typed: what a search and its evidence leave for readers, renderers and verifiers.

A field that is None by default is absent from the file until the stage that fills it has run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from sparsetrain.stats.decisions import Word
from sparsetrain.stats.number import Number, StepCurve
from sparsetrain.typed import Json

TaskStatus = Literal[
    "circuit", "like_nonsense", "bigram", "failed_by_model", "no_circuit", "not_searched", "unsuitable"
]
CardVerdict = Literal["pass", "fail", "not enough data"]
Sense = Literal["at least", "at most"]
Role = Literal["verdict", "further"]
"""Whether a criterion decides on the card or is a further measurement."""
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


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """What a measured value is compared with."""

    sense: Sense
    value: float


@dataclass(frozen=True, kw_only=True)
class CardEntry:
    """One criterion of a report card (`scripts/find_circuits.py card=quick`); the card passes where all of the role `verdict` do."""

    name: str
    group: str
    question: str
    role: Role
    value: Number
    threshold: Threshold
    verdict: CardVerdict
    detail: Mapping[str, Json]


def card_verdict(entries: Sequence[CardEntry]) -> CardVerdict:
    """The card as a whole: fail if any criterion that decides fails, else not enough data if any lacks it, else pass."""
    verdicts = {entry.verdict for entry in entries if entry.role == "verdict"}
    return "fail" if "fail" in verdicts else "not enough data" if "not enough data" in verdicts else "pass"


@dataclass(frozen=True, kw_only=True)
class EdgeCircuitEntry:
    """What is left when edges that can be spared are dropped; none is, where all together miss the search's aim."""

    path: str
    n_nodes: Number
    n_edges: Number
    reached: bool
    task_loss: Number
    val_loss: Number


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Calibration of the answers' logits."""

    scale: float
    shift: float


@dataclass(frozen=True, kw_only=True)
class RawNumbers:
    """Of the answers' logits as they are: no scale and no shift."""

    loss: Number
    accuracy: Number
    agreement: Number
    """Share of prompts on which circuit and full model put the same answer ahead."""


@dataclass(frozen=True, kw_only=True)
class RandomNecessity:
    """Necessity of random connected circuits of as many edges."""

    mean: Number
    hi: Number
    n: int


@dataclass(frozen=True, kw_only=True)
class RandomLosses:
    """The circuit among random connected ones of as many edges; `n_beaten` have a higher loss on the same pairs."""

    n: int
    n_beaten: Number
    circuit_loss: Number
    removed: Number
    """Share of the loss of the best random circuits (5% quantile; at most ln 2) that the circuit takes away."""
    losses: tuple[float, ...]
    note: str


@dataclass(frozen=True, kw_only=True)
class AblationEntry:
    """Task loss and logit difference of one way to run the model."""

    name: str
    loss: Number
    logit_diff: Number


class Sized:
    """What has nodes, and edges between them where the model has any."""

    n_nodes: Number
    n_edges: Number

    @property
    def size(self) -> Number:
        """What its size is counted in: edges; nodes in a model without edges."""
        return self.n_nodes if self.n_edges.value is None else self.n_edges

    @property
    def size_words(self) -> str:
        """`12 nodes, 40 edges`, or as many of the two as there are."""
        counts = (number for number in (self.n_nodes, self.n_edges) if number.value is not None)
        return ", ".join(f"{count.value:,} {count.unit}" for count in counts)


@dataclass(frozen=True, kw_only=True)
class CircuitEntry(Sized):
    """One circuit with its evidence on held-out pairs."""

    seed: int
    path: str
    """The saved circuit, relative to the run's folder."""
    n_nodes: Number
    n_edges: Number
    """Nonzero weights between kept nodes; embedding, unembedding, bigram table and biases are not among them. None, with the reason,
    in a model of other people, and so are the numbers that rest on edges."""
    task_loss: Number
    val_loss: Number
    """On the search's pairs."""
    accuracy: Number
    agreement: Number
    """Share of prompts on which circuit and full model, both calibrated, put the same answer ahead."""
    raw: RawNumbers
    edge_task_loss: Number
    """With the edges between kept nodes alone: a deleted edge carries weight x mean of its source."""
    calibration: Scaling
    necessity: Number
    """Share of the logit difference lost when only the circuit is ablated."""
    necessity_random: RandomNecessity
    random: RandomLosses
    biases: Number
    graph: Drawing
    ablations: tuple[AblationEntry, ...]
    edge_circuit: EdgeCircuitEntry | None = None
    card: tuple[CardEntry, ...] | None = None
    viewer: Viewer | None = None
    """Of the best circuit, if it has at most 500 nodes."""


@dataclass(frozen=True, kw_only=True)
class TwinEntry(Sized):
    """The same prompts with unrelated answers, searched with the task's own budget: a larger circuit, or none, is reassuring; what
    missed the target is not saved, its loss `measured`."""

    path: str
    reached: bool
    n_searches: int
    """Seeds x prices (or trials), as many as the task's."""
    n_candidates: Number
    """Nodes that its search could choose from."""
    n_nodes: Number
    n_edges: Number
    task_loss: Number
    note: str


@dataclass(frozen=True, kw_only=True)
class MaskSeeds:
    """Overlap of the circuits of different mask seeds, the nodes in all of them; `note`: what different ones that reach the target share."""

    jaccard_nodes: Number
    core_nodes: tuple[str, ...]
    note: str
    n_searches: int
    n_candidates: Number
    """Nodes that the search could choose from."""


@dataclass(frozen=True, kw_only=True)
class DisjointCircuit:
    """A circuit without the nodes of the task's own and of those before it."""

    path: str
    n_nodes: Number
    n_edges: Number
    task_loss: Number
    raw_accuracy: Number


@dataclass(frozen=True, kw_only=True)
class Redundancy:
    """What is found when the circuits found are excluded (`circuits.find.exclude`)."""

    circuits: tuple[DisjointCircuit, ...]
    exhausted: bool
    """Whether the last search found nothing: with the task's own circuit there are `n_disjoint`, and no more by this search."""
    n_disjoint: Number
    shared_heads: tuple[str, ...]
    """Attention heads that all of them use, through other channels."""
    shared_channels: tuple[int, ...]
    """Channels of the residual stream that all of them read or write, at other places."""


@dataclass(frozen=True, kw_only=True)
class RankedCircuit:
    """The circuit that another ranking of the nodes leads to."""

    method: str
    reached: bool
    path: str | None = None
    n_nodes: Number | None = None
    n_edges: Number | None = None
    task_loss: Number | None = None
    val_loss: Number | None = None


@dataclass(frozen=True, kw_only=True)
class ModelGate:
    """The full model on held-out pairs."""

    passed: bool
    accuracy: Number
    loss: Number
    raw_accuracy: Number
    raw_loss: Number
    calibration: Scaling
    """From the fit pairs."""


@dataclass(frozen=True, kw_only=True)
class EmptyCircuit:
    """The circuit of no nodes, which sees the current token alone."""

    loss: Number


@dataclass(frozen=True, kw_only=True)
class ExamplePair:
    """One pair of a task."""

    positive: str
    negative: str
    answer_positive: str
    answer_negative: str


@dataclass(frozen=True, kw_only=True)
class TaskEntry:
    """One task: gate, circuits, controls."""

    task: str
    description: str
    status: TaskStatus
    """`circuit`: the model passes the gate, and the circuit chosen on validation pairs reaches the target on held-out pairs, with a raw
    accuracy of at least `min_raw_accuracy`; `like_nonsense`: so does it, but the nonsense twin has a circuit that is not
    `min_twin_ratio` times as large; `bigram`: the empty circuit reaches the target already; `failed_by_model`: the model misses the target, nothing is
    pruned (unless gates are off); `no_circuit`: the search missed it; `not_searched`: the model passes the gate, and the run searches other
    tasks (`circuits.most`); `unsuitable`: the task cannot be put into pairs with this
    tokenizer, so that nothing was measured, and `note` says why."""
    gate: ModelGate
    empty: EmptyCircuit
    rejected: Mapping[str, int]
    """Reason -> pairs left out."""
    example: ExamplePair
    circuits: tuple[CircuitEntry, ...]
    """Of the mask seeds that reached the search's aim; the first one was chosen on validation pairs and is the task's circuit."""
    note: str | None = None
    nonsense_twin: TwinEntry | None = None
    seeds: MaskSeeds | None = None
    seconds: Number | None = None
    """Of the search."""
    baselines: tuple[RankedCircuit, ...] | None = None
    redundancy: Redundancy | None = None

    @property
    def has_circuit(self) -> bool:
        """Whether a circuit meets the target; a nonsense twin of its size does not take it away, it says what it is worth."""
        return self.status in ("circuit", "like_nonsense")


@dataclass(frozen=True, kw_only=True)
class RankingRatio:
    """Edges by another ranking over edges by learned pruning: geometric mean over the tasks that both solve, interval over tasks."""

    method: str
    ratio: Number
    tasks: tuple[str, ...]
    only_learned: tuple[str, ...]
    only_baseline: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class MeansFacts:
    """Where the means of deleted nodes come from."""

    n_tokens: int
    source: str


@dataclass(frozen=True, kw_only=True)
class Definitions:
    """What the numbers mean, in words."""

    task_loss: str
    ablation: str
    kind: str
    means: MeansFacts
    random: str


@dataclass(frozen=True, kw_only=True)
class CircuitsSection:
    """What the searches found, task by task in their order, and the evidence."""

    definitions: Definitions
    target_loss: float
    """Task loss that a circuit must reach, nats."""
    min_raw_accuracy: float
    """Accuracy that it must have without calibration."""
    min_twin_ratio: float
    """A circuit of the nonsense twin with fewer edges than this multiple of the task's makes it `like_nonsense`."""
    calibration: Literal["model", "circuit", "none"]
    """`model`: the shift of the full model is kept for its circuits; `circuit`: scale and shift fitted to each; `none`."""
    gates: Literal["on", "off"]
    tasks: tuple[TaskEntry, ...]
    baselines: tuple[RankingRatio, ...] | None = None
    """Of `scripts/find_circuits.py baselines=true`, best first."""


@dataclass(frozen=True, kw_only=True)
class FormationPoint:
    """A task at one step of a training."""

    step: int
    status: TaskStatus
    model_loss: Number
    model_accuracy: Number
    n_nodes: Number | None = None
    """Of the best circuit, as what follows; None where there is no circuit."""
    n_edges: Number | None = None
    task_loss: Number | None = None
    jaccard_seeds: Number | None = None
    """Overlap of the mask seeds: what to expect of the same circuit found again."""
    jaccard_final: Number | None = None
    """Overlap with the circuit of the finished model."""
    jaccard_other_tasks: Number | None = None
    """Mean overlap with the final circuits of other tasks: what any circuit of this model shares."""


@dataclass(frozen=True, kw_only=True)
class FormationTask:
    """A followed task, in the order of steps; the last point is the finished model."""

    task: str
    points: tuple[FormationPoint, ...]


@dataclass(frozen=True, kw_only=True)
class SplitCurve(StepCurve):
    """Activation sparsity of one split over steps."""

    split: str


@dataclass(frozen=True, kw_only=True)
class SparsityCurves:
    """The headline measure beside the circuits; empty words and no curves where nothing was watched."""

    measure: str = ""
    hook_point: str = ""
    curves: tuple[SplitCurve, ...] = ()


@dataclass(frozen=True, kw_only=True)
class FormationSection:
    """How circuits form over a training (`formation.tasks`)."""

    tasks: tuple[FormationTask, ...]
    density: StepCurve
    """Of the weights."""
    sparsity: SparsityCurves


@dataclass(frozen=True, kw_only=True)
class ArmEntry:
    """One arm, over its seeds."""

    name: str
    d_model: int
    method: Literal["topk", "none"]
    density: Number
    abs_topk: bool
    n_edges: Number
    val_loss: Number
    passed: tuple[str, ...]
    """Tasks, in every seed; those that the empty circuit solves do not count."""
    edges: Mapping[str, tuple[int, ...]]
    """Task -> edges of its circuit in every seed that has one."""
    common_edges: Number
    """Geometric mean over the tasks that every arm solves."""


@dataclass(frozen=True, kw_only=True)
class PairEntry:
    """A sparse and a dense arm of about the same loss."""

    sparse: str
    dense: str
    loss_gap: Number
    """Dense / sparse - 1."""
    tasks: tuple[str, ...]
    """Compared."""
    passed_by_both: tuple[str, ...]
    without_circuit: Mapping[str, tuple[str, ...]]
    """Arm -> tasks that both pass and for which it has no circuit."""
    ratio: Number
    """Edges, dense / sparse."""
    verdict: Word = "undecided"


@dataclass(frozen=True, kw_only=True)
class ArmsSection:
    """Several models beside each other (study `comparison`); pairs lie within `max_gap` of loss, `common_tasks` are solved by every arm."""

    seeds: tuple[int, ...]
    max_gap: float
    common_tasks: tuple[str, ...]
    models: tuple[ArmEntry, ...]
    pairs: tuple[PairEntry, ...]
