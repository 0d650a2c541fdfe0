"""Direct effects on one prompt, against the model run by hand; influence and paths, against all paths written out."""

from itertools import pairwise

import pytest
import torch

from circuits.circuit import Circuit, Provenance
from circuits.edges import find_edges
from circuits.explain.flow import ANSWER, TOKEN, Flow, prompt_flow
from circuits.masks import NodeSpace
from circuits.tasks.loss import Calibration
from sparsetrain.hooks import HookPoint, hooked, record
from sparsetrain.model import ModelConfig, Transformer
from tests.planted.string_closing import NODES, string_closing_model, string_pairs, text_windows

PROVENANCE = Provenance(
    weights_sha256="0" * 64, seed=0, config={}, loss_convention="", means_source="", means_n_tokens=1
)


def circuit_of(model: Transformer, nodes: dict[str, tuple[int, ...]], means: torch.Tensor) -> Circuit:
    space = NodeSpace.of(model)
    return Circuit(
        task="t",
        nodes=nodes,
        edges=tuple(find_edges(model, space, space.mask(nodes))),
        space=space,
        means=means,
        calibration=Calibration(scale=torch.tensor(1.0).double(), shift=torch.tensor(0.0).double()),
        provenance=PROVENANCE,
    )


@pytest.fixture(scope="module", params=["none", "learned", "concat"])
def case(request: pytest.FixtureRequest) -> tuple[Transformer, Circuit, torch.Tensor, Flow]:
    torch.manual_seed(3)
    model = Transformer(ModelConfig(d_vocab=31, n_layer=2, d_model=16, d_head=4, n_ctx=12, positions=request.param))
    model = model.double().eval().requires_grad_(False)
    for p in model.parameters():
        p.add_(0.3 * torch.randn_like(p))
    space = NodeSpace.of(model)
    keep = torch.rand(space.n_nodes) < 0.5
    circuit = circuit_of(model, space.nodes(keep), 0.3 * torch.randn(space.n_nodes).double())
    tokens = torch.randint(31, (7,))
    return model, circuit, tokens, prompt_flow(model, circuit, tokens, torch.tensor([4, 9]), 0)


def in_circuit(model: Transformer, circuit: Circuit, tokens: torch.Tensor):
    names = [*circuit.space.names, *(f"blocks.{i}.{x}.norm.hook_scale" for i in range(2) for x in ("attn", "mlp"))]
    names.append("final_norm.hook_scale")
    with circuit.attached(model):
        logits, seen = record(model, tokens[None], names)
    return logits[0], seen


def rerun(model: Transformer, circuit: Circuit, tokens: torch.Tensor, seen, node: str, at: int, step: float):
    """Values of every node when one node moves and all the others are held, with the norms' scales frozen."""
    name, channel = node.rsplit(":", 1)
    found = {}

    def hold(x: torch.Tensor, point: HookPoint) -> torch.Tensor:
        found[point.name] = x
        x = seen[point.name].clone()
        if point.name == name:
            x[0, at, int(channel)] += step
        return x

    with circuit.attached(model), hooked(model, dict.fromkeys(seen, hold)):
        logits = model(tokens[None])[0]
    return logits, found


def test_links_are_direct_effects(case):
    model, circuit, tokens, flow = case
    logits, seen = in_circuit(model, circuit, tokens)
    values = {node: seen[node.rsplit(":", 1)[0]][0, :, int(node.rsplit(":", 1)[1])] for node in flow.nodes}
    for i, node in enumerate(flow.nodes):
        assert torch.allclose(flow.values[i], values[node])
    step, n_links = 1e-6, 0
    for i, source in enumerate(flow.nodes[::3]):
        at = i % len(tokens)
        low, high = (rerun(model, circuit, tokens, seen, source, at, x) for x in (-step, step))
        deviation = float(flow.deviations[flow.nodes.index(source), at])
        for target in flow.nodes:
            name, channel = target.rsplit(":", 1)
            if name == source.rsplit(":", 1)[0]:
                continue
            moved = (high[1][name] - low[1][name])[0, :, int(channel)] / (2 * step) * deviation
            link = flow.links.get((source, target), torch.zeros(len(tokens), len(tokens)))
            assert torch.allclose(link[:, at].double(), moved, atol=1e-6), (source, target)
            n_links += int(moved.abs().max() > 1e-6)
        moved = (rerun(model, circuit, tokens, seen, source, at, 1.0)[0] - logits)[-1, [4, 9]] * deviation  # linear
        answers = flow.to_answers.get(source, torch.zeros(2, len(tokens)))
        assert torch.allclose(answers[:, at].double(), moved.double(), atol=1e-4)
    assert n_links > 50


def test_a_read_is_the_sum_of_its_links_and_constants(case):
    """A read channel is linear in what was written before it, so its links and the means of what is deleted make it up."""
    model, circuit, tokens, flow = case
    _, seen = in_circuit(model, circuit, tokens)
    n_checked = 0
    for i, node in enumerate(flow.nodes):
        name, channel = node.rsplit(":", 1)
        if not name.endswith("hook_in"):
            continue
        total = sum(weight.sum(1) for (_, target), weight in flow.links.items() if target == node)
        norm = model.get_submodule(name.rsplit(".", 1)[0] + ".norm")
        earlier = [n for n in circuit.space.names[: circuit.space.names.index(name)] if n.endswith("hook_out")]
        constant = sum(float(circuit.means[circuit.space.number(f"{n}:{channel}")]) for n in earlier)
        alive = flow.values[i] != 0
        total = total + constant * norm.gain[int(channel)] * seen[f"{name.rsplit('.', 1)[0]}.norm.hook_scale"][0, :, 0]
        assert torch.allclose((total * alive).double(), flow.values[i].double())
        n_checked += 1
    assert n_checked > 4


