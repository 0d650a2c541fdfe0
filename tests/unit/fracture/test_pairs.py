"""Bounds from a null, what is called different, and intervals of differences, by hand."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from circuits.fracture.measured import ModelReadings
from circuits.fracture.pairs import BOUNDS, MEASURES, bounds_of, called_different, compared, difference

RNG = np.random.default_rng(0)


def readings(shift: float = 0.0, seed: int = 0, n: int = 40) -> ModelReadings:
    rng = np.random.default_rng(seed)
    responses = {which: rng.random((n, 4)) + 0.1 for which in ("", ", raw")}
    items = {key: rng.normal(0.5 + shift, 0.1, n) for key in ("fracture", "union", "share", "gradients", "coherence")}  # fmt: skip
    items["redundancy"] = rng.uniform(1, 2, (n, 2)) + np.array([0, shift])
    return ModelReadings(responses=responses, kl={"": 0.1}, rho={"": 1.0}, items=items)


def test_a_pair_is_called_different_from_the_bound_on():
    a, b = {"fracture": 0.2, "union": 0.5, "share": float("nan")}, {"fracture": 0.3, "union": 0.55, "share": 0.1}
    assert called_different(a, b, {"fracture": 0.05, "union": 0.06, "share": 0.01}) == ("fracture",)
    assert called_different(b, a, {"fracture": 0.2}) == ()
    assert called_different(a, a, dict.fromkeys(a, 1e-9)) == ()


def models(n: int, n_measures: int, seed: int) -> list[dict[str, float]]:
    values = np.random.default_rng(seed).normal(size=(n, n_measures)) * 10.0 ** np.arange(n_measures)
    return [dict(zip("xyzuvwabcd"[:n_measures], row, strict=True)) for row in values.tolist()]


def test_bounds_are_one_multiple_of_every_spread() -> None:
    found = models(12, 3, 0)
    bounds = bounds_of(found, ["x", "y", "z"])
    pairs = list(combinations(found, 2))
    rms = {key: np.sqrt(np.mean([(a[key] - b[key]) ** 2 for a, b in pairs])) for key in bounds}
    assert len({round(bounds[key] / rms[key], 9) for key in bounds}) == 1
    # with seven models and one measure by hand: every pair by the spread of the five that are left
    seven = models(7, 1, 1)
    x = np.array([one["x"] for one in seven])
    far = [abs(x[i] - x[j]) / (np.sqrt(2) * np.delete(x, [i, j]).std(ddof=1)) for i, j in combinations(range(7), 2)]
    assert bounds_of(seven, ["x"])["x"] == pytest.approx(sorted(far)[19] * np.sqrt(2) * x.std(ddof=1))  # 20th of 21


@pytest.mark.parametrize(("n", "most"), [(7, 0.12), (12, 0.1), (20, 0.08)])
def test_new_models_of_the_recipe_are_seldom_called_different(n: int, most: float) -> None:
    """What bounds promise is about models that they were not made of; bounds of pairs judged by their own spread call 30% and more different."""
    keys = list("xyzuvwab")
    rates = []
    for seed in range(40):
        bounds = bounds_of(models(n, 8, seed), keys)
        new = models(10, 8, 1000 + seed)
        rates.append(np.mean([bool(called_different(a, b, bounds)) for a, b in combinations(new, 2)]))
    assert 0.005 < np.mean(rates) < most


def test_a_model_far_from_the_recipe_is_called_different() -> None:
    bounds = bounds_of(models(12, 8, 3), list("xyzuvwab"))
    plain, far = models(2, 8, 99)
    far["x"] += 30
    assert called_different(plain, far, bounds) == ("x",)


def test_bounds_need_seven_models_and_measures_that_all_have():
    with pytest.raises(ValueError, match="6 models make no null; give 7 or more"):
        bounds_of(models(6, 1, 0), ["x"])
    assert bounds_of([{"x": float(i)} if i else {"x": float("nan")} for i in range(8)], ["x"]) == {}
    assert bounds_of([{"x": 1.0}] * 8, ["x"]) == {}, "a measure without spread cannot be judged"


def test_a_difference_is_of_what_both_were_read_on():
    a, b = readings(), readings()
    b = replace(b, items={key: values + 0.25 for key, values in b.items.items()})
    found = difference("share", a, b, n_bootstrap=50, seed=0)
    assert found is not None and found.value == pytest.approx(0.25)
    assert found.lo == pytest.approx(0.25) and found.hi == pytest.approx(0.25), "paired: what both share cancels"
    for key in ("modularity", "entanglement", "modularity, raw"):
        same = difference(key, a, readings(), n_bootstrap=50, seed=0)
        assert same is not None and same.value == same.lo == same.hi == 0
    for key in ("transfer", "fracture", "union", "gradients"):
        assert difference(key, a, b, n_bootstrap=50, seed=0) is None, "nothing that could be resampled"


def test_items_that_one_of_both_lacks_are_left_out_of_both():
    a, b = readings(), readings()
    values = a.items["share"].copy()
    values[0] = np.nan
    found = difference("share", replace(a, items={**a.items, "share": values}), b, n_bootstrap=50, seed=0)
    assert found is not None and found.value == 0 and found.n == len(values) - 1


def test_planted_models_are_judged_by_their_null_and_copies_are_alike():
    null = {f"null {i}": readings(0.01 * RNG.normal(), seed=i) for i in range(8)}
    far, near = readings(0.5, seed=27), readings(0.0, seed=28)
    read = {**null, "near": near, "far": far, "near again": near}

    def called(a: str, b: str, **given: object) -> dict[str, str]:
        rows = compared(
            read, (a, b), given.pop("null", list(null)), bounds=given.pop("bounds", None), n_bootstrap=20, seed=0
        )  # pyright: ignore[reportArgumentType]
        return {row.key: row.called for row in rows if row.main}

    far_words = called("near", "far")
    assert far_words["fracture"] == far_words["union"] == "different"
    assert set(called("near", "near again").values()) == {"alike"}
    for few in ([], list(null)[:6]):
        assert set(called("near", "far", null=few).values()) == {"not judged"}
    assert called("near", "far", null=[*null, "near", "far"]) == far_words, "the pair is not part of its null"
    by_study = called("near", "far", null=[], bounds=dict.fromkeys(BOUNDS, 0.3))
    assert by_study["fracture"] == "different" and by_study["modularity"] == "alike"


def test_every_measure_says_which_way_is_less():
    assert {measure.less for measure in MEASURES.values()} == {"lower", "higher"}
    assert all(measure.spread > 0 and measure.words for measure in MEASURES.values())
    assert MEASURES["fracture"].expected == "negative" and MEASURES["modularity"].expected == "positive"
