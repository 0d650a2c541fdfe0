"""One task in one model: its pairs, and its search for circuits. Where they are saved: `places.py`.

1. Pairs: train (pruning), fit (the full model's calibration; which seed's circuit is shown first), val (bisection, clean-up),
   heldout (everything reported, and nothing chosen). Disjoint; names differ between train, val and held-out. Fit and val share a prompt
   where a file has hardly any other.
2. `TaskSearch` is what search and evidence are functions of; `full` and `empty` are computed once.
3. `searched`: all seeds of the task and of its nonsense twin in one batch (`circuits.search.search`), towards a stricter loss on
   val, and no worse on train, whose names differ from val's. The twin gets what the task gets: seeds, prices, trials, candidates,
   and the calibration that the full model has on its answers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Literal, Protocol, TypedDict

import torch
from torch import Tensor, nn

from circuits.answers import Ablated, pair_answers
from circuits.calibrate import CalibrationMode, calibrated_loss, model_calibration
from circuits.circuit import Circuit, Provenance
from circuits.edges import find_edges, size_of
from circuits.intervals import interval
from circuits.masks import NodeSpace
from circuits.means import Means
from circuits.search.edge_pruning import prune_edges
from circuits.search.learn import Aim, MaskRun, Progress, PruneConfig, silent
from circuits.search.search import Pruned, search
from circuits.search.tune import tuned
from circuits.tasks import PairSet, PairSplit, PairTokenizer, Task, UnsuitableTask, build_pairs, get_task
from circuits.tasks.loss import TASK_LOSS_CONVENTION, Calibration, pair_accuracy, pair_task_loss, task_loss
from circuits.tasks.pairs import Twin
from sparsetrain.stats.number import Number, number
from sparsetrain.typed import Above0, Count, Index, Share, from_dict, to_dict

TWIN = "nonsense_twin"
"""Folder of its circuit."""


@dataclass(frozen=True, kw_only=True)
class FindConfig:
    """How circuits are looked for and judged. All numbers are ours where `PruneConfig` does not say otherwise."""

    target_loss: Above0 = 0.15
    """Task loss to reach, nats (paper, section 2.2)."""
    margin: Share = 0.85
    """The search aims at margin * target_loss on its own pairs, so that held-out pairs meet the target too."""
    calibration: CalibrationMode = "model"
    """What is done to the answers' logits: `model` keeps the shift that the full model has on the fit pairs, `circuit` fits scale and
    shift to each circuit (paper, A.5), `none` leaves them."""
    min_raw_accuracy: float = 0.75
    """Accuracy without any calibration below which a circuit is not called found."""
    min_twin_ratio: Above0 = 1.5
    """Edges of the nonsense twin's circuit over the task's below which the task's is not distinguishable from nonsense."""
    gate: bool = True
    """False prunes even where the model fails, to the loss that it has: for smoke tests, and the report says so."""
    seeds: tuple[int, ...] = (0, 1)
    settle: tuple[Share, ...] = (0.6, 1.0)
    """Grid of prices: each seed searches once per entry, all in one batch, and keeps its smallest circuit. An entry is the loss
    at which the price of a node settles, as a share of the way from the full model's loss to the search's aim."""
    trials: Index = 0
    """Optuna trials per task (and per nonsense twin) over the search's hyperparameters, instead of the grid; 0: the grid. Each
    trial is a search; needs the extra `search`."""
    nonsense_twin: bool = True
    exclude: Index = 0
    """Rounds of searching again without the nodes of the circuits found so far, until nothing meets the target: how many disjoint
    circuits there are. A round takes as long as the task's search."""
    prune_edges: bool = False
    """Also drop weights of each task's smallest circuit that can be spared (an edge circuit, saved beside it). It takes from
    seconds to a minute or two a task."""
    n_train: Count = 128
    n_fit: Count = 32
    n_val: Count = 32
    n_heldout: Count = 64
    pair_seed: int = 0
    max_tokens: int = 32
    """Longest prompt, document separator included."""
    n_random: Count = 100
    n_random_pairs: Count = 16
    """Pairs of val and of heldout on which random circuits (and the circuit beside them) are calibrated and scored."""
    n_random_necessity: Index = 10
    n_boot: Count = 1000
    batch_size: Count = 64
    """Pairs per pass when a saved circuit is evaluated; part of the recorded number."""
    prune: PruneConfig = field(default_factory=PruneConfig)

    @property
    def n_searches(self) -> int:
        """Searches of a task, and as many of its twin."""
        return len(self.seeds) * (self.trials or len(self.settle))

    def __post_init__(self) -> None:
        if not 0 <= self.min_raw_accuracy <= 1:
            raise ValueError(f"min_raw_accuracy={self.min_raw_accuracy} must be from 0 to 1")
        if not self.settle:
            raise ValueError("settle=[] must be at least one number in (0, 1]")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds={list(self.seeds)} must be at least one seed, each once")


