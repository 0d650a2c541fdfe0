"""How fast the weight projection is against torch.topk with a threshold, and against one pass over the tensor.

Warm: the weights moved by one small step since the last projection, whose threshold is known. Cold: no threshold known.
Before timing, each case's result is compared with the reference (exact selection). The floor of 4 is timed where it is
feasible with room, that is from density 8 / width on.
"""

from math import isqrt

import torch
from torch import Tensor

from sparsetrain.kernels import ProjectionSpec, project_each_topk_, warm_start_state
from sparsetrain.kernels.bench import Bench, parse_arguments
from sparsetrain.kernels.budget import FloorAxis
from sparsetrain.kernels.projection import kept_mask

SIZES = {"1M": 1 << 20, "4M": 1 << 22, "16M": 1 << 24}
DENSITIES = {"1/2": 2, "1/20": 20, "1/1000": 1000}
FLOOR = 4
STEP = 1e-3
"""By how much the weights move between projections, relative to their standard deviation."""


def topk_threshold(weight: Tensor, spec: ProjectionSpec) -> None:
    """What one writes without a kernel: top-k of all entries, and of each line for the floor."""
    magnitude = weight.abs()
    keep = magnitude >= magnitude.flatten().topk(spec.k).values[-1]
    if spec.floor:
        dim = 1 if spec.floor_axis == "rows" else 0
        keep.scatter_(dim, magnitude.topk(spec.floor, dim=dim).indices, True)
    weight.masked_fill_(~keep, 0)


def bench_tensor(bench: Bench, size: str, density: str, floor_axis: FloorAxis | None) -> None:
    """Warm and cold for one tensor."""
    torch.manual_seed(0)
    width = isqrt(SIZES[size])
    spec = ProjectionSpec(k=SIZES[size] // DENSITIES[density], floor=FLOOR if floor_axis else 0, floor_axis=floor_axis)
    weights = torch.randn(width, width, device=bench.device)

    def step() -> Tensor:
        return torch.randn_like(weights).mul_(STEP).add_(weights)

    state = warm_start_state(1, bench.device)
    for _ in range(2):
        stepped = step()
        expected = torch.where(kept_mask(stepped, spec), stepped, 0)
        project_each_topk_([stepped], [spec], state)
        if not torch.equal(stepped, expected):
            raise SystemExit(f"the projection differs from its reference at {size}, density {density}, {floor_axis}")

    operation, suffix = ("project", "") if floor_axis is None else (f"project_{floor_axis}", ":floor")
    name = f"{operation}:{size}@{density}"
    bench.measure(
        {
            f"{name}:warm{suffix}": lambda w: project_each_topk_([w], [spec], state),
            f"{name}:cold{suffix}": lambda w: project_each_topk_([w], [spec]),
        },
        lambda w: topk_threshold(w, spec),
        "torch.topk + threshold",
        make=step,
        one_pass=lambda w: w.mul_(0.999),
    )


def main() -> None:
    """Prints the table and the JSON line."""
    arguments = parse_arguments(__doc__ or "")
    bench = Bench(name="projection", device=arguments.device, runs=arguments.runs)
    for size, n_entries in list(SIZES.items())[: 1 if arguments.small else None]:
        for density, share in DENSITIES.items():
            axes: tuple[FloorAxis | None, ...] = (None, "rows", "columns")
            for axis in axes if n_entries // share >= 2 * FLOOR * isqrt(n_entries) else (None,):
                bench_tensor(bench, size, density, axis)
    bench.report()


if __name__ == "__main__":
    main()
