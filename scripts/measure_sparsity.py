"""How sparse are a model's activations on texts of your own? One evaluation, with intervals and a Gaussian reference.

    python scripts/measure_sparsity.py model=hf:<folder or hub name> data=<file.jsonl>
    python scripts/measure_sparsity.py model=runs/quickstart/<stamp> data='[near.jsonl,far.txt]' measure.positions=last

docs/measure_sparsity.md says what is measured and how to read it.
"""

import shlex
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import sparsetrain
from sparsetrain.adapters import Precision, load_language_model
from sparsetrain.data.texts import TextsConfig, read_texts
from sparsetrain.entry import entry, require
from sparsetrain.hooks import select_points
from sparsetrain.report import number, save_report
from sparsetrain.report.render import render
from sparsetrain.report.sections import VIEWS
from sparsetrain.representation.record import append_rows
from sparsetrain.representation.survey import SurveyConfig, measurement_section, survey, write_examples


@dataclass(frozen=True, kw_only=True)
class MeasureSparsityRun:
    """A model, texts, and what is measured."""

    model: str = ""
    """hf:<folder or hub name>, or the folder of a finished run."""
    data: str | list[str] = ""
    """A file, several as a,b or as a list."""
    texts: TextsConfig = field(default_factory=TextsConfig)
    measure: SurveyConfig = field(default_factory=SurveyConfig)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "float32"
    """Of an hf: model's weights; measures are computed in float32 or better."""
    progress: bool = True


@entry(MeasureSparsityRun, "measure_sparsity", folder="texts", new_run=True)
def main(config: MeasureSparsityRun, run_dir: Path) -> None:
    """Measures, writes the tables and the report."""
    started = time.perf_counter()
    name = require("model", config.model)
    files = config.data.split(",") if isinstance(config.data, str) else config.data
    paths = [path.strip() for path in files if path.strip()]
    require("data", ",".join(paths))
    device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch sees no CUDA device; use device=cpu or auto")
    model = load_language_model(name, device=device, precision=config.precision)
    select_points(model.module, config.measure.points)
    texts = read_texts(paths, model.tokenizer, config.texts.fit(model.n_ctx))
    splits = [split.draw(config.measure.n_examples, config.measure.seed) for split in texts]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not config.progress, transient=True) as bar:
        task = bar.add_task("examples", total=sum(len(split.tokens) for split in splits))
        evaluation = survey(model.module, splits, config.measure, lambda n: bar.advance(task, n))
    append_rows(run_dir / "sparsity.csv", model.step or 0, evaluation.rows)
    write_examples(run_dir / "examples.csv", evaluation, splits, config.measure.measures)
    described = {
        "name": name,
        "architecture": model.architecture,
        "n_params": model.n_params,
        "n_ctx": model.n_ctx,
        "left_out": dict(model.left_out),
    }
    section = measurement_section(evaluation, splits, config.measure, model.module)
    seconds = number(time.perf_counter() - started, "s", "measured")
    report = {
        "schema_version": 1,
        "run": {
            "name": "measure_sparsity",
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "version": sparsetrain.__version__,
            "seed": config.measure.seed,
            "command": shlex.join(["python", *sys.argv]),
            "gates": "on",
            "device": device,
            "n_threads": torch.get_num_threads(),
            "torch": torch.__version__,
        },
        "weights": {"sha256": model.weights_sha256} | ({} if model.step is None else {"step": model.step}),
        "measurement": {"model": described, **section},
        "stages": [{"name": "measure_sparsity", "seconds": seconds}],
    }
    save_report(report, run_dir / "report.json")
    print(f"report: {render(report, VIEWS, run_dir)['html']}")


if __name__ == "__main__":
    main()
