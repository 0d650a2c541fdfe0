"""What the search for circuits costs, and whether its speed costs edges.

`prune:seeds8`: eight mask seeds in one search against eight searches in a row. `prune:to_circuit`: from nothing to a finished
circuit (attribution, masks, bisection, clean-up) against 2000 plain steps of mask learning on the masked full model, all
nodes taking part; those are timed as 100 steps x 20. Printed beside them: edges of the circuits of eight mask seeds, and of those of
three plain runs after the same bisection and clean-up.

The model is that of a finished run with --run, and the task the first that it solves; without, a model of width 128 is
trained on simple idioms first, which takes a minute or two.

    python scripts/bench_prune.py [--run runs/quickstart/<stamp>] [--task with_as] [--threads 2] [--runs 3] [--device cuda]

Some twenty minutes on one core, most of it the plain steps.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from circuits.answers import pair_answers
from circuits.calibrate import calibrated_loss
from circuits.edges import count_edges
from circuits.means import Means, measure_means
from circuits.search.learn import Aim, MaskRun, PruneConfig, learn_masks
from circuits.search.search import Pruned, Search, search
from circuits.search.task import FindConfig, Pairs
from circuits.tasks.loss import task_loss
from sparsetrain.data import DataConfig
from sparsetrain.data.sources import IdiomsSource
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.export import latest_export, load_model
from sparsetrain.kernels.bench import Bench, parse_arguments
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.optim import OptimConfig
from sparsetrain.run import OodConfig, RunConfig, text_windows, train
from sparsetrain.sparsity import SparsityConfig
from sparsetrain.training.callbacks import CallbacksConfig
from sparsetrain.training.fit import TrainerConfig
from sparsetrain.training.tracking import LoggerConfig

TASKS = ("with_as", "var_if", "lambda_func", "while_return_true", "for_while")
FIND = FindConfig(n_train=192, n_fit=48, n_val=64, margin=0.75)
PLAIN_STEPS, TIMED_STEPS = 2000, 100
SEEDS, PLAIN_SEEDS = range(8), range(3)


def small_run(folder: Path) -> tuple[Transformer, Tokenizer, Means]:
    """A weight-sparse model of width 128, trained on idioms alone."""
    config = RunConfig(
        model=ModelConfig(n_layer=4, d_model=128, n_ctx=128, d_vocab=1024),
        sparsity=SparsityConfig(density=0.125),
        optim=OptimConfig(lr_peak=1e-2),
        data=DataConfig(sources={"idioms": IdiomsSource(n_chars=3_000_000)}, d_vocab=1024),
        ood=OodConfig(enabled=False),
        trainer=TrainerConfig(n_steps=500, batch_size=16, progress=False),
        logger=LoggerConfig(kind="none"),
        callbacks=CallbacksConfig(val_every=500),
        cache_dir=str(folder / "cache"),
    )
    done = train(config, folder, command="bench_prune")
    assert done.export is not None
    model, tokenizer = load_model(done.export), Tokenizer.load(done.export / "tokenizer.json")
    windows = text_windows(done.corpus, config, "means", 256)
    return model, tokenizer, measure_means(model, windows, source="idioms", weights_sha256="")


def finished_run(folder: Path) -> tuple[Transformer, Tokenizer, Means]:
    """What a run left."""
    export = latest_export(folder)
    means = Means.load(folder / "circuits" / "means.safetensors")
    return load_model(export), Tokenizer.load(export / "tokenizer.json"), means


def solved_task(model: Transformer, tokenizer: Tokenizer, names: Sequence[str]) -> tuple[str, Pairs]:
    """The first task whose gate the model passes."""
    losses = {}
    for task in names:
        pairs = Pairs.build(task, tokenizer, FIND)
        fit, heldout = (pair_answers(model, part) for part in (pairs.fit, pairs.heldout))
        losses[task] = float(task_loss(calibrated_loss(fit)[1].apply(heldout)))
        if losses[task] <= FIND.target_loss:
            return task, pairs
    raise SystemExit(f"the model solves none of the tasks; their losses: {losses}")


def bench_search(bench: Bench, model: Transformer, means: Means, task: str, pairs: Pairs) -> None:
    """All cases; prints the sizes of the circuits that are compared."""
    space, target = means.space, FIND.margin * FIND.target_loss
    aim = Aim(model=model, means=means.values, target=target, config=PruneConfig())

    def run(seed: int) -> MaskRun:
        return MaskRun(seed=seed, train=pairs.train, val=pairs.val)

    def edges(found: Sequence[Pruned]) -> list[int]:
        return sorted(count_edges(model, space, result.keep) for result in found if result.reached)

    def found(seeds: Sequence[int]) -> list[int]:
        return edges(search(aim, [run(seed) for seed in seeds]))

    def plain(seeds: Sequence[int], n_steps: int) -> torch.Tensor:
        everything = torch.ones(len(seeds), space.n_nodes, dtype=torch.bool)
        fewer, ranks = replace(PruneConfig(), n_steps=n_steps), torch.zeros(len(seeds), space.n_nodes)
        return learn_masks(replace(aim, config=fewer), [run(seed) for seed in seeds], everything, ranks)[0]

    def plain_edges(seeds: Sequence[int]) -> list[int]:
        tau = plain(seeds, PLAIN_STEPS)
        looking = Search(aim, [run(seed) for seed in seeds])
        return edges(looking.circuits([row.argsort(descending=True) for row in tau], (tau > 0).sum(1).tolist()))

    for what, n_seeds, sizes in (
        (f"{PLAIN_STEPS} plain steps", len(PLAIN_SEEDS), plain_edges(PLAIN_SEEDS)),
        ("the search", len(SEEDS), found(SEEDS)),
    ):
        middle = f"median {median(sizes):g}" if sizes else "no circuit meets the target"
        print(
            f"{task}: edges after {what}: {sizes}, {middle}; {len(sizes)} of {n_seeds} seeds meet the target",
            flush=True,
        )
    steps = f"{PLAIN_STEPS} plain steps (timed as {TIMED_STEPS} x {PLAIN_STEPS // TIMED_STEPS})"
    eight = {"prune:seeds8": lambda _: found(SEEDS)}
    bench.measure(eight, lambda _: [found([seed]) for seed in SEEDS], "eight searches in a row", n_warmup=0)
    one = {"prune:to_circuit": lambda _: found([0])}
    (alone,) = bench.measure(one, lambda _: plain([0], TIMED_STEPS), steps, n_warmup=0)
    bench.cases[-1] = replace(alone, speedup=alone.speedup * PLAIN_STEPS / TIMED_STEPS)


def main() -> None:
    """Prints the table and the JSON line."""
    more = {
        "run": "folder of a finished run with circuits; without it a small model is trained",
        "task": f"task to search; the first that the model solves of {', '.join(TASKS)} where none is given",
    }
    arguments = parse_arguments(__doc__ or "", runs=3, more=more)
    with TemporaryDirectory() as folder:
        given = Path(arguments.run) if arguments.run else None
        model, tokenizer, means = small_run(Path(folder)) if given is None else finished_run(given)
        task, pairs = solved_task(model, tokenizer, [arguments.task] if arguments.task else TASKS)
        model = model.to(arguments.device)
        bench = Bench(name="prune", device=arguments.device, runs=arguments.runs)
        bench_search(bench, model, means, task, pairs)
    bench.report()


if __name__ == "__main__":
    main()
