# pyright: reportMissingTypeStubs=false
"""The report as W&B objects; the only file of the project that imports wandb.

Tables carry every row, curves become plotly figures, the page is shown as it is, and an artifact holds the files. It
works offline: everything is written into the run's folder and can be synced later.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, cast, get_args

import plotly.graph_objects as go
import wandb

from sparsetrain.report import Kinds, Report
from sparsetrain.report.blocks import Block, Cell, Heatmap, Lines, Table, inside, value_of
from sparsetrain.report.document import assemble
from sparsetrain.report.figures import figure
from sparsetrain.typed import Json, plain

Mode = Literal["online", "offline", "disabled"]
FILES = ("report.json", "report.md", "report.html", "ood_sparsity.csv", "ood_examples.csv")


def wandb_mode() -> Mode:
    """How W&B should run: as `WANDB_MODE` says, else online when logged in, offline otherwise.

    Raises:
        ValueError: a `WANDB_MODE` that is none of the three.
    """
    mode = os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False) else "offline")
    if mode not in get_args(Mode):
        raise ValueError(f"WANDB_MODE={mode!r}; allowed: {', '.join(get_args(Mode))}")
    return cast(Mode, mode)


def wandb_settings() -> wandb.Settings:
    """Settings that keep the machine private: no source code, no git state, no command line, no host facts."""
    return wandb.Settings(
        save_code=False,
        disable_code=True,
        disable_git=True,
        x_disable_meta=True,
        x_disable_machine_info=True,
        silent=True,
    )


def log_report(run: Any, report: Report, kinds: Kinds, html_path: Path | str) -> None:
    """Logs a report to a W&B run: tiles to its summary, tables, figures, the page, and an artifact with the files.

    Args:
        run: a `wandb.Run`, online or offline.
        report: as loaded from `report.json`.
        kinds: those that the page was rendered with.
        html_path: `report.html`; the artifact takes report.json, report.md and `circuits/` from the same folder.
    """
    document, html_path = assemble(report, kinds), Path(html_path)
    for tile in document.tiles:
        run.summary[f"report/{tile.label}"] = value_of(tile.value)
        run.summary[f"report/{tile.label}: verdict"] = "not judged" if tile.tone == "none" else tile.tone
    media: dict[str, Any] = {}
    for section in document.sections:
        _collect(section.blocks, f"report/{section.name}", media)
    media["report/page"] = wandb.Html(html_path.read_text(encoding="utf-8"), inject=False)
    run.log(media)
    weights: Json = plain(report.weights) or {}
    artifact = wandb.Artifact(f"report-{run.id}", type="report", metadata={"weights": weights})
    folder = html_path.parent
    for path in [*(folder / name for name in FILES), *sorted((folder / "circuits").rglob("*"))]:
        if path.is_file():
            artifact.add_file(str(path), name=str(path.relative_to(folder)))
    run.log_artifact(artifact)


def _collect(blocks: Iterable[Block], place: str, media: dict[str, Any]) -> None:
    """Adds what W&B can show of `blocks`, and of the blocks inside them, to `media`, each under a key of its own."""
    for block in blocks:
        match block:
            case Table():
                _add(media, place, block.title or "table", _table(block))
            case Heatmap():
                _add(media, place, block.title, _table(block.table(block.values)))
            case Lines():
                _add(media, place, block.title, wandb.Plotly(go.Figure(figure(block))))
            case _:
                for panel in inside(block):
                    name = f"/{_word(' '.join(panel.keys))}" if panel.keys else ""
                    _collect(panel.blocks, place + name, media)


def _add(media: dict[str, Any], place: str, title: str, shown: Any) -> None:
    key = f"{place}/{_word(title)}"
    media[key if key not in media else f"{key} {len(media)}"] = shown


def _table(table: Table) -> wandb.Table:
    """All rows, numbers as numbers; a `Number` becomes its value."""
    rows: list[Any] = [[value_of(cell.value if isinstance(cell, Cell) else cell) for cell in row] for row in table.rows]
    labels = [column.label for column in table.columns]
    columns: list[Any] = [name if labels.index(name) == i else f"{name} {i}" for i, name in enumerate(labels)]
    return wandb.Table(columns=columns, data=rows, allow_mixed_types=True)


def _word(text: str) -> str:
    """`text` as part of a W&B key, which becomes a file name."""
    return re.sub(r"[^\w.,=+() -]+", "_", text).strip()[:60] or "_"
