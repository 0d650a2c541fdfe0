"""Planted readings of a pretrained model: what length, single tokens or the first token do alone is no shift, and a shift that they hide is found."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from sparsetrain.data.probes import SIDES, Probe, Probes
from sparsetrain.representation.evaluate import LOGIT_MEASURES
from sparsetrain.representation.items import READ_OUTS
from sparsetrain.representation.measures import HEADLINE
from sparsetrain.run import RunConfig
from sparsetrain.studies.engine import StudyRules, conclude
from sparsetrain.studies.frozen import FrozenConfig, ProbeReadings
from sparsetrain.studies.readings import FINAL
from sparsetrain.studies.shifts_real import NATURAL, ShiftReadings, ShiftsRealStudy

N_LEVELS, N_ROWS, N_TOKENS = 4, 120, 32
NORMS = (*(f"blocks.{i}.{part}.norm.hook_norm" for i in range(6) for part in ("attn", "mlp")), FINAL)
SHAPE = (2, N_LEVELS, N_ROWS)
Profile = Callable[[float], float]


def study_of(*names: str) -> ShiftsRealStudy:
    frozen = FrozenConfig(model="hf:planted", probes_of=names, n_bootstrap=400)
    return ShiftsRealStudy(config=RunConfig(), rules=StudyRules(), frozen=frozen)


def probes_of(n_tokens: Profile) -> Probes:
    """Rows whose number of tokens is a function of the level alone."""
    return Probes(
        shift="planted",
        control="planted",
        levels=tuple(map(str, range(N_LEVELS))),
        probes=tuple(
            Probe(tokens=(0,) * round(n_tokens(level)), level=level, side=side, row=row)
            for side in SIDES
            for level in range(N_LEVELS)
            for row in range(N_ROWS)
        ),
    )


def planted(
    seed: int = 0,
    *,
    form: float = 0.0,
    claimed: float = 0.0,
    first: float = 0.0,
    by_loss: float = 0.0,
    gain: float = 1.0,
    late: float = 1.0,
    farther: float = 1.0,
    read_out: str = "all",
) -> ShiftReadings:
    """Gini of a text: what shift and control share (`form`), what the shift has alone (`claimed`), at the first token (`first`), by its loss.

    Args:
        gain: share of the claimed effect that is left with the gain.
        late: share of the effect in the first two thirds of the layers.
    """
    rng = np.random.default_rng(seed)
    level = np.broadcast_to((np.arange(N_LEVELS) / (N_LEVELS - 1))[None, :, None], SHAPE)
    alone = np.broadcast_to(np.array([1.0, 0.0])[:, None, None], SHAPE)
    of_row = 0.01 * rng.standard_normal(N_ROWS)
    loss = 3 + farther * level * alone + 0.3 * rng.standard_normal(SHAPE)

    def gini(share: float, with_gain: float = 1.0) -> np.ndarray:
        return (
            0.48
            + share * (form * level + with_gain * claimed * level * alone + by_loss * (loss - 3))
            + of_row
            + 0.004 * rng.standard_normal(SHAPE)
        )

    flat = {"n_tokens": np.full(SHAPE, N_TOKENS), "answer_loss": loss, "correct": np.ones(SHAPE)}
    for name in LOGIT_MEASURES:
        flat |= dict.fromkeys((f"{name}|all", f"{name}|last"), loss if name == "loss" else rng.random(SHAPE))
    for i, point in enumerate(NORMS):
        share = 1.0 if i >= 2 * len(NORMS) / 3 else late
        for control in ("none", "gain", "rotated", "trimmed") if point == FINAL else ("none",):
            plain = {"gain": gini(share, gain), "rotated": gini(0)}.get(control, gini(share))
            for where in READ_OUTS:
                extra = N_TOKENS * first * level if where == "first" else 0.0
                flat[f"{point}|{control}|{where}|{HEADLINE}"] = plain + extra
    arrays = {name: np.asarray(values, dtype=np.float64).ravel() for name, values in flat.items()}
    natural = {
        f"{FINAL}|none|all|{HEADLINE}": 0.48
        + by_loss * (drawn := 1.5 * rng.random(1000))
        + 0.01 * rng.standard_normal(1000),
        "loss|all": 3 + drawn,
    }
    pool = Probes(
        shift="natural", levels=("all",), probes=tuple(Probe(tokens=(0, 0), level=0, row=i) for i in range(1000))
    )
    return ShiftReadings(
        probes=probes_of(lambda level: N_TOKENS),
        arrays=arrays,
        read_out=read_out,  # pyright: ignore[reportArgumentType]
        n_bootstrap=400,
        natural=ProbeReadings(probes=pool, arrays=natural, read_out="all"),
    )


@cache
def study() -> ShiftsRealStudy:
    return study_of("noise", NATURAL)


def verdicts(readings: ShiftReadings) -> dict[str, str]:
    """Words of claims and verdicts about one arm, by the study's own rules."""
    asked = study()
    (subject,) = asked.subjects
    rules = asked.claims()
    effects = {f"noise: {key}": [value] for key, value in asked.effects(readings, subject).items()}
    gates = {key.key: [value(readings)] for key, value in asked.gates()}
    section = conclude(replace(plan_of(asked)), rules, gates=gates, effects=effects)
    assert all(gate.passed for gate in section.gates)
    claims = {claim.key.removeprefix("noise: "): claim.verdict for claim in section.claims}
    return claims | {v.name: v.verdict for v in section.verdicts}


