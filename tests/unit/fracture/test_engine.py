"""The engine against explicit passes with changed weights, in all kinds of model; sizes that give the effect asked for; responses by hand."""

import re
from dataclasses import replace
from math import log

import pytest
import torch
from torch import Tensor

from circuits.fracture import engine
from circuits.fracture.engine import (
    SCALES,
    TOLERANCE,
    Asked,
    Sweep,
    equal_effect,
    gradient_cosines,
    margins,
    output_kl,
    perturbed,
    perturbed_logits,
    sweep,
)
from circuits.fracture.perturbations import Perturbation, PerturbationsConfig, draw_perturbations, matrices
from sparsetrain.data.worlds.rules import RulesConfig, draw_rules
from sparsetrain.hooks import NODE_KINDS
from sparsetrain.model import ModelConfig, Transformer

WORLD = draw_rules(RulesConfig(n_symbols=6, rules=("copy", "larger")), 0)
ASKED = Asked.of(WORLD.inputs.take(range(0, 216, 5)), 6)
CONFIG = ModelConfig(d_vocab=WORLD.config.d_vocab, n_layer=2, d_model=8, d_head=4, d_mlp=16, n_ctx=6, abs_topk={}, positions="concat", d_pos=4)  # fmt: skip
KINDS = ("weight", "direction", "singular")


def example(seed: int = 0, abs_topk: float | None = None, density: float = 1.0) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(replace(CONFIG, abs_topk={} if abs_topk is None else dict.fromkeys(NODE_KINDS, abs_topk)))
    with torch.no_grad():
        model.embed.weight.normal_()
        model.unembed.weight.normal_()
        for linear in matrices(model).values():
            linear.weight.mul_(torch.rand(linear.weight.shape) < density)
            linear.bias.normal_(std=0.1)
    return model


def drawn_for(model: Transformer, n: int = 4) -> list[Perturbation]:
    """Of all kinds, over all entries and over nonzeros."""
    found: list[Perturbation] = []
    for kind in KINDS:
        for entries in ("all", "nonzero"):
            config = PerturbationsConfig(kind=kind, entries=entries, n=n, seed=1)
            found += draw_perturbations({"it": model}, config)["it"]
    return found


@torch.no_grad()
def explicitly(model: Transformer, perturbation: Perturbation, size: float, prompts: Tensor) -> Tensor:
    """A forward pass of another model, whose weights are theta + size u."""
    changed = Transformer(model.config)
    changed.load_state_dict(model.state_dict())
    weight = matrices(changed)[perturbation.name].weight
    weight.add_(size * perturbation.direction(weight))
    return changed(prompts)[:, -1]


@pytest.mark.parametrize("model", [example(), example(1, abs_topk=0.25), example(2, density=0.25)], ids=["dense", "abs_topk", "sparse"])  # fmt: skip
def test_every_perturbation_is_a_pass_with_changed_weights(model, monkeypatch):
    monkeypatch.setattr(
        engine, "TOKENS_OF_A_PASS", 5 * ASKED.prompts.numel()
    )  # 5 of 24 changes a pass: the last one is short
    before = {name: p.clone() for name, p in model.state_dict().items()}
    changes = [(one, SCALES[i % len(SCALES)]) for i, one in enumerate(drawn_for(model))]
    passes = [*perturbed_logits(model, ASKED.prompts, changes)]
    assert [len(logits) for logits in passes] == [5, 5, 5, 5, 4]
    plain = model(ASKED.prompts)[:, -1]
    moved = 0
    for (one, size), logits in zip(changes, torch.cat(passes), strict=True):
        torch.testing.assert_close(logits, explicitly(model, one, size, ASKED.prompts), atol=1e-5, rtol=0)
        moved += bool((logits - plain).abs().max() > 1e-3)
    assert moved > 12  # some units are cut off by zeros or by AbsTopK, most are not
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())  # untouched, to the bit
    assert torch.equal(model(ASKED.prompts)[:, -1], plain)  # nothing stays attached
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_nothing_stays_attached_after_an_error_or_between_passes() -> None:
    model = example()
    changes = [(one, 1.0) for one in drawn_for(model)[:3]]
    plain = model(ASKED.prompts)
    with pytest.raises(RuntimeError, match="stop"), perturbed(model, changes):
        raise RuntimeError("stop")
    assert torch.equal(model(ASKED.prompts), plain)
    model.train()
    for _ in perturbed_logits(model, ASKED.prompts, changes):
        assert torch.equal(model(ASKED.prompts), plain) and model.training and torch.is_grad_enabled()


def test_perturbations_of_another_model_are_refused() -> None:
    wide = Perturbation(kind="direction", name="blocks.0.mlp.W_in", unit=0, values=torch.ones(9))
    nowhere = Perturbation(kind="singular", name="blocks.7.mlp.W_in", unit=None, values=torch.ones(16, 8))
    for one, message in [
        (wide, "a perturbation of blocks.0.mlp.W_in with (9,) values does not fit the model, which has (16, 12)"),
        (nowhere, "a perturbation of blocks.7.mlp.W_in with (16, 8) values does not fit the model, which has no such matrix"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=re.escape(message)), perturbed(example(), [(one, 1.0)]):
            pass


def test_margins_and_divergence_by_hand() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0], [0.0, 0.5, 4.0]])
    assert margins(logits, torch.tensor([1, 0])).tolist() == [1, -4]
    assert margins(torch.stack([logits, -logits]), torch.tensor([1, 0])).tolist() == [[1, -4], [-2, 0.5]]
    p, q = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert float(output_kl(p, q)) == pytest.approx(0.5 * log(2) + 0.5 * log(2 / 3))


