"""Training at the cost of the nonzeros against the dense training that it stands for."""

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from torch.optim import AdamW

from sparsetrain.kernels import native
from sparsetrain.linear import SparseProduct
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.optim import OptimConfig, PartialGradient, grad_rms
from sparsetrain.sparsity import (
    ComputeConfig,
    ReinitConfig,
    ScheduleConfig,
    SparsityConfig,
    TopKProjection,
    build_sparsity,
)
from sparsetrain.sparsity import compute as computing
from sparsetrain.sparsity.compute import CROSSOVER, SparseCompute, crossover_of
from sparsetrain.sparsity.method import STEP_KEY
from sparsetrain.training.fit import LitTransformer, Recipe, take_step
from sparsetrain.training.guard import Guard, GuardConfig
from sparsetrain.training.objectives import next_token_loss
from tests.fixtures.small_training import N_STEPS, RECIPE, train_small

STEPS = 40
MODEL = ModelConfig(d_vocab=64, n_layer=2, d_model=64, d_head=8, n_ctx=16, abs_topk={}, positions="concat")
CONFIG = SparsityConfig(
    density=0.05, embed_density=0.1, floor=2, schedule=ScheduleConfig(shape="exponential"),
    compute="sparse", computing=ComputeConfig(refresh_every=4, refresh_falling=4, exact_end=0.2, exact_above=1, crossover=0.25),
)  # fmt: skip


