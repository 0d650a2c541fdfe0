"""What a run has left, and whether it is whole: checkpoints, exports, report, circuits, curves, its corpus; and how to go on with it."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from circuits.circuit import Circuit
from circuits.doctor import Chapter, Finding, ok, problem, warning
from circuits.means import Means
from sparsetrain.data.corpus import StoredCorpus, stored_corpora
from sparsetrain.export import load_model, read_meta
from sparsetrain.folder import LOCK, MARK, own
from sparsetrain.job import Job
from sparsetrain.report import Kinds, Report, load_report
from sparsetrain.store import TEMPORARY, is_whole
from sparsetrain.training.checkpoints import checkpoints
from sparsetrain.training.metrics import read_metrics
from sparsetrain.training.resume import record_of
from sparsetrain.typed import one_line

WHERE = ("hydra.run.dir", "hydra.sweep", "ckpt_path", "overwrite", "stop_at_step")
"""Keys of the command that started a run which the one that goes on with it gives anew."""
UNREADABLE = (OSError, ValueError, KeyError, TypeError)
"""What reading a damaged file may raise."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint that is whole."""

    path: Path
    step: int
    n_steps: int
    corpus_hash: str | None


def examine_files(path: Path, kinds: Kinds, cache_dir: Path, config: str) -> Chapter:
    """Everything that can be said of a run's folder, an export's, or a checkpoint.

    Args:
        path: of it.
        kinds: of the sections that a report may hold.
        cache_dir: of tokenised corpora.
        config: why the run's config cannot be read; empty: it can.

    Raises:
        FileNotFoundError: nothing there.
    """
    if not path.exists():
        raise FileNotFoundError(2, "no such folder or file; give that of a run, an export or a checkpoint", str(path))
    if path.is_file():
        found = tuple(_checkpoint(path, path.parent)[0])
    elif (path / "model.safetensors").is_file():
        found = (_export(path, path),)
    else:
        found = tuple(_run(path, kinds, cache_dir, config))
    return Chapter(title=str(path), findings=found)


def _run(run: Path, kinds: Kinds, cache_dir: Path, config: str) -> Iterator[Finding]:
    yield from _surroundings(run, config)
    stages = sorted({mark.parent for mark in run.rglob(MARK)} - {run})
    whole: list[Checkpoint] = []
    exports: list[Path] = []
    for folder in (run, *stages):
        for path in checkpoints(folder):
            findings, checkpoint = _checkpoint(path, run)
            yield from findings
            whole += [checkpoint] if checkpoint is not None and folder == run else []
        yield from _metrics(folder / "metrics.csv", run)
        for path in sorted((folder / "export").glob("step_*")):
            yield (finding := _export(path, run))
            exports += [path] if finding.level == "ok" else []
    hashes = {read_meta(path)["weights_sha256"] for path in exports}
    findings, report = _report(run, kinds)
    yield from findings
    yield from _circuits(run, hashes)
    if (corpus_hash := _corpus_hash(whole, exports)) is not None:
        yield _corpus(corpus_hash, stored_corpora(cache_dir), cache_dir)
    yield _verdict(run, whole, report, stages)


def _surroundings(run: Path, config: str) -> Iterator[Finding]:
    if (run / LOCK).is_file():
        try:
            with own(run, shared=True):
                pass
        except ValueError as error:
            yield warning("lock", str(error).split(";")[0], "what is said below may change while it works")
    if config:
        yield problem("config.yaml", config, "without it nothing can go on with this run; give the settings again")
    else:
        yield ok("config.yaml", "can be read")
    if (run / "error.log").is_file():
        first = (run / "error.log").read_text(encoding="utf-8", errors="replace").split("\n")[0]
        yield warning("error.log", f"the last job ended with: {first}", "the rest of this file has the traceback")
    left = sorted(run.rglob(f".*{TEMPORARY}"))
    if left:
        yield warning(
            "temporary files", f"{len(left)} of a writer that was killed, {left[0]} is the first", "they can be removed"
        )


def _checkpoint(path: Path, run: Path) -> tuple[list[Finding], Checkpoint | None]:
    about = str(path.relative_to(run))
    try:
        if not is_whole(path):
            fix = "rm it; ckpt_path=last takes the newest one that is whole"
            return [
                problem(about, "does not match its checksum: it is damaged, or no checkpoint of sparsetrain", fix)
            ], None
        record = record_of(path)
        trainer, corpus_hash = record["recipe"]["trainer"], record["facts"].get("corpus_hash")
        step = int(path.stem.removeprefix("step_")) if path.stem.startswith("step_") else 0
        checkpoint = Checkpoint(path=path, step=step, n_steps=trainer["n_steps"], corpus_hash=corpus_hash)
    except UNREADABLE as error:
        return [problem(about, one_line(error), "rm it, or find out where it comes from")], None
    return [ok(about, f"whole, of {checkpoint.n_steps} steps, {path.stat().st_size / 1e6:.1f} MB")], checkpoint


