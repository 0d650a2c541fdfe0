"""How sparse the representation is at the token that predicts the answer, case by case: of contexts that contradict memory against those that agree."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from circuits.prior.asking import Asks, Subject, over
from circuits.prior.cases import Case, Form, Neutral
from circuits.prior.scores import Floats
from sparsetrain.representation.items import Arrays
from sparsetrain.representation.measures import HEADLINE, MEASURES
from sparsetrain.store import fingerprint

FINAL = "final_norm.hook_norm"
"""What the unembedding reads, before its gain: the place that verdicts are about, as in the other studies."""


def sparsity(
    subject: Subject,
    cases: Sequence[Case],
    form: Form,
    folder: Path | None = None,
    on_cases: Callable[[int], object] = lambda n: None,
) -> Floats:
    """The headline measure at the last position of each prompt, turned so that higher is sparser: `[n_cases]`, NaN of cases that lack the form.

    Args:
        subject: gives the batch size; shows `FINAL`.
        cases: of any length.
        form: of the prompts.
        folder: keeps batches under a name of weights, prompts and measure. None: nothing is kept.
        on_cases: called with the number of cases of each batch.

    Raises:
        KeyError: the model does not show the hook point.
    """
    measure, place = MEASURES[HEADLINE], None
    there = [case for case in cases if form in case.prompts]
    found = np.full(len(cases), np.nan)
    on_cases(len(cases) - len(there))
    if not there:
        return found
    if folder is not None:
        prompts = [list(case.prompts[form]) for case in there]
        place = folder / fingerprint([subject.weights_sha256, prompts, FINAL, HEADLINE])[:32]

    def read(numbers: Sequence[int]) -> Arrays:
        some = [there[i] for i in numbers]
        # An answer of one token has one row, the prompt itself.
        ends = [Neutral(place=case.place, prompts=case.prompts, text=case.prior[:1]) for case in some]
        rows = Asks(ends).rows(form)
        h = subject.seen(rows, (FINAL,))[FINAL][torch.arange(len(some)), rows.prompt_ends].float().cpu()
        values = measure.fn(h).double().numpy()
        return {"sparsity": values if measure.direction == "higher" else -values}

    rows = [form in case.prompts for case in cases]
    found[rows] = over(there, read, subject.batch_size, place, on_cases)["sparsity"]
    return found
