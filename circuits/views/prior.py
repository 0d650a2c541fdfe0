"""Context against prior on the page: what turns an answer, at what price, and who was tuned how often."""

from collections.abc import Sequence

from circuits.section.prior import ContextPriorSection, PriorArm, PriorGroup, PriorScores
from sparsetrain.report.blocks import (
    Block,
    Column,
    Curve,
    Details,
    Heatmap,
    Intervals,
    KeyNumber,
    KeyNumbers,
    Lines,
    Reference,
    Row,
    Table,
    Text,
    Tile,
    Value,
    format_number,
    note_of,
)
from sparsetrain.stats.number import Number

MEASURES = {
    "p_context": "P(context)",
    "preference": "1 - M_R",
    "says_context": "answers of the context",
}
SCORES = {
    "p_context": ("P(context)", "probability of the whole answer that the prompt states"),
    "p_prior": ("P(prior)", "the same of memory's answer"),
    "p_other": ("P(other)", "what is left"),
    "says_context": ("Says context", "share of greedy answers"),
    "says_prior": ("Says prior", "share of greedy answers"),
    "memory_ratio": ("M_R", "p(prior) / (p(prior) + p(context)), of length-normalised probabilities"),
    "margin": ("Margin", "log-probability of the context's answer less that of memory's, nats/token"),
    "persuasion": ("Persuasion", "KL of the answers from those without a context, nats"),
}


def context_prior(section: ContextPriorSection) -> list[Block]:
    """Headroom first, then every arm beside its control, the strength of the prior, the heads, the budget."""
    blocks: list[Block] = [_tile(section), _counts(section), Text(text=_method(section))]
    if section.n_known < section.n_cases:
        blocks.append(
            Text(
                text=f"{section.n_cases - section.n_known} of {section.n_cases} evaluation cases are not answered from memory where nothing is "
                "stated: there is no prior to beat, and arms are not judged on them.",
                tone="warning",
            )
        )
    blocks += [_arms(section), _intervals(section), _references(section)]
    if section.by_strength:
        blocks += [_strength(section.by_strength, section)]
    if section.groups:
        blocks.append(_groups("By relation", section.groups))
    if section.half_points:
        rows = tuple((half.prompt, half.n50, half.n50.note or "") for half in section.half_points)
        columns = (Column(label="Prompt"), Column(label="n50", form="number"), Column(label="Note"))
        blocks.append(Table(title="Exposures at which P(context) has fallen to one half", columns=columns, rows=rows))
    if section.head_map:
        blocks += _heads(section)
    return [*blocks, *_budget(section)]


def _tile(section: ContextPriorSection) -> Tile:
    n = section.headroom
    if n.value is None:
        note, tone = n.note or "not available", "none"
    elif n.lo is not None and n.lo > 0:
        note, tone = "an intervention turns more answers than the best prompt does", "pass"
    elif n.hi is not None and n.hi < 0:
        note, tone = "prompting does better than the best intervention: it suffices here", "warn"
    else:
        note, tone = "prompting suffices here: the interval has 0 in it", "warn"
    names = f"{section.best_intervention or 'none'} against {section.best_prompt or 'none'}"
    return Tile(label="Headroom of interventions over prompts", value=n, tone=tone, note=f"{note} ({names})")


def _counts(section: ContextPriorSection) -> KeyNumbers:
    counts = {
        "evaluated cases": section.n_cases,
        "known from memory": section.n_known,
        "prior wins": section.n_prior_wins,
        "fitting cases": section.n_fit,
        "rows left out": section.n_skipped,
    }
    items = [KeyNumber(label=label, value=n) for label, n in counts.items()]
    items.append(KeyNumber(label="susceptibility", value=section.susceptibility, note=note_of(section.susceptibility)))
    return KeyNumbers(items=tuple(items))


def _method(section: ContextPriorSection) -> str:
    return (
        f"Model: {section.model}. Every arm was tried in the same number of settings on the same {section.n_fit} fitting cases "
        f"({section.n_facts_fit} facts), by {MEASURES[section.measure]}; all numbers here but the column Fitted are of {section.n_cases} cases of "
        f"{section.n_facts} other facts, intervals are over facts. Best prompt and best intervention were chosen on the fitting cases. "
        f"Susceptibility: {section.susceptibility_form}."
    )


def _score_columns() -> tuple[Column, ...]:
    return tuple(Column(label=label, form="number", help=words) for label, words in SCORES.values())


def _values(scores: PriorScores) -> tuple[Value, ...]:
    return tuple(getattr(scores, name) for name in SCORES)


def _arms(section: ContextPriorSection) -> Table:
    measure = MEASURES[section.measure]
    columns = (
        Column(label="Arm"),
        Column(label="Kind", form="status"),
        Column(label="Setting", form="code", help="the best on the fitting cases"),
        Column(label="Fitted", form="number", help=f"{measure} on the fitting cases, which chose the setting"),
        *_score_columns(),
        Column(label="Random", form="number", help=f"{measure} under heads, directions, nodes or donors drawn by lot, of the same size"),
        Column(label="Beyond random", form="number", help="the arm less its random control, of the same cases"),
        Column(label="Restored", form="number", help="memory's share of the greedy answers under the opposite intent"),
        Column(label="Collateral", form="number", help="KL of the next token on neutral text, nats"),
        Column(label="Source"),
    )  # fmt: skip

    def row(arm: PriorArm) -> tuple[Value, ...]:
        scores = _values(arm.scores)
        rest = arm.random, arm.beyond_random, arm.restored, arm.collateral, arm.source
        return (arm.name, arm.kind, arm.setting, arm.fitted, *scores, *rest)

    return Table(title="What turns an answer", columns=columns, rows=tuple(map(row, section.arms)))


