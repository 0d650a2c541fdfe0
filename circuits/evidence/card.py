"""The report card of a circuit: every criterion with its value, interval, sample size, threshold and a plain verdict.

1. `circuits.evidence` measures; this module knows the questions, the thresholds and how to judge.
2. A verdict compares the value with the threshold: pass or fail. With fewer samples than the criterion needs, or without
   its inputs (seeds, twins, other tasks ...), it is "not enough data", never pass.
3. The card passes if every core criterion does. The others say what kind of circuit it is; failing them is shown. Where a
   circuit was pruned to a loss above the model's, it cannot have the model's logit differences: faithfulness and
   completeness, which compare those, are not core.

Two presets: `quick` (seconds on a small model) and `full`. They share all thresholds and differ in draws and pairs.

The criteria stand in one file, each as its question, threshold and measurement, so that a card can be read from top to bottom.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from circuits.circuit import Circuit
from circuits.evidence.ablations import Cell, ablation_table, robustness, text_values
from circuits.evidence.agreement import agreement, shared_errors
from circuits.evidence.binarise import binarised
from circuits.evidence.curve import cpr_and_cmd
from circuits.evidence.effect import completeness, faithfulness, minimality, necessities, subsets
from circuits.evidence.hypotheses import equivalence, independence, minimality_test, sufficiency_test
from circuits.evidence.measurement import Measurement, Verdict, bootstrap_statistic, jaccard, missing, share
from circuits.evidence.nulls import NullResult, size_ratio
from circuits.evidence.partial import random_partial, worst_partial
from circuits.evidence.random_circuits import random_circuits, random_losses
from circuits.evidence.roles import attention_shift, node_roles
from circuits.evidence.scrubbing import scrubbed
from circuits.evidence.specificity import other_tasks, pretraining_damage
from circuits.evidence.subject import Subject
from circuits.tasks.loss import pair_logit_diff, pair_task_loss
from circuits.tasks.pairs import PairSet
from sparsetrain.model import Transformer
from sparsetrain.report import number

Sense = Literal["at least", "at most"]
NO_WINDOWS = "no pretraining text was given"


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """Thresholds and sizes of a report card. All numbers are ours where no source is named; defaults are `full`."""

    max_task_loss: float = 0.15
    """Task loss that a circuit must keep, also partly ablated on average, nats (paper, section 2.2)."""
    max_unfaithful: float = 0.2
    """|F(N) - F(C)| as a share of the effect."""
    min_necessity: float = 0.8
    min_beaten: float = 0.9
    """Share of random circuits (or sets) that the circuit must beat."""
    max_incomplete: float = 0.2
    """Largest |F(C without K) - F(N without K)| as a share of the effect."""
    min_node_effect: float = 0.01
    """Share of the effect by which removing a node must move the answers to count as needed."""
    min_needed: float = 0.9
    """Share of nodes (and of edges, in the test) that must be needed."""
    min_cpr: float = 0.8
    max_cmd: float = 0.2
    min_recovered: float = 0.8
    """Loss recovered under causal scrubbing."""
    min_twin_ratio: float = 2.0
    """Edges of the smallest nonsense or null circuit / edges of the circuit."""
    max_worst_loss: float = 0.6931
    """Task loss under the worst partial ablation, nats: ln 2, a guess."""
    min_role_correlation: float = 0.8
    max_attention_distance: float = 0.3
    """Jensen-Shannon distance, 0 to 1."""
    min_kappa: float = 0.8
    min_shared_errors: float = 0.5
    min_jaccard: float = 0.5
    max_other_damage: float = 0.5
    """Damage to another task as a share of the damage to its own."""
    max_text_damage: float = 0.1
    """Rise of the loss on pretraining text, nats/token."""
    max_robust_loss: float = 0.3
    """Task loss up to which a circuit survives another way to delete, nats: twice the target."""
    min_robust: float = 0.75
    """Share of the ways to delete that it must survive."""
    max_binarised_loss: float = 0.3
    alpha: float = 0.05
    """Level of the tests, before Bonferroni (Shi et al. 2024)."""
    equivalence_eps: float = 0.1
    """Distance from 1/2 that still counts as equal (Shi et al. 2024)."""
    still: float = 0.01
    """Spread of the complement, as a share of the effect, below which it counts as constant."""
    min_pairs: int = 16
    """Pairs below which nothing that is measured on pairs is judged."""
    min_seeds: int = 5
    min_errors: int = 10
    """Errors of the model below which its errors are not compared."""
    n_pairs: int = 64
    """Pairs of each set used at most; the first ones."""
    n_random: int = 100
    n_random_pairs: int = 16
    """Pairs on which random circuits, and random edges, are compared with the circuit's own."""
    n_random_necessity: int = 40
    n_subsets: int = 50
    """Random halves of the circuit, besides its single nodes."""
    n_singles: int = 100
    """Single nodes at most."""
    n_partial: int = 32
    """Draws of a random partial ablation."""
    n_adversary_steps: int = 20
    n_adversary_starts: int = 2
    adversary_step: float = 0.1
    """Change of every share per step of the adversary."""
    n_scrub: int = 8
    n_scrub_places: int = 512
    """Places of pretraining text to resample from."""
    n_resample: int = 4
    """Places per resample cell of the table of ablations."""
    n_inflated: int = 1000
    """Random inflated edges of the minimality test at most (it needs 20 per edge of the circuit); 0: no test."""
    n_permutations: int = 1000
    n_seeds: int = 5
    """Mask seeds whose circuits are compared; those that the search did not run are searched for the card."""
    n_nulls: int = 1
    """Null models of each kind (permuted weights, permuted labels) that are searched; 0: none."""
    n_boot: int = 1000
    max_rows: int = 256
    """Prompts per pass."""
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"n_inflated": 0, "n_nulls": 0, "seed": 0}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, int) and value < least.get(name, 1):
                raise ValueError(f"card.{name}={value} must be at least {least.get(name, 1)}")
            if isinstance(value, float) and not value > 0:
                raise ValueError(f"card.{name}={value} must be above 0")
        for name in ("alpha", "adversary_step"):
            if not getattr(self, name) < 1:
                raise ValueError(f"card.{name}={getattr(self, name)} must be below 1")
        if not self.equivalence_eps < 0.5:
            raise ValueError(f"card.equivalence_eps={self.equivalence_eps} must be below 0.5")


