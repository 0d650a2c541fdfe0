"""Puts the parts of a comparison together."""

from circuits.side_by_side.losses import compare_losses
from circuits.side_by_side.run import SideRun
from circuits.side_by_side.section import SettingsEntry, SideBySideSection, VerdictPair
from circuits.side_by_side.settings import compare_settings
from circuits.side_by_side.sparsity import compare_sparsity
from circuits.side_by_side.tasks import compare_tasks


def compare(a: SideRun, b: SideRun) -> SideBySideSection:
    """Two runs side by side, of whatever kind and however far they got."""
    settings = compare_settings(a.settings, b.settings)
    known = a.settings is not None and b.settings is not None
    return SideBySideSection(
        a=a.entry(),
        b=b.entry(),
        settings=settings,
        losses=compare_losses(a, b),
        tasks=compare_tasks(
            a, b, same_start(settings, a.settings.read.get("init_from")) if a.settings and known else None
        ),
        sparsity=compare_sparsity(a, b),
        verdicts=compare_verdicts(a, b),
    )


def same_start(settings: SettingsEntry, init_from: str | None = None) -> bool | None:
    """Whether trainings with these differences begin with the same weights; None: nobody can say.

    Seed, shape of the model and vocabulary draw them, where `init_from` does not give them.

    Args:
        settings: how they differ.
        init_from: where the first one's weights come from; None: they are drawn.
    """
    keys = [entry.key for entry in settings.differing]
    if "init_from" in keys:
        return None
    if init_from is not None:
        return True
    return not any(key in ("seed", "data.d_vocab") or key.split(".")[0] == "model" for key in keys)


def compare_verdicts(a: SideRun, b: SideRun) -> tuple[VerdictPair, ...] | None:
    """The verdicts of studies; None where neither run is one."""
    if a.study is None and b.study is None:
        return None
    ours, theirs = (
        {(entry.arm, entry.name): entry for entry in (() if run.study is None else run.study.verdicts)}
        for run in (a, b)
    )
    return tuple(
        VerdictPair(
            name=key[1],
            arm=key[0],
            statement=(ours.get(key) or theirs[key]).statement,
            a=ours[key].verdict if key in ours else None,
            b=theirs[key].verdict if key in theirs else None,
        )
        for key in dict.fromkeys([*ours, *theirs])
    )
