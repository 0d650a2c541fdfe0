"""The page on a pool of demonstrations: how a model ranks it, whether that says more than its own loss, and how every arm is answered."""

from collections.abc import Mapping, Sequence

from sparsetrain.curriculum.section import ArmEntry, ComparisonEntry, CurriculumSection, RankedExample
from sparsetrain.report.blocks import (
    MISSING,
    Block,
    Cell,
    Code,
    Column,
    Curve,
    Details,
    Grid,
    Heading,
    Intervals,
    KeyNumber,
    KeyNumbers,
    Lines,
    Row,
    Table,
    Text,
    Tone,
    Value,
    format_interval,
    format_number,
)
from sparsetrain.stats.number import Number

TONES: dict[str, Tone] = {"supported": "pass", "not supported": "fail", "undecided": "warn"}
LIMIT = 40
"""Rows of each end of the ranking that the page shows."""
CORRELATIONS = {
    "loss": "loss of the answer",
    "loss given length": "loss of the answer, given the number of tokens",
    "length": "number of tokens",
    "difficulty": "known difficulty",
    "difficulty given loss": "known difficulty, given the loss",
    "difficulty given loss, entropy, logit norm, length": "known difficulty, given loss, entropy, logit norm and length",
    "loss given difficulty": "loss of the answer, given known difficulty",
}


def curriculum(section: CurriculumSection) -> list[Block]:
    """The ranked pool, and the comparison of the arms."""
    blocks: list[Block] = [Text(text=answer_of(section)), KeyNumbers(items=tuple(_sizes(section)))]
    if section.comparison is not None:
        blocks += _comparison(section, section.comparison)
    return [
        *blocks,
        Heading(text="The ranked pool"),
        Grid(blocks=(_scatter(section), _levels(section))),
        *_correlations(section),
        *_ranked(section),
        *_method(section),
        *_left_out("pool", section.n_skipped, section.skipped),
        *(_left_out("test", c.n_skipped, c.skipped) if (c := section.comparison) is not None else []),
    ]


def answer_of(section: CurriculumSection) -> str:
    """What the page says, in words."""
    harder = (
        f"{section.n_pool:,} examples are ranked by {section.measure} at {section.hook_point} of {section.model.name}: from the densest, taken for the "
        f"easiest, to the sparsest, taken for the hardest."
    )
    found = [f"{CORRELATIONS['loss']} {_told(section.correlations['loss'])}"]
    if "difficulty" in section.correlations:
        found.append(f"{CORRELATIONS['difficulty']} {_told(section.correlations['difficulty'])}")
        given = section.correlations["difficulty given loss"]
        found.append(f"{CORRELATIONS['difficulty given loss']} {_told(given)}")
    words = f"{harder} Rank correlation of sparsity with the {'; with the '.join(found)}."
    if section.comparison is None:
        return f"{words} Whether this order helps was not asked: test=<file> compares it with others."
    of_word = {
        word: [arm.name for arm in section.comparison.arms if arm.word == word]
        for word in ("supported", "not supported", "undecided")
    }
    said = "; ".join(f"{word}: {', '.join(names)}" for word, names in of_word.items() if names)
    return f"{words} Are {section.comparison.n_asked:,} questions answered more often in an arm than in its control? {said}."


def _told(value: Number) -> str:
    if value.value is None:
        return f"is not known ({value.note or 'one of the two is the same everywhere'})"
    interval = format_interval(value)
    return f"{value.value:+.2f}" + (f" ({interval})" if interval else "")


def _sizes(section: CurriculumSection) -> list[KeyNumber]:
    items = [
        KeyNumber(label="examples", value=section.n_pool),
        KeyNumber(label="left out", value=section.n_skipped, note="rows of the pool, listed below"),
        KeyNumber(label="levels", value=len(section.levels)),
        KeyNumber(label="with known difficulty", value=section.n_known),
    ]
    if (c := section.comparison) is not None:
        items += [
            KeyNumber(label="questions", value=c.n_asked),
            KeyNumber(
                label="prompts answered", value=c.n_prompts, note="one that several arms come to is answered once"
            ),
            KeyNumber(label="examples kept from their own question", value=c.n_same),
            KeyNumber(
                label="demonstrations dropped",
                value=sum(arm.n_dropped for arm in c.arms),
                note="the budget of tokens had no room for them",
            ),
        ]
    return items


