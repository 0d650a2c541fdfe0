"""The report card: a planted circuit passes, random nodes and permuted weights fail, and the page says so in words."""

import json
from dataclasses import fields, replace

import pytest
import torch
from twins import no_nodes, same_nodes

from circuits.circuit import Circuit
from circuits.evidence.card import CRITERIA, report_card
from circuits.evidence.examination import CardInputs, Searched, judge
from circuits.evidence.measurement import Measurement
from circuits.evidence.random_circuits import random_circuits
from circuits.evidence.searches import permuted_model
from circuits.evidence.thresholds import PRESETS, VERDICT, CardConfig
from circuits.masks import NodeSpace
from circuits.means import Means, measure_means
from circuits.section import CardEntry, CardVerdict, card_verdict
from circuits.views.card import card_blocks, summary
from sparsetrain.model import Transformer
from sparsetrain.report import Report, RunFacts, SectionKind
from sparsetrain.report.blocks import Details, Table, Text
from sparsetrain.report.document import assemble
from sparsetrain.report.html import to_html
from sparsetrain.report.markdown import render_block
from sparsetrain.typed import from_dict, plain
from tests.planted.string_closing import (
    NODES,
    NONSENSE_A,
    NONSENSE_B,
    string_closing_model,
    string_pairs,
    text_windows,
)

CONFIG = replace(PRESETS["quick"], n_pairs=16, n_boot=200, n_permutations=100)


def planted_means(model: Transformer) -> Means:
    return measure_means(model, text_windows(256, seed=5), source="planted text", weights_sha256="0" * 64)


@pytest.fixture(scope="module")
def planted() -> tuple[Transformer, Means, Circuit, CardInputs]:
    model = string_closing_model()
    means, space, fit = planted_means(model), NodeSpace.of(model), string_pairs(32, seed=1)
    circuit = same_nodes(model, no_nodes(model, "planted_strings", means.values), space.mask(NODES), means.values, fit)
    nonsense = (NONSENSE_A, NONSENSE_B)
    evidence = CardInputs(
        fit=fit,
        heldout=string_pairs(64, seed=3),
        alive=means.alive,
        shifted=string_pairs(32, seed=8),
        windows=text_windows(32, seed=6),
        others={"nonsense": (string_pairs(16, 1, nonsense), string_pairs(16, 3, nonsense))},
        seeds=[circuit] * 5,
        paraphrased=string_pairs(32, seed=9),
        twins=[Searched(size=None, budget=1.0)],
        nulls=[Searched(size=27, budget=1.0)],
    )
    return model, means, circuit, evidence


@pytest.fixture(scope="module")
def entries(planted) -> tuple[CardEntry, ...]:
    model, _, circuit, evidence = planted
    return report_card(model, circuit, evidence, CONFIG)


def by_name(entries: tuple[CardEntry, ...]) -> dict[str, CardEntry]:
    return {entry.name: entry for entry in entries}


def test_the_planted_circuit_passes(entries):
    found = by_name(entries)
    assert card_verdict(entries) == "pass"
    assert all(entry.verdict == "pass" for entry in entries if entry.role == "verdict")
    strict = {"faithfulness", "completeness", "causal scrubbing", "worst partial ablation", "attention"}
    assert {name: found[name].verdict for name in strict} == dict.fromkeys(strict, "pass")
    # By hand: of the nine edges a null of 27 is three times as large; the model makes no errors to share; nine edges
    # would need 180 random ones, of which the quick card draws none.
    assert found["null models"].value.value == 3.0
    assert found["nonsense twin"].verdict == "pass" and found["nonsense twin"].value.value is None
    assert found["shared errors"].verdict == "not enough data"
    assert found["minimality test"].verdict == "not enough data"
    assert found["sufficiency test"].value.value < 0.05  # so small a model may draw the circuit itself


