"""What logits of an export cost whose layers compute by their nonzeros, against the same export computed densely; and the sizes of its files.

Four layers, heads of 16, vocabulary 2048, a bigram table, no AbsTopK, one sequence of 256 tokens, random weights at one density everywhere.
"""

import tempfile
from functools import partial
from pathlib import Path

import torch

from sparsetrain.export import export_model, load_model
from sparsetrain.kernels.bench import Bench, parse_arguments
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.sparsity import SparsityConfig, build_sparsity

N_LAYER, D_HEAD, N_CTX, D_VOCAB = 4, 16, 256, 2048
WIDTHS = (256, 512, 1024)
DENSITIES = {"1/64": 1 / 64, "1/256": 1 / 256}


def sparse_model(width: int, density: float) -> Transformer:
    """Random weights, projected."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(n_layer=N_LAYER, d_model=width, d_head=D_HEAD, n_ctx=N_CTX, d_vocab=D_VOCAB, abs_topk={}))  # fmt: skip
    method = build_sparsity(SparsityConfig(density=density, floor="auto"), n_steps=1)
    assert method is not None
    method.prepare(model)
    method.finalize()
    return model


@torch.no_grad()
def bench_width(bench: Bench, width: int, folder: Path) -> None:
    """One width at every density."""
    tokens = torch.randint(D_VOCAB, (1, N_CTX))
    for name, density in DENSITIES.items():
        model = sparse_model(width, density)
        packed, plain = (
            export_model(model, folder / f"{width}-{density}-{kind}", None, {"step": 0}, packed=kind == "packed")
            for kind in ("packed", "plain")
        )
        dense, sparse = load_model(packed), load_model(packed, compute="sparse")
        (case,) = bench.measure({f"logits:{width}@{name}:forward": partial(_logits, sparse, tokens)}, partial(_logits, dense, tokens), "compute=dense", n_warmup=2)  # fmt: skip
        difference = float((dense(tokens) - sparse(tokens)).abs().max())
        sizes = [(one / "model.safetensors").stat().st_size for one in (packed, plain)]
        print(
            f"{case.name}: {case.speedup:.2f} times faster, largest difference of logits {difference:.1e}; "
            f"file {sizes[0] / 1e6:.2f} MB instead of {sizes[1] / 1e6:.1f}, {sizes[0] / sizes[1]:.3f} of it",
            flush=True,
        )


def _logits(model: Transformer, tokens: torch.Tensor, _: object) -> None:
    model(tokens)


def main() -> None:
    """Prints the table and the JSON line."""
    arguments = parse_arguments(__doc__ or "", runs=11)
    torch.set_flush_denormal(True)
    bench = Bench(name="sparse_inference", device=arguments.device, runs=arguments.runs)
    with tempfile.TemporaryDirectory() as folder:
        for width in WIDTHS[:1] if arguments.small else WIDTHS:
            bench_width(bench, width, Path(folder))
    bench.report()


if __name__ == "__main__":
    main()
