"""Masks and circuits change exactly what they say: nothing when all is kept, all but the token when nothing is."""

import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from circuits.answers import Ablated, pair_answers
from circuits.circuit import Circuit, Provenance
from circuits.edges import edge_masks, edge_weights, find_edges, narrowed
from circuits.masks import HardConcreteMasks, NodeMasks, NodeSpace, ablation_hooks, step_derivative
from circuits.search.learn import Aim, MaskRun, PruneConfig, learn_masks
from circuits.tasks.loss import Calibration
from circuits.tasks.pairs import PairSet
from circuits.tasks.task import PairText, Side
from sparsetrain.export import export_model, load_model, read_meta
from sparsetrain.hooks import NODE_KINDS, HookPoint, hooked

OPTIONS = {
    "default": {},
    "no AbsTopK": {"abs_topk": {}},
    "AbsTopK half": {"abs_topk": dict.fromkeys(NODE_KINDS, 0.5)},
    "no sink": {"sink": False},
    "no bigram": {"bigram": False},
    "no biases": {"biases": False},
    "learned positions": {"positions": "learned"},
    "concatenated positions": {"positions": "concat", "d_pos": 5},
    "reference attention": {"attention": "reference"},
}


@pytest.fixture(params=OPTIONS)
def model(request, make_model):
    return make_model(d_model=16, d_head=4, **OPTIONS[request.param]).eval().requires_grad_(False)


def tokens(n: int = 6, n_pos: int = 9, seed: int = 0) -> torch.Tensor:
    return torch.randint(61, (n, n_pos), generator=torch.Generator().manual_seed(seed))


def random_pairs(n: int, seed: int) -> PairSet:
    generator = torch.Generator().manual_seed(seed)
    sides = [Side(prompt=prompt, answer="x", continuation="") for prompt in "ab"]
    text = PairText(positive=sides[0], negative=sides[1])
    return PairSet(
        task="random",
        split="train",
        seed=seed,
        twin=None,
        tokens=torch.randint(61, (n, 2, 8), generator=generator),
        last=torch.randint(4, 8, (n, 2), generator=generator),
        answers=torch.tensor([[3, 4]] * n),
        texts=(text,) * n,
    )


def test_all_ones_mask_is_bitwise_the_plain_model(model):
    space = NodeSpace.of(model)
    x, means = tokens(), torch.randn(space.n_nodes)
    plain = model(x)
    masks = NodeMasks(space, torch.ones(2, space.n_nodes), 0.5)
    with hooked(model, masks.hooks(means)):
        learned = model(x).detach()
    with hooked(model, ablation_hooks(space, torch.ones(space.n_nodes, dtype=torch.bool), means)):
        fixed = model(x)
    assert torch.equal(plain.view(torch.int32), learned.view(torch.int32))
    assert torch.equal(plain.view(torch.int32), fixed.view(torch.int32))


def test_all_zeros_mask_leaves_only_the_current_token(model):
    space = NodeSpace.of(model)
    x, y = tokens(seed=1), tokens(seed=2)
    y[:, -1] = x[:, -1]
    none = torch.zeros(space.n_nodes, dtype=torch.bool)
    means = torch.randn(space.n_nodes, generator=torch.Generator().manual_seed(3))
    with hooked(model, ablation_hooks(space, none, means)):
        assert torch.allclose(model(x)[:, -1], model(y)[:, -1], atol=1e-5)
        if model.config.positions != "learned":
            at = torch.tensor([2, 5])
            assert torch.allclose(*(model(x[:1].expand(2, -1).clone().index_fill(1, at, 7))[0, at]), atol=1e-5)


def test_full_edge_circuit_is_bitwise_the_plain_model(model):
    space = NodeSpace.of(model)
    x = tokens()
    masks = edge_masks(model, space, find_edges(model, space, torch.ones(space.n_nodes, dtype=torch.bool)))
    plain = model(x)
    with edge_weights(model, space, masks, torch.randn(space.n_nodes)) as hooks, hooked(model, hooks):
        assert torch.equal(plain, model(x))


