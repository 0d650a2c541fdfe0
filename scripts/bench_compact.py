"""How fast a compact circuit is against the masked full model that defines it: 64 pairs of prompts of 17 to 32 tokens.

Random weight-sparse models (density 1/64, embeddings 1/16, floor 4, AbsTopK of a quarter everywhere, sinks, biases; four
layers, heads of 16, vocabulary 2048), circuits of at most 100 nodes that follow nonzero weights from the embedding to the
logits, answers that read what the circuit writes, means over random tokens. `forward` has compiled and seen the tokens
before, `cold` compiles and sees them for the first time. Before timing, the answer logits are compared: a difference above
1e-5 is an error, and so is a circuit that hardly differs from the empty one, which would make the comparison easy.

    python scripts/bench_compact.py [--threads 2] [--runs 7] [--device cuda]
"""

import torch
from torch import Tensor

from circuits.answers import pair_answers
from circuits.compact import compile_circuit
from circuits.edges import on_path
from circuits.masks import NodeSpace, ablation_hooks
from circuits.means import measure_means
from circuits.tasks.pairs import PairSet
from circuits.tasks.task import PairText, Side
from sparsetrain.hooks import hooked
from sparsetrain.kernels.bench import Bench, parse_arguments
from sparsetrain.model import MLP, Attention, Block, ModelConfig, Transformer
from sparsetrain.sparsity import SparsityConfig, build_sparsity

WIDTHS = (512, 1024)
D_VOCAB, N_PAIRS, SHORTEST, LONGEST, MAX_NODES = 2048, 64, 17, 32, 100
TOLERANCE = 1e-5
VERSUS = "masked full model"


@torch.no_grad()
def sparse_model(width: int, device: str) -> Transformer:
    """Random weights cut to 1/64, with sinks, biases and gains that are not all alike."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(n_layer=4, d_model=width, d_vocab=D_VOCAB, n_ctx=LONGEST)).to(device)
    model.embed.weight.mul_(10)  # not much larger than what the layers write
    model.unembed.weight.mul_(5)  # logits of order one
    for name, p in model.named_parameters():
        if name.endswith(("bias", "sink", "gain")):
            p.add_(0.1 * torch.randn_like(p))
    sparsity = build_sparsity(SparsityConfig(density=1 / 64, embed_density=1 / 16, floor=4, bias_density=1), n_steps=1)
    assert sparsity is not None
    sparsity.prepare(model)
    sparsity.finalize()
    return model.eval().requires_grad_(False)


def random_path(model: Transformer, generator: torch.Generator) -> dict[str, set[int]]:
    """Nodes of one path through every attention and MLP: each reads what the path has written, or the embedding."""

    def one(candidates: Tensor) -> int:
        index = candidates.nonzero().flatten()
        return int(index[torch.randint(len(index), (1,), generator=generator)])

    live = model.embed.weight.any(0)
    nodes: dict[str, set[int]] = {}
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        attn, mlp, d_head = block.attn, block.mlp, model.config.d_head
        assert isinstance(attn, Attention) and isinstance(mlp, MLP)
        read = one(live)
        v = one(attn.W_v.weight[:, read])
        head = slice(v // d_head * d_head, (v // d_head + 1) * d_head)
        found = {"hook_in": {read}, "hook_v": {v}, "hook_out": {one(attn.W_o.weight[:, v])}}
        for x, linear in (("hook_q", attn.W_q), ("hook_k", attn.W_k)):
            channel = head.start + one(linear.weight[head][:, live].any(1))
            found[x] = {channel}
            found["hook_in"].add(one((linear.weight[channel] != 0) & live))
        nodes |= {f"blocks.{i}.attn.{x}": channels for x, channels in found.items()}
        live = torch.zeros_like(live).index_fill(0, torch.tensor(sorted(found["hook_out"]), device=live.device), True)
        read = one(live)
        neuron = one(mlp.W_in.weight[:, read])
        out = one(mlp.W_out.weight[:, neuron])
        nodes |= {f"blocks.{i}.mlp.hook_{x}": {c} for x, c in (("in", read), ("neuron", neuron), ("out", out))}
        live = live | model.embed.weight.any(0)
        live[out] = True
    return nodes


def random_circuit(model: Transformer, space: NodeSpace) -> Tensor:
    """As many random paths as fit into 100 nodes, bool `[n_nodes]`."""
    generator = torch.Generator().manual_seed(0)
    keep = torch.zeros(space.n_nodes, dtype=torch.bool)
    while True:
        path = space.mask({name: sorted(channels) for name, channels in random_path(model, generator).items()})
        if int((keep | path).sum()) > MAX_NODES:
            assert torch.equal(on_path(model, space, keep), keep)
            return keep
        keep = keep | path


def random_pairs(candidates: Tensor) -> PairSet:
    """64 pairs of random tokens; the two answers are drawn from `candidates` (ids)."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.rand(N_PAIRS, len(candidates), generator=generator).topk(2, dim=1).indices
    sides = [Side(prompt=prompt, answer="x", continuation="") for prompt in "ab"]
    return PairSet(
        task="random",
        split="heldout",
        seed=0,
        twin=None,
        tokens=torch.randint(D_VOCAB, (N_PAIRS, 2, LONGEST), generator=generator),
        last=torch.randint(SHORTEST - 1, LONGEST, (N_PAIRS, 2), generator=generator),
        answers=candidates[chosen],
        texts=(PairText(positive=sides[0], negative=sides[1]),) * N_PAIRS,
    )


