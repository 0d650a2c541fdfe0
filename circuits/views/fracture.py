"""Same outputs, different insides, on the page: the verdict, every measure beside the null, and the matching gate."""

from circuits.section.fracture import FractureRow, FractureSection
from sparsetrain.report.blocks import Block, Column, KeyNumber, KeyNumbers, Table, Text, Tile, Tone

TONES: dict[str, Tone] = {"different": "fail", "alike": "pass", "not judged": "warn"}


def fracture(section: FractureSection) -> list[Block]:
    """Which measures tell the two models apart, all of them with their null, and how far the outputs are the same."""
    blocks: list[Block] = [_tile(section), _counts(section), *(Text(text=paragraph) for paragraph in section.method)]
    blocks.append(_measures("What decides", [row for row in section.rows if row.main]))
    if others := [row for row in section.rows if not row.main]:
        blocks.append(_measures("What stands beside it: raw numbers, other perturbations", others))
    return [*blocks, _matches(section)]


def _tile(section: FractureSection) -> Tile:
    different = [row.words for row in section.rows if row.main and row.called == "different"]
    judged = [row for row in section.rows if row.main and row.called != "not judged"]
    if different:
        value, tone, note = "different", "fail", "; ".join(different)
    elif judged:
        value, tone, note = "alike", "pass", "no measure differs by more than models of one recipe do"
    else:
        value, tone, note = (
            "not judged",
            "warn",
            "there is no null: nobody knows how much two models of one recipe differ",
        )
    return Tile(label="The insides are", value=value, tone=tone, note=note)


def _counts(section: FractureSection) -> KeyNumbers:
    return KeyNumbers(
        items=(
            KeyNumber(label="a", value=section.a, note=f"weights {section.weights_a[:12]}"),
            KeyNumber(label="b", value=section.b, note=f"weights {section.weights_b[:12]}"),
            KeyNumber(label="Rules", value=len(section.rules), note=", ".join(section.rules)),
            KeyNumber(label="Contexts", value=len(section.contexts), note=", ".join(section.contexts)),
            KeyNumber(label="Effect of every perturbation set", value=section.target_kl, note="mean output KL"),
            KeyNumber(label="Models of the null", value=len(section.null)),
        )
    )


def _measures(title: str, rows: list[FractureRow]) -> Table:
    columns = (
        Column(label="Measure"),
        Column(label="Less fractured", help="which of the two is less fractured or less entangled"),
        Column(label="a", form="number"),
        Column(label="b", form="number"),
        Column(label="b - a", form="number"),
        Column(label="Null", form="number", help="largest difference between two models of the null"),
        Column(label="Bound", form="number", help="from this size on a difference is one"),
        Column(label="Called", form="status", tones=TONES),
    )
    cells = tuple((r.words, r.less, r.a, r.b, r.difference, r.null, r.bound, r.called) for r in rows)
    return Table(title=title, columns=columns, rows=cells)


def _matches(section: FractureSection) -> Table:
    columns = (
        Column(label="Pair"),
        Column(label="Inputs"),
        Column(label="KL", form="number", help="the larger one of both directions"),
        Column(label="Agreement", form="number", help="share of inputs with the same most probable token"),
    )
    rows = tuple((match.pair, match.split, match.kl, match.agreement) for match in section.matches)
    return Table(title="The matching gate", columns=columns, rows=rows)
