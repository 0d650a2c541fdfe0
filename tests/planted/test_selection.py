"""What a recipe is chosen by, where the answer is known: sizes of circuits and of none, a mean worked out by hand, no look at held-out pairs."""

from dataclasses import replace
from math import exp, log, log1p
from typing import Any

import pytest
import torch
from report_example import example_report
from string_closing import EDGES, MARGIN, set_margin_, string_closing_model, string_pairs, text_windows

from circuits.edges import count_edges
from circuits.masks import NodeSpace
from circuits.means import Means, measure_means
from circuits.recipe import selection
from circuits.recipe.selection import SelectionConfig, clipped, loss_of, real_code, section, size
from circuits.search.learn import PruneConfig
from circuits.search.task import FindConfig, Pairs, TaskSearch
from circuits.section import SearchedCircuit, TaskLoss
from sparsetrain.data.sources import IdiomsSource, StdlibSource
from sparsetrain.model import Transformer
from sparsetrain.report.sections import TrainingSection
from sparsetrain.stats.number import number

CONFIG = FindConfig(
    seeds=(0,), settle=(0.6,), margin=1.0, calibration="circuit", nonsense_twin=False, prune=PruneConfig(n_steps=60, candidate_share=0.5)
)  # fmt: skip


class Unseen:
    """In the place of held-out pairs: whoever looks at them fails."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"held-out pairs were asked for {name}")


@pytest.fixture(scope="module")
def planted() -> tuple[Transformer, Means]:
    model = string_closing_model()
    return model, measure_means(model, text_windows(256, seed=5), source="planted text", weights_sha256="0" * 64)


def subject(model: Transformer, means: Means, **pairs: Any) -> TaskSearch:
    made = {name: string_pairs(n, seed=i) for i, (name, n) in enumerate({"train": 128, "fit": 32, "val": 32}.items())}
    unseen: Any = Unseen()
    return TaskSearch(
        model=model, task="strings", description="", pairs=Pairs(**{**made, "heldout": unseen, **pairs}), means=means, config=CONFIG
    )  # fmt: skip


def test_a_passed_task_has_its_circuits_edges_and_nobody_looks_at_heldout_pairs(planted) -> None:
    model, means = planted
    task = loss_of(subject(model, means))
    assert task.status == "passed" and task.loss.value == pytest.approx(log1p(exp(-4 * MARGIN)), abs=0.01)
    found = size(model, means, task, subject(model, means))
    assert found.found and found.n_edges.value == len(EDGES)


def test_a_task_without_a_circuit_counts_as_large(planted, monkeypatch) -> None:
    """The whole model where it passes; all that its matrices could hold where it fails, so that sparser weights are no way out."""
    model, means = planted
    every = count_edges(model, means.space, torch.ones(means.space.n_nodes, dtype=torch.bool))
    slots = sum(p.numel() for name, p in model.named_parameters() if ".W_" in name and name.endswith("weight"))
    assert len(EDGES) < every <= slots
    passed = loss_of(subject(model, means))
    with monkeypatch.context() as patched:
        patched.setattr(selection, "searched", lambda *_: type("Found", (), {"circuits": ()}))
        missed = size(model, means, passed, subject(model, means))
    assert not missed.found and missed.n_edges.value == every and "the whole model" in (missed.n_edges.note or "")
    weak = string_closing_model()
    set_margin_(weak, string_pairs(64, seed=99), 0.01)
    failed = loss_of(subject(weak, means))
    assert failed.status == "failed"
    for task in (failed, replace(passed, status="bigram"), replace(passed, status="unsuitable")):
        assert size(weak, means, task, subject(weak, means)).n_edges.value == slots


def test_what_the_current_token_alone_does_is_a_bigram(planted) -> None:
    model, means = planted
    train = string_pairs(32, seed=1)
    train.tokens[torch.arange(32), 0, 8] = 1  # the last token is the quote itself
    train.tokens[torch.arange(32), 1, 8] = 2
    told = string_closing_model()
    assert told.bigram is not None
    told.bigram.weight[1, 3] = told.bigram.weight[2, 4] = 9.0
    assert loss_of(subject(told, means, fit=train, val=train)).status == "bigram"
    assert NodeSpace.of(model) == means.space


def test_the_two_numbers_by_hand() -> None:
    def task(name: str, status: Any, loss: float | None) -> TaskLoss:
        return TaskLoss(task=name, status=status, loss=number(loss, "nats"))

    tasks = [
        task("a", "passed", 0.1),
        task("b", "failed", 3.0),
        task("c", "unsuitable", None),
        task("d", "bigram", 0.0),
    ]
    sizes = [
        SearchedCircuit(task=t, found=True, n_edges=number(n, "edges"))
        for t, n in (("a", 10), ("d", 0), ("b", 100_000))
    ]
    found = section(tasks, sizes, number(1.8, "bits/char"))
    assert found.task_loss.value == pytest.approx((0.1 + log(2) + log(2) + 0) / 4)
    assert found.capability_loss.value == pytest.approx((0.1 + 2 * log(2)) / 4 + 1.8)
    assert found.circuit_edges.value == pytest.approx((10 * 1 * 100_000) ** (1 / 3)), (
        "a circuit without edges counts one"
    )
    assert (found.n_passed.value, found.n_bigram.value) == (1, 1)
    assert clipped(None) == log(2)


def test_real_code_is_what_no_generator_wrote() -> None:
    bits = {"mixed": 1.0, "idioms": 0.5, "stdlib": 2.0, "mine": 3.0}
    losses = {name: number(value, "bits/char", n=10) for name, value in bits.items()}
    training = replace(example_report().section("training", TrainingSection), bits_per_char=losses)
    sources = {"idioms": IdiomsSource(weight=9.0), "stdlib": StdlibSource(weight=1.0), "mine": StdlibSource(weight=3.0)}
    assert real_code(training, sources).value == pytest.approx((2.0 + 3 * 3.0) / 4)
    assert real_code(training, {"idioms": IdiomsSource()}).value == 1.0


def test_a_circuit_to_search_is_one_of_the_tasks() -> None:
    with pytest.raises(ValueError, match=r"selection.circuits has \['with_as'\], which selection.tasks has not"):
        SelectionConfig(tasks=("var_if",), circuits=("with_as",))
    with pytest.raises(ValueError, match="must be at least one task"):
        SelectionConfig(tasks=("var_if",))
