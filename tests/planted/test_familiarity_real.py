"""Planted readings of a pretrained model: what length, prediction or the first token do alone is no familiarity, and familiarity that is planted is found."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import nan
from pathlib import Path

import numpy as np
import pytest
from probe_machine import PieceTokenizer, make_machine

from sparsetrain.adapters import LanguageModel
from sparsetrain.data.knowledge import Fact
from sparsetrain.data.probes import SIDES, Probe, Probes, ProbesConfig, familiar
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.report import Report
from sparsetrain.representation.evaluate import LOGIT_MEASURES
from sparsetrain.representation.items import READ_OUTS
from sparsetrain.representation.measures import HEADLINE
from sparsetrain.run import RunConfig
from sparsetrain.studies import familiarity_real, frozen
from sparsetrain.studies.engine import StudyRules, conclude
from sparsetrain.studies.familiarity_real import FamiliarityRealStudy, FamiliarReadings
from sparsetrain.studies.frozen import FrozenConfig
from sparsetrain.studies.page import KINDS
from sparsetrain.studies.readings import FINAL
from sparsetrain.studies.run import run_study
from sparsetrain.studies.section import StudySection
from sparsetrain.studies.shifts_real import N_PROMPTS, N_TEXTS
from sparsetrain.training.fit import TrainerConfig
from sparsetrain.training.tracking import LoggerConfig

N_SUBJECTS, N_TEMPLATES, N_ROWS, N_LEVELS, N_TOKENS = 3000, 2, 400, 4, 32
NORMS = (*(f"blocks.{i}.{part}.norm.hook_norm" for i in range(3) for part in ("attn", "mlp")), FINAL)
BARE = replace(TrainerConfig(), device="cpu", n_threads=1, progress=False)


@pytest.fixture(autouse=True)
def few_deals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(familiarity_real, "N_SHUFFLES", 10)


def arrays_of(
    shape: Sequence[int], rng: np.random.Generator, ginis: dict[str, np.ndarray], loss: np.ndarray, length: int
) -> dict[str, np.ndarray]:
    """Everything that is read, from what is planted: control (`first`: at the first token) -> headline at every norm; the untrained model has its own."""
    flat = {"n_tokens": np.full(shape, length), "answer_loss": loss, "correct": np.ones(shape)}
    for name in LOGIT_MEASURES:
        flat |= dict.fromkeys((f"{name}|all", f"{name}|last"), loss if name == "loss" else rng.random(shape))
    for point in NORMS:
        for control in ("none", "gain", "rotated", "trimmed") if point == FINAL else ("none",):
            for where in READ_OUTS:
                values = ginis["first"] if where == "first" else ginis.get(control, ginis["none"])
                flat[f"{point}|{control}|{where}|{HEADLINE}"] = values
    return {name: np.asarray(values, dtype=np.float64).ravel() for name, values in flat.items()}


def prompts(
    n: int = N_SUBJECTS,
    *,
    seen: float = 0.0,
    by_length: float = 0.0,
    by_loss: float = 0.0,
    at_init: float = 0.0,
) -> FamiliarReadings:
    """Subjects of standard normal frequency; seldom ones are longer and less predictable. Gini falls by `seen` with each unit of frequency.

    Args:
        by_length, by_loss: what Gini gains with each token, and with each nat of the answer.
        at_init: how much the untrained model has of `seen` = 1.
    """
    rng = np.random.default_rng(0)
    frequency = rng.standard_normal(n)
    length = 6 + np.clip(np.round(2 - frequency + rng.standard_normal(n)), 0, 5).astype(int)
    loss = 3 - frequency + 0.7 * rng.standard_normal(n)

    def gini(share: float) -> np.ndarray:
        planted = share * (by_length * length + by_loss * loss - seen * frequency)
        return 0.45 + np.repeat(planted + 0.003 * rng.standard_normal(n), N_TEMPLATES)

    order = np.argsort(-frequency)
    level = np.empty(n, dtype=int)
    level[order] = 3 * np.arange(n) // n
    probes = Probes(
        shift="planted",
        levels=("often", "now and then", "seldom"),
        matched=False,
        probes=tuple(
            Probe(
                tokens=(0,) * int(length[i] + 1), n_answer=1, level=int(level[i]), row=i, frequency=float(frequency[i])
            )
            for i in range(n)
            for _ in range(N_TEMPLATES)
        ),
    )
    shape = (n * N_TEMPLATES,)
    ginis = {"none": gini(1), "rotated": gini(0), "first": gini(0)}
    untrained = 0.414 - at_init * np.repeat(frequency, N_TEMPLATES) + 0.003 * rng.standard_normal(shape)
    return FamiliarReadings(
        probes=probes,
        arrays=arrays_of(shape, rng, ginis, np.repeat(loss, N_TEMPLATES), 0),
        initial={f"{FINAL}|none|last|{HEADLINE}": untrained},
        read_out="last",
        n_bootstrap=200,
    )


def texts(
    n: int = N_ROWS, *, seen: float = 0.0, form: float = 0.0, first: float = 0.0, by_loss: float = 0.0
) -> FamiliarReadings:
    """Licences whose Gini rises by `seen` with all words exchanged, and by `form` together with its control; at the first token by `first`."""
    rng = np.random.default_rng(0)
    shape = (2, N_LEVELS, n)
    level = np.broadcast_to((np.arange(N_LEVELS) / (N_LEVELS - 1))[None, :, None], shape)
    alone = np.broadcast_to(np.array([1.0, 0.0])[:, None, None], shape)
    loss = 3 + level * (1 + alone) + 0.7 * rng.standard_normal(shape)

    def gini(share: float) -> np.ndarray:
        planted = share * (seen * level * alone + form * level + by_loss * loss)
        return 0.48 + planted + 0.003 * rng.standard_normal(shape)

    probes = Probes(
        shift="planted",
        control="planted",
        levels=("0", "0.1", "0.25", "0.5"),
        probes=tuple(
            Probe(tokens=(0,) * N_TOKENS, level=i, side=side, row=row)
            for side in SIDES
            for i in range(N_LEVELS)
            for row in range(n)
        ),
    )
    ginis = {"none": gini(1), "rotated": gini(0), "first": gini(0) + N_TOKENS * first * level}
    return FamiliarReadings(
        probes=probes,
        arrays=arrays_of(shape, rng, ginis, loss, N_TOKENS),
        initial={f"{FINAL}|none|all|{HEADLINE}": (0.414 + 0.003 * rng.standard_normal(shape)).ravel()},
        read_out="all",
        n_bootstrap=200,
    )


Make = Callable[..., FamiliarReadings]


class Worded(FamiliarityRealStudy):
    """The study without what needs the model itself."""

    def method(self) -> tuple[str, ...]:
        return ()


def judged(r: FamiliarReadings, *, blindly: bool = False) -> StudySection:
    """By the study's own rules; blindly: gates alone, no effect is read."""
    arm = "licences" if r.probes.matched else "countries"
    asked = Worded(config=RunConfig(), rules=StudyRules(), frozen=FrozenConfig(model="hf:planted", probes_of=(arm,)))
    (subject,) = asked.subjects
    read = {} if blindly else asked.effects(r, subject)
    effects = {rule.key: [read.get(rule.key.removeprefix(f"{arm}: "), nan)] for rule in asked.claims()}
    return conclude(
        asked.plan(), asked.claims(), gates={key.key: [value(r)] for key, value in asked.gates()}, effects=effects
    )


