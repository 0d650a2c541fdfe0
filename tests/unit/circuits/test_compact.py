"""A compact circuit is the masked full model: same logits for every option of the model, same survivors among ties."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from circuits.answers import pair_answers
from circuits.circuit import Circuit, Provenance
from circuits.compact import compile_circuit, compiles
from circuits.compact import model as compact_model
from circuits.compact.contest import contenders
from circuits.compact.layers import normed
from circuits.masks import NodeSpace, ablation_hooks
from circuits.tasks.loss import Calibration
from circuits.tasks.pairs import PairSet
from circuits.tasks.task import PairText, Side
from circuits.tasks.tokenise import REST
from sparsetrain.hooks import NODE_KINDS, hook_points, hooked, node_points
from sparsetrain.kernels import abs_topk_reference
from sparsetrain.model import ModelConfig, Transformer
from tests.planted.string_closing import NODES, string_closing_model, string_pairs

ATOL = 1e-5
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "no AbsTopK": {"abs_topk": {}},
    "AbsTopK of little": {"abs_topk": dict.fromkeys(NODE_KINDS, 0.07)},
    "AbsTopK of most": {"abs_topk": dict.fromkeys(NODE_KINDS, 0.9)},
    "AbsTopK of reads": {"abs_topk": {"attn_in": 0.3, "mlp_in": 0.2}},
    "AbsTopK of q and writes": {"abs_topk": {"attn_q": 0.3, "attn_out": 0.3, "mlp_out": 0.4}},
    "AbsTopK of k, v and neurons": {"abs_topk": {"attn_k": 0.2, "attn_v": 0.3, "mlp_neuron": 0.1}},
    "no sink": {"sink": False},
    "no bigram": {"bigram": False},
    "no biases": {"biases": False},
    "learned positions": {"positions": "learned"},
    "concatenated positions": {"positions": "concat", "d_pos": 5},
    "concatenated positions, no sink, no biases": {"positions": "concat", "d_pos": 5, "sink": False, "biases": False},
    "normed positions without AbsTopK of reads": {
        "positions": "concat",
        "d_pos": 5,
        "norm_positions": True,
        "abs_topk": {"attn_v": 0.3, "mlp_neuron": 0.3},
    },
    "relu": {"activation": "relu"},
    "reference attention": {"attention": "reference"},
}
SHARES = {"none": 0.0, "few": 0.08, "half": 0.5, "all": 1.0}


@torch.no_grad()
def sparsify_(model: Transformer, density: float, seed: int = 0) -> Transformer:
    """Sets all but `density` of the entries of every linear layer in the blocks to zero."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.blocks.modules():
        if isinstance(module, torch.nn.Linear):
            module.weight.mul_(torch.rand(module.weight.shape, generator=generator) < density)
    return model.eval().requires_grad_(False)


@pytest.fixture(params=OPTIONS)
def model(request, make_model) -> Transformer:
    return sparsify_(make_model(d_model=32, d_head=4, n_layer=3, **OPTIONS[request.param]), 0.1)


