"""Whether sparsity rises early and comes back, on curves that do and curves that do not."""

from dataclasses import replace
from math import isnan

import numpy as np
import pytest

from sparsetrain.representation.measures import HEADLINE
from sparsetrain.studies.knowledge_graph import TripleReadings
from sparsetrain.studies.readings import FINAL

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128)


def readings(curve: list[float], noise: float = 0.0, seed: int = 0) -> TripleReadings:
    values = np.array(curve)[:, None] + noise * np.random.default_rng(seed).standard_normal((len(STEPS), 40))
    other = np.zeros_like(values)
    return TripleReadings(
        steps=STEPS, loss=other, entropy=other, logit_norm=other, correct=other,
        values={(FINAL, "none", HEADLINE): values}, groups={"id deducible": np.arange(40)},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("curve", "over_start", "over_end"),
    [
        ([0.4, 0.4, 0.5, 0.6, 0.5, 0.4, 0.4, 0.4, 0.4], 0.2, 0.2),  # rises early and comes back
        ([0.6, 0.5, 0.5, 0.5, 0.4, 0.4, 0.4, 0.4, 0.3], -0.1, 0.2),  # only falls: no rise, whatever is left at the end
        (
            [0.4, 0.4, 0.4, 0.4, 0.4, 0.4, 0.5, 0.7, 0.5],
            0.1,
            0.0,
        ),  # peaks late: that of the first quarter is not above the end
    ],
)
def test_the_early_peak_is_of_the_first_quarter_without_the_start(curve, over_start, over_end):
    found = readings(curve)
    assert found.peak_over(0) == pytest.approx(over_start) and found.peak_over(-1) == pytest.approx(over_end)


def test_without_an_early_checkpoint_there_is_no_peak():
    late = replace(readings([0.5] * len(STEPS)), steps=(0, *range(120, 128)))
    assert isnan(late.peak_over(0)) and isnan(late.peak_over(-1))


def test_a_flat_curve_of_noise_has_no_peak_on_average():
    """The largest of several noisy means lies above all of them; read on other items it does not."""
    found = [readings([0.5] * len(STEPS), noise=0.1, seed=seed) for seed in range(300)]
    naive = [float(np.max((y := one.over_time("none", "id deducible"))[1:7]) - y[-1]) for one in found]
    assert np.mean(naive) > 0.015
    assert abs(np.mean([one.peak_over(-1) for one in found])) < 3 * 0.1 * np.sqrt(2 / 20) / np.sqrt(300)