PRESETS = {
    "quick": CardConfig(
        n_pairs=32,
        n_random=40,
        n_random_necessity=10,
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


@dataclass(frozen=True, kw_only=True)
class CardInputs:
    """What the card is judged on. What is absent leaves its criteria at "not enough data".

    Args:
        fit: pairs on which everything but the circuit is calibrated, disjoint from those below.
        heldout: pairs that nothing was fitted to.
        alive: bool `[n_nodes]`, nodes active in pretraining text (`Means.alive`): random circuits are drawn from them.
        shifted: pairs of the task's shifted split.
        windows: int64 `[n, pos]`, pretraining text that the means were not taken from.
        others: name -> (fit, held-out) pairs of other tasks that the model solves.
        seeds: circuits of this task found from different mask seeds, this one among them.
        twin_n_edges: per nonsense twin searched, the edges of its circuit at equal loss, None if none was found.
        nulls: what the search found in null models (`critique.nulls.search_nulls`).
        edge_scores: importance of every weight for CPR and CMD, linear's path -> `[target, source]`.
    """

    fit: PairSet
    heldout: PairSet
    alive: Tensor
    shifted: PairSet | None = None
    windows: Tensor | None = None
    others: Mapping[str, tuple[PairSet, PairSet]] = field(default_factory=dict)
    seeds: Sequence[Circuit] = ()
    twin_n_edges: Sequence[int | None] = ()
    nulls: Sequence[NullResult] = ()
    edge_scores: Mapping[str, Tensor] | None = None


class Case:
    """One circuit under examination: what several criteria share is computed when the first of them asks."""

    def __init__(self, model: Transformer, circuit: Circuit, evidence: CardInputs, config: CardConfig) -> None:
        circuit.hooks(model)  # refuses another model's circuit
        self.model, self.circuit, self.evidence, self.config = model, circuit, evidence, config
        self.subject = Subject(
            model=model,
            space=circuit.space,
            keep=circuit.keep,
            means=circuit.means,
            calibration=circuit.calibration,
            fit=evidence.fit.batch(slice(0, config.n_pairs)),
            heldout=evidence.heldout.batch(slice(0, config.n_pairs)),
            max_rows=config.max_rows,
        )

    @cached_property
    def answers(self) -> Tensor:
        """Calibrated answers of the circuit, `[n, side, answer]`."""
        return self.subject.calibration.apply(self.subject.own)

    @cached_property
    def full_answers(self) -> Tensor:
        """Calibrated answers of the full model."""
        return self.subject.full_calibration.apply(self.subject.full)

    @cached_property
    def shifted_answers(self) -> tuple[Tensor, Tensor] | None:
        """Calibrated answers of circuit and model on the shifted pairs."""
        if self.evidence.shifted is None:
            return None
        pairs, subject = self.evidence.shifted.batch(slice(0, self.config.n_pairs)), self.subject
        own, full = subject.answers(torch.stack([subject.keep, subject.everything]), pairs)
        return subject.calibration.apply(own), subject.full_calibration.apply(full)

    @cached_property
    def random(self) -> Tensor:
        """Random circuits of the same size and place, bool `[n_random, n_nodes]`."""
        n, seed = self.config.n_random, self.config.seed
        return random_circuits(self.subject.space, self.subject.keep, self.evidence.alive.cpu(), n, seed)

    @cached_property
    def losses(self) -> list[float]:
        """Task loss of the circuit, then of the random ones, all calibrated alike on the same few pairs."""
        some = [p.batch(slice(0, self.config.n_random_pairs)) for p in (self.subject.fit, self.subject.heldout)]
        masks = torch.cat([self.subject.keep[None], self.random])
        subject = self.subject
        return random_losses(
            self.model, subject.space, masks, subject.means, some[0], some[1], subject.max_rows
        ).tolist()

    @cached_property
    def needed(self) -> tuple[Measurement, Measurement]:
        """Necessity, and how it stands among random sets."""
        random = self.random[: self.config.n_random_necessity]
        return necessities(self.subject, random, self.config.n_random_pairs, self.config.seed, self.config.n_boot)

    @cached_property
    def curve(self) -> tuple[Measurement, Measurement]:
        """CPR and CMD."""
        scores, config = self.evidence.edge_scores, self.config
        return cpr_and_cmd(self.subject, self.circuit.edges, scores, config.seed, config.n_boot)

    @cached_property
    def cells(self) -> list[Cell]:
        """The table of ablations."""
        return ablation_table(
            self.subject,
            self.circuit.edges,
            self.evidence.windows,
            n_draws=self.config.n_resample,
            seed=self.config.seed,
        )


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """One question of the card.

    Args:
        name: key of its entry.
        group: which part of the critique or of the metrics it belongs to.
        question: what it asks, one sentence.
        sense: whether the value must be at least or at most the threshold.
        limit: name of the threshold in `CardConfig`.
        measure: takes the measurement.
        needs: name of the smallest sample size in `CardConfig`, None: one.
        core: whether the card as a whole depends on it.
    """

    name: str
    group: str
    question: str
    sense: Sense
    limit: str
    measure: Callable[[Case], Measurement]
    needs: str | None = None
    core: bool = False


def _sufficiency(case: Case) -> Measurement:
    losses = pair_task_loss(case.answers).double()
    low, high = bootstrap_statistic(losses, lambda x: x.mean(-1), case.config.seed, case.config.n_boot)
    return Measurement(value=float(losses.mean()), unit="nats", n=len(losses), lo=low, hi=high)


def _completeness(case: Case) -> Measurement:
    parts = subsets(case.subject.keep, case.config.n_subsets, case.config.seed, case.config.n_singles)
    return completeness(case.subject, parts, case.config.seed, case.config.n_boot)


def _random_circuits(case: Case) -> Measurement:
    own, *others = case.losses
    note = f"n counts circuits; the circuit's loss {own:.3f}, the best random one's {min(others):.3f}"
    return share(sum(own < other for other in others), len(others), note=note)


def _scrubbing(case: Case) -> Measurement:
    windows, config = case.evidence.windows, case.config
    if windows is None:
        return missing("fraction", NO_WINDOWS)
    pool = text_values(case.model, case.subject.space, windows, config.n_scrub_places, config.seed)
    return scrubbed(case.subject, pool, config.n_scrub, config.seed, config.n_boot)


def _worst_partial(case: Case) -> Measurement:
    config = case.config
    return worst_partial(
        case.subject,
        case.subject.heldout,
        n_steps=config.n_adversary_steps,
        n_starts=config.n_adversary_starts,
        step=config.adversary_step,
        seed=config.seed,
        n_boot=config.n_boot,
    )


def _shifted_agreement(case: Case) -> Measurement:
    if case.shifted_answers is None:
        return missing("kappa", "no shifted pairs were given")
    return agreement(*case.shifted_answers, case.config.seed, case.config.n_boot)


def _shared_errors(case: Case) -> Measurement:
    parts = [(case.answers, case.full_answers)] + ([case.shifted_answers] if case.shifted_answers is not None else [])
    circuit, model = (torch.cat(answers) for answers in zip(*parts, strict=True))
    return shared_errors(circuit, model)


def _seeds(case: Case) -> Measurement:
    sets = [set(circuit.node_ids) for circuit in case.evidence.seeds]
    core = set.intersection(*sets) if sets else set()
    detail = {"core_nodes": sorted(core, key=case.subject.space.number)}
    note = f"n counts seeds; {len(core)} nodes are in all"
    return Measurement(value=jaccard(sets), unit="fraction", n=len(sets), note=note, detail=detail)


def _pretraining(case: Case) -> Measurement:
    if case.evidence.windows is None:
        return missing("nats/token", NO_WINDOWS)
    return pretraining_damage(case.subject, case.evidence.windows, case.config.seed, case.config.n_boot)


def _equivalence(case: Case) -> Measurement:
    circuit, model = (pair_task_loss(answers) for answers in (case.answers, case.full_answers))
    return equivalence(circuit, model, case.config.equivalence_eps)


def _independence(case: Case) -> Measurement:
    config, subject = case.config, case.subject
    return independence(
        pair_logit_diff(subject.full),
        pair_logit_diff(subject.without),
        subject.effect,
        still=config.still,
        n_permutations=config.n_permutations,
        seed=config.seed,
    )


def _minimality_test(case: Case) -> Measurement:
    config = case.config
    pairs = case.subject.heldout.batch(slice(0, config.n_random_pairs))
    return minimality_test(
        case.model, case.circuit, pairs, n_draws=config.n_inflated, alpha=config.alpha, seed=config.seed
    )


CRITERIA = (
    Criterion(
        name="sufficiency",
        group="metrics",
        question="Does the circuit alone, all else at its mean, keep the task loss on pairs it was not fitted to?",
        sense="at most",
        limit="max_task_loss",
        measure=_sufficiency,
        needs="min_pairs",
        core=True,
    ),
    Criterion(
        name="faithfulness",
        group="metrics",
        question="How far is the circuit's logit difference from the model's, as a share of the model's effect?",
        sense="at most",
        limit="max_unfaithful",
        measure=lambda case: faithfulness(case.subject, case.config.seed, case.config.n_boot),
        needs="min_pairs",
    ),
    Criterion(
        name="necessity",
        group="metrics",
        question="How much of the model's effect is lost when only the circuit is taken out?",
        sense="at least",
        limit="min_necessity",
        measure=lambda case: case.needed[0],
        needs="min_pairs",
        core=True,
    ),
    Criterion(
        name="necessity among random sets",
        group="metrics",
        question="Is more lost without the circuit than without random sets of the same size and place?",
        sense="at least",
        limit="min_beaten",
        measure=lambda case: case.needed[1],
    ),
    Criterion(
        name="completeness",
        group="metrics",
        question="Do circuit and model react alike when parts of the circuit are taken out of both?",
        sense="at most",
        limit="max_incomplete",
        measure=_completeness,
    ),
    Criterion(
        name="minimality",
        group="metrics",
        question="What share of the nodes moves the answers when it is taken out of the circuit?",
        sense="at least",
        limit="min_needed",
        measure=lambda case: minimality(case.subject, case.config.min_node_effect),
        core=True,
    ),
    Criterion(
        name="CPR",
        group="metrics",
        question="How much of the effect is there, on average, as edges are added, the circuit's first?",
        sense="at least",
        limit="min_cpr",
        measure=lambda case: case.curve[0],
        needs="min_pairs",
    ),
    Criterion(
        name="CMD",
        group="metrics",
        question="How far from the model's effect is it, on average, as edges are added, the circuit's first?",
        sense="at most",
        limit="max_cmd",
        measure=lambda case: case.curve[1],
        needs="min_pairs",
    ),
    Criterion(
        name="causal scrubbing",
        group="metrics",
        question="How much of the loss is recovered when all nodes outside the circuit are resampled from text?",
        sense="at least",
        limit="min_recovered",
        measure=_scrubbing,
        needs="min_pairs",
    ),
    Criterion(
        name="binarised loss",
        group="metrics",
        question="Does the circuit keep the task when every node of it may take two values only?",
        sense="at most",
        limit="max_binarised_loss",
        measure=lambda case: binarised(case.subject, case.config.seed, case.config.n_boot),
        needs="min_pairs",
    ),
    Criterion(
        name="nonsense twin",
        group="critique 1",
        question="How much larger is the circuit that the same search finds for unrelated answers?",
        sense="at least",
        limit="min_twin_ratio",
        measure=lambda case: size_ratio(case.circuit.n_edges, case.evidence.twin_n_edges),
    ),
    Criterion(
        name="null models",
        group="critique 2",
        question="How much larger is what the search finds in permuted weights or for permuted labels?",
        sense="at least",
        limit="min_twin_ratio",
        measure=lambda case: size_ratio(case.circuit.n_edges, [null.n_edges for null in case.evidence.nulls]),
    ),
    Criterion(
        name="random circuits",
        group="critique 3",
        question="What share of random circuits of the same size and place has a higher loss?",
        sense="at least",
        limit="min_beaten",
        measure=_random_circuits,
        core=True,
    ),
    Criterion(
        name="partial ablation",
        group="critique 4",
        question="Does the circuit keep the task loss, on average, when deleted nodes come back in part?",
        sense="at most",
        limit="max_task_loss",
        measure=lambda case: random_partial(case.subject, case.config.n_partial, case.config.seed, case.config.n_boot),
        needs="min_pairs",
    ),
    Criterion(
        name="worst partial ablation",
        group="critique 4",
        question="Does it stay better than a guess under the worst partial ablation found by gradient ascent?",
        sense="at most",
        limit="max_worst_loss",
        measure=_worst_partial,
        needs="min_pairs",
    ),
    Criterion(
        name="node roles",
        group="critique 5",
        question="Do the circuit's nodes vary in the circuit as they do in the model?",
        sense="at least",
        limit="min_role_correlation",
        measure=lambda case: node_roles(case.subject, case.config.seed, case.config.n_boot),
        core=True,
    ),
    Criterion(
        name="attention",
        group="critique 5",
        question="How far is the attention of the circuit's heads, sink included, from what it is in the model?",
        sense="at most",
        limit="max_attention_distance",
        measure=lambda case: attention_shift(case.subject, case.config.seed, case.config.n_boot),
        needs="min_pairs",
    ),
    Criterion(
        name="agreement, held-out",
        group="critique 6",
        question="Does the circuit give the model's answers on held-out prompts (Cohen's kappa)?",
        sense="at least",
        limit="min_kappa",
        measure=lambda case: agreement(case.answers, case.full_answers, case.config.seed, case.config.n_boot),
        needs="min_pairs",
        core=True,
    ),
    Criterion(
        name="agreement, shifted",
        group="critique 6",
        question="Does the circuit give the model's answers on longer prompts with distractors (Cohen's kappa)?",
        sense="at least",
        limit="min_kappa",
        measure=_shifted_agreement,
        needs="min_pairs",
    ),
    Criterion(
        name="shared errors",
        group="critique 6",
        question="Where the model is wrong, is the circuit wrong too?",
        sense="at least",
        limit="min_shared_errors",
        measure=_shared_errors,
        needs="min_errors",
    ),
    Criterion(
        name="seeds",
        group="critique 7",
        question="Do circuits found from different mask seeds share their nodes (Jaccard)?",
        sense="at least",
        limit="min_jaccard",
        measure=_seeds,
        needs="min_seeds",
    ),
    Criterion(
        name="other tasks",
        group="critique 8",
        question="How much does taking the circuit out hurt the most affected other task, beside its own?",
        sense="at most",
        limit="max_other_damage",
        measure=lambda case: other_tasks(case.subject, case.evidence.others),
    ),
    Criterion(
        name="pretraining loss",
        group="critique 8",
        question="By how much does the loss on pretraining text rise without the circuit?",
        sense="at most",
        limit="max_text_damage",
        measure=_pretraining,
    ),
    Criterion(
        name="robustness",
        group="critique 9",
        question="What share of the ways to delete (value x nodes or edges x norms) does the circuit survive?",
        sense="at least",
        limit="min_robust",
        measure=lambda case: robustness(case.cells, case.config.max_robust_loss),
    ),
    Criterion(
        name="equivalence test",
        group="tests",
        question="Do circuit and model beat each other equally often (rejected below the threshold)?",
        sense="at least",
        limit="alpha",
        measure=_equivalence,
        needs="min_pairs",
    ),
    Criterion(
        name="independence test",
        group="tests",
        question="Is what is left without the circuit independent of the model's output (rejected below)?",
        sense="at least",
        limit="alpha",
        measure=_independence,
        needs="min_pairs",
    ),
    Criterion(
        name="minimality test",
        group="tests",
        question="What share of the edges matters more than random edges of an inflated circuit?",
        sense="at least",
        limit="min_needed",
        measure=_minimality_test,
    ),
    Criterion(
        name="sufficiency test",
        group="tests",
        question="How likely is so low a loss for a random circuit of the same size and place?",
        sense="at most",
        limit="alpha",
        measure=lambda case: sufficiency_test(case.losses[0], case.losses[1:]),
    ),
)
"""All questions, in the order of the card."""


def judge(found: Measurement, sense: Sense, threshold: float, n_least: int) -> Verdict:
    """The verdict on a measurement: by its own word, by its sample size, then by its value."""
    if found.verdict is not None:
        return found.verdict
    if found.n < n_least or found.value is None or found.value != found.value:
        return "not enough data"
    held = found.value >= threshold if sense == "at least" else found.value <= threshold
    return "pass" if held else "fail"


def report_card(
    model: Transformer,
    circuit: Circuit,
    evidence: CardInputs,
    config: CardConfig,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Judges a circuit by every criterion.

    Args:
        model: the model it belongs to, in eval mode.
        circuit: nodes, edges, means and calibration.
        evidence: pairs and what else the criteria need.
        config: thresholds and sizes.
        progress: called with (criterion, done, total).

    Returns:
        One entry of plain JSON data per criterion, in the order of `CRITERIA`: `name group question core value (a
        number: value, unit, interval, n, note) threshold ({sense, value}) verdict detail`.

    Raises:
        ValueError: a circuit of another model.
    """
    case = Case(model, circuit, evidence, config)
    entries = []
    for i, criterion in enumerate(CRITERIA):
        if progress is not None:
            progress(criterion.name, i, len(CRITERIA))
        found = criterion.measure(case)
        threshold = getattr(config, criterion.limit)
        n_least = 1 if criterion.needs is None else getattr(config, criterion.needs)
        value = number(
            found.value,
            found.unit,
            n=found.n,
            lo=found.lo,
            hi=found.hi,
            seed=config.seed,
            note=found.note or None,
        )
        entries.append(
            {
                "name": criterion.name,
                "group": criterion.group,
                "question": criterion.question,
                "core": criterion.core,
                "value": value,
                "threshold": {"sense": criterion.sense, "value": threshold},
                "verdict": judge(found, criterion.sense, threshold, n_least),
                "detail": dict(found.detail),
            }
        )
    return entries


def card_verdict(entries: Sequence[Mapping[str, Any]]) -> Verdict:
    """The card as a whole: fail if any core criterion fails, else not enough data if any lacks it, else pass."""
    verdicts = [entry["verdict"] for entry in entries if entry["core"]]
    for verdict in ("fail", "not enough data"):
        if verdict in verdicts:
            return verdict
    return "pass"
