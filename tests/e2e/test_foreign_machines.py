"""Machines that are not ours: no home, no entry for the user, a shared or unwritable cache, odd consoles, SLURM's variables."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import ROOT

TINY = (
    "+experiment=quickstart", "+debug=smoke", "circuits.tasks=[]", "ood=none", "logger=none", "trainer.n_threads=1", "trainer.n_steps=2",
    "hydra.run.dir=run",
)  # fmt: skip
PLAIN = {
    "PATH": os.environ["PATH"],
    "HOME": os.environ.get("HOME", "/"),
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def train(
    cwd: Path, *arguments: str, prefix: tuple[str, ...] = (), **environment: str
) -> subprocess.CompletedProcess[bytes]:
    env = {name: value for name, value in {**PLAIN, **environment}.items() if value}
    command = [*prefix, sys.executable, str(ROOT / "train.py"), *TINY, *arguments]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True)


def is_whole(run: Path) -> bool:
    return (run / "report.json").is_file() and (run / "metrics.csv").read_text().count("train_loss") == 2


def one_line(done: subprocess.CompletedProcess[bytes]) -> bool:
    """Whether a command failed in one line, behind the names of the stages it had begun."""
    stages, error = done.stderr.splitlines()[:-1], done.stderr.splitlines()[-1]
    return done.returncode == 1 and error.startswith(b"error: ") and all(line.endswith(b" ...") for line in stages)


@pytest.mark.slow
@pytest.mark.parametrize(
    "variables",
    [
        {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "x"},
        {"SLURM_NTASKS": "4", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0", "SLURM_JOB_ID": "7"},
        {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "bash"},
    ],
)
def test_slurms_variables_in_a_shell_change_nothing(variables, corpus_cache, tmp_path):
    done = train(tmp_path, f"cache_dir={corpus_cache}", "trainer.progress=false", **variables)
    assert done.returncode == 0, done.stderr
    assert is_whole(tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "console",
    [
        {"PYTHONIOENCODING": "cp1252"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii", "TERM": "dumb"},
    ],
)
def test_progress_bars_and_paths_on_a_console_without_their_letters(console, corpus_cache, tmp_path):
    folder = tmp_path / "папка"
    folder.mkdir()
    done = train(folder, f"cache_dir={corpus_cache}", "name=имя", "trainer.progress=true", **console)
    assert done.returncode == 0, done.stderr
    assert is_whole(folder / "run") and b"Logging error" not in done.stderr
    log = (folder / "run" / "train.log").read_bytes()
    assert "имя" in (folder / "run" / "report.md").read_text(encoding="utf-8") and log.decode("utf-8")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach and write; pytest keeps its own to the user who runs it."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


@needs_root
@pytest.mark.slow
def test_a_user_without_home_and_entry(open_folder):
    other = ("setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups")
    done = train(open_folder, "trainer.progress=false", prefix=other, HOME="", TMPDIR=str(open_folder))
    assert done.returncode == 0, done.stderr
    assert is_whole(open_folder / "run") and (open_folder / "run").stat().st_uid == 54321
    assert [path for path in (open_folder / "sparsetrain-54321").rglob("*.npy") if path.stat().st_uid == 54321]


@needs_root
@pytest.mark.slow
@pytest.mark.parametrize("where", ["cache", "run"])
def test_a_folder_that_cannot_be_written_is_one_line_that_names_it(where, open_folder):
    closed, cwd = open_folder / "closed", open_folder / "cwd"
    closed.mkdir(mode=0o755)
    cwd.mkdir()
    cwd.chmod(0o777)
    other = ("setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups")
    place = f"cache_dir={closed}" if where == "cache" else f"hydra.run.dir={closed}/run"
    done = train(cwd, place, "trainer.progress=false", prefix=other, TMPDIR=str(cwd))
    assert one_line(done), done.stderr
    assert b"ermission denied" in done.stderr and str(closed).encode() in done.stderr


@pytest.mark.slow
def test_a_cache_is_shared_as_the_umask_says_and_by_two_processes_at_once(tmp_path):
    cache = tmp_path / "cache"
    code = "import os, sys, runpy; os.umask(0o002); sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    jobs = []
    for name in "ab":
        (tmp_path / name).mkdir()
        command = [
            sys.executable,
            "-c",
            code,
            str(ROOT / "train.py"),
            *TINY,
            f"cache_dir={cache}",
            "trainer.progress=false",
        ]
        jobs.append(
            subprocess.Popen(command, cwd=tmp_path / name, env=PLAIN, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        )
    for job in jobs:
        _, error = job.communicate()
        assert job.returncode == 0, error
    assert is_whole(tmp_path / "a" / "run") and is_whole(tmp_path / "b" / "run")
    for path in [cache, *cache.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o060 == 0o060, f"{path} has mode {mode:o}: the group cannot use it"
    assert not list((cache / "drafts").iterdir()), "a draft was left behind"
