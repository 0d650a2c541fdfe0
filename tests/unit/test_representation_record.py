"""The csv table: whole appends, cuts, torn lines, a full disk; what the report reads from it."""

import json
import resource
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from sparsetrain.representation.measures import MEASURES, gaussian_reference
from sparsetrain.representation.record import (
    COLUMNS,
    append_rows,
    curves_for_report,
    default_points,
    drop_from,
    read_rows,
    references,
)
from sparsetrain.representation.watch import Row, WatchConfig, measure_splits

ROW = Row(split="prose, old", shift_level=4, hook_point="a.b", measure="gini", value=0.5, lo=0.25, hi=float("nan"), n=3)


@dataclass
class FixedSplit:
    name: str
    level: int
    tokens: Any
    description: str = ""


def test_rows_come_back(tmp_path):
    path = tmp_path / "ood_sparsity.csv"
    append_rows(path, 0, [ROW])
    append_rows(path, 10, [ROW._replace(value=-1.5), ROW])
    assert path.read_text().splitlines()[0] == "step,split,shift_level,hook_point,measure,value,lo,hi,n"
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


def test_report_section(tmp_path, make_model):
    model = make_model()
    rng = np.random.default_rng(0)
    splits = [FixedSplit(f"s{i}", i, rng.integers(61, size=(6, 24)), f"split {i}") for i in range(2)]
    config = WatchConfig(n_windows=4, batch_size=4)
    path = tmp_path / "ood_sparsity.csv"
    for step in (0, 7):
        append_rows(path, step, measure_splits(model, splits, config).rows)
    section = curves_for_report(path, splits, config, model=model)
    json.dumps(section, allow_nan=False)
    assert section["headline"] == "gini" and "400 resamples" in section["interval"]
    assert section["splits"][1] == {"name": "s1", "level": 1, "n_tokens": 4 * 24, "description": "split 1"}
    assert section["gaussian"]["gini"] == MEASURES["gini"].gaussian_limit
    assert "participation_ratio" not in section["gaussian"]  # it grows with the width
    assert {c["measure"] for c in section["curves"]} == {"gini", "top5", "loss", "entropy"}
    assert {c["split"] for c in section["curves"]} == {"s0", "s1"}
    for curve in section["curves"]:
        assert curve["step"] == [0, 7] and len(curve["value"]) == len(curve["lo"]) == len(curve["hi"]) == 2
    neuron = next(
        c for c in section["curves"] if (c["hook_point"], c["measure"]) == ("blocks.1.mlp.hook_neuron", "gini")
    )
    assert neuron["gaussian"] == gaussian_reference(128, 32)["gini"]
    layers = section["layers"]
    assert layers["step"] == 7 and np.shape(layers["value"]) == (2, len(layers["hook_points"]))
    assert references(model)["final_norm.hook_resid"] == gaussian_reference(32)
    assert set(COLUMNS) > {"value", "lo", "hi"}


def test_default_points():
    names = [f"blocks.{i}.{place}" for i in range(5) for place in ("mlp.norm.hook_resid", "mlp.hook_neuron")]
    chosen = default_points([*names, "final_norm.hook_resid"])
    assert len(chosen) == 7 and chosen[-1] == "final_norm.hook_resid" and "blocks.2.mlp.hook_neuron" in chosen
    assert default_points(list("abcdef")) == list("abcd")
