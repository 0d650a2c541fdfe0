"""What the study of bridges keeps: of every seed the losses of hybrid passes, and of every task the node that steers, its curve and the controls'."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from sparsetrain.studies.engine import StageResult

NAN = float("nan")
NODE = "node of the circuit"
MAX_GAP = 0.3
"""Nats/token that a hybrid pass may lose to the dense model."""
CROSSED = 0.5
QUIET = 0.1
"""Probability by which a control may move."""


@dataclass(frozen=True, kw_only=True)
class StudentResult(StageResult):
    """One student with its bridge."""

    density: float
    """Nonzeros / entries of all weight matrices of its blocks."""
    n_nonzero: int
    """Nonzero parameters, the bigram table left out."""


@dataclass(frozen=True, kw_only=True)
class CrossedLoss:
    """A way through both models."""

    route: str
    single: bool
    """Whether it crosses once."""
    start: str
    site: str
    """Of the first crossing; empty: none."""
    loss: float
    """Next token, nats/token."""
    kl: float
    """From the dense model, nats/token."""


@dataclass(frozen=True, kw_only=True)
class CrossingResult(StageResult):
    """The table of one seed; the dense model comes first, then the sparse one."""

    losses: tuple[CrossedLoss, ...]
    n_tokens: int

    @property
    def dense(self) -> float:
        """Loss of the dense model alone."""
        return self.losses[0].loss

    def gaps(self, start: str) -> tuple[float, ...]:
        """What every single crossing from a model loses to the dense model, site by site, nats/token."""
        return tuple(one.loss - self.dense for one in self.losses if one.single and one.start == start)

    @property
    def worst(self) -> float:
        """The largest of them."""
        return max((*self.gaps("dense"), *self.gaps("sparse")))


@dataclass(frozen=True, kw_only=True)
class TaskSteering:
    """One task in one seed."""

    dense_accuracy: float
    """Of the dense model on held-out pairs, two answers, not calibrated."""
    sparse_loss: float
    """Task loss of the sparse model, calibrated as in a search, nats."""
    n_nodes: int
    """Of its circuit; 0: none found."""
    n_edges: int
    node: str
    site: str
    n_candidates: int
    n_rows: int
    """Held-out prompts."""
    curves: Mapping[str, tuple[float, ...]]
    """Mean probability of what is asked for, of both answers of the pair, at every strength: the node's, the dense model's own change, and every control's, those that chance decides as the mean of draws."""
    whole: Mapping[str, tuple[float, ...]]
    """The same of the node and of the dense model's own change, over the whole vocabulary instead of both answers."""
    moved: Mapping[str, float]
    """Control -> largest change of its curve; of those that chance decides the mean over draws."""

    @property
    def reaches(self) -> float:
        """The highest point of the node's curve; NaN where there is no node."""
        return max(self.curves[NODE]) if self.curves else NAN

    @property
    def crosses(self) -> float:
        """By how much the node's curve lies above a half at its highest, having begun below; NaN where there is no node."""
        return min(self.reaches - CROSSED, CROSSED - self.curves[NODE][0]) if self.curves else NAN

    def movement(self, control: str) -> float:
        """NaN where there is no node."""
        return self.moved.get(control, NAN)

    @property
    def carries(self) -> bool:
        """Whether the node's curve crosses a half and no control moves by more than `QUIET`."""
        return self.carries_beside(self.moved)

    def carries_beside(self, controls: Collection[str]) -> bool:
        """The same beside some of the controls alone."""
        return bool(self.curves) and self.crosses > 0 and all(self.moved[name] <= QUIET for name in controls)


@dataclass(frozen=True, kw_only=True)
class SteeringResult(StageResult):
    """All tasks of one seed."""

    strengths: tuple[float, ...]
    tasks: Mapping[str, TaskSteering]


@dataclass(frozen=True, kw_only=True)
class BridgeReadings:
    """One seed, as the claims read it."""

    student: StudentResult
    crossings: CrossingResult
    steering: SteeringResult
    task: str | None = None
    """None: claims about the whole."""

    @property
    def of_task(self) -> TaskSteering:
        """That of the task that is claimed about."""
        assert self.task is not None
        return self.steering.tasks[self.task]

    def within(self) -> float:
        """By how much the worst single crossing stays below the largest loss that is allowed, nats/token."""
        return MAX_GAP - self.crossings.worst

    def n_carried(self) -> float:
        """Tasks that are carried across."""
        return float(sum(task.carries for task in self.steering.tasks.values()))

    def n_carried_beside(self, controls: Collection[str]) -> float:
        """Tasks that are carried across as far as these controls say."""
        return float(sum(task.carries_beside(controls) for task in self.steering.tasks.values()))

    def crosses(self) -> float:
        """Highest probability on the curve of the node, less a half; a half less the first one, where that is less."""
        return self.of_task.crosses

    def quiet(self, control: str) -> float:
        """By how much a control's movement stays below what is allowed."""
        return QUIET - self.of_task.movement(control)