def bench_width(bench: Bench, width: int) -> None:
    """Warm and cold, at one width; raises SystemExit if the logits differ."""
    device = bench.device
    model = sparse_model(width, device)
    windows = torch.randint(D_VOCAB, (32, LONGEST), generator=torch.Generator().manual_seed(1))
    means = measure_means(model, windows, source="random tokens", weights_sha256="")
    keep = random_circuit(model, means.space)
    last_writes = means.space.split(keep)[means.space.names[-1]]
    pairs = random_pairs(model.unembed.weight.cpu()[:, last_writes].any(1).nonzero().flatten())
    compact = compile_circuit(model, keep, means.values)

    def whole(_: object = None) -> Tensor:
        hooks = ablation_hooks(means.space, keep.to(device), means.values.to(device))
        with hooked(model, hooks):
            return pair_answers(model, pairs)

    expected, found = whole(), compact.answers(pairs)
    empty = compile_circuit(model, torch.zeros_like(keep), means.values).answers(pairs)
    effect = float((found - empty).square().mean().sqrt())
    n_nodes, n_moving = int(keep.sum()), sum(compact.n_moving.values())
    print(
        f"{width}: {n_nodes} nodes, {n_moving} of {means.space.n_nodes} channels move; logits (deviation "
        f"{expected.std():.2f}, {effect:.3f} from those of no nodes) differ by at most {(found - expected).abs().max():.1e}",
        flush=True,
    )
    if not torch.allclose(found, expected, rtol=0, atol=TOLERANCE):
        raise SystemExit(f"the compact circuit's logits differ from the {VERSUS}'s by more than {TOLERANCE}")
    if effect < 1e3 * TOLERANCE:
        raise SystemExit(f"the circuit moves the logits by {effect:.1e} only: equality to {TOLERANCE} means nothing")
    size = f"compact:{width}x{n_nodes}"
    calls = {
        f"{size}:forward": lambda _: compact.answers(pairs),
        f"{size}:cold": lambda _: compile_circuit(model, keep, means.values).answers(pairs),
    }
    bench.measure(calls, whole, VERSUS)


def main() -> None:
    """Prints the table and the JSON line."""
    arguments = parse_arguments(__doc__ or "")
    bench = Bench(name="compact", device=arguments.device, runs=arguments.runs)
    for width in WIDTHS[:1] if arguments.small else WIDTHS:
        bench_width(bench, width)
    bench.report()


if __name__ == "__main__":
    main()