def verdicts(r: FamiliarReadings) -> dict[str, str]:
    """Words of claims and verdicts."""
    section = judged(r)
    assert all(gate.passed for gate in section.gates)
    words = {claim.key.partition(": ")[2]: claim.verdict for claim in section.claims}
    return words | {verdict.name: verdict.verdict for verdict in section.verdicts}


LEARNED, NAIVE = "learned through familiarity", "naive: learned through familiarity"


@pytest.mark.parametrize(("make", "size"), [(prompts, 0.01), (texts, 0.03)])
def test_familiarity_that_is_planted_is_found(make: Make, size: float) -> None:
    found = verdicts(make(seen=size))
    for key in (LEARNED, NAIVE, "is less familiar", "controlled, gain", "dose", "rotated", "trimmed", "at init"):
        assert found[key] == "supported", key


@pytest.mark.parametrize(("make", "size"), [(prompts, -0.01), (texts, -0.03)])
def test_denser_what_was_seen_seldom_is_refused(make: Make, size: float) -> None:
    found = verdicts(make(seen=size))
    assert found[LEARNED] == found[NAIVE] == "not supported" and found["is less familiar"] == "supported"


@pytest.mark.parametrize("make", [prompts, texts])
def test_nothing_planted_is_refused(make: Make) -> None:
    found = verdicts(make())
    assert found[LEARNED] == found[NAIVE] == "not supported"


