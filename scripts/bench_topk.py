"""How fast AbsTopK is against torch.topk with gather and scatter: 2048 rows, k = a quarter of the width.

Before timing, each width's result is compared with the reference.
"""

import torch
from torch import Tensor

from sparsetrain.kernels import abs_topk, abs_topk_reference
from sparsetrain.kernels.bench import Case, measure, parse_arguments, print_report

N_ROWS = 2048
WIDTHS = (128, 256, 512, 1024, 2048)
VERSUS = "torch.topk + gather + scatter"


def topk_scatter(x: Tensor, k: int) -> Tensor:
    """What one writes without a kernel."""
    index = x.abs().topk(k, dim=-1).indices
    return torch.zeros_like(x).scatter(-1, index, x.gather(-1, index))


def bench_width(width: int, device: str, runs: int) -> list[Case]:
    """Forward, and forward with backward, at one width."""
    torch.manual_seed(0)
    k = width // 4
    x = torch.randn(N_ROWS, width, device=device)
    grad = torch.randn_like(x)
    copy = torch.empty_like(x)
    leaf = x.clone().requires_grad_()
    if not torch.equal(abs_topk(x, k), abs_topk_reference(x, k)):
        raise SystemExit(f"abs_topk differs from its reference at width {width}")

    def both_ways(topk):
        return lambda _: torch.autograd.grad(topk(leaf, k), leaf, grad)

    size, timing = f"{N_ROWS}x{width}", {"make": lambda: None, "runs": runs, "device": device}
    forward = {f"abs_topk:{size}:forward": lambda _: abs_topk(x, k)}
    forward_backward = {f"abs_topk:{size}:forward_backward": both_ways(abs_topk)}
    return [
        *measure(forward, lambda _: topk_scatter(x, k), VERSUS, one_pass=lambda _: copy.copy_(x), **timing),
        *measure(forward_backward, both_ways(topk_scatter), VERSUS, **timing),
    ]


def main() -> None:
    """Prints the table and the JSON line."""
    arguments = parse_arguments(__doc__ or "")
    cases = [case for width in WIDTHS for case in bench_width(width, arguments.device, arguments.runs)]
    print_report("topk", arguments.device, arguments.runs, cases)


if __name__ == "__main__":
    main()
