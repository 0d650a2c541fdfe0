"""report.json -> report.md and report.html, through the views that the entry point hands in."""

from pathlib import Path

from sparsetrain.report import Kinds, Report
from sparsetrain.report.document import assemble
from sparsetrain.report.html import to_html
from sparsetrain.report.markdown import to_markdown
from sparsetrain.store import write_atomic


def render(report: Report, kinds: Kinds, out_dir: Path | str) -> dict[str, Path]:
    """Writes `report.md` and `report.html` into `out_dir`, each atomically.

    Args:
        report: as loaded from `report.json`.
        kinds: of its sections, in reading order.
        out_dir: folder, made if it is not there.

    Returns:
        {"md": path, "html": path}.

    Raises:
        ValueError: the report has a section that no view shows.
    """
    out_dir = Path(out_dir)
    document = assemble(report, kinds)
    return {
        "md": write_atomic(out_dir / "report.md", to_markdown(document)),
        "html": write_atomic(out_dir / "report.html", to_html(document)),
    }
