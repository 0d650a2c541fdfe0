"""Synthetic truth through the whole path: a model whose activations are planted, the tracker's evaluation, the statistics."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from fixed_split import FixedSplit
from torch import nn

from sparsetrain.hooks import HookPoint, name_hook_points_
from sparsetrain.representation.evaluate import WatchConfig, measure_splits
from sparsetrain.representation.measures import MEASURES, all_measures
from sparsetrain.representation.survey import SurveyConfig, survey
from sparsetrain.representation.trends import trends
from sparsetrain.stats.correlation import spearman
from sparsetrain.stats.decisions import DecisionRule, decide
from sparsetrain.stats.intervals import Estimate, difference

N_LEVELS, TOKENS_PER_LEVEL, WIDTH = 5, 60, 64
SPARSER = DecisionRule(claim="farther is sparser", expected="positive", margin=0.3)
CONFIG = WatchConfig(kinds=("resid", "norm"), n_windows=48, batch_size=16, position_stride=1)


class Planted(nn.Module):
    """Token v has a fixed vector |g|^power(v) with signs, times scale(v); after it the same with gains per channel."""

    def __init__(self, power, scale=1.0, gain=1.0, by_position=None):
        super().__init__()
        g = torch.randn(len(power), WIDTH, generator=torch.Generator().manual_seed(0))
        self.g, self.power, self.scale = nn.Parameter(g), torch.tensor(power).float(), torch.tensor(scale).float()
        self.gain, self.by_position = torch.tensor(gain).float(), by_position
        self.hook_resid, self.hook_norm = HookPoint("resid", WIDTH), HookPoint("norm", WIDTH)
        self.out = nn.Linear(WIDTH, len(power))
        name_hook_points_(self)

    def forward(self, tokens):
        power = self.power[tokens][..., None]
        if self.by_position is not None:
            power = power + self.by_position[: tokens.shape[1], None]
        g = self.g[tokens]
        h = self.hook_resid(g.sign() * g.abs() ** power * self.scale.expand(len(self.power))[tokens][..., None])
        gained = h * self.gain[tokens] if self.gain.ndim else h
        return self.out(self.hook_norm(gained))


def splits(n_ctx=9):
    rng = np.random.default_rng(0)
    return [
        FixedSplit(f"level_{i}", i, rng.integers(TOKENS_PER_LEVEL, size=(48, n_ctx)) + i * TOKENS_PER_LEVEL)
        for i in range(N_LEVELS)
    ]


LEVEL_OF_TOKEN = np.repeat(np.arange(N_LEVELS), TOKENS_PER_LEVEL)


def per_window(evaluation, point, measure="gini"):
    values = [evaluation.per_window(f"level_{i}", point, measure) for i in range(N_LEVELS)]
    return np.repeat(np.arange(N_LEVELS), [len(v) for v in values]), np.concatenate(values)


def verdict(evaluation, point, measure="gini"):
    levels, values = per_window(evaluation, point, measure)
    return decide(SPARSER, spearman(levels, values, seed=0)).word


@pytest.mark.parametrize("measure", ["gini", "top5", "hoyer", "kurtosis"])
def test_order_and_size_are_recovered(measure):
    model = Planted(1 + 0.1 * LEVEL_OF_TOKEN)
    evaluation = measure_splits(model, splits(), CONFIG)
    means = [evaluation.value(f"level_{i}", "hook_resid", measure) for i in range(N_LEVELS)]
    assert means == sorted(means) and verdict(evaluation, "hook_resid", measure) == "supported"
    shifted, reference = (evaluation.per_window(f"level_{i}", "hook_resid", measure) for i in (4, 0))
    got = difference(shifted, reference, seed=0)
    g = model.g.detach().double()
    true = [
        all_measures((g[level == LEVEL_OF_TOKEN].abs()) ** (1 + 0.1 * level), (measure,))[measure].mean().item()
        for level in (4, 0)
    ]
    assert got.lo < true[0] - true[1] < got.hi
    assert MEASURES[measure].direction == "higher"


def test_norm_is_no_effect():
    evaluation = measure_splits(Planted(np.ones(300), scale=1.0 + LEVEL_OF_TOKEN), splits(), CONFIG)
    assert (
        verdict(evaluation, "logits", "logit_norm") == "supported"
    )  # the naive reading: something grows with distance
    assert verdict(evaluation, "hook_resid") == "not supported"


def test_gain_is_no_effect_where_it_is_removed():
    gain = np.where(np.arange(WIDTH) < 3, 1.0 + LEVEL_OF_TOKEN[:, None], 1.0)
    evaluation = measure_splits(Planted(np.ones(300), gain=gain), splits(), CONFIG)
    assert verdict(evaluation, "hook_norm") == "supported"
    assert verdict(evaluation, "hook_resid") == "not supported"


def lengthened(by_level, n_ctx=40, seed=0):
    """Splits whose windows are as long as drawn, a few tokens more per level; tokens themselves do not differ in kind."""
    rng = np.random.default_rng(seed)
    found = []
    for split in splits(n_ctx):
        lengths = np.clip(9 + by_level * split.level + rng.integers(0, 12, len(split.tokens)), 2, n_ctx)
        tokens = np.where(np.arange(n_ctx) < lengths[:, None], split.tokens, -1)
        found.append(FixedSplit(split.name, split.level, tokens))
    return found


def test_length_is_no_effect_at_matched_positions_nor_given_length():
    # Later positions are sparser, farther splits longer; a window's mean goes with its length.
    model = Planted(np.ones(300), by_position=torch.linspace(0, 1, 40))
    shifted = lengthened(by_level=4)
    naive = measure_splits(model, shifted, CONFIG)
    assert verdict(naive, "hook_resid") == "supported"
    matched = measure_splits(model, shifted, replace(CONFIG, positions="matched"))
    assert verdict(matched, "hook_resid") == "not supported"
    levels, values = per_window(naive, "hook_resid")
    lengths = np.concatenate([(split.tokens >= 0).sum(1) for split in shifted])
    given = spearman(levels, values, given=[lengths], seed=0)
    assert decide(SPARSER, given).word == "not supported"
    # Lengths that are the level cannot be told from it, and that is said.
    same = spearman(levels, values, given=[9 + 7 * levels], seed=0)
    assert np.isnan(same.value) and decide(SPARSER, same).word == "undecided"


def test_position_is_no_effect_at_matched_positions():
    # Read at the last token, which stands later where windows are longer.
    model = Planted(np.ones(300), by_position=torch.linspace(0, 2, 40))
    shifted = lengthened(by_level=5, seed=1)
    last = measure_splits(model, shifted, replace(CONFIG, positions="last"))
    assert verdict(last, "hook_resid") == "supported"
    levels, values = per_window(last, "hook_resid")
    positions = np.concatenate([(split.tokens >= 0).sum(1) - 2 for split in shifted])
    given = spearman(levels, values, given=[positions], seed=0)
    assert decide(SPARSER, given).word == "not supported"
    matched = measure_splits(model, shifted, replace(CONFIG, positions="matched", position_stride=8))
    assert verdict(matched, "hook_resid") == "not supported"


SURVEY = SurveyConfig(
    n_examples=48, batch_size=16, kinds=("resid", "norm"), position_stride=1, controls=("rotated", "trimmed"),
    measures=("gini",), n_bootstrap=300,
)  # fmt: skip


def surveyed(model, shifted, point, config=SURVEY):
    """The correlations that the report shows for a hook point, each with the word for it."""
    found = survey(model, shifted, config)
    numbers = trends(found, point)
    return {
        key: decide(
            SPARSER,
            Estimate(
                value=x.value,
                lo=np.nan if x.lo is None else x.lo,
                hi=np.nan if x.hi is None else x.hi,
                n=x.n,
                method="",
            ),
        ).word
        for key, x in numbers.items()
    }


def test_the_page_says_supported_where_there_is_an_effect_and_not_where_length_alone_differs():
    real = surveyed(Planted(1 + 0.1 * LEVEL_OF_TOKEN), lengthened(by_level=0), "hook_resid")
    assert real["level"] == real["level_controlled"] == real["level_trimmed"] == "supported"
    assert real["level_rotated"] != "supported", "what was planted is a matter of single channels"
    model = Planted(np.ones(300), by_position=torch.linspace(0, 1, 40))
    length = surveyed(model, lengthened(by_level=4), "hook_resid")
    assert (length["level"], length["level_controlled"]) == ("supported", "not supported")
    matched = surveyed(model, lengthened(by_level=4), "hook_resid", replace(SURVEY, positions="matched"))
    assert matched["level"] == "not supported"


def test_a_few_loud_channels_are_no_effect_without_them():
    # One channel of 64 grows with distance: a gain, or an outlier; the others are Gaussian everywhere.
    gain = np.where(np.arange(WIDTH) < 1, 2.0 + 3 * LEVEL_OF_TOKEN[:, None], 1.0)
    words = surveyed(Planted(np.ones(300), gain=gain), splits(), "hook_norm")
    assert (words["level"], words["level_trimmed"]) == ("supported", "not supported")
