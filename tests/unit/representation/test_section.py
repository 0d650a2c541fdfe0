"""What report.json says of a table of evaluations: curves of everything, the last evaluation, and what is too much."""

import numpy as np
import pytest
from fixed_split import FixedSplit

from sparsetrain.representation import section as module
from sparsetrain.representation.evaluate import LOGIT_MEASURES, WatchConfig, measure_splits
from sparsetrain.representation.measures import MEASURES, gaussian_reference
from sparsetrain.representation.section import RepresentationSection, default_points, references, table_section
from sparsetrain.representation.table import append_rows
from sparsetrain.typed import from_dict, plain

CONFIG = WatchConfig(n_windows=4, batch_size=4, n_bootstrap=20)


@pytest.fixture
def watched(tmp_path, make_model):
    """Model, splits, the table of two evaluations, the evaluation."""
    model = make_model()
    rng = np.random.default_rng(0)
    splits = [FixedSplit(f"s{i}", i, rng.integers(61, size=(6, 24)), f"split {i}") for i in range(2)]
    evaluation = measure_splits(model, splits, CONFIG)
    for step in (0, 7):
        append_rows(tmp_path / "ood_sparsity.csv", step, evaluation.rows)
    return model, splits, tmp_path / "ood_sparsity.csv", evaluation


def test_curves_of_every_measure_at_every_hook_point(watched):
    model, splits, path, evaluation = watched
    section = plain(table_section(path, splits, CONFIG, model=model))
    assert plain(from_dict(RepresentationSection, section)) == section
    assert section["headline"] == "gini" and "20 resamples" in section["interval"] and section["step"] == 7
    training = section["training"]
    assert training["steps"] == [0, 7] and training["points"] == "all" and training["n"] == {"s0": 4, "s1": 4}
    pairs = [(curve["hook_point"], curve["measure"]) for curve in training["curves"]]
    assert len(pairs) == len(set(pairs)) and set(pairs) == {(row.hook_point, row.measure) for row in evaluation.rows}
    assert {m for p, m in pairs if p == "blocks.1.mlp.hook_neuron"} == {
        *MEASURES, "jaccard", "lifetime_treves_rolls", "lifetime_kurtosis", "dead", "always_on",
    }  # fmt: skip
    assert {m for p, m in pairs if p == "logits"} == set(LOGIT_MEASURES)
    for curve in training["curves"]:
        for i, split in enumerate(splits):
            value = evaluation.value(split.name, curve["hook_point"], curve["measure"])
            if np.isfinite(value):
                assert curve["value"][i] == pytest.approx([value] * 2, rel=1e-4)
            else:
                assert curve["value"][i] == [None, None]
    neuron = training["curves"][pairs.index(("blocks.1.mlp.hook_neuron", "gini"))]
    assert neuron["gaussian"] == gaussian_reference(128, 32)["gini"]
    assert all(
        lo < value < hi for lo, value, hi in zip(neuron["lo"][0], neuron["value"][0], neuron["hi"][0], strict=True)
    )


def test_the_last_evaluation_in_numbers(watched):
    model, splits, path, evaluation = watched
    section = table_section(path, splits, CONFIG, model=model)
    last = section.splits[1]
    assert (last.name, last.n_examples, last.n_tokens, last.median_tokens) == ("s1", 4, 96, 24.0)
    assert last.loss.value == pytest.approx(evaluation.value("s1", "logits", "loss"), rel=1e-6)
    point = next(p for p in section.points if p.hook_point == "final_norm.hook_resid")
    assert point.shown and point.width == 32 and point.gaussian["gini"] == gaussian_reference(32)["gini"]
    gini = point.values["s0"]["gini"]
    assert gini.status == "measured" and gini.n == 4 and gini.lo < gini.value < gini.hi
    assert references(model)["final_norm.hook_resid"] == gaussian_reference(32)


def test_too_many_numbers_become_a_few_hook_points_and_steps(watched, monkeypatch):
    model, splits, path, evaluation = watched
    monkeypatch.setattr(module, "MAX_NUMBERS", 1000)
    training = table_section(path, splits, CONFIG, model=model).training
    names = {curve.hook_point for curve in training.curves}
    assert training.points == "few" and names == {
        "logits", "final_norm.hook_resid", "final_norm.hook_norm",
        *(f"blocks.{i}.mlp.{place}" for i in range(2) for place in ("norm.hook_resid", "hook_neuron")),
    }  # fmt: skip
    monkeypatch.setattr(module, "MAX_STEPS", 3)
    for step in range(8, 20):
        append_rows(path, step, evaluation.rows)
    assert table_section(path, splits, CONFIG, model=model).training.steps == (0, 12, 19)


def test_default_points():
    names = [f"blocks.{i}.{place}" for i in range(5) for place in ("mlp.norm.hook_resid", "mlp.hook_neuron")]
    chosen = default_points([*names, "final_norm.hook_resid"])
    assert len(chosen) == 7 and chosen[-1] == "final_norm.hook_resid" and "blocks.2.mlp.hook_neuron" in chosen
    assert default_points(list("abcdef")) == list("abcd")
