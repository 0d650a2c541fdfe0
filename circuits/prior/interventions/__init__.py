"""Interventions on what a model computes, each with the same number of settings as any prompt arm; one file each, which names its source."""

from collections.abc import Sequence

from circuits.masks import NodeSpace
from circuits.means import Means
from circuits.prior.arm import Arm
from circuits.prior.asking import Subject
from circuits.prior.heads import Heads
from circuits.prior.interventions.contrast import Contrast
from circuits.prior.interventions.direction import OneDirection
from circuits.prior.interventions.dual_run import DualRun
from circuits.prior.interventions.head_scaling import HeadScaling
from circuits.prior.interventions.patching import Patching
from circuits.prior.interventions.recall_nodes import RecallNodes
from sparsetrain.hooks import NodeId

__all__ = ["Contrast", "DualRun", "HeadScaling", "OneDirection", "Patching", "RecallNodes", "interventions"]


def interventions(
    subject: Subject, nodes: Sequence[NodeId | str] = (), means: Means | None = None
) -> tuple[tuple[Arm, ...], dict[str, str]]:
    """All that a model can be given, and why others cannot.

    Args:
        subject: the model.
        nodes: of its recall circuit, where one was found.
        means: what deleted nodes emit.

    Returns:
        The interventions; name -> why it is left out.
    """
    arms: list[Arm] = [Contrast()]
    left_out: dict[str, str] = {}
    try:
        heads = Heads.of(subject.module)
        arms += [HeadScaling(heads), DualRun(heads)]
    except ValueError as error:
        left_out |= dict.fromkeys((HeadScaling.name, DualRun.name), str(error))
    if streams := subject.streams:
        arms += [OneDirection(streams), Patching(streams)]
    else:
        reason = "the model shows no residual stream in front of its norms"
        left_out |= dict.fromkeys((OneDirection.name, Patching.name), reason)
    if nodes:
        arms.append(RecallNodes(NodeSpace.of(subject.module), nodes, means))
    else:
        left_out[RecallNodes.name] = "no nodes of a recall circuit were given"
    return tuple(arms), left_out
