"""Hook points: names, order, near names, detaching, and firing after compilation."""

from contextlib import ExitStack

import pytest
import torch

from sparsetrain.hooks import NODE_KINDS, NodeId, hook_points, hooked, node_points, record


def test_names_are_module_paths_and_kinds_are_complete(make_model):
    model = make_model()
    points = hook_points(model)
    assert all(model.get_submodule(name) is point for name, point in points.items())
    nodes = node_points(model)
    assert [p.kind for p in nodes.values()] == list(NODE_KINDS) * 2
    assert "blocks.1.mlp.hook_neuron" in nodes and nodes["blocks.1.mlp.hook_neuron"].width == 128


def test_widths_are_those_of_the_values_that_pass(make_model):
    model = make_model()
    _, seen = record(model, torch.randint(61, (2, 5)), hook_points(model))
    assert {name: x.shape[-1] for name, x in seen.items()} == {n: p.width for n, p in hook_points(model).items()}


def test_unknown_name_lists_near_names_and_attaches_nothing(make_model):
    model = make_model()
    with (
        pytest.raises(KeyError, match=r"blocks\.0\.mlp\.hook_neuron"),
        hooked(model, {"blocks.0.attn.hook_q": lambda x, p: x, "blocks.0.mlp.hook_neurons": lambda x, p: x}),
    ):
        pass
    assert not any(p.fns for p in hook_points(model).values())


def test_functions_run_in_attach_order_and_detach_after_an_error(make_model):
    model, name = make_model(), "blocks.0.attn.hook_in"
    tokens = torch.randint(61, (1, 4))
    seen = []
    with hooked(model, {name: lambda x, p: x * 0 + 2}), hooked(model, {name: lambda x, p: seen.append(x.max()) or x}):
        model(tokens)
    assert seen == [2]
    with pytest.raises(RuntimeError, match="boom"), hooked(model, {name: lambda x, p: x}):
        raise RuntimeError("boom")
    assert not any(p.fns for p in hook_points(model).values())


def test_same_function_nested_is_removed_once_per_block(make_model):
    model, name = make_model(), "blocks.0.attn.hook_in"
    fn = lambda x, p: x  # noqa: E731
    with hooked(model, {name: fn}):
        with hooked(model, {name: fn}):
            assert len(hook_points(model)[name].fns) == 2
        assert len(hook_points(model)[name].fns) == 1


def test_hooked_values_reach_the_logits(make_model):
    model = make_model()
    tokens = torch.randint(61, (1, 6))
    with hooked(model, {"blocks.1.mlp.hook_out": lambda x, p: torch.zeros_like(x)}):
        changed = model(tokens)
    assert not torch.equal(changed, model(tokens))


@pytest.mark.slow
def test_hook_attached_after_compiling_fires(make_model):
    model = make_model()
    tokens = torch.randint(61, (2, 6))
    model.compile(backend="aot_eager")
    plain = model(tokens)
    with hooked(model, {"blocks.0.mlp.hook_out": lambda x, p: torch.zeros_like(x)}):
        changed = model(tokens)
    assert not torch.allclose(plain, changed)
    torch.testing.assert_close(model(tokens), plain)


def test_a_node_is_written_and_parsed_in_one_place(make_model):
    for name, point in node_points(make_model()).items():
        node = NodeId.parse(f"{name}:3")
        assert (node.point, node.channel, str(node)) == (name, 3, f"{name}:3")
        assert (node.kind, node.layer) == (point.kind, int(name.split(".")[1]))
    for text in ("blocks.0.mlp.hook_in", "blocks.0.mlp.hook_in:x", ":3", ""):
        with pytest.raises(ValueError, match="no node"):
            NodeId.parse(text)


def test_hooked_passes_beside_each_other_end_in_the_stance_that_was_before(make_model):
    """As two threads have them: the first to come is the first to go."""
    from torch._dynamo import eval_frame

    model, first, second = make_model(), ExitStack(), ExitStack()
    first.enter_context(hooked(model, {}))
    second.enter_context(hooked(model, {}))
    first.close()
    assert eval_frame._stance.stance == "force_eager"
    second.close()
    assert eval_frame._stance.stance == "default"
