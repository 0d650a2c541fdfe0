"""Parts of the circuits package against hand-computed numbers and brute force."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from circuits.ablate import ablate, parse_nodes
from circuits.answers import Ablated
from circuits.calibrate import fit_calibrations
from circuits.edges import count_edges, degrees, edge_masks, find_edges, joins, on_path
from circuits.intervals import interval
from circuits.masks import NodeMasks, NodeSpace
from circuits.means import Means, measure_means
from circuits.run import TrainRun
from circuits.search.learn import attribution
from circuits.tasks.loss import SCALE_MAX, SCALE_MIN, Calibration, task_loss
from circuits.tasks.pairs import PairSet
from circuits.tasks.task import PairText, Side
from sparsetrain.hooks import HookPoint, hooked, record
from sparsetrain.stats.sets import jaccard
from sparsetrain.typed import from_dict


@pytest.fixture
def model(make_model):
    return make_model(d_model=16, d_head=4).eval().requires_grad_(False)


def tokens(n: int = 4, n_pos: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randint(61, (n, n_pos), generator=torch.Generator().manual_seed(seed))


# --- nodes


def test_node_numbers_and_ids_are_inverse(model):
    space = NodeSpace.of(model)
    assert space.n_nodes == 2 * (7 * 16 + 64)
    assert space.id(0) == "blocks.0.attn.hook_in:0"
    assert space.id(16 * 7 + 64 - 1) == "blocks.0.mlp.hook_out:15"
    assert all(space.number(space.id(i)) == i for i in range(space.n_nodes))
    keep = torch.rand(space.n_nodes, generator=torch.Generator().manual_seed(0)) < 0.1
    assert torch.equal(space.mask(space.nodes(keep)), keep)


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ("blocks.0.mlp.hook_neurons:3", "near names: blocks.0.mlp.hook_neuron"),
        ("blocks.0.mlp.hook_neuron:64", "are 0 to 63"),
        ("blocks.0.mlp.hook_neuron:-1", "are 0 to 63"),
        ("nothing", "unknown hook point"),
    ],
)
def test_unknown_nodes_are_named_with_what_is_near(model, node, message):
    with pytest.raises(ValueError, match=message):
        NodeSpace.of(model).number(node)


# --- masks


def test_mask_gradient_is_that_of_the_blend(make_model):
    """d loss / d m of m x + (1 - m) mean, by a differentiable blend, times the sigmoid's derivative."""
    model = make_model(d_model=16, d_head=4).eval().requires_grad_(False)
    space = NodeSpace.of(model)
    generator = torch.Generator().manual_seed(1)
    means = 0.1 * torch.randn(space.n_nodes, generator=generator)
    tau = torch.rand(2, space.n_nodes, generator=generator) - 0.3
    x = tokens(4)
    masks = NodeMasks(space, tau, 0.5)
    with hooked(model, masks.hooks(means)):
        model(x).square().mean().backward()
    soft = (tau > 0).float().requires_grad_()

    def blend(name: str):
        def hook(value: torch.Tensor, point: HookPoint) -> torch.Tensor:
            m = space.split(soft)[name].repeat_interleave(2, 0)[:, None]
            return m * value + (1 - m) * space.split(means)[name]

        return hook

    with hooked(model, {name: blend(name) for name in space.names}):
        model(x).square().mean().backward()
    s = torch.sigmoid(tau / 0.5)
    assert soft.grad is not None and masks.tau.grad is not None
    torch.testing.assert_close(masks.tau.grad, soft.grad * s * (1 - s) / 0.5, rtol=1e-3, atol=1e-7)


# --- means


