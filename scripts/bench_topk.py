"""How fast AbsTopK is against torch.topk with gather and scatter: 2048 rows, k = a quarter of the width.

Before timing, each width's result is compared with the reference.
"""

import torch
from torch import Tensor

from sparsetrain.kernels import abs_topk, abs_topk_reference
from sparsetrain.kernels.bench import Bench, parse_arguments

N_ROWS = 2048
WIDTHS = (128, 256, 512, 1024, 2048)
VERSUS = "torch.topk + gather + scatter"


def topk_scatter(x: Tensor, k: int) -> Tensor:
    """What one writes without a kernel."""
    index = x.abs().topk(k, dim=-1).indices
    return torch.zeros_like(x).scatter(-1, index, x.gather(-1, index))


def bench_width(bench: Bench, width: int) -> None:
    """Forward, and forward with backward, at one width."""
    torch.manual_seed(0)
    k = width // 4
    x = torch.randn(N_ROWS, width, device=bench.device)
    grad = torch.randn_like(x)
    copy = torch.empty_like(x)
    leaf = x.clone().requires_grad_()
    if not torch.equal(abs_topk(x, k), abs_topk_reference(x, k)):
        raise SystemExit(f"abs_topk differs from its reference at width {width}")

    def both_ways(topk):
        return lambda _: torch.autograd.grad(topk(leaf, k), leaf, grad)

    size = f"{N_ROWS}x{width}"
    forward = {f"abs_topk:{size}:forward": lambda _: abs_topk(x, k)}
    forward_backward = {f"abs_topk:{size}:forward_backward": both_ways(abs_topk)}
    bench.measure(forward, lambda _: topk_scatter(x, k), VERSUS, one_pass=lambda _: copy.copy_(x))
    bench.measure(forward_backward, both_ways(topk_scatter), VERSUS)


def main() -> None:
    """Prints the table and the JSON line."""
    arguments = parse_arguments(__doc__ or "")
    bench = Bench(name="topk", device=arguments.device, runs=arguments.runs)
    for width in WIDTHS[:1] if arguments.small else WIDTHS:
        bench_width(bench, width)
    bench.report()


if __name__ == "__main__":
    main()
