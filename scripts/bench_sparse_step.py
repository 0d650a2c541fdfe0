"""What a training step costs that leaves zeros out, against one that computes with them.

Four layers, heads of 16, context 256, vocabulary 2048, batches of 8, sinks and a bigram table, no AbsTopK; blocks, embeddings and biases at their final density, floor
auto. Both steps are of the same model and optimizer and differ in `sparsity.compute`. A sparse turn is a whole round from one dense gradient to the next,
and is given per step.

Amdahl's law: the limit is the dense step once more with products that cost nothing, their results and gradients being there already (so attention, norms,
activations, the loss, optimizer and projection are left), in the same turns. Only by having less to do elsewhere (its optimizer
and its projection move the nonzeros alone) can a sparse step pass it.
On CUDA the dense step runs in bfloat16 autocast, the sparse one in float32 by torch's sparse products.
"""

from dataclasses import replace
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from sparsetrain.kernels.bench import Bench, BenchCase, parse_arguments, seconds
from sparsetrain.linear import Embedding, Linear
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.optim import OptimConfig
from sparsetrain.sparsity import ComputeConfig, SparsityConfig, build_sparsity
from sparsetrain.sparsity.method import STEP_KEY
from sparsetrain.training.fit import LitTransformer, take_step
from sparsetrain.training.guard import Guard, GuardConfig
from sparsetrain.training.objectives import next_token_loss

N_LAYER, D_HEAD, N_CTX, D_VOCAB, BATCH = 4, 16, 256, 2048, 8
WIDTHS = {"cpu": (128, 512, 1024), "cuda": (2048,)}
DENSITIES = {"1/64": 1 / 64, "1/256": 1 / 256, "1/1000": 1 / 1000}
"""The last on CUDA alone."""
N_STEPS = 100_000
"""Far from the last stretch, in which every gradient is dense."""
CONFIG = SparsityConfig(floor="auto", computing=ComputeConfig(exact_end=0))
VERSUS = "compute=dense"


class Trainee:
    """A model and its optimizer at the end of the density schedule."""

    def __init__(self, width: int, sparsity: SparsityConfig, device: str) -> None:
        torch.manual_seed(0)
        config = ModelConfig(n_layer=N_LAYER, d_model=width, d_head=D_HEAD, n_ctx=N_CTX, d_vocab=D_VOCAB, abs_topk={})
        self.model = Transformer(config).to(device)
        method = build_sparsity(sparsity, N_STEPS)
        assert method is not None
        method.prepare(self.model)
        module = LitTransformer(self.model, next_token_loss, OptimConfig(), method, N_STEPS, Guard(GuardConfig()))
        self.module, self.optimizer = module, module.configure_optimizers()["optimizer"]
        self.batch = {"tokens": torch.randint(D_VOCAB, (BATCH, N_CTX + 1), device=device)}
        self.device = device
        self.half = device.startswith("cuda") and sparsity.compute == "dense"
        self.round = sparsity.computing.refresh_every if sparsity.compute == "sparse" else 1
        self.step()  # AdamW's moments
        self.optimizer.param_groups[0][STEP_KEY] = N_STEPS * 3 // 4 - 1
        self.step()  # the projection to the final density
        self.step()  # a dense gradient at the final density; the first turn is not counted

    def step(self) -> None:
        """One optimizer step."""
        with self.autocast():
            take_step(self.module, self.optimizer, self.batch)

    def autocast(self) -> torch.autocast:
        """Bfloat16 on CUDA, where the step is dense."""
        return torch.autocast(self.device.partition(":")[0], torch.bfloat16, enabled=self.half)

    def turn(self, _: object = None) -> None:
        """One round of steps, from a dense gradient to the next."""
        for _ in range(self.round):
            self.step()

    def make_products_free(self) -> None:
        """From now on everything that becomes sparse costs nothing, forward and backward; its results are those of one pass."""
        layers = [module for module in self.model.modules() if isinstance(module, Linear | Embedding)]

        def keep(module: Linear | Embedding, arguments: tuple[Tensor], y: Tensor) -> None:
            module.product = FreeProduct(module, arguments[0], y)  # pyright: ignore[reportAttributeAccessIssue]

        handles = [layer.register_forward_hook(keep) for layer in layers]  # pyright: ignore[reportArgumentType]
        with self.autocast(), torch.no_grad():
            self.module.losses(self.batch)
        for handle in handles:
            handle.remove()


class FreeProduct:
    """A layer's product whose result and gradients are there already."""

    def __init__(self, module: Linear | Embedding, x: Tensor, y: Tensor) -> None:
        self.y = y.clone()
        self.dx = 1e-3 * torch.randn_like(x) if x.is_floating_point() else None
        self.gradients = {param: 1e-3 * torch.randn_like(param) for param in module.parameters()}

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return _Free.apply(x, weight, self)  # pyright: ignore[reportReturnType]


class _Free(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, free: FreeProduct) -> Tensor:
        ctx.free = free
        return free.y.detach()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        for param, gradient in ctx.free.gradients.items():
            param.grad = gradient  # returned, it would be copied
        return ctx.free.dx, None, None


def bench_width(bench: Bench, width: int) -> None:
    """Rounds of sparse steps at each density against dense steps, and dense steps whose products cost nothing."""
    for name, density in list(DENSITIES.items())[: None if bench.device.startswith("cuda") else -1]:
        config = replace(CONFIG, density=density)
        dense, sparse, free = (
            Trainee(width, replace(config, compute=compute), bench.device) for compute in ("dense", "sparse", "dense")
        )
        free.make_products_free()
        calls = [dense.turn, sparse.turn, free.turn]
        turns = [[seconds(call, None, bench.device) for call in calls] for _ in range(bench.runs + 1)][1:]
        per_step = [(one[0], one[1] / sparse.round, one[2]) for one in turns]
        limit = median(step / rest for step, _, rest in per_step)
        speedup = median(step / ours for step, ours, _ in per_step)
        case = BenchCase(
            name=f"sparse_step:{width}@{name}:step",
            ms=1e3 * median(ours for _, ours, _ in per_step),
            ms_min=1e3 * min(ours for _, ours, _ in per_step),
            versus=VERSUS,
            speedup=speedup,
        )
        bench.cases.append(case)
        print(
            f"{case.name}: dense {1e3 * median(step for step, _, _ in per_step):,.0f} ms, of which products {1 - 1 / limit:.3f}, so at most "
            f"{limit:.2f} times faster; sparse {case.ms:,.0f} ms, {speedup:.2f} times faster: {speedup / limit:.0%} of that limit",
            flush=True,
        )


def main() -> None:
    """Prints limit and what is reached, the table, and the JSON line."""
    arguments = parse_arguments(__doc__ or "", runs=5)
    torch.set_flush_denormal(True)  # as every training does
    bench = Bench(name="sparse_step", device=arguments.device, runs=arguments.runs)
    widths = WIDTHS["cuda" if bench.device.startswith("cuda") else "cpu"]
    for width in widths[:1] if arguments.small else widths:
        bench_width(bench, width)
    bench.report()


if __name__ == "__main__":
    main()
