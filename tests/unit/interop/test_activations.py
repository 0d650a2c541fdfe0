"""Activations on disk: read back they are what was recorded, and an interrupted export ends as a straight one."""

import json

import numpy as np
import pytest
import torch
from commands import in_process

from sparsetrain.hooks import hook_points, record
from sparsetrain.interop.activations import Activations, Source, export_activations, read_index

POINTS = ("blocks.0.attn.hook_q", "blocks.1.mlp.hook_neuron", "final_norm.hook_scale")


@pytest.fixture
def model(make_model):
    return make_model(abs_topk={"mlp_neuron": 0.25}).eval()


@pytest.fixture
def source():
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 61, (10, 12))
    for row, length in enumerate(rng.integers(3, 13, 10)):
        tokens[row, length:] = -1
    return Source(model="m", weights_sha256="ab", texts="drawn", tokens=tokens)


def export(model, source, folder, points=POINTS, **more):
    return export_activations(model, source, points, folder, batch_size=2, shard_examples=4, **more)


def test_read_back_equals_recorded(model, source, tmp_path):
    points = list(hook_points(model))
    index = export(model, source, tmp_path / "a", points)
    activations = Activations(tmp_path / "a")
    real = source.tokens >= 0
    assert len(activations) == index.n_tokens == real.sum() and len(index.shards) == 3
    expected = {name: [] for name in points}
    for start in range(0, 10, 2):
        with torch.no_grad():
            _, seen = record(model, torch.from_numpy(source.tokens[start : start + 2].clip(min=0)), points)
        for name in points:
            expected[name].append(seen[name][torch.from_numpy(real[start : start + 2])])
    for name in points:
        assert torch.equal(activations.read(name), torch.cat(expected[name])), name
    example, position = real.nonzero()
    assert activations.read("tokens").tolist() == source.tokens[real].tolist()
    assert activations.read("example").tolist() == example.tolist()
    assert activations.read("position").tolist() == position.tolist()
    whole = activations.read(POINTS[0])
    assert torch.equal(activations.read(POINTS[0], 13, 41), whole[13:41])  # over borders of shards
    assert torch.equal(activations.read(POINTS[0], -10), whole[-10:])
    assert torch.equal(activations.read("tokens", 0, -1), activations.read("tokens")[:-1])
    empty = activations.read(POINTS[0], 5, 5)
    assert empty.shape == (0, whole.shape[1]) and empty.dtype == whole.dtype
    assert activations.damaged() == []


def test_an_interrupted_export_goes_on_and_ends_alike(model, source, tmp_path):
    export(model, source, tmp_path / "straight")

    class Stop(Exception):
        pass

    def stop(n: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        export(model, source, tmp_path / "cut", on_examples=stop)
    with pytest.raises(ValueError, match="unfinished"):
        read_index(tmp_path / "cut")
    first = (tmp_path / "cut" / "shard_00000.safetensors").stat().st_mtime_ns
    export(model, source, tmp_path / "cut")
    assert (tmp_path / "cut" / "shard_00000.safetensors").stat().st_mtime_ns == first
    for path in (tmp_path / "straight").iterdir():
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes(), path.name


def test_another_export_in_the_same_folder_is_refused(model, source, tmp_path):
    export(model, source, tmp_path / "a")
    with pytest.raises(ValueError, match=r"differs in points"):
        export(model, source, tmp_path / "a", POINTS[:1])
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="no export of activations"):
        export(model, source, tmp_path / "b")


def test_batches_hold_every_row_once_and_shuffle_by_seed(model, source, tmp_path):
    export(model, source, tmp_path / "a")
    activations = Activations(tmp_path / "a")

    def ids(seed):
        found = list(activations.batches("example", "position", POINTS[0], batch_size=7, seed=seed))
        assert all(len(batch[0]) <= 7 for batch in found)
        rows = torch.cat([torch.stack(batch[:2], 1) for batch in found])
        vectors = torch.cat([batch[2] for batch in found])
        return [tuple(row) for row in rows.tolist()], vectors

    plain, in_order = ids(None)
    assert plain == [tuple(row) for row in np.argwhere(source.tokens >= 0).tolist()]
    shuffled, vectors = ids(0)
    assert shuffled != plain and sorted(shuffled) == plain and ids(0)[0] == shuffled and ids(1)[0] != shuffled
    assert torch.equal(vectors, in_order[[plain.index(row) for row in shuffled]])


def test_half_precision_is_rounded_once(model, source, tmp_path):
    export(model, source, tmp_path / "a")
    export(model, source, tmp_path / "b", dtype="bfloat16")
    exact, rounded = (Activations(tmp_path / name).read(POINTS[1]) for name in "ab")
    assert rounded.dtype == torch.bfloat16 and torch.equal(exact.bfloat16(), rounded)


def test_damage_is_named(model, source, tmp_path):
    export(model, source, tmp_path / "a")
    path = tmp_path / "a" / "shard_00001.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert Activations(tmp_path / "a").damaged() == [path.name]
    path.unlink()
    with pytest.raises(ValueError, match=path.name):
        Activations(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "says"),
    [({"points": ()}, "no hook point"), ({"points": ("blocks.0.mlp.hook_ou",)}, "near names: blocks.0.mlp.hook_out")],
)
def test_wrong_points_are_refused(model, source, tmp_path, change, says):
    with pytest.raises((ValueError, KeyError), match=says):
        export(model, source, tmp_path / "a", **change)
    assert not (tmp_path / "a").exists()


def test_an_unknown_name_lists_what_there_is(model, source, tmp_path):
    export(model, source, tmp_path / "a")
    with pytest.raises(ValueError, match=r"there are tokens, example, position, blocks\.0\.attn\.hook_q"):
        Activations(tmp_path / "a").read("hook_q")


def test_the_command_takes_patterns_and_texts(tmp_path, capsys):
    texts = tmp_path / "t.jsonl"
    texts.write_text("".join(json.dumps({"text": f"for i in range({i}):\n    print(i)\n"}) + "\n" for i in range(20)))
    words = ("model=zoo:python-hour", f"data={texts}", "points=[blocks.*.mlp.hook_out]", f"dst={tmp_path / 'a'}", "n_examples=16", "progress=false")  # fmt: skip
    in_process("scripts/export_activations.py", *words)
    index = read_index(tmp_path / "a")
    assert list(index.points) == ["blocks.0.mlp.hook_out", "blocks.1.mlp.hook_out"] and index.n_examples == 16
    assert f"{index.n_tokens} tokens at 2 hook points" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("model=zoo:python-hour", "dst=a"), "points= is missing"),
        (("model=zoo:python-hour", "dst=a", "points=[blocks.9.*]"), "no hook point named"),
        (("model=zoo:python-hour", "dst=a", "points=[final_norm.hook_norm]", "split=test"), "none of train, val"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        in_process("scripts/export_activations.py", *words, "progress=false")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and says in lines[0], lines
