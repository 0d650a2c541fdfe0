"""Losses of student and bridge: by hand, without bias where sites are dealt, gradients against finite differences, and each falls in the one training."""

import csv
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest
import small_training
import torch
from small_training import RECIPE, left, train_small

from circuits.bridges import losses
from circuits.bridges.bridge import Bridge
from circuits.bridges.losses import TERMS, BridgeConfig, BridgeObjective, bridge_terms, deal, nmse
from circuits.bridges.sites import sites_of
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.optim import OptimConfig
from sparsetrain.sparsity import SparsityConfig
from sparsetrain.training.objectives import LearningObjective, next_token_loss

MICRO = ModelConfig(d_vocab=7, n_layer=1, d_model=8, d_head=4, d_mlp=8, n_ctx=5, abs_topk={}, positions="learned")
TOKENS = torch.randint(7, (4, 6), generator=torch.Generator().manual_seed(0))


def micro(seed: int, d_model: int = 8) -> Transformer:
    """In float64, nothing small."""
    torch.manual_seed(seed)
    model = Transformer(replace(MICRO, d_model=d_model)).double()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.5 * torch.randn_like(p))
    return model


def bridge(share: float = 0.5) -> Bridge:
    return Bridge.between(sites_of(micro(0)), sites_of(micro(1, 12)), share=share, seed=2).double()


def test_nmse_by_hand():
    target = torch.tensor([[[1.0, 0.0], [3.0, 4.0]]])
    # the means are (2, 2), so the variance is 1 + 4 + 1 + 4
    assert nmse(target + torch.tensor([1.0, 0.0]), target).item() == pytest.approx(2 / 10)
    assert nmse(target.mean(1, keepdim=True).expand_as(target), target).item() == pytest.approx(1)
    assert nmse(7 * target, 7 * target + 7).item() == pytest.approx(nmse(target, target + 1).item())


def test_the_divergence_of_one_site_by_hand():
    teacher, student, between = micro(0).requires_grad_(False), micro(1, 12), bridge()
    student.requires_grad_(False)
    between.requires_grad_(False)
    found = bridge_terms(teacher, student, between, TOKENS)
    inputs = TOKENS[:, :-1]
    stream = between.decode(2, stream_behind(student, inputs))
    p, q = (
        teacher(inputs).softmax(-1),
        (teacher.unembed(teacher.final_norm(stream)) + teacher.bigram(inputs)).softmax(-1),
    )  # pyright: ignore
    last = float((p * (p / q).log()).sum(-1).mean())
    rest = [float(bridge_terms_at(teacher, student, between, site)["into_dense"]) for site in range(3)]
    assert rest[2] == pytest.approx(last)
    assert float(found["into_dense"]) == pytest.approx(sum(rest) / 3)
    assert set(found) == set(TERMS)


def stream_behind(model: Transformer, tokens: torch.Tensor) -> torch.Tensor:
    assert model.positions is not None
    return model.blocks[0](model.embed(tokens) + model.positions[: tokens.shape[1]], None)


