"""Tables of the study of image networks: every number of every arm, and how often two dense imitations would be called different."""

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations

from circuits.fracture.images.readings import NetworkReadings, log_ratio
from sparsetrain.stats.intervals import over_seeds
from sparsetrain.stats.number import Number, number
from sparsetrain.studies.section import ResultTable, TableCell

Read = Mapping[tuple[str, str], Sequence[NetworkReadings]]
"""Kind of network and picture -> what was read in every seed."""
NUMBERS: Mapping[str, tuple[str, Callable[[NetworkReadings], float]]] = {
    "effective units": ("units", lambda r: r.units),
    "living units": ("units", lambda r: float(r.alive.sum())),
    "effective share": ("fraction", lambda r: r.effective_share),
    "Gini": ("", lambda r: r.gini),
    "Gini, living": ("", lambda r: r.gini_alive),
    "effective rank": ("", lambda r: r.rank),
    "relative variation": ("", lambda r: r.weighted_relative),
    "relative variation, alike": ("", lambda r: r.plain_relative),
    "variation, alike": ("", lambda r: r.plain_variation),
    "effect of weights": ("squared change", lambda r: r.effect["weights"]),
    "symmetry": ("fraction", lambda r: r.symmetry("weights")),
    "symmetry, largest": ("fraction", lambda r: r.symmetry("largest")),
    "symmetry, zeros too": ("fraction", lambda r: r.symmetry("any_weight")),
    "symmetry, directions": ("fraction", lambda r: r.symmetry("directions")),
}
DIFFERENCES: Mapping[str, Callable[[NetworkReadings, NetworkReadings], float]] = {
    "units": lambda a, b: log_ratio(a.units, b.units),
    "symmetry": lambda a, b: a.symmetry("weights") - b.symmetry("weights"),
    "variation": lambda a, b: log_ratio(a.weighted_relative, b.weighted_relative),
}


def tables_of(
    read: Read, pictures: Sequence[str], names: Mapping[str, str], margins: Mapping[str, float]
) -> list[ResultTable]:
    """All tables.

    Args:
        read: of every kind but the composed network, which each knows as `composed`.
        pictures: in their order.
        names: of the kinds `composed`, `dense` and `null`.
        margins: smallest differences of interest.
    """
    return [*(_numbers(read, name, names["composed"]) for name in pictures), _pairs(read, pictures, names, margins)]


def _numbers(read: Read, picture: str, composed: str) -> ResultTable:
    rows: list[tuple[TableCell, ...]] = []
    for (kind, name), seeds in read.items():
        if name != picture:
            continue
        if not rows:
            rows.append(_row(composed, [r.composed for r in seeds if r.composed is not None]))
        rows.append(_row(kind, seeds))
    return ResultTable(
        title=f"Every number: {picture}",
        columns=("network", "largest error", "nonzero weights", "density", *NUMBERS),
        rows=tuple(rows),
        note="means over seeds with t intervals; error: mean squared, colours; density: nonzeros / entries of all matrices; the composed network is one, its seeds are draws of perturbations",
    )


def _row(kind: str, seeds: Sequence[NetworkReadings]) -> tuple[TableCell, ...]:
    return (
        kind,
        number(max(r.error for r in seeds), "mean squared error", n=len(seeds)),
        _mean([float(r.n_nonzero) for r in seeds], "weights"),
        _mean([r.n_nonzero / r.n_weights for r in seeds], "fraction"),
        *(_mean([value(r) for r in seeds], unit) for unit, value in NUMBERS.values()),
    )


def _mean(values: Sequence[float], unit: str) -> Number:
    """Over seeds; equal values have no interval."""
    return number(values[0], unit, n=len(values)) if len(set(values)) == 1 else over_seeds(values).number(unit)


def _pairs(read: Read, pictures: Sequence[str], names: Mapping[str, str], margins: Mapping[str, float]) -> ResultTable:
    rows: list[tuple[TableCell, ...]] = []
    for picture in pictures:
        networks = [*read[names["dense"], picture], *read[names["null"], picture]]
        pairs = list(combinations(networks, 2))
        for key, differ in DIFFERENCES.items():
            sizes = [abs(differ(a, b)) for a, b in pairs]
            share = sum(size >= margins[key] for size in sizes) / len(sizes)
            rows.append(
                (
                    picture,
                    key,
                    number(share, "fraction", n=len(pairs)),
                    number(sum(sizes) / len(sizes), ""),
                    number(max(sizes), ""),
                    margins[key],
                )
            )
    return ResultTable(
        title="Two dense imitations of one picture",
        columns=("picture", "measure", "pairs apart by the margin", "mean difference", "largest", "margin"),
        rows=tuple(rows),
        note="all pairs of dense imitations, both sets of seeds: what single networks can say",
    )