def _scatter(section: CurriculumSection) -> Lines:
    points = section.points
    groups = (("answered without demonstrations", True), ("not answered", False))
    curves: list[Curve] = []
    for name, wanted in groups:
        here = [i for i, answered in enumerate(points.answered) if answered == wanted]
        if here:
            x, y = (tuple(values[i] for i in here) for values in (points.loss, points.measured))
            curves.append(Curve(name=name, x=x, y=y, joined=False))
    return Lines(
        title="Sparsity against loss",
        x_label="loss of the answer, nats/token",
        y_label=f"{section.measure} ({section.direction} is sparser)",
        curves=tuple(curves),
        note=f"{len(points.loss):,} of {section.n_pool:,} examples, evenly chosen by rank",
    )


def _levels(section: CurriculumSection) -> Lines:
    losses = [entry.loss for entry in section.levels]
    ends = [(n.value if n.lo is None else n.lo, n.value if n.hi is None else n.hi) for n in losses]
    curve = Curve(
        name="loss of the answer",
        x=tuple(float(entry.level) for entry in section.levels),
        y=tuple(n.value for n in losses),
        lo=tuple(lo for lo, _ in ends),
        hi=tuple(hi for _, hi in ends),
    )
    return Lines(
        title="Loss by level of sparsity",
        x_label="level (0: the densest)",
        y_label="nats/token",
        curves=(curve,),
        note=f"about {section.levels[0].n} examples a level; {section.intervals}",
    )


def _correlations(section: CurriculumSection) -> list[Block]:
    known = {name: value for name, value in section.correlations.items() if value.value is not None}
    rows = tuple(Row(label=CORRELATIONS[name], value=value) for name, value in known.items())
    levels = Table(
        title="Levels",
        columns=(
            Column(
                label="Level",
                form="number",
                help="0 is the densest, taken for the easiest; equal numbers of examples by rank",
            ),
            Column(label="Examples", form="number"),
            Column(label=f"{section.measure}, from", form="number"),
            Column(label="to", form="number"),
            Column(label="Loss, nats/token", form="number"),
            Column(
                label="Answered",
                form="number",
                help="share whose every token is the likeliest one, without demonstrations",
            ),
            Column(label="Known difficulty", form="number"),
        ),
        rows=tuple((e.level, e.n, e.lowest, e.highest, e.loss, e.answered, e.difficulty) for e in section.levels),
    )
    if not rows:
        return [levels]
    picture = Intervals(
        title="Rank correlation of sparsity with ...",
        x_label="Spearman (positive: sparser examples have more of it)",
        rows=rows,
        note=f"over the {section.n_pool:,} examples of the pool; {section.intervals}",
    )
    return [levels, picture]


def _ranked(section: CurriculumSection) -> list[Block]:
    columns = (
        Column(label="Rank", form="number", help="0 is the densest, taken for the easiest"),
        Column(label="Level", form="number"),
        Column(label=section.measure, form="number", help=f"{section.direction} is sparser"),
        Column(label="Loss", form="number", unit="nats/token"),
        Column(label="Answered", form="status", tones={"yes": "pass"}, help="without demonstrations"),
        *([Column(label="Difficulty", form="number")] if section.n_known else []),
        Column(label="Question"),
        Column(label="Answer"),
    )

    def table(title: str, examples: Sequence[RankedExample]) -> Table:
        def row(e: RankedExample) -> tuple[Value | Cell, ...]:
            numbers = (e.rank, e.level, e.measured, e.loss, "yes" if e.answered else "no")
            known = (e.difficulty,) if section.n_known else ()
            return (*numbers, *known, Cell(value=e.question, sub=e.place), e.answer)

        return Table(title=title, columns=columns, rows=tuple(map(row, examples)), limit=LIMIT)

    examples, half = section.ranked, (len(section.ranked) + 1) // 2
    tables = [table("From the densest to the sparsest", examples)]
    if len(examples) > LIMIT:  # both ends are worth a look
        tables = [table("The densest, taken for the easiest", examples[:half])]
        tables.append(table("The sparsest, taken for the hardest, the sparsest first", examples[half:][::-1]))
    whole = f"All {section.n_pool:,} stand in {' and '.join(section.files[:2])}." if section.files else ""
    return [*tables, *([Text(text=whole, tone="note")] if whole else [])]


