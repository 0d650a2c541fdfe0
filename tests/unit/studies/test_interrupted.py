"""A study that is interrupted in the middle of an arm and started again ends in the numbers of an undisturbed one."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from study_example import run_small, small_study

from sparsetrain.interrupt import Interrupted
from sparsetrain.studies.arm import Reader
from sparsetrain.training.checkpoints import newest
from sparsetrain.training.fit import LitTransformer
from tests.equivalence import contents

KINDS = ["familiarity", "knowledge_graph", "adaptive_sparsity", "shifts"]


def numbers(folder: Path) -> dict[str, object]:
    """Weights, tables, report and readings of a study's folder."""
    found = contents(folder)
    for path in sorted(folder.rglob("*.npz")):
        with np.load(path) as file:
            found |= {f"{path.relative_to(folder)}: {name}": file[name].tobytes() for name in file.files}
    return found


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, at: int) -> None:
    """Ctrl-C is pressed as the method is called for the `at`-th time."""
    n_calls, original = 0, getattr(owner, method)

    def raising(self, *args, **settings):
        nonlocal n_calls
        n_calls += 1
        if n_calls == at:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, *args, **settings)

    monkeypatch.setattr(owner, method, raising)


@pytest.fixture(scope="module", params=KINDS)
def undisturbed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    run_small(small_study(request.param), folder)
    return request.param, numbers(folder)


@pytest.mark.parametrize(
    ("owner", "method", "at"),
    [
        (LitTransformer, "training_step", 10),  # between the readings of the second stage
        (Reader, "__call__", 6),  # within a reading
    ],
    ids=["between readings", "within a reading"],
)
def test_an_interrupted_arm_ends_in_the_same_numbers(undisturbed, owner, method, at, tmp_path, monkeypatch):
    kind, want = undisturbed
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, owner, method, at)
        with pytest.raises(Interrupted, match="SIGINT"):
            run_small(small_study(kind), folder)
    stopped = [path.parent for path in folder.rglob("inputs.sha256") if not path.with_name("result.json").is_file()]
    n_unfinished = (2 if kind == "shifts" else 4) - len([*folder.rglob("result.json")])
    assert len(stopped) == 1 and newest(stopped[0]) is not None, "in the middle of one arm"
    n_steps = 0
    step = LitTransformer.training_step

    def counted(self, *args):
        nonlocal n_steps
        n_steps += 1
        return step(self, *args)

    monkeypatch.setattr(LitTransformer, "training_step", counted)
    run_small(small_study(kind), folder)
    assert numbers(folder) == want
    per_stage = len({row.split(",")[0] for row in (stopped[0] / "metrics.csv").read_text().splitlines()[1:]})
    assert n_steps < max(6, per_stage) * n_unfinished, "the arm went on, it did not start again"


@pytest.mark.slow
@pytest.mark.parametrize("at", [2, 5])
def test_a_killed_study_ends_in_the_same_numbers(undisturbed, at, tmp_path):
    kind, want = undisturbed
    folder = tmp_path / "run"
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from study_example import run_small, small_study\n"
        "from sparsetrain.training.fit import LitTransformer\n"
        "step = LitTransformer.training_step\n"
        "def killed(self, *args):\n"
        f"    if self.global_step == {at} and Path({str(folder)!r}).glob('**/result.json'):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return step(self, *args)\n"
        "LitTransformer.training_step = killed\n"
        f"run_small(small_study({kind!r}), Path({str(folder)!r}))\n"
    )
    root = Path(__file__).parents[3]
    env = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests/fixtures'}"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    run_small(small_study(kind), folder)
    assert numbers(folder) == want
