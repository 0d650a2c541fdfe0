"""Controls against formulas by hand, and against the tracker's own readings."""

import numpy as np
import pytest
import torch

from sparsetrain.hooks import record
from sparsetrain.representation.controls import random_rotation, read_items, trim
from sparsetrain.representation.evaluate import WatchConfig, measure_splits
from sparsetrain.representation.measures import gini


def test_a_random_basis_is_orthonormal_and_hides_sparsity():
    q = random_rotation(128, seed=3)
    assert torch.allclose(q @ q.T, torch.eye(128), atol=1e-5)
    h = torch.zeros(400, 128)
    h[torch.arange(400), torch.arange(400) % 128] = 1.0
    assert gini(h).mean() > 0.98 and gini(h @ q).mean() == pytest.approx(0.414, abs=0.02)
    assert not torch.equal(random_rotation(8, seed=0), random_rotation(8, seed=1))


def test_trimming_takes_the_strongest_channels():
    h = torch.ones(5, 200)
    h[:, 7], h[:, 150] = 100.0, -50.0
    assert torch.equal(trim(h), torch.ones(5, 198))
    assert trim(torch.tensor([[1.0, 3.0, 2.0]])).tolist() == [[1.0, 2.0]]


def test_readings_by_hand(make_model):
    model = make_model(bigram=False)
    prompts = torch.randint(0, 61, (9, 4), generator=torch.Generator().manual_seed(0))
    items = read_items(
        model, prompts, ["final_norm.hook_norm", "blocks.0.mlp.hook_neuron"], measures=("gini", "top5"), batch_size=4
    )
    logits, seen = record(model, prompts[:, :-1], ["final_norm.hook_norm", "final_norm.hook_resid"])
    last = {name: x[:, -1].detach() for name, x in seen.items()}
    h = last["final_norm.hook_norm"]
    assert torch.allclose(items.measures["final_norm.hook_norm", "none", "gini"], gini(h), atol=1e-6)
    # Before the norm: the norm only scales.
    assert torch.allclose(
        items.measures["final_norm.hook_norm", "none", "gini"], gini(last["final_norm.hook_resid"]), atol=1e-5
    )
    with_gain = gini(h * model.final_norm.gain.detach())
    assert torch.allclose(items.measures["final_norm.hook_norm", "gain", "gini"], with_gain, atol=1e-6)
    assert ("final_norm.hook_norm", "rotated", "gini") in items.measures
    assert ("blocks.0.mlp.hook_neuron", "none", "top5") in items.measures
    assert ("blocks.0.mlp.hook_neuron", "gain", "gini") not in items.measures
    want = torch.nn.functional.cross_entropy(logits[:, -1], prompts[:, -1], reduction="none")
    assert torch.allclose(items.loss, want.detach(), atol=1e-5)


def test_readings_are_the_trackers(make_model):
    model = make_model(bigram=False)
    prompts = torch.randint(0, 61, (8, 4), generator=torch.Generator().manual_seed(1))

    class Split:
        name, level, tokens, description = "facts", 0, prompts, ""

    config = WatchConfig(kinds=("norm",), positions="last", n_windows=8, batch_size=8, n_bootstrap=2)
    tracked = measure_splits(model, [Split()], config)
    items = read_items(model, prompts, ["blocks.1.mlp.norm.hook_norm"])
    want = tracked.per_window("facts", "blocks.1.mlp.norm.hook_norm", "gini")
    assert np.allclose(items.measures["blocks.1.mlp.norm.hook_norm", "none", "gini"], want, atol=1e-6)
    assert np.allclose(items.entropy, tracked.per_window("facts", "logits", "entropy"), atol=1e-5)
    assert np.allclose(items.logit_norm, tracked.per_window("facts", "logits", "logit_norm"), atol=1e-4)


def test_an_unknown_hook_point_is_an_error(make_model):
    with pytest.raises(KeyError, match="near names"):
        read_items(make_model(), torch.zeros(2, 3, dtype=torch.long), ["final_norm.hook_nrm"])
