"""Planted answers of a pretrained model: both sides answered as the number of channels is set by hand, where it is known whether that adapts."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparsetrain.data.probes.adaptive_sets import LEVELS
from sparsetrain.hooks import HookPoint, name_hook_points_
from sparsetrain.representation.active import Prompts, keep_largest
from sparsetrain.representation.items import Item
from sparsetrain.run import RunConfig
from sparsetrain.stats.decisions import decide
from sparsetrain.studies.adaptive_real import AdaptiveRealConfig, AdaptiveRealStudy, read_untouched
from sparsetrain.studies.engine import StudyRules, conclude
from sparsetrain.studies.frozen import FrozenConfig
from sparsetrain.studies.sides import SideReadings
from sparsetrain.studies.study import Subject
from sparsetrain.studies.surfaces import level_grid

N = 150
PLACE, POINT = "final norm", "final_norm.hook_norm"
SUBJECTS = (Subject(arm="planted", place=PLACE),)
LEVELS_TRIED = tuple(level_grid(512, 1).astype(int).tolist())
TRIED = {"largest": LEVELS_TRIED, "random": LEVELS_TRIED[::-1][::2][::-1]}


class PlantedStudy(AdaptiveRealStudy):
    """The study with one place of one set, whose answers are made by hand."""

    @property
    def arms(self) -> tuple[str, ...]:
        return ("planted",)

    @property
    def subjects(self) -> tuple[Subject, ...]:
        return SUBJECTS

    def method(self) -> tuple[str, ...]:
        return ()


STUDY = PlantedStudy(
    config=RunConfig(),
    rules=StudyRules(),
    frozen=FrozenConfig(model="hf:planted", n_bootstrap=400),
    adaptive=AdaptiveRealConfig(),
)


def planted(
    seed: int = 0, *, best: tuple[float, float], natural: tuple[float, float], cost: float = 0.0, height: tuple[float, float] = (0.95, 0.95), slope: float = 0.1, fickle: float = 0.0, n: int = N
) -> SideReadings:  # fmt: skip
    """Accuracy falls by `slope` for every octave away from log2 k = `best` (familiar, shifted); items differ by luck.

    `cost` is what the operation of holding takes away, whatever the density; `fickle` the share of items whose luck is another one each time.
    """
    rng = np.random.default_rng(seed)
    centre, own, top = (np.repeat(x, n) for x in (best, natural, height))
    luck = rng.random(2 * n)

    def accuracy(log2_k: float) -> np.ndarray:
        return top - slope * abs(log2_k - centre)

    def answers(name: str, expected: np.ndarray) -> dict[str, np.ndarray]:
        own_luck = np.where(rng.random(2 * n) < fickle, rng.random(2 * n), luck)
        return {
            f"correct{name}": (own_luck < expected).astype(float),
            f"loss{name}": 2 - expected + 0.02 * rng.standard_normal(2 * n),
        }

    used = own + 0.1 * rng.standard_normal(2 * n)
    arrays = {f"{name}|{POINT}": used for name in ("active", "first", "spread")} | answers("", accuracy(9.0))
    for k in LEVELS_TRIED[:-1]:
        arrays |= answers(f"|{PLACE}|largest|{k}", accuracy(np.log2(k)))
        arrays |= {f"{outcome}|{PLACE}|random|{k}": arrays[outcome] for outcome in ("correct", "loss")}
    for by in ("topk", "temperature"):
        for target, log2_k in zip(LEVELS, natural, strict=True):
            arrays |= answers(f"|{PLACE}|{by}|{target}", accuracy(log2_k) - cost)
    return SideReadings(
        arrays=arrays,
        is_shifted=np.repeat([False, True], n),
        place=PLACE,
        points=(POINT,),
        tried=TRIED,
        n_bootstrap=400,
        confidence=0.95,
    )


@cache
def words(**settings) -> dict[str, str]:
    r = planted(**settings)
    found = {f"{SUBJECTS[0].key}: {key}": [value] for key, value in STUDY.effects(r).items()}
    gates = {gate.key: [value(r)] for gate, value in STUDY.gates()}
    section = conclude(STUDY.plan(), STUDY.claims(), gates=gates, effects=found)
    claims = {c.key.removeprefix(f"{SUBJECTS[0].key}: "): c.verdict for c in section.claims}
    return claims | {v.name.removesuffix(f", {PLACE}"): v.verdict for v in section.verdicts}


def test_numbers_are_those_planted() -> None:
    found = STUDY.effects(planted(best=(6.0, 3.0), natural=(6.0, 3.0)))
    want = {"natural": 3.0, "natural, first token": 3.0, "best k": 3.0, "enough k": 3.0, "best k, loss": 3.0, "held, loss": 0.3}  # fmt: skip
    for key, value in want.items():
        assert found[key].value == pytest.approx(value, abs=0.6 if key == "enough k" else 0.3), key
    for key in ("held", "held, temperature", "converse", "gain"):
        assert found[key].value == pytest.approx(0.3, abs=0.12), key
    assert all(estimate.n == N for estimate in found.values())
    assert all(estimate.lo <= estimate.value <= estimate.hi for estimate in found.values())


def test_adaptation_that_is_planted_is_found() -> None:
    found = words(best=(6.0, 3.0), natural=(6.0, 3.0), cost=0.05)
    assert found["adaptive"] == found["naive: adaptive"] == "supported"
    assert found["gain"] == found["converse"] == found["random best k"] == "supported"


def test_sparser_input_that_does_best_at_the_same_k_is_no_adaptation() -> None:
    """Shifted input is naturally sparser, and holding it at the density of familiar input even helps: the naive line misleads."""
    found = words(best=(6.0, 6.0), natural=(6.0, 3.0))
    assert found["naive: adaptive"] == "supported"
    assert found["best k"] == found["held"] == found["gain"] == found["adaptive"] == "not supported"


def test_lower_accuracy_alone_moves_no_best_k() -> None:
    found = words(best=(5.0, 5.0), natural=(5.0, 5.0), height=(0.95, 0.7))
    assert found["held"] == found["held, temperature"] == found["adaptive"] == "not supported"


def test_the_cost_of_the_operation_is_no_cost_of_density() -> None:
    found = words(best=(6.0, 6.0), natural=(5.0, 5.0), cost=0.3)
    assert found["held"] == found["converse"] == found["adaptive"] == "not supported"


def test_the_opposite_is_refused() -> None:
    found = words(best=(3.0, 6.0), natural=(3.0, 6.0))
    assert found["best k"] == found["adaptive"] == found["naive: adaptive"] == "not supported"


def test_a_side_that_is_hardly_answered_decides_nothing() -> None:
    found = words(best=(6.0, 3.0), natural=(6.0, 3.0), height=(0.95, 0.6))  # .6 - .6 with all channels
    assert found["best k"] == "supported" and found["adaptive"] == found["naive: adaptive"] == "undecided"
    few = words(best=(6.0, 3.0), natural=(6.0, 3.0), n=40)
    assert few["adaptive"] == "undecided"


@pytest.mark.parametrize("slope", [0.0, 0.05])
def test_noise_is_seldom_called_adaptive(slope: float) -> None:
    """Both sides do as well with as many channels: a flat curve has its highest point anywhere."""
    rules = {claim.key.partition(": ")[2]: claim.rule for claim in STUDY.claims()}
    needed = [hypothesis for hypothesis in STUDY.hypotheses if hypothesis.key in STUDY.rulings[0].needs]
    called = 0
    for seed in range(30):
        r = planted(seed, best=(6.0, 6.0), natural=(6.0, 4.0), slope=slope, height=(0.8, 0.5), fickle=0.3)
        called += all(decide(rules[one.key], one.effect(r)).word == "supported" for one in needed)
    assert called <= 1


class Misled(nn.Module):
    """16 channels; row i of the table is what token i writes. The answer is 0 if the channels sum above 0, else 1."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(table)
        self.hook = HookPoint("norm", table.shape[1])
        name_hook_points_(self)

    def forward(self, tokens: Tensor) -> Tensor:
        total = self.hook(self.table(tokens)).sum(-1)
        return torch.stack([total, -total], -1)


