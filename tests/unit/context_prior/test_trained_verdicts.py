"""Verdicts of planted models: effects that are there are found, nulls are not, and a model that cannot read or cannot remember decides nothing."""

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from circuits.context_prior.readings import (
    AGREEING,
    KEPT,
    NO_CONTEXT,
    NO_HARM,
    RANDOM,
    RESTORED,
    STATED,
    TrainedReadings,
)
from circuits.context_prior.trained import RECALL_ARM, SPARSE, ConflictStudyConfig, TrainedConflictStudy
from circuits.context_prior.trained_tables import half_points
from circuits.prior.prompts import SATURATION
from sparsetrain.run import RunConfig
from sparsetrain.stats.number import number
from sparsetrain.studies.engine import StudyRules
from sparsetrain.studies.study import Subject

LEVELS = (0, 4, 64, 1024)
EACH = 60


@dataclass(frozen=True)
class Planted:
    """P(context) at each level under every prompt; of the rest one number."""

    stated: tuple[float, ...] = (0.99, 0.9, 0.6, 0.2)
    prompt: tuple[float, ...] = (0.99, 0.95, 0.8, 0.5)
    intervention: tuple[float, ...] = (0.99, 0.98, 0.95, 0.9)
    random: tuple[float, ...] = (0.99, 0.9, 0.6, 0.25)
    four: float = 0.5
    eight: float = 0.5
    harm: float = 0.02
    recall: float = 1.0
    sparser: float = 0.0
    recall_arm: float = 0.5
    n_circuit: int = 100
    loss: float = 0.1


def reading(p: Planted, seed: int) -> TrainedReadings:
    rng, n = np.random.default_rng(seed), np.repeat(LEVELS, EACH)

    def noisy(by_level: tuple[float, ...]) -> Any:
        return np.clip(np.repeat(by_level, EACH) + rng.normal(0, 0.05, len(n)) + rng.normal(0, 0.005), 0, 1)

    def flat(value: float) -> tuple[float, ...]:
        return (value,) * len(LEVELS)

    wanted = {
        STATED: p.stated,
        "repeat": p.prompt,
        "dual run": p.intervention,
        f"dual run{RANDOM}": p.random,
        SATURATION[0]: flat(p.four),
        SATURATION[1]: flat(p.eight),
        RECALL_ARM: flat(p.recall_arm),
        "activation patching": flat(0.1),
        "far": p.stated,
    }
    wanted[NO_HARM["prompt"]] = p.prompt
    if p.harm <= 0.1:
        wanted[NO_HARM["intervention"]] = p.intervention
    arrays: dict[str, Any] = {"n": n.astype(float)}
    for name, by_level in wanted.items():
        values = noisy(by_level)
        for score in KEPT:
            arrays[f"{name}|{score}"] = values if score == "p_context" else (values > 0.5).astype(float)
    for score in KEPT:
        arrays[f"{NO_CONTEXT}|{score}"] = np.full(len(n), p.recall)
        arrays[f"dual run{RESTORED}|{score}"] = np.full(len(n), 1.0)
    arrays[f"gini|{AGREEING}"] = rng.normal(0.5, 0.005, len(n))
    arrays[f"gini|{STATED}"] = arrays[f"gini|{AGREEING}"] + rng.normal(0, 0.001, len(n)) + p.sparser * (n >= 64)
    arms = tuple(
        SimpleNamespace(name=name, kind=kind, fitted=number(fitted, "fraction"), collateral=number(p.harm, "nats"))
        for name, kind, fitted in (
            ("repeat", "prompt", 0.8),
            ("dual run", "intervention", 0.9),
            ("activation patching", "intervention", 0.1),
            (RECALL_ARM, "intervention", 0.2),
        )
    )
    section = SimpleNamespace(arms=arms, best_prompt="repeat", best_intervention="dual run", references=())
    result = SimpleNamespace(
        section=section,
        recall_loss=p.loss,
        given_loss=p.loss,
        n_circuit=p.n_circuit,
        n_edges=0,
        circuit_loss=0.1,
        circuit_reason="",
        at_no_harm={},
        n_nonzero=1,
        training_s=1.0,
        weights_sha256="",
        seconds=1.0,
    )
    return TrainedReadings(levels=LEVELS, recalled_from=64, arrays=arrays, result=result)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, kw_only=True)
class PlantedStudy(TrainedConflictStudy):
    """A study of planted models: dense ones as given, sparse ones as given."""

    dense: Planted
    sparse: Planted

    def read(self, run_dir, results):
        found = {subject: [] for subject in self.subjects}
        for seed in self.seeds:
            of = {
                kind: reading(self.sparse if kind[0] == SPARSE else self.dense, 10 * seed + i)
                for i, kind in enumerate(self._kinds.values())
            }
            for subject in self.subjects:
                name, rate = self._kinds[subject.arm]
                found[subject].append(
                    of[name, rate].beside(
                        of["dense", rate] if name == SPARSE else None, of[name, 0.0] if rate else None
                    )
                )
        return found

    def figures(self, read):
        return ()

    def tables(self, read, results):
        return ()


