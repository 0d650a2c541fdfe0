"""The csv table: whole appends, cuts, torn lines, a full disk."""

import resource

import numpy as np
import pytest

from sparsetrain.representation.evaluate import SparsityRow
from sparsetrain.representation.table import COLUMNS, append_rows, drop_from, read_rows

ROW = SparsityRow(
    split="prose, old", shift_level=4, hook_point="a.b", measure="gini", value=0.5, lo=0.25, hi=float("nan"), n=3
)


def test_rows_come_back(tmp_path):
    path = tmp_path / "ood_sparsity.csv"
    append_rows(path, 0, [ROW])
    append_rows(path, 10, [ROW._replace(value=-1.5), ROW])
    assert (
        path.read_text().splitlines()[0]
        == ",".join(COLUMNS)
        == "step,split,shift_level,hook_point,measure,value,lo,hi,n"
    )
    steps, rows = zip(*read_rows(path), strict=True)
    assert steps == (0, 10, 10) and [row.value for row in rows] == [0.5, -1.5, 0.5]
    assert rows[0].split == "prose, old" and rows[0].n == 3 and np.isnan(rows[0].hi)


def test_cut_back_on_resume(tmp_path):
    path = tmp_path / "ood_sparsity.csv"
    drop_from(path, 5)
    assert not path.exists()
    for step in (0, 5, 10):
        append_rows(path, step, [ROW])
    whole = path.read_bytes()
    with path.open("a") as file:
        file.write("10,torn")
    assert [step for step, _ in read_rows(path)] == [0, 5, 10]
    drop_from(path, 10)
    append_rows(path, 10, [ROW])
    assert path.read_bytes() == whole
    drop_from(path, 0)
    append_rows(path, 0, [ROW])
    assert [step for step, _ in read_rows(path)] == [0]


def test_a_full_disk_leaves_the_table_as_it_was(tmp_path):
    path = tmp_path / "ood_sparsity.csv"
    append_rows(path, 0, [ROW])
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 30, hard))
    try:
        with pytest.raises(OSError):
            append_rows(path, 1, [ROW] * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before


def test_another_table_is_refused(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("step,name,value\n1,loss,2\n")
    with pytest.raises(ValueError, match="no table of a tracker"):
        list(read_rows(path))