def test_means_are_plain_averages_and_travel(model, tmp_path: Path):
    windows = tokens(10, 8)
    means = measure_means(model, windows, source="noise", weights_sha256="abc", batch_size=3)
    _, seen = record(model, windows, means.space.names)
    for name, part in means.space.split(means.values).items():
        torch.testing.assert_close(part, seen[name].double().mean((0, 1)).float())
    active = means.space.join({name: (x != 0).float().mean((0, 1)) for name, x in seen.items()})
    torch.testing.assert_close(means.active, active)
    assert means.n_tokens == 80
    means.save(tmp_path / "means.safetensors")
    loaded = Means.load(tmp_path / "means.safetensors")
    assert torch.equal(loaded.values, means.values) and loaded.space == means.space and loaded.source == "noise"


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"\x02\0\0\0\0\0\0\0{}", b"\xff" * 20])
def test_a_file_that_holds_no_means_is_named(content, tmp_path: Path):
    (tmp_path / "means.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"means\.safetensors is damaged") as error:
        Means.load(tmp_path / "means.safetensors")
    assert "\n" not in str(error.value)


def test_means_refuse_no_text(model):
    with pytest.raises(ValueError, match="at least one token window"):
        measure_means(model, torch.zeros(0, 8, dtype=torch.int64), source="", weights_sha256="")


# --- calibration


@pytest.mark.parametrize("size", [0.1, 1.0, 3.0])
def test_calibrations_at_once_are_as_good_as_one_at_a_time(size):
    generator = torch.Generator().manual_seed(0)
    signal = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    answers = size * (torch.randn(3, 20, 2, 2, generator=generator) + signal)
    together = fit_calibrations(answers)
    losses = task_loss(together.apply(answers.double()))
    for run, loss in zip(answers.double(), losses.tolist(), strict=True):

        def single(x: np.ndarray, run: torch.Tensor = run) -> float:
            scale, shift = torch.from_numpy(x)
            return float(task_loss(Calibration(scale=scale, shift=shift).apply(run)))

        best = minimize(single, [1.0, 0.0], method="L-BFGS-B", bounds=[(SCALE_MIN, SCALE_MAX), (None, None)])
        assert loss <= best.fun + 1e-9
        assert loss == pytest.approx(best.fun, abs=1e-3)
    assert bool(((together.scale >= SCALE_MIN) & (together.scale <= SCALE_MAX)).all())
    alone = fit_calibrations(answers[1])
    torch.testing.assert_close(alone.scale, together.scale[1])
    torch.testing.assert_close(alone.shift, together.shift[1])


def test_calibration_of_perfect_answers_by_hand():
    """Right answers ahead by 2 on one side and by 0 on the other: scale at its bound, shift -scale."""
    answers = torch.tensor([[[2.0, 0.0], [0.0, 0.0]]]).expand(4, 2, 2)
    fit = fit_calibrations(answers)
    assert float(fit.scale) == SCALE_MAX
    assert float(fit.shift) == pytest.approx(-SCALE_MAX, abs=1e-6)


# --- edges


def test_edges_are_nonzero_weights_between_kept_nodes(model):
    with torch.no_grad():
        model.blocks[0].mlp.W_in.weight[5, 3] = 0
    space = NodeSpace.of(model)
    keep = space.mask({"blocks.0.mlp.hook_in": (3, 4), "blocks.0.mlp.hook_neuron": (5,), "blocks.0.attn.hook_v": (1,)})
    edges = find_edges(model, space, keep)
    assert [(e.source, e.target) for e in edges] == [("blocks.0.mlp.hook_in:4", "blocks.0.mlp.hook_neuron:5")]
    assert edges[0].weight == float(model.blocks[0].mlp.W_in.weight[5, 4])
    assert count_edges(model, space, keep) == 1
    assert int(sum(mask.sum() for mask in edge_masks(model, space, edges).values())) == 1


def test_degrees_are_edges_gained_by_keeping_a_node(model):
    with torch.no_grad():
        for join in joins(model):
            model.get_submodule(join.linear).weight.mul_(
                torch.rand(model.get_submodule(join.linear).weight.shape) < 0.3
            )
    space = NodeSpace.of(model)
    keep = torch.rand(2, space.n_nodes, generator=torch.Generator().manual_seed(1)) < 0.2
    found = degrees(model, space)(keep)
    for run in range(2):
        assert float(found[run][keep[run]].sum()) == 2 * count_edges(model, space, keep[run]) > 0
    for node in range(0, space.n_nodes, 7):
        without, with_it = (keep[0].index_fill(0, torch.tensor(node), on) for on in (False, True))
        gained = count_edges(model, space, with_it) - count_edges(model, space, without)
        assert float(found[0, node]) == gained


def test_edges_of_another_model_are_refused(make_model):
    a, b = (make_model(seed, d_model=16, d_head=4) for seed in (0, 1))
    space = NodeSpace.of(a)
    keep = space.mask({"blocks.0.mlp.hook_in": (3,), "blocks.0.mlp.hook_neuron": (5,)})
    with pytest.raises(ValueError, match="another model"):
        edge_masks(b, space, find_edges(a, space, keep))


def test_nodes_off_every_path_are_found(model):
    space = NodeSpace.of(model)
    path = {
        "blocks.0.mlp.hook_in": (3,),
        "blocks.0.mlp.hook_neuron": (5,),
        "blocks.0.mlp.hook_out": (7,),
        "blocks.1.attn.hook_in": (7,),
        "blocks.1.attn.hook_k": (2,),
        "blocks.1.attn.hook_v": (3,),
        "blocks.1.attn.hook_out": (0,),
    }
    loose = {"blocks.0.attn.hook_q": (1,), "blocks.1.mlp.hook_in": (7,), "blocks.1.mlp.hook_out": (4,)}
    both = space.mask(path) | space.mask(loose)
    assert torch.equal(on_path(model, space, both), space.mask(path))


# --- evidence


def test_bootstrap_interval_covers_the_mean_and_shrinks():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    low, high = interval(values, seed=0, n_boot=1000)
    assert low < float(values.mean()) < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.2)
    assert interval(torch.ones(5), seed=0, n_boot=1000) == (1.0, 1.0)