def test_what_length_does_alone_is_no_familiarity() -> None:
    found = verdicts(prompts(by_length=0.01))
    assert found[NAIVE] == "supported"
    assert found[LEARNED] == found["controlled"] == found["dose"] == "not supported"


@pytest.mark.parametrize(("make", "size"), [(prompts, 0.01), (texts, 0.02)])
def test_what_prediction_does_alone_is_no_familiarity(make: Make, size: float) -> None:
    found = verdicts(make(by_loss=size))
    assert found[NAIVE] == found["controlled"] == found["dose"] == "supported"
    assert found[LEARNED] == found["dose given prediction"] == "not supported"


def test_what_exchanged_words_do_to_any_text_is_no_familiarity() -> None:
    found = verdicts(texts(form=0.03))
    assert found[NAIVE] == "supported" and found[LEARNED] == found["controlled"] == "not supported"


def test_what_the_first_token_does_alone_is_no_familiarity() -> None:
    found = verdicts(texts(first=0.03))
    assert found[NAIVE] == "supported" and found[LEARNED] == found["controlled"] == "not supported"


def test_what_the_untrained_model_has_too_is_not_learned() -> None:
    found = verdicts(prompts(seen=0.01, at_init=0.01))
    assert found["controlled"] == found["dose given prediction"] == "supported"
    assert found["at init"] == found[LEARNED] == "not supported"


