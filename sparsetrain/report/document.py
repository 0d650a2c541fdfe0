"""A report as a document: header, verdicts, sections of blocks. What markdown, HTML and W&B all start from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sparsetrain.report import Report, value_of
from sparsetrain.report.blocks import (
    Block,
    Code,
    Column,
    KeyNumber,
    KeyNumbers,
    Table,
    Text,
    Verdict,
    View,
    format_number,
)
from sparsetrain.typed import plain

HEADER = ("schema_version", "run", "weights", "stages")
GATES_OFF = (
    "Gates are off: this is a run for trying out the machinery (debug). Every stage ran, but no accuracy or loss had "
    "to be reached, so nothing below is judged and no circuit here says anything about a model."
)


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section of the page: `name` is its key in `report.json`."""

    name: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, kw_only=True)
class Document:
    """What the renderers render.

    Args:
        title: name of the run.
        facts: one line: when, by which version, with which seed, from which weights.
        banners: warnings that a reader must not miss.
        verdicts: tiles.
        sections: in reading order; the last one tells about the run itself.
    """

    title: str
    facts: tuple[str, ...]
    banners: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    sections: tuple[Section, ...]


def assemble(report: Report, views: Mapping[str, View]) -> Document:
    """Turns `report` into a document, one section per view whose data exist, in the order of `views`.

    Raises:
        ValueError: the report has a section that no view shows.
    """
    report = plain(report)
    unseen = sorted(set(report) - set(views) - set(HEADER))
    if unseen:
        raise ValueError(f"no view for report section(s) {', '.join(unseen)}; views given: {', '.join(views)}")
    gates_off = report["run"].get("gates", "on") == "off"
    verdicts: list[Verdict] = []
    sections = []
    for name, view in views.items():
        if name not in report:
            continue
        blocks = view(report[name])
        verdicts += [block for block in blocks if isinstance(block, Verdict)]
        shown = tuple(block for block in blocks if not isinstance(block, Verdict))
        sections.append(Section(name=name, title=name.capitalize(), blocks=shown))
    sections.append(Section(name="run", title="Run", blocks=tuple(_run_blocks(report))))
    if gates_off:
        verdicts = [
            replace(verdict, tone="none", note=f"not judged; {verdict.note}".strip("; ")) for verdict in verdicts
        ]
    return Document(
        title=str(report["run"].get("name", "report")),
        facts=_facts(report),
        banners=(GATES_OFF,) if gates_off else (),
        verdicts=tuple(verdicts),
        sections=tuple(sections),
    )


def _facts(report: Report) -> tuple[str, ...]:
    run, weights = report["run"], report.get("weights", {})
    facts = [str(run["created"])] if run.get("created") else []
    facts += [f"sparsetrain {run['version']}"] if run.get("version") else []
    facts += [f"seed {run['seed']}"] if run.get("seed") is not None else []
    facts += [str(run["device"])] if run.get("device") else []
    facts += [f"weights of step {weights['step']:,}"] if weights.get("step") is not None else []
    facts += [f"sha256 {str(weights['sha256'])[:12]}"] if weights.get("sha256") else []
    return tuple(facts)


def _run_blocks(report: Report) -> list[Block]:
    run, weights, stages = report["run"], report.get("weights", {}), report.get("stages", [])
    blocks: list[Block] = []
    if stages:
        total = sum(value_of(stage["seconds"]) or 0 for stage in stages)
        columns = (Column(label="Stage"), Column(label="Time", form="bar", unit="s"))
        rows = tuple((stage["name"], stage["seconds"]) for stage in stages)
        blocks += [
            Text(text=f"{len(stages)} stages took {format_number(total, 's')} together."),
            Table(columns=columns, rows=rows, title="Stages"),
        ]
    names = ("created", "version", "seed", "device", "n_threads", "torch", "gates", "debug")
    facts = [KeyNumber(label=name.replace("n_", ""), value=_word(run[name])) for name in names if name in run]
    blocks += [KeyNumbers(items=tuple(facts))] if facts else []
    blocks += [Code(text=str(run["command"]), caption="Command")] if run.get("command") else []
    if weights.get("sha256"):
        of_step = "" if weights.get("step") is None else f" of step {weights['step']}"
        blocks.append(Code(text=str(weights["sha256"]), caption=f"sha256 of the weights{of_step}"))
    blocks.append(
        Text(
            text="Every number on this page stands in report.json beside it, with unit, sample size and interval where "
            "they apply. There it is marked recomputable (a function of the saved weights and data) or measured "
            "(times, training curves).",
            tone="note",
        )
    )
    return blocks


def _word(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