def test_copies_make_no_interval_narrower():
    """Forty distinct values, each there once, or nine times more often as copies."""
    values = torch.randn(40, generator=torch.Generator().manual_seed(0))
    groups = torch.arange(40).repeat(10)
    alone = interval(values, seed=0, n_boot=2000)
    copied = interval(values.repeat(10), seed=0, n_boot=2000, groups=groups)
    assert copied == pytest.approx(alone, abs=0.05)
    blind = interval(values.repeat(10), seed=0, n_boot=2000)
    assert blind[1] - blind[0] < 0.5 * (copied[1] - copied[0])
    assert interval(values, seed=0, n_boot=50, groups=torch.arange(40) + 7) == interval(values, seed=0, n_boot=50)
    unequal = interval(torch.tensor([0.0, 1.0, 1.0, 1.0]), seed=0, n_boot=2000, groups=torch.tensor([5, 9, 9, 9]))
    assert unequal == (0.0, 1.0)


def test_jaccard_by_hand():
    assert jaccard([{"a", "b"}, {"b", "c"}]) == pytest.approx(1 / 3)
    assert jaccard([{"a"}, {"a"}, set()]) == pytest.approx(1 / 3)
    assert jaccard([{"a"}]) is None


def test_attribution_ranks_what_deleting_changes(model):
    """To first order: scaling a node's distance to its mean down by a little moves the logit difference by as much."""
    space = NodeSpace.of(model)
    text = PairText(
        positive=Side(prompt="a", answer="x", continuation=""), negative=Side(prompt="b", answer="x", continuation="")
    )
    pairs = PairSet(
        task="random",
        split="val",
        seed=0,
        twin=None,
        tokens=tokens(2, 7).reshape(1, 2, 7),
        last=torch.full((1, 2), 6),
        answers=torch.tensor([[3, 4]]),
        texts=(text,),
    )
    means = torch.zeros(space.n_nodes)
    scores = space.split(attribution(Ablated(model=model, means=means, max_rows=64), pairs))
    name, channel = "blocks.1.mlp.hook_out", int(scores["blocks.1.mlp.hook_out"].argmax())

    def margins(factor: float) -> torch.Tensor:
        def shrink(x: torch.Tensor, point: HookPoint) -> torch.Tensor:
            x = x.clone()
            x[..., channel] *= factor
            return x

        with hooked(model, {name: shrink}):
            logits = model(pairs.tokens[0], pairs.last[0])
        return (logits[:, 3] - logits[:, 4]) * torch.tensor([1.0, -1.0])

    change = (margins(1.0) - margins(0.99)) / 0.01
    assert float(change.abs().mean()) == pytest.approx(float(scores[name][channel]), rel=0.05)


