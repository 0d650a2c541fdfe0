"""Trainings that start from given weights: what fits, how dense they stay, where the data go on."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sparsetrain.data import TokenStream
from sparsetrain.export import Ancestor, export_model
from sparsetrain.model import Transformer
from sparsetrain.optim import OptimConfig, build_optimizer
from sparsetrain.sparsity import (
    DensitySchedule,
    InitialDensity,
    ScheduleConfig,
    SparsityConfig,
    TopKProjection,
    initial_density,
)
from sparsetrain.training.guard import audit
from sparsetrain.training.start import Start, lineage, load_weights_, read_start

META = {"step": 12, "seed": 3, "name": "parent", "n_tokens": 3072, "corpus_hash": "c", "next_batch": 24}


@pytest.fixture
def parent(make_model, tmp_path) -> Path:
    """A run with an export."""
    export_model(make_model(), tmp_path / "run" / "export" / "step_12", "tokens", META)
    return tmp_path / "run"


def sparse_(model: Transformer, density: float) -> Transformer:
    """Leaves the largest entries of every weight matrix of the blocks, embeddings and biases."""
    method = TopKProjection(SparsityConfig(density=density, floor=0), n_steps=1)
    method.prepare(model)
    method.attach(build_optimizer(model, OptimConfig()))
    method.finalize()
    return model


# densities


@pytest.mark.parametrize(
    ("shape", "target", "densities"),
    [
        ("linear", 0.5, [0.125, 0.125, 0.25, 0.375, 0.5, 0.5]),
        ("linear", 0.125, [0.125] * 6),
        ("exponential", 1 / 64, [1 / 8, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 64]),
    ],
)
def test_a_schedule_from_an_initial_density_by_hand(shape, target, densities):
    config = ScheduleConfig(shape=shape, start=0.2, end=0.8)
    schedule = DensitySchedule(target=target, n_steps=5, config=config, initial=0.125)
    assert [schedule.density(step) for step in range(6)] == pytest.approx(densities)


def test_density_of_given_weights_by_hand():
    matrix = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    weights = {"blocks.0.attn.W_q.weight": matrix, "blocks.0.mlp.W_in.weight": torch.ones(6, 2)}
    weights |= {"embed.weight": torch.eye(2), "blocks.0.attn.W_q.bias": torch.zeros(4)}
    found = initial_density(weights.items())
    assert found.matrices == 15 / 16
    assert found.tensors == {"blocks.0.attn.W_q.weight": 0.75, "embed.weight": 0.5, "blocks.0.attn.W_q.bias": 0.25}
    assert found.of("embed.weight") == 0.5 and found.of("final_norm.gain") == 1


def nonzeros_while_training(model: Transformer, initial: InitialDensity, target: float) -> list[int]:
    """Nonzeros of a matrix after each of eight steps; the density begins to change after the fourth."""
    config = SparsityConfig(density=target, floor=0, schedule=ScheduleConfig(start=0.5, end=0.75))
    method = TopKProjection(config, n_steps=8, initial=initial)
    optimizer = build_optimizer(model, OptimConfig())
    method.prepare(model)
    method.attach(optimizer)
    found = []
    for step in range(8):
        tokens = torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
        assert all(row.nonzeros <= row.budget for row in method.audit(step + 1))
        found.append(int(model.blocks[0].mlp.W_in.weight.count_nonzero()))
    assert all(row.exact for row in method.audit())
    return found


@pytest.mark.parametrize("target", [1 / 16, 1 / 8, 1 / 4])
def test_sparse_weights_never_get_denser_than_they_and_the_target_are(make_model, target):
    model = sparse_(make_model(), 1 / 8)
    entries = model.blocks[0].mlp.W_in.weight.numel()
    found = nonzeros_while_training(model, initial_density(model.named_parameters()), target)
    assert found[:4] == [entries // 8] * 4 and found[-1] == round(target * entries)
    assert max(found) <= round(max(target, 1 / 8) * entries)
    # Weights that nobody knows to be sparse fill up at the first step: the initial density is what keeps them so.
    assert nonzeros_while_training(sparse_(make_model(), 1 / 8), InitialDensity(), target)[0] > entries // 4


def test_a_floor_that_sparse_weights_cannot_hold_is_refused(make_model):
    model = sparse_(make_model(), 1 / 16)
    method = TopKProjection(SparsityConfig(density=0.5, floor=4), 8, initial_density(model.named_parameters()))
    with pytest.raises(ValueError, match=r"W_q\.weight.*smallest feasible density 0\.125"):
        method.prepare(model)


# which weights


def test_a_floor_where_given_weights_have_empty_lines_is_refused(make_model):
    """A unit without weights in and out gets no gradient: its floor could not be kept to the end."""
    model = make_model()
    with torch.no_grad():
        model.blocks[0].mlp.W_in.weight[3] = 0
    given = initial_density(model.named_parameters())
    with pytest.raises(
        ValueError,
        match=r"sparsity\.floor=1: 1 rows of blocks\.0\.mlp\.W_in\.weight have no nonzero.*give sparsity\.floor=0",
    ):
        TopKProjection(SparsityConfig(density=0.5, floor=1), 10, given).prepare(model)
    TopKProjection(SparsityConfig(density=0.5, floor=0), 10, given).prepare(model)


def test_a_short_line_of_given_weights_is_said_and_ends_nothing(make_model, caplog):
    """A dead unit that had one nonzero keeps one; from dense weights a line without its floor is a fault."""
    model = sparse_(make_model(), 1 / 4)
    with torch.no_grad():
        model.blocks[0].mlp.W_in.weight[3] = torch.eye(1, model.config.d_model)
    given = initial_density(model.named_parameters())
    for initial in (given, InitialDensity()):
        method = TopKProjection(SparsityConfig(density=0.25, floor=2), 10, initial)
        method.prepare(model)
        if initial is given:
            audit(method, model, 10)
            assert (
                "fewer than 2 nonzeros after step 10: it may have had as few in the weights of init_from" in caplog.text
            )
        else:
            with pytest.raises(AssertionError, match="fewer than 2 nonzeros"):
                audit(method, model, 10)


def test_a_run_and_its_export_are_the_same_start(parent, make_model):
    export = parent / "export" / "step_12"
    start = read_start(str(parent), make_model().config)
    assert replace(read_start(str(export), make_model().config), init_from=str(parent)) == start
    assert start.export == str(export) and start.density == InitialDensity() and start.changed == ()
    assert [(one.name, one.step, one.n_tokens, one.next_batch) for one in start.ancestors] == [("parent", 12, 3072, 24)]
    other = make_model(seed=1)
    load_weights_(other, start, "tokens")
    assert all(torch.equal(p, q) for p, q in zip(other.parameters(), make_model().parameters(), strict=True))


def test_what_does_not_shape_weights_may_differ_and_is_named(parent, make_model):
    wanted = replace(make_model().config, abs_topk={"attn_in": 0.5}, n_ctx=48, attention="reference")
    changed = read_start(str(parent), wanted).changed
    assert {"model.n_ctx=24 there, 48 here", "model.abs_topk.attn_in=0.25 there, 0.5 here"} <= set(changed)
    explicit = replace(make_model().config, n_head=4, d_mlp=128)
    assert read_start(str(parent), explicit).ancestors, "what None comes to is no other shape"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"d_head": 16}, "model.d_head=8 there, 16 here;"),
        ({"d_model": 64, "n_layer": 1}, "model.n_layer=2 there, 1 here, model.d_model=32 there, 64 here;"),
        ({"positions": "learned", "n_ctx": 48}, "model.n_ctx=24 there, 48 here, model.positions=none there, learned here;"),
        ({"sink": False, "d_vocab": 99}, "model.d_vocab=61 there, 99 here, model.sink=True there, False here;"),
    ],
)  # fmt: skip
def test_what_shapes_weights_is_refused_by_name(parent, make_model, settings, named):
    with pytest.raises(ValueError) as refused:
        read_start(str(parent), replace(make_model().config, **settings))
    assert f"is of another model: {named}" in str(refused.value) and "\n" not in str(refused.value)


def test_what_is_no_model_is_refused(parent, make_model, tmp_path):
    config = make_model().config
    with pytest.raises(
        FileNotFoundError, match=r"init_from=.*nowhere: no such folder; give the folder of a finished run"
    ):
        read_start(str(tmp_path / "nowhere"), config)
    with pytest.raises(FileNotFoundError, match=r"init_from=.* holds no export .*has the run finished\?"):
        read_start(str(tmp_path), config)
    start = read_start(str(parent), config)
    with pytest.raises(ValueError, match="reads another tokenizer's tokens than this run"):
        load_weights_(make_model(), start, "other tokens")
    export_model(make_model(seed=2), parent / "export" / "step_12", "tokens", META)
    with pytest.raises(ValueError, match="was written anew while this run began"):
        load_weights_(make_model(), start, "tokens")


# where the data go on


def ancestor(**known: Any) -> Ancestor:
    return Ancestor.of({"weights_sha256": "a", "step": 5, "corpus_hash": "c", "seed": 0, **known})


def test_the_stream_goes_on_behind_every_ancestor_of_the_same_data_and_seed():
    ancestors = (ancestor(next_batch=40), ancestor(next_batch=9, seed=1), ancestor(next_batch=90, corpus_hash="d"))
    start = Start(init_from="", export="", ancestors=ancestors, density=InitialDensity())
    assert [start.first_batch("c", 0), start.first_batch("c", 1), start.first_batch("d", 0)] == [40, 9, 90]
    assert start.first_batch("c", 2) == start.first_batch("e", 0) == 0


def test_a_stream_from_later_on_is_the_rest_of_the_whole_one():
    tokens = np.arange(500, dtype=np.uint16)
    corpus: Any = SimpleNamespace(weights={"x": 1.0}, content_hash="c", tokens=lambda source, split: tokens)
    whole, later = (TokenStream(corpus, "train", 8, 4, 0, first=first) for first in (0, 7))
    assert all((later.batch(k) == whole.batch(7 + k)).all() for k in range(3))
    assert later.identity() != whole.identity() and "first" not in whole.identity(), "checkpoints of before go on"


def test_lineage_grows_by_the_training_that_ended():
    older = {"step": 3, "weights_sha256": "b", "seed": 1}
    (first,) = lineage(older)
    assert first.next_batch == 3 and first.n_tokens is None and first.name is None
    grown = lineage({**META, "weights_sha256": "e", "lineage": [vars(first)]})
    assert [one.weights_sha256 for one in grown] == ["b", "e"] and grown[1].name == "parent"