def plan_of(asked: ShiftsRealStudy):
    """The plan without what needs the model itself."""

    class Worded(ShiftsRealStudy):
        def method(self) -> tuple[str, ...]:
            return ()

    return Worded(config=asked.config, rules=asked.rules, frozen=asked.frozen).plan()


def test_what_the_form_does_alone_is_no_shift():
    """Length, position and single tokens change shift and control alike."""
    found = verdicts(planted(form=0.03))
    assert found["naive: farther, sparser"] == found["naive per item"] == "supported"
    assert found["farther, sparser"] == found["per item"] == found["local"] == "not supported"
    assert found["is farther"] == "supported"


def test_what_the_first_token_does_alone_is_no_shift():
    found = verdicts(planted(first=0.03))
    assert found["naive: farther, sparser"] == "supported"
    assert found["farther, sparser"] == found["per item"] == "not supported"


def test_what_prediction_does_alone_is_not_beyond_it():
    found = verdicts(planted(by_loss=0.03))
    assert found["farther, sparser"] == found["per item"] == "supported"
    assert found["beyond prediction"] != "supported" and found["equal loss"] == "not supported"


def test_a_shift_is_found_beside_form_and_beyond_prediction():
    found = verdicts(planted(form=0.02, claimed=0.03))
    for name in (
        "farther, sparser",
        "naive: farther, sparser",
        "per item",
        "beyond prediction",
        "trimmed",
        "rotated",
        "equal loss",
    ):
        assert found[name] == "supported", name


def test_a_shift_that_the_form_hides_is_found():
    found = verdicts(planted(form=-0.04, claimed=0.03))
    assert found["farther, sparser"] == "supported" and found["naive: farther, sparser"] == "not supported"


def test_an_effect_that_the_gain_undoes_is_not_enough():
    found = verdicts(planted(claimed=0.03, gain=0.0))
    assert found["controlled"] == "supported" and found["controlled, gain"] == "not supported"
    assert found["farther, sparser"] == "not supported"


def test_everywhere_is_not_local_and_late_alone_is():
    assert verdicts(planted(claimed=0.03))["local"] == "not supported"
    found = planted(claimed=0.03, late=0.0)
    assert verdicts(found)["local"] == "supported"
    mapped = found.map
    assert [place for (place, where), e in mapped.items() if e.lo > 0 and where == "all"] == list(NORMS[9:])
    assert (
        mapped[FINAL, "all"].hi - mapped[FINAL, "all"].lo
        > found.change(controlled=True).hi - found.change(controlled=True).lo
    )


def test_denser_is_not_sparser_and_a_level_need_not_be_farther():
    found = verdicts(planted(claimed=-0.03, farther=0.0))
    assert found["farther, sparser"] == "not supported" and found["is farther"] != "supported"


def test_nothing_in_noise_is_seldom_called_something():
    """In forty planted nothings the rule says supported no more often than its interval may miss."""
    wrong = [verdicts(planted(seed))["controlled"] == "supported" for seed in range(40)]
    assert sum(wrong) <= 2


def test_known_facts_alone_count_in_conflict():
    readings = replace(planted(read_out="last"), kept=np.arange(N_ROWS) % 2 == 0)
    assert readings.sparsity().shape == (2, N_LEVELS, N_ROWS // 2)
    assert readings.change(controlled=True).n == N_ROWS // 2


def test_without_rows_nothing_is_decided():
    readings = replace(planted(read_out="last"), kept=np.zeros(N_ROWS, dtype=bool))
    assert np.isnan(readings.change(controlled=True).value) and np.isnan(readings.per_item().value)


def test_a_place_or_a_row_without_a_value_is_left_out():
    """A zero vector has no sparsity: in a sparse model the embedding of a token can be one."""
    whole = planted(claimed=0.03)
    arrays = {name: values.copy() for name, values in whole.arrays.items()}
    for where in ("last", "all"):
        arrays[f"{NORMS[0]}|none|{where}|{HEADLINE}"][5] = np.nan
    arrays[f"{FINAL}|none|all|{HEADLINE}"][7] = np.nan
    found = replace(whole, arrays=arrays)
    assert np.isnan(found.map[NORMS[0], "last"].value) and np.isfinite(found.map[NORMS[1], "last"].value)
    assert found.change(controlled=True).n == found.per_item().n == N_ROWS - 1
    assert found.change(controlled=True).value == pytest.approx(whole.change(controlled=True).value, abs=1e-3)
    assert found.local().value == pytest.approx(whole.local().value, abs=1e-3)
    assert verdicts(found)["farther, sparser"] == "supported"


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match=r"study.frozen.model= is missing"):
        ShiftsRealStudy(config=RunConfig(), rules=StudyRules(), frozen=FrozenConfig())
    with pytest.raises(ValueError, match=r"study.frozen.probes_of has nothing; there are splits, noise"):
        study_of("nothing")
    with pytest.raises(ValueError, match=r"is for a second model; give study\.frozen\.second="):
        ShiftsRealStudy(
            config=RunConfig(), rules=StudyRules(), frozen=FrozenConfig(model="hf:x", second_probes_of=("noise",))
        )
