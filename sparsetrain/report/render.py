"""report.json -> report.md and report.html, through the views that the entry point hands in."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsetrain.report import Report
from sparsetrain.report.blocks import View
from sparsetrain.report.document import assemble
from sparsetrain.report.html import to_html
from sparsetrain.report.markdown import to_markdown
from sparsetrain.store import write_atomic


def render(report: Report | Mapping[str, Any], views: Mapping[str, View], out_dir: Path | str) -> dict[str, Path]:
    """Writes `report.md` and `report.html` into `out_dir`, each atomically.

    Args:
        report: as loaded from `report.json`.
        views: section name -> view, in reading order: `sparsetrain.report.sections.VIEWS | circuits.views.VIEWS`.
        out_dir: folder, made if it is not there.

    Returns:
        {"md": path, "html": path}.

    Raises:
        ValueError: the report has a section that no view shows.
    """
    out_dir = Path(out_dir)
    document = assemble(report, views)
    return {
        "md": write_atomic(out_dir / "report.md", to_markdown(document)),
        "html": write_atomic(out_dir / "report.html", to_html(document)),
    }