@pytest.mark.parametrize(("make", "size"), [(prompts, 0.01), (texts, 0.03)])
def test_familiarity_that_is_dealt_out_at_random_is_refused(
    make: Make, size: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = make(400, seen=size)
    monkeypatch.setattr(familiarity_real, "N_SHUFFLES", 100)
    assert verdicts(planted.dealt(0))["controlled"] == verdicts(planted.dealt(0))[LEARNED] == "not supported"
    assert verdicts(planted)["by chance"] == "supported"  # the rule calls hardly any of the deals familiarity


def test_a_pair_is_of_subjects_of_one_length_and_the_ends_of_their_frequencies() -> None:
    r = prompts()
    seldom, often = r.pairs
    assert (r.position[seldom] == r.position[often]).all() and len(set(seldom) | set(often)) == 2 * len(seldom)
    for position in np.unique(r.position):
        alike = r.position == position
        assert sum(alike[seldom]) == sum(alike) // 3
        assert r.frequency[often][alike[often]].min() >= r.frequency[seldom][alike[seldom]].max()


def test_subjects_count_once_however_often_they_are_asked() -> None:
    r = prompts(seen=0.01)
    assert r.sparsity().shape == r["loss|all"].shape == (N_SUBJECTS,)
    assert r.change().n == N_SUBJECTS // 3 and r.dose().n == N_SUBJECTS


def test_a_gate_counts_subjects_not_prompts() -> None:
    """Three levels of too few subjects are too few, however many templates ask them."""
    enough = {
        readings: [gate.passed for gate in judged(made, blindly=True).gates]
        for readings, made in {
            "subjects": prompts(3 * N_PROMPTS),
            "too few subjects": prompts(3 * (N_PROMPTS - 1)),
            "texts": texts(N_TEXTS),
            "too few texts": texts(N_TEXTS - 1),
        }.items()
    }
    assert enough == {"subjects": [True], "too few subjects": [False], "texts": [True], "too few texts": [False]}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small machine with a small library of its own, stand-ins of facts, and a model of two layers."""
    make_machine(tmp_path / "machine", monkeypatch)
    tokenizer = PieceTokenizer()
    model = LanguageModel(
        name="tiny",
        architecture="Transformer",
        module=Transformer(ModelConfig(d_vocab=2048, n_layer=2, d_model=32, d_head=8, n_ctx=64)).eval(),
        tokenizer=tokenizer,  # pyright: ignore[reportArgumentType]
        n_ctx=64,
        step=None,
        seed=0,
        weights_sha256="0" * 64,
        left_out={},
    )
    facts = [
        Fact(
            relation="capital",
            subject=f"{'La' * (1 + i % 2)}{chr(97 + i)}",
            answer=f"City{chr(97 + i)}",
            fame=9.0 - i / 3,
        )
        for i in range(12)
    ]
    monkeypatch.setattr(familiar, "facts_of", lambda name: facts)
    monkeypatch.setattr(familiar, "versions", lambda names: {"stand-in": "1.0"})
    for module in (frozen, familiarity_real):
        monkeypatch.setattr(module, "loaded", lambda name, device, trust: model)


def run_tiny(folder: Path, batch_size: int) -> tuple[Report, FamiliarityRealStudy]:
    study = FamiliarityRealStudy(
        config=RunConfig(name="familiarity_real", trainer=BARE, logger=LoggerConfig(kind="none")),
        rules=StudyRules(),
        frozen=FrozenConfig(
            model=f"hf:tiny{batch_size}",
            probes_of=("licences", "countries"),
            batch_size=batch_size,
            n_bootstrap=50,
            probes=ProbesConfig(n_texts=3, n_prompts=4, n_tokens=16, exchanged=(0.0, 0.5)),
        ),
    )
    return run_study(study, folder, KINDS, "test"), study


@pytest.mark.usefixtures("tiny")
def test_a_tiny_model_is_read_to_the_end_whatever_the_batch(tmp_path: Path) -> None:
    report, study = run_tiny(tmp_path / "one", 2)
    _, again = run_tiny(tmp_path / "many", 7)
    section = report.sections["study"]
    assert isinstance(section, StudySection) and section.status == "done"
    assert len(section.verdicts) == 8 and len(section.claims) == 26
    assert not section.interpretable  # the gates ask for more items
    for subject in study.subjects:
        a, b = study.read_of(tmp_path / "one", subject), again.read_of(tmp_path / "many", subject)
        assert a.arrays.keys() == b.arrays.keys() and a.initial.keys() == b.initial.keys()
        for x, y in ((a.arrays, b.arrays), (a.initial, b.initial)):
            for name, values in x.items():
                np.testing.assert_allclose(values, y[name], rtol=0, atol=1e-5, err_msg=name)
    assert (tmp_path / "one" / "report.html").is_file()


@pytest.mark.usefixtures("tiny")
def test_what_was_read_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = run_tiny(tmp_path, 4)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("read again")

    monkeypatch.setattr(familiarity_real, "read_resumably", refuse)
    monkeypatch.setattr(frozen, "read_resumably", refuse)
    again, _ = run_tiny(tmp_path, 4)
    assert again.sections["study"] == first.sections["study"]
