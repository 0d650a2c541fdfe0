"""What a recipe is chosen by, for one run and for the trials of a search."""

from circuits.section import FrontierSection, FrontierTrial, SelectionSection
from sparsetrain.report.blocks import (
    Block,
    Column,
    Curve,
    KeyNumber,
    KeyNumbers,
    Lines,
    Table,
    Text,
    Value,
    note_of,
)

STATUS = Column(
    label="Status",
    form="status",
    tones={"passed": "pass", "failed": "warn"},
    help="passed: the full model meets the target; bigram: so does the empty circuit, which sees the current token alone; unsuitable: "
    "this tokenizer makes no pairs of the task",
)


def selection(section: SelectionSection) -> list[Block]:
    """The two numbers by which recipes are compared, and what they are made of."""
    items = {
        "capability loss": section.capability_loss,
        "task loss": section.task_loss,
        "real code": section.bits_per_char,
        "edges, geometric mean": section.circuit_edges,
        "tasks passed": section.n_passed,
        "bigram tasks": section.n_bigram,
    }
    sizes = tuple((entry.task, "yes" if entry.found else "no", entry.n_edges) for entry in section.circuits)
    return [
        Text(
            text="By these numbers recipes are compared (train.py -m +experiment=recipe). They are of validation pairs: held-out pairs have "
            "chosen nothing, so what is reported of the winner on them is what it is worth. Lower is better."
        ),
        KeyNumbers(items=tuple(KeyNumber(label=label, value=n, note=note_of(n)) for label, n in items.items())),
        Table(
            title="Circuits by a short search",
            columns=(Column(label="Task"), Column(label="Found", form="status"), Column(label="Edges", form="number")),
            rows=sizes,
        ),
        Table(
            title="Tasks on validation pairs",
            columns=(Column(label="Task"), STATUS, Column(label="Loss of the model", form="number")),
            rows=tuple((entry.task, entry.status, entry.loss) for entry in section.tasks),
        ),
    ]


def frontier(section: FrontierSection) -> list[Block]:
    """Every trial of a search, and the front of those that no other beats."""
    states = [trial.state for trial in section.trials]
    counts = {"trials": len(states), "finished": states.count("complete"), "given up": states.count("pruned"), "failed": states.count("fail")}  # fmt: skip
    blocks: list[Block] = [
        Text(
            text="Recipes tried one after another, each chosen from what those before have reached; lower is better. On the front stands "
            "what no other trial beats. All numbers are of validation pairs; held-out pairs were shown to the models on the front alone, "
            "after the last trial. The front is the best of many: its validation numbers flatter it, and one seed is one seed."
        ),
        KeyNumbers(items=tuple(KeyNumber(label=label, value=count) for label, count in counts.items())),
    ]
    if not section.is_whole:
        blocks.append(Text(text="The search is not over: the same command goes on with it.", tone="warning"))
    if len(section.objectives) > 1:
        blocks.append(picture(section))
    order = sorted(
        section.trials, key=lambda trial: (not trial.on_front, not trial.values, trial.values and trial.values[0].value)
    )
    blocks.append(_trials(section, order))
    if judged := [trial for trial in order if trial.heldout is not None]:
        blocks.append(_heldout(judged))
    return blocks


def picture(section: FrontierSection) -> Lines:
    """The first objective against the second."""
    across, up = (name.rpartition(".")[2].replace("_", " ") for name in section.objectives[1::-1])
    done = [trial for trial in section.trials if trial.values]
    front = sorted((trial for trial in done if trial.on_front), key=lambda trial: trial.values[1].value or 0)

    def curve(name: str, trials: list[FrontierTrial], joined: bool) -> Curve:
        points = [[value.value or 0 for value in trial.values] for trial in trials]
        return Curve(name=name, x=tuple(p[1] for p in points), y=tuple(p[0] for p in points), joined=joined)

    others = [trial for trial in done if not trial.on_front]
    return Lines(
        title="The frontier",
        x_label=across,
        y_label=up,
        log_x=all((trial.values[1].value or 0) > 0 for trial in done),
        curves=(curve("front", front, joined=True), curve("other trials", others, joined=False)),
        note=f"{len(done)} trials of one seed each, on validation pairs",
    )


def _trials(section: FrontierSection, trials: list[FrontierTrial]) -> Table:
    names = [name.rpartition(".")[2].replace("_", " ") for name in section.objectives]
    columns = (
        Column(label="Trial", form="code", help="number, which is its folder in the sweep's"),
        Column(label="State", form="status", tones={"front": "pass", "fail": "fail", "pruned": "none"}, help="front: no other beats it; pruned: given up"),
        *(Column(label=name, form="number") for name in names),
        Column(label="Tasks passed", form="number", help="on validation pairs, bigram ones left out"),
        Column(label="Real code", form="number"),
        Column(label="Steps", form="number"),
        Column(label="Time", form="number", unit="s", help="of all stages"),
        Column(label="Recipe", form="code", help="what it has chosen"),
    )  # fmt: skip

    def row(trial: FrontierTrial) -> tuple[Value, ...]:
        chosen = " ".join(f"{key}={_short(value)}" for key, value in trial.overrides.items())
        of = trial.selection
        return (
            str(trial.number),
            "front" if trial.on_front else trial.state,
            *(trial.values or [None] * len(names)),
            None if of is None else of.n_passed,
            None if of is None else of.bits_per_char,
            trial.n_steps,
            trial.seconds,
            chosen,
        )

    return Table(title="Trials", columns=columns, rows=tuple(map(row, trials)))


def _short(value: str) -> str:
    """A drawn number in three digits; other values as they are."""
    try:
        number = float(value)
        return value if number.is_integer() else f"{number:.3g}"
    except ValueError:
        return value


def _heldout(trials: list[FrontierTrial]) -> Table:
    columns = (
        Column(label="Trial", form="code"),
        Column(label="Tasks passed", form="number", help="on held-out pairs, bigram ones left out"),
        Column(label="Bigram", form="number"),
        Column(label="Task loss", form="number", help="mean, each at most ln 2"),
        Column(label="Fails", form="code"),
    )
    rows = tuple(
        (str(t.number), of.n_passed, of.n_bigram, of.task_loss, ", ".join(of.failed))
        for t in trials
        if (of := t.heldout)
    )
    return Table(title="The front on held-out pairs", columns=columns, rows=rows)