def test_edge_circuit_of_no_edges_is_the_empty_node_circuit(model):
    space = NodeSpace.of(model)
    x, means = tokens(), torch.randn(space.n_nodes, generator=torch.Generator().manual_seed(4))
    hooks = ablation_hooks(space, torch.zeros(space.n_nodes, dtype=torch.bool), means)
    with hooked(model, hooks):
        empty = model(x)
    masks = edge_masks(model, space, [])
    with edge_weights(model, space, masks, means) as extra, hooked(model, hooks), hooked(model, extra):
        assert torch.allclose(empty, model(x), atol=1e-5)


def test_narrowing_changes_no_logits(model):
    space = NodeSpace.of(model)
    x, generator = tokens(), torch.Generator().manual_seed(5)
    means = torch.randn(space.n_nodes, generator=generator)
    keep = torch.rand(2, space.n_nodes, generator=generator) < 0.2
    with hooked(model, ablation_hooks(space, keep, means)):
        wide = model(x)
    before = {name: p.clone() for name, p in model.named_parameters()}
    with (
        narrowed(model, space, keep.any(0), means) as channels,
        hooked(model, ablation_hooks(space, keep, means, channels)),
    ):
        narrow = model(x)
    assert torch.allclose(wide, narrow, atol=1e-4)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_weights_hooks_and_attention_are_put_back_after_an_exception(model):
    space = NodeSpace.of(model)
    x, none = tokens(), torch.zeros(space.n_nodes, dtype=torch.bool)
    means, plain = torch.randn(space.n_nodes), model(x)
    masks = edge_masks(model, space, [])
    with (
        pytest.raises(RuntimeError, match="stop"),
        edge_weights(model, space, masks, means) as extra,
        hooked(model, extra),
    ):
        raise RuntimeError("stop")
    with (
        pytest.raises(RuntimeError, match="stop"),
        narrowed(model, space, none, means) as channels,
        hooked(model, ablation_hooks(space, none, means, channels)),
    ):
        raise RuntimeError("stop")
    assert torch.equal(plain, model(x))


def test_a_run_is_the_same_alone_and_folded(make_model):
    model = make_model().eval()
    space = NodeSpace.of(model)
    means = 0.1 * torch.randn(space.n_nodes, generator=torch.Generator().manual_seed(1))
    runs = [MaskRun(seed=i, train=random_pairs(24, seed=i), val=random_pairs(8, seed=9)) for i in range(3)]
    config = PruneConfig(n_steps=8, n_pairs=4, lr=0.02, k_coef=0.01)
    aim = Aim(model=model, means=means, max_rows=64, target=0.3, config=config)
    candidates = torch.rand(3, space.n_nodes, generator=torch.Generator().manual_seed(2)) < 0.8
    ranks = torch.rand(3, space.n_nodes, generator=torch.Generator().manual_seed(3))
    together, _ = learn_masks(aim, runs, candidates, ranks)
    for i, run in enumerate(runs):
        alone, _ = learn_masks(aim, [run], candidates[i : i + 1], ranks[i : i + 1])
        assert torch.allclose(alone[0], together[i], atol=1e-4)
    assert any(p.requires_grad for p in model.parameters())
    keep = together > 0
    sets = [run.val for run in runs]
    folded = aim.answers(keep, sets)
    for i in range(3):
        single = Ablated(model=model, means=means, max_rows=16).answers(keep[i : i + 1], sets[:1])
        assert torch.allclose(single[0], folded[i], atol=1e-5)


