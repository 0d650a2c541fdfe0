"""How fast attention with a sink is against the attention matrix written out, and against no sink at all."""

import torch

from sparsetrain.kernels import sink_attention, sink_attention_reference
from sparsetrain.kernels.bench import Bench, parse_arguments

SHAPES = ((8, 16, 256, 16), (2, 16, 1024, 16))
"""batch, head, pos, d_head."""


def bench_shape(bench: Bench, shape: tuple[int, int, int, int]) -> None:
    """Forward, forward with backward against the reference; forward with backward against no sink."""
    torch.manual_seed(0)
    n_head, device = shape[1], bench.device
    q, k, v = (torch.randn(shape, device=device, requires_grad=True) for _ in range(3))
    sink = torch.randn(n_head, device=device, requires_grad=True)
    grad = torch.randn(shape, device=device)

    def both_ways(attend, *leaves):
        return lambda _: torch.autograd.grad(attend(*leaves), leaves, grad)

    ours, reference = both_ways(sink_attention, q, k, v, sink), both_ways(sink_attention_reference, q, k, v, sink)
    for fast, slow in zip(ours(None), reference(None), strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)
    size = "x".join(map(str, shape))
    fixed = [t.detach() for t in (q, k, v, sink)]
    forward = {f"sink_attention:{size}:forward": lambda _: sink_attention(*fixed)}
    no_sink = both_ways(lambda q, k, v: sink_attention(q, k, v, None), q, k, v)
    bench.measure(forward, lambda _: sink_attention_reference(*fixed), "attention matrix")
    bench.measure({f"sink_attention:{size}:forward_backward": ours}, reference, "attention matrix")
    bench.measure({f"sink_attention_against_none:{size}:forward_backward": ours}, no_sink, "fused, no sink")


def main() -> None:
    """Prints the table and the JSON line."""
    arguments = parse_arguments(__doc__ or "")
    bench = Bench(name="attention", device=arguments.device, runs=arguments.runs)
    for shape in SHAPES[:1] if arguments.small else SHAPES:
        bench_shape(bench, shape)
    bench.report()


if __name__ == "__main__":
    main()
