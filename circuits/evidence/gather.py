# pyright: basic
"""Gathers what a report card needs, from the files of a run: pairs, text, other tasks, more mask seeds, nulls.

The search for further seeds and in null models is the task's own, with the same budget. What it finds for further seeds is
saved, so that a card can be made again without searching for them.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors.torch import load_file

from circuits.circuit import Circuit
from circuits.edges import count_edges
from circuits.evidence.card import report_card
from circuits.evidence.examination import CardInputs
from circuits.evidence.searches import NullKind, NullSearch, search_nulls
from circuits.evidence.thresholds import CardConfig
from circuits.means import Means, measure_means
from circuits.search.comparison import N_PATH_STEPS
from circuits.search.learn import Progress, silent
from circuits.search.rankings import edge_effects
from circuits.search.task import FindConfig, Pairs, TaskSearch, aim, best_pruned, circuit_of
from circuits.section import CardEntry, TaskEntry
from circuits.tasks import PairSet, build_pairs
from circuits.tasks.pairs import Twin
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.export import load_model
from sparsetrain.model import Transformer

CARD_WINDOWS = "card_windows.safetensors"
"""In a run's `circuits/`: the pretraining text that its report cards were made with."""


class Judge:
    """Report cards of a run from its saved files: weights, means, circuits and windows of text.

    Args:
        export: folder of the model.
        run_dir: the run.
        tasks: the report's `circuits.tasks`; a circuit is judged beside all of these that the model solves.
        find: the search's settings, for its pairs.
        solved: names of the tasks to judge beside; None: those that the model solves now.
    """

    def __init__(
        self,
        export: Path,
        run_dir: Path,
        tasks: Sequence[TaskEntry],
        find: FindConfig,
        solved: Sequence[str] | None = None,
    ) -> None:
        now = [task.task for task in tasks if task.gate.passed and task.status != "bigram"]
        self.run_dir, self.solved = run_dir, now if solved is None else list(solved)
        self.model = load_model(export)
        self.means = Means.load(run_dir / "circuits" / "means.safetensors")
        self.windows = load_file(run_dir / "circuits" / CARD_WINDOWS)["windows"]
        self.pairs = _Evidence(Tokenizer.load(export / "tokenizer.json"), find)

    def card(self, task: TaskEntry, card: CardConfig, progress: Progress = silent) -> tuple[CardEntry, ...]:
        """The report card of a task's best circuit: see `circuits.evidence.card.report_card`."""
        name, pairs = task.task, self.pairs
        seeds = [Circuit.load(self.run_dir / entry.path) for entry in task.circuits]
        seeds += self._more_seeds(name, seeds, card.n_seeds, progress)
        twin = task.nonsense_twin
        scores = edge_effects(
            self.model, self.means.space, self.means.values, pairs.of(name).fit, N_PATH_STEPS, card.max_rows
        )
        evidence = CardInputs(
            fit=pairs.of(name).fit,
            heldout=pairs.of(name).heldout,
            alive=self.means.alive,
            shifted=pairs.shifted(name),
            windows=self.windows,
            others={other: (pairs.of(other).fit, pairs.of(other).heldout) for other in self.solved if other != name},
            seeds=seeds,
            twin_n_edges=[] if twin is None else [None if twin.n_edges.value is None else int(twin.n_edges.value)],
            null_n_edges=search_nulls(self.model, self._null_search(name, progress), range(card.n_nulls)),
            edge_scores=scores,
        )
        return report_card(self.model, seeds[0], evidence, card, progress)

    def _more_seeds(self, name: str, found: Sequence[Circuit], n_seeds: int, progress: Progress) -> list[Circuit]:
        """Circuits of further mask seeds, so that there are `n_seeds`; searched once, then read from disk."""
        have = {circuit.provenance.seed for circuit in found}
        circuits = []
        for seed in [seed for seed in range(n_seeds + len(have)) if seed not in have][: max(0, n_seeds - len(have))]:
            folder = self.run_dir / "circuits" / name / f"card_seed_{seed}"
            if not (folder / "circuit.json").is_file():
                subject = self._subject(self.model, self.means, name, self.pairs.of(name), seed, progress)
                (pruned,), _ = best_pruned(subject, aim(subject))
                if not pruned.reached:
                    continue
                circuit_of(subject, seed, pruned).save(folder)
            circuits.append(Circuit.load(folder))
        return circuits

    def _null_search(self, name: str, progress: Progress) -> NullSearch:
        """The task's search in a null: as for the task itself, with means of the model that is searched."""

        def search(model: Transformer, kind: NullKind, seed: int) -> int | None:
            means, pairs = self.means, self.pairs.of(name)
            if kind == "weights":
                means = measure_means(model, self.windows, source="card windows", weights_sha256="permuted")
            else:
                pairs = self.pairs.twin(name, "labels")
            subject = self._subject(model, means, name, pairs, seed, progress)
            (pruned,), _ = best_pruned(subject, aim(subject))
            return count_edges(model, means.space, pruned.keep) if pruned.reached else None

        return search

    def _subject(
        self, model: Transformer, means: Means, name: str, pairs: Pairs, seed: int, progress: Progress
    ) -> TaskSearch:
        find = replace(self.pairs.find, seeds=(seed,), nonsense_twin=False)
        return TaskSearch(
            model=model, task=name, description="", pairs=pairs, means=means, config=find, progress=progress
        )


class _Evidence:
    """The pairs of tasks, built once each."""

    def __init__(self, tokenizer: Tokenizer, find: FindConfig) -> None:
        self.tokenizer, self.find = tokenizer, find
        self.built: dict[str, Pairs] = {}

    def of(self, task: str) -> Pairs:
        if task not in self.built:
            self.built[task] = Pairs.build(task, self.tokenizer, self.find)
        return self.built[task]

    def twin(self, task: str, kind: Twin) -> Pairs:
        """Of a twin of the task."""
        return Pairs.build(task, self.tokenizer, self.find, twin=kind)

    def shifted(self, task: str) -> PairSet:
        """Held-out in names and longer: prompts of up to twice the search's length."""
        find = self.find
        return build_pairs(
            task, self.tokenizer, "shifted", find.n_heldout, find.pair_seed, max_tokens=2 * find.max_tokens
        )
