"""Where there is nothing to find, nothing is found: twins of the planted tasks, and planted models in permuted weights.

Search and budget are those that recover every planted circuit (`test_search_recovers.py`).
"""

from dataclasses import replace
from functools import partial
from math import log

import pytest
import torch
from cases import PLANTED, PRUNE, TARGET
from twins import no_nodes, same_nodes

from circuits.answers import Ablated
from circuits.evidence.card import report_card
from circuits.evidence.examination import CardInputs
from circuits.evidence.searches import permuted_model
from circuits.evidence.thresholds import PRESETS
from circuits.masks import NodeSpace
from circuits.search.learn import Aim, MaskRun
from circuits.search.search import search
from circuits.section import card_verdict
from circuits.tasks.loss import pair_accuracy
from circuits.truth.pairs import label_twin, nonsense_twin

MODELS = ("string_closing", "bracket_depth", "two_hop", "shared_detector", "behind_sink", "redundant_heads")
CARD = replace(
    PRESETS["quick"],
    max_task_loss=TARGET,
    n_pairs=16,
    n_random=20,
    n_random_necessity=5,
    n_subsets=2,
    n_partial=1,
    n_adversary_steps=1,
    n_boot=100,
    n_permutations=100,
)


@pytest.mark.parametrize("name", MODELS)
def test_nonsense_and_label_permuted_twins_have_no_circuit(name):
    planted = PLANTED[name]
    model = planted.model()
    twins = [planted.pair_sets(partial(nonsense_twin, answers=answers)) for answers in planted.unrelated]
    twins.append(planted.pair_sets(label_twin))
    runs = [MaskRun(seed=0, train=pairs.train, val=pairs.val) for pairs in twins]
    results = search(Aim(model=model, means=planted.means(model).values, target=TARGET, config=PRUNE), runs)
    for pruned in results:
        assert not pruned.reached
        # the loss of all candidates together; a model that knows nothing has ln 2
        assert pruned.loss > 0.9 * log(2)


@pytest.mark.parametrize("name", MODELS)
def test_the_card_passes_the_planted_circuit_and_fails_it_in_permuted_weights(name):
    planted = PLANTED[name]
    model, pairs = planted.model(), planted.pair_sets()
    means, space = planted.means(model), NodeSpace.of(model)
    empty = no_nodes(model, name, means.values)
    circuit = same_nodes(model, empty, space.mask(planted.minimal[0][0]), means.values, pairs.fit)
    evidence = CardInputs(fit=pairs.fit, heldout=pairs.heldout, alive=means.alive)
    entries = report_card(model, circuit, evidence, CARD)
    (whole,) = Ablated(model=model, means=means.values).answers(torch.ones(1, space.n_nodes).bool(), pairs.heldout)
    shifted = float(pair_accuracy(whole).mean()) < CARD.min_raw_accuracy  # this model does the task by a shift alone
    assert {e.name for e in entries if e.role == "verdict" and e.verdict != "pass"} == (
        {"raw accuracy"} if shifted else set()
    )

    null = permuted_model(model, seed=0)
    null_means = planted.means(null)
    carried = same_nodes(null, circuit, circuit.keep, null_means.values, pairs.fit)
    entries = report_card(null, carried, replace(evidence, alive=null_means.alive), CARD)
    assert card_verdict(entries) == "fail"
    sufficiency = next(entry for entry in entries if entry.name == "sufficiency")
    assert sufficiency.verdict == "fail" and (sufficiency.value.value or 0) > 0.9 * log(2)
