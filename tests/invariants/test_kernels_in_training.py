"""Which form of a kernel runs changes the time of a training, not the training.

The native kernels equal their torch forms to the last bit, so trainings are equal too. Fused attention rounds otherwise
than the attention matrix written out, and AbsTopK is not continuous: in float32 a difference of 1e-7 soon flips an entry,
and trainings part. Hence that comparison is made in float64, where nothing flips within 50 steps, and step by step.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from sparsetrain.export import export_model, load_model
from sparsetrain.kernels import native
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.optim import OptimConfig
from sparsetrain.sparsity import SparsityConfig, build_sparsity
from sparsetrain.training.fit import LitTransformer, take_step
from sparsetrain.training.guard import Guard, GuardConfig
from sparsetrain.training.objectives import next_token_loss

N_STEPS = 50


def losses_of_a_run(
    *, sink: bool = True, attention: str = "fused", dtype: torch.dtype = torch.float32, also: str | None = None
) -> list[tuple[float, ...]]:
    """Losses of 50 steps of annealing a small model from dense to 1/8, on text with something to learn.

    With `also`, each step's loss is computed with that form of attention too, on the same weights.
    """
    torch.manual_seed(0)
    model = Transformer(
        ModelConfig(d_vocab=64, n_layer=2, d_model=64, n_ctx=32, sink=sink, attention=attention)  # type: ignore[arg-type]
    ).to(dtype)
    sparsity = build_sparsity(SparsityConfig(density=1 / 8), N_STEPS)
    assert sparsity is not None
    sparsity.prepare(model)
    module = LitTransformer(model, next_token_loss, OptimConfig(), sparsity, N_STEPS, Guard(GuardConfig()))
    configured = module.configure_optimizers()
    twin = None if also is None else Transformer(replace(model.config, attention=also)).to(dtype)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(N_STEPS):
        start = torch.randint(64, (8, 1), generator=generator)
        stride = torch.randint(1, 4, (8, 1), generator=generator)
        batch = {"tokens": (start + stride * torch.arange(33)) % 64}
        of_step: tuple[float, ...] = ()
        if twin is not None:
            twin.load_state_dict(model.state_dict())
            of_step = (float(next_token_loss(twin, batch).detach()),)
        losses.append((float(take_step(module, configured["optimizer"], batch)), *of_step))
        configured["lr_scheduler"]["scheduler"].step()
    assert losses[-1][0] < losses[0][0] - 0.5  # something was learned
    return losses


@pytest.mark.skipif(native.library() is None, reason="no compiler: there is only one form")
@pytest.mark.parametrize("sink", [True, False])
def test_native_and_torch_forms_train_to_the_last_bit_alike(sink: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with_native = losses_of_a_run(sink=sink)
    monkeypatch.setattr(native, "library", lambda: None)
    assert losses_of_a_run(sink=sink) == with_native


def test_fused_attention_trains_like_the_attention_matrix() -> None:
    fused, reference = (losses_of_a_run(attention=form, dtype=torch.float64) for form in ("fused", "reference"))
    assert max(abs(a - b) for (a,), (b,) in zip(fused, reference, strict=True)) <= 1e-9
    assert max(abs(a - b) for a, b in losses_of_a_run(also="reference")) <= 1e-4


@pytest.mark.slow
def test_compiled_training_exports_the_same_names(make_model: Callable[..., Transformer], tmp_path) -> None:
    model = make_model()
    names = set(model.state_dict())
    model.compile(backend="aot_eager")
    model(torch.randint(61, (2, 6))).sum().backward()
    folder = export_model(model, tmp_path / "step_1", None, {})
    assert set(load_model(folder).state_dict()) == names
