"""Planted truths: response surfaces and a model made by hand, where it is known whether sparsification is adaptive."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sparsetrain.data.worlds.knowledge_graph import GraphConfig
from sparsetrain.hooks import HookPoint, name_hook_points_
from sparsetrain.model import ModelConfig
from sparsetrain.run import RunConfig
from sparsetrain.studies.adaptive import SIDES, AdaptiveConfig, AdaptiveStudy, PlaceReadings, measure_surface
from sparsetrain.studies.engine import Arm, StudyRules, conclude
from sparsetrain.studies.surfaces import level_grid

N = 60
PLACE = "final norm"
STUDY = AdaptiveStudy(
    config=RunConfig(model=ModelConfig(n_layer=1, d_model=128)),
    rules=StudyRules(arms={"only": Arm()}),
    adaptive=AdaptiveConfig(arms=("only",), n_bootstrap=100),
    graph=GraphConfig(n_eval=N),
)
LEVELS = level_grid(128, 2)


def planted(
    seed: int, *, best: tuple[float, float], natural: tuple[float, float], cost: float = 0.0, height: tuple[float, float] = (0.95, 0.95)
) -> dict[str, np.ndarray]:  # fmt: skip
    """Accuracy falls by .1 for every octave away from log2 k = `best` (ID, shifted); items differ by noise.

    `cost` is what the operation of holding takes away, whatever the density.
    """
    rng = np.random.default_rng(seed)
    octaves = np.log2(LEVELS)
    centre, own, top = (np.repeat([x[0], x[1], x[1]], N) for x in (best, natural, height))
    luck = rng.random(3 * N)

    def accuracy(log2_k: np.ndarray | float) -> np.ndarray:
        return top - 0.1 * abs(log2_k - centre)

    surface_correct = np.stack([(luck < accuracy(x)).astype(float) for x in octaves])
    surface_loss = np.stack([2 - accuracy(x) for x in octaves]) + 0.02 * rng.standard_normal(surface_correct.shape)
    flat = np.tile((luck < top).astype(float), (len(LEVELS), 1))
    targets = {"id": natural[0], "shifted": natural[1]}
    held = {t: (luck < accuracy(k) - cost).astype(float) for t, k in targets.items()}
    untouched = (luck < accuracy(own)).astype(float)
    end, init = f"end|{PLACE}", f"init|{PLACE}"
    return {
        f"levels|{PLACE}": LEVELS,
        **{f"correct|{end}|largest": surface_correct, f"correct|{end}|random": flat, f"correct|{init}|largest": flat},
        **{f"loss|{end}|largest": surface_loss, f"loss|{end}|random": 2 - flat, f"loss|{init}|largest": 2 - flat},
        f"natural|{end}": own + 0.1 * rng.standard_normal(3 * N),
        f"natural|{init}": 5 + 0.1 * rng.standard_normal(3 * N),
        **{
            f"held_correct|{when}|{by}|{t}": held[t] if when == end else flat[0]
            for when in (init, end)
            for by in ("topk", "temperature")
            for t in targets
        },
        **{f"held_loss|{end}|topk|{t}": 2 - accuracy(k) for t, k in targets.items()},
        **{f"covariates|{name}": rng.random(3 * N) for name in ("loss", "entropy", "logit_norm")},
        "covariates|correct": untouched,
    }


def effects(seed: int, **settings) -> dict[str, float]:
    return STUDY.effects(PlaceReadings(arrays=planted(seed, **settings), place=PLACE, n_eval=N, n_bootstrap=100))


def words(**settings) -> dict[str, str]:
    found: dict[str, list[float]] = {}
    for subject in STUDY.subjects:
        for seed in range(5):
            for key, value in effects(seed, **settings).items():
                found.setdefault(f"{subject.key}: {key}", []).append(value)
    gates = {"recall": [1.0] * 5, "shifted": [1.0] * 5}
    section = conclude(STUDY.plan(), STUDY.claims(), gates=gates, effects=found)
    prefix = f"only, {PLACE}: "
    claims = {c.key.removeprefix(prefix): c.verdict for c in section.claims if c.key.startswith(prefix)}
    return claims | {v.name: v.verdict for v in section.verdicts}


def test_numbers_are_those_planted():
    found = effects(0, best=(6.0, 3.0), natural=(6.0, 3.0))
    want = {"natural": 3.0, "best k": 3.0, "enough k": 3.0, "best k, loss": 3.0, "held, loss": 0.3, "natural at init": 0.0, "held at init": 0.0, "random best k": 0.0}  # fmt: skip
    for key, value in want.items():
        assert found[key] == pytest.approx(value, abs=0.25), key
    for key in ("held", "held, temperature", "converse", "gain"):
        assert found[key] == pytest.approx(0.3, abs=0.12), key
    assert found["per item"] > 0.75  # three levels, of which two share their best k


def test_adaptation_that_is_planted_is_found():
    found = words(best=(6.0, 3.0), natural=(6.0, 3.0), cost=0.05)
    assert found[f"adaptive, {PLACE}"] == found["gain"] == found["converse"] == "supported"
    assert found["natural at init"] == found["held at init"] == found["random best k"] == "supported"


def test_sparser_input_that_does_best_at_the_same_k_is_no_adaptation():
    """Shifted input is naturally sparser, and holding it at ID's density even helps: the naive reading of sparsity misleads."""
    found = words(best=(6.0, 6.0), natural=(6.0, 3.0))
    assert found["natural"] == "supported"
    assert found["best k"] == found["held"] == found["gain"] == "not supported"
    assert found[f"adaptive, {PLACE}"] == "not supported"