def test_response_is_the_mean_change_of_each_behaviour() -> None:
    asked = Asked(tokens=torch.zeros(3, 2, dtype=torch.int64), behaviour=torch.tensor([1, 0, 1]), n_behaviours=2)
    change = torch.tensor([[[1.0, -2.0, 3.0], [-1.0, 0.0, 5.0]]])  # one perturbation at two scales
    found = Sweep(rho=1.0, scales=(-1.0, 1.0), change=change, kl=torch.zeros(1, 2, 3), asked=asked)
    assert found.response.tolist() == [[1.0, 2.5]]


def test_a_sweep_is_what_explicit_passes_say() -> None:
    model, rho = example(), 0.7
    some = drawn_for(model)[::5]
    found = sweep(model, ASKED, some, rho)
    plain = model(ASKED.prompts)[:, -1].detach()
    for p, one in enumerate(some):
        per_scale = []
        for i, s in enumerate(SCALES):
            logits = explicitly(model, one, s * rho, ASKED.prompts)
            moved = margins(logits, ASKED.answers) - margins(plain, ASKED.answers)
            torch.testing.assert_close(found.change[p, i], moved, atol=2e-5, rtol=0)
            torch.testing.assert_close(found.kl[p, i], output_kl(plain, logits), atol=1e-5, rtol=0)
            per_scale.append(moved.abs())
        mean = torch.stack(per_scale).mean(0)
        for j in range(6):
            assert float(found.response[p, j]) == pytest.approx(float(mean[ASKED.behaviour == j].mean()), abs=2e-5)
    assert found.response.shape == (len(some), 6) and found.mean_kl == pytest.approx(float(found.kl.mean()))


@pytest.mark.parametrize("target", [0.003, 0.3])
def test_the_size_gives_the_effect_that_was_asked_for(target):
    sizes = []
    for model in (example(), example(1, abs_topk=0.5), example(2, density=0.25)):
        some = drawn_for(model, 2)
        size = equal_effect(model, ASKED, some, target)
        sizes.append(size.rho)
        again = sweep(model, ASKED, some, size.rho)
        torch.testing.assert_close(again.response, size.swept.response)
        assert again.mean_kl == pytest.approx(target, rel=TOLERANCE) and size.n_passes % (4 * len(some)) == 0
    assert max(sizes) > 1.2 * min(sizes)  # one size for all would have had unequal effects


def test_an_effect_that_cannot_be_had_is_refused() -> None:
    model = example()
    one = Perturbation(kind="direction", name="blocks.0.mlp.W_in", unit=2, values=torch.zeros(12))
    with pytest.raises(
        ValueError, match=r"the mean output KL is 0 nats at rho=.* and does not reach target_kl=0\.1; lower the target"
    ):
        equal_effect(model, ASKED, [one], 0.1)
    with pytest.raises(ValueError, match="target_kl=0 must be above 0 nats"):
        equal_effect(model, ASKED, [one], 0)
    with pytest.raises(ValueError, match=r"even at rho=.*, above target_kl=0\.1; raise the target"):
        engine._bisect(lambda rho: 1.0, 0.1)
    with pytest.raises(ValueError, match=r"the mean output KL jumps over target_kl=0\.1 nats at rho=3"):
        engine._bisect(lambda rho: float(rho > 3), 0.1)
    assert engine._bisect(lambda rho: rho**2, 9.0) == pytest.approx((3.0, 9.0), rel=TOLERANCE)
    assert engine._bisect(lambda rho: rho**2, 0.001)[1] == pytest.approx(0.001, rel=TOLERANCE)


def test_gradient_cosines_are_those_of_autograd() -> None:
    model = example(3, density=0.5).requires_grad_(False)
    weights = {name: linear.weight for name, linear in matrices(model).items()}
    found, over_nonzeros = gradient_cosines(model, ASKED), gradient_cosines(model, ASKED, nonzero=True)
    assert all(not weight.requires_grad and weight.grad is None for weight in weights.values())
    gradients = []
    for j in range(6):
        for weight in weights.values():
            weight.requires_grad_().grad = None
        mine = ASKED.behaviour == j
        logits = model(ASKED.prompts[mine])[:, -1]
        right = logits[torch.arange(len(logits)), ASKED.answers[mine]]
        logits = logits.clone()
        logits[torch.arange(len(logits)), ASKED.answers[mine]] = -1e9
        (right - logits.max(1).values).mean().backward()
        gradients.append([weight.grad.clone() for weight in weights.values() if weight.grad is not None])
    for i in range(6):
        for j in range(6):
            a, b = (torch.cat([g.flatten() for g in gradients[k]]) for k in (i, j))
            assert float(found[i, j]) == pytest.approx(float(torch.cosine_similarity(a, b, dim=0)), abs=1e-5)
            kept = torch.cat([weight.detach().flatten() != 0 for weight in weights.values()])
            expected = float(torch.cosine_similarity(a[kept], b[kept], dim=0))
            assert float(over_nonzeros[i, j]) == pytest.approx(expected, abs=1e-5)
    assert (found - over_nonzeros).abs().max() > 1e-3


def test_prompts_need_behaviours() -> None:
    with pytest.raises(ValueError, match=re.escape("2 prompts of 2 behaviours, [2, 0] of each")):
        Asked(tokens=torch.zeros(2, 2, dtype=torch.int64), behaviour=torch.tensor([0, 0]), n_behaviours=2)
