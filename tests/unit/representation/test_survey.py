"""A survey's statements: correlations, controls, groups of like loss, the section's form, the table of examples."""

import csv
from dataclasses import dataclass, replace
from math import log

import numpy as np
import pytest
import torch

from sparsetrain.data.texts import PADDING, TextSplit
from sparsetrain.hooks import record
from sparsetrain.representation.controls import random_rotation
from sparsetrain.representation.measures import MEASURES, all_measures, gaussian_reference, gini
from sparsetrain.representation.section import RepresentationSection, SeedsEntry
from sparsetrain.representation.survey import CONTROLS, Survey, SurveyConfig, survey, write_examples
from sparsetrain.representation.trends import (
    against_loss,
    compare_seeds,
    differences,
    split_bits,
    survey_section,
    trends,
)
from sparsetrain.typed import from_dict, plain

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


def known(gini, loss, splits, length_effect=0.0, config=CONFIG):
    """A survey whose numbers per example are given."""
    columns = {}
    for split in splits:
        rng = np.random.default_rng(split.level)
        n = len(split.tokens)
        columns[split.name, "p", "gini"] = gini(split.level, rng.normal(size=n)) + length_effect * split.lengths
        columns[split.name, "logits", "loss"] = loss(split.level, rng.normal(size=n))
        for measure in ("entropy", "logit_norm"):
            columns[split.name, "logits", measure] = rng.normal(size=n)
    return Survey(config=config, splits=tuple(splits), plain=Known(columns), controls={})


def test_loss_of_a_split_per_character_by_hand():
    config = replace(CONFIG, position_stride=4)
    split = make_split("s", 0, n=2, lengths=[20, 9])
    measured = known(lambda level, x: x, lambda level, x: np.array([2.0, 4.0]) * log(2), [split], config=config)
    characters = np.tile(np.arange(20), (3, 1))  # a row more than examples were measured
    # Positions 3, 7, 11, 15 predict tokens 4, 8, 12, 16 of the first; 3 and 7 predict tokens 4 and 8 of the second.
    bits = split_bits(measured, split, characters)
    assert bits.value == pytest.approx((2 + 4) / (10 + 6)) and bits.unit == "bits/char" and bits.n == 2
    assert bits.lo == pytest.approx(2 / 10) and bits.hi == pytest.approx(4 / 6)


def test_trends_tell_distance_from_length():
    splits = [make_split(f"s{i}", i) for i in range(3)]
    real = trends(known(lambda level, x: level + x, lambda level, x: x, splits), "p")
    assert real["level"].lo > 0.4 and real["level_controlled"].lo > 0.4
    assert real["loss"].lo < 0 < real["loss"].hi and real["level"].n == 120
    rng = np.random.default_rng(0)
    longer = [make_split(f"s{i}", i, lengths=np.clip(rng.integers(2, 8, 40) + 5 * i, 2, 20)) for i in range(3)]
    only_length = known(lambda level, x: 0.1 * x, lambda level, x: x, longer, length_effect=1.0)
    found = trends(only_length, "p")
    assert found["level"].lo > 0.5, "the naive correlation is fooled"
    assert found["level_controlled"].lo < 0 < found["level_controlled"].hi, "the controlled one is not"
    alone, few = [make_split("s0", 0)], [make_split("s0", 0, n=4), make_split("s1", 1, n=2)]
    assert set(trends(known(lambda level, x: x, lambda level, x: x, alone), "p")) == {"loss"}
    assert trends(known(lambda level, x: x, lambda level, x: x, few), "p") == {}


def test_groups_of_like_loss():
    split = make_split("s", 0)
    evaluation = known(lambda level, x: x, lambda level, x: x, [split])
    loss = evaluation.plain.columns["s", "logits", "loss"]
    evaluation.plain.columns["s", "p", "gini"] = 3 * loss
    evaluation.plain.columns["s", "p", "gini"][5] = np.nan
    groups = against_loss(evaluation, "s", "p")
    assert list(groups.loss) == sorted(groups.loss) and sum(groups.n) == 39 and len(groups.n) == 8
    np.testing.assert_allclose(groups.value, 3 * np.array(groups.loss))
    assert all(lo < value < hi for lo, value, hi in zip(groups.lo, groups.value, groups.hi, strict=True))
    evaluation.plain.columns["s", "p", "gini"][:] = np.nan
    assert against_loss(evaluation, "s", "p").n == ()


