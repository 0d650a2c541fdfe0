"""What weight sparsity costs a training step: a weight-sparse model against the same model with dense weights.

Four layers, heads of 16, context 256, vocabulary 2048, batches of 8. The sparse model has AbsTopK of a quarter everywhere,
sinks, weights at their target density and a floor of 4 wherever the density is at least 8 / width. The dense model has
none of these; both have the bigram table, the same optimizer and the same attention kernel. `speedup` is the time of the
dense step over that of the sparse one, so 1 / speedup is what sparsity costs.
"""

from dataclasses import replace
from statistics import median

import torch

from sparsetrain.kernels.bench import Bench, BenchCase, parse_arguments
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.optim import OptimConfig
from sparsetrain.sparsity import SparsityConfig, build_sparsity
from sparsetrain.sparsity.method import STEP_KEY
from sparsetrain.training.fit import LitTransformer, take_step
from sparsetrain.training.guard import Guard, GuardConfig
from sparsetrain.training.objectives import next_token_loss

N_LAYER, D_HEAD, N_CTX, D_VOCAB, BATCH = 4, 16, 256, 2048, 8
WIDTHS = {"cpu": (128, 256, 512), "cuda": (512, 1024, 2048)}
DENSITIES = {"1/8": 1 / 8, "1/16": 1 / 16, "1/64": 1 / 64}
N_STEPS = 100
VERSUS = "dense weights, no AbsTopK, no sink"


class Trainee:
    """A model and its optimizer at the end of the density schedule."""

    def __init__(self, width: int, density: float | None, device: str) -> None:
        torch.manual_seed(0)
        config = ModelConfig(n_layer=N_LAYER, d_model=width, d_head=D_HEAD, n_ctx=N_CTX, d_vocab=D_VOCAB)
        if density is None:
            config = replace(config, abs_topk={}, sink=False)
        model = Transformer(config).to(device)
        sparsity = None if density is None else build_sparsity(SparsityConfig(density=density, floor="auto"), N_STEPS)
        if sparsity is not None:
            sparsity.prepare(model)
        self.floors = [] if sparsity is None else [row.floor for row in sparsity.audit()]
        self.module = LitTransformer(model, next_token_loss, OptimConfig(), sparsity, N_STEPS, Guard(GuardConfig()))
        self.optimizer = self.module.configure_optimizers()["optimizer"]
        if sparsity is not None:
            self.optimizer.param_groups[0][STEP_KEY] = N_STEPS
        self.batch = {"tokens": torch.randint(D_VOCAB, (BATCH, N_CTX + 1), device=device)}
        self.precision = torch.bfloat16 if device.startswith("cuda") else None

    def step(self, _: object = None) -> None:
        """One optimizer step (bfloat16 autocast on CUDA)."""
        device = self.batch["tokens"].device.type
        with torch.autocast(device, self.precision, enabled=self.precision is not None):
            take_step(self.module, self.optimizer, self.batch)


def bench_width(bench: Bench, width: int) -> list[BenchCase]:
    """A step at each density against the dense one."""
    calls = {}
    for name, density in DENSITIES.items():
        trainee = Trainee(width, density, bench.device)
        calls[f"train_step:{width}@{name}:step" + (":floor" if any(trainee.floors) else "")] = trainee.step
    return bench.measure(calls, Trainee(width, None, bench.device).step, VERSUS, n_warmup=3)


def main() -> None:
    """Prints the table, tokens/s, and the JSON line."""
    arguments = parse_arguments(__doc__ or "")
    torch.set_flush_denormal(True)  # as every training does
    bench = Bench(name="step", device=arguments.device, runs=arguments.runs)
    widths = WIDTHS["cuda" if bench.device.startswith("cuda") else "cpu"]
    for width in widths[:1] if arguments.small else widths:
        for case in bench_width(bench, width):
            ratio, speed = 1 / case.speedup, 1e3 * BATCH * N_CTX / case.ms
            print(f"{case.name}: {speed:,.0f} tokens/s, {ratio:.3f} times the dense step", flush=True)
    for name in DENSITIES:
        ratios = [1 / case.speedup for case in bench.cases if f"@{name}:" in case.name]
        print(f"density {name}: median over widths {median(ratios):.3f}, largest {max(ratios):.3f}")
    bench.report()


if __name__ == "__main__":
    main()
