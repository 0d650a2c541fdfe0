# pyright: reportMissingTypeStubs=false
"""A run of W&B, and the report as its objects; the only file of the project that imports wandb.

Tables carry every row, curves become plotly figures, the page is shown as it is, and an artifact holds the files. It
works offline: everything is written into the run's folder and can be synced later.
"""

import logging
import os
import re
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal, cast

import plotly.graph_objects as go
import wandb
from PIL import Image
from wandb.sdk import wandb_setup

from sparsetrain.report import Kinds, Report
from sparsetrain.report.blocks import Block, Cell, Heatmap, Intervals, Lines, Pictures, Table, inside, value_of
from sparsetrain.report.document import assemble
from sparsetrain.report.figures import figure
from sparsetrain.typed import Json, plain

log = logging.getLogger(__name__)

WandbMode = Literal["auto", "online", "offline", "disabled"]
WORDS: Mapping[str, WandbMode] = {
    "online": "online", "run": "online", "shared": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled",
}  # fmt: skip
"""What `WANDB_MODE` may be."""
WAYS_OUT: Mapping[WandbMode, str] = {
    "online": "`wandb login` or WANDB_API_KEY logs in; logger.wandb=auto goes on offline, logger=none without W&B",
    "offline": "logger=none goes without W&B",
}
FINISH_TIMEOUT = (
    600.0  # ours: seconds that the last upload may take; what is missing then can be synced from the folder
)
FILES = ("report.json", "report.md", "report.html", "ood_sparsity.csv", "ood_examples.csv")


@dataclass(frozen=True, kw_only=True)
class WandbRun:
    """What a run of W&B is started with.

    Args:
        folder: its files go to `<folder>/wandb/`, whatever WANDB_DIR says.
        project: of the user.
        name: what is shown.
        config: plain data.
        id: of the run to go on with; None: a new one, or that of the sweep agent that started this process.
        group: of runs that belong together.
        kind: `job_type`.
        tags: to find it by.
        timeout: seconds that the server may take to answer.
    """

    folder: Path
    project: str
    name: str
    config: Mapping[str, Any]
    id: str | None = None
    group: str | None = None
    kind: str = "train"
    tags: Sequence[str] = ()
    timeout: float = 30.0

    def start(self, mode: WandbMode) -> wandb.Run | None:
        """Starts it; None where W&B is disabled, or cannot even write files under `auto`.

        Raises:
            ValueError: what was asked for cannot be had; under `auto` this is a warning, and the run is offline.
        """
        if mode == "disabled":
            return None
        word = os.environ.get("WANDB_MODE", "online")
        if not word:  # means nothing to a person, and is an error to W&B
            word = "online"
            del os.environ["WANDB_MODE"]
        if word not in WORDS:
            raise ValueError(f"WANDB_MODE={word!r}; allowed: {', '.join(WORDS)}")
        # What it logs, with tracebacks, is what it raises.
        logging.getLogger("wandb").setLevel(logging.CRITICAL)
        before = set(self.folder.glob("wandb/run-*"))
        try:
            found = self.auto() if mode == "auto" else mode
            return None if found == "disabled" else self._init(found)
        # Everything from wandb's own errors over those of its connection to its service down to pydantic's and the disk's.
        except Exception as error:
            forget()
            for begun in set(self.folder.glob("wandb/run-*")) - before:
                rmtree(begun, ignore_errors=True)
            problem = reason(error)
            if mode != "auto":
                raise ValueError(f"logger.wandb={mode}: {problem}; {WAYS_OUT[mode]}") from error
        try:
            run = self._init("offline")
        except Exception as error:
            forget()
            log.warning("W&B: %s; this run goes on without it", reason(error))
            return None
        log.warning("W&B: %s; this run is logged offline, `wandb sync %s` sends it", problem, Path(run.dir).parent)
        return run

    def auto(self) -> WandbMode:
        """What `auto` comes to: as WANDB_MODE or `wandb offline` says, else online where there is a key. Asks no server."""
        with some_home(self.folder):
            said = WORDS[wandb.setup(self._settings()).settings.mode]
        if said != "online":
            return said
        return "online" if wandb.login(prompt=False, verify=False) else "offline"

    def _init(self, mode: WandbMode) -> wandb.Run:
        with some_home(self.folder):
            wandb.setup(self._settings())
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            raise ValueError("this machine is not logged in to W&B")
        run = wandb.init(
            project=self.project,
            dir=self.folder,
            name=self.name,
            config=dict(self.config),
            id=self.id,
            group=self.group,
            job_type=self.kind,
            tags=self.tags,
            mode=cast(Literal["online", "offline"], mode),
            resume="allow" if self.id is not None and mode == "online" else None,
            reinit="create_new",
            settings=self._settings(),
        )
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return run

    def _settings(self) -> wandb.Settings:
        """Settings that keep the machine private: no source code, no git state, no command line, no host facts, no output."""
        return wandb.Settings(
            save_code=False,
            disable_code=True,
            disable_git=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            console="off",
            silent=True,
            init_timeout=self.timeout,
            finish_timeout=FINISH_TIMEOUT,
            finish_timeout_raises=True,
        )


def finish_run(run: wandb.Run, failed: bool) -> None:
    """Ends a run; whatever goes wrong, the next one in this process is another."""
    ended = False
    try:
        run.finish(exit_code=int(failed))
        ended = True
    finally:
        if not ended:
            forget()


def forget() -> None:
    """Ends W&B's service process, dead or alive, so that the next run starts another."""
    setup: Any = vars(wandb_setup)["_singleton"]  # wandb has no other way to ask for what there is
    service = None if setup is None or setup._connection is None else setup._connection._proc
    with suppress(Exception, SystemExit):  # it ends this process as well where its service was killed
        wandb.teardown(exit_code=1)
        return
    # It does not wait for a service that it cannot reach.
    if service is not None:
        service._process.kill()
        service.join()


@contextmanager
def some_home(folder: Path) -> Generator[None]:
    """Gives W&B's service, which starts here, a place for its log where the machine has no home; it would go to stderr."""
    homeless = not {"HOME", "XDG_CACHE_HOME"} & os.environ.keys()
    if homeless:
        os.environ["XDG_CACHE_HOME"] = str(folder / "wandb" / "cache")
    try:
        yield
    finally:
        if homeless:
            del os.environ["XDG_CACHE_HOME"]


def reason(error: Exception) -> str:
    """An error of a tracker in one short line."""
    first, *more = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # pydantic's first line is a count, the setting and what is wrong with it come after.
    return (": ".join(more[:2]) if "validation error" in first else first)[:300]


def report_files(folder: Path) -> list[Path]:
    """The files of a report that trackers keep."""
    found = [*(folder / name for name in FILES), *sorted((folder / "circuits").rglob("*"))]
    return [path for path in found if path.is_file()]


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
    for path in report_files(folder):
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
            case Intervals():
                _add(media, place, block.title, _table(block.table()))
            case Lines():
                _add(media, place, block.title, wandb.Plotly(go.Figure(figure(block))))
            case Pictures():
                for item in block.items:
                    _add(
                        media,
                        place,
                        f"{block.title} {item.label}".strip(),
                        wandb.Image(Image.open(BytesIO(item.content())), caption=item.alt),
                    )
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