def verdicts(tmp_path, dense: Planted, sparse: Planted | None = None, rates=(0.0,)) -> dict[tuple[str, str], str]:
    conflicts = ConflictStudyConfig(rates=rates)
    conflicts = replace(conflicts, world=replace(conflicts.world, n_groups=3, levels=LEVELS, n_given_exposures=30))
    rules = StudyRules(n_seeds=3, n_agreeing=3)
    study = PlantedStudy(config=RunConfig(), rules=rules, conflicts=conflicts, dense=dense, sparse=sparse or dense)
    section = study.conclude(study.plan(), tmp_path, {})
    return {(v.name, v.arm): v.verdict for v in section.verdicts}


def test_what_is_planted_is_found(tmp_path):
    found = verdicts(tmp_path, Planted(sparser=0.02))
    assert {
        word
        for (name, _), word in found.items()
        if name
        in (
            "memory beats context",
            "interventions do what prompts cannot",
            "interventions do so at no harm",
            "conflict is sparser",
        )
    } == {"supported"}
    assert found["prompting suffices", "dense e=0"] == "not supported"


def test_nothing_planted_nothing_found(tmp_path):
    same = (0.97, 0.97, 0.97, 0.97)
    found = verdicts(tmp_path, Planted(stated=same, prompt=same, intervention=same, random=same))
    assert found["memory beats context", "dense e=0"] == "not supported"
    assert found["interventions do what prompts cannot", "dense e=0"] == "not supported"
    assert found["conflict is sparser", "dense e=0"] == "not supported"
    assert found["prompting suffices", "dense e=0"] == "supported"


@pytest.mark.parametrize(
    "changes",
    [
        {"random": (0.99, 0.98, 0.95, 0.9)},  # random heads do as much
        {"four": 0.4, "eight": 0.6},  # said more often it is believed more often
        {"intervention": (0.99, 0.95, 0.8, 0.5)},  # a prompt does as much
    ],
)
def test_each_control_alone_takes_the_claim_away(tmp_path, changes):
    found = verdicts(tmp_path, replace(Planted(), **changes))
    assert found["interventions do what prompts cannot", "dense e=0"] != "supported"


def test_an_intervention_that_destroys_what_else_is_known_is_none_at_no_harm(tmp_path):
    found = verdicts(tmp_path, Planted(harm=5.0))
    assert found["interventions do what prompts cannot", "dense e=0"] == "supported"
    assert found["interventions do so at no harm", "dense e=0"] == "undecided"


@pytest.mark.parametrize("changes", [{"recall": 0.5}, {"stated": (0.4, 0.3, 0.3, 0.2)}, {"loss": 0.5}])
def test_models_that_cannot_read_or_remember_or_do_not_match_decide_nothing(tmp_path, changes):
    found = verdicts(tmp_path, Planted(), replace(Planted(), **changes))
    assert {word for (_, arm), word in found.items() if arm == "weight_sparse e=0"} == {"undecided"}
    assert found["memory beats context", "dense e=0"] == "supported"


def test_what_contradictions_and_sparse_weights_do_is_a_comparison(tmp_path):
    same = verdicts(tmp_path, Planted(), rates=(0.0, 0.1))
    assert same["contradictions teach", "dense e=0.1"] == "not supported"
    assert same["sparse: found and switched off", "weight_sparse e=0"] == "not supported"
    harmed = verdicts(tmp_path, Planted(recall_arm=0.05), Planted(recall_arm=0.15, n_circuit=20))
    assert harmed["sparse: found and switched off", "weight_sparse e=0"] != "supported", "an edit that turns nothing"
    smaller = verdicts(tmp_path, Planted(), Planted(recall_arm=0.8, n_circuit=20))
    assert smaller["sparse: found and switched off", "weight_sparse e=0"] == "supported"


def test_n50_is_given_only_where_every_seed_crosses_one_half():
    some, none = (Subject(arm=name) for name in ("some", "none"))
    believed = Planted(stated=(0.99, 0.97, 0.95, 0.9))
    table = half_points(
        {some: [reading(Planted(), s) for s in range(3)], none: [reading(believed, 0), reading(Planted(), 1)]}
    )
    (_, n50, beyond, *_), (_, nothing, of, *_) = table.rows
    assert beyond == "0 of 3" and 64 < n50.value < 1024 and n50.lo < n50.value < n50.hi
    assert nothing.value is None and of == "1 of 2"
