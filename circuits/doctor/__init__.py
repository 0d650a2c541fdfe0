"""What the doctor finds: of the machine (`machine.py`), of a run's folder, an export or a checkpoint (`files.py`).

Every finding is one line: what was looked at, whether it is well, and what to do if it is not. Nothing is changed, and nobody is asked
over a network. The checks themselves are those that trainings and scripts make; they stand with what they check.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line."""

    about: str
    """What was looked at: a word, or a file of the run."""
    level: Level
    """`problem`: something does not work, or is lost. `warning`: it works, and something should be known."""
    text: str
    fix: str = ""
    """What to do; empty where there is nothing to do."""


@dataclass(frozen=True, kw_only=True)
class Chapter:
    """What was found in one place."""

    title: str
    findings: tuple[Finding, ...]


def ok(about: str, text: str) -> Finding:
    """All is well."""
    return Finding(about=about, level="ok", text=text)


def warning(about: str, text: str, fix: str = "") -> Finding:
    """It works, and something should be known."""
    return Finding(about=about, level="warning", text=text, fix=fix)


def problem(about: str, text: str, fix: str = "") -> Finding:
    """Something does not work, or is lost."""
    return Finding(about=about, level="problem", text=text, fix=fix)


def to_lines(chapters: Iterable[Chapter]) -> list[str]:
    """Everything as a person reads it in a terminal; the last line is the sum."""
    chapters = tuple(chapters)
    found = [finding for chapter in chapters for finding in chapter.findings]
    width = max((len(finding.about) for finding in found), default=0)
    lines: list[str] = []
    for chapter in chapters:
        lines += [chapter.title]
        for finding in chapter.findings:
            lines += [f"  {finding.level:<8} {finding.about:<{width}}  {finding.text}"]
            lines += [f"  {'':<8} {'':<{width}}  -> {finding.fix}"] if finding.fix else []
    counts = {level: sum(finding.level == level for finding in found) for level in ("problem", "warning")}
    return [*lines, ", ".join(f"{n} {level}{'' if n == 1 else 's'}" for level, n in counts.items())]
