"""The report as W&B objects; the only file of the project that imports wandb.

Tables carry every row, curves become plotly figures, the page is shown as it is, and an artifact holds the files. It
works offline: everything is written into the run's folder and can be synced later.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import plotly.graph_objects as go
import wandb

from sparsetrain.report import Report, value_of
from sparsetrain.report.blocks import Block, Cell, Choice, Details, Grid, Heatmap, Lines, Pick, Table, View, Widget
from sparsetrain.report.document import assemble
from sparsetrain.report.figures import figure
from sparsetrain.typed import plain

Mode = Literal["online", "offline", "disabled"]
FILES = ("report.json", "report.md", "report.html", "ood_sparsity.csv", "ood_examples.csv")


def wandb_mode() -> Mode:
    """How W&B should run: as `WANDB_MODE` says, else online when logged in, offline otherwise.

    Raises:
        ValueError: a `WANDB_MODE` that is none of the three.
    """
    mode = os.environ.get("WANDB_MODE", "")
    if mode and mode not in ("online", "offline", "disabled"):
        raise ValueError(f"WANDB_MODE={mode!r}; allowed: online, offline, disabled")
    if mode:
        return cast(Mode, mode)
    return "online" if wandb.login(prompt=False) else "offline"


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


def log_report(run: Any, report: Report | Mapping[str, Any], views: Mapping[str, View], html_path: Path | str) -> None:
    """Logs a report to a W&B run: tiles to its summary, tables, figures, the page, and an artifact with the files.

    Args:
        run: a `wandb.Run`, online or offline.
        report: as loaded from `report.json`.
        views: the views that the page was rendered with.
        html_path: `report.html`; the artifact takes report.json, report.md and `circuits/` from the same folder.
    """
    document, html_path = assemble(report, views), Path(html_path)
    for tile in document.tiles:
        run.summary[f"report/{tile.label}"] = value_of(tile.value)
        run.summary[f"report/{tile.label}: verdict"] = "not judged" if tile.tone == "none" else tile.tone
    media: dict[str, Any] = {}
    for section in document.sections:
        for block in section.blocks:
            _collect(block, f"report/{section.name}", media)
    media["report/page"] = wandb.Html(html_path.read_text(encoding="utf-8"), inject=False)
    run.log(media)
    weights = plain(report).get("weights", {})
    artifact = wandb.Artifact(f"report-{run.id}", type="report", metadata={"weights": weights})
    folder = html_path.parent
    for name in FILES:
        if (folder / name).is_file():
            artifact.add_file(str(folder / name))
    for path in sorted((folder / "circuits").rglob("*")):
        if path.is_file():
            artifact.add_file(str(path), name=str(path.relative_to(folder)))
    run.log_artifact(artifact)


def _collect(block: Block, place: str, media: dict[str, Any]) -> None:
    """Adds what W&B can show of `block`, and of the blocks inside it, to `media` under a key of its own."""
    if isinstance(block, Table):
        media[_key(media, place, block.title or "table")] = _table(block)
    elif isinstance(block, Heatmap):
        rows: list[Any] = [[label, *row] for label, row in zip(block.y_labels, block.values, strict=True)]
        media[_key(media, place, block.title)] = wandb.Table(
            columns=_unique([block.corner, *block.x_labels]), data=rows
        )
    elif isinstance(block, Lines):
        media[_key(media, place, block.title)] = wandb.Plotly(go.Figure(figure(block)))
    elif isinstance(block, Pick):
        for keys in block.shown:
            _collect(block.options[keys], place, media)
    elif isinstance(block, Widget):
        for inner in block.fallback:
            _collect(inner, f"{place}/{_word(block.title)}", media)
    elif isinstance(block, Grid | Details):
        inside = f"{place}/{_word(block.summary)}" if isinstance(block, Details) else place
        for inner in block.blocks:
            _collect(inner, inside, media)
    elif isinstance(block, Choice):
        for panel in block.panels:
            for inner in panel.blocks:
                _collect(inner, f"{place}/{_word(' '.join(panel.keys))}", media)


def _table(table: Table) -> wandb.Table:
    """All rows, numbers as numbers; a `number(...)` becomes its value."""
    rows: list[Any] = [[value_of(cell.value if isinstance(cell, Cell) else cell) for cell in row] for row in table.rows]
    columns = _unique([column.label for column in table.columns])
    return wandb.Table(columns=columns, data=rows, allow_mixed_types=True)


def _unique(labels: list[str]) -> list[Any]:
    return [label if labels.index(label) == i else f"{label} {i}" for i, label in enumerate(labels)]


def _word(text: str) -> str:
    """`text` as part of a W&B key, which becomes a file name."""
    return re.sub(r"[^\w.,=+() -]+", "_", text).strip()[:60] or "_"


def _key(media: Mapping[str, Any], place: str, title: str) -> str:
    key = f"{place}/{_word(title)}"
    return key if key not in media else f"{key} {len(media)}"
