"""Between the circuit and the model: deleted nodes let part of their deviation from the mean through (`circuits.partial`).

1. The mean task loss over r drawn from U(0, 1) per node: all of the rest is alive in part.
2. The worst found by projected gradient ascent from r = 1/2 and from random starts.
3. The worst neuron or head that comes back whole, with the channels that it reads and writes, while all else stays deleted: two
   that cancel hide behind one another as long as both are deleted.

A circuit that is the mechanism, and not an artefact of the ablation, does not care. Calibrated by the circuit's rule, on the fit
pairs under the same shares where that rule is a fit.
"""

import torch
from torch import Tensor

from circuits.edges import join_weight, joins
from circuits.evidence.examination import Examination, criterion
from circuits.evidence.measurement import Measurement
from circuits.masks import NodeSpace
from circuits.partial import ascend
from circuits.search.learn import partial_answers
from circuits.tasks.loss import pair_task_loss
from circuits.tasks.pairs import PairSet
from sparsetrain.model import Transformer


def heldout_losses(exam: Examination, r: Tensor) -> Tensor:
    """`part_losses` on the held-out pairs."""
    return part_losses(exam, r, exam.heldout)


def part_losses(exam: Examination, r: Tensor, pairs: PairSet) -> Tensor:
    """Calibrated task loss of each pair, `[n_runs, n]` nats, differentiable in r float `[n_runs, n_nodes]`."""
    n, keep = len(r), exam.keep.to(exam.device)

    def answers(of: PairSet, alive: Tensor) -> Tensor:
        return partial_answers(exam.ablated, keep.expand(n, -1), [of] * n, alive)

    calibration = exam.calibrated_by(lambda of: answers(of, r.detach()), n)
    return pair_task_loss(calibration.apply(answers(pairs, r)))


def _random_shares(exam: Examination, n: int) -> Tensor:
    generator = torch.Generator().manual_seed(exam.config.seed)
    return torch.rand(n, exam.space.n_nodes, generator=generator).to(exam.device)


@criterion("partial ablation", "critique 4", at_most="max_partial_loss", needs="min_pairs")
def random_partial(exam: Examination) -> Measurement:
    """Does the circuit keep the task loss, on average, when deleted nodes come back in part?"""
    r = _random_shares(exam, exam.config.n_partial)
    step = max(1, exam.config.max_rows // (2 * len(exam.heldout)))
    with torch.no_grad():
        losses = torch.cat([heldout_losses(exam, part).cpu() for part in torch.split(r, step)])
    note = f"{len(r)} draws, the worst {float(losses.mean(1).max()):.3f}"
    return exam.measured(losses.double().mean(0), "nats", note=note)


@criterion("worst partial ablation", "critique 4", at_most="max_worst_loss", needs="min_pairs")
def worst_partial(exam: Examination) -> Measurement:
    """Does it stay better than a guess under the worst partial ablation found by gradient ascent?

    The shares are sought on the pairs that are judged: an adversary may fit them. The interval is over pairs, at the worst r.
    """
    config = exam.config
    r = _random_shares(exam, config.n_adversary_starts)
    r[0] = 0.5
    found, first = (
        x.cpu()
        for x in ascend(lambda r: heldout_losses(exam, r), r, config.n_adversary_steps, config.adversary_step)[1:]
    )
    worst, started = found[found.mean(1).argmax()], float(first.mean(1).max())
    note = f"{len(r)} starts, {config.n_adversary_steps} steps; started at {started:.3f}"
    return exam.measured(worst, "nats", note=note)


@criterion("worst restored unit", "critique 4", at_most="max_restored_loss", needs="min_pairs")
def worst_restored(exam: Examination) -> Measurement:
    """Does it keep the task loss whichever single neuron or head of the rest comes back, with what this reads and writes?

    Every unit is tried on a few pairs, and those that hurt most there on all; an adversary may choose on the pairs that are
    judged. The interval is over pairs, at the worst unit. Nats; ours: two units that cancel pass every complete ablation.
    """
    config, rest = exam.config, units(exam.transformer, exam.space)
    rest = rest[(rest & ~exam.keep.cpu()).any(1)]
    if not len(rest):
        return exam.measured(pair_task_loss(exam.calibrated), "nats", note="no neuron or head is left out")
    few = exam.heldout.batch(slice(0, config.n_restored_pairs))
    worst_first = restored_losses(exam, rest, few).mean(1).argsort(descending=True)[: config.n_restored]
    losses = restored_losses(exam, rest[worst_first], exam.heldout)
    return exam.measured(losses[losses.mean(1).argmax()], "nats", note=f"{len(rest)} neurons and heads tried")


@torch.no_grad()
def restored_losses(exam: Examination, alive: Tensor, pairs: PairSet) -> Tensor:
    """Calibrated losses of pairs, `[n, n_pairs]` nats, with the nodes `alive`, bool `[n, n_nodes]`, beside the circuit."""
    step = max(1, exam.config.max_rows // (2 * len(pairs)))
    parts = [part_losses(exam, r.to(exam.device).float(), pairs).cpu() for r in torch.split(alive, step)]
    return torch.cat(parts).double()


def units(model: Transformer, space: NodeSpace) -> Tensor:
    """Every neuron and every head, with the channels that it reads and writes along nonzero weights: bool `[n_units, n_nodes]`."""
    there = {(join.source, join.target): join_weight(model, space, join).cpu() != 0 for join in joins(model)}
    found: list[Tensor] = []
    for i in range(model.config.n_layer):
        mlp, attn = f"blocks.{i}.mlp", f"blocks.{i}.attn"
        one_each = torch.eye(model.config.mlp_width, dtype=torch.bool)
        heads = torch.eye(model.config.heads, dtype=torch.bool).repeat_interleave(model.config.d_head, 1)
        for middle, unit, reads, writes in (
            ((f"{mlp}.hook_neuron",), one_each, f"{mlp}.hook_in", (f"{mlp}.hook_neuron", f"{mlp}.hook_out")),
            (
                tuple(f"{attn}.hook_{x}" for x in "qkv"),
                heads,
                f"{attn}.hook_in",
                (f"{attn}.hook_v", f"{attn}.hook_out"),
            ),
        ):
            parts = space.split(torch.zeros(len(unit), space.n_nodes, dtype=torch.bool))
            for name in middle:
                parts[name] = unit
                parts[reads] |= _reach(unit, there[reads, name])
            parts[writes[1]] |= _reach(unit, there[writes].T)
            found.append(space.join(parts))
    return torch.cat(found)


def _reach(unit: Tensor, there: Tensor) -> Tensor:
    """Channels joined to any of a unit's, `[n_units, width]`, by weights `there` `[width of the unit's, width]`."""
    return (unit.float() @ there.float()) > 0