class Rules(TypedDict):
    """Fields of a section by which every circuit on its page was found and judged."""

    target_loss: float
    min_raw_accuracy: float
    min_twin_ratio: float
    calibration: CalibrationMode
    gates: Literal["on", "off"]


def rules_of(find: FindConfig) -> Rules:
    """Those of a search."""
    return Rules(
        target_loss=find.target_loss,
        min_raw_accuracy=find.min_raw_accuracy,
        min_twin_ratio=find.min_twin_ratio,
        calibration=find.calibration,
        gates="on" if find.gate else "off",
    )


class NamingTokenizer(PairTokenizer, Protocol):
    """A tokenizer that also says its tokens to people."""

    def token(self, id: int, /) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """The four disjoint pair sets of a task."""

    train: PairSet
    fit: PairSet
    val: PairSet
    heldout: PairSet

    @classmethod
    def build(cls, task: Task | str, tokenizer: PairTokenizer, config: FindConfig, twin: Twin | None = None) -> "Pairs":
        """Pairs of a task (or of its twin: the same prompts), a function of the config; of a file as many as it has."""

        def pairs(split: PairSplit, n: int) -> PairSet:
            return build_pairs(task, tokenizer, split, n, config.pair_seed, twin=twin, max_tokens=config.max_tokens)

        n = config.n_fit + config.n_val
        val = pairs("val", n)
        n_fit = val.border(min(max(1, round(len(val) * config.n_fit / n)), len(val) - 1))
        return cls(
            train=pairs("train", config.n_train),
            fit=val.batch(slice(0, n_fit)),
            val=val.batch(slice(n_fit, None)),
            heldout=pairs("heldout", config.n_heldout),
        )

    @property
    def sha256(self) -> str:
        """Of the token ids: what was found with these pairs rests on them."""
        sets = (self.train, self.fit, self.val, self.heldout)
        parts = [x.cpu().numpy().tobytes() for made in sets for x in (made.tokens, made.last, made.answers)]
        return sha256(b"".join(parts)).hexdigest()


def judging_pairs(task: Task | str, tokenizer: PairTokenizer, split: PairSplit, config: FindConfig) -> PairSet | None:
    """Pairs of a split that no search sees, of up to twice the search's length; None where the task has none with this tokenizer."""
    try:
        return build_pairs(task, tokenizer, split, config.n_heldout, config.pair_seed, max_tokens=2 * config.max_tokens)
    except UnsuitableTask:
        return None


def heldout_pairs(circuit: Circuit, tokenizer: PairTokenizer, kept: Path | None = None) -> PairSet:
    """The held-out pairs on which a saved circuit's task loss was reported.

    Args:
        kept: the folder of tasks that the circuit lies in, which a task of a file needs (see `get_task`).
    """
    config = from_dict(FindConfig, circuit.provenance.config)
    task = get_task(circuit.task, kept)
    return build_pairs(task, tokenizer, "heldout", config.n_heldout, config.pair_seed, max_tokens=config.max_tokens)


