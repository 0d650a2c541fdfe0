"""Tables and figures of the study of students: how often the null is called different, every measure of every student, the gates, transfer over steps."""

from collections.abc import Mapping, Sequence

import numpy as np

from circuits.fracture.pairs import BOUNDS, FEWEST, MEASURES, bounds_of
from circuits.fracture.readings import NullResult, SeedResult, StudentResult
from circuits.fracture.transfer import SHOWN
from sparsetrain.stats.number import number
from sparsetrain.studies.engine import StageResult
from sparsetrain.studies.readings import over_seeds_figure, seeds_number
from sparsetrain.studies.section import Figure, ResultTable, TableCell

DENSE, AGAIN = "dense", "dense_again"


def _apart(null: NullResult, seeds: Mapping[int, SeedResult]) -> list[dict[str, float]]:
    """Differences of the deciding measures in every pair of dense students that passes the gate."""
    numbers = {name: null.of(name, seeds[int(name.rpartition("_")[2])]) for name in null.numbers}
    passed = [one for one in null.matching if one.passes]
    return [{key: abs(numbers[one.a][key] - numbers[one.b][key]) for key in BOUNDS} for one in passed]


def null_rate(null: NullResult, seeds: Mapping[int, SeedResult]) -> float:
    """Share of the pairs of dense students that would be called different by any measure that is defined in both; NaN without a pair."""
    called = [any(d >= BOUNDS[key] for key, d in apart.items()) for apart in _apart(null, seeds)]
    return float(np.mean(called)) if called else float("nan")


def null_table(null: NullResult, seeds: Mapping[int, SeedResult]) -> ResultTable:
    """How many pairs of dense students would be called different, by any measure and by each; and the bounds that they would give themselves."""
    apart = _apart(null, seeds)
    students = [null.of(name, seeds[int(name.rpartition("_")[2])]) for name in null.numbers]
    own = bounds_of(students, list(BOUNDS)) if len(students) >= FEWEST else {}
    rows: list[tuple[TableCell, ...]] = [
        ("any of them", None, sum(any(d >= BOUNDS[key] for key, d in one.items()) for one in apart), number(null_rate(null, seeds), "fraction", n=len(apart)), None)
    ]  # fmt: skip
    for key, bound in BOUNDS.items():
        known = [one[key] for one in apart if np.isfinite(one[key])]
        hits = sum(d >= bound for d in known)
        rate = number(hits / len(known) if known else float("nan"), "fraction", n=len(known))
        rows.append((MEASURES[key].words, number(bound, ""), hits, rate, number(own.get(key, float("nan")), "")))
    return ResultTable(
        title="The null: pairs of dense students that would be called different",
        columns=("by", "bound", "pairs", "rate", "bound of these students"),
        rows=tuple(rows),
        note=f"{len(apart)} of the {len(null.matching)} pairs among {len(null.numbers)} dense students of {len(seeds)} seeds pass the matching gate; bounds come from other seeds, those that these students would give stand beside; pairs share models, so there is no interval",
    )


def every_measure(seeds: Mapping[int, SeedResult]) -> list[ResultTable]:
    """Every number of every student: those that decide, and those that stand beside."""
    first = next(iter(seeds.values()))
    students = tuple(first.numbers)

    def rows(keys: Sequence[str]) -> tuple[tuple[TableCell, ...], ...]:
        found = []
        for key in keys:
            words = MEASURES[key].words if key in MEASURES else key
            cells = [seeds_number([result.of(name)[key] for result in seeds.values()], "") for name in students]
            found.append((words, *cells))
        return tuple(found)

    beside = [key for key in first.numbers[DENSE] if key not in BOUNDS]
    return [
        ResultTable(title="Every measure that decides", columns=("measure", *students), rows=rows(list(BOUNDS)), note="mean and t interval over seeds"),
        ResultTable(title="What stands beside: raw numbers, other perturbations, sizes (no verdict rests on them)", columns=("measure", *students), rows=rows(beside), note="behind a comma: raw (each student in all its nonzero weights), all weights, single weights, singular directions; mean and t interval over seeds"),
    ]  # fmt: skip


def matching_table(seeds: Mapping[int, SeedResult]) -> ResultTable:
    """The gates of every pair, and what the perturbations and the weights of the students are."""
    rows: list[tuple[TableCell, ...]] = []
    for seed, result in seeds.items():
        for name in result.numbers:
            one = result.matching.get(name)
            cells: list[TableCell] = [None] * 4 if one is None else [
                number(one.train.kl, "nats/token", n=one.train.n), number(one.train.agreement, "fraction", n=one.train.n),
                number(one.heldout.kl, "nats/token", n=one.heldout.n), number(one.heldout.agreement, "fraction", n=one.heldout.n),
            ]  # fmt: skip
            rows.append((f"{seed}", name, *cells, result.n_nonzero[name], number(result.kl[name], "nats"), number(result.rho[name], ""), number(result.lr[name], "")))  # fmt: skip
    return ResultTable(
        title="Matching gates against the dense student, nonzero weights, perturbations",
        columns=("seed", "student", "KL, training", "agreement, training", "KL, held out", "agreement, held out", "nonzero weights", "KL of perturbations", "their size", "learning rate of transfer"),
        rows=tuple(rows),
        note="KL: the larger of both directions; perturbations: those that decide",
    )  # fmt: skip


def tries_table(students: Mapping[str, Sequence[StageResult]]) -> ResultTable:
    """How often students were distilled, and how near the last one came to the teacher."""
    rows: list[tuple[TableCell, ...]] = []
    for name, results in students.items():
        found = [one for one in results if isinstance(one, StudentResult)]
        assert len(found) == len(results), name
        worst = [max(getattr(one.matching, split).kl for one in found) for split in ("train", "heldout")]
        passed = sum(one.matching.passes for one in found)
        rows.append((name, ", ".join(str(one.n_tries) for one in found), f"{passed} of {len(found)}", *(number(kl, "nats/token") for kl in worst), number(max(one.seconds for one in found), "s", "measured")))  # fmt: skip
    return ResultTable(
        title="Students against the teacher: tries, and the largest KL of a seed",
        columns=("student", "tries of every seed", "pass", "KL, training", "KL, held out", "longest stage"),
        rows=tuple(rows),
        note="a student that misses the gate is distilled again from other weights; the last try stays",
    )


def transfer_figures(seeds: Mapping[int, SeedResult]) -> list[Figure]:
    """A figure per curve of the transfer test, students beside each other."""
    first = next(iter(seeds.values()))
    x = [float(np.log2(1 + step)) for step in first.steps]
    titles = {
        "changed": "The changed rule where it is taught",
        "changed_heldout": "The changed rule there, inputs that are held out",
        "carried": "The changed rule in contexts in which it is not taught",
        "kept": "The old rule in those contexts",
        "others": "Other rules",
    }
    found = []
    for curve in SHOWN:
        groups = {name: [np.array(result.curves[name][curve]) for result in seeds.values()] for name in first.curves}
        found.append(over_seeds_figure(f"transfer_{curve}", titles[curve], x, groups, x_label="log2(1 + step)", y_label="accuracy"))  # fmt: skip
    return found
