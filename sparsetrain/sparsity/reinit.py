"""Dead units start anew, inside the weight budget: every tensor keeps exactly its number of nonzeros, and its floors.

A dead unit (`dead.py`) gets fresh incoming and outgoing weights, and its optimizer state there is zeroed:
1. Dead units are taken in an order drawn from the seed and the step, as many as the tensors they touch have room for, and no more at a time
   than `share` of the nonzeros of any of them moves (or one unit).
2. Their lines are cleared. Each gets as many weights as a line of its matrix has on average, at least the floor, and at least as many as it
   had. They read residual channels that somebody writes before, and write channels that somebody reads behind, drawn by chance; they are as
   large as the median weight of the matrix, so that the next projection does not cut them, with signs drawn by chance.
3. Room is made by the weights of smallest magnitude: first of dead units that were not taken, then of living ones, of whose lines the floor
   and the largest weight always stay. So no unit loses its last weight to another.
4. A bias of theirs that was kept becomes the smallest in magnitude of its tensor, positive: what shut the unit is gone, the budget still exact.

Differs from ReDo (Sokar et al. 2023, arXiv 2302.12902), which gives dormant units zero outgoing weights so that the output stays: here a zero
weight is a cut one, and the unit would be dead again after the next step.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparsetrain.sparsity.dead import INCOMING, OUTGOING, block_of, unit_masks, unit_points
from sparsetrain.typed import Above0, Count, Share


@dataclass(frozen=True, kw_only=True)
class ReinitConfig:
    """When dead units start anew. ours"""

    every: Count | None = None
    """Optimizer steps between two times; None: never."""
    end: Above0 | None = None
    """Fraction of the steps after which none does any more; None: the end of annealing."""
    share: Share = 0.1
    """Of a tensor's nonzeros, what moves at one time at most; one unit always may."""
    n_batches: Count = 4
    """First batches of the training text, on which a unit is never active or constant if it is dead."""

    def __post_init__(self) -> None:
        if self.end is not None and self.end > 1:
            raise ValueError(f"end={self.end} must lie in (0, 1]: a fraction of the steps")

    def steps(self, n_steps: int, annealed: float) -> set[int]:
        """The optimizer steps after which dead units start anew; never the last one.

        Args:
            n_steps: of the whole run.
            annealed: fraction of the steps at which the final density is reached.
        """
        if self.every is None:
            return set()
        end = annealed if self.end is None else self.end
        return {step for step in range(self.every, n_steps, self.every) if step <= end * n_steps}


@dataclass(frozen=True)
class Side:
    """A matrix and which of its lines belong to units."""

    name: str
    weight: Tensor
    by_row: bool
    floor: int

    @property
    def lines(self) -> Tensor:
        """The matrix with a unit's weights as a row: `[units, others]`, the same memory."""
        return self.weight if self.by_row else self.weight.T


@torch.no_grad()
def reinit_dead_(
    model: nn.Module,
    batches: Iterable[Tensor],
    optimizer: Optimizer,
    *,
    seed: int,
    step: int,
    floors: Mapping[str, int],
    share: float,
) -> int:
    """Starts dead units anew, in place; a function of the model, the text, the seed and the step.

    Args:
        model: a transformer of ours, its tensors whole.
        batches: tokens `[batch, pos]` (int64) that activity is judged on.
        optimizer: its state of these weights is zeroed.
        seed: of the training.
        step: optimizer steps taken.
        floors: name of a matrix -> weights that each of its units keeps at least; absent: none.
        share: of a tensor's nonzeros, what moves at most.

    Returns:
        How many units started anew.
    """
    # torch's generator reads 32 bits of a seed.
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))
    parameters = dict(model.named_parameters())
    channels = ResidualUse(parameters)
    kinds = {name: point.kind for name, point in unit_points(model).items()}
    n_reinitialised = 0
    for name, masks in unit_masks(model, batches).items():
        dead = masks.dead.nonzero().flatten().cpu()
        if not len(dead):
            continue
        block, kind = block_of(name), kinds[name]
        paths = [(INCOMING[kind], True), *([(OUTGOING[kind], False)] if kind in OUTGOING else [])]
        sides = [
            Side(full, parameters[full], by_row, floors.get(full, 0))
            for full, by_row in ((f"{block}.{path}.weight", by_row) for path, by_row in paths)
        ]
        order = dead[torch.randperm(len(dead), generator=generator)].to(masks.dead.device)
        taken = order[: min(most(side, masks.dead, order, share) for side in sides)]
        if not len(taken):
            continue
        for side in sides:
            good = channels.written_before(side.name) if side.by_row else channels.read_behind(side.name)
            renew_lines_(side, masks.dead, taken, good, generator)
            clear_state_(optimizer, parameters[side.name], taken, side.by_row)
        bias = parameters.get(f"{block}.{INCOMING[kind]}.bias")
        if bias is not None:
            open_biases_(bias, taken)
            clear_state_(optimizer, bias, taken, True)
        n_reinitialised += len(taken)
    return n_reinitialised


def wanted(side: Side) -> int:
    """Weights of a fresh line: those of a line on average, at least the floor and one."""
    lines = side.lines
    return max(side.floor, 1, round(int(lines.count_nonzero()) / len(lines)))


