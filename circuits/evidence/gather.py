"""Gathers what a report card needs, from the files of a run: pairs, text, other tasks, more mask seeds, nulls.

The search for further seeds and in null models is the task's own, with the same budget. What it finds for further seeds is
saved, so that a card can be made again without searching for them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]
from torch import Tensor

from circuits.answers import Ablated
from circuits.circuit import Circuit
from circuits.edges import size_of
from circuits.evidence.card import report_card
from circuits.evidence.examination import CardInputs, Searched
from circuits.evidence.searches import permuted_model
from circuits.evidence.thresholds import CardConfig
from circuits.means import Means, measure_means
from circuits.search.comparison import N_PATH_STEPS
from circuits.search.learn import Progress, silent
from circuits.search.rankings import edge_effects
from circuits.search.search import Pruned
from circuits.search.task import FindConfig, Pairs, TaskSearch, aim, best_pruned, circuit_of, judging_pairs
from circuits.section import CardEntry, TaskEntry
from circuits.tasks import PairSet, PairSplit, Task, get_task
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.export import load_model
from sparsetrain.model import Transformer

CARD_WINDOWS = "card_windows.safetensors"
"""In a run's `circuits/`: the pretraining text that its report cards were made with."""


@dataclass(frozen=True, kw_only=True)
class RunFiles:
    """What the cards of a run are made from.

    Args:
        folder: the run, whose circuits are loaded.
        windows: int64 `[n, n_ctx]`, pretraining text that the means were not taken from.
        find: the search's settings.
        pairs: of a task's name; built once each.
    """

    folder: Path
    model: Transformer
    means: Means
    windows: Tensor
    tokenizer: Tokenizer
    find: FindConfig
    pairs: Callable[[str], Pairs]

    @classmethod
    def load(cls, export: Path, folder: Path, find: FindConfig) -> "RunFiles":
        """Those of the exported model in a run's folder."""
        tokenizer = Tokenizer.load(export / "tokenizer.json")

        @cache
        def pairs(task: str) -> Pairs:
            return Pairs.build(get_task(task, folder / "circuits"), tokenizer, find)

        return cls(
            folder=folder,
            model=load_model(export),
            means=Means.load(folder / "circuits" / "means.safetensors"),
            windows=load_file(folder / "circuits" / CARD_WINDOWS)["windows"],
            tokenizer=tokenizer,
            find=find,
            pairs=pairs,
        )

    def task(self, name: str) -> Task:
        """A task of the run, those of files from what the run has kept of them."""
        return get_task(name, self.folder / "circuits")

    def judging(self, task: str, split: PairSplit) -> PairSet | None:
        """See `judging_pairs`."""
        return judging_pairs(self.task(task), self.tokenizer, split, self.find)


def twin_searches(task: TaskEntry) -> list[Searched]:
    """What the search of a task's nonsense twin came to; its budget is counted in searches and in candidates."""
    twin, own = task.nonsense_twin, task.seeds
    if twin is None or own is None:
        return []
    candidates = (twin.n_candidates.value or 0) / max(1, own.n_candidates.value or 0)
    size = twin.n_nodes.value if twin.n_edges.value is None else twin.n_edges.value
    budget = min(1.0, twin.n_searches / own.n_searches, candidates)
    return [Searched(size=int(size) if twin.reached and size is not None else None, budget=budget)]


def solved(tasks: Sequence[TaskEntry]) -> list[str]:
    """The tasks beside which a circuit is judged: those that the model solves, and not by the current token alone."""
    return [task.task for task in tasks if task.is_solved]


def card_of(
    files: RunFiles, task: TaskEntry, beside: Sequence[str], config: CardConfig, progress: Progress = silent
) -> tuple[CardEntry, ...]:
    """The report card of a task's best circuit: see `circuits.evidence.card.report_card`.

    Args:
        beside: tasks that the model solves (`solved`).
    """
    name, pairs, means = task.task, files.pairs(task.task), files.means
    found = [Circuit.load(files.folder / entry.path) for entry in task.circuits]
    ablated = Ablated(model=files.model, means=means.values, max_rows=config.max_rows)
    inputs = CardInputs(
        fit=pairs.fit,
        heldout=pairs.heldout,
        alive=means.alive,
        shifted=files.judging(name, "shifted"),
        windows=files.windows,
        others={other: (files.pairs(other).fit, files.pairs(other).heldout) for other in beside if other != name},
        seeds=found + _more_seeds(files, name, found, config.n_seeds, progress),
        paraphrased=files.judging(name, "paraphrased"),
        twins=twin_searches(task),
        nulls=null_searches(files, task, config.n_nulls, progress),
        edge_scores=edge_effects(ablated, pairs.fit, N_PATH_STEPS),
    )
    return report_card(files.model, found[0], inputs, config, progress)


def _search(
    files: RunFiles,
    name: str,
    seeds: Sequence[int],
    model: Transformer,
    means: Means,
    pairs: Pairs,
    progress: Progress,
    candidates: float = 0.0,
) -> tuple[TaskSearch, Pruned]:
    """The smallest circuit of the task's own search with these mask seeds, from at least this share of all nodes."""
    prune = replace(files.find.prune, candidate_share=max(files.find.prune.candidate_share, candidates))
    find = replace(files.find, seeds=tuple(seeds), nonsense_twin=False, prune=prune)
    subject = TaskSearch(
        model=model, task=name, description="", pairs=pairs, means=means, config=find, progress=progress
    )
    found, _ = best_pruned(subject, aim(subject))
    return subject, min(found, key=lambda pruned: (not pruned.reached, size_of(model, subject.space, pruned.keep)))


def _more_seeds(
    files: RunFiles, name: str, found: Sequence[Circuit], n_seeds: int, progress: Progress
) -> list[Circuit]:
    """Circuits of further mask seeds, so that there are `n_seeds`; searched once, then read from disk."""
    have = {circuit.provenance.seed for circuit in found}
    more = [seed for seed in range(n_seeds + len(have)) if seed not in have][: max(0, n_seeds - len(have))]
    folders = {seed: files.folder / "circuits" / name / f"card_seed_{seed}" for seed in more}
    for seed, folder in folders.items():
        if not (folder / "circuit.json").is_file():
            subject, pruned = _search(files, name, [seed], files.model, files.means, files.pairs(name), progress)
            if pruned.reached:
                circuit_of(subject, seed, pruned).save(folder)
    return [Circuit.load(folder) for folder in folders.values() if (folder / "circuit.json").is_file()]


def null_searches(files: RunFiles, task: TaskEntry, n: int, progress: Progress = silent) -> list[Searched]:
    """What the task's own search finds in `n` models of permuted weights and for as many permuted labels, seeds and candidates alike."""
    name, searches = task.task, list[Searched]()
    wanted = 0.0 if task.seeds is None else task.seeds.n_candidates.value or 0.0
    for seed in range(n):
        null = permuted_model(files.model, seed)
        null_means = measure_means(null, files.windows, source="card windows", weights_sha256="permuted")
        labels = Pairs.build(files.task(name), files.tokenizer, files.find, twin="labels")
        for place in ((null, null_means, files.pairs(name)), (files.model, files.means, labels)):
            subject, pruned = _search(
                files, name, files.find.seeds, *place, progress, wanted / files.means.values.numel()
            )
            size = size_of(subject.model, subject.space, pruned.keep) if pruned.reached else None
            searches.append(Searched(size=size, budget=min(1.0, pruned.n_candidates / max(1.0, wanted))))
    return searches
