"""A device without float64, Apple's MPS: models are trained and measured on it, and sums are kept where float64 is.

No such device is asked for: `tests/fixtures/pretend_mps.py` makes one of the CPU that refuses float64 and mixed devices as MPS does. Operators that
MPS lacks or that round otherwise on it are not tested here.
"""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from fixed_split import FixedSplit
from pretend_mps import OnMps, pretending, to_mps

from sparsetrain.model import Transformer
from sparsetrain.representation.accumulate import UnitSums, WindowMeans
from sparsetrain.representation.active import n_active, set_participation
from sparsetrain.representation.evaluate import WatchConfig, measure_splits
from sparsetrain.representation.survey import SurveyConfig, survey
from sparsetrain.sparsity import SparsityConfig, TopKProjection
from sparsetrain.stats.exact import exact, exact_device

CONFIG = WatchConfig(n_windows=12, batch_size=4, n_bootstrap=50)


def splits() -> list[FixedSplit]:
    tokens = torch.randint(61, (12, 25), generator=torch.Generator().manual_seed(0))
    padded = tokens.clone()
    padded[3:, 15:] = -1
    return [FixedSplit("own", 0, tokens), FixedSplit("padded", 1, padded)]


def test_the_pretended_device_is_as_strict_as_the_real_one() -> None:
    with pretending():
        x = torch.ones(3, device="mps")
        assert isinstance(x + 1, OnMps) and (x + 1).device.type == "mps" and x.cpu().double().sum() == 3
        for make in (x.double, lambda: x.to(torch.float64), lambda: torch.zeros(2, dtype=torch.float64, device="mps")):
            with pytest.raises(TypeError, match="MPS"):
                make()
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.ones(3)


@pytest.mark.parametrize("positions", ["final", "matched", "all"])
def test_a_model_is_measured_as_on_the_cpu(positions: str, make_model: Callable[..., Transformer]) -> None:
    config, model = replace(CONFIG, positions=positions), make_model()
    expected = measure_splits(model, splits(), config)
    with pretending():
        found = measure_splits(to_mps(model), splits(), config)
    assert len(found.rows) == len(expected.rows) > 500
    for row, other in zip(found.rows, expected.rows, strict=True):
        assert row[:4] == other[:4] and row.n == other.n
        assert row[4:7] == pytest.approx(other[4:7], rel=1e-4, abs=1e-5, nan_ok=True), row


def test_a_survey_with_its_controls_runs_there(make_model: Callable[..., Transformer]) -> None:
    config, model = SurveyConfig(n_examples=6, n_bootstrap=20), make_model()
    expected = survey(model, splits()[:1], config, initial=make_model)
    with pretending():
        found = survey(to_mps(model), splits()[:1], config, initial=lambda: to_mps(make_model()))
    rows, others = found.plain.rows, expected.plain.rows
    assert [row.value for row in rows] == pytest.approx([row.value for row in others], rel=1e-4, abs=1e-5, nan_ok=True)


def test_steps_there_keep_budgets_and_follow_those_on_the_cpu(make_model: Callable[..., Transformer]) -> None:
    def losses(model: Transformer, tokens: torch.Tensor) -> list[float]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        method = TopKProjection(SparsityConfig(density=0.25, floor=1), n_steps=3)
        method.prepare(model)
        method.attach(optimizer)
        found = []
        for _ in range(3):
            loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
        assert all(row.nonzeros <= row.budget for row in method.audit())
        return found

    tokens = splits()[0].tokens
    expected = losses(make_model(), tokens)
    with pretending():
        assert losses(to_mps(make_model()), tokens.to("mps")) == pytest.approx(
            expected, abs=1e-2
        )  # attention rounds otherwise


def test_sums_are_kept_in_float64_on_the_cpu_whatever_the_device() -> None:
    assert exact_device(torch.device("mps", 0)) == torch.device("cpu")
    assert exact_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    means, units = (metric.to(exact_device(torch.device("mps"))) for metric in (WindowMeans(2, 4), UnitSums([3], 2)))
    for state in (means.total, means.count, units.powers, units.n_tokens):
        assert state.device.type == "cpu" and state.dtype == torch.float64
    with pretending():
        ones = torch.ones(4, 2, device="mps")
        for _ in range(3):  # in float32, 2^24 + 1 is 2^24
            means.update(ones * 2**24 + torch.zeros_like(ones), ones.bool(), torch.arange(4, device="mps"))
            means.update(ones, ones.bool(), torch.arange(4, device="mps"))
    assert means.compute()[0].tolist() == [[3 * 2**24 + 3] * 2] * 4


def test_active_channels_there() -> None:
    h = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    with pretending():
        there = h.to("mps")
        assert exact(there).dtype == torch.float64 and exact(there).device.type == "cpu"
        number, changed = n_active(there, 0.9), set_participation(4.0)(there)
        assert number.device.type == changed.device.type == "mps" and changed.dtype == torch.float32
        number, changed = number.cpu(), changed.cpu()
    assert number.equal(n_active(h, 0.9)) and changed.equal(set_participation(4.0)(h))