# --- ablation by hand


def test_ablations_do_what_they_say(model):
    prompt, other, node = tokens(1, 6)[0], tokens(1, 6, seed=9)[0], "blocks.1.mlp.hook_out:2"
    means = measure_means(model, tokens(20, 8), source="noise", weights_sha256="")

    def expect(value) -> torch.Tensor:
        def put(x: torch.Tensor, point: HookPoint) -> torch.Tensor:
            x = x.clone()
            x[..., 2] = value
            return x

        with hooked(model, {"blocks.1.mlp.hook_out": put}):
            return model(prompt[None])[0, -1].softmax(-1)

    plain = model(prompt[None])[0, -1].softmax(-1)
    zero = ablate(model, prompt, [node], "zero")
    torch.testing.assert_close(zero.before, plain)
    torch.testing.assert_close(zero.after, expect(0.0))
    mean = float(means.values[means.space.number(node)])
    torch.testing.assert_close(ablate(model, prompt, [node], "mean", means=means).after, expect(mean))
    _, seen = record(model, other[None], ["blocks.1.mlp.hook_out"])
    patched = ablate(model, prompt, [node], "patch", patch_tokens=other)
    torch.testing.assert_close(patched.after, expect(seen["blocks.1.mlp.hook_out"][..., 2]))
    resampled = [ablate(model, prompt, [node], "resample", windows=tokens(5, 8), seed=s).after for s in (0, 0, 1)]
    assert torch.equal(resampled[0], resampled[1]) and not torch.equal(resampled[0], resampled[2])
    assert float(resampled[0].sum()) == pytest.approx(1.0, abs=1e-5)
    assert patched.nodes == (node,)
    assert len(patched.top(3)) == 3


def test_node_names_may_be_ranges_or_whole_points(model):
    space = NodeSpace.of(model)
    chosen = parse_nodes(space, ["blocks.0.mlp.hook_out:3-5", "blocks.1.attn.hook_q:all", "blocks.0.mlp.hook_in:0"])
    assert int(chosen.sum()) == 3 + 16 + 1
    for names, message in (
        ([], "no nodes"),
        (["blocks.0.mlp.hook_out:5-3"], "smaller channel first"),
        (["blocks.9.mlp.hook_out:all"], "near names"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_nodes(space, names)


@pytest.mark.parametrize(
    ("mode", "message"),
    [("mean", "needs the mean"), ("resample", "needs text"), ("patch", "another prompt"), ("flip", "unknown mode")],
)
def test_ablation_names_what_is_missing(model, mode, message):
    with pytest.raises(ValueError, match=message):
        ablate(model, tokens(1, 6)[0], ["blocks.0.mlp.hook_out:3"], mode)


def test_patch_refuses_prompts_of_other_length(model):
    with pytest.raises(ValueError, match="equal length"):
        ablate(model, tokens(1, 6)[0], ["blocks.0.mlp.hook_out:3"], "patch", patch_tokens=tokens(1, 5)[0])


# --- configs


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("seeds", [], "must be at least one seed"),
        ("seeds", [1, 1], "must be at least one seed, each once"),
        ("settle", [], "must be at least one number"),
        ("target_loss", 0.0, "greater than 0"),
        ("margin", 1.5, "less than or equal to 1"),
        ("n_val", 0, "greater than or equal to 1"),
        ("prune.n_steps", 0, "greater than or equal to 1"),
        ("prune.lr", 0.0, "greater than 0"),
        ("prune.candidate_share", 0.0, "greater than 0"),
        ("prune.smooth", 1.0, "less than 1"),
    ],
)
def test_configs_refuse_nonsense(place, value, says):
    tree: Any = value
    for key in reversed(place.split(".")):
        tree = {key: tree}
    with pytest.raises(ValueError, match=f"circuits.find.{place}=.*{says}"):
        from_dict(TrainRun, {"circuits": {"find": tree}})