def bridge_terms_at(teacher, student, between, site: int):
    """With all rows entered at one site."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "deal", lambda n_rows, n_sites, n_each: torch.full((n_rows, 1), site))
        return bridge_terms(teacher, student, between, TOKENS)


@pytest.mark.parametrize("n_each", [1, 2])
def test_dealt_sites_are_an_unbiased_estimate_of_all(n_each, monkeypatch):
    """The mean over every order in which three sites may be dealt is the exact loss."""
    teacher, student, between = micro(0).requires_grad_(False), micro(1, 12), bridge()
    exact = bridge_terms(teacher, student, between, TOKENS)
    orders = [*permutations(range(3))]
    totals = dict.fromkeys(TERMS, 0.0)
    single: set[float] = set()
    for order in orders:
        monkeypatch.setattr(torch, "randperm", lambda n, order=order: torch.tensor(order))
        for name, value in bridge_terms(teacher, student, between, TOKENS, n_each).items():
            totals[name] += value.item() / len(orders)
            if name == "into_sparse":
                single.add(value.item())
    for name in TERMS:
        assert totals[name] == pytest.approx(exact[name].item(), rel=1e-9), name
    assert len(single) > 1, "single deals differ, their mean does not"


def test_a_deal():
    at = deal(8, 5, 2)
    assert at.shape == (8, 2) and (at[:, 0] != at[:, 1]).all()
    counts = torch.bincount(at.flatten(), minlength=5)
    assert int(counts.max() - counts.min()) <= 1
    assert torch.equal(deal(2, 3, None), torch.tensor([[0, 1, 2], [0, 1, 2]]))
    with pytest.raises(ValueError, match="n_each=4 must be at most 3"):
        deal(2, 3, 4)


@pytest.mark.parametrize("term", TERMS)
def test_gradients_against_finite_differences(term):
    teacher, student, between = micro(0).requires_grad_(False), micro(1, 12), bridge(0.9)
    bridge_terms(teacher, student, between, TOKENS)[term].backward()
    generator, h = torch.Generator().manual_seed(3), 1e-6
    named = {**dict(student.named_parameters()), **{f"bridge.{name}": p for name, p in between.named_parameters()}}
    reached = 0
    for name, p in named.items():
        direction = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(sign * h * direction)
                values.append(bridge_terms(teacher, student, between, TOKENS)[term].item())
                p.sub_(sign * h * direction)
        numeric = (values[0] - values[1]) / (2 * h)
        analytic = 0.0 if p.grad is None else float((p.grad * direction).sum())
        assert analytic == pytest.approx(numeric, rel=1e-4, abs=1e-7), name
        reached += abs(numeric) > 1e-6
    assert reached > 3
    assert all(p.grad is None for p in teacher.parameters())


class Chains:
    """Rows in which every token says which one is next."""

    n_batches = None

    def rows(self, k: int, rank: int, n_ranks: int):
        rows = np.random.default_rng(k).integers(0, 64, (RECIPE.trainer.micro_batch, 9))
        for i in range(1, 9):
            rows[:, i] = (5 * rows[:, i - 1] + 3) % 64
        return rows

    def identity(self):
        return {"made": "chains"}


def noisy_teacher() -> Transformer:
    torch.manual_seed(9)
    teacher = Transformer(replace(RECIPE.model, d_model=16, d_head=8, abs_topk={}))
    with torch.no_grad():
        for p in teacher.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return teacher


def objective(teacher: Transformer | None = None, **settings) -> BridgeObjective:
    teacher = noisy_teacher() if teacher is None else teacher
    between = Bridge.between(sites_of(teacher), sites_of(Transformer(RECIPE.model)), share=0.5, seed=0)
    return BridgeObjective(teacher, between, BridgeConfig(**settings))


def test_in_the_one_training_each_term_falls_and_teacher_and_density_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(small_training, "Endless", Chains)
    dense = replace(RECIPE.model, d_model=16, d_head=8, abs_topk={})
    longer = replace(RECIPE.trainer, n_steps=100)
    recipe = replace(
        RECIPE,
        model=dense,
        sparsity=SparsityConfig(density=1),
        optim=OptimConfig(lr_peak=3e-2, eps=1e-8),
        trainer=longer,
    )
    teacher = train_small(tmp_path / "teacher", recipe=recipe, every=200, objective=next_token_loss).model
    loss = objective(teacher, n_each=1)
    assert isinstance(loss, LearningObjective)
    before = [p.clone() for p in loss.teacher.parameters()]
    recipe = replace(RECIPE, optim=OptimConfig(lr_peak=1e-2, eps=1e-8), trainer=longer)
    trained = train_small(tmp_path / "student", recipe=recipe, every=200, objective=loss)
    assert all(torch.equal(p, q) for p, q in zip(loss.teacher.parameters(), before, strict=True))
    assert trained.sparsity is not None and all(tensor.exact for tensor in trained.sparsity.audit())
    assert all((p != 0).all() for name, p in loss.bridge.named_parameters() if name.endswith("weight")), "dense"
    with (tmp_path / "student" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["name"].startswith("loss/")]
    for term in TERMS:
        values = [float(row["value"]) for row in rows if row["name"] == f"loss/{term}"]
        assert sum(values[-8:]) / 8 < 0.98 * sum(values[:8]) / 8, (term, values[:8], values[-8:])


def test_an_interrupted_training_goes_on_bit_by_bit(tmp_path):
    whole, parts = objective(n_each=1), objective(n_each=1)
    train_small(tmp_path / "whole", objective=whole)
    train_small(tmp_path / "parts", objective=parts, stop_at_step=10)
    parts = objective(n_each=1)
    train_small(tmp_path / "parts", objective=parts)
    assert left(tmp_path / "whole") == left(tmp_path / "parts")
    assert all(torch.equal(p, q) for p, q in zip(whole.bridge.parameters(), parts.bridge.parameters(), strict=True))


def test_the_step_of_the_model_does_not_depend_on_the_bridge_learning(tmp_path):
    """With cross-entropy alone the student is the student of a training without a bridge, to the last bit."""
    alone = train_small(tmp_path / "alone", objective=next_token_loss)
    beside = train_small(tmp_path / "beside", objective=objective(n_each=1, nmse=0.0, kl=0.0))
    for (name, p), q in zip(alone.model.named_parameters(), beside.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6, msg=name)


def test_settings_that_cannot_hold_are_refused(tmp_path):
    with pytest.raises(ValueError, match="what is trained beside the model is not decayed; give 0"):
        train_small(tmp_path, objective=objective(optim=OptimConfig(weight_decay=0.1)))
