"""The table of evaluations: `ood_sparsity.csv`, appended during training, cut back on resume, read for the report."""

import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from torch import nn

from sparsetrain.checkpoint import write_atomic
from sparsetrain.hooks import NODE_KINDS, hook_points
from sparsetrain.representation.measures import HEADLINE, MEASURES, gaussian_reference
from sparsetrain.representation.watch import LOGITS, Row, Split, WatchConfig, split_tokens

COLUMNS = ("step", "split", "shift_level", "hook_point", "measure", "value", "lo", "hi", "n")


def _lines(rows: Sequence[Sequence[object]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def append_rows(path: Path, step: int, rows: Sequence[Row]) -> None:
    """Adds one evaluation, whole or not at all.

    Raises:
        OSError: the disk is full or the like; the file is as it was.
    """
    numbers = [
        (step, r.split, r.shift_level, r.hook_point, r.measure, f"{r.value:.7g}", f"{r.lo:.7g}", f"{r.hi:.7g}", r.n)
        for r in rows
    ]
    data = _lines(numbers) if path.is_file() and path.stat().st_size else _lines([COLUMNS, *numbers])
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            if file.write(data) < len(data):
                raise OSError(f"could not write {len(data)} bytes to {path}; is the disk full?")
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """`(step, row)` in the order written; a last line that a killed process left unfinished is left out."""
    with path.open(newline="") as file:
        reader = csv.reader(line for line in file if line.endswith("\n"))
        header = next(reader, COLUMNS)
        if tuple(header) != COLUMNS:
            raise ValueError(f"{path} has columns {header}, not {', '.join(COLUMNS)}; it is no table of a tracker")
        for step, split, level, point, measure, value, lo, hi, n in reader:
            yield (
                int(step),
                Row(
                    split=split,
                    shift_level=int(level),
                    hook_point=point,
                    measure=measure,
                    value=float(value),
                    lo=float(lo),
                    hi=float(hi),
                    n=int(n),
                ),
            )


def drop_from(path: Path, step: int) -> None:
    """Drops the rows of `step` and later, which a run from `step` on writes again, and an unfinished last line."""
    if not path.is_file():
        return
    header, *lines = path.read_bytes().splitlines(keepends=True) or [_lines([COLUMNS])]
    kept = [line for line in lines if line.endswith(b"\n") and int(line.split(b",", 1)[0]) < step]
    write_atomic(path, b"".join([header, *kept]) if kept else b"")


def default_points(names: Sequence[str]) -> list[str]:
    """The few hook points drawn in the report: the residual stream and the neurons of the first, middle and last block.

    Args:
        names: all watched hook points, in forward order.
    """
    chosen = []
    for ending in ("mlp.norm.hook_resid", "mlp.hook_neuron"):
        same = [name for name in names if name.endswith(ending)]
        chosen += [same[i] for i in sorted({0, len(same) // 2, len(same) - 1}) if same]
    chosen += [name for name in names if name == "final_norm.hook_resid"]
    return [name for name in names if name in chosen] or list(names[:4])


def references(model: nn.Module) -> dict[str, Mapping[str, float]]:
    """Hook point -> what each measure reads there on Gaussian vectors of its width, after the AbsTopK of its kind."""
    config = getattr(model, "config", None)
    found = {}
    for name, point in hook_points(model).items():
        if point.width > 1:
            k = config.k(point.kind) if config is not None and point.kind in NODE_KINDS else point.width
            found[name] = gaussian_reference(point.width, None if k == point.width else k)
    return found


def curves_for_report(
    path: Path,
    splits: Sequence[Split],
    config: WatchConfig,
    *,
    model: nn.Module | None = None,
    measures: Sequence[str] = (HEADLINE, "top5"),
    points: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The section `representation` of report.json.

    Args:
        path: an `ood_sparsity.csv`.
        splits: the splits that were watched.
        config: how they were watched.
        model: gives each curve its own Gaussian reference (width and AbsTopK of its hook point); None: they have none.
        measures: measures drawn per hook point.
        points: hook points drawn (None: `default_points`).

    Returns:
        Plain JSON; numbers that are not finite are None.
    """
    table = list(read_rows(path))
    names = [name for name in dict.fromkeys(row.hook_point for _, row in table) if name != LOGITS]
    points = default_points(names) if points is None else list(points)
    wanted = {(point, measure) for point in points for measure in measures} | {(LOGITS, "loss"), (LOGITS, "entropy")}
    local = {} if model is None else references(model)
    curves: dict[tuple[str, str, str], dict[str, Any]] = {}
    for step, row in table:
        if (row.hook_point, row.measure) not in wanted:
            continue
        curve = curves.setdefault(
            (row.hook_point, row.measure, row.split),
            {
                "split": row.split,
                "level": row.shift_level,
                "hook_point": row.hook_point,
                "measure": row.measure,
                "step": [],
                "value": [],
                "lo": [],
                "hi": [],
                "n": row.n,
                "gaussian": local.get(row.hook_point, {}).get(row.measure),
            },
        )
        curve["step"].append(step)
        for key, number in (("value", row.value), ("lo", row.lo), ("hi", row.hi)):
            curve[key].append(number if isfinite(number) else None)
    return {
        "headline": HEADLINE,
        "interval": f"{config.describe_interval()}; each window is the mean over {_describe_positions(splits, config)}",
        "splits": [
            {"name": s.name, "level": s.level, "n_tokens": _n_tokens(s, config), "description": s.description}
            for s in splits
        ],
        "gaussian": {name: m.gaussian_limit for name, m in MEASURES.items() if isfinite(m.gaussian_limit)},
        "curves": list(curves.values()),
        "layers": _layers(table, names),
    }


def _describe_positions(splits: Sequence[Split], config: WatchConfig) -> str:
    n_ctx = split_tokens(splits[0]).shape[1]
    read = len(range(n_ctx)[config.read_positions(n_ctx)])
    which = "the last one" if config.positions == "last" else f"every {config.position_stride}th"
    return f"{read} of its {n_ctx} positions ({which} that has a next token)"


def _n_tokens(split: Split, config: WatchConfig) -> int:
    n_windows, n_ctx = split_tokens(split).shape
    return min(n_windows, config.n_windows) * n_ctx


def _layers(table: Sequence[tuple[int, Row]], names: Sequence[str]) -> dict[str, Any]:
    """The headline at every hook point and split at the last step: `value` is `[split][hook point]`."""
    last = max((step for step, _ in table), default=0)
    now = {(row.split, row.hook_point): row.value for step, row in table if step == last and row.measure == HEADLINE}
    splits = list(dict.fromkeys(split for split, _ in now))
    values = [[now.get((split, name), float("nan")) for name in names] for split in splits]
    return {
        "measure": HEADLINE,
        "step": last,
        "hook_points": list(names),
        "splits": splits,
        "value": [[value if isfinite(value) else None for value in row] for row in values],
    }
