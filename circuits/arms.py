"""Several models trained alike, read alike: dense beside sparse, or a grid of sizes.

1. An arm is a difference from the run's own config (width, density, AbsTopK); each is trained per seed with the whole
   schedule and the same tokens, and searched for circuits of the same tasks with the same number of trials.
2. A model per arm and seed is a run of its own under `<run>/models/`; one that is finished is not run again, and one whose
   search has other settings now is searched anew, not trained.
3. Pairs: a dense and a sparse arm whose validation losses (mean over seeds) differ by at most `max_gap`. Compared are the
   tasks for which both have a circuit at the target; the ratio of geometric-mean edges gets an interval from a
   bootstrap over tasks and, within tasks, seeds.
4. Frontier: validation loss against the geometric mean of edges over the tasks that every arm solves.

Source: Gao et al. 2025, figures 2 and 3 (there on one pretraining loss, at 16x; grids of L0 and width).
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import exp, log
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from circuits.edges import count_edges
from circuits.masks import NodeSpace
from sparsetrain.export import latest_export, load_model
from sparsetrain.report import load_report, number, value_of
from sparsetrain.run import RunConfig
from sparsetrain.sparsity import SparsityConfig
from sparsetrain.store import write_atomic

Run = TypeVar("Run", bound=RunConfig)


@dataclass(frozen=True, kw_only=True)
class ArmConfig:
    """How one arm differs from the run it belongs to; what is null is as there."""

    d_model: int | None = None
    dense: bool = False
    """Without weight sparsity."""
    density: float | None = None
    abs_topk: bool = True
    """False: no AbsTopK anywhere."""
    lr_peak: float | None = None

    def __post_init__(self) -> None:
        if self.dense and self.density is not None:
            raise ValueError(f"arms.models: dense=true and density={self.density} contradict each other; drop one")

    def of(self, base: Run, name: str, seed: int) -> Run:
        """The arm's own run."""
        model, sparsity, optim = base.model, base.sparsity, base.optim
        if self.d_model is not None:
            model = replace(model, d_model=self.d_model)
        if not self.abs_topk:
            model = replace(model, abs_topk={})
        if self.dense:
            sparsity = SparsityConfig(density=1)
        elif self.density is not None:
            sparsity = replace(sparsity, density=self.density)
        if self.lr_peak is not None:
            optim = replace(optim, lr_peak=self.lr_peak)
        return replace(base, name=name, seed=seed, model=model, sparsity=sparsity, optim=optim)


