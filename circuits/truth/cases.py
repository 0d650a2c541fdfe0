"""Which circuits the card is calibrated on, and what it says of each.

1. `plan`: cases in two halves. Families of mechanisms, trained models and their tasks are on one side alone: nothing that sets a
   threshold is seen by the half that judges.
2. Every planted model gives one true circuit (in every other one what the search finds of it) and false ones: two kinds in
   turn, and that kind which its form alone has.
3. `judge_case` plants, finds and takes the card, as a user would: own model, own pairs, own twin at equal budget.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from random import Random
from typing import Literal

import torch
from torch import Tensor

from circuits.edges import size_of
from circuits.evidence.card import report_card
from circuits.evidence.examination import CardInputs, Searched
from circuits.evidence.thresholds import PRESETS
from circuits.means import measure_means
from circuits.search.task import Pairs
from circuits.section import CardEntry
from circuits.tasks import TASKS, UnsuitableTask
from circuits.truth.falsehoods import (
    EVERYWHERE,
    FIND,
    Falsehood,
    Place,
    Specimen,
    false_specimen,
    own_twin,
    place_of,
    true_specimen,
)
from circuits.truth.hosts import EOT, Host, planted_host, trained_host
from circuits.truth.mechanisms import FAMILIES
from circuits.truth.plants import Form, Plant, forms_of, plant
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.model import Transformer

Half = Literal["setting", "judging"]
Kind = Literal["true"] | Falsehood
HALVES: dict[Half, tuple[str, ...]] = {
    "setting": ("closing", "lookup", "chain"),
    "judging": ("seen", "agree", "depth", "both"),
}
"""Families of mechanisms; those of a half do not share a stage with those of the other."""
TRANSPLANTED = ("closing", "lookup", "chain", "seen", "agree")
"""Families that are transplanted; the thresholds of depth and both drown in a trained model's clutter."""
N_TRIES = 4
"""Seeds that are tried until a mechanism works in its host. ours"""
MODEL_LOSSES = (0.03, 0.06, 0.09)
"""Task losses of the models, in turn: real ones are not sure, and circuits are pruned to .15. ours"""
IN_TRAINED: tuple[Form, ...] = ("superposed", "compensating", "dormant")
"""Forms that are transplanted; the plain ones are in them. ours"""
OF_FORM: Mapping[Form, Falsehood] = {"compensating": "halved", "dormant": "dormant"}
"""The kind of false circuit that a form alone has."""
LEAK = 0.3
"""Scale of the random weights between host and graft, in every other plant. ours"""
CARD = PRESETS["quick"]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished run's model.

    Args:
        name: of the run.
        windows: int64 `[n, pos]`, its text.
    """

    name: str
    model: Transformer
    tokenizer: Tokenizer
    windows: Tensor
    weights_sha256: str


@dataclass(frozen=True, kw_only=True)
class Case:
    """One circuit whose truth is known.

    Args:
        kind: "true", or in which way it is false.
        host: "planted", or the name of a trained run.
        family: of the mechanism; of own twins the task.
        form: None for own twins.
        seed: of plant and host.
        model_loss: that the full model is to have, nats; 0 for own twins.
        searched: a true circuit is what the search finds.
    """

    half: Half
    kind: Kind
    host: str
    family: str
    form: Form | None
    seed: int
    model_loss: float = 0.0
    searched: bool = False

    @property
    def name(self) -> str:
        """Says which; also of its file."""
        parts = (self.half, self.host, self.family, self.form or "own", str(self.seed), self.kind.replace(" ", "_"))
        return "-".join(parts)


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """What the card says of a case.

    Args:
        reached: whether its search met the target; None where there was none.
        card: empty where there is no such circuit: the mechanism does not work in its host, or the search found nothing.
        note: why there is none.
    """

    case: Case
    n_nodes: int = 0
    n_edges: int = 0
    reached: bool | None = None
    card: tuple[CardEntry, ...] = ()
    note: str = ""


def plan(
    n: int, runs: Sequence[str], families: Collection[str] = (), forms: Collection[Form] = (), n_own: int = 0
) -> list[Case]:
    """All cases: `n` seeds of every family and form in planted models, one in a trained model, and own twins of the runs.

    Args:
        runs: names of trained models; every other one belongs to a half.
        n_own: tasks of every run whose twins are searched in its own model.
        families: those alone; none: all.
        forms: those alone; none: all.

    Raises:
        ValueError: a name of no family.
    """
    if unknown := sorted(set(families) - FAMILIES.keys()):
        raise ValueError(f"families={list(families)} has unknown {unknown}; allowed: {', '.join(FAMILIES)}")
    cases = [case for i, half in enumerate(HALVES) for case in _half(half, n, runs[i::2], n_own, i)]
    wanted = [case for case in cases if not families or case.family in families]
    return [case for case in wanted if not forms or case.form in forms]


def _half(half: Half, n: int, runs: Sequence[str], n_own: int, i: int) -> list[Case]:
    """The cases of one half; it gets every other task of its runs, from the i-th."""
    plants = _kinds_of_plant(half)
    transplants = [pair for pair in plants if pair[0] in TRANSPLANTED and pair[1] in IN_TRAINED]
    everywhere = [("planted", seed, pair) for seed in range(n) for pair in plants]
    everywhere += [(run, 0, pair) for run in runs for pair in transplants]
    cases: list[Case] = []
    for turn, (host, seed, (family, form)) in enumerate(everywhere):
        kinds: list[Falsehood] = [EVERYWHERE[(2 * turn + j) % len(EVERYWHERE)] for j in range(2)]
        if form in OF_FORM:
            kinds.append(OF_FORM[form])
        true = Case(
            half=half,
            kind="true",
            host=host,
            family=family,
            form=form,
            seed=100 * seed + turn,
            model_loss=MODEL_LOSSES[turn % len(MODEL_LOSSES)],
            searched=turn // 2 % 2 == 1,
        )
        cases += [true, *(replace(true, kind=kind, searched=False) for kind in kinds)]
    tasks = [name for name in sorted(TASKS) if TASKS[name].language == "python"][i::2][:n_own]
    cases += [
        Case(half=half, kind="own twin", host=run, family=task, form=None, seed=0) for run in runs for task in tasks
    ]
    return cases


def _kinds_of_plant(half: Half) -> list[tuple[str, Form]]:
    """Families and forms of a half."""
    return [(family, form) for family in HALVES[half] for form in forms_of(family)]


@dataclass(kw_only=True)
class Bench:
    """Plants what cases ask for; the last plant is kept, as its cases follow one another."""

    trained: Mapping[str, Trained] = field(default_factory=dict[str, Trained])
    _last: tuple[object, "Planted | str"] | None = None

    def planted(self, case: Case) -> "Planted | str":
        """The model of a case, or why there is none."""
        key = (case.half, case.host, case.family, case.form, case.seed)
        if self._last is None or self._last[0] != key:
            self._last = (key, self._plant(case))
        return self._last[1]

    def _plant(self, case: Case) -> "Planted | str":
        assert case.form is not None
        reasons: list[str] = []
        for turn in range(N_TRIES):
            seed = case.seed + 1000 * turn
            try:
                made = plant(self._host(case, seed), case.family, case.form, seed, LEAK * (seed % 2), case.model_loss)
            except ValueError as error:
                reasons.append(str(error))
            else:
                return Planted(made=made)
        return reasons[-1]

    def _host(self, case: Case, seed: int) -> Host:
        if case.host == "planted":
            return planted_host(seed, d_model=(32, 48)[seed % 2])
        run = self.trained[case.host]
        return trained_host(run.model, run.windows, run.tokenizer.eot_id)

    def own(self, case: Case) -> Specimen | str:
        """The twin's circuit of a run's own task, or why there is none."""
        run = self.trained[case.host]
        try:
            pairs = Pairs.build(case.family, run.tokenizer, FIND)
        except UnsuitableTask as error:
            return str(error)
        means = measure_means(run.model, run.windows, source="text", weights_sha256=run.weights_sha256)
        place = Place(model=run.model, means=means, pairs=pairs, task=case.family, windows=run.windows[:32])
        words = [token for token in torch.unique(run.windows).tolist() if token != EOT]
        a, b, c, d = Random(f"own/{case.name}").sample(words, 4)
        return own_twin(place, (a, b), (c, d)) or "the search finds no circuit"


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A planted model; what several of its cases need is computed once."""

    made: Plant

    @cached_property
    def here(self) -> Place:
        """Where its circuits live."""
        return place_of(self.made)

    def specimen(self, case: Case) -> Specimen:
        """The case's circuit."""
        if case.kind == "true":
            return true_specimen(self.made, self.here, search=case.searched)
        return false_specimen(self.made, self.here, case.kind)


def judge_case(case: Case, bench: Bench, progress: Callable[[str, int, int], None] | None = None) -> CaseResult:
    """The card of a case."""
    if case.kind == "own twin":
        specimen = bench.own(case)
    else:
        planted = bench.planted(case)
        specimen = planted if isinstance(planted, str) else planted.specimen(case)
    if isinstance(specimen, str):
        return CaseResult(case=case, note=specimen)
    place, twin = specimen.place, specimen.twin.found
    circuit = place.circuit(specimen.keep)
    size = size_of(place.model, place.means.space, twin.keep) if twin.reached else None
    inputs = CardInputs(
        fit=place.pairs.fit,
        heldout=place.pairs.heldout,
        alive=place.means.alive,
        windows=place.windows,
        twins=(Searched(size=size, budget=1.0),),
    )
    return CaseResult(
        case=case,
        n_nodes=circuit.n_nodes,
        n_edges=circuit.n_edges,
        reached=specimen.reached,
        card=report_card(place.model, circuit, inputs, CARD, progress),
    )