def test_lower_accuracy_alone_moves_no_best_k():
    found = words(best=(5.0, 5.0), natural=(5.0, 5.0), height=(0.95, 0.5))
    assert found["held"] == found["held, temperature"] == "not supported"
    assert found[f"adaptive, {PLACE}"] == "not supported"


def test_the_cost_of_the_operation_is_no_cost_of_density():
    found = words(best=(6.0, 6.0), natural=(5.0, 5.0), cost=0.3)
    assert found["held"] == found["converse"] == "not supported"


def test_the_opposite_is_refused():
    found = words(best=(3.0, 6.0), natural=(3.0, 6.0))
    assert found["best k"] == "not supported" and found[f"adaptive, {PLACE}"] == "not supported"


class Planted(nn.Module):
    """16 channels; row i of the table is what the last token of a prompt writes. The answer is 0 if the channels sum above 0, else 1."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(table)
        self.hook = HookPoint("norm", table.shape[1])
        name_hook_points_(self)

    def forward(self, tokens: Tensor) -> Tensor:
        total = self.hook(self.table(tokens)).sum(-1)
        return torch.stack([total, -total], -1)


def test_a_model_where_the_answer_is_known():
    """Shifted items use 11 channels and are right up to there; with the 12 of training items, or all, they are wrong.

    Of training items four strong and eight weak channels speak for the answer; of shifted ones the four are stronger
    and the eight speak against it. Sum of the largest k: 6 - .8 (k - 4), above 0 up to k = 11.
    """
    n_eval = 5
    strong = torch.cat([torch.full((4,), 1.0), torch.zeros(12)])
    weak = torch.cat([torch.zeros(4), torch.full((8,), 0.8), torch.zeros(4)])
    table = torch.stack([strong + weak] * n_eval + [1.5 * strong - weak] * (2 * n_eval))
    prompts = torch.stack([torch.arange(3 * n_eval), torch.zeros(3 * n_eval, dtype=torch.int64)], dim=1)
    found = measure_surface(
        Planted(table),
        prompts,
        torch.tensor([[0, 1]]).expand(3 * n_eval, 2),
        {PLACE: ("hook",)},
        AdaptiveConfig(levels_per_octave=1, energy=0.95),
        seed=0,
    )
    known, shifted = slice(n_eval), slice(n_eval, None)
    # 95% of 4 + 8 * .64 = 9.12 takes 4 + 8 channels; 95% of 9 + 8 * .64 = 14.12 takes 4 + 7.
    natural = 2 ** found[f"natural|end|{PLACE}"]
    assert natural[known] == pytest.approx(12) and natural[shifted] == pytest.approx(11)
    correct = found[f"correct|end|{PLACE}|largest"]
    assert (correct[:, known] == 1).all()
    assert (correct[:4, shifted] == 1).all() and (correct[4, shifted] == 0).all()  # k = 1, 2, 4, 8 and 16
    held = {target: found[f"held_correct|end|{PLACE}|topk|{target}"] for target in SIDES}
    assert (held["id"][known] == 1).all() and (held["shifted"][known] == 1).all()
    assert (held["shifted"][shifted] == 1).all() and (held["id"][shifted] == 0).all()
    logits = 2 * (6 - 0.8 * 7)
    want = np.log1p(np.exp(-logits))
    assert found[f"held_loss|end|{PLACE}|topk|shifted"][shifted] == pytest.approx(want, abs=1e-5)
    assert (found[f"held_loss|end|{PLACE}|topk|id"][shifted] > 1).all()
