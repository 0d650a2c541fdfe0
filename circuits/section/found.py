"""What the search of a task and its evidence leave behind, and the section that holds all tasks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from circuits.section.card import CardEntry
from circuits.section.drawing import Drawing, Viewer
from sparsetrain.stats.number import Number

TaskStatus = Literal[
    "circuit", "like_nonsense", "bigram", "failed_by_model", "no_circuit", "not_searched", "unsuitable"
]


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
class ParaphrasedGate:
    """The full model on held-out pairs in a second wording, which nothing is fitted to or chosen by."""

    passed: bool
    loss: Number
    """With the calibration from the fit pairs of the first wording."""
    accuracy: Number
    raw_accuracy: Number


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
    paraphrased: ParaphrasedGate | None = None
    """None where the task has no second wording, or not with this tokenizer."""


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
    def is_solved(self) -> bool:
        """Whether the model does the task, and not by the current token alone."""
        return self.gate.passed and self.status != "bigram"

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
