"""How concentrated the activations of two runs' models are, split by split."""

from collections.abc import Sequence

from circuits.side_by_side.losses import pair
from circuits.side_by_side.run import SideRun
from circuits.side_by_side.section import PointPair, SparsityEntry, SplitPair, SplitSide
from sparsetrain.representation.section import PointEntry, RepresentationSection, SplitEntry
from sparsetrain.stats.number import Number


def compare_sparsity(a: SideRun, b: SideRun) -> SparsityEntry:
    """The headline measure at every hook point and on every split that both have."""
    ours, theirs = a.sparsity, b.sparsity
    notes = [
        f"{side} has no survey of activation sparsity."
        for side, section in (("a", ours), ("b", theirs))
        if section is None
    ]
    if ours is None or theirs is None:
        return SparsityEntry(measure="", splits=(), points=(), notes=tuple(notes))
    if ours.headline != theirs.headline:
        notes.append(f"The main measure is {ours.headline} in a and {theirs.headline} in b.")
        return SparsityEntry(measure="", splits=(), points=(), notes=tuple(notes))
    splits = _splits(ours, theirs)
    points = _points(ours, theirs, [split.name for split in splits if split.a and split.b])
    return SparsityEntry(
        measure=ours.headline,
        splits=splits,
        points=points,
        notes=tuple(_notes(a, b, (ours, theirs), splits, points)),
    )


def _splits(a: RepresentationSection, b: RepresentationSection) -> tuple[SplitPair, ...]:
    ours, theirs = ({split.name: split for split in section.splits} for section in (a, b))
    names = dict.fromkeys([*ours, *theirs])
    return tuple(SplitPair(name=name, a=_split(ours.get(name)), b=_split(theirs.get(name))) for name in names)


def _split(entry: SplitEntry | None) -> SplitSide | None:
    if entry is None:
        return None
    shared = ("level", "n_examples", "n_tokens", "loss", "bits_per_char")
    return SplitSide(**{key: getattr(entry, key) for key in shared})


def _points(a: RepresentationSection, b: RepresentationSection, splits: list[str]) -> tuple[PointPair, ...]:
    theirs = {point.hook_point: point for point in b.points}
    both = [(point, theirs[point.hook_point]) for point in a.points if point.hook_point in theirs]
    return tuple(_point(ours, theirs, a.headline, splits) for ours, theirs in both)


def _point(a: PointEntry, b: PointEntry, measure: str, splits: list[str]) -> PointPair:
    def of(point: PointEntry, split: str) -> Number | None:
        return point.values.get(split, {}).get(measure)

    return PointPair(
        hook_point=a.hook_point,
        shown=a.shown or b.shown,
        width_a=a.width,
        width_b=b.width,
        gaussian_a=a.gaussian.get(measure),
        gaussian_b=b.gaussian.get(measure),
        splits={split: pair(of(a, split), of(b, split)) for split in splits},
    )


def _notes(
    a: SideRun,
    b: SideRun,
    sections: tuple[RepresentationSection, RepresentationSection],
    splits: Sequence[SplitPair],
    points: Sequence[PointPair],
) -> list[str]:
    """What a reader must know before comparing the numbers."""
    notes: list[str] = []
    for side, names in (("a", [s.name for s in splits if not s.b]), ("b", [s.name for s in splits if not s.a])):
        notes += [f"Only {side} has the split{'s' if len(names) > 1 else ''} {', '.join(names)}."] if names else []
    if not any(split.a and split.b for split in splits):
        return [*notes, "No split of the same name: nothing can be compared."]
    if not points:
        return [*notes, "No hook point of the same name: nothing can be compared."]
    if a.kind != b.kind:
        notes.append(f"a is a {a.kind}, b a {b.kind}: splits of the same name are other texts.")
    elif a.data is not None and b.data is not None and a.data.content_hash != b.data.content_hash:
        notes.append("The corpora differ, so that splits of the same name hold other texts or other tokens.")
    for split in splits:
        if split.a and split.b and (split.a.n_examples, split.a.n_tokens) != (split.b.n_examples, split.b.n_tokens):
            sizes = [f"{side.n_examples:,} examples of {side.n_tokens:,} tokens in" for side in (split.a, split.b)]
            notes.append(f"{split.name}: {sizes[0]} a, {sizes[1]} b; they did not read the same tokens.")
    if sections[0].positions != sections[1].positions:
        notes.append(f"Positions read: {sections[0].positions} in a; {sections[1].positions} in b.")
    if any(point.width_a != point.width_b for point in points):
        notes.append("The models differ in width: compare each with the Gaussian value of its own width.")
    notes.append(
        "The interval of a difference is made of the intervals of both runs. Where they read the same texts it is too wide rather "
        "than too narrow."
    )
    return notes
