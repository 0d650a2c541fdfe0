"""What watching costs: seconds of one tracker evaluation against seconds of a training step, in one run.

    python scripts/bench_tracker.py [--threads 2] [--runs 7]

The quickstart's model and batch on random tokens, seven splits. Training steps and evaluations take turns; the ratio is
(evaluation) / (every_n_steps * step), the share of training time at the default interval. Before that, two short
trainings, watched and unwatched, must end in byte-identical weights.
"""

import json
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sparsetrain.kernels.bench import parse_arguments, seconds
from sparsetrain.lit import LitTransformer, next_token_loss, take_step
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.optim import OptimConfig
from sparsetrain.representation.record import append_rows
from sparsetrain.representation.tracker import SparsityTracker, TrackerConfig
from sparsetrain.representation.watch import measure_splits
from sparsetrain.sparsity import SparsityConfig, build_sparsity

N_STEPS, BATCH = 2000, 16  # the quickstart's
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
    return LitTransformer(model, next_token_loss, OptimConfig(), sparsity, N_STEPS)


def weights_after(n_steps: int, device: str, callbacks: list[L.Callback]) -> dict[str, Tensor]:
    """Weights of a short Lightning training."""
    module = build(device)
    batches = [{"tokens": row} for row in random_tokens(4 * n_steps, MODEL.n_ctx + 1, 1)]
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
    """Prints the numbers and a JSON line."""
    arguments = parse_arguments(__doc__ or "")
    device = arguments.device
    warnings.filterwarnings("ignore", module="lightning")
    torch.set_flush_denormal(True)  # as every training does
    splits = [RandomSplit(name=f"split_{i}", level=i, tokens=random_tokens(64, MODEL.n_ctx, i)) for i in range(7)]
    config = TrackerConfig()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "ood_sparsity.csv"
        tracker = SparsityTracker(TrackerConfig(every_n_steps=2), splits, table)
        plain, watched = weights_after(4, device, []), weights_after(4, device, [tracker])
        assert tracker.n_evaluations == 3
        if not all(torch.equal(plain[name], watched[name]) for name in plain):
            raise SystemExit("weights differ with watching on and off")

        module = build(device)
        optimizer = module.configure_optimizers()["optimizer"]
        tokens = random_tokens(BATCH, MODEL.n_ctx + 1, 1).to(device)

        def step(_: object) -> None:
            take_step(module, optimizer, {"tokens": tokens})

        def evaluate(_: object) -> None:
            append_rows(table, 0, measure_splits(module.model, splits, config).rows)

        step(None)
        evaluate(None)
        steps, evaluations = [], []
        for _ in range(arguments.runs):
            steps += [seconds(step, None, device) for _ in range(5)]
            evaluations.append(seconds(evaluate, None, device))
    per_step, per_evaluation = median(steps), median(evaluations)
    share = per_evaluation / (config.every_n_steps * per_step)
    n_evaluations = N_STEPS // config.every_n_steps + 2  # with step 0 and the last one
    whole_run = n_evaluations * per_evaluation / (N_STEPS * per_step)
    print("weights after 4 steps: byte-identical, watched and unwatched")
    print(f"training step   {1e3 * per_step:9.1f} ms   ({BATCH} x {MODEL.n_ctx} tokens)")
    print(f"one evaluation  {1e3 * per_evaluation:9.1f} ms   ({len(splits)} splits x {config.n_windows} windows)")
    print(f"share at every_n_steps={config.every_n_steps}: {share:.2%}; over a run of {N_STEPS} steps: {whole_run:.2%}")
    numbers = {"step_ms": 1e3 * per_step, "evaluation_ms": 1e3 * per_evaluation, "share": share, "share_run": whole_run}
    print(json.dumps({"bench": "tracker", "device": device, "threads": torch.get_num_threads(), **numbers}))


if __name__ == "__main__":
    main()
