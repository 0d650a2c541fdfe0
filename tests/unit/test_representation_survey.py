"""A survey's statements: correlations, groups of like loss, the section's form, the table of examples."""

import csv
import json
from dataclasses import dataclass

import jsonschema
import numpy as np
import pytest
import torch

from sparsetrain.data.texts import PADDING, TextSplit
from sparsetrain.hooks import record
from sparsetrain.report import SCHEMA_PATH, canonical
from sparsetrain.representation.measures import MEASURES, all_measures, gaussian_reference
from sparsetrain.representation.survey import (
    SurveyConfig,
    against_loss,
    measurement_section,
    survey,
    trends,
    write_examples,
)

CONFIG = SurveyConfig(n_examples=40, measures=("gini", "top5", "l0"), n_bootstrap=200)


def make_split(name, level, n=40, lengths=None, seed=0):
    rng = np.random.default_rng([seed, level])
    tokens = rng.integers(61, size=(n, 20))
    lengths = np.full(n, 20) if lengths is None else np.asarray(lengths)
    tokens[np.arange(20) >= lengths[:, None]] = PADDING
    return TextSplit(
        name=name, level=level, tokens=tokens, description="", places=tuple(f"f:{i}" for i in range(n)),
        unknown_share=0.0, n_cut=0, n_short=0, n_unknown=0,
    )  # fmt: skip


@dataclass
class Known:
    """An evaluation whose numbers per example are given."""

    columns: dict[tuple[str, str, str], np.ndarray]

    def per_window(self, split, point, measure):
        return self.columns[split, point, measure]


def known(gini, loss, splits, length_effect=0.0):
    columns = {}
    for split in splits:
        rng = np.random.default_rng(split.level)
        n = len(split.tokens)
        columns[split.name, "p", "gini"] = gini(split.level, rng.normal(size=n)) + length_effect * split.lengths
        columns[split.name, "logits", "loss"] = loss(split.level, rng.normal(size=n))
        for measure in ("entropy", "logit_norm"):
            columns[split.name, "logits", measure] = rng.normal(size=n)
    return Known(columns)


def test_trends_tell_distance_from_length():
    splits = [make_split(f"s{i}", i) for i in range(3)]
    real = trends(known(lambda level, x: level + x, lambda level, x: x, splits), splits, "p", CONFIG)
    assert real["level"]["lo"] > 0.4 and real["level_controlled"]["lo"] > 0.4
    assert real["loss"]["lo"] < 0 < real["loss"]["hi"] and real["level"]["n"] == 120
    rng = np.random.default_rng(0)
    longer = [make_split(f"s{i}", i, lengths=np.clip(rng.integers(2, 8, 40) + 5 * i, 2, 20)) for i in range(3)]
    only_length = known(lambda level, x: 0.1 * x, lambda level, x: x, longer, length_effect=1.0)
    found = trends(only_length, longer, "p", CONFIG)
    assert found["level"]["lo"] > 0.5, "the naive correlation is fooled"
    assert found["level_controlled"]["lo"] < 0 < found["level_controlled"]["hi"], "the controlled one is not"
    alone, few = [make_split("s0", 0)], [make_split("s0", 0, n=4), make_split("s1", 1, n=2)]
    assert set(trends(known(lambda level, x: x, lambda level, x: x, alone), alone, "p", CONFIG)) == {"loss"}
    assert trends(known(lambda level, x: x, lambda level, x: x, few), few, "p", CONFIG) == {}


def test_groups_of_like_loss():
    split = make_split("s", 0)
    evaluation = known(lambda level, x: x, lambda level, x: x, [split])
    loss = evaluation.columns["s", "logits", "loss"]
    evaluation.columns["s", "p", "gini"] = 3 * loss
    evaluation.columns["s", "p", "gini"][5] = np.nan
    groups = against_loss(evaluation, "s", "p", CONFIG)
    assert groups["loss"] == sorted(groups["loss"]) and sum(groups["n"]) == 39 and len(groups["n"]) == 8
    np.testing.assert_allclose(groups["value"], 3 * np.array(groups["loss"]))
    assert all(lo < value < hi for lo, value, hi in zip(groups["lo"], groups["value"], groups["hi"], strict=True))
    evaluation.columns["s", "p", "gini"][:] = np.nan
    assert against_loss(evaluation, "s", "p", CONFIG)["n"] == []