def test_entries_stand_in_the_order_of_the_criteria_and_survive_json(entries):
    assert [entry.name for entry in entries] == [criterion.name for criterion in CRITERIA]
    assert from_dict(tuple[CardEntry, ...], json.loads(json.dumps(plain(entries)))) == from_dict(
        tuple[CardEntry, ...], plain(entries)
    )
    for entry in entries:
        value = entry.value
        assert entry.verdict in ("pass", "fail", "not enough data")
        assert entry.question.endswith("?") or entry.question.endswith(").")
        assert value.status == "recomputable"
        if value.lo is not None and value.hi is not None and value.value is not None:
            assert value.lo <= value.value + 1e-9 and value.value <= value.hi + 1e-9


def test_the_card_is_a_function_of_its_inputs(planted, entries):
    model, _, circuit, evidence = planted
    again = report_card(model, circuit, evidence, CONFIG)
    assert [entry.value for entry in again] == [entry.value for entry in entries]


def test_as_many_random_nodes_fail(planted):
    model, means, circuit, evidence = planted
    keep = random_circuits(model, circuit.space, circuit.keep, means.alive, 1, seed=7)[0]
    other = same_nodes(model, circuit, keep, means.values, evidence.fit)
    found = by_name(report_card(model, other, evidence, CONFIG))
    assert found["sufficiency"].verdict == "fail"
    assert found["agreement, held-out"].verdict == "fail"
    assert found["random circuits"].verdict == "fail"
    assert card_verdict(tuple(found.values())) == "fail"


def test_the_same_nodes_in_permuted_weights_fail(planted):
    model, _, circuit, evidence = planted
    null = permuted_model(model, seed=0)
    means = planted_means(null)
    other = same_nodes(null, circuit, circuit.keep, means.values, evidence.fit)
    found = by_name(report_card(null, other, replace(evidence, alive=means.alive), CONFIG))
    assert found["sufficiency"].verdict == "fail"
    assert card_verdict(tuple(found.values())) == "fail"


@pytest.mark.slow
def test_every_planted_edge_passes_the_minimality_test(planted):
    model, _, circuit, evidence = planted
    found = by_name(report_card(model, circuit, evidence, replace(CONFIG, n_inflated=180)))["minimality test"]
    assert found.verdict == "pass" and found.value.value == 1.0


def test_absent_inputs_are_not_enough_data(planted):
    model, _, circuit, evidence = planted
    few = evidence.heldout.batch(slice(0, 8))
    found = by_name(
        report_card(model, circuit, CardInputs(fit=evidence.fit, heldout=few, alive=evidence.alive), CONFIG)
    )
    absent = {"causal scrubbing", "nonsense twin", "null models", "agreement, shifted", "seeds", "other tasks"}
    absent |= {"pretraining loss", "sufficiency", "necessity", "partial ablation"}  # the latter for 8 pairs
    assert {name: found[name].verdict for name in absent} == dict.fromkeys(absent, "not enough data")
    assert len(found["robustness"].detail["table"]) == 12, "no resampling without text"
    assert card_verdict(tuple(found.values())) == "not enough data"


def test_an_empty_circuit_gets_a_card_that_fails(planted):
    model, means, circuit, evidence = planted
    nothing = same_nodes(model, circuit, torch.zeros_like(circuit.keep), means.values, evidence.fit)
    entries = report_card(model, nothing, evidence, CONFIG)
    assert by_name(entries)["sufficiency"].verdict == "fail"
    assert card_verdict(entries) == "fail"


def test_a_circuit_of_another_model_is_refused(planted, make_model):
    _, _, circuit, evidence = planted
    with pytest.raises(ValueError, match="belongs to a model"):
        report_card(make_model().eval(), circuit, evidence, CONFIG)


@pytest.mark.parametrize(
    ("value", "n", "sense", "verdict"),
    [
        (0.5, 16, "at least", "pass"),
        (0.5, 16, "at most", "pass"),
        (0.4, 16, "at least", "fail"),
        (0.6, 16, "at most", "fail"),
        (0.6, 15, "at most", "not enough data"),
        (None, 16, "at most", "not enough data"),
        (float("nan"), 16, "at most", "not enough data"),
    ],
)
def test_verdicts(value, n, sense, verdict):
    assert judge(Measurement(value=value, unit="fraction", n=n), sense, 0.5, 16) == verdict


