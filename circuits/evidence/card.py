"""The report card of a circuit: every criterion with its value, interval, sample size, threshold and a plain verdict.

1. A criterion stands in the file of its question, with its measurement; this module puts them in order.
2. A verdict compares the value with the threshold: pass or fail. With fewer samples than the criterion needs, an interval that is
   wide and covers the threshold, or without its inputs (seeds, twins, other tasks ...), it is "not enough data", never pass.
3. The card passes if every criterion does that decides (`thresholds.VERDICT`, `circuits.section.card_verdict`). The others say
   what kind of circuit it is; failing them is shown.
"""

from collections.abc import Callable

from circuits.circuit import Circuit
from circuits.evidence import (
    agreement,
    curve,
    deletions,
    effect,
    hypotheses,
    partial,
    random_circuits,
    roles,
    searches,
    specificity,
)
from circuits.evidence.examination import CardInputs, Criterion, Examination
from circuits.evidence.thresholds import CardConfig
from circuits.section import CardEntry
from sparsetrain.model import Transformer

CRITERIA: tuple[Criterion, ...] = (
    effect.sufficiency,
    effect.raw_loss,
    effect.raw_accuracy,
    effect.faithfulness,
    effect.circuit_necessity,
    random_circuits.needed_more,
    effect.completeness,
    effect.minimality,
    curve.cpr,
    curve.cmd,
    deletions.scrubbing,
    roles.binarised,
    searches.nonsense_twin,
    searches.null_models,
    random_circuits.beaten,
    random_circuits.caught,
    random_circuits.above_attributed,
    partial.random_partial,
    partial.worst_partial,
    partial.worst_restored,
    roles.node_roles,
    roles.attention_shift,
    agreement.heldout_agreement,
    agreement.raw_agreement,
    agreement.template_transfer,
    agreement.paraphrased_agreement,
    agreement.shifted_agreement,
    agreement.shared_errors,
    searches.seeds_overlap,
    specificity.other_tasks,
    specificity.pretraining_damage,
    deletions.robustness,
    hypotheses.difference,
    hypotheses.dependence_of_rest,
    hypotheses.minimality_test,
    random_circuits.sufficiency_test,
)
"""All questions, in the order of the card."""


def report_card(
    model: Transformer,
    circuit: Circuit,
    inputs: CardInputs,
    config: CardConfig,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[CardEntry, ...]:
    """Judges a circuit by every criterion, in the order of `CRITERIA`.

    Args:
        model: the model it belongs to, in eval mode.
        circuit: nodes, edges, means and calibration.
        inputs: pairs and what else the criteria need.
        config: thresholds and sizes.
        progress: called with (criterion, done, total).

    Raises:
        ValueError: a circuit of another model.
    """
    circuit.hooks(model)  # refuses another model's circuit
    exam = Examination(model=model, circuit=circuit, inputs=inputs, config=config)
    entries: list[CardEntry] = []
    for i, criterion in enumerate(CRITERIA):
        if progress is not None:
            progress(criterion.name, i, len(CRITERIA))
        entries.append(criterion.entry(exam))
    return tuple(entries)
