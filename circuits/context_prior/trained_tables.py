"""Tables of the study of trained models: every model, and how it answers under every prompt and intervention."""

import math
from collections.abc import Mapping, Sequence

from circuits.context_prior.readings import RANDOM, RESTORED, STATED, TrainedReadings
from circuits.section.prior import PriorArm
from sparsetrain.stats.intervals import over_seeds
from sparsetrain.stats.number import Number, number
from sparsetrain.studies.readings import seeds_number
from sparsetrain.studies.section import ResultTable, TableCell
from sparsetrain.studies.study import Subject

Read = Mapping[Subject, Sequence[TrainedReadings]]


def of_models(read: Read) -> tuple[ResultTable, ...]:
    """What every model has learned, and what it was read by."""
    rows: list[tuple[TableCell, ...]] = []
    for subject, seeds in read.items():
        rows.append(
            (
                subject.arm,
                seeds_number([r.result.recall_loss for r in seeds], "nats"),
                seeds_number([r.result.given_loss for r in seeds], "nats"),
                seeds_number([r.remembers() for r in seeds], "fraction"),
                seeds_number([r.reads() for r in seeds], "fraction"),
                seeds_number([r.at(0, "far", "says_context") for r in seeds], "fraction"),
                seeds_number([float(r.result.n_nonzero) for r in seeds], "weights"),
                seeds_number([float(r.result.n_circuit) for r in seeds], "nodes"),
                seeds_number([float(r.result.n_edges) for r in seeds], "edges"),
                seeds_number([r.result.circuit_loss for r in seeds], "nats"),
                f"{sum(not r.result.circuit_reason for r in seeds)} of {len(seeds)}",
                "; ".join(dict.fromkeys(r.result.at_no_harm.get("prompt", "none") for r in seeds)),
                "; ".join(dict.fromkeys(r.result.at_no_harm.get("intervention", "none") for r in seeds)),
                number(max(r.result.training_s for r in seeds), "s", "measured", n=len(seeds)),
            )
        )
    return (
        ResultTable(
            title="Every model",
            columns=(
                "arm", "loss, remembered", "loss, given", "remembers", "reads", "reads behind 8 others", "nonzero weights", "recall circuit, nodes", "its edges",
                "its loss", "meets its target", "best prompt at no harm", "best intervention at no harm", "longest training",
            ),
            rows=tuple(rows),
            note="losses: new documents of the same facts, in another order and with other objects given; remembers: facts that have to be known, nothing stated; reads: at no exposures, one statement; t intervals over seeds",
        ),
    )  # fmt: skip


def of_answers(read: Read) -> tuple[ResultTable, ...]:
    """Prompts and interventions where the prior is strongest, n50, and headroom by exposures."""
    return (_arms(read), half_points(read), _headroom(read))


def _arms(read: Read) -> ResultTable:
    rows: list[tuple[TableCell, ...]] = []
    for subject, seeds in read.items():
        named = [*seeds[0].references(), *dict.fromkeys(arm.name for r in seeds for arm in r.section.arms)]
        for name in named:
            there = [r for r in seeds if r.has(name)]
            arms: list[PriorArm] = [r.arm(name) for r in there if r.is_arm(name)]

            def strongest(key: str, score: str = "p_context", of: Sequence[TrainedReadings] = there) -> Number | None:
                values = [float(r.score(key, score)[r.strongest].mean()) for r in of if r.has(key)]
                return seeds_number(values, "fraction") if values else None

            settings = list(dict.fromkeys(arm.setting for arm in arms))
            harm = [arm.collateral.value for arm in arms if arm.collateral.value is not None]
            best = sum(r.best(arms[0].kind) == name for r in there) if arms else 0
            rows.append(
                (
                    subject.arm,
                    name,
                    arms[0].kind if arms else "prompt, not tuned",
                    "; ".join(settings) or "-",
                    f"{best} of {len(seeds)}" if arms else "-",
                    strongest(name),
                    strongest(name, "says_context"),
                    strongest(name, "says_prior"),
                    strongest(f"{name}{RANDOM}"),
                    strongest(f"{name}{RESTORED}", "says_prior"),
                    seeds_number(harm, "nats") if harm else None,
                )
            )
    return ResultTable(
        title="Every prompt and intervention, at the most exposures",
        columns=("arm", "prompt or intervention", "kind", "settings chosen", "best of its kind", "P(context)", "says context", "says memory", "random controls: P(context)", "turned round: says memory", "KL on neutral questions"),
        rows=tuple(rows),
        note="facts that nothing was tuned on; chosen on others; t intervals over seeds",
    )  # fmt: skip


def half_points(read: Read) -> ResultTable:
    """n50 where every seed crosses one half, and how many do not."""
    rows: list[tuple[TableCell, ...]] = []
    for subject, seeds in read.items():
        cells: list[TableCell] = []
        for of in (lambda r: STATED, lambda r: r.best("prompt"), lambda r: r.best("intervention")):
            halves, top = [r.half(of(r)) for r in seeds], max(seeds[0].levels)
            beyond = sum(half >= top for half in halves)
            if beyond:
                cells += [
                    number(None, "exposures", n=len(halves), note="not reached in every seed"),
                    f"{beyond} of {len(halves)}",
                ]
                continue
            in_octaves = over_seeds([math.log2(1 + half) for half in halves])
            lo, hi = (max(2**end - 1, 0.0) if math.isfinite(end) else None for end in (in_octaves.lo, in_octaves.hi))
            cells += [number(2**in_octaves.value - 1, "exposures", n=len(halves), lo=lo, hi=hi), f"0 of {len(halves)}"]
        rows.append((subject.arm, *cells))
    return ResultTable(
        title="n50: exposures at which P(context) has fallen to one half",
        columns=(
            "arm",
            "stated once",
            "seeds beyond",
            "best prompt",
            "seeds beyond ",
            "best intervention",
            "seeds beyond  ",
        ),
        rows=tuple(rows),
        note=f"geometric mean of 1 + n over seeds, t interval on log2(1 + n), where every seed crosses one half; seeds beyond: those that do not within {max(next(iter(read.values()))[0].levels)} exposures",
    )


def _headroom(read: Read) -> ResultTable:
    rows: list[tuple[TableCell, ...]] = []
    for subject, seeds in read.items():
        for n in seeds[0].levels:
            rows.append(
                (
                    subject.arm,
                    number(n, "exposures"),
                    *(
                        seeds_number([r.at(n, name(r)) for r in seeds], "fraction")
                        for name in (lambda r: STATED, lambda r: r.best("prompt"), lambda r: r.best("intervention"))
                    ),
                    *(
                        seeds_number([float(values(r)[r.n == n].mean()) for r in seeds], "fraction")
                        for values in (
                            TrainedReadings.headroom,
                            lambda r: r.headroom(r.best_without_patching()),
                            lambda r: r.score(r.best("intervention")) - r.score(f"{r.best('intervention')}{RANDOM}"),
                        )
                    ),
                    seeds_number([float(r.more_sparse()[r.n == n].mean()) for r in seeds], "gini"),
                )
            )
    return ResultTable(
        title="Headroom by exposures",
        columns=("arm", "exposures", "stated once", "best prompt", "best intervention", "headroom", "without patching", "beyond random", "sparser in conflict"),
        rows=tuple(rows),
        note="P(context), differences of it, and of the Gini index at the last norm (contradicting less agreeing statement); t intervals over seeds",
    )  # fmt: skip