def test_a_verdict_of_its_own_word_wins():
    assert judge(Measurement(value=None, unit="factor", n=1, verdict="pass"), "at least", 2.0, 1) == "pass"


def test_the_card_as_a_whole(entries):
    def card(*verdicts: CardVerdict) -> list[CardEntry]:
        decide = [replace(entries[0], role="verdict", verdict=verdict) for verdict in verdicts]
        return [*decide, replace(entries[0], role="further", verdict="fail")]

    assert card_verdict(card("pass", "pass")) == "pass"
    assert card_verdict(card("pass", "not enough data")) == "not enough data"
    assert card_verdict(card("not enough data", "fail")) == "fail"


def test_at_most_ten_criteria_decide_and_all_of_them_exist():
    assert len(VERDICT) <= 10 and set(VERDICT) <= {criterion.name for criterion in CRITERIA}
    assert [c.name for c in CRITERIA if c.role == "verdict"] == [c.name for c in CRITERIA if c.name in VERDICT]


@pytest.mark.parametrize(
    ("lo", "hi", "verdict"),
    [
        (0.1, 0.9, "not enough data"),  # covers the threshold and is wide
        (0.45, 0.65, "pass"),  # covers it, but narrowly
        (0.55, 1.5, "pass"),  # wide, but clear of it
        (None, None, "pass"),
    ],
)
def test_a_wide_interval_around_the_threshold_decides_nothing(lo, hi, verdict):
    assert judge(Measurement(value=0.6, unit="fraction", n=16, lo=lo, hi=hi), "at least", 0.5, 16) == verdict


def test_presets_share_their_thresholds():
    limits = {criterion.limit for criterion in CRITERIA} | {c.needs for c in CRITERIA if c.needs}
    assert limits <= {field.name for field in fields(CardConfig)}
    for name in limits:
        assert getattr(PRESETS["quick"], name) == getattr(PRESETS["full"], name), name
    assert PRESETS["full"] == CardConfig()


@pytest.mark.parametrize(
    "bad", [{"n_random": 0}, {"alpha": 0.0}, {"alpha": 1.0}, {"adversary_step": 1.0}, {"n_inflated": -1}]
)
def test_configs_refuse_nonsense(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}=.*(must be|should be)"):
        from_dict(CardConfig, bad)


# --- the page


def test_the_table_says_every_verdict_in_words(entries):
    blocks = card_blocks(entries)
    table, further = (block for block in blocks if isinstance(block, Table))
    for shown, role in ((table, "verdict"), (further, "further")):
        assert [row[1] for row in shown.rows] == [entry.verdict for entry in entries if entry.role == role]
    assert set(table.columns[1].tones) == {"pass", "fail", "not enough data"}
    text = "\n\n".join(map(render_block, blocks))
    for entry in entries:
        assert entry.question.split(" (")[0] in text
    assert "The circuit passes: it meets every criterion that decides." in text
    assert "not enough data" in text and "at most 0.200 nats" in text and "at least 80%" in text


def test_the_card_renders_on_the_page(entries):
    report = Report(run=RunFacts.now(name="n", seed=0, command="", device="cpu"), sections={"circuits": tuple(entries)})
    page = to_html(assemble(report, {"circuits": SectionKind(schema=tuple[CardEntry, ...], view=card_blocks)}))
    for words in ("Report card", "not enough data", "Further measurements", "Ways to delete", "Behind the card"):
        assert words in page, words


def test_a_failing_card_names_the_criteria_that_failed(entries):
    failed = [replace(entry, verdict="fail") if entry.name == "minimality" else entry for entry in entries]
    assert "The circuit fails (minimality)." in summary(failed)


def test_nothing_to_show():
    (block,) = card_blocks([])
    assert isinstance(block, Text) and not isinstance(block, Details)