def test_saved_circuit_gives_the_same_loss_in_a_fresh_process(make_model, tmp_path: Path):
    export_model(make_model(), tmp_path / "model", None, {"step": 1})
    model = load_model(tmp_path / "model")
    space = NodeSpace.of(model)
    keep = torch.rand(space.n_nodes, generator=torch.Generator().manual_seed(2)) < 0.3
    circuit = Circuit(
        task="random",
        nodes=space.nodes(keep),
        edges=tuple(find_edges(model, space, keep)),
        space=space,
        means=torch.randn(space.n_nodes, generator=torch.Generator().manual_seed(3)),
        calibration=Calibration(scale=torch.tensor(1.7).double(), shift=torch.tensor(-0.3).double()),
        provenance=Provenance(
            weights_sha256=read_meta(tmp_path / "model")["weights_sha256"],
            seed=0,
            config={"n_heldout": 20},
            loss_convention="test",
            means_source="noise",
            means_n_tokens=1,
        ),
    )
    circuit.save(tmp_path / "circuit")
    pairs = random_pairs(20, seed=6)
    torch.save(pairs, tmp_path / "pairs.pt")
    here = [circuit.evaluate(model, pairs, kind).hex() for kind in ("node", "edge")]
    code = f"""
import sys, torch
torch.set_num_threads(1)
from sparsetrain.export import load_model
from circuits.circuit import Circuit
folder = {str(tmp_path)!r}
model, circuit = load_model(folder + "/model"), Circuit.load(folder + "/circuit")
pairs = torch.load(folder + "/pairs.pt", weights_only=False)
print(*(circuit.evaluate(model, pairs, kind).hex() for kind in ("node", "edge")))
print(*sorted({{"lightning", "hydra", "wandb", "plotly", "datasets"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0].split() == here
    assert done.stdout.split("\n")[1] == ""
    loaded = Circuit.load(tmp_path / "circuit")
    assert loaded.nodes == circuit.nodes and loaded.edges == circuit.edges and loaded.provenance == circuit.provenance


def test_circuit_attaches_and_detaches(make_model):
    model = make_model().eval()
    space = NodeSpace.of(model)
    pairs = random_pairs(4, seed=1)
    plain = pair_answers(model, pairs)
    keep = torch.zeros(space.n_nodes, dtype=torch.bool)
    circuit = Circuit(
        task="random",
        nodes={},
        edges=(),
        space=space,
        means=torch.zeros(space.n_nodes),
        calibration=Calibration(scale=torch.tensor(1.0), shift=torch.tensor(0.0)),
        provenance=Provenance(
            weights_sha256="", seed=0, config={}, loss_convention="", means_source="", means_n_tokens=0
        ),
    )
    assert torch.equal(circuit.keep, keep)
    for kind in ("node", "edge"):
        with circuit.attached(model, kind):
            assert not torch.equal(plain, pair_answers(model, pairs))
        assert torch.equal(plain, pair_answers(model, pairs))
    with pytest.raises(ValueError, match="belongs to a model with"):
        replace(circuit, space=NodeSpace(("blocks.0.mlp.hook_in",), (4,))).hooks(model)


def test_tied_values_are_the_mean_of_query_and_key_channels(make_model):
    space = NodeSpace.of(make_model(d_model=16))
    values = torch.randn(2, space.n_nodes, generator=torch.Generator().manual_seed(0))
    before, after = space.split(values), space.split(space.tied(values))
    for name in space.names:
        if name.endswith(("hook_q", "hook_k")):
            attn = name[: -len("q")]
            assert torch.equal(after[name], (before[attn + "q"] + before[attn + "k"]) / 2)
        else:
            assert torch.equal(after[name], before[name])


def test_hard_concrete_masks_are_open_shut_or_between_as_often_as_their_distribution_says(make_model):
    model = make_model(d_model=16)
    space = NodeSpace.of(model)
    tau = torch.linspace(-0.9, 0.9, space.n_nodes).repeat(2, 1)
    masks = HardConcreteMasks(space, tau, [0, 1])
    drawn = torch.stack([masks.values().detach() for _ in range(400)])
    assert drawn.min() == 0 and drawn.max() == 1 and ((drawn > 0) & (drawn < 1)).any()
    # P(z > 0) = sigmoid(log alpha - beta log(-gamma / zeta)), and its slope is the price
    p = torch.sigmoid(4 * tau - 2 / 3 * math.log(0.1 / 1.1))
    assert ((drawn > 0).float().mean(0) - p).abs().max() < 0.15
    assert torch.allclose(masks.price_gradient(), 4 * p * (1 - p))
    again = HardConcreteMasks(space, tau, [0, 1]).values()
    assert torch.equal(again.detach(), drawn[0])
    shut = HardConcreteMasks(space, torch.full_like(tau, -1.0), [0, 1]).values()
    assert not shut.any()


def test_hard_concrete_masks_mix_the_activation_with_the_mean(make_model):
    model = make_model(d_model=16)
    space = NodeSpace.of(model)
    masks = HardConcreteMasks(space, torch.zeros(1, space.n_nodes), [0])
    x, mean = torch.randn(1, 3, 5, 16), torch.randn(16)
    mask = torch.rand(1, 16)
    assert torch.allclose(masks.blend(x, mask, mean, None), mask * x + (1 - mask) * mean)
    share = torch.rand(1, 16)
    kept = mask + (1 - mask) * share
    assert torch.allclose(masks.blend(x, mask, mean, share), kept * x + (1 - kept) * mean, atol=1e-6)


def test_what_is_left_out_can_stay_alive_in_part_node_by_node(make_model):
    model = make_model(d_model=16)
    space, generator = NodeSpace.of(model), torch.Generator().manual_seed(0)
    tau = torch.rand(2, space.n_nodes, generator=generator) - 0.5
    means, shares = torch.randn(space.n_nodes, generator=generator), torch.rand(2, space.n_nodes, generator=generator)
    for hooks in (
        NodeMasks(space, tau, 0.5).hooks(means, alive=shares),
        ablation_hooks(space, tau > 0, means, alive=shares),
    ):
        for name in space.names[:8]:
            keep, mean, share = (space.split(t)[name] for t in (tau > 0, means, shares))
            x = torch.randn(4, 3, keep.shape[1], generator=generator)
            out = hooks[name](x, HookPoint("attn_v", x.shape[-1]))
            for row in range(4):
                left = mean + share[row // 2] * (x[row] - mean)
                torch.testing.assert_close(out[row], torch.where(keep[row // 2], x[row], left))


def test_gradients_of_masks_whose_rest_is_alive_in_part():
    space = NodeSpace(("a",), (6,))
    generator = torch.Generator().manual_seed(1)
    tau, share = torch.rand(2, 6, generator=generator) - 0.5, torch.rand(2, 6, generator=generator)
    mean, masks = torch.randn(6, generator=generator), NodeMasks(space, tau, 0.5)
    x = torch.randn(4, 3, 6, generator=generator, requires_grad=True)
    weight = torch.randn(4, 3, 6, generator=generator)
    out = masks.hooks(mean, alive=share)["a"](x, HookPoint("attn_v", 6))
    grad_x, grad_tau = torch.autograd.grad((weight * out).sum(), [x, masks.tau])
    kept = (tau > 0).float().repeat_interleave(2, 0)[:, None]
    passed = kept + (1 - kept) * share.repeat_interleave(2, 0)[:, None]
    torch.testing.assert_close(grad_x, weight * passed)
    change = (weight * (x.detach() - mean)).sum(1).unflatten(0, (2, 2)).sum(1)
    torch.testing.assert_close(grad_tau, change * (1 - share) * step_derivative(tau, 0.5))


def test_a_rest_that_is_dead_is_the_circuit_and_one_that_is_alive_the_model(make_model):
    model = make_model(d_model=16, d_head=4).eval().requires_grad_(False)
    space, pairs = NodeSpace.of(model), random_pairs(6, seed=3)
    keep = torch.rand(2, space.n_nodes, generator=torch.Generator().manual_seed(2)) < 0.5
    ablated = Ablated(model=model, means=torch.zeros(space.n_nodes) + 0.1)
    dead, alive = (ablated.answers(keep, pairs, torch.full((2, space.n_nodes), r)) for r in (0.0, 1.0))
    torch.testing.assert_close(dead, ablated.answers(keep, pairs), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alive[0], pair_answers(model, pairs), atol=1e-5, rtol=1e-5)