def _comparison(section: CurriculumSection, found: ComparisonEntry) -> list[Block]:
    gains = tuple(
        Row(label=f"{arm.name} minus {arm.control}", value=arm.gain, tone=TONES[arm.word or "undecided"])
        for arm in found.arms
        if arm.gain is not None
    )
    columns = (
        Column(
            label="Arm", help="what is shown in front of the question; every arm in one wording and under one budget"
        ),
        Column(
            label="Accuracy",
            form="number",
            help="share of the questions whose every token of the answer is the likeliest one",
        ),
        Column(label="Loss, nats/token", form="number", help="of the right answer"),
        Column(label="Control", help="the arm that differs in the claimed respect alone"),
        Column(label="Accuracy minus control", form="number"),
        Column(
            label="Control's loss minus loss",
            form="number",
            help="positive: the right answer is likelier than in the control",
        ),
        Column(label="Verdict", form="status", tones=TONES, help=f"answered more often than the control: {found.rule}"),
        Column(
            label="Dropped",
            form="number",
            help="demonstrations that the budget of tokens had no room for, over all prompts of the arm",
        ),
    )

    def row(arm: ArmEntry) -> tuple[Value | Cell, ...]:
        word = Cell(value=arm.word, sub=arm.reason) if arm.word is not None else MISSING
        head = (Cell(value=arm.name, sub=arm.words), arm.accuracy, arm.loss)
        return (*head, arm.control or None, arm.gain, arm.fall, word, arm.n_dropped)

    least = found.detectable
    text = (
        f"{found.n_asked:,} questions, {section.n_shown} demonstrations each; arms that choose take them out of the {section.n_retrieved} most similar examples, and arms "
        f"that draw do so {section.n_draws} times. The rule was written down before anything was answered: {found.rule}. The smallest difference that is "
        f"{least.note}: {format_number(least)}. Intervals: {found.intervals}."
    )
    return [
        Heading(text="Does the order help?"),
        Intervals(
            title="Accuracy minus that of the control",
            x_label="fraction of the questions",
            rows=gains,
            note=found.intervals,
        ),
        Table(title="Every arm on the same questions", columns=columns, rows=tuple(map(row, found.arms))),
        Text(text=text, tone="note"),
    ]


def _method(section: CurriculumSection) -> list[Block]:
    budget = (
        "as many tokens as it takes"
        if section.n_tokens is None
        else f"at most {section.n_tokens:,} tokens with the answer"
    )
    where = {
        "last": "at the token that predicts the answer",
        "all": "as the mean over the question's tokens but the first",
        "first": "at the first token",
    }[section.read_out]
    alike = (
        "the cosine of the model's own mean activations over two questions"
        if section.similarity == "model"
        else f"the cosine of two questions' embeddings by {section.similarity}"
    )
    text = (
        f"Every example is read alone, in the wording below, with its answer behind it. {section.measure} is read at {section.hook_point}, {where}, before any of the answer "
        f"is seen. Similarity is {alike}. A prompt has {budget}; what has no room is dropped as a whole, the demonstration farthest from the question first."
    )
    return [
        Details(
            summary="How it was read",
            blocks=(Text(text=text), Code(text=section.instruction + section.example, caption="wording")),
        )
    ]


def _left_out(what: str, n: int, skipped: Mapping[str, str]) -> list[Block]:
    if not skipped:
        return []
    columns = (Column(label="Place", form="code"), Column(label="Reason"))
    summary = f"1 row of {what} left out" if n == 1 else f"{n:,} rows of {what} left out"
    return [Details(summary=summary, blocks=(Table(columns=columns, rows=tuple(skipped.items()), limit=50),))]
