"""Where there is nothing to find, nothing is found: nonsense twins, permuted labels, permuted weights of the planted models."""

from dataclasses import replace

import behind_sink
import bracket_depth
import pytest
import string_closing
import torch
import two_hop
from string_closing import string_pairs, text_windows

from circuits.card import PRESETS, CardInputs, card_verdict, report_card
from circuits.circuit import Circuit
from circuits.critique.nulls import permuted_model, same_nodes
from circuits.find import FindConfig, Pairs, find_in_pairs
from circuits.means import measure_means
from circuits.prune import PruneConfig
from circuits.tasks.pairs import PairSet

PLANTED = {
    "string closing": (string_closing.string_closing_model, string_pairs, text_windows),
    "bracket depth": (bracket_depth.bracket_model, bracket_depth.bracket_pairs, bracket_depth.bracket_windows),
    "two hops": (two_hop.two_hop_model, two_hop.two_hop_pairs, two_hop.two_hop_windows),
    "behind a sink": (behind_sink.sink_model, behind_sink.sink_pairs, text_windows),
}
WORDS = (10, 17)  # answers that have nothing to do with any prompt; their logits read random channels
CONFIG = FindConfig(
    margin=1.0,
    seeds=(0,),
    n_random=5,
    n_random_pairs=16,
    n_heldout=32,
    prune=PruneConfig(n_steps=60, candidate_share=0.5),
)


def pairs_of(make, **change) -> Pairs:
    sizes = {"train": 128, "fit": 32, "val": 32, "heldout": 32}
    return Pairs(**{name: make(n, seed=i, **change) for i, (name, n) in enumerate(sizes.items())})


def permute_labels(pairs: PairSet) -> PairSet:
    """The sides of half of the pairs exchanged."""
    swap = torch.rand(len(pairs), generator=torch.Generator().manual_seed(7)) < 0.5
    tokens, last = (torch.where(swap.view(-1, *[1] * (x.dim() - 1)), x.flip(1), x) for x in (pairs.tokens, pairs.last))
    return replace(pairs, tokens=tokens, last=last)


@pytest.mark.parametrize("name", PLANTED)
def test_no_circuit_for_nonsense_or_for_permuted_labels(name):
    make, pairs, windows = PLANTED[name]
    model = make()
    means = measure_means(model, windows(256, 5), source="planted text", weights_sha256="0" * 64)
    own = pairs_of(pairs)
    labels = Pairs(**{split: permute_labels(getattr(own, split)) for split in ("train", "fit", "val", "heldout")})
    for twin in (pairs_of(pairs, answers=WORDS), labels):
        entry = find_in_pairs(model, name, "planted", own, twin, means, CONFIG, str)
        assert entry["status"] == "circuit", "the real task has one"
        assert not entry["nonsense_twin"]["reached"]
        assert entry["nonsense_twin"]["task_loss"]["value"] > 2 * CONFIG.target_loss
        assert entry["nonsense_twin"]["n_edges"]["value"] is None


def test_the_card_of_a_circuit_in_permuted_weights_says_fail(tmp_path):
    model, pairs = string_closing.string_closing_model(), pairs_of(string_pairs)
    means = measure_means(model, text_windows(256, 5), source="planted text", weights_sha256="0" * 64)
    find_in_pairs(model, "strings", "closes strings", pairs, None, means, CONFIG, str, tmp_path)
    circuit = Circuit.load(tmp_path / "strings")
    config = replace(PRESETS["quick"], n_pairs=32)

    def card(model, circuit, means):
        evidence = CardInputs(
            fit=pairs.fit, heldout=pairs.heldout, alive=means.alive, windows=text_windows(64, 9), seeds=[circuit]
        )
        return report_card(model, circuit, evidence, config)

    assert card_verdict(card(model, circuit, means)) == "pass"
    for seed in range(3):
        null = permuted_model(model, seed)
        null_means = measure_means(null, text_windows(256, 5), source="planted text", weights_sha256="1" * 64)
        other = same_nodes(null, circuit, circuit.keep, null_means.values, pairs.fit)
        entries = card(null, other, null_means)
        assert card_verdict(entries) == "fail"
        assert next(entry for entry in entries if entry["name"] == "sufficiency")["verdict"] == "fail"