@dataclass(frozen=True, kw_only=True)
class ArmsConfig:
    """The arms of a comparison. All numbers are ours."""

    models: dict[str, ArmConfig] = field(default_factory=dict)
    """Name -> arm; none: the run is a single model."""
    seeds: tuple[int, ...] = (0,)
    max_gap: float = 0.01
    """Largest relative difference of the validation losses of a dense and a sparse arm that are compared."""
    min_tasks: int = 5
    """Tasks that both must solve; with fewer the pair is shown as undecided."""
    n_boot: int = 2000

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"arms.seeds={list(self.seeds)} must be at least one seed, each once")
        if not 0 < self.max_gap < 1:
            raise ValueError(f"arms.max_gap={self.max_gap} must lie in (0, 1)")
        if self.min_tasks < 1 or self.n_boot < 1:
            raise ValueError(f"arms.min_tasks={self.min_tasks} and arms.n_boot={self.n_boot} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Member:
    """One finished model of an arm.

    Args:
        config: its run.
        report: its report.
        n_edges: nonzero weights between node hook points: the edges of the circuit that is the whole model.
    """

    config: RunConfig
    report: Mapping[str, Any]
    n_edges: int

    @property
    def val_loss(self) -> float:
        """Validation loss in the training mixture, nats/token."""
        return value_of(self.report["training"]["val_loss"]["mixed"])

    @property
    def passed(self) -> set[str]:
        """Tasks whose gate the model passes and the empty circuit does not."""
        tasks = self.report["circuits"]["tasks"]
        return {task["task"] for task in tasks if task["gate"]["passed"] and task["status"] != "bigram"}

    @property
    def edges(self) -> dict[str, int]:
        """Task -> edges of its best circuit, of the tasks that have one at the target."""
        tasks = self.report["circuits"]["tasks"]
        found = [task for task in tasks if task["status"] == "circuit"]
        return {task["task"]: max(1, value_of(task["circuits"][0]["n_edges"])) for task in found}


def smoke(arms: ArmsConfig) -> ArmsConfig:
    """The first dense and the first sparse arm at the run's own width, one seed: enough to try out the machinery."""
    first: dict[bool, str] = {}
    for name, arm in arms.models.items():
        first.setdefault(arm.dense, name)
    return replace(
        arms, seeds=arms.seeds[:1], models={name: replace(arms.models[name], d_model=None) for name in first.values()}
    )


def run_arms(
    arms: ArmsConfig, base: Run, run_dir: Path, read: Callable[[Run, Path], Mapping[str, Any] | None]
) -> dict[str, Any]:
    """Trains and reads every arm and returns the `arms` section of report.json.

    Args:
        arms: which.
        base: the config that arms differ from, itself without arms.
        run_dir: gets `models/<arm>-seed_<n>/`.
        read: trains one model, finds its circuits and returns its report; resumes what was interrupted.
    """
    members: dict[str, list[Member]] = {}
    for name, arm in arms.models.items():
        for seed in arms.seeds:
            folder = run_dir / "models" / f"{name}-seed_{seed}"
            config = arm.of(base, name, seed)
            key = json.loads(json.dumps(asdict(config)))
            finished, saved = folder / "report.json", folder / "arm.json"
            before = json.loads(saved.read_text()) if saved.is_file() else None
            if folder.is_dir() and (before is None or _training(before) != _training(key)):
                shutil.rmtree(folder)  # another model
            write_atomic(saved, (json.dumps(key, indent=1) + "\n").encode())
            if (folder / "checkpoints" / "last.ckpt").is_file():
                config = replace(config, ckpt_path="last")
            is_done = finished.is_file() and before == key
            report = load_report(finished) if is_done else read(config, folder)
            assert report is not None, "only stop_at_step ends a run early, and no arm has one"
            model = load_model(latest_export(folder))
            space = NodeSpace.of(model)
            n_edges = count_edges(model, space, torch.ones(space.n_nodes, dtype=torch.bool))
            members.setdefault(name, []).append(Member(config=config, report=report, n_edges=n_edges))
    return compare(arms, members)


def _training(key: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's weights depend on; circuits found with other settings are found anew in the same weights."""
    return {name: key[name] for name in ("seed", "bigram_init", "model", "sparsity", "optim", "data", "trainer")}


def compare(arms: ArmsConfig, members: Mapping[str, Sequence[Member]]) -> dict[str, Any]:
    """The `arms` section.

    Args:
        members: arm -> one model per seed.
    """
    solved = {name: _sizes(found) for name, found in members.items()}
    everywhere = sorted(set.intersection(*(set(sizes) for sizes in solved.values())))
    models = [_model(name, found, solved[name], everywhere) for name, found in members.items()]
    pairs = []
    for sparse in (name for name in members if not arms.models[name].dense):
        for dense in (name for name in members if arms.models[name].dense):
            gap = _loss(members[dense]) / _loss(members[sparse]) - 1
            if abs(gap) <= arms.max_gap:
                pairs.append(_pair(arms, sparse, dense, gap, solved, members))
    return {
        "seeds": list(arms.seeds),
        "max_gap": arms.max_gap,
        "common_tasks": everywhere,
        "models": models,
        "pairs": pairs,
    }


def _loss(members: Sequence[Member]) -> float:
    return sum(member.val_loss for member in members) / len(members)


def _sizes(members: Sequence[Member]) -> dict[str, list[int]]:
    """Task -> edges of its circuit in every seed that has one."""
    sizes: dict[str, list[int]] = {}
    for member in members:
        for task, n_edges in member.edges.items():
            sizes.setdefault(task, []).append(n_edges)
    return sizes


def _log_mean(sizes: Sequence[int]) -> float:
    return sum(log(size) for size in sizes) / len(sizes)


def _model(
    name: str, members: Sequence[Member], sizes: Mapping[str, Sequence[int]], everywhere: Sequence[str]
) -> dict[str, Any]:
    losses, config = [member.val_loss for member in members], members[0].config
    own = [_log_mean(sizes[task]) for task in everywhere]
    low, high = (min(losses), max(losses)) if len(losses) > 1 else (None, None)
    return {
        "name": name,
        "d_model": config.model.d_model,
        "method": "none" if config.sparsity.is_dense else config.sparsity.method,
        "density": number(config.sparsity.density, "fraction"),
        "abs_topk": bool(config.model.abs_topk),
        "n_edges": number(members[0].n_edges, "weights", note="nonzero weights between nodes"),
        "val_loss": number(
            _loss(members),
            "nats/token",
            "measured",
            n=len(losses),
            lo=low,
            hi=high,
            note="lo and hi: range over seeds",
        ),
        "passed": sorted(set.intersection(*(member.passed for member in members))),
        "edges": {task: list(found) for task, found in sorted(sizes.items())},
        "common_edges": number(
            exp(sum(own) / len(own)) if own else None, "edges", "measured", n=len(own), note="geometric mean"
        ),
    }


def _pair(
    arms: ArmsConfig,
    sparse: str,
    dense: str,
    gap: float,
    solved: Mapping[str, Mapping[str, Sequence[int]]],
    members: Mapping[str, Sequence[Member]],
) -> dict[str, Any]:
    tasks = sorted(set(solved[sparse]) & set(solved[dense]))
    both = set.intersection(*(member.passed for name in (sparse, dense) for member in members[name]))
    ratio, low, high = None, None, None
    if tasks:
        sizes = [[solved[name][task] for task in tasks] for name in (sparse, dense)]
        ratio = exp(sum(_log_mean(b) - _log_mean(a) for a, b in zip(*sizes, strict=True)) / len(tasks))
        low, high = bootstrap_ratio(sizes[0], sizes[1], arms.n_boot)
    verdict = "undecided"
    if len(tasks) >= arms.min_tasks and low is not None and high is not None:
        verdict = "sparse smaller" if low > 1 else "dense smaller" if high < 1 else "undecided"
    return {
        "sparse": sparse,
        "dense": dense,
        "loss_gap": number(gap, "fraction", "measured"),
        "tasks": tasks,
        "passed_by_both": sorted(both),
        "without_circuit": {name: sorted(both - set(solved[name])) for name in (sparse, dense)},
        "ratio": number(ratio, "factor", "measured", n=len(tasks), lo=low, hi=high, seed=0),
        "verdict": verdict,
    }


def bootstrap_ratio(
    sparse: Sequence[Sequence[int]], dense: Sequence[Sequence[int]], n_boot: int
) -> tuple[float, float]:
    """95% interval of the ratio of geometric means, dense / sparse: tasks are resampled, and seeds within task and arm.

    Args:
        sparse: edges per task and seed; tasks may have different numbers of seeds.
        dense: the same tasks.
        n_boot: resamples.
    """
    rng = np.random.default_rng(0)
    logs = [[np.log(sizes) for sizes in arm] for arm in (sparse, dense)]
    found = []
    for _ in range(n_boot):
        tasks = rng.integers(len(sparse), size=len(sparse))
        a, b = (np.mean([rng.choice(arm[t], len(arm[t])).mean() for t in tasks]) for arm in logs)
        found.append(exp(b - a))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