def _intervals(section: ContextPriorSection) -> Intervals:
    field = section.measure if section.measure != "preference" else None

    def value(scores: PriorScores) -> Number:
        if field is not None:
            return getattr(scores, field)
        of = scores.memory_ratio
        flipped = {"value": of.value, "lo": of.hi, "hi": of.lo}
        turned = {key: None if x is None else 1 - x for key, x in flipped.items()}
        return Number(
            value=turned["value"],
            lo=turned["lo"],
            hi=turned["hi"],
            unit=of.unit,
            n=of.n,
            seed=of.seed,
            status=of.status,
        )

    rows = [Row(label=one.name, value=value(one.scores)) for one in section.references]
    best = {section.best_prompt, section.best_intervention}
    rows += [
        Row(label=f"{arm.name} ({arm.kind})", value=value(arm.scores), tone="pass" if arm.name in best else "none")
        for arm in section.arms
    ]
    return Intervals(
        title="Prompts and interventions",
        x_label=MEASURES[section.measure],
        rows=tuple(row for row in rows if row.value.value is not None),
        references=(Reference(label="one half", value=0.5),),
        note="over the known cases; green: the best of its kind on the fitting cases",
    )


def _references(section: ContextPriorSection) -> Table:
    columns = (Column(label="Prompt"), Column(label="Cases", form="number"), *_score_columns())
    rows = tuple((one.name, one.n_cases, *_values(one.scores)) for one in section.references)
    return Table(title="Prompts that nothing was tuned for", columns=columns, rows=rows)


def _strength(groups: Sequence[PriorGroup], section: ContextPriorSection) -> Block:
    if len(groups) < 3 or any(group.strength is None or group.strength.value is None for group in groups):
        return _groups(f"By strength of the prior ({section.strength})", groups)
    x = tuple(float(group.strength.value) for group in groups if group.strength and group.strength.value is not None)

    def curve(name: str, values: Sequence[Number]) -> Curve:
        lo, hi = tuple(v.lo for v in values), tuple(v.hi for v in values)
        return Curve(name=name, x=x, y=tuple(v.value for v in values), lo=lo, hi=hi)

    lines = Lines(
        title="Against the strength of the prior",
        x_label=section.strength,
        y_label=MEASURES[section.measure],
        curves=(
            curve("stated once", [group.stated for group in groups]),
            curve(f"best prompt: {section.best_prompt}", [group.best_prompt for group in groups]),
            curve(f"best intervention: {section.best_intervention}", [group.best_intervention for group in groups]),
        ),
        note="over known cases, 95% bootstrap over facts",
    )
    table = _groups(f"By strength of the prior ({section.strength})", groups)
    return Details(summary="Strength of the prior", blocks=(lines, table), open=True)


def _groups(title: str, groups: Sequence[PriorGroup]) -> Table:
    columns = (
        Column(label="Group"),
        Column(label="Cases", form="number"),
        Column(label="Known", form="number", help="answered from memory where nothing is stated"),
        Column(label="Prior wins", form="number", help="still answered from memory although the opposite is stated once"),
        Column(label="Stated once", form="number"),
        Column(label="Best prompt", form="number"),
        Column(label="Best intervention", form="number"),
        Column(label="Headroom", form="number", help="best intervention less best prompt; absent where too few cases are known"),
    )  # fmt: skip
    rows = tuple(
        (g.name, g.n_cases, g.n_known, g.n_prior_wins, g.stated, g.best_prompt, g.best_intervention, g.headroom)
        for g in groups
    )
    return Table(title=title, columns=columns, rows=rows)


def _heads(section: ContextPriorSection) -> list[Block]:
    n_head = max(map(len, section.head_map))
    found = Heatmap(
        title="Attention heads: margin towards the context with the head less without it",
        x_labels=tuple(str(i) for i in range(n_head)),
        y_labels=tuple(f"layer {i}" for i in range(len(section.head_map))),
        values=section.head_map,
        corner="head",
        center=0.0,
        differences=True,
        note="nats/token, first order, mean over fitting cases: positive towards the context, negative towards memory",
    )
    columns = (Column(label="Head", form="code"), Column(label="Effect", form="number"))
    rows = tuple((head.name, head.effect) for head in section.heads)
    return [found, Table(title="Heads that move the answer most", columns=columns, rows=rows)]


def _budget(section: ContextPriorSection) -> list[Block]:
    columns = (
        Column(label="Arm"),
        Column(label="Kind", form="status"),
        Column(label="Setting", form="code"),
        Column(label="Fitting cases", form="number"),
        Column(label=MEASURES[section.measure], form="number"),
        Column(label="Chosen", form="status", tones={"yes": "pass"}),
        Column(label="Learning", form="number", help="how often learning has read each fitting case besides"),
    )
    rows = tuple(
        (t.arm, t.kind, t.setting, t.n_cases, t.score, "yes" if t.chosen else "", t.n_learning) for t in section.budget
    )
    n = {kind: sum(t.kind == kind for t in section.budget) for kind in ("prompt", "intervention")}
    said = f"Tuning: {n['prompt']} settings of prompts and {n['intervention']} of interventions, each on {format_number(section.n_fit)} cases"
    blocks: list[Block] = [Details(summary=said, blocks=(Table(columns=columns, rows=rows),))]
    if section.left_out:
        left = tuple(section.left_out.items())
        blocks.append(
            Table(title="Arms that were not tried", columns=(Column(label="Arm"), Column(label="Why")), rows=left)
        )
    if section.skipped:
        places = (Column(label="Place", form="code"), Column(label="Reason"))
        table = Table(columns=places, rows=tuple(section.skipped.items()), limit=50)
        blocks.append(Details(summary=f"{section.n_skipped} rows left out", blocks=(table,)))
    return blocks
