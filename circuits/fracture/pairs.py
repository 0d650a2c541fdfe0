"""Two models beside each other: which numbers decide whether their insides differ, from what size on, and what differs between models of one recipe.

1. `MEASURES` is the one list of numbers that decide: for each, which way is less fractured or less entangled, and its spread, by how much two dense students of the study differ.
2. A difference of two models counts from a bound on: one multiple of every spread, so that one pair in twenty of *other* models of the recipe is called different by any measure (`bounds_of`). Spreads and multiple
   hold for the language, size and readings of `+experiment=fracture` (`bounds_hold`). They were measured on 14 dense students of seeds 100 to 106, which are reported nowhere else: of two halves of them
   one gives bounds by which .047 of the pairs in the other are called different. For other models a null of one's own gives them.
3. A pair is called different if one deciding number differs by its bound or more.

Source: ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Literal

import numpy as np

from circuits.fracture.gates import Matching, match_pair, require_match
from circuits.fracture.measured import OF_RESPONSES, ModelReadings, ReadConfig, of_items
from circuits.fracture.measures import Floats
from circuits.fracture.questions import Questions
from circuits.section.fracture import FractureRow
from sparsetrain.data.worlds.rules import RulesConfig
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.stats.intervals import Estimate, Ints, bootstrap
from sparsetrain.stats.number import number

Numbers = Mapping[str, float]
"""Key of a measure -> its value; NaN where it is not defined."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A number of a model."""

    words: str
    less: Literal["lower", "higher"]
    """Which is less fractured or less entangled."""
    spread: float
    """Root mean square difference of two dense students of the study, which have nothing but their seeds between them."""
    unit: str = ""

    @property
    def expected(self) -> Literal["positive", "negative"]:
        """Sign of a difference towards less."""
        return "positive" if self.less == "higher" else "negative"


STUDY_LANGUAGE = RulesConfig(n_contexts=4, n_held=1)
"""Of `+experiment=fracture`."""
TRANSFER, DAMAGE = "transfer", "damage"
MEASURES: Mapping[str, Measure] = {
    "modularity": Measure(words="modularity: how far a perturbation moves one behaviour alone", less="higher", spread=0.0308),
    "entanglement": Measure(words="entanglement: cosine between the responses of two behaviours", less="lower", spread=0.0887),
    "gradients": Measure(words="cosine between gradients of behaviours of different rules", less="lower", spread=0.0541),
    "fracture": Measure(words="fracture: 1 - cosine of a rule's attributions in two contexts", less="lower", spread=0.0521),
    "union": Measure(words="union of a rule's circuits over contexts, against random circuits", less="lower", spread=0.121),
    "share": Measure(words="share of living nodes that contribute to an input (N_eff / living)", less="lower", spread=0.0313),
    "redundancy": Measure(words="redundancy: share of joint ablations that single ones miss", less="lower", spread=0.242),
    "coherence": Measure(words="coherence: a perturbation acts alike on relabelled inputs", less="higher", spread=0.0196),
    TRANSFER: Measure(words="transfer: accuracy of a changed rule in contexts that it is not taught in, at equal success", less="higher", spread=0.157),
    DAMAGE: Measure(words="damage to other rules at equal success of the changed one", less="lower", spread=0.115),
}  # fmt: skip
MULTIPLE = 3.6
"""Of the spread, from which on a difference of two students is one."""
BOUNDS: Mapping[str, float] = {key: MULTIPLE * measure.spread for key, measure in MEASURES.items()}
HOLD_FOR = {"n_layer": 2, "d_model": 64, "d_head": 16}
"""Size of the study's students, whose bounds these are."""


def bounds_hold(questions: Questions, model: ModelConfig, read: ReadConfig) -> bool:
    """Whether models are of the kind that bounds were made of: the study's language, size, and readings at its settings."""
    world = questions.world
    same = all(getattr(model, key) == value for key, value in HOLD_FOR.items())
    return world is not None and world.config == STUDY_LANGUAGE and same and read.seeded(0) == ReadConfig()


def called_different(a: Numbers, b: Numbers, bounds: Mapping[str, float]) -> tuple[str, ...]:
    """The deciding measures in which two models differ by the bound or more; one that is not defined in both is not among them."""
    return tuple(key for key, bound in bounds.items() if abs(a.get(key, np.nan) - b.get(key, np.nan)) >= bound)


FEWEST = 7
"""Models of a null, without the pair that is judged: of fewer no bound holds. ours"""


def bounds_of(models: Sequence[Numbers], keys: Sequence[str], share: float = 0.05) -> dict[str, float]:
    """Bounds under which a share of the pairs among *other* models of the recipe is called different by any measure.

    Every measure has the same multiple of its own spread, the root mean square difference of a pair. The multiple comes from judging every pair by the spread among the models that are not in it: judged by a spread
    that it is part of, no pair of a few models can be far out, and bounds would be far too small.

    Args:
        models: of one recipe, `FEWEST` or more.
        keys: the measures that decide; those that are not defined in all models, or never differ, get no bound.
        share: of pairs.

    Raises:
        ValueError: fewer models.
    """
    if len(models) < FEWEST:
        raise ValueError(f"{len(models)} models make no null; give {FEWEST} or more of one recipe and different seeds")
    values = np.array([[model.get(key, np.nan) for key in keys] for model in models])
    known = np.isfinite(values).all(0) & (np.ptp(values, axis=0) > 0)
    values, names = values[:, known], [key for key, one in zip(keys, known, strict=True) if one]
    if not names:
        return {}
    farthest = []
    for pair in combinations(range(len(values)), 2):
        spread = _spread(np.delete(values, pair, axis=0))
        apart = np.abs(values[pair[0]] - values[pair[1]])
        farthest.append(np.divide(apart, spread, out=np.full(len(apart), np.inf), where=spread > 0).max())
    multiple = float(np.quantile(farthest, 1 - share, method="higher"))
    return {key: multiple * float(one) for key, one in zip(names, _spread(values), strict=True)}


