"""Two numbers of a trained model, both better when lower, by which a recipe is chosen.

1. Capability: mean loss of the tasks on validation pairs, plus bits per character on real code.
2. Circuit size: geometric mean of the edges of a few tasks' circuits, found by a short search that is the same for all.
3. A task without a circuit counts: a model that passes it has itself as the circuit, with all its nonzero weights; one that does not
   has none of any size, and gets all entries of its matrices, which no sparsity makes fewer.

Held-out pairs decide nothing here and are not shown to the model: whoever wins is judged on them later, once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from circuits.edges import count_edges, join_weight, joins
from circuits.means import Means
from circuits.search.task import FindConfig, NamingTokenizer, TaskSearch, aim, searched
from circuits.section import SearchedCircuit, SelectionSection, TaskLoss
from circuits.tasks import Task, UnsuitableTask, get_tasks
from sparsetrain.data.sources import SourceConfig
from sparsetrain.report.sections import TrainingSection
from sparsetrain.stats.number import Number, number
from sparsetrain.store import once
from sparsetrain.typed import to_dict

GUESSING = math.log(2)


def short_search() -> FindConfig:
    """One seed, one price, no nonsense twin: seconds a task."""
    return FindConfig(seeds=(0,), settle=(0.6,), nonsense_twin=False)


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """What a recipe is chosen by: measured at the end of a run, on validation pairs alone. ours"""

    tasks: tuple[str, ...] = ()
    """Tasks whose losses count; `all` for every one; none: nothing is measured."""
    circuits: tuple[str, ...] = ()
    """Those of them whose circuits are searched."""
    find: FindConfig = field(default_factory=short_search)

    def __post_init__(self) -> None:
        if missing := [name for name in get_tasks(self.circuits) if name not in get_tasks(self.tasks)]:
            raise ValueError(f"selection.circuits has {missing}, which selection.tasks has not; add them there")
        if self.tasks and not self.circuits:
            raise ValueError("selection.circuits=[] must be at least one task, whose circuit's size is measured")


def select(
    model: nn.Module,
    tokenizer: NamingTokenizer,
    means: Means,
    config: SelectionConfig,
    bits_per_char: Number,
    out_dir: Path,
) -> SelectionSection:
    """The section of a model; measured before with the same settings and weights, it is read from `<out_dir>/selection.json`.

    Args:
        model: in eval mode.
        tokenizer: its own.
        means: of this model.
        config: tasks and search.
        bits_per_char: of the model on real code, see `real_code`.
        out_dir: gets the file.
    """

    def make() -> SelectionSection:
        looks = {
            name: look(model, task, tokenizer, means, config.find) for name, task in get_tasks(config.tasks).items()
        }
        sizes = [size(model, means, *looks[name]) for name in get_tasks(config.circuits)]
        return section([entry for entry, _ in looks.values()], sizes, bits_per_char)

    key = {"config": to_dict(config), "weights_sha256": means.weights_sha256, "means": means.sha256, "bits": bits_per_char.value}  # fmt: skip
    return once(out_dir / "selection.json", key, make, SelectionSection)


def look(
    model: nn.Module, task: Task, tokenizer: NamingTokenizer, means: Means, config: FindConfig
) -> tuple[TaskLoss, TaskSearch | None]:
    """A task's loss on validation pairs, and what its search is a function of; None where there are no pairs."""
    try:
        subject = TaskSearch.of(model, task, tokenizer, means, config)
    except UnsuitableTask as error:
        return TaskLoss(task=task.name, status="unsuitable", loss=number(None, "nats", note=str(error))), None
    return loss_of(subject), subject


def loss_of(subject: TaskSearch) -> TaskLoss:
    """What the model makes of a task on validation pairs."""
    config = subject.config
    passed, bigram = (loss <= config.target_loss for loss in (subject.val_loss, subject.empty_val_loss))
    loss = number(subject.val_loss, "nats", n=subject.pairs.val.n_distinct, seed=config.pair_seed)
    return TaskLoss(task=subject.task, status="failed" if not passed else "bigram" if bigram else "passed", loss=loss)


def size(model: nn.Module, means: Means, task: TaskLoss, subject: TaskSearch | None) -> SearchedCircuit:
    """The edges of a task's smallest circuit, or what stands for them where there is none."""
    space, found = means.space, None
    if task.status == "passed" and subject is not None:
        found = next(iter(searched(subject, aim(subject)).circuits), None)
    if found is not None:
        n_edges, note = found[0].n_edges, None
    elif task.status == "passed":
        every = torch.ones(space.n_nodes, dtype=torch.bool)
        n_edges, note = count_edges(model, space, every), "the search found no circuit: the whole model's edges"
    else:
        n_edges = sum(join_weight(model, space, join).numel() for join in joins(model))
        note = f"{task.status}: no circuit to search, all entries of the model's matrices"
    return SearchedCircuit(task=task.task, found=found is not None, n_edges=number(n_edges, "edges", note=note))


def section(tasks: Sequence[TaskLoss], circuits: Sequence[SearchedCircuit], bits_per_char: Number) -> SelectionSection:
    """The two numbers and what they are made of."""
    losses = [clipped(task.loss) for task in tasks]
    edges = [max(1, entry.n_edges.value or 0) for entry in circuits]
    task_loss, bits = sum(losses) / len(losses), bits_per_char.value
    statuses = [task.status for task in tasks]
    return SelectionSection(
        capability_loss=number(None if bits is None else task_loss + bits, "nats + bits/char", n=len(tasks)),
        task_loss=number(task_loss, "nats", n=len(tasks)),
        bits_per_char=bits_per_char,
        circuit_edges=number(math.exp(sum(map(math.log, edges)) / len(edges)), "edges", n=len(edges)),
        n_passed=number(statuses.count("passed"), "tasks", n=len(tasks)),
        n_bigram=number(statuses.count("bigram"), "tasks", n=len(tasks)),
        tasks=tuple(tasks),
        circuits=tuple(circuits),
    )


def clipped(loss: Number | None) -> float:
    """A task loss as it counts: at most what guessing costs, and so much where there is none."""
    return GUESSING if loss is None or loss.value is None else min(GUESSING, loss.value)


def real_code(training: TrainingSection, sources: Mapping[str, SourceConfig]) -> Number:
    """Validation loss in bits/char on the sources that are no synthetic text, weighted as they are mixed; on all where all are synthetic."""
    real = {name: source.weight for name, source in sources.items() if not source.synthetic} or {"mixed": 1.0}
    losses = {name: training.bits_per_char[name] for name in real}
    mean = sum(real[name] * (loss.value or math.nan) for name, loss in losses.items()) / sum(real.values())
    return number(mean, "bits/char", n=sum(loss.n or 0 for loss in losses.values()), note=", ".join(real))