def test_logits_are_tokens_links_and_constants(case):
    model, circuit, tokens, flow = case
    logits, seen = in_circuit(model, circuit, tokens)
    writes = [n for n in circuit.space.names if n.endswith("hook_out")]
    constant = sum(circuit.space.split(circuit.means)[n] for n in writes)
    if model.config.positions == "learned":
        constant = constant + model.positions[len(tokens) - 1]
    scaled = constant * model.final_norm.gain * seen["final_norm.hook_scale"][0, -1]
    answers = [4, 9]
    rest = model.unembed.weight[answers] @ scaled + model.unembed.bias[answers]
    total = sum(weight[:, -1] for weight in flow.to_answers.values()) + rest
    assert torch.allclose(total.double(), logits[-1, answers].double(), atol=1e-5)
    assert torch.allclose(flow.logits.double(), logits[-1, answers].double(), atol=1e-6)
    assert torch.allclose(flow.probabilities.double(), logits[-1].double().softmax(-1)[answers], atol=1e-6)


def all_paths(flow: Flow) -> dict[tuple[str, ...], tuple[float, float]]:
    """Node sequence -> (share, effect), by walking every path over nodes and positions."""
    found: dict[tuple[str, ...], tuple[float, float]] = {}

    def walk(names: tuple[str, ...], at: int, share: float, effect: float) -> None:
        if names[0] == TOKEN:
            old = found.get(names[1:-1], (0.0, 0.0))
            found[names[1:-1]] = (old[0] + share, old[1] + effect)
            return
        sources = flow.incoming.get(names[0], {})
        total = sum(float(w[at].abs().sum()) for w in sources.values())
        scale = 1.0
        if names[0] != ANSWER:
            scale = 1 / float(flow.deviations[flow.nodes.index(names[0]), at])
        for source, weight in sources.items():
            for place in weight[at].nonzero().flatten().tolist():
                w = float(weight[at, place])
                walk((source, *names), place, share * abs(w) / total, effect * w * scale)

    walk((ANSWER,), 0, 1.0, 1.0)
    return found


@pytest.fixture(scope="module")
def planted() -> tuple[Transformer, Circuit, Flow]:
    model = string_closing_model()
    space = NodeSpace.of(model)
    _, seen = record(model, text_windows(64, 1), space.names)
    means = space.join({name: x.flatten(0, 1).mean(0) for name, x in seen.items()})
    circuit = circuit_of(model, NODES, means)
    pairs = string_pairs(1, 0)
    return model, circuit, prompt_flow(model, circuit, pairs.tokens[0, 1], pairs.answers[0], 1)


def test_paths_are_those_of_an_exhaustive_walk(planted):
    *_, flow = planted
    expected = all_paths(flow)
    paths = flow.paths(len(expected) + 5)
    assert {path.nodes for path in paths} == set(expected) and len(paths) == len(expected)
    for path in paths:
        share, effect = expected[path.nodes]
        assert path.share == pytest.approx(share) and path.effect == pytest.approx(effect)
        assert sum(share for _, share in path.tokens) == pytest.approx(path.share)
    assert all(a.share >= b.share for a, b in pairwise(paths))
    influence, through = flow.influence
    assert sum(path.share for path in paths) == pytest.approx(float(influence[TOKEN].sum()))
    assert flow.paths(2) == paths[:2]
    node = NODES["blocks.1.attn.hook_v"][0]
    v = f"blocks.1.attn.hook_v:{node}"
    inside = [path.share for path in paths if v in path.nodes]
    assert sum(inside) <= float(influence[v].sum()) + 1e-9
    assert through[v, f"blocks.1.attn.hook_out:{NODES['blocks.1.attn.hook_out'][0]}"] == pytest.approx(
        float(influence[v].sum())
    )


def test_the_quote_is_where_the_strongest_path_begins(planted):
    _, _, flow = planted
    strongest = flow.paths(1)[0]
    place = strongest.tokens[0][0]
    assert int(flow.tokens[place]) in (1, 2), "a quote"
    assert [node.split(".hook_")[0] for node in strongest.nodes][-1] == "blocks.1.attn"
    assert strongest.effect > 0


def test_the_rest_as_an_answer(planted):
    model, circuit, _ = planted
    pairs = string_pairs(1, 0)
    flow = prompt_flow(model, circuit, pairs.tokens[0, 0], torch.tensor([3, -1]), 0)
    with circuit.attached(model):
        logits = model(pairs.tokens[:1, 0])[0, -1]
    others = torch.cat([logits[:3], logits[4:]])
    assert torch.allclose(flow.logits, torch.stack([logits[3], others.logsumexp(0)]))
    assert flow.probabilities.sum() == pytest.approx(1.0)