def _spread(values: Floats) -> Floats:
    """Root mean square difference of a pair, `[n_models, n_measures] -> [n_measures]`: the root of twice the variance."""
    return np.sqrt(2 * values.var(0, ddof=1))


WITHOUT_INTERVAL = ("gradients", "gradients, all weights", "fracture", "fracture, raw", "union", "union, raw", "rank")
"""Pairs of behaviours, which share behaviours, and rules, of which there are few: resampling them says too little."""


def difference(key: str, a: ModelReadings, b: ModelReadings, *, n_bootstrap: int, seed: int) -> Estimate | None:
    """b - a in one measure, with its interval over what both models were read on alike: perturbations, inputs, behaviours.

    The interval says how well these two models are known, and nothing of other seeds. None: the measure has nothing of that kind.
    """
    of = next((name for name in OF_RESPONSES if key == name or key.startswith(f"{name},")), None)
    if of is not None:
        which, f = key.removeprefix(of), OF_RESPONSES[of]
        x, y, what = a.responses[which], b.responses[which], "perturbations"
    elif key in a.items and key not in WITHOUT_INTERVAL:
        x, y, what, f = a.items[key], b.items[key], "items", partial(of_items, key)
    else:
        return None
    if len(x) != len(y) or len(x) < 2:
        return None
    both = (np.isfinite(x) & np.isfinite(y)).all(tuple(range(1, x.ndim)))
    x, y = x[both], y[both]
    if len(x) < 2:
        return None

    def statistic(rows: Ints) -> Floats:
        return np.array([f(y[i]) - f(x[i]) for i in rows])

    value = float(statistic(np.arange(len(x))[None])[0])
    lo, hi = bootstrap(statistic, len(x), n_bootstrap=n_bootstrap, seed=seed)
    return Estimate(
        value=value, lo=lo, hi=hi, n=len(x), method=f"bootstrap over {len(x)} {what} that both models share"
    )


def matchings(
    models: Mapping[str, Transformer], pair: tuple[str, str], null: Sequence[str], questions: Questions
) -> tuple[Matching, ...]:
    """The gate of a pair, of every pair of the null, and of the first model with the null.

    Raises:
        ValueError: the pair misses it, with KL and agreement; or one of the null does.
    """
    train, heldout = (questions.asked(held=held).tokens for held in (False, True))
    found: list[Matching] = []
    others = [(pair[0], name) for name in null if name not in pair]
    for a, b in dict.fromkeys([pair, *others, *combinations(null, 2)]):
        found.append(match_pair((a, b), models[a], models[b], train, heldout))
        require_match(found[-1])
    return tuple(found)


def compared(
    read: Mapping[str, ModelReadings],
    pair: tuple[str, str],
    null: Sequence[str],
    *,
    bounds: Mapping[str, float] | None,
    n_bootstrap: int,
    seed: int,
) -> tuple[FractureRow, ...]:
    """Every measure of two models, beside the largest difference between two of the null.

    Args:
        read: all models, read together.
        pair: their names.
        null: names of models of one recipe; the two that are judged count not among them.
        bounds: from which size on a difference is one; None: those of the null, and without `FEWEST` models there nothing is judged.
        n_bootstrap: resamples for the intervals.
        seed: of the resamples.
    """
    numbers = {name: one.numbers() for name, one in read.items()}
    a, b = pair
    null = [name for name in null if name not in pair]
    if bounds is None and len(null) >= FEWEST:
        bounds = bounds_of([numbers[name] for name in null], list(BOUNDS))
    rows: list[FractureRow] = []
    for key in [*BOUNDS, *(key for key in numbers[a] if key not in BOUNDS)]:
        if key not in numbers[a]:
            continue  # what is trained for, transfer, is not read of finished models
        apart = difference(key, read[a], read[b], n_bootstrap=n_bootstrap, seed=seed)
        nulls = [abs(numbers[x][key] - numbers[y][key]) for x, y in combinations(null, 2)]
        largest = max((d for d in nulls if np.isfinite(d)), default=float("nan"))
        bound = float("nan") if bounds is None else bounds.get(key, float("nan"))
        known = key in BOUNDS and np.isfinite(bound) and np.isfinite(numbers[a][key] - numbers[b][key])
        different = bool(called_different(numbers[a], numbers[b], {key: bound})) if known else False
        measure = MEASURES.get(key)
        rows.append(
            FractureRow(
                key=key,
                words=measure.words if measure else key,
                less=measure.less if measure else "",
                main=measure is not None,
                a=number(numbers[a][key], ""),
                b=number(numbers[b][key], ""),
                difference=number(numbers[b][key] - numbers[a][key], "") if apart is None else apart.number("", seed=seed),
                null=number(largest, "", n=len(nulls) or None),
                bound=number(bound, ""),
                called="not judged" if not known else "different" if different else "alike",
            )
        )  # fmt: skip
    return tuple(rows)
