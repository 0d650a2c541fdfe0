"""Which criteria decide, their thresholds, and sizes: all in one place; every circuit is held against the same thresholds.

A verdict compares an estimate with a threshold. More data can only make the estimate better: no criterion takes the lack of
evidence against a circuit for evidence, and where the interval covers the threshold and is wider than `MARGINS` allows, nothing
is decided.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sparsetrain.typed import Above0, Count, Index, OpenShare

VERDICT = ("raw accuracy", "worst restored unit", "minimality")
"""The criteria that decide on the card, at most ten; the others are further measurements. The first is there by definition; the
others and their thresholds were chosen by `scripts/calibrate_card.py` on circuits whose truth is known (docs/results/card)."""
MARGINS: Mapping[str, float] = {
    "nats": 0.1,
    "fraction": 0.2,
    "kappa": 0.25,
    "correlation": 0.2,
    "distance": 0.15,
}
"""Unit -> largest half-width of the 95% interval with which an estimate is judged where the interval covers the threshold."""


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """Thresholds and sizes of a report card. All numbers are ours where no source is named; defaults are `full`."""

    max_task_loss: Above0 = 0.21
    """Task loss that a circuit must keep, nats; circuits are pruned to 0.15."""
    max_raw_loss: Above0 = 0.5
    """Task loss without any calibration, nats: below that of a coin, ln 2."""
    min_raw_accuracy: Above0 = 0.75
    min_raw_kappa: Above0 = 0.5
    max_unfaithful: Above0 = 0.2
    """|F(N) - F(C)| as a share of the effect."""
    min_necessity: Above0 = 0.8
    min_removed: Above0 = 0.75
    """Share of the loss of the best random circuits (their 5% quantile, at most ln 2) that the circuit must take away."""
    max_above_attributed: Above0 = 0.05
    """Loss above that of the best nodes by attribution at as many edges, nats."""
    min_caught: Above0 = 0.8
    """Share of the broken circuits that the comparison with random ones must reject."""
    min_more_needed: Above0 = 0.3
    """Share of the effect by which more must be lost without the circuit than without random ones on average."""
    max_incomplete: Above0 = 0.7
    """Largest |F(C without K) - F(N without K)| as a share of the effect."""
    min_node_effect: Above0 = 0.01
    """Share of the circuit's own effect by which removing a node must move the answers to count as needed."""
    min_needed: Above0 = 0.7
    """Share of nodes (and of edges, in the test) that must be needed. Calibrated on nodes."""
    min_cpr: Above0 = 0.8
    max_cmd: Above0 = 0.2
    min_recovered: Above0 = 0.8
    """Loss recovered under causal scrubbing."""
    min_twin_ratio: Above0 = 2.0
    """Edges of the smallest nonsense or null circuit / edges of the circuit."""
    max_partial_loss: Above0 = 0.2
    """Task loss when deleted nodes come back in part, on average, nats."""
    max_worst_loss: Above0 = 0.6931
    """Task loss under the worst partial ablation, nats: ln 2, a guess."""
    max_restored_loss: Above0 = 0.37
    """Task loss with the worst single neuron or head of the rest back, nats. Calibrated."""
    min_roles: Above0 = 0.3
    """Share of what nodes of random circuits lack of a correlation of 1 with the model that the circuit's nodes must make good."""
    max_attention_distance: Above0 = 0.3
    """Jensen-Shannon distance, 0 to 1."""
    min_kappa: Above0 = 0.8
    max_transfer: Above0 = 0.2
    """Loss above the model's on paraphrased pairs, nats."""
    min_shared_errors: Above0 = 0.5
    min_jaccard: Above0 = 0.5
    max_other_damage: Above0 = 0.5
    """Damage to another task as a share of the damage to its own."""
    max_text_damage: Above0 = 0.1
    """Rise of the loss on pretraining text, nats/token."""
    max_robust_loss: Above0 = 0.3
    """Task loss up to which a circuit survives another way to delete, nats: twice the target."""
    min_robust: Above0 = 0.75
    """Share of the ways to delete that it must survive."""
    max_binarised_loss: Above0 = 0.3
    max_difference: Above0 = 0.15
    """Mean distance between the answers of circuit and model, as probabilities."""
    max_dependence: Above0 = 0.2
    """How much of the model's output what is left without the circuit may know: 0 by chance, 1 all."""
    alpha: OpenShare = 0.05
    """Level of the tests, before Bonferroni (Shi et al. 2024)."""
    still: Above0 = 0.01
    """Spread of the complement, as a share of the effect, below which it counts as constant."""
    min_pairs: Count = 16
    """Distinct pairs below which nothing that is measured on pairs is judged."""
    min_seeds: Count = 5
    min_errors: Count = 10
    """Errors of the model below which its errors are not compared."""
    n_pairs: Count = 64
    """Pairs of each set used at most; the first ones."""
    min_broken: Count = 3
    """Broken circuits below which the comparison's power is not judged."""
    min_broken_rise: Above0 = 0.1
    """Rise of the loss on the fit pairs from which on a circuit without a node counts as broken, nats."""
    n_broken: Count = 16
    """Broken circuits at most: those without the nodes that raise the loss most."""
    n_random: Count = 100
    n_random_pairs: Count = 16
    """Pairs on which random circuits, and random edges, are compared with the circuit's own."""
    n_random_necessity: Count = 40
    n_random_roles: Count = 20
    """Random circuits whose nodes' roles are compared with those of the circuit's."""
    n_subsets: Count = 50
    """Random halves of the circuit, besides its single nodes."""
    n_singles: Count = 100
    """Single nodes at most."""
    n_partial: Count = 32
    """Draws of a random partial ablation."""
    n_adversary_steps: Count = 20
    n_adversary_starts: Count = 2
    adversary_step: OpenShare = 0.1
    """Change of every share per step of the adversary."""
    n_restored_pairs: Count = 8
    """Pairs on which every neuron and head of the rest comes back alone."""
    n_restored: Count = 32
    """Of these, the worst that come back alone on all pairs."""
    n_scrub: Count = 8
    n_scrub_places: Count = 512
    """Places of pretraining text to resample from."""
    n_resample: Count = 4
    """Places per resample cell of the table of ablations."""
    n_inflated: Index = 1000
    """Random inflated edges of the minimality test at most (it needs 20 per edge of the circuit); 0: no test."""
    n_permutations: Count = 1000
    """Permutations that say what dependence chance alone shows."""
    n_seeds: Count = 5
    """Mask seeds whose circuits are compared; those that the search did not run are searched for the card."""
    n_nulls: Index = 1
    """Null models of each kind (permuted weights, permuted labels) that are searched; 0: none."""
    n_boot: Count = 1000
    max_rows: Count = 256
    """Prompts per pass."""
    seed: Index = 0


PRESETS = {
    "quick": CardConfig(
        n_pairs=32,
        n_random=40,
        n_random_necessity=10,
        n_broken=8,
        n_subsets=8,
        n_singles=8,
        n_partial=4,
        n_adversary_steps=5,
        n_adversary_starts=1,
        adversary_step=0.25,
        n_scrub=2,
        n_scrub_places=128,
        n_resample=1,
        n_inflated=0,
        n_permutations=200,
        n_seeds=1,
        n_nulls=0,
    ),
    "full": CardConfig(),
}
"""Named settings: the same thresholds, fewer draws and pairs in `quick`."""