def test_differences_from_the_first_split():
    splits = [make_split(f"s{i}", i) for i in range(3)]
    evaluation = known(lambda level, x: level / 10 + 0.05 * x, lambda level, x: x, splits)
    evaluation.plain.columns["s2", "p", "gini"][:39] = np.nan
    found = differences(evaluation, "p")
    a, b = (evaluation.plain.columns[name, "p", "gini"] for name in ("s1", "s0"))
    assert set(found) == {"s1"}, "one example has no mean to compare"
    assert found["s1"].value == pytest.approx(a.mean() - b.mean()) and 0 < found["s1"].lo < found["s1"].hi


def test_the_other_readings_of_the_level():
    splits = [make_split(f"s{i}", i) for i in range(4)]
    weak = known(lambda level, x: 0.3 * level + 2 * x, lambda level, x: x, splits)
    found = trends(weak, "p")
    assert found["level_means"].n == 4 and found["level_means"].value > 2 * found["level"].value > 0
    assert found["shuffled"].value <= 0.05
    nothing = known(lambda level, x: x, lambda level, x: x, splits)
    assert trends(nothing, "p")["shuffled"].value > 0.05
    bare = SurveyConfig(n_examples=40, controls=(), covariates=(), n_bootstrap=20)
    assert set(trends(replace(weak, config=bare), "p")) == {"level", "loss"}
    given_length = SurveyConfig(n_examples=40, controls=(), covariates=("length",), n_bootstrap=20)
    same = trends(replace(weak, config=given_length), "p")
    assert same["level_controlled"].value == pytest.approx(same["level"].value), "all lengths are equal"


