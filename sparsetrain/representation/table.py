"""The table of evaluations: `ood_sparsity.csv`, appended during training, cut back on resume, read for the report."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from sparsetrain.representation.evaluate import SparsityRow
from sparsetrain.store import write_atomic

COLUMNS = ("step", "split", "shift_level", "hook_point", "measure", "value", "lo", "hi", "n")


def _lines(rows: Sequence[Sequence[object]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def append_rows(path: Path, step: int, rows: Sequence[SparsityRow]) -> None:
    """Adds one evaluation, whole or not at all.

    Raises:
        OSError: the disk is full or the like; the file is as it was.
    """
    numbers = [(step, *row[:4], *(f"{x:.7g}" for x in row[4:7]), row.n) for row in rows]
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


def read_rows(path: Path) -> Iterator[tuple[int, SparsityRow]]:
    """`(step, row)` in the order written; a last line that a killed process left unfinished is left out."""
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(line for line in file if line.endswith("\n"))
        header = next(reader, COLUMNS)
        if tuple(header) != COLUMNS:
            raise ValueError(f"{path} has columns {header}, not {', '.join(COLUMNS)}; it is no table of a tracker")
        for step, split, level, point, measure, value, lo, hi, n in reader:
            interval = float(value), float(lo), float(hi)
            yield int(step), SparsityRow(split, int(level), point, measure, *interval, int(n))


def drop_from(path: Path, step: int) -> None:
    """Drops the rows of `step` and later, which a run from `step` on writes again, and an unfinished last line."""
    if not path.is_file():
        return
    header, *lines = path.read_bytes().splitlines(keepends=True) or [_lines([COLUMNS])]
    kept = [line for line in lines if line.endswith(b"\n") and int(line.split(b",", 1)[0]) < step]
    write_atomic(path, b"".join([header, *kept]) if kept else b"")
