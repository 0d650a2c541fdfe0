"""A report as a document: header, tiles, sections of blocks. What markdown, HTML and W&B all start from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sparsetrain.report import Kinds, Missing, Report, check_kinds
from sparsetrain.report.blocks import (
    Block,
    Code,
    Column,
    KeyNumber,
    KeyNumbers,
    Table,
    Text,
    Tile,
    format_number,
)

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
        tiles: the claims of all sections that the report judges.
        sections: in reading order; the last one tells about the run itself.
    """

    title: str
    facts: tuple[str, ...]
    banners: tuple[str, ...]
    tiles: tuple[Tile, ...]
    sections: tuple[Section, ...]


def assemble(report: Report, kinds: Kinds) -> Document:
    """Turns `report` into a document, its sections in the order of `kinds`.

    Raises:
        ValueError: the report has a section that no view shows.
    """
    check_kinds(report.sections, kinds)
    gates_off = report.run.gates == "off"
    tiles: list[Tile] = []
    sections: list[Section] = []
    for name, kind in kinds.items():
        if name not in report.sections:
            continue
        blocks = kind.view(report.sections[name])
        tiles += [block for block in blocks if isinstance(block, Tile)]
        shown = tuple(block for block in blocks if not isinstance(block, Tile))
        sections.append(Section(name=name, title=name.replace("_", " ").capitalize(), blocks=shown))
    sections.append(Section(name="run", title="Run", blocks=tuple(_run_blocks(report))))
    if gates_off:
        tiles = [replace(tile, tone="none", note=f"not judged; {tile.note}".strip("; ")) for tile in tiles]
    return Document(
        title=report.run.name,
        facts=_facts(report),
        banners=(*_missing(report.missing), *((GATES_OFF,) if gates_off else ())),
        tiles=tuple(tiles),
        sections=tuple(sections),
    )


def _missing(missing: Sequence[Missing]) -> tuple[str, ...]:
    """One warning that names what is not there and why; none where everything is."""
    if not missing:
        return ()
    reasons = {entry.reason: [other.stage for other in missing if other.reason == entry.reason] for entry in missing}
    parts = (f"{', '.join(names)} ({reason})" for reason, names in reasons.items())
    return (f"This report is not complete. Missing: {'; '.join(parts)}.",)


def _facts(report: Report) -> tuple[str, ...]:
    run, weights = report.run, report.weights
    seed = () if run.seed is None else (f"seed {run.seed}",)
    facts = [run.created, f"sparsetrain {run.version}", *seed, run.device]
    if weights is not None:
        facts += [f"weights of step {weights.step:,}"] if weights.step is not None else []
        facts += [f"sha256 {weights.sha256[:12]}"]
    return tuple(facts)


def _run_blocks(report: Report) -> list[Block]:
    run, weights, stages = report.run, report.weights, report.stages
    blocks: list[Block] = []
    if stages:
        total = sum(stage.seconds.value or 0 for stage in stages)
        columns = (Column(label="Stage"), Column(label="Time", form="bar", unit="s"))
        rows = tuple((stage.name, stage.seconds) for stage in stages)
        blocks += [
            Text(text=f"{len(stages)} stages took {format_number(total, 's')} together."),
            Table(columns=columns, rows=rows, title="Stages"),
        ]
    names = ("created", "version", "seed", "device", "n_threads", "torch", "gates", "debug")
    facts = {name.replace("n_", ""): getattr(run, name) for name in names}
    items = tuple(KeyNumber(label=label, value=_word(fact)) for label, fact in facts.items() if fact is not None)
    blocks += [KeyNumbers(items=items), Code(text=run.command, caption="Command")]
    if weights is not None:
        of_step = "" if weights.step is None else f" of step {weights.step}"
        blocks.append(Code(text=weights.sha256, caption=f"sha256 of the weights{of_step}"))
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
