"""Files of checkpoints: damage is found and the one before is taken, a full disk costs nothing, the right ones are kept."""

import random
import resource
import shutil
from pathlib import Path

import pytest
import torch
from small_training import N_STEPS, left, start, train_small

from sparsetrain.store import TEMPORARY, is_whole, replacing
from sparsetrain.training.checkpoints import (
    CheckpointsConfig,
    VerifiedIO,
    checkpoint_path,
    checkpoints,
    newest,
    resume_path,
    unhealthy,
)

pytestmark = pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    process = start(folder)
    process.join()
    return folder


def damage(path: Path, rng: random.Random) -> None:
    """Flips a bit, cuts the end off, or puts bytes in the middle."""
    data = bytearray(path.read_bytes())
    place = rng.randrange(len(data))
    how = rng.choice(["flip", "cut", "insert", "zeros"])
    if how == "flip":
        data[place] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[place:]
    elif how == "insert":
        data[place:place] = b"\x00\x01"
    else:
        data[place : place + 64] = bytes(b ^ 0xFF for b in data[place : place + 64])
    path.write_bytes(data)


def test_a_hundred_damages_are_found_and_the_one_before_is_used(trained: Path, tmp_path: Path) -> None:
    rng = random.Random(0)
    folder = tmp_path / "run"
    shutil.copytree(trained / "checkpoints", folder / "checkpoints")
    last, before = checkpoint_path(folder, N_STEPS), checkpoint_path(folder, N_STEPS - 2)
    content = last.read_bytes()
    for _ in range(100):
        last.write_bytes(content)
        damage(last, rng)
        assert not is_whole(last) and newest(folder) == before
        with pytest.raises(ValueError, match="does not match its checksum"):
            VerifiedIO().load_checkpoint(last)


def test_where_none_is_whole_nothing_is_begun_anew(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(trained / "checkpoints", folder / "checkpoints")
    for path in checkpoints(folder):
        path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=r"none of the 2 checkpoint\(s\)"):
        resume_path("last", folder)


def test_resume_path(trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert resume_path(None, trained) is None
    assert resume_path("last", trained) == checkpoint_path(trained, N_STEPS)
    assert resume_path("last", tmp_path) is None and "starting from the beginning" in caplog.text
    with pytest.raises(FileNotFoundError, match="ckpt_path does not exist"):
        resume_path(str(tmp_path / "no.ckpt"), tmp_path)
    (tmp_path / "foreign.ckpt").write_bytes(b"x" * 1000)
    with pytest.raises(ValueError, match="does not match its checksum"):
        resume_path(str(tmp_path / "foreign.ckpt"), tmp_path)


def test_a_whole_checkpoint_is_what_torch_loads(trained: Path) -> None:
    content = torch.load(checkpoint_path(trained, N_STEPS), weights_only=True)
    assert content["global_step"] == N_STEPS
    assert content["sparsetrain"]["recipe"]["optim"]["lr_peak"] == 0.01
    assert len(content["callbacks"]["RandomState"]["ranks"]) == 1


@pytest.mark.parametrize("offset", [0, 1, 100, 4096, 20_000, 40_000, 60_000, 80_000, 100_000, 120_000])
def test_a_disk_that_is_full_at_an_offset(trained: Path, tmp_path: Path, offset: int) -> None:
    """The write fails at that byte (the limit of the process on file sizes); the old file stays; once there is room it goes on."""
    path = tmp_path / "step_1.ckpt"
    shutil.copy(checkpoint_path(trained, N_STEPS - 2), path)
    content = torch.load(checkpoint_path(trained, N_STEPS), weights_only=True)
    assert path.stat().st_size > 120_000
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (offset, hard))
    try:
        with pytest.raises(OSError, match="cannot write") as error:
            VerifiedIO().save_checkpoint(content, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.filename == str(path) and "bytes" in str(error.value)
    assert is_whole(path) and [*tmp_path.iterdir()] == [path]
    VerifiedIO().save_checkpoint(content, path)
    assert is_whole(path)


def test_a_run_on_a_full_disk_ends_in_words_and_goes_on_when_there_is_room(trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train_small(folder, stop_at_step=6)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OSError, match="cannot write") as error:
            train_small(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.filename == str(checkpoint_path(folder, 8))
    assert newest(folder) == checkpoint_path(folder, 6) and not [*folder.rglob(f"*{TEMPORARY}")]
    train_small(folder)
    assert left(folder) == left(trained)


@pytest.mark.parametrize(
    ("config", "kept"),
    [
        (CheckpointsConfig(every=4), [20, 24]),
        (CheckpointsConfig(every=4, keep_last=1), [24]),
        (CheckpointsConfig(every=4, keep_every=8), [8, 16, 20, 24]),
        (CheckpointsConfig(every=7), [21, 24]),
    ],
)
def test_the_last_ones_and_every_nth_stay(tmp_path: Path, config: CheckpointsConfig, kept: list[int]) -> None:
    train_small(tmp_path, checkpoints=config)
    assert [int(path.stem.removeprefix("step_")) for path in checkpoints(tmp_path)] == kept


def test_a_training_that_goes_on_from_an_earlier_one_is_another_branch(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its own checkpoints stay and are the newest; those of the branch that was left are put aside, not lost."""
    train_small(tmp_path, checkpoints=CheckpointsConfig(every=4, keep_every=4))
    kept = checkpoint_path(tmp_path, 24).read_bytes()
    train_small(tmp_path, every=2, resume=checkpoint_path(tmp_path, 8), stop_at_step=13)
    assert newest(tmp_path) == checkpoint_path(tmp_path, 13)
    aside = tmp_path / "checkpoints" / "abandoned" / "1"
    assert sorted(path.name for path in aside.iterdir()) == [f"step_{n}.ckpt" for n in (12, 16, 20, 24)]
    assert (aside / "step_24.ckpt").read_bytes() == kept and "going on from step 8" in caplog.text
    train_small(tmp_path, every=2, resume=checkpoint_path(tmp_path, 12), stop_at_step=13)
    assert [path.name for path in (aside.parent / "2").iterdir()] == ["step_13.ckpt"] and len(
        list(aside.iterdir())
    ) == 4


def test_written_in_the_background_they_hold_the_same(trained: Path, tmp_path: Path) -> None:
    train_small(tmp_path, checkpoints=CheckpointsConfig(every=2, background=True))
    assert left(tmp_path) == left(trained)


def test_watched_or_not_the_weights_are_the_same(trained: Path, tmp_path: Path) -> None:
    train_small(tmp_path, checkpoints=CheckpointsConfig(every=1000))
    weights = f"export/step_{N_STEPS}/model.safetensors"
    assert (tmp_path / weights).read_bytes() == (trained / weights).read_bytes()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e29])
def test_an_unhealthy_tensor_is_named(value: float) -> None:
    good, bad = torch.ones(3), torch.tensor([0.0, value])
    assert unhealthy({"good": good}) is None
    assert (unhealthy({"good": good, "bad": bad}) or "").startswith("bad has values up to")
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter])
    optimizer.state[parameter] = {"step": torch.tensor(1.0), "exp_avg": bad}
    assert (unhealthy({"w": parameter}, optimizer) or "").startswith("exp_avg of w has values")


def test_a_writer_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write(b"new")
        raise RuntimeError
    assert path.read_bytes() == b"old" and [*tmp_path.iterdir()] == [path]