def test_section_and_tables_of_a_model(make_model, tmp_path):
    model = make_model()
    splits = [make_split("near", 0, n=12), make_split("far", 1, n=12, lengths=np.arange(12) % 9 + 2)]
    evaluation = survey(model, splits, CONFIG)
    section = canonical(measurement_section(evaluation, splits, CONFIG, model))
    described = {"name": "m", "architecture": "Transformer", "n_params": 1, "n_ctx": 24, "left_out": {}}
    schema = json.loads(SCHEMA_PATH.read_text())
    jsonschema.validate(
        {"model": described, **section}, {**schema["properties"]["measurement"], "$defs": schema["$defs"]}
    )
    neuron = next(point for point in section["points"] if point["hook_point"] == "blocks.1.mlp.hook_neuron")
    assert neuron["shown"] and neuron["gaussian"]["gini"] == gaussian_reference(128, 32)["gini"]
    assert neuron["values"]["far"]["gini"]["value"] == evaluation.value("far", "blocks.1.mlp.hook_neuron", "gini")
    assert {"lifetime_kurtosis", "dead", "jaccard"} <= set(neuron["values"]["near"])
    write_examples(tmp_path / "examples.csv", evaluation, splits, CONFIG.measures)
    with (tmp_path / "examples.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["hook_point"] == "blocks.1.mlp.hook_neuron"]
    assert len(rows) == 24 and [int(row["n_tokens"]) for row in rows[12:]] == splits[1].lengths.tolist()
    for split in splits:
        mean = np.mean([float(row["gini"]) for row in rows if row["split"] == split.name])
        assert mean == pytest.approx(evaluation.value(split.name, "blocks.1.mlp.hook_neuron", "gini"), rel=1e-5)


@pytest.mark.parametrize("positions", ["strided", "last"])
def test_an_example_reads_the_same_alone_and_beside_longer_ones(make_model, positions):
    model = make_model(positions="learned")
    lengths = np.array([2, 3, 9, 20, 17, 8, 12, 2])
    split = make_split("all", 0, n=8, lengths=lengths)
    config = SurveyConfig(n_examples=8, batch_size=8, position_stride=4, positions=positions, n_bootstrap=5)
    together = survey(model, [split], config)
    point = "blocks.1.mlp.hook_neuron"
    active, n_read = torch.zeros(0, 128, dtype=torch.bool), []
    for i, length in enumerate(lengths):
        tokens = torch.as_tensor(split.tokens[i : i + 1, :length])
        at = [p for p in range(3, length - 1, 4)] if positions == "strided" else []
        at = at or [length - 2]
        logits, seen = record(model, tokens[:, :-1], [point])
        h = seen[point][0, at].detach()
        active, n_read = torch.cat([active, h != 0]), [*n_read, len(at)]
        for measure, values in all_measures(h).items():
            got = together.per_window("all", point, measure)[i]
            assert got == pytest.approx(values.mean().item(), rel=2e-4, abs=1e-6), (i, measure)
        loss = torch.nn.functional.cross_entropy(logits[0, at], tokens[0, [p + 1 for p in at]]).item()
        assert together.per_window("all", "logits", "loss")[i] == pytest.approx(loss, rel=1e-4)
    assert together.value("all", point, "dead") == pytest.approx((~active.any(0)).float().mean().item())
    assert together.value("all", point, "always_on") == pytest.approx(active.all(0).float().mean().item())
    assert len(active) == sum(n_read)


def test_settings_that_cannot_be():
    assert SurveyConfig().measures == tuple(MEASURES)
    for settings, match in (
        ({"n_examples": 0}, r"measure\.n_examples=0"),
        ({"measures": ("top5",)}, "must contain 'gini'"),
        ({"measures": ("gini", "ginni")}, "measures has unknown"),
    ):
        with pytest.raises(ValueError, match=match):
            SurveyConfig(**settings)


def test_windows_need_two_tokens_and_padding_behind(make_model):
    split = make_split("s", 0, n=4)
    for row, bad in ((slice(1, None), "at least two tokens"), (slice(0, 3), "behind its last one only")):
        split.tokens[:] = 1
        split.tokens[2, row] = PADDING
        with pytest.raises(ValueError, match=bad):
            survey(make_model(), [split], CONFIG)
