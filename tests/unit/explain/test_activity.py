"""The circuit page's data against loops over the model: activations, effects, attention, influence, paths."""

import json
from dataclasses import replace

import pytest
import torch

from circuits.answers import pair_answers
from circuits.circuit import Circuit
from circuits.explain.activity import ActivityConfig, activity, rounded
from circuits.explain.flow import TOKEN, prompt_flow
from circuits.masks import NodeSpace
from circuits.section import SIDES, TextFacts, Viewer
from sparsetrain.hooks import record
from sparsetrain.kernels import attention_pattern
from sparsetrain.typed import from_dict, plain
from tests.planted.string_closing import NODES, string_closing_model, string_pairs, text_windows
from tests.unit.explain.test_flow import circuit_of

CONFIG = ActivityConfig(n_windows=3, n_before=2, n_after=1, n_pairs=5, n_flow_pairs=2, n_paths=4, max_rows=7)
WINDOWS = text_windows(20, 8)


@pytest.fixture(scope="module")
def case():
    model = string_closing_model()
    space = NodeSpace.of(model)
    _, seen = record(model, text_windows(64, 1), space.names)
    means = space.join({name: x.flatten(0, 1).mean(0) for name, x in seen.items()})
    circuit = circuit_of(model, NODES, means)
    pairs = string_pairs(8, 3)
    return model, circuit, pairs, activity(model, circuit, pairs, WINDOWS, "words", lambda i: f"t{i}", CONFIG)


def test_it_is_what_its_types_say(case):
    *_, data = case
    assert from_dict(Viewer, plain(data)) == data
    assert data.text == TextFacts(source="words", n_windows=20, n_tokens=320)
    assert (data.n_pairs, data.n_flow_pairs) == (5, 2)


def test_text_is_where_nodes_depart_most_from_their_means(case):
    model, circuit, _, data = case
    _, seen = record(model, WINDOWS, circuit.nodes)
    for node in circuit.node_ids:
        name, channel = node.rsplit(":", 1)
        values = seen[name][..., int(channel)]
        mean = circuit.means[circuit.space.number(node)]
        peaks = sorted(((float((row - mean).abs().max()), i) for i, row in enumerate(values)), reverse=True)
        entries = data.nodes[node].text
        assert len(entries) == 3
        for entry, (peak, _) in zip(entries, peaks[:3], strict=True):
            assert abs(entry.values[entry.peak] - float(mean)) == pytest.approx(peak, rel=0.02, abs=1e-3)
            assert len(entry.tokens) == len(entry.values) <= 4 and entry.peak <= 2
        row, at = divmod(int((values - mean).abs().argmax()), 16)
        start = max(0, at - 2)
        assert entries[0].tokens == tuple(f"t{i}" for i in WINDOWS[row, start : at + 2].tolist())
        assert entries[0].values == rounded(values[row, start : at + 2])


def test_prompts_are_of_the_circuit(case):
    model, circuit, pairs, data = case
    with circuit.attached(model):
        _, seen = record(model, pairs.tokens[:5].flatten(0, 1), circuit.nodes)
    for node in circuit.node_ids:
        name, channel = node.rsplit(":", 1)
        values = seen[name][..., int(channel)].unflatten(0, (5, 2))[..., :9]
        mean = circuit.means[circuit.space.number(node)]
        best = int((values - mean).abs().amax((1, 2)).argmax())
        entries = data.nodes[node].prompts
        assert len(entries) == (2 if best == 0 else 4)
        expected = [(best, 0), (best, 1), (0, 0), (0, 1)][: len(entries)]  # the best pair may be the first
        for entry, (pair, side) in zip(entries, expected, strict=True):
            prompt = data.prompts[entry.prompt]
            assert (prompt.pair, prompt.side) == (pair, SIDES[side])
            assert prompt.tokens == tuple(f"t{i}" for i in pairs.tokens[pair, side].tolist())
            answers = [f"t{i}" for i in pairs.answers[pair].tolist()]
            assert (prompt.right, prompt.wrong) == (answers[side], answers[1 - side])
            assert entry.values == rounded(values[pair, side])


def test_effects_on_the_logits(case):
    model, circuit, pairs, data = case
    some = pairs.batch(slice(0, 5))
    names = [*circuit.nodes, "final_norm.hook_scale"]
    with circuit.attached(model):
        own = pair_answers(model, some)
        _, seen = record(model, some.tokens.flatten(0, 1), names)
    for node in circuit.node_ids:
        name, channel = node.rsplit(":", 1)
        rest = {n: tuple(c for c in cs if f"{n}:{c}" != node) for n, cs in circuit.nodes.items()}
        smaller = replace(circuit, nodes={n: cs for n, cs in rest.items() if cs}, edges=())
        with smaller.attached(model):
            removed = pair_answers(model, some)
        found = data.nodes[node]
        assert torch.tensor(found.removal) == pytest.approx((own - removed).mean(0), rel=0.01, abs=1e-5)
        if not name.endswith("hook_out"):
            assert found.direct is None
            continue
        deviation = seen[name][:, -1, int(channel)] - circuit.means[circuit.space.number(node)]
        scale = seen["final_norm.hook_scale"][:, -1, 0]
        column = (model.unembed.weight * model.final_norm.gain)[:, int(channel)]
        effect = (deviation * scale)[:, None] * column[some.answers[0]]
        assert torch.tensor(found.direct) == pytest.approx(effect.unflatten(0, (5, 2)).mean(0), rel=0.01, abs=1e-5)
    answer = data.nodes["blocks.1.attn.hook_out:4"].direct
    assert answer[0][0] > 0 > answer[0][1] and answer[1][0] < 0 < answer[1][1]


