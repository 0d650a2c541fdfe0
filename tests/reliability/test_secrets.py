"""Secrets of whoever starts a run are in nothing that it leaves: folder, W&B file, pages, nor in what it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT, SMOKE

pytestmark = pytest.mark.slow

ENVIRONMENT = {
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "HF_TOKEN": "hf_QwErTyUiOpAsDfGhJkLzXcVbNm",
    "RUN_TOKEN": "resolved-by-oc-env-9f8e7d",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
}
ARGUMENTS = {"of a service": "ghp_0123456789abcdefghijABCDEFGHIJ012345", "in an address": "hunter2hunter2"}
SECRETS = {**ENVIRONMENT, **ARGUMENTS}


def start(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **ENVIRONMENT, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)


def hits(folder: Path, *texts: str) -> list[tuple[str, str]]:
    """(secret, file) wherever one is found, names of files included."""
    found = [(name, "output") for name, secret in SECRETS.items() for text in texts if secret in text]
    for path in folder.rglob("*"):
        content = str(path.relative_to(folder)).encode() + (path.read_bytes() if path.is_file() else b"")
        found += [(name, str(path)) for name, secret in SECRETS.items() if secret.encode() in content]
    return found


def test_a_finished_run_holds_none(tmp_path: Path, corpus_cache: Path) -> None:
    run = tmp_path / "run"
    done = start(
        str(ROOT / "train.py"), *SMOKE, "logger.kind=wandb", "logger.wandb=offline", "circuits=none",
        f"name='${{oc.env:RUN_TOKEN}} {ARGUMENTS['of a service']}'",
        f"cache_dir={corpus_cache}", f"hydra.run.dir={run}", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    names = {path.name for path in run.rglob("*")}
    assert {"report.html", "report.json", "config.yaml", "job.json"} <= names and any(
        n.endswith(".wandb") for n in names
    )
    assert hits(tmp_path, done.stdout, done.stderr) == []
    assert "${oc.env:RUN_TOKEN}" in (run / "config.yaml").read_text()
    done = start(str(ROOT / "scripts" / "doctor.py"), f"run={run}", f"json={tmp_path}/doctor.json", cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert hits(tmp_path, done.stdout, done.stderr) == []


@pytest.mark.parametrize("path", ["https://me:{}@host/x", "{}.txt", "x?token={}"])
def test_a_failed_run_holds_none(path: str, tmp_path: Path, corpus_cache: Path) -> None:
    run = tmp_path / "run"
    secret = ARGUMENTS["of a service" if path.endswith("txt") else "in an address"]
    done = start(
        str(ROOT / "train.py"), *SMOKE, "logger=none", f"data.sources={{x: {{kind: files, paths: ['{path.format(secret)}']}}}}",
        "name=${oc.env:RUN_TOKEN}", f"cache_dir={corpus_cache}", f"hydra.run.dir={run}", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: no " in done.stderr and (run / "error.log").is_file()
    assert hits(tmp_path, done.stdout, done.stderr) == []
