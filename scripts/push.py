"""Writes a trained model as a repository of the Hugging Face hub, and uploads it if it is asked to.

python scripts/push.py run=runs/quickstart/<stamp> dst=hub/mine                  # a folder: no network, no account
python scripts/push.py run=runs/quickstart/<stamp> dst=hf:<user>/<name>          # private, unless private=false

Either loads where sparsetrain is not installed: AutoModelForCausalLM.from_pretrained("hub/mine", trust_remote_code=True).
docs/interop.md says what the folder holds.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from circuits.run import KINDS
from circuits.section import CircuitsSection
from sparsetrain.entry import entry, require
from sparsetrain.export import latest_export, load_model, read_meta
from sparsetrain.interop.card import card
from sparsetrain.interop.hub_folder import places, write_hub_folder
from sparsetrain.interop.hub_push import PREFIX, token_of, upload
from sparsetrain.report import Report, load_report
from sparsetrain.report.blocks import Column, Table, format_number
from sparsetrain.report.markdown import render_block


@dataclass(frozen=True, kw_only=True)
class PushRun:
    """Which model, and where it goes."""

    run: str = ""
    """Folder of a finished run, or of an export, or zoo:<name>."""
    dst: str = ""
    """A folder that is not there yet, or hf:<user or organisation>/<name>."""
    name: str = ""
    """What the card calls the model; empty: as dst."""
    license: str = ""
    """As the hub writes it, for instance mit; empty: the card says none."""
    private: bool = True
    """Whether a repository on the hub is seen by its owner alone."""
    overwrite: bool = False
    """Replace a folder that an earlier call has written."""
    message: str = "a model of sparsetrain"
    """Of the commit on the hub."""


def report_of(run: Path, weights_sha256: str) -> Report | None:
    """The report of a run, if it is about these weights."""
    path = next((folder / "report.json" for folder in (run, *run.parents[:2]) if (folder / "report.json").is_file()), None)  # fmt: skip
    if path is None:
        return None
    report = load_report(path, KINDS)
    return report if report.weights is not None and report.weights.sha256 == weights_sha256 else None


def circuits_words(report: Report | None) -> list[str]:
    """What the card says of circuits."""
    if report is None or "circuits" not in report.sections:
        return []
    tasks = [task for task in report.section("circuits", CircuitsSection).tasks if task.has_circuit]
    rows = tuple(
        (task.task, format_number(task.circuits[0].n_nodes.value), format_number(task.circuits[0].n_edges.value), format_number(task.circuits[0].task_loss.value))
        for task in tasks
    )  # fmt: skip
    columns = tuple(Column(label=label) for label in ("task", "nodes", "edges", "task loss, nats"))
    words = "Found by learned masks; deleted nodes emit their mean. They are not in this repository; other circuits may do as well."
    return ["## Circuits", words, render_block(Table(columns=columns, rows=rows))] if rows else []


@entry(PushRun, "push", literal=("run", "dst", "name", "license", "message"))
def main(config: PushRun, run_dir: Path) -> None:
    """Writes the folder, uploads it, and says how it is loaded."""
    dst = require("dst", config.dst)
    hub = dst.removeprefix(PREFIX) if dst.startswith(PREFIX) else None
    token = None if hub is None else token_of(hub)
    run = Path(require("run", config.run))
    export = latest_export(run)
    meta = read_meta(export)
    report = report_of(run, meta["weights_sha256"])
    readme = card(config.name or hub or Path(dst).name, hub or dst, load_model(export), meta, report=report, licence=config.license, more=circuits_words(report))  # fmt: skip
    if hub is None:
        folder = write_hub_folder(export, dst, readme, overwrite=config.overwrite)
        on = places(folder)
    else:
        assert token is not None
        with tempfile.TemporaryDirectory() as scratch:
            folder = write_hub_folder(export, Path(scratch) / "repository", readme)
            on = places(folder)
            print(upload(folder, hub, token, private=config.private, message=config.message))
    print(f"AbsTopK at {', '.join(f'{place} ({share:g})' for place, share in on.items()) or 'no place'}")
    print(f'AutoModelForCausalLM.from_pretrained("{hub or folder}", trust_remote_code=True)')


if __name__ == "__main__":
    main()
