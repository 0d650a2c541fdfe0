"""What watching costs: training steps with the default interval's share of an evaluation against plain ones.

    python scripts/bench_tracker.py [--threads 2] [--runs 7]

The quickstart's model and batch on random tokens, seven splits. Every turn times five training steps and one evaluation;
`tracker:<size>:step` is a step plus 1 / every_n_steps of an evaluation, and its speedup is the plain step over that: 0.95
is watching at 5% of training time. `tracker:<size>:run` spreads the evaluations of a whole run, those of the first and
the last step included, over its steps. Before that, two short trainings, watched and unwatched, must end in byte-identical
weights.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sparsetrain.entry import quieten
from sparsetrain.kernels.bench import Bench, BenchCase, parse_arguments, seconds
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.optim import OptimConfig
from sparsetrain.representation.evaluate import measure_splits
from sparsetrain.representation.table import append_rows
from sparsetrain.representation.tracker import SparsityTracker, TrackerConfig
from sparsetrain.sparsity import SparsityConfig, build_sparsity
from sparsetrain.training.fit import LitTransformer, take_step
from sparsetrain.training.guard import Guard, GuardConfig
from sparsetrain.training.objectives import next_token_loss

N_STEPS, BATCH = 1600, 16  # the quickstart's
N_COMPARED_STEPS, N_TIMED_STEPS = 4, 5
MODEL = ModelConfig(d_vocab=1024, n_layer=4, d_model=128, n_ctx=128)


@dataclass(frozen=True, kw_only=True)
class RandomSplit:
    """Random tokens: what they are does not change the time."""

    name: str
    level: int
    tokens: Tensor
    description: str = "random tokens"


def random_tokens(n: int, length: int, seed: int) -> Tensor:
    """`[n, length]` int64."""
    return torch.randint(MODEL.d_vocab, (n, length), generator=torch.Generator().manual_seed(seed))


def build(device: str) -> LitTransformer:
    """The quickstart's module, seeded."""
    torch.manual_seed(0)
    model = Transformer(MODEL).to(device)
    sparsity = build_sparsity(SparsityConfig(density=0.125), N_STEPS)
    assert sparsity is not None
    sparsity.prepare(model)
    return LitTransformer(model, next_token_loss, OptimConfig(), sparsity, N_STEPS, Guard(GuardConfig()))


def weights_after(n_steps: int, device: str, callbacks: list[L.Callback]) -> dict[str, Tensor]:
    """Weights of a short Lightning training."""
    module = build(device)
    batches = [{"tokens": row, "k": 0} for row in random_tokens(4 * n_steps, MODEL.n_ctx + 1, 1)]
    trainer = L.Trainer(
        accelerator="gpu" if device.startswith("cuda") else "cpu",
        devices=1,
        max_steps=n_steps,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=4))  # pyright: ignore[reportArgumentType]
    return {name: value.cpu() for name, value in module.model.state_dict().items()}


def main() -> None:
    """Prints the table and the JSON line."""
    arguments = parse_arguments(__doc__ or "")
    device = arguments.device
    quieten()
    torch.set_flush_denormal(True)  # as every training does
    splits = [RandomSplit(name=f"split_{i}", level=i, tokens=random_tokens(64, MODEL.n_ctx, i)) for i in range(7)]
    config = TrackerConfig()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "ood_sparsity.csv"
        tracker = SparsityTracker(TrackerConfig(every_n_steps=2), splits, table)
        plain, watched = weights_after(N_COMPARED_STEPS, device, []), weights_after(N_COMPARED_STEPS, device, [tracker])
        assert tracker.n_evaluations == 3
        if not all(torch.equal(plain[name], watched[name]) for name in plain):
            raise SystemExit("weights differ with watching on and off")
        print(f"weights after {N_COMPARED_STEPS} steps: byte-identical, watched and unwatched")

        module = build(device)
        optimizer = module.configure_optimizers()["optimizer"]
        tokens = random_tokens(BATCH, MODEL.n_ctx + 1, 1).to(device)

        def step(_: object) -> None:
            take_step(module, optimizer, {"tokens": tokens})

        def evaluate(_: object) -> None:
            append_rows(table, 0, measure_splits(module.model, splits, config).rows)

        step(None)
        evaluate(None)
        turns = []
        for _ in range(arguments.runs):
            plain_step = median(seconds(step, None, device) for _ in range(N_TIMED_STEPS))
            turns.append((plain_step, seconds(evaluate, None, device)))
    n_evaluations = N_STEPS // config.every_n_steps + 2  # with step 0 and the last one
    size = f"{MODEL.n_layer}x{MODEL.d_model}"
    cases = [
        case(f"tracker:{size}:step", turns, 1 / config.every_n_steps, f"a step unwatched (of {config.every_n_steps})"),
        case(
            f"tracker:{size}:run",
            turns,
            n_evaluations / N_STEPS,
            f"a step unwatched ({n_evaluations} times in {N_STEPS})",
        ),
    ]
    Bench(name="tracker", device=device, runs=arguments.runs, cases=cases).report()


def case(name: str, turns: list[tuple[float, float]], share: float, versus: str) -> BenchCase:
    """A watched step, `share` of an evaluation added to it, against the plain one; `turns` are seconds of (step, evaluation)."""
    watched = [step + share * evaluation for step, evaluation in turns]
    return BenchCase(
        name=name,
        ms=1e3 * median(watched),
        ms_min=1e3 * min(watched),
        versus=versus,
        speedup=median(step / both for (step, _), both in zip(turns, watched, strict=True)),
    )


if __name__ == "__main__":
    main()
