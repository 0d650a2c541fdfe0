"""What perturbations cost: 100 changed models on 256 sequences against 100 plain forward passes on the same batch.

The quickstart's model with random weights (2 layers, width 128, heads of 8, concatenated positions, vocabulary 2048), 256 sequences of 128
random tokens. A turn runs 10 perturbations of all three kinds, each with its change of margins and its output KL, and 10 forward passes;
10 turns are the 100. Finding the size of perturbations is not among it. Before anything is timed, each kind of perturbation must give the
logits of a pass with changed weights. Perturbations cost 1 / speedup passes each; the bound is 1.5.

    python scripts/bench_perturbations.py [--threads 1] [--runs 10]
"""

from copy import deepcopy

import torch

from circuits.fracture.engine import Asked, perturbed_logits, sweep, unchanged_logits
from circuits.fracture.perturbations import Perturbation, PerturbationsConfig, draw_perturbations, matrices
from sparsetrain.kernels.bench import Bench, parse_arguments
from sparsetrain.model import ModelConfig, Transformer

N_SEQUENCES, N_TOKENS, N_A_TURN, N_BEHAVIOURS = 256, 128, 10, 8
MODEL = ModelConfig(d_vocab=2048, n_layer=2, d_model=128, d_head=8, n_ctx=128, positions="concat", abs_topk={})
RHO = 0.5
TOLERANCE = 1e-5


def perturbations_of(model: Transformer) -> list[Perturbation]:
    """As many of each kind, in turns."""
    kinds = ("weight", "direction", "singular")
    drawn = [draw_perturbations({"": model}, PerturbationsConfig(kind=kind, entries="all", n=34))[""] for kind in kinds]
    return [one for three in zip(*drawn, strict=True) for one in three]


@torch.no_grad()
def check(model: Transformer, prompts: torch.Tensor, some: list[Perturbation]) -> None:
    """Raises SystemExit if perturbed logits are not those of changed weights."""
    found = torch.cat([*perturbed_logits(model, prompts, [(one, RHO) for one in some])])
    for one, logits in zip(some, found, strict=True):
        changed = deepcopy(model)
        weight = matrices(changed)[one.name].weight
        weight.add_(RHO * one.direction(weight))
        if not torch.allclose(logits, unchanged_logits(changed, prompts), rtol=0, atol=TOLERANCE):
            raise SystemExit(f"logits under a perturbation of kind {one.kind} differ by more than {TOLERANCE} from those of changed weights")  # fmt: skip


def main() -> None:
    """Prints the table and the JSON line."""
    arguments = parse_arguments(__doc__ or "", runs=10)
    device = arguments.device
    torch.manual_seed(0)
    model = Transformer(MODEL).to(device).eval()
    tokens = torch.randint(MODEL.d_vocab, (N_SEQUENCES, N_TOKENS + 1)).to(device)
    asked = Asked(
        tokens=tokens,
        behaviour=(torch.arange(N_SEQUENCES) % N_BEHAVIOURS).to(device),
        n_behaviours=N_BEHAVIOURS,
    )
    drawn = perturbations_of(model)
    check(model, asked.prompts[:16], drawn[:3])
    parts = iter(range(0, N_A_TURN * (2 * arguments.runs + 4), N_A_TURN))

    def next_ones() -> list[Perturbation]:
        first = next(parts)
        return [drawn[i % len(drawn)] for i in range(first, first + N_A_TURN)]

    def ours(some: list[Perturbation]) -> torch.Tensor:
        return sweep(model, asked, some, RHO, scales=(1.0,)).response

    def plain(_: object) -> None:
        for _ in range(N_A_TURN):
            unchanged_logits(model, asked.prompts)

    bench = Bench(name="perturbations", device=device, runs=arguments.runs)
    name = f"perturbations:{MODEL.n_layer}x{MODEL.d_model}:forward"
    case = bench.measure({name: ours}, plain, f"{N_A_TURN} forward passes", make=next_ones)[0]
    print(
        f"a perturbation costs {1 / case.speedup:.2f} forward passes (median of {arguments.runs} turns of {N_A_TURN})"
    )
    bench.report()


if __name__ == "__main__":
    main()
