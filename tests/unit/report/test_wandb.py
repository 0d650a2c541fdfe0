"""The report in W&B, offline: tables with all rows, figures, the page, one artifact with the files."""

from pathlib import Path

import pytest
import wandb
from report_example import KINDS, example_report, hostile

from circuits.section import CircuitsSection
from sparsetrain.report import save_report
from sparsetrain.report.render import render
from sparsetrain.report.wandb_log import WandbRun, finish_run, forget, log_report


class Recorder:
    """Stands where a run stands and keeps what it is given."""

    id = "abc"

    def __init__(self) -> None:
        self.summary: dict[str, object] = {}
        self.media: dict[str, object] = {}
        self.artifact: wandb.Artifact | None = None

    def log(self, media):
        self.media.update(media)

    def log_artifact(self, artifact):
        self.artifact = artifact


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    report = hostile(example_report())
    save_report(report, tmp_path / "report.json")
    render(report, KINDS, tmp_path)
    (tmp_path / "circuits" / "quote").mkdir(parents=True)
    (tmp_path / "circuits" / "quote" / "circuit.json").write_text("{}")
    return tmp_path


def test_log_report_collects_everything(folder):
    run, report = Recorder(), hostile(example_report())
    log_report(run, report, KINDS, folder / "report.html")
    assert run.summary["report/Tasks with a circuit"] == "2 of 5"
    assert run.summary["report/Tasks with a circuit: verdict"] == "pass"
    kinds = [type(value) for value in run.media.values()]
    assert kinds.count(wandb.Html) == 1 and kinds.count(wandb.Plotly) >= 8
    edges = [value for key, value in run.media.items() if key.endswith("/Edges")]
    sizes = sorted(len(value.data) for value in edges if isinstance(value, wandb.Table))
    tasks = report.section("circuits", CircuitsSection).tasks
    counts = [len(circuit.graph.edges) for task in tasks for circuit in task.circuits]
    assert sizes == sorted(counts)
    assert run.artifact is not None
    files = set(run.artifact.manifest.entries)
    assert files == {"report.json", "report.md", "report.html", "circuits/quote/circuit.json"}


def test_log_report_offline(folder, monkeypatch):
    monkeypatch.setenv("WANDB_CACHE_DIR", str(folder / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(folder / "data"))
    run = WandbRun(folder=folder, project="sparsetrain", name="mine", config={}).start("offline")
    assert run is not None
    log_report(run, example_report(), KINDS, folder / "report.html")
    finish_run(run, failed=False)
    forget()
    kept = [path.name for path in (folder / "wandb").rglob("*") if path.is_file()]
    assert any(name.endswith(".wandb") for name in kept)
    assert any(name.endswith(".html") for name in kept)
    assert sum(name.endswith(".table.json") for name in kept) > 10