def random_nodes(space: NodeSpace, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random node mask, and means of which a third is zero."""
    generator = torch.Generator().manual_seed(seed)
    keep = torch.rand(space.n_nodes, generator=generator) < share
    means = 0.3 * torch.randn(space.n_nodes, generator=generator)
    return keep, means * (torch.rand(space.n_nodes, generator=generator) < 0.7)


def random_tokens(n: int = 6, n_pos: int = 9, seed: int = 0, d_vocab: int = 61) -> Tensor:
    return torch.randint(d_vocab, (n, n_pos), generator=torch.Generator().manual_seed(seed))


def random_pairs(n: int, answers: list[int], seed: int = 0) -> PairSet:
    generator = torch.Generator().manual_seed(seed)
    sides = [Side(prompt=prompt, answer="x", continuation="") for prompt in "ab"]
    return PairSet(
        task="random",
        split="train",
        seed=seed,
        twin=None,
        tokens=torch.randint(61, (n, 2, 8), generator=generator),
        last=torch.randint(2, 8, (n, 2), generator=generator),
        answers=torch.tensor([answers] * n),
        texts=(PairText(positive=sides[0], negative=sides[1]),) * n,
    )


def masked(model: Transformer, keep: Tensor, means: Tensor):
    """Inside the block the model is the masked full model, the definition of the circuit."""
    return hooked(model, ablation_hooks(NodeSpace.of(model), keep, means))


def assert_same_logits(model: Transformer, keep: Tensor, means: Tensor, tokens: Tensor) -> None:
    small = compile_circuit(model, keep, means)
    with masked(model, keep, means):
        whole = model(tokens)
    torch.testing.assert_close(small.logits(tokens), whole, rtol=0, atol=ATOL)
    at = torch.arange(len(tokens)) % tokens.shape[1]
    torch.testing.assert_close(small.logits(tokens, at), whole[torch.arange(len(tokens)), at], rtol=0, atol=ATOL)


# --- equal to the definition


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("seed", [0, 1])
def test_logits_are_those_of_the_masked_full_model(model, share, seed):
    assert_same_logits(model, *random_nodes(NodeSpace.of(model), SHARES[share], seed), random_tokens(seed=seed))


def test_a_dense_model_is_right_too(make_model):
    model = make_model(d_model=16, d_head=4).eval().requires_grad_(False)
    for share in SHARES.values():
        assert_same_logits(model, *random_nodes(NodeSpace.of(model), share), random_tokens())


@pytest.mark.parametrize("kind", NODE_KINDS)
@pytest.mark.parametrize("only", [True, False])
def test_circuits_with_one_kind_of_node_only_or_missing(make_model, kind, only):
    model = sparsify_(make_model(d_model=32, d_head=4, n_layer=3), 0.1)
    space = NodeSpace.of(model)
    keep, means = random_nodes(space, 0.3)
    points = node_points(model).items()
    of_kind = space.join({name: torch.full((point.width,), point.kind == kind) for name, point in points})
    assert_same_logits(model, keep & (of_kind if only else ~of_kind), means, random_tokens())


@pytest.mark.parametrize("answers", [[3, 4], [7, REST], [REST, 5]])
def test_answers_are_those_of_the_masked_full_model(make_model, answers):
    model = sparsify_(make_model(d_model=32, d_head=4), 0.1)
    keep, means = random_nodes(NodeSpace.of(model), 0.2)
    pairs, small = random_pairs(11, answers), compile_circuit(model, keep, means)
    with masked(model, keep, means):
        whole = pair_answers(model, pairs, batch_size=4)
    assert whole.std() > 0.1
    for batch_size in (4, 64):
        found = small.answers(pairs, batch_size)
        assert found.shape == whole.shape and found.dtype == torch.float32
        torch.testing.assert_close(found, whole, rtol=0, atol=ATOL)


def test_a_circuit_compiles(make_model):
    model = sparsify_(make_model(d_model=32, d_head=4), 0.1)
    space = NodeSpace.of(model)
    keep, means = random_nodes(space, 0.2)
    circuit = Circuit(
        task="random",
        nodes=space.nodes(keep),
        edges=(),
        space=space,
        means=means,
        calibration=Calibration(scale=torch.tensor(1.0), shift=torch.tensor(0.0)),
        provenance=Provenance(
            weights_sha256="", seed=0, config={}, loss_convention="", means_source="", means_n_tokens=0
        ),
    )
    pairs = random_pairs(5, [3, 4])
    found = circuit.compile(model).answers(pairs)
    torch.testing.assert_close(found, circuit.answers(model, pairs), rtol=0, atol=ATOL)
    with pytest.raises(ValueError, match="belongs to a model with"):
        replace(circuit, space=NodeSpace(("blocks.0.mlp.hook_in",), (4,))).compile(model)


def test_tokens_seen_before_or_after_do_not_matter(make_model, monkeypatch):
    """Tables grow with new tokens and positions, and are made anew where they would grow too large: to the last bit."""
    for positions in ("none", "learned"):
        model = sparsify_(make_model(d_model=32, d_head=4, positions=positions), 0.1)
        keep, means = random_nodes(NodeSpace.of(model), 0.2)
        for limit in (10**6, 20):
            monkeypatch.setattr(compact_model, "MAX_FRAMES", limit)
            small = compile_circuit(model, keep, means)
            for seed, n_pos in enumerate((3, 1, 12, 5, 24)):
                tokens = random_tokens(2, n_pos, seed)
                with masked(model, keep, means):
                    torch.testing.assert_close(small.logits(tokens), model(tokens), rtol=0, atol=ATOL)
                assert torch.equal(small.logits(tokens), compile_circuit(model, keep, means).logits(tokens))


@pytest.mark.parametrize("small", [True, False])
def test_the_number_of_threads_changes_no_bit_of_a_small_circuit(make_model, monkeypatch, small):
    """A small one runs on one thread whatever is set, and leaves the setting as it was, also where it refuses."""
    model = sparsify_(make_model(d_model=64, d_head=4, n_layer=3, positions="learned"), 0.1)
    keep, means = random_nodes(NodeSpace.of(model), 0.1)
    monkeypatch.setattr(compact_model, "SMALL", 10**6 if small else 0)
    pairs, seen, used = random_pairs(200, [3, 4]), [], []
    monkeypatch.setattr(
        compact_model, "normed", lambda x, norm: used.append(torch.get_num_threads()) or normed(x, norm)
    )
    n_before = torch.get_num_threads()
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            compiled = compile_circuit(model, keep, means)
            seen.append(compiled.answers(pairs, batch_size=200))
            with pytest.raises(ValueError, match="n_ctx=24"):
                compiled.logits(random_tokens(1, 25))
            assert torch.get_num_threads() == n_threads
    finally:
        torch.set_num_threads(n_before)
    assert used == ([1, 1, 1] if small else [1, 2, 3])
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])


def test_without_positions_prompts_may_be_longer_than_the_context(make_model):
    model = sparsify_(make_model(d_model=32, d_head=4, n_ctx=8), 0.1)
    assert_same_logits(model, *random_nodes(NodeSpace.of(model), 0.2), random_tokens(2, 80))


def test_hooks_on_the_model_are_not_seen(make_model):
    model = sparsify_(make_model(d_model=32, d_head=4), 0.1)
    keep, means = random_nodes(NodeSpace.of(model), 0.2)
    tokens = random_tokens()
    alone = compile_circuit(model, keep, means).logits(tokens)
    with hooked(model, dict.fromkeys(hook_points(model), lambda x, point: 2 * x)):
        assert torch.equal(compile_circuit(model, keep, means).logits(tokens), alone)


# --- AbsTopK over rows of which most is never computed


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_contenders_decide_the_survivors_of_whole_rows(data):
    """Magnitudes 0 to 3, so that most rows have ties at the threshold."""
    width = data.draw(st.integers(2, 12))
    k = data.draw(st.integers(1, width - 1))
    flags = st.lists(st.booleans(), min_size=width, max_size=width)
    rows = st.lists(st.lists(st.integers(-3, 3).map(float), min_size=width, max_size=width), min_size=1, max_size=3)
    computed, known = torch.tensor(data.draw(flags)), torch.tensor(data.draw(rows))
    computed[data.draw(st.integers(0, width - 1))] = True
    contends, n_places = contenders(known, computed, k)
    n_contenders = contends.sum(-1)
    assert not bool((contends & computed).any())
    assert int(n_contenders.max()) == int(n_contenders.min()) <= int(computed.sum())
    for row, others in zip(known, contends, strict=True):
        values = torch.tensor(data.draw(st.lists(st.integers(-3, 3), min_size=width, max_size=width))).float()
        row, columns = torch.where(computed, values, row), computed | others
        # Which ones survive shows in ranks instead of values: zeros survive too.
        whole = survivors(row, k)[columns]
        assert torch.equal(survivors(row[columns], n_places)[computed[columns]], whole[computed[columns]])


def survivors(row: Tensor, k: int) -> Tensor:
    """Brute force: by magnitude, ties to the lowest index."""
    order = sorted(range(len(row)), key=lambda i: (-abs(float(row[i])), i))
    alive = torch.zeros(len(row), dtype=torch.bool)
    alive[order[:k]] = True
    assert torch.equal(torch.where(alive, row, 0), abs_topk_reference(row[None], k)[0])
    return alive


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("seed", range(4))
def test_ties_everywhere(fraction, seed):
    """Embeddings and weights are -1, 0 or 1, two per row: every row of every AbsTopK has many equal magnitudes."""
    model = tied_model(fraction, seed)
    space = NodeSpace.of(model)
    keep, means = random_nodes(space, 0.3, seed)
    assert_same_logits(model, keep, means.sign(), random_tokens(8, 10, seed))


@torch.no_grad()
def tied_model(fraction: float, seed: int) -> Transformer:
    """A model of ones: sums of two terms do not depend on their order, so equal magnitudes are equal to the last bit."""
    torch.manual_seed(seed)
    config = ModelConfig(
        d_vocab=61, n_layer=2, d_model=24, d_head=4, n_ctx=24, biases=False,
        abs_topk=dict.fromkeys(NODE_KINDS, fraction),
    )  # fmt: skip
    model = Transformer(config).eval().requires_grad_(False)
    model.embed.weight.copy_(torch.randint(-1, 2, model.embed.weight.shape))
    for module in model.blocks.modules():
        if isinstance(module, torch.nn.Linear):
            columns = torch.rand(module.weight.shape).topk(2, dim=1).indices
            signs = torch.randint(0, 2, columns.shape).mul(2.0).sub(1)
            module.weight.zero_().scatter_(1, columns, signs)
    return model


# --- small


def test_planted_circuit_computes_what_was_planted_and_its_rivals():
    model = string_closing_model()
    space = NodeSpace.of(model)
    keep, means = space.mask(NODES), torch.full((space.n_nodes,), 0.01)
    small, pairs = compile_circuit(model, keep, means), string_pairs(16, seed=3)
    with masked(model, keep, means):
        torch.testing.assert_close(small.answers(pairs), pair_answers(model, pairs), rtol=0, atol=ATOL)
    moving = {name: n for name, n in small.n_moving.items() if n}
    # Layer 0's MLP reads the embedding alone: a table. Its neurons write two channels, which layer 1 reads. All four
    # value channels of the head share its weight with the sink, but only one leads anywhere.
    assert moving == {
        "blocks.0.mlp.hook_neuron": 2,
        "blocks.0.mlp.hook_out": 2,
        "blocks.1.attn.hook_in": 2,
        "blocks.1.attn.hook_k": 1,
        "blocks.1.attn.hook_v": 1,
        "blocks.1.attn.hook_out": 1,
    }


def test_deleted_channels_that_kept_nodes_reach_are_computed(make_model):
    """One read, one neuron: every neuron the read reaches competes, no other is computed."""
    model = sparsify_(make_model(d_model=32, d_head=4), 0.1)
    weight = model.blocks[1].mlp.W_in.weight
    read = int((weight != 0).sum(0).argmax())
    reached = (weight[:, read] != 0).nonzero().flatten().tolist()
    nodes = {"blocks.1.mlp.hook_in": [read], "blocks.1.mlp.hook_neuron": reached[:1], "blocks.1.mlp.hook_out": [0]}
    space = NodeSpace.of(model)
    small = compile_circuit(model, space.mask(nodes), random_nodes(space, 0)[1])
    assert len(reached) > 5
    assert small.n_moving["blocks.1.mlp.hook_neuron"] == len(reached)
    assert sum(small.n_moving[name] for name in space.names if ".0." in name) == 0


# --- refused


def test_what_does_not_fit_is_refused(make_model):
    model = make_model(d_model=16, d_head=4, positions="learned").requires_grad_(False)
    keep, means = random_nodes(NodeSpace.of(model), 0.2)
    with pytest.raises(ValueError, match="n_ctx=24"):
        compile_circuit(model, keep, means).logits(random_tokens(1, 25))
    with pytest.raises(ValueError, match="keep has shape"):
        compile_circuit(model, keep[1:], means)
    with pytest.raises(ValueError, match="means has shape"):
        compile_circuit(model, keep, means[None])
    competing = make_model(d_model=16, d_head=4, positions="concat", norm_positions=True).requires_grad_(False)
    assert not compiles(competing)
    with pytest.raises(ValueError, match="positions do not compete in AbsTopK"):
        compile_circuit(competing, keep, means)
    with pytest.raises(ValueError, match=r"keep has dtype torch\.float32"):
        compile_circuit(model, keep.float(), means)
    with pytest.raises(ValueError, match=r"torch\.bfloat16"):
        compile_circuit(model.bfloat16(), keep, means)