def test_a_model_in_which_the_twelfth_channel_misleads_shifted_input() -> None:
    """Answers of two tokens, 0 and 0; see `test_adaptive.test_a_model_where_the_answer_is_known` for the vectors.

    At the second position stands token 0, whose vector speaks for 0 whatever is kept: one channel alone.
    """
    strong = torch.cat([torch.full((4,), 1.0), torch.zeros(12)])
    weak = torch.cat([torch.zeros(4), torch.full((8,), 0.8), torch.zeros(4)])
    table = torch.stack([torch.eye(16)[15], strong + weak, 1.5 * strong - weak])
    familiar, shifted = (Item(tokens=(2, 2, first, 0, 0), n_answer=2) for first in (1, 2))
    prompts = Prompts(Misled(table), [familiar, familiar, shifted])
    found = read_untouched(prompts, ("hook",), 0.95)
    assert found["correct"].tolist() == [1, 1, 0]
    assert 2 ** found["first|hook"] == pytest.approx([12, 12, 11])
    assert found["active|hook"] == pytest.approx(found["first|hook"] / 2)  # and one channel at the second token
    correct = {k: prompts.answer({"hook": keep_largest(k)}).correct.tolist() for k in (1, 4, 8, 11, 12, 16)}
    assert all(correct[k] == [1, 1, 1] for k in (1, 4, 8, 11)) and all(correct[k] == [1, 1, 0] for k in (12, 16))
