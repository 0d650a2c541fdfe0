"""A run folder has one owner: jobs started in the same second, a folder that holds a run, commands beside a running one."""

import json
import shutil
from pathlib import Path

import pytest
from commands import ROOT

from sparsetrain.folder import own

TINY = (
    "+experiment=quickstart", "+debug=smoke", "circuits.tasks=[]", "ood=none", "logger=none", "trainer.progress=false", "trainer.n_threads=1",
    "trainer.n_steps=2",
)  # fmt: skip
PAIR = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {fixtures!r})
from commands import become
children = []
for job in "ab":
    folder = Path.cwd() / job
    folder.mkdir()
    child = os.fork()
    if child == 0:
        time.sleep(1.05 - time.time() % 1)  # the same second, and none about to end
        become(argv={argv!r}, cwd=os.getcwd(), folder=str(folder))
        sys.exit(0)
    children.append(child)
for job, child in zip("ab", children):
    Path(job, "code").write_text(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""


def is_intact(run: Path) -> bool:
    """Whether a folder holds a whole run, written once."""
    report = json.loads((run / "report.json").read_text())
    steps = [row.split(",")[0] for row in (run / "metrics.csv").read_text().splitlines() if ",train_loss," in row]
    log = (run / "train.log").read_text()
    return (
        report["weights"]["step"] == 2
        and (run / "export" / "step_2" / "model.safetensors").is_file()
        and len(steps) == len(set(steps))
        and log.count("training ...") == 1
    )


def pair(python, cache: Path, cwd: Path, *more: str) -> list[tuple[int, str]]:
    """Two jobs of one second; exit code and last line of stderr of each."""
    cwd.mkdir()
    argv = [str(ROOT / "train.py"), *TINY, f"cache_dir={cache}", *more]
    done = python("-c", PAIR.format(fixtures=str(ROOT / "tests" / "fixtures"), argv=argv), cwd=cwd)
    assert done.returncode == 0, done.stderr
    return [(int((cwd / job / "code").read_text()), (cwd / job / "stderr").read_text()) for job in "ab"]


def two_folders(python, cache: Path, cwd: Path) -> None:
    ends = pair(python, cache, cwd)
    runs = list((cwd / "runs" / "quickstart").iterdir())
    assert [code for code, _ in ends] == [0, 0], ends
    assert len(runs) == 2 and all(is_intact(run) for run in runs)


def one_folder(python, cache: Path, cwd: Path) -> None:
    ends = pair(python, cache, cwd, "hydra.run.dir=mine")
    (refusal,) = [error for code, error in ends if code == 1]
    assert sorted(code for code, _ in ends) == [0, 1] and is_intact(cwd / "mine")
    assert refusal.count("\n") == 1 and "mine" in refusal
    assert ("is in use by pid " in refusal and " since " in refusal) or "holds a run already" in refusal, refusal


@pytest.fixture(scope="module")
def warm(python, corpus_cache, tmp_path_factory) -> Path:
    """The corpus is prepared, so that jobs take no longer than a second."""
    folder = tmp_path_factory.mktemp("warm")
    done = python(str(ROOT / "train.py"), *TINY, f"cache_dir={corpus_cache}", "hydra.run.dir=first", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "first"


@pytest.mark.parametrize("jobs", [two_folders, one_folder, one_folder])
def test_jobs_of_one_second(jobs, warm, python, corpus_cache, tmp_path):
    jobs(python, corpus_cache, tmp_path / "work")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("jobs", [two_folders, one_folder])
def test_twenty_pairs_of_one_second(jobs, warm, python, corpus_cache, tmp_path):
    for i in range(20):
        jobs(python, corpus_cache, tmp_path / str(i))


def contents(run: Path) -> dict[str, bytes]:
    return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def train_in(run: Path, python, cache: Path, *more: str):
    return python(str(ROOT / "train.py"), *TINY, f"cache_dir={cache}", f"hydra.run.dir={run}", *more, cwd=run.parent)


def test_a_refused_job_leaves_no_trace(warm, python, corpus_cache, tmp_path):
    run = Path(shutil.copytree(warm, tmp_path / "run"))
    before = {name: data for name, data in contents(run).items() if name != ".lock"}
    done = train_in(run, python, corpus_cache, "seed=7")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "overwrite=true replaces it" in done.stderr
    assert {name: data for name, data in contents(run).items() if name != ".lock"} == before
    with own(run):
        done = train_in(run, python, corpus_cache, "overwrite=true")
    assert done.returncode == 1 and "is in use by pid" in done.stderr
    assert {name: data for name, data in contents(run).items() if name != ".lock"} == before


def test_a_finished_run_is_gone_on_with_or_replaced(warm, python, corpus_cache, tmp_path):
    run = Path(shutil.copytree(warm, tmp_path / "run"))
    (run / "notes.txt").write_text("mine")
    weights = (run / "export" / "step_2" / "model.safetensors").read_bytes()
    metrics = (run / "metrics.csv").read_text()
    done = train_in(run, python, corpus_cache, "ckpt_path=last")
    assert done.returncode == 0, done.stderr
    assert (run / "export" / "step_2" / "model.safetensors").read_bytes() == weights
    assert (run / "metrics.csv").read_text() == metrics, "nothing was trained again"
    done = train_in(run, python, corpus_cache, "overwrite=true", "trainer.n_steps=3")
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (run / "export").iterdir()] == ["step_3"]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_2.ckpt", "step_3.ckpt"]
    assert (run / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "script", ["report", *(pytest.param(name, marks=pytest.mark.slow) for name in ("find_circuits", "verify_report"))]
)
def test_commands_on_a_run_wait_for_its_owner(script, warm, python, tmp_path):
    run = Path(shutil.copytree(warm, tmp_path / "run"))
    with own(run):
        done = python(str(ROOT / "scripts" / f"{script}.py"), f"run={run}", cwd=tmp_path)
    assert done.returncode == 1 and f"error: {run} is in use by pid" in done.stderr


@pytest.mark.slow
def test_jobs_of_a_sweep_keep_their_folders(warm, python, corpus_cache, tmp_path):
    sweep = [
        str(ROOT / "train.py"),
        "-m",
        *TINY,
        f"cache_dir={corpus_cache}",
        "seed=1,2",
        f"hydra.sweep.dir={tmp_path}/sweep",
    ]
    done = python(*sweep, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    runs = [tmp_path / "sweep" / str(i) for i in range(2)]
    before = [contents(run) for run in runs]
    done = python(*sweep, cwd=tmp_path)
    refused = [
        line for line in done.stderr.splitlines() if line.startswith("error: ") and "holds a run already" in line
    ]
    assert done.returncode == 1 and len(refused) == 2, done.stderr
    for run, files in zip(runs, before, strict=True):
        assert {**contents(run), ".lock": b""} == {**files, ".lock": b""}