class Trainee:
    """A small training, step by step."""

    def __init__(self, config: SparsityConfig = CONFIG, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = Transformer(MODEL)
        method = build_sparsity(config, STEPS)
        assert isinstance(method, TopKProjection)
        method.prepare(self.model)
        self.method = method
        self.module = LitTransformer(self.model, next_token_loss, OptimConfig(), method, STEPS, Guard(GuardConfig()))
        self.optimizer = self.module.configure_optimizers()["optimizer"]

    def batch(self, n: int = 1) -> list[dict[str, Tensor]]:
        generator = torch.Generator().manual_seed(self.method.step)
        return n * [{"tokens": torch.randint(64, (4, 17), generator=generator)}]

    def step(self, n_micro: int = 1) -> Tensor:
        return take_step(self.module, self.optimizer, *self.batch(n_micro))

    @property
    def compute(self) -> SparseCompute:
        assert self.method.compute is not None
        return self.method.compute

    def weights(self) -> dict[str, Tensor]:
        return {name: p.detach().clone() for name, p in self.model.named_parameters()}

    def take_over(self, other: "Trainee") -> None:
        """Weights and optimizer of another training."""
        self.model.load_state_dict(other.model.state_dict())
        self.optimizer.load_state_dict(copy.deepcopy(other.optimizer.state_dict()))


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    for name, x in a.items():
        torch.testing.assert_close(x, b[name], atol=1e-5, rtol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


def test_with_a_refresh_in_every_step_it_is_the_dense_training() -> None:
    dense = Trainee(replace(CONFIG, compute="dense"))
    sparse = Trainee(replace(CONFIG, computing=replace(CONFIG.computing, refresh_every=1, refresh_falling=1)))
    for _ in range(STEPS):
        assert float(dense.step()) == pytest.approx(float(sparse.step()), abs=1e-4)
    assert any(one.pattern is not None for one in sparse.compute.tensors)
    same(dense.weights(), sparse.weights())


@pytest.mark.parametrize("moments", ["dense", "compressed"])
def test_a_refresh_is_a_dense_step(moments: str) -> None:
    """From the same weights and moments, in the middle of annealing and behind it."""
    sparse = Trainee(replace(CONFIG, computing=replace(CONFIG.computing, moments=moments)))
    compared = 0
    for step in range(36):
        if sparse.compute.is_refresh(step) and any(one.pattern is not None for one in sparse.compute.tensors):
            dense = Trainee(replace(CONFIG, compute="dense"))
            dense.take_over(sparse)
            for one in sparse.compute.tensors:  # what is not kept counts as zero
                state = dense.optimizer.state[dict(dense.model.named_parameters())[one.name]]
                for key in computing.MOMENTS if state["exp_avg"].shape != one.param.shape else ():
                    assert one.pattern is not None
                    state[key] = one.pattern.matrix(state[key]).to_dense()
            dense.step()
            sparse.step()
            same(dense.weights(), sparse.weights())
            compared += 1
        else:
            sparse.step()
    assert compared >= 5


@pytest.mark.parametrize("moments", ["dense", "compressed"])
def test_while_the_density_falls_every_step_has_a_dense_gradient_by_default(
    moments: Literal["dense", "compressed"],
) -> None:
    """A training is the dense one until the density has settled, and its mask moves seldom from then on."""
    computing = ComputeConfig(refresh_every=7, exact_end=0.2, crossover=0.25, moments=moments)
    dense, sparse = Trainee(replace(CONFIG, compute="dense")), Trainee(replace(CONFIG, computing=computing))
    settled = STEPS // 2
    refreshed = [sparse.compute.is_refresh(step) for step in range(STEPS)]
    assert refreshed == [step < settled or step % 7 == 0 or step >= 0.8 * STEPS for step in range(STEPS)]
    for step in range(settled + 1):
        if step == settled:
            same(dense.weights(), sparse.weights())
            assert all(one.pattern is not None for one in sparse.compute.tensors)
        dense.step()
        sparse.step()
    assert not sparse.compute.is_refresh(settled) and sparse.method.partial_gradients()


def test_a_tensor_that_keeps_many_entries_has_its_dense_gradient_in_every_step() -> None:
    computing = ComputeConfig(refresh_every=1000, exact_end=0, exact_above=0.1, crossover=0.25)
    sparse = Trainee(replace(CONFIG, embed_density=0.2, computing=computing))
    moved: set[str] = set()
    for step in range(STEPS):
        before = {one.name: one.param.detach() != 0 for one in sparse.compute.tensors}
        sparse.step()
        if step <= STEPS // 2:
            continue
        for one in sparse.compute.tensors:
            often = one.name.startswith(("embed", "unembed"))
            assert one.pattern is not None and (one.values is None) == often == one.refresh
            assert isinstance(one.product, SparseProduct) or one.name.startswith("embed")
            assert len(one.pattern) == int(one.param.count_nonzero()) or not often
            moved |= {one.name} if bool(((one.param != 0) & ~before[one.name]).any()) else set()
    assert "unembed.weight" in moved <= {"embed.weight", "unembed.weight"}


@pytest.mark.parametrize("moments", ["dense", "compressed"])
def test_a_dense_gradient_may_be_left_out(moments: str) -> None:
    """Also the very one at which a tensor would be compressed for the first time; the training goes on as it should."""
    trainee = Trainee(replace(CONFIG, computing=replace(CONFIG.computing, moments=moments)))
    left_out = 0
    for step in range(STEPS):
        if trainee.compute.is_refresh(step) and step % 8 == 0:
            trainee.optimizer.zero_grad()
            (trainee.module.losses(trainee.batch()[0])[0]).backward()
            trainee.optimizer.zero_grad()
            trainee.method.drop_gradients()
            before = trainee.weights()
            trainee.optimizer.step()
            assert all(bool(((w == before[name]) | (w == 0)).all()) for name, w in trainee.weights().items())
            left_out += 1
        else:
            trainee.step()
    assert left_out >= 4 and any(one.pattern is not None for one in trainee.compute.tensors)
    trainee.method.finalize()
    assert all(row.exact for row in trainee.method.audit())


def test_what_a_checkpoint_knows_of_crossovers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured ones are kept, not measured again; before they are measured, and of another setting, nothing is."""
    monkeypatch.setattr(computing, "crossover_of", lambda *_, **__: 0.125)
    auto = replace(CONFIG, compute="auto", computing=replace(CONFIG.computing, crossover=None))
    early = Trainee(auto).method.state_dict()
    measured = Trainee(auto)
    measured.step()
    kept = measured.method.state_dict()
    monkeypatch.setattr(computing, "crossover_of", lambda *_, **__: 0.75)

    def after(state: dict[str, Any], config: SparsityConfig) -> float:
        trainee = Trainee(config)
        trainee.method.load_state_dict(state)
        trainee.step()
        return trainee.compute.tensors[0].crossover

    assert after(kept, auto) == 0.125 and after(early, auto) == 0.75
    assert after(kept, CONFIG) == after(early, CONFIG) == CONFIG.computing.crossover


def test_moments_of_the_nonzeros_alone_are_no_moments_of_a_dense_training() -> None:
    sparse = Trainee(replace(CONFIG, computing=replace(CONFIG.computing, moments="compressed")))
    while not any(one.pattern is not None for one in sparse.compute.tensors):
        sparse.step()
    with pytest.raises(
        ValueError, match=r"sparsity.compute=dense: the checkpoint has moments .* sparsity.compute=sparse"
    ):
        Trainee(replace(CONFIG, compute="dense")).method.load_state_dict(sparse.method.state_dict())


def test_between_refreshes_gradients_at_the_nonzeros_are_the_dense_ones() -> None:
    sparse = Trainee()
    while sparse.method.step < 30 or sparse.compute.is_refresh(sparse.method.step):
        sparse.step()
    dense = Trainee(replace(CONFIG, compute="dense"))
    dense.take_over(sparse)
    (batch,) = sparse.batch()
    for trainee in (dense, sparse):
        trainee.optimizer.zero_grad()
        trainee.module.losses(batch)[0].backward()
    whole = dict(dense.model.named_parameters())
    seen = 0
    for one in sparse.compute.tensors:
        assert (
            one.pattern is not None
            and one.values is not None
            and one.values.grad is not None
            and one.param.grad is None
        )
        gradient = whole[one.name].grad
        assert gradient is not None
        torch.testing.assert_close(one.values.grad, one.pattern.values_of(gradient), atol=1e-5, rtol=1e-5)
        seen += len(one.pattern)
    assert seen == sum(tensor.k(tensor.target) for tensor in sparse.method.tensors if tensor.param.ndim == 2)
    for name, p in sparse.model.named_parameters():
        if p.grad is not None:
            torch.testing.assert_close(p.grad, whole[name].grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("moments", ["dense", "compressed"])
def test_budgets_and_floors_hold_after_every_step(moments: str) -> None:
    sparse = Trainee(replace(CONFIG, computing=replace(CONFIG.computing, moments=moments)))
    for step in range(1, STEPS + 1):
        sparse.step()
        for row in sparse.method.audit(step):
            assert row.nonzeros <= row.budget and row.floor_kept, (step, row)
    assert all(row.exact for row in sparse.method.audit())


def test_masks_move_at_refreshes_alone_once_the_density_stands() -> None:
    sparse, moved = Trainee(replace(CONFIG, computing=replace(CONFIG.computing, exact_end=0))), set[int]()
    for step in range(STEPS):
        before = {one.name: one.param != 0 for one in sparse.compute.tensors}
        sparse.step()
        if step > 24 and any(not torch.equal(before[one.name], one.param != 0) for one in sparse.compute.tensors):
            moved.add(step)
    assert moved and all(sparse.compute.is_refresh(step) for step in moved)


def test_entries_that_are_cut_stand_still_and_so_do_their_moments() -> None:
    sparse = Trainee()
    while sparse.method.step < 29:
        sparse.step()
    one = next(one for one in sparse.compute.tensors if one.name.endswith("W_in.weight"))
    outside = one.param == 0
    before = sparse.optimizer.state[one.param]["exp_avg"].clone()
    sparse.step()
    after = sparse.optimizer.state[one.param]["exp_avg"]
    assert torch.equal(before[outside], after[outside]) and not torch.equal(before[~outside], after[~outside])
    assert not one.param[outside].any()


def test_micro_batches_add_up() -> None:
    whole, parts = Trainee(), Trainee()
    for _ in range(30):
        whole.step()
        parts.step(n_micro=2)  # twice the same rows: the same mean
    same(whole.weights(), parts.weights())


def test_a_gradient_that_is_partly_known_counts_as_large_as_it_was() -> None:
    dense = torch.nn.Parameter(torch.zeros(3))
    dense.grad = torch.tensor([3.0, 0.0, 4.0])
    partial = PartialGradient(values=torch.tensor([1.0, 2.0]), n_entries=17, share=torch.tensor(0.2))
    assert float(grad_rms([dense], [partial])) == pytest.approx(((25 + 5 / 0.2) / 20) ** 0.5)


def test_the_share_is_that_of_the_last_refresh() -> None:
    sparse = Trainee()
    while sparse.method.step < 28:
        sparse.step()
    assert sparse.compute.is_refresh(28)
    sparse.step()
    for one in sparse.compute.tensors:
        assert one.pattern is not None and one.param.grad is not None and one.share is not None
        seen = one.param.grad[one.param != 0].square().sum() / one.param.grad.square().sum()
        assert float(one.share) == pytest.approx(float(seen), rel=1e-4)


def test_a_step_that_is_not_taken_changes_nothing() -> None:
    sparse = Trainee()
    while sparse.method.step < 30:
        sparse.step()
    before = sparse.weights()
    sparse.optimizer.zero_grad()
    sparse.module.losses(sparse.batch()[0])[0].backward()
    sparse.optimizer.zero_grad()
    sparse.method.drop_gradients()
    sparse.optimizer.step()
    assert sparse.optimizer.param_groups[0][STEP_KEY] == 31
    for name, p in sparse.weights().items():
        assert torch.equal(p, before[name]), name


def test_outside_of_a_step_layers_are_torchs_own() -> None:
    sparse = Trainee()
    for _ in range(30):
        sparse.step()
    assert all(one.module.product is None for one in sparse.compute.tensors)


def test_a_weight_that_was_changed_is_multiplied_as_it_is() -> None:
    """Inside a step too: nobody gets the product with weights of before."""
    sparse = Trainee()
    for _ in range(30):
        sparse.step()
    tokens = sparse.batch()[0]["tokens"][:, :-1]
    with sparse.method.applied(sparse.model, training=True), torch.no_grad():
        before = sparse.model(tokens)
        sparse.model.blocks[0].mlp.W_in.weight.mul_(2)
        inside = sparse.model(tokens)
    torch.testing.assert_close(inside, sparse.model(tokens), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(before, inside, atol=1e-3)


def left(folder: Path) -> dict[str, Any]:
    content = torch.load(max((folder / "checkpoints").glob("*.ckpt")), weights_only=True)
    return {"weights": content["state_dict"], "optimizer": content["optimizer_states"], "sparsity": content["sparsity"]}


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


@pytest.mark.parametrize("moments", ["dense", "compressed"])
@pytest.mark.parametrize(("form", "accumulate"), [("native", 2), ("native", 1), ("torch", 2), ("torch", 1)])
def test_resuming_is_exact_wherever_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moments: str, form: str, accumulate: int
) -> None:
    """Without accumulation no gradient is there when Lightning calls the optimizer: it computes them inside."""
    if form == "torch":
        monkeypatch.setattr(native, "library", lambda: None)
    computing = ComputeConfig(
        refresh_every=5, refresh_falling=5, exact_end=0.1, exact_above=1, crossover=0.6, moments=moments
    )  # pyright: ignore[reportArgumentType]
    recipe = replace(
        RECIPE,
        sparsity=replace(RECIPE.sparsity, compute="sparse", computing=computing),
        trainer=replace(RECIPE.trainer, accumulate=accumulate),
    )
    shapes_right: list[bool] = []
    step = AdamW.step

    def seen(self: AdamW, closure: Any = None) -> Any:
        given = step(self, closure)
        shapes_right.extend(
            state["exp_avg"].shape == param.shape for param, state in self.state.items() if param.grad is not None
        )
        return given

    monkeypatch.setattr(AdamW, "step", seen)
    train_small(tmp_path / "straight", recipe=recipe)
    assert shapes_right and all(shapes_right), "moments of what has a whole gradient are whole"
    for stop in (7, 12, 16, 21):
        train_small(tmp_path / f"{stop}", recipe=recipe, stop_at_step=stop)
        train_small(tmp_path / f"{stop}", recipe=recipe)
        assert equal(left(tmp_path / "straight"), left(tmp_path / f"{stop}")), stop
    shapes = {name: state["places"].shape for name, state in left(tmp_path / "straight")["sparsity"].items()}
    assert len(shapes) >= 6 and N_STEPS == 24


def test_auto_says_what_it_chose_and_a_resumed_run_keeps_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = iter([0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    asked: list[tuple[int, int]] = []

    def crossover(shape: tuple[int, int], n_tokens: int, *, lookup: bool, device: torch.device) -> float:
        asked.append(shape)
        return next(chosen)

    monkeypatch.setattr(computing, "crossover_of", crossover)
    recipe = replace(RECIPE, sparsity=replace(RECIPE.sparsity, compute="auto"))
    with caplog.at_level(logging.INFO):
        train_small(tmp_path, recipe=recipe, stop_at_step=10)
    n_shapes = len(asked)
    assert len(set(asked)) >= 3 and "by their nonzeros at these densities: 32 x 32 up to 0.3, " in caplog.text
    train_small(tmp_path, recipe=recipe)
    assert len(asked) == n_shapes
    kept = left(tmp_path)["sparsity"]
    assert kept["blocks.0.attn.W_q.weight"]["crossover"] == 0.3


@pytest.mark.parametrize("lookup", [False, True])
def test_a_crossover_is_a_density(lookup: bool) -> None:
    assert 0 <= crossover_of((64, 32), 64, lookup=lookup) <= 1


def test_a_share_of_the_steps_is_a_share() -> None:
    with pytest.raises(ValueError, match=r"exact_end=1\.5 must lie in \[0, 1\]"):
        ComputeConfig(exact_end=1.5)


@pytest.mark.parametrize(
    ("trainer", "sparsity", "named"),
    [
        ({"devices": 2, "strategy": "ddp"}, {}, "2 devices"),
        ({"precision": "bf16"}, {}, "trainer.precision=bf16"),
        ({"compile": True}, {}, "trainer.compile=true"),
        ({}, {"method": "rigl"}, "sparsity.method=rigl"),
        ({}, {"reinit_dead": ReinitConfig(every=5)}, "sparsity.reinit_dead.every=5"),
    ],
)
def test_where_products_by_nonzeros_cannot_be_had_auto_computes_with_the_zeros_and_sparse_is_refused(
    trainer: dict[str, Any], sparsity: dict[str, Any], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    def recipe(compute: str) -> Recipe:
        return replace(
            RECIPE, trainer=replace(RECIPE.trainer, **trainer), sparsity=replace(RECIPE.sparsity, compute=compute, **sparsity)
        )  # fmt: skip

    with caplog.at_level(logging.INFO):
        recipe("auto").check()
        assert not caplog.text
        recipe("auto").say_how_it_computes()
    assert f"sparsity.compute=auto: computed with the zeros, since this run has {named}" in caplog.text
    built = recipe("auto").build_sparsity(Transformer(RECIPE.model))
    assert built is not None and getattr(built, "compute", None) is None
    recipe("dense").check()
    words = (
        f"sparsity.compute=sparse is for one device.*this has {named}"
        if trainer
        else "sparsity.(compute=sparse is for|reinit_dead.every=5 moves)"
    )
    with pytest.raises(ValueError, match=words):
        recipe("sparse").check()


@pytest.mark.parametrize(("given", "used"), [(None, CROSSOVER), (0.2, 0.2)])
def test_a_crossover_that_is_given_is_not_measured(
    given: float | None, used: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(computing, "crossover_of", lambda *_, **__: 0.125)
    for compute in ("auto", "sparse"):
        config = replace(CONFIG, compute=compute, computing=replace(CONFIG.computing, crossover=given))
        trainee = Trainee(config)
        trainee.step()
        assert {one.crossover for one in trainee.compute.tensors} == {
            0.125 if compute == "auto" and given is None else used
        }


def test_other_methods_and_fresh_units_compute_densely() -> None:
    with pytest.raises(ValueError, match=r"sparsity\.compute=sparse is for sparsity\.method=topk, this is rigl"):
        SparsityConfig(method="rigl", compute="sparse")
    with pytest.raises(ValueError, match=r"reinit_dead\.every=5 is for sparsity\.method=topk, this is set"):
        SparsityConfig(method="set", reinit_dead=ReinitConfig(every=5))
    with pytest.raises(ValueError, match=r"reinit_dead\.every=5 moves nonzeros"):
        SparsityConfig(compute="sparse", reinit_dead=ReinitConfig(every=5))