def test_attention_is_the_circuits_with_the_sink_last(case):
    model, circuit, pairs, data = case
    assert [(head.layer, head.head, head.prompt) for head in data.heads] == [
        (1, 2, data.nodes["blocks.1.attn.hook_v:9"].prompts[-2].prompt),
        (1, 2, data.nodes["blocks.1.attn.hook_v:9"].prompts[-1].prompt),
    ]
    for side, head in enumerate(data.heads):
        with circuit.attached(model):
            _, seen = record(model, pairs.tokens[:1, side], ["blocks.1.attn.hook_q", "blocks.1.attn.hook_k"])
        q, k = (x[0, :, 8:12] for x in seen.values())
        pattern = attention_pattern(q[None, None], k[None, None], model.blocks[1].attn.sink[2:3].detach())[0, 0]
        for i, row in enumerate(head.weights):
            assert row == pytest.approx([*pattern[i, : i + 1].tolist(), float(pattern[i, -1])], abs=6e-4)
            assert sum(row) == pytest.approx(1, abs=0.01)


def test_importance_and_paths_are_those_of_the_flow(case):
    model, circuit, pairs, data = case
    flows = [
        prompt_flow(model, circuit, pairs.tokens[i, side], pairs.answers[i], side)
        for i in range(2)
        for side in range(2)
    ]
    for node in circuit.node_ids:
        mean = sum(float(flow.influence[0][node].sum()) for flow in flows) / 4
        assert data.nodes[node].importance == pytest.approx(mean, rel=0.01)
    for edge, importance in zip(circuit.edges, data.edges, strict=True):
        mean = sum(flow.influence[1].get((edge.source, edge.target), 0.0) for flow in flows) / 4
        assert importance == pytest.approx(mean, rel=0.01)
    assert len(data.paths) == 2 * len(flows[0].paths(4)) > 2
    for side in range(2):
        half = len(data.paths) // 2
        paths = data.paths[half * side : half * side + half]
        for path, expected in zip(paths, flows[side].paths(4), strict=True):
            assert path.nodes == expected.nodes
            assert path.share == pytest.approx(expected.share, rel=0.01)
            assert data.prompts[path.prompt].side == SIDES[side]
        assert data.token_share[side] == pytest.approx(float(flows[side].influence[0][TOKEN].sum()), rel=0.01)


def test_an_empty_circuit_has_a_page_too(case):
    model, circuit, pairs, _ = case
    empty: Circuit = replace(circuit, nodes={}, edges=())
    data = activity(model, empty, pairs, WINDOWS, "words", str, CONFIG)
    assert data.nodes == {} and data.edges == data.heads == data.paths == ()
    assert data.token_share == (0, 0)


def test_any_other_token_has_no_text(case):
    model, circuit, pairs, _ = case
    rest = replace(pairs, answers=torch.stack([pairs.answers[:, 0], torch.full((8,), -1)], 1))
    data = activity(model, circuit, rest, WINDOWS, "words", str, CONFIG)
    assert {(prompt.right, prompt.wrong) for prompt in data.prompts} == {("3", None), (None, "3")}


def test_a_hundred_nodes_stay_small(make_model):
    model = make_model(d_vocab=61, n_layer=4, d_model=32, n_ctx=64).eval().requires_grad_(False)
    space = NodeSpace.of(model)
    keep = torch.zeros(space.n_nodes, dtype=torch.bool)
    keep[torch.randperm(space.n_nodes, generator=torch.Generator().manual_seed(0))[:100]] = True
    circuit = circuit_of(model, space.nodes(keep), torch.zeros(space.n_nodes))
    pairs = replace(string_pairs(16, 0), tokens=torch.randint(61, (16, 2, 24)), last=torch.full((16, 2), 23))
    windows = torch.randint(61, (32, 64))
    data = activity(model, circuit, pairs, windows, "noise", lambda i: "token"[: 2 + i % 4])
    assert len(json.dumps(plain(data))) < 300_000


@pytest.mark.parametrize(("value", "short"), [(0.123456, 0.123), (0.0, 0), (-2.0, -2), (12345.6, 12300), (1e-9, 1e-9)])
def test_rounded(value, short):
    assert rounded([value]) == (short,) and type(rounded(value)) is type(short)