def most(side: Side, dead: Tensor, order: Tensor, share: float) -> int:
    """How many of the units in `order`, from the first one on, a matrix has room for."""
    n = side.lines.count_nonzero(1)
    fresh = n[order].clamp(min=wanted(side))
    lacking = (fresh - n[order]).cumsum(0)
    living = (n[~dead] - max(side.floor, 1)).clamp(min=0).sum()
    spare = (n - side.floor).clamp(min=0)
    not_taken = spare[dead].sum() - spare[order].cumsum(0)
    moves = fresh.cumsum(0) <= share * int(n.sum())
    moves[0] = True
    return int((moves & (lacking <= living + not_taken)).sum())


def renew_lines_(side: Side, dead: Tensor, taken: Tensor, good: Tensor, generator: torch.Generator) -> None:
    """Gives the units `taken` fresh weights, as many in all as others lose; see the module's docstring.

    Args:
        side: the matrix.
        dead: bool `[units]`.
        taken: numbers of the units that start anew, all of them dead.
        good: bool `[others]`; the weights that these channels have are drawn first.
    """
    lines, want = side.lines, wanted(side)
    before = int(lines.count_nonzero())
    kept = lines[lines != 0].abs()
    size = kept.median() if len(kept) else torch.tensor(lines.shape[1] ** -0.5)
    n = lines.count_nonzero(1)[taken].clamp(min=want)  # [taken]
    # Good channels come first, in an order drawn anew for each line.
    chance = torch.rand(len(taken), lines.shape[1], generator=generator).to(lines.device) + (~good).float()
    places = chance.argsort(1).argsort(1) < n[:, None]
    signs = torch.randint(2, (len(taken), lines.shape[1]), generator=generator).to(lines.device) * 2 - 1
    lines[taken] = torch.where(places, signs * size, 0.0)
    surplus = int(lines.count_nonzero()) - before
    if surplus:
        make_room_(side, dead, taken, surplus)
    assert int(lines.count_nonzero()) == before, f"{side.name} has other than its {before} nonzeros"


def make_room_(side: Side, dead: Tensor, taken: Tensor, n: int) -> None:
    """Cuts the n smallest weights that may go: of dead units that are not taken before those of living ones."""
    lines = side.lines
    least = torch.where(dead, side.floor, max(side.floor, 1))  # what a line keeps
    least[taken] = lines.shape[1]
    # Rank 0 is the largest magnitude of its line; equal ones rank by their place.
    rank = lines.abs().argsort(dim=1, descending=True, stable=True).argsort(1)
    free = (lines != 0) & (rank >= least[:, None])
    units, others = free.nonzero(as_tuple=True)
    magnitude = lines[units, others].abs()
    by_size = magnitude.argsort(stable=True)
    order = by_size[(~dead[units[by_size]]).long().argsort(stable=True)][:n]
    assert len(order) == n, f"{side.name} has room for {len(order)} weights, {n} are wanted"
    lines[units[order], others[order]] = 0


def open_biases_(bias: Tensor, taken: Tensor) -> None:
    """Makes biases of these units that are not zero as small as the smallest of their tensor, and positive."""
    found = bias[bias != 0]
    if len(found):
        bias[taken] = torch.where(bias[taken] != 0, found.abs().min(), bias[taken])


def clear_state_(optimizer: Optimizer, parameter: nn.Parameter | Tensor, units: Tensor, by_row: bool) -> None:
    """Zeroes what an optimizer remembers of these units' weights."""
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            (value if by_row else value.T)[units] = 0


class ResidualUse:
    """Who writes and who reads the channels of the residual stream, block by block.

    Args:
        parameters: of a model of ours, by name.
    """

    def __init__(self, parameters: Mapping[str, Tensor]) -> None:
        self.parameters = parameters
        embed = parameters["embed.weight"]
        self.d_model = embed.shape[1]
        self.first = embed.any(0)
        positions = parameters.get("positions")
        self.d_read = parameters["blocks.0.attn.W_q.weight"].shape[1]
        if positions is not None and self.d_read == self.d_model:  # added, not concatenated
            self.first = self.first | positions.any(0)

    def written_before(self, name: str) -> Tensor:
        """What holds anything when a matrix reads it, bool `[d_read]`; concatenated positions always do."""
        written = self.first
        for other, weight in self.parameters.items():
            if other.endswith(("W_o.weight", "W_out.weight")) and place_of(other) < place_of(name):
                written = written | weight.any(1)
        return torch.cat([written, written.new_ones(self.d_read - self.d_model)])

    def read_behind(self, name: str) -> Tensor:
        """Channels that are read after a matrix has written, bool `[d_model]`."""
        read = self.parameters["unembed.weight"].any(0)
        for other, weight in self.parameters.items():
            if other.endswith(tuple(f"{path}.weight" for path in INCOMING.values())) and place_of(other) > place_of(
                name
            ):
                read = read | weight[:, : self.d_model].any(0)
        return read


def place_of(name: str) -> tuple[int, str]:
    """Where a matrix of a block stands in the forward pass: attention comes before the MLP."""
    _, block, part, _ = name.split(".", 3)
    return int(block), part
