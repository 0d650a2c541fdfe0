"""A run with one thing wrong at a time: the doctor names it, and nothing else; and the command that it gives goes on with the run."""

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import SMOKE

from circuits.doctor import Finding, to_lines
from circuits.doctor.files import examine_files, resume_command
from circuits.run import KINDS
from sparsetrain.folder import MARK, own
from sparsetrain.job import Job
from sparsetrain.store import sealed


@pytest.fixture
def run(smoke: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(smoke, tmp_path / "run"))


def examined(path: Path, cache: Path, config: str = "") -> list[Finding]:
    return list(examine_files(path, KINDS, cache, config).findings)


def bad(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.level, finding.about) for finding in findings if finding.level != "ok"]


def test_a_finished_run_is_well(run: Path, corpus_cache: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    found = examined(run, corpus_cache)
    assert not bad(found), found
    assert [f.about for f in found if f.about.startswith(("checkpoints", "export"))] == [
        "checkpoints/step_10.ckpt", "checkpoints/step_12.ckpt", "export/step_12",
    ]  # fmt: skip
    assert found[-1].text == "the run is finished, there is nothing to go on with"
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def circuit(run: Path) -> Path:
    return min(run.glob("circuits/*/circuit.json"))


DAMAGE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "a checkpoint is cut": (lambda r: os.truncate(r / "checkpoints/step_12.ckpt", 1000), "problem", "checkpoints/step_12.ckpt"),
    "a bit of a checkpoint": (lambda r: flip(r / "checkpoints/step_10.ckpt"), "problem", "checkpoints/step_10.ckpt"),
    "a checkpoint of something else": (lambda r: (r / "checkpoints/step_10.ckpt").write_bytes(sealed(b"x")), "problem", "checkpoints/step_10.ckpt"),
    "weights": (lambda r: flip(r / "export/step_12/model.safetensors"), "problem", "export/step_12"),
    "weights are gone": (lambda r: (r / "export/step_12/model.safetensors").unlink(), "problem", "export/step_12"),
    "meta.json": (lambda r: (r / "export/step_12/meta.json").write_text("{"), "problem", "export/step_12"),
    "report is cut": (lambda r: os.truncate(r / "report.json", 500), "problem", "report.json"),
    "report of another shape": (lambda r: edit(r / "report.json", lambda c: c.update(schema_version=0)), "problem", "report.json"),
    "no page": (lambda r: (r / "report.html").unlink(), "warning", "report.json"),
    "a line of curves": (lambda r: (r / "metrics.csv").write_text("step,name,value\n1,loss\n2,loss,3\n"), "problem", "metrics.csv"),
    "the last line of curves": (lambda r: os.truncate(r / "metrics.csv", (r / "metrics.csv").stat().st_size - 3), "warning", "metrics.csv"),
    "a writer was killed": (lambda r: (r / "checkpoints/.step_12.ckpt.ab.writing").touch(), "warning", "temporary files"),
    "a job failed": (lambda r: (r / "error.log").write_text("disk full\nTraceback\n"), "warning", "error.log"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_wrong_is_named_and_nothing_else(name: str, run: Path, corpus_cache: Path) -> None:
    damage, level, about = DAMAGE[name]
    damage(run)
    found = examined(run, corpus_cache)
    unfinished = [("ok", "resume")] if "report" in name and level == "problem" else []
    assert bad(found) == [(level, about)], found
    (finding,) = [f for f in found if f.level != "ok"]
    assert finding.fix and "\n" not in finding.text
    assert bool(unfinished) == ("can go on from step 12" in found[-1].text)


def test_circuits_and_means_are_loaded_and_belong_to_the_weights(run: Path, corpus_cache: Path) -> None:
    edit(circuit(run), lambda c: c.update(n_nodes=-1))
    other = sorted(run.glob("circuits/*/circuit.json"))[1]
    edit(other, lambda c: c["provenance"].update(weights_sha256="0" * 64))
    (run / "circuits" / "means.safetensors").write_bytes(b"\0" * 64)
    found = {f.about: f for f in examined(run, corpus_cache) if f.level == "problem"}
    assert set(found) == {
        "circuits/means.safetensors",
        *(str(p.parent.relative_to(run)) for p in (circuit(run), other)),
    }
    assert "another run" in found[str(other.parent.relative_to(run))].fix


def test_the_corpus_is_looked_for_and_looked_at(run: Path, corpus_cache: Path, tmp_path: Path) -> None:
    assert bad(examined(run, tmp_path / "none")) == [("warning", "corpus")]
    cache = Path(shutil.copytree(corpus_cache, tmp_path / "cache"))
    corpus_hash = json.loads((run / "export/step_12/meta.json").read_text())["corpus_hash"]
    flip(max((cache / "tokens" / corpus_hash).glob("*.npy"), key=lambda path: path.stat().st_size))
    (finding,) = [f for f in examined(run, cache) if f.level != "ok"]
    assert (finding.level, finding.about) == ("problem", "corpus") and corpus_hash in finding.fix


def test_a_run_that_cannot_be_gone_on_with(run: Path, corpus_cache: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    (run / "report.json").unlink()
    found = examined(run, corpus_cache, config="config.yaml has unknown keys")
    assert bad(found) == [("problem", "config.yaml"), ("warning", "report.json"), ("warning", "resume")]
    assert "would begin anew" in found[-1].text


def test_every_stage_of_a_study_is_looked_at(run: Path, corpus_cache: Path) -> None:
    stage = run / "sparse" / "seed_0"
    stage.mkdir(parents=True)
    (stage / MARK).touch()
    for name in ("checkpoints", "export", "metrics.csv"):
        (run / name).rename(stage / name)
    assert not bad(examined(run, corpus_cache))
    (run / "report.json").unlink()
    flip(stage / "checkpoints" / "step_10.ckpt")
    found = examined(run, corpus_cache)
    assert bad(found) == [("problem", "sparse/seed_0/checkpoints/step_10.ckpt"), ("warning", "report.json")]
    assert "can go on; 1 stage(s) have begun" in found[-1].text


def test_a_run_in_use_is_said_to_be(run: Path, corpus_cache: Path) -> None:
    with own(run):
        assert bad(examined(run, corpus_cache)) == [("warning", "lock")]


def test_one_export_and_one_checkpoint(run: Path, corpus_cache: Path, tmp_path: Path) -> None:
    (finding,) = examined(run / "export" / "step_12", corpus_cache)
    assert (finding.level, finding.about) == ("ok", "export")
    (finding,) = examined(run / "checkpoints" / "step_12.ckpt", corpus_cache)
    assert finding.level == "ok" and "of 12 steps" in finding.text
    (finding,) = examined(run / "report.md", corpus_cache)
    assert finding.level == "problem" and "no checkpoint" in finding.text
    with pytest.raises(FileNotFoundError, match="no such folder"):
        examined(tmp_path / "nothing", corpus_cache)


def test_the_command_gives_anew_what_says_where(tmp_path: Path) -> None:
    def command(line: str, *overrides: str) -> str:
        (tmp_path / "job.json").unlink(missing_ok=True)
        Job(command=line, overrides=overrides).save(tmp_path)
        return resume_command(tmp_path)

    where = f"hydra.run.dir={tmp_path} ckpt_path=last"
    overrides = (
        "+experiment=quickstart",
        "name=a b",
        "hydra.run.dir=x",
        "overwrite=true",
        "stop_at_step=3",
        "ckpt_path=null",
    )
    assert (
        command("python train.py +experiment=quickstart", *overrides)
        == f"python train.py +experiment=quickstart 'name=a b' {where}"
    )
    assert command("") == f"the command that started it, with {where}"
    (tmp_path / "job.json").write_text("{")
    assert resume_command(tmp_path) == f"the command that started it, with {where}"


def test_lines_are_aligned_and_the_sum_is_last() -> None:
    from circuits.doctor import Chapter, ok, problem, warning

    chapters = [
        Chapter(title="a", findings=(ok("x", "well"), warning("long", "so so", "do this"))),
        Chapter(title="b", findings=(problem("y", "bad"),)),
    ]
    assert to_lines(chapters) == [
        "a", "  ok       x     well", "  warning  long  so so", "                 -> do this", "b", "  problem  y     bad", "1 problem, 1 warning",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_command_goes_on_and_exit_codes_say_how_it_is(python, tmp_path: Path, corpus_cache: Path) -> None:
    run = tmp_path / "run"
    quick = (*SMOKE, "logger=none", "ood=none", "circuits=none", f"cache_dir={corpus_cache}", f"hydra.run.dir={run}")
    assert python("train.py", *quick, "stop_at_step=5").returncode == 0
    done = python("scripts/doctor.py", f"run={run}", f"json={tmp_path}/found.json")
    assert done.returncode == 0, done.stdout
    resume = json.loads((tmp_path / "found.json").read_text())[-1]["findings"][-1]["text"]
    assert "can go on from step 5 of 12: python" in resume
    command = shlex.split(resume.partition(": ")[2])
    assert python(*command[1:]).returncode == 0
    done = python("scripts/doctor.py", f"run={run}")
    assert done.returncode == 0 and "the run is finished" in done.stdout, done.stdout
    flip(run / "export" / "step_12" / "model.safetensors")
    done = python("scripts/doctor.py", f"run={run}")
    assert done.returncode == 1 and "is damaged" in done.stdout and done.stdout.splitlines()[-1].startswith("1 problem")
    assert done.stderr == ""