def test_section_and_tables_of_a_model(make_model, tmp_path):
    model = make_model()
    splits = [make_split("near", 0, n=12), make_split("far", 1, n=12, lengths=np.arange(12) % 9 + 2)]
    measured = survey(model, splits, CONFIG, initial=lambda: make_model(seed=1))
    section = plain(survey_section(measured, model))
    assert plain(from_dict(RepresentationSection, section)) == section
    neuron = next(point for point in section["points"] if point["hook_point"] == "blocks.1.mlp.hook_neuron")
    assert neuron["shown"] and neuron["gaussian"]["gini"] == gaussian_reference(128, 32)["gini"]
    assert neuron["values"]["far"]["gini"]["value"] == measured.plain.value("far", "blocks.1.mlp.hook_neuron", "gini")
    assert {"lifetime_kurtosis", "dead", "jaccard"} <= set(neuron["values"]["near"])
    assert set(neuron["controls"]) == {"rotated", "trimmed", "initialisation"}
    assert {"level_rotated", "level_trimmed", "level_initialisation", "shuffled"} <= set(neuron["trends"])
    assert "level_means" not in neuron["trends"], "two splits have no such correlation"
    norm = next(point for point in section["points"] if point["hook_point"] == "final_norm.hook_norm")
    assert norm["controls"]["gain"]["far"]["value"] == measured.controls["gain"].value(
        "far", "final_norm.hook_norm", "gini"
    )
    write_examples(tmp_path / "examples.csv", measured, {s.name: s.places for s in splits})
    with (tmp_path / "examples.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["hook_point"] == "blocks.1.mlp.hook_neuron"]
    assert len(rows) == 24 and [int(row["n_tokens"]) for row in rows[12:]] == splits[1].lengths.tolist()
    assert {row["gini_gain"] for row in rows} == {""} and "" not in {row["gini_rotated"] for row in rows}
    for split in splits:
        mean = np.mean([float(row["gini"]) for row in rows if row["split"] == split.name])
        assert mean == pytest.approx(measured.plain.value(split.name, "blocks.1.mlp.hook_neuron", "gini"), rel=1e-5)


def test_controls_are_the_measures_of_what_they_say(make_model):
    model = make_model(seed=3)
    splits = [make_split("near", 0, n=6), make_split("far", 1, n=6)]
    config = SurveyConfig(n_examples=6, position_stride=1, n_bootstrap=5, seed=7)
    measured = survey(model, splits, config, initial=lambda: make_model(seed=4))
    assert config.n_passes == 3 and set(measured.controls) == {"gain", "rotated", "trimmed", "initialisation"}
    point = "blocks.1.mlp.norm.hook_norm"
    tokens = {split.name: torch.as_tensor(split.tokens) for split in splits}
    with torch.no_grad():
        h = {name: record(model, t[:, :-1], [point])[1][point] for name, t in tokens.items()}
        fresh = {name: record(make_model(seed=4), t[:, :-1], [point])[1][point] for name, t in tokens.items()}
    together = torch.cat([x.flatten(0, 1) for x in h.values()])
    loudest = int(together.square().sum(0).argmax())
    want = {
        "gain": lambda x, y: x * model.blocks[1].mlp.norm.gain.detach(),
        "rotated": lambda x, y: x @ random_rotation(32, 7),
        "trimmed": lambda x, y: x[..., [i for i in range(32) if i != loudest]],
        "initialisation": lambda x, y: y,
    }
    for control, look in want.items():
        for name in h:
            got = measured.controls[control].per_window(name, point, "gini")
            np.testing.assert_allclose(got, gini(look(h[name], fresh[name])).mean(1), rtol=1e-4, err_msg=control)
    np.testing.assert_allclose(measured.plain.energy[point], together.square().sum(0), rtol=1e-4)
    assert ("blocks.1.mlp.hook_neuron", "gini") not in measured.controls["gain"].series, "a gain belongs to a norm"
    without = survey(model, splits, SurveyConfig(n_examples=6, n_bootstrap=5, controls=("shuffled",)))
    assert not without.controls and SurveyConfig(controls=("shuffled",)).n_passes == 1


def test_seeds_side_by_side(make_model):
    splits = [make_split(f"s{i}", i, n=8) for i in range(3)]
    config = SurveyConfig(n_examples=8, points=("final_norm.hook_norm",), controls=(), n_bootstrap=20)
    models = [make_model(seed=seed) for seed in range(3)]
    sections = [survey_section(survey(m, splits, config), m) for m in models]
    found = plain(compare_seeds(["a", "b", "c"], sections, 0.95))
    assert plain(from_dict(SeedsEntry, found)) == found
    each = [section.points[0].trends["level"].value for section in sections]
    level = found["points"][0]["level"]
    assert level["each"] == each and level["over"]["value"] == pytest.approx(np.mean(each)) and level["over"]["n"] == 3
    assert level["over"]["lo"] < level["over"]["value"] < level["over"]["hi"]
    assert level["n_positive"] == sum(x > 0 for x in each)
    other = SurveyConfig(n_examples=8, points=("final_norm.hook_resid",), controls=(), n_bootstrap=20)
    sections[1] = survey_section(survey(models[1], splits, other), models[1])
    with pytest.raises(ValueError, match=r"seeds: b has no hook point final_norm\.hook_norm"):
        compare_seeds(["a", "b", "c"], sections, 0.95)


@pytest.mark.parametrize("positions", ["strided", "last", "all", "matched"])
def test_an_example_reads_the_same_alone_and_beside_longer_ones(make_model, positions):
    model = make_model(positions="learned")
    lengths = np.array([2, 3, 9, 20, 17, 8, 12, 2])
    split = make_split("all", 0, n=8, lengths=lengths)
    config = SurveyConfig(
        n_examples=8, batch_size=8, position_stride=4, positions=positions, n_bootstrap=5, controls=()
    )
    if positions == "matched":
        lengths[[0, 1, 7]] = (10, 11, 12)
        split.tokens[:] = make_split("all", 0, n=8, lengths=lengths).tokens
    together = survey(model, [split], config).plain
    point = "blocks.1.mlp.hook_neuron"
    active, n_read = torch.zeros(0, 128, dtype=torch.bool), []
    for i, length in enumerate(lengths):
        tokens = torch.as_tensor(split.tokens[i : i + 1, :length])
        at = {
            "strided": list(range(3, length - 1, 4)),
            "all": list(range(length - 1)),
            "last": [],
            "matched": list(range(3, min(lengths) - 1, 4)),
        }[positions] or [length - 2]
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
        ({"n_examples": 0}, "n_examples=0: input should be greater than or equal to 1"),
        ({"controls": ("rotate",)}, r"controls\.0='rotate': input should be 'gain', 'rotated'"),
        ({"covariates": ("losses",)}, r"covariates\.0='losses': input should be 'loss'"),
        ({"positions": "first"}, "positions='first': input should be 'strided', 'all', 'last' or 'matched'"),
        ({"measures": ("top5",)}, "must contain 'gini'"),
        ({"measures": ("gini", "ginni")}, "measures has unknown"),
    ):
        with pytest.raises(ValueError, match=match):
            from_dict(SurveyConfig, settings)


def test_a_control_that_nobody_can_give_is_refused(make_model):
    with pytest.raises(ValueError, match="no model at initialisation; leave it out"):
        survey(make_model(), [make_split("s", 0, n=4)], SurveyConfig(controls=CONTROLS))


def test_windows_need_two_tokens_and_padding_behind(make_model):
    split = make_split("s", 0, n=4)
    for row, bad in ((slice(1, None), "at least two tokens"), (slice(0, 3), "behind its last one only")):
        split.tokens[:] = 1
        split.tokens[2, row] = PADDING
        with pytest.raises(ValueError, match=bad):
            survey(make_model(), [split], CONFIG, initial=make_model)