@dataclass(frozen=True, kw_only=True)
class TaskSearch:
    """One task in one model: what its search and its evidence are functions of.

    Args:
        task: name; any behaviour that can be put into pairs.
        pairs: of the task.
        means: of this model.
        token: id -> readable text.
        twin: the same prompts with unrelated answers, or None.
        paraphrased: held-out pairs in the task's second wording, for judging alone; None where it has none.
        note: what a reader has to know of pairs and twin.
        progress: called with (stage, done, total).

    Raises:
        ValueError: means of another model.
    """

    model: nn.Module
    task: str
    description: str
    pairs: Pairs
    means: Means
    config: FindConfig
    token: Callable[[int], str] = str
    twin: Pairs | None = None
    paraphrased: PairSet | None = None
    note: str | None = None
    progress: Progress = silent

    def __post_init__(self) -> None:
        own, n_nodes = self.means.space, NodeSpace.of(self.model).n_nodes
        if own != NodeSpace.of(self.model):
            raise ValueError(f"the means are of a model with {own.n_nodes} nodes, this one has {n_nodes}")

    @classmethod
    def of(
        cls,
        model: nn.Module,
        task: Task | str,
        tokenizer: NamingTokenizer,
        means: Means,
        config: FindConfig,
        progress: Progress = silent,
    ) -> "TaskSearch":
        """The subject of a task, its pairs built anew. Without words for a nonsense twin it has none, and says so.

        Raises:
            ValueError: an unknown task, or means of another model.
            UnsuitableTask: no pairs with this tokenizer, or prompts that are too long for the model.
        """
        known = get_task(task) if isinstance(task, str) else task
        pairs, twin = Pairs.build(known, tokenizer, config), None
        notes = [known.remarks(tokenizer, config.max_tokens)]
        longest = max(int(made.last.max()) + 1 for made in (pairs.train, pairs.fit, pairs.val, pairs.heldout))
        most: int | None = getattr(model, "max_positions", None)
        if most is not None and longest > most:
            raise UnsuitableTask(
                f"prompts of up to {longest} tokens, but the model reads n_ctx={most}; set circuits.find.max_tokens={most}"
            )
        paraphrased = judging_pairs(known, tokenizer, "paraphrased", config)
        if paraphrased is not None and most is not None and int(paraphrased.last.max()) >= most:
            paraphrased = None
        if config.nonsense_twin:
            try:
                twin = Pairs.build(known, tokenizer, config, "nonsense")
            except UnsuitableTask as error:
                notes.append(str(error))
        return cls(
            model=model,
            task=known.name,
            description=known.description,
            pairs=pairs,
            twin=twin,
            paraphrased=paraphrased,
            note="; ".join(filter(None, notes)) or None,
            means=means,
            config=config,
            token=tokenizer.token,
            progress=progress,
        )

    @property
    def space(self) -> NodeSpace:
        """The model's nodes."""
        return self.means.space

    @cached_property
    def ablated(self) -> Ablated:
        """The model with deleted nodes at their means."""
        return Ablated(model=self.model, means=self.means.values, max_rows=self.config.prune.max_rows)

    @cached_property
    def full(self) -> tuple[Tensor, Calibration]:
        """Held-out answer logits of the full model, and its calibration on the fit pairs."""
        return pair_answers(self.model, self.pairs.heldout, self.config.batch_size), self.calibration(self.pairs)

    @cached_property
    def empty(self) -> tuple[Tensor, Calibration]:
        """The same of the empty circuit, which sees the current token alone; fitted to it, so that no bigram hides behind a shift."""
        nothing = torch.zeros(1, self.space.n_nodes, dtype=torch.bool)
        fit, heldout = (self.ablated.answers(nothing, pairs)[0] for pairs in (self.pairs.fit, self.pairs.heldout))
        return heldout, model_calibration(self.config.calibration, fit)

    @cached_property
    def val_loss(self) -> float:
        """Task loss of the full model on the validation pairs, calibrated as its circuits are: what choices go by."""
        answers = pair_answers(self.model, self.pairs.val, self.config.batch_size)[None]
        return float(calibrated_loss(answers, self.kept_calibration(self.pairs))[0])

    @cached_property
    def empty_val_loss(self) -> float:
        """The same of the empty circuit, calibrated on the fit pairs as in `empty`."""
        nothing = torch.zeros(1, self.space.n_nodes, dtype=torch.bool)
        fit, val = (self.ablated.answers(nothing, pairs)[0] for pairs in (self.pairs.fit, self.pairs.val))
        return float(task_loss(model_calibration(self.config.calibration, fit).apply(val)))

    def calibration(self, pairs: Pairs) -> Calibration:
        """The full model's calibration for the answers of these pairs: the task's own, or a twin's."""
        answers = pair_answers(self.model, pairs.fit, self.config.batch_size)
        return model_calibration(self.config.calibration, answers)

    def kept_calibration(self, pairs: Pairs) -> Calibration | None:
        """What circuits for these pairs keep of it; None where each has its own fitted."""
        return None if self.config.calibration == "circuit" else self.calibration(pairs)

    def heldout_answers(self, circuit: Circuit, kind: Literal["node", "edge"] = "node") -> Tensor:
        """Calibrated answers of a circuit on the held-out pairs."""
        return circuit.answers(self.model, self.pairs.heldout, kind, self.config.batch_size)

    def path(self, *place: str) -> str:
        """A circuit's place in the run's folder."""
        return "/".join(["circuits", self.task, *place, "circuit.json"])

    def mean(self, values: Tensor, unit: str, value: float, pairs: PairSet | None = None) -> Number:
        """A mean over pairs, held-out ones unless others are given, with its interval; distinct pairs are counted, and resampled."""
        pairs = self.pairs.heldout if pairs is None else pairs
        low, high = interval(values, self.config.pair_seed, self.config.n_boot, groups=pairs.groups)
        return number(value, unit, n=pairs.n_distinct, lo=low, hi=high, seed=self.config.pair_seed)

    def loss(self, answers: Tensor, pairs: PairSet | None = None) -> Number:
        """Task loss of calibrated answers."""
        return self.mean(pair_task_loss(answers), "nats", float(task_loss(answers)), pairs)

    def agreement(self, answers: Tensor, reference: Tensor) -> Number:
        """Share of prompts on which two runs' answers `[n, side, answer]` put the same one ahead."""
        ahead, other = (x[..., 0] > x[..., 1] for x in (answers, reference))
        same = (ahead == other).double().mean(-1)
        return self.mean(same, "fraction", float(same.mean()))

    def accuracy(self, answers: Tensor, pairs: PairSet | None = None) -> Number:
        """Share of sides answered rightly."""
        return self.mean(pair_accuracy(answers), "fraction", float(pair_accuracy(answers).mean()), pairs)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search left for a task, or what was saved of it.

    Args:
        circuits: those that meet the search's aim, with how they were found; the best first.
        n_candidates: nodes that the task's search could choose from, the most of any seed.
        edges: the best one's edge circuit, its loss on the validation pairs, and whether that meets the aim.
        twin: the best of the nonsense twin.
        disjoint: further circuits, each without the nodes of all before it, in the order found; None: not searched.
        exhausted: whether the last round of them found nothing.
    """

    circuits: Sequence[tuple[Circuit, Pruned]] = ()
    n_candidates: int = 0
    edges: tuple[Circuit, float, bool] | None = None
    twin: Pruned | None = None
    disjoint: Sequence[Circuit] | None = None
    exhausted: bool = False


def aim(subject: TaskSearch, passed: bool = True) -> Aim:
    """What the search is to meet on the validation pairs: less than the target; what the model has, where it fails the gate."""
    config = subject.config
    target = config.margin * config.target_loss
    if not passed:
        target = max(target, subject.val_loss + 0.01)
    return Aim(
        model=subject.model,
        means=subject.means.values,
        max_rows=config.prune.max_rows,
        target=target,
        min_raw_accuracy=config.min_raw_accuracy if passed else 0.0,
        config=config.prune,
        progress=subject.progress,
    )


def searched(subject: TaskSearch, towards: Aim) -> Found:
    """The circuits of all seeds that meet the aim on the validation pairs; first those that meet the target on the fit pairs too,
    which no search sees, then the smallest. Held-out pairs choose nothing."""
    config = subject.config
    best, twin = best_pruned(subject, towards)
    found, edges = ranked(subject, reached(subject, best)), None
    if config.prune_edges and found:
        fewer, loss = prune_edges(towards, found[0][0], subject.pairs.val, subject.kept_calibration(subject.pairs))
        edges = fewer, loss, loss <= towards.target
    disjoint, exhausted = (
        disjoint_circuits(subject, towards, found[0][0]) if config.exclude and found else (None, False)
    )
    return Found(
        circuits=found,
        n_candidates=max(p.n_candidates for p in best),
        edges=edges,
        twin=twin,
        disjoint=disjoint,
        exhausted=exhausted,
    )


def reached(subject: TaskSearch, best: Sequence[Pruned]) -> list[tuple[Circuit, Pruned]]:
    """The circuits of the seeds that met the aim."""
    seeds = subject.config.seeds
    return [(circuit_of(subject, seed, p), p) for seed, p in zip(seeds, best, strict=True) if p.reached]


def ranked(subject: TaskSearch, found: Sequence[tuple[Circuit, Pruned]]) -> list[tuple[Circuit, Pruned]]:
    """Circuits of all seeds, in the order of seeds, as they are reported: the one to choose first, see `searched`."""
    config = subject.config

    def rank(entry: tuple[Circuit, Pruned]) -> tuple[bool, int, int]:
        circuit = entry[0]
        misses = circuit.evaluate(subject.model, subject.pairs.fit, batch_size=config.batch_size) > config.target_loss
        return misses, circuit.n_edges, circuit.n_nodes

    return sorted(found, key=rank)


def disjoint_circuits(subject: TaskSearch, towards: Aim, first: Circuit) -> tuple[list[Circuit], bool]:
    """Circuits that have no node in common with `first` and with one another, and whether there are no more."""
    excluded, others = first.keep, list[Circuit]()
    alone = replace(subject, twin=None)
    for _ in range(subject.config.exclude):
        found = ranked(alone, reached(alone, best_pruned(alone, towards, excluded)[0]))
        if not found:
            return others, True
        others.append(found[0][0])
        excluded = excluded | others[-1].keep
    return others, False


def best_pruned(
    subject: TaskSearch, towards: Aim, excluded: Tensor | None = None
) -> tuple[list[Pruned], Pruned | None]:
    """The best of every seed's trials, and the best of the nonsense twin's seeds, which are as many with as many trials each.

    Args:
        excluded: bool `[n_nodes]`, nodes that no circuit may have.
    """
    config = subject.config

    def cost(pruned: Pruned) -> float:
        """Size of a circuit that meets the aim; more than any circuit has, growing with the loss, of one that does not."""
        if pruned.reached:
            return float(size_of(subject.model, subject.space, pruned.keep))
        return float(sum(weights.numel() for weights in subject.model.parameters())) * (1 + pruned.loss)

    sides = [pairs for pairs in (subject.pairs, subject.twin) if pairs is not None]
    calibrations = [subject.kept_calibration(pairs) for pairs in sides]

    def run(side: int, seed: int, settle: float) -> MaskRun:
        return MaskRun(
            seed=seed,
            train=sides[side].train,
            val=sides[side].val,
            settle=settle,
            calibration=calibrations[side],
            excluded=excluded,
            control=side > 0,
        )

    wanted = [(side, seed) for side in range(len(sides)) for seed in config.seeds]
    best: list[Pruned] = []
    if config.trials:
        for side, seed in wanted:
            widest = max((p.n_candidates for p in best), default=0) / subject.space.n_nodes if side else 0.0

            def trial(
                settings: PruneConfig, settle: float, side: int = side, seed: int = seed, widest: float = widest
            ) -> Pruned:
                settings = replace(settings, candidate_share=max(settings.candidate_share, widest))
                return search(replace(towards, config=settings), [run(side, seed, settle)])[0]

            best.append(tuned(trial, cost, config.prune, config.trials, seed))
    else:
        runs = [run(side, seed, settle) for side, seed in wanted for settle in config.settle]
        pruned, n = search(towards, runs), len(config.settle)
        best = [min(pruned[i : i + n], key=cost) for i in range(0, len(pruned), n)]
    n_seeds = len(config.seeds)
    return best[:n_seeds], min(best[n_seeds:], key=cost, default=None)


def circuit_of(subject: TaskSearch, seed: int, pruned: Pruned) -> Circuit:
    """What a search found, as a circuit with its provenance."""
    means = subject.means
    return Circuit(
        task=subject.task,
        nodes=subject.space.nodes(pruned.keep),
        edges=tuple(find_edges(subject.model, subject.space, pruned.keep)),
        space=subject.space,
        means=means.values,
        calibration=pruned.calibration,
        provenance=Provenance(
            weights_sha256=means.weights_sha256,
            seed=seed,
            config=to_dict(subject.config),
            loss_convention=TASK_LOSS_CONVENTION,
            means_source=means.source,
            means_n_tokens=means.n_tokens,
        ),
    )
