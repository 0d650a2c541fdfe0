"""The page of a study: verdicts, the rules that stood before the run, gates, claims with intervals, figures and tables."""

from collections.abc import Mapping

from sparsetrain.report import Kinds, SectionKind
from sparsetrain.report.blocks import (
    MISSING,
    Block,
    Cell,
    Column,
    Details,
    Grid,
    Heading,
    Intervals,
    Reference,
    Row,
    Table,
    Text,
    Tile,
    Tone,
    format_number,
)
from sparsetrain.report.sections import KINDS as RUN_KINDS
from sparsetrain.studies.section import ResultTable, StudySection

TONES: Mapping[str, Tone] = {"supported": "pass", "not supported": "fail", "undecided": "warn"}
MANY = 12
"""Verdicts beyond which a table takes the place of tiles. ours"""
WORD = Column(label="Word", form="status", tones=TONES)
CRITERION = Column(label="Criterion")


def study(section: StudySection) -> list[Block]:
    """A study before or after its run."""
    plan = section.plan
    blocks: list[Block] = [Heading(text=plan.question), *(Text(text=paragraph) for paragraph in plan.method)]
    if section.status == "planned":
        return [*blocks, Text(text="Not run yet: these are the rules.", tone="warning"), _rules(section)]
    if not section.interpretable:
        failed = ", ".join(gate.words for gate in section.gates if not gate.passed)
        blocks.append(
            Text(text=f"Not interpretable: {failed}. Numbers are shown, no verdict is given.", tone="warning")
        )
    if len(section.verdicts) > MANY:
        blocks.append(_matrix(section))
    else:
        blocks += [
            Tile(label=f"{v.name} ({v.arm})", value=v.verdict, tone=TONES[v.verdict], note=v.statement)
            for v in section.verdicts
        ]
    blocks += overviews(section).values()
    blocks += [_verdicts(section)] if section.verdicts else []
    blocks += [_gates(section)] if section.gates else []
    blocks += _claims(section)
    figures = tuple(figure.lines() for figure in section.figures)
    blocks += [Heading(text="Curves"), Grid(blocks=figures)] if figures else []
    blocks += [Details(summary=table.title, blocks=(_table(table),)) for table in section.tables]
    return [*blocks, _rules(section)]


def _matrix(section: StudySection) -> Table:
    """Verdicts by arm, where they are too many for tiles; the more numerous of the two below each other."""
    statements = {verdict.name: verdict.statement for verdict in section.verdicts}
    words = {(verdict.arm, verdict.name): verdict.verdict for verdict in section.verdicts}
    arms = [arm for arm in section.plan.arms if any((arm, name) in words for name in statements)]
    if len(statements) > len(arms):
        columns = [Column(label="Verdict"), *(Column(label=arm, form="status", tones=TONES) for arm in arms)]
        rows = [(name, *(words.get((arm, name), MISSING) for arm in arms)) for name in statements]
    else:
        columns = [
            Column(label="Arm"),
            *(Column(label=name, form="status", tones=TONES, help=said) for name, said in statements.items()),
        ]
        rows = [(arm, *(words.get((arm, name), MISSING) for name in statements)) for arm in arms]
    return Table(title="Verdicts by arm", columns=tuple(columns), rows=tuple(rows))


def overviews(section: StudySection) -> dict[str, Intervals]:
    """The pictures of several claims, by key; coloured by what was decided."""
    claims = {claim.key: claim for claim in section.claims}
    return {
        shown.key: Intervals(
            title=shown.title,
            x_label=shown.unit,
            rows=tuple(
                Row(label=key, value=claims[key].number, tone=TONES[claims[key].verdict]) for key in shown.claims
            ),
            references=(Reference(label="nothing", value=0.0),),
            note="green: supported, red: not supported, amber: undecided",
        )
        for shown in section.overviews
    }


def _verdicts(section: StudySection) -> Table:
    columns = (Column(label="Verdict"), Column(label="Arm"), Column(label="Claim"), WORD, Column(label="Because"))
    rows = tuple((v.name, v.arm, v.statement, v.verdict, v.reason) for v in section.verdicts)
    return Table(columns=columns, rows=rows, title="Verdicts")


def _gates(section: StudySection) -> Table:
    columns = (
        Column(label="Gate"),
        Column(label="Rule"),
        Column(label="Worst", form="number"),
        Column(label="Passed", form="status", tones={"yes": "pass", "no": "fail"}),
    )
    rows = tuple((gate.words, gate.criterion, gate.worst, "yes" if gate.passed else "no") for gate in section.gates)
    return Table(columns=columns, rows=rows, title="Gates")


def _claims(section: StudySection) -> list[Block]:
    """A table per arm, the first one open."""
    columns = (
        Column(label="Claim"),
        CRITERION,
        Column(label="Number", form="number", help="mean and interval over seeds"),
        WORD,
        Column(label="Seeds", help="the number in each seed"),
    )
    blocks: list[Block] = []
    for arm in section.plan.arms:
        rows = tuple(
            (
                Cell(value=claim.claim, sub=claim.reason),
                claim.criterion,
                claim.number,
                claim.verdict,
                ", ".join(format_number(value) for value in claim.per_seed),
            )
            for claim in section.claims
            if claim.arm == arm
        )
        if rows:  # of some arms nothing is claimed
            table = Table(columns=columns, rows=rows)
            blocks.append(Details(summary=f"Claims: arm {arm}", blocks=(table,), open=not blocks))
    return blocks


def _table(table: ResultTable) -> Table:
    columns = tuple(
        Column(
            label=label,
            form="text" if all(isinstance(row[i], str) for row in table.rows) else "number",
            help="" if i else table.note,
        )
        for i, label in enumerate(table.columns)
    )
    return Table(columns=columns, rows=table.rows)


def _rules(section: StudySection) -> Block:
    plan = section.plan
    claims = Table(
        columns=(Column(label="Claim"), Column(label="Arm"), CRITERION),
        rows=tuple((claim.claim, claim.arm, claim.criterion) for claim in plan.claims),
    )
    words = f"Rules, written before the run (plan.json, sha256 {section.plan_sha256[:12]})"
    seeds = Text(text=f"Seeds {', '.join(map(str, plan.seeds))}; arms {', '.join(plan.arms)}.")
    return Details(summary=words, blocks=(seeds, *([claims] if plan.claims else [])))


KINDS: Kinds = {"study": SectionKind(schema=StudySection, view=study), **RUN_KINDS}
"""The views of sparsetrain in reading order."""
