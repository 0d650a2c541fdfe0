"""Sets the report card's thresholds on circuits whose truth is known, and says how well it judges others.

    python scripts/calibrate_card.py                                          planted models alone
    python scripts/calibrate_card.py runs=[runs/quickstart/a,runs/quickstart/b]     and transplants into trained ones
    python scripts/calibrate_card.py n=2 out=calibration page=docs/circuits.md      two seeds of each, tables into a page

Every circuit's card is a file in `cases`; the same command goes on where it was interrupted. docs/circuits.md says what is done.
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

import torch

from circuits.truth.calibration import CardCalibration, calibrate
from circuits.truth.cases import CARD, Bench, Case, CaseResult, Trained, judge_case, plan
from circuits.truth.falsehoods import FIND
from circuits.truth.page import markdown, page_with, percent, svg
from circuits.truth.plants import Form
from sparsetrain.data import prepare_corpus
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.entry import entry, load_run
from sparsetrain.export import latest_export, load_model, read_meta
from sparsetrain.job import command_line
from sparsetrain.progress import progress_bar
from sparsetrain.report import RunFacts
from sparsetrain.run import RunConfig, cache_dir, text_windows
from sparsetrain.store import once, write_atomic
from sparsetrain.typed import Count, Index, to_dict

N_WINDOWS = 256
"""Windows of a run's text that prompts are cut from. ours"""


@dataclass(frozen=True, kw_only=True)
class CalibrateCardRun:
    """Which circuits, and where to."""

    runs: list[str] = field(default_factory=list[str])
    """Folders of finished runs that mechanisms are transplanted into; the first sets thresholds, the second judges, and so on."""
    n: Count = 1
    """Seeds of every mechanism and form among random weights."""
    families: list[str] = field(default_factory=list[str])
    """Mechanisms, those alone; empty: all (`circuits/truth/mechanisms.py` has them)."""
    forms: list[Form] = field(default_factory=list[Form])
    """Forms of them, those alone; empty: all."""
    own_twins: Index = 0
    """Tasks of each run whose nonsense twins are searched in the run's own model; up to a minute each."""
    out: str = "runs/card"
    """Folder of the result: calibration.json, roc.svg, calibration.md."""
    cases: str = "runs/card/cases"
    """Folder of every circuit's card, a file each."""
    page: str = ""
    """A page whose marked part is written anew; empty: none."""
    commit: str = ""
    """Of the code that runs, for the record: commit=$(git rev-parse --short HEAD)."""
    n_threads: Count = 1
    progress: bool = True


@dataclass(frozen=True, kw_only=True)
class CalibrationFile:
    """What is written: the calibration and what it came from."""

    run: RunFacts
    commit: str
    find: dict[str, object]
    card: dict[str, object]
    weights_sha256: dict[str, str]
    calibration: CardCalibration


def trained(folder: str) -> Trained:
    """A finished run's model and its validation text.

    Raises:
        ValueError: no finished run there.
    """
    run, config = Path(folder), load_run(RunConfig, Path(folder))
    export = latest_export(run)
    corpus = prepare_corpus(config.data, cache_dir(config), progress=False)
    return Trained(
        name=f"{run.name}",
        model=load_model(export).eval().requires_grad_(False),
        tokenizer=Tokenizer.load(export / "tokenizer.json"),
        windows=text_windows(corpus, config, "val", N_WINDOWS),
        weights_sha256=read_meta(export)["weights_sha256"],
    )


def judged(case: Case, bench: Bench, folder: Path) -> CaseResult:
    """The card of a case; judged before with the same settings and weights, it is read from disk."""
    weights = bench.trained[case.host].weights_sha256 if case.host in bench.trained else ""
    key = {"case": to_dict(case), "card": to_dict(CARD), "find": to_dict(FIND), "weights_sha256": weights}
    return once(folder / f"{case.name}.json", key, lambda: judge_case(case, bench), CaseResult)


@entry(CalibrateCardRun, "calibrate_card", literal=("runs", "out", "cases", "page", "commit"))
def main(config: CalibrateCardRun, run_dir: Path) -> None:
    """Plants, judges, calibrates, writes."""
    torch.set_num_threads(config.n_threads)
    page = Path(config.page).read_text() if config.page else ""
    runs = {run.name: run for run in map(trained, config.runs)}
    if len(runs) < len(config.runs):
        raise ValueError(f"runs={config.runs} have equal names; calibrate on folders of different names")
    bench, out = Bench(trained=runs), Path(config.out)
    cases = plan(config.n, list(runs), config.families, config.forms, config.own_twins)
    results: list[CaseResult] = []
    with progress_bar(config.progress) as bar:
        task = bar.add_task("circuits of known truth", total=len(cases))
        for case in cases:
            bar.update(task, description=case.name)
            results.append(judged(case, bench, Path(config.cases)))
            bar.advance(task)
    done = calibrate(results, CARD)
    command = command_line()
    facts = RunFacts.now(name="calibrate_card", seed=0, command=command, device="cpu")
    saved = CalibrationFile(
        run=facts,
        commit=config.commit,
        find=to_dict(FIND),
        card=to_dict(CARD),
        weights_sha256={name: run.weights_sha256 for name, run in runs.items()},
        calibration=done,
    )
    write_atomic(out / "calibration.json", json.dumps(to_dict(saved), indent=1) + "\n")
    write_atomic(out / "roc.svg", svg(done))
    write_atomic(out / "calibration.md", markdown(done, command, "roc.svg") + "\n")
    if config.page:
        picture = os.path.relpath(out / "roc.svg", Path(config.page).parent)
        write_atomic(Path(config.page), page_with(markdown(done, command, picture), page))
    print(f"true accepted: {percent(done.judging.true)}; false accepted: {percent(done.judging.false)}")
    print(f"written: {out / 'calibration.json'}")


if __name__ == "__main__":
    main()
