"""The report is data first: `report.json` is the truth, everything a person reads is rendered from it.

1. A `Report` is typed: the facts of the run and, by name, sections. A section is a frozen dataclass that stands with whoever
   produces it; every measured or computed value in it is a `Number`.
2. `save_report` writes canonical JSON: the same data give the same bytes. `load_report` parses it into the same types.
3. A `SectionKind` says how a section is read and shown: its dataclass, and a view that turns one into blocks (`blocks.py`). The entry
   point hands in the kinds that it knows.
4. `render.render` turns the blocks into markdown and one HTML file, `wandb_log.log_report` into W&B objects.
5. `stages.Stages` is a report while its run lasts: on disk after every stage, with what is still missing.
"""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, make_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar, cast

import torch
from pydantic import StringConstraints

import sparsetrain
from sparsetrain.report.blocks import Block
from sparsetrain.stats.number import Number
from sparsetrain.store import write_atomic
from sparsetrain.typed import Json, from_dict, plain

SCHEMA_VERSION = 1

T = TypeVar("T")
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """What ran, when and on what."""

    name: str
    created: str
    """When, in UTC."""
    version: str
    """Of sparsetrain."""
    seed: int | None = None
    """None: nothing was drawn."""
    command: str
    gates: Literal["on", "off"]
    """`off`: a run that tries out the machinery; nothing is judged, and the page says so at its head."""
    device: str
    n_threads: int
    torch: str
    """Version of torch."""
    debug: bool | None = None

    @classmethod
    def now(
        cls, *, name: str, seed: int | None = None, command: str, device: str, debug: bool | None = None
    ) -> "RunFacts":
        """The facts of a run that is under way in this process; gates are off in a debug run."""
        return cls(
            name=name,
            created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            version=sparsetrain.__version__,
            seed=seed,
            command=command,
            gates="off" if debug else "on",
            device=device,
            n_threads=torch.get_num_threads(),
            torch=torch.__version__,
            debug=debug,
        )


@dataclass(frozen=True, kw_only=True)
class WeightsFacts:
    """The weights from which the recomputable numbers come."""

    sha256: Sha256
    step: int | None = None
    """Where it is known."""


@dataclass(frozen=True, kw_only=True)
class StageTime:
    """How long one stage of the run took."""

    name: str
    seconds: Number


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A stage whose results the report does not have: it failed, was interrupted, or had not been reached when the report was written."""

    stage: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a run has to say.

    Args:
        run: facts of the run.
        weights: of the model that the report is about; a comparison of several has none.
        stages: in the order in which they ran.
        missing: what a finished run has and this one has not; none of a finished one.
        sections: name -> section, a dataclass.
    """

    run: RunFacts
    weights: WeightsFacts | None = None
    stages: tuple[StageTime, ...] = ()
    missing: tuple[Missing, ...] = ()
    sections: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def section(self, name: str, schema: type[T]) -> T:
        """A section as its type.

        Raises:
            KeyError: the report does not have it.
        """
        found = self.sections[name]
        assert isinstance(found, schema), (name, type(found), schema)
        return found

    def plus(self, *stages: StageTime, **sections: Any) -> "Report":
        """The report with further stages, and sections that take the place of those of their names."""
        return replace(self, stages=(*self.stages, *stages), sections={**self.sections, **sections})

    def plain(self) -> dict[str, Any]:
        """The report as it stands in `report.json`; what is empty is absent."""
        head = {"run": self.run, "weights": self.weights, "stages": self.stages, "missing": self.missing}
        return plain({"schema_version": SCHEMA_VERSION, **{k: v for k, v in head.items() if v}, **self.sections})


@dataclass(frozen=True, kw_only=True)
class SectionKind(Generic[T]):
    """What a section is made of and how it is shown.

    Args:
        schema: a frozen dataclass; the section's shape in `report.json`.
        view: the section as blocks.
    """

    schema: type[T]
    view: Callable[[T], list[Block]]


Kinds = Mapping[str, SectionKind[Any]]
"""Section name -> kind, in reading order."""


def dumps(report: Report) -> str:
    """The canonical text of a report: sorted keys, one entry a line, lists of scalars on one line, ASCII only."""
    return _encode(report.plain(), "") + "\n"


def _encode(data: Json, indent: str) -> str:
    inner = indent + " "
    if isinstance(data, Mapping) and data:
        lines = [f"{inner}{json.dumps(key)}: {_encode(entry, inner)}" for key, entry in data.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(data, list) and any(isinstance(entry, Mapping | list) for entry in data):
        return "[\n" + ",\n".join(f"{inner}{_encode(entry, inner)}" for entry in data) + f"\n{indent}]"
    return json.dumps(data, allow_nan=False)


def save_report(report: Report, path: Path | str) -> Path:
    """Writes `report` as canonical JSON, atomically.

    Raises:
        ValueError: a value that cannot stand in a report; the message names its place.
    """
    return write_atomic(Path(path), dumps(report))


HEAD: Mapping[str, Any] = {
    "run": ("run", RunFacts),
    "weights": ("weights", WeightsFacts | None, field(default=None)),
    "stages": ("stages", tuple[StageTime, ...], field(default=())),
    "missing": ("missing", tuple[Missing, ...], field(default=())),
}
"""What every report may have beside its sections, as fields of a dataclass."""


def check_kinds(sections: Iterable[str], kinds: Kinds) -> None:
    """Refuses sections that are not among `kinds`; the ValueError names them."""
    if unknown := sorted(set(sections) - set(kinds)):
        raise ValueError(f"no view for report section(s) {', '.join(unknown)}; views given: {', '.join(kinds)}")


def parse_report(data: object, kinds: Kinds) -> Report:
    """A report from plain data.

    Args:
        data: what `report.json` holds.
        kinds: of the sections that it may hold.

    Raises:
        ValueError: not a report, one of another schema version, a section that is not among `kinds`, or one of another shape; one line.
    """
    found = cast(dict[str, object], data) if isinstance(data, dict) else {}
    if (version := found.get("schema_version")) != SCHEMA_VERSION:
        raise ValueError(f"schema_version={version!r}; this version reads {SCHEMA_VERSION}. Run the report again")
    check_kinds(found.keys() - {"schema_version", *HEAD}, kinds)
    parsed = from_dict(file_type(kinds), found)
    sections = {name: section for name in kinds if (section := getattr(parsed, name)) is not None}
    return Report(**{name: getattr(parsed, name) for name in HEAD}, sections=sections)


def file_type(kinds: Kinds) -> Any:
    """The shape of a whole `report.json` with sections of these kinds, as one dataclass."""
    return _file_type(tuple((name, kind.schema) for name, kind in kinds.items()))


@cache
def _file_type(schemas: tuple[tuple[str, Any], ...]) -> Any:
    sections = [(name, schema | None, field(default=None)) for name, schema in schemas]
    return make_dataclass(
        "ReportFile", [("schema_version", Literal[1]), *HEAD.values(), *sections], frozen=True, kw_only=True
    )


def load_report(path: Path | str, kinds: Kinds) -> Report:
    """Reads a `report.json`.

    Raises:
        ValueError: not a report that this version reads, see `parse_report`; the message names the file.
    """
    try:
        return parse_report(json.loads(Path(path).read_bytes()), kinds)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