def _export(path: Path, run: Path) -> Finding:
    about = str(path.relative_to(run)) if path != run else "export"
    try:
        load_model(path)
    except UNREADABLE as error:
        return problem(about, one_line(error), "export it again by going on with the run (ckpt_path=last)")
    return ok(about, f"weights {read_meta(path)['weights_sha256'][:12]} match meta.json")


def _metrics(path: Path, run: Path) -> Iterator[Finding]:
    if not path.is_file():
        return
    about = str(path.relative_to(run))
    try:
        rows = read_metrics(path)
    except UNREADABLE as error:
        yield problem(about, one_line(error), "remove the lines that are damaged")
        return
    if not path.read_bytes().endswith(b"\n"):
        yield warning(
            about,
            f"{len(rows)} rows; the last line was being written when the job ended",
            "going on with the run cuts it back",
        )
    else:
        yield ok(about, f"{len(rows)} rows")


def _report(run: Path, kinds: Kinds) -> tuple[list[Finding], Report | None]:
    path = run / "report.json"
    if not path.is_file():
        return [warning(path.name, "is not there: no stage has ended")], None
    try:
        report = load_report(path, kinds)
    except UNREADABLE as error:
        return [problem(path.name, one_line(error), "going on with the run writes it again")], None
    if report.missing:
        names = "; ".join(f"{missing.stage}: {missing.reason}" for missing in report.missing)
        again = f"the run's command with ckpt_path=last makes them; circuits alone: python scripts/find_circuits.py run={shlex.quote(str(run))} task=<name>"
        return [warning(path.name, f"can be read; stages are missing ({names})", again)], report
    pages = [name for name in ("report.html", "report.md") if not (run / name).is_file()]
    if pages:
        fix = f"python scripts/report.py run={shlex.quote(str(run))}"
        return [warning(path.name, f"can be read; {' and '.join(pages)} are not there", fix)], report
    return [ok(path.name, f"can be read: {', '.join(report.sections)}")], report


def _circuits(run: Path, hashes: set[str]) -> Iterator[Finding]:
    """Circuits and means, each loaded; those of other weights than the run's exports are named."""
    n_whole = 0
    for path in sorted([*run.rglob("circuit.json"), *run.rglob("means.safetensors")]):
        about = str((path.parent if path.name == "circuit.json" else path).relative_to(run))
        try:
            weights = (
                Means.load(path).weights_sha256
                if path.suffix == ".safetensors"
                else Circuit.load(path).provenance.weights_sha256
            )
        except UNREADABLE as error:
            yield problem(
                about, one_line(error), f"python scripts/find_circuits.py run={shlex.quote(str(run))} finds it again"
            )
            continue
        if hashes and weights not in hashes:
            yield problem(
                about, f"is of weights {weights[:12]}, which no export of this run has", "it belongs to another run"
            )
            continue
        n_whole += 1
    if n_whole:
        yield ok("circuits", f"{n_whole} files of circuits and means are whole and of this run's weights")


def _corpus_hash(whole: list[Checkpoint], exports: list[Path]) -> str | None:
    said = [checkpoint.corpus_hash for checkpoint in whole] + [read_meta(path).get("corpus_hash") for path in exports]
    return next((found for found in reversed(said) if found), None)


def _corpus(corpus_hash: str, stored: list[StoredCorpus], cache_dir: Path) -> Finding:
    found = next((corpus for corpus in stored if corpus.folder.name == corpus_hash), None)
    about = "corpus"
    if found is None or found.pointer is None:
        return warning(
            about,
            f"{corpus_hash[:12]} is not in {cache_dir}",
            "going on with the run prepares it again from its sources, which must not have changed",
        )
    if found.problem:
        return problem(
            about,
            f"{found.problem}: {found.folder}",
            f"rm -r {found.folder} {found.pointer}: it is prepared again from its sources",
        )
    return ok(about, f"{corpus_hash[:12]} is whole in {cache_dir}")


def _verdict(run: Path, whole: list[Checkpoint], report: Report | None, stages: list[Path]) -> Finding:
    """In words: what can be gone on with, and by which command."""
    command = resume_command(run)
    if report is not None and not report.missing:
        return ok("resume", "the run is finished, there is nothing to go on with")
    if whole:
        last = max(whole, key=lambda checkpoint: checkpoint.step)
        return ok("resume", f"can go on from step {last.step} of {last.n_steps}: {command}")
    if stages:
        return ok("resume", f"can go on; {len(stages)} stage(s) have begun, finished ones are kept: {command}")
    return warning("resume", "no whole checkpoint: it would begin anew", command)


def resume_command(run: Path) -> str:
    """The command that goes on with a run; where it is not known how the run was started, in words."""
    more = [f"hydra.run.dir={run}", "ckpt_path=last"]
    try:
        job = Job.load(run)
    except UNREADABLE:
        job = Job(command="")
    words = shlex.split(job.command)
    if len(words) < 2:
        return f"the command that started it, with {shlex.join(more)}"
    given = [word for word in job.overrides if not word.lstrip("+~").startswith(WHERE)]
    return shlex.join([*words[:2], *given, *more])
