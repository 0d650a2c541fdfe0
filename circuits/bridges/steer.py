"""Interventions carried across: one node of the sparse model is changed as by the other prompt of a pair; the dense model is steered by what the bridge makes of it.

1. `Prompts`: both sides of pairs whose prompts have one length, so that their tokens stand beside each other; each row is presented, the other side is its counterfactual, and what is asked for is the
   counterfactual's answer.
2. A node is a channel that a layer of the sparse model reads (behind the norm). Its change is its activation on the counterfactual less that on the presented prompt,
   at every token.
3. The bridge was trained in front of the norms, where the two models have scales of their own, and the change is made behind them. So the decoder's column is multiplied
   by RMS(sparse stream) / RMS(dense stream), each the mean over tokens of reference text (A.4); gains of the norms are taken out of the sparse node and left to the dense one.
4. Change x column, `[rows, pos, d_dense]`, times a strength from 0 to 1, is added to what the dense layer at that site reads.
5. Controls change the dense model at the same site and tokens by vectors of the same length: in a random direction, or along its own difference of means. A random node
   of the same layer comes with its own change, and with one of equal length. Each has as many candidates as the circuit has nodes to choose from, and is chosen in the same way.

Source: Gao et al. 2025, section 3.3 and A.4; all controls but the random one are ours.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from circuits.bridges.hybrid import Coupled, Model
from circuits.bridges.sites import Site, run
from circuits.tasks import PairSet
from sparsetrain.hooks import NodeId, hooked, record

Control = Literal[
    "random direction", "random node", "random node, equal length", "difference of means", "difference of means, all tokens"
]  # fmt: skip
CONTROLS: tuple[Control, ...] = (
    "random direction", "random node", "random node, equal length", "difference of means", "difference of means, all tokens",
)  # fmt: skip
DRAWN: tuple[Control, ...] = CONTROLS[:3]
"""Those that chance decides."""
MIN_ALIGNED = 4
"""Pairs whose prompts have one length; with fewer a task is not steered. ours"""
PATCHED = "own change"
"""The dense model's own change at the site of the node, token by token: how far a change there can go at all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompts:
    """Rows that are presented, each with its counterfactual."""

    presented: Tensor
    """`[rows, pos]` int64; first all positive sides, then all negative ones."""
    last: Tensor
    """`[rows]`: where the answers are compared."""
    asked: Tensor
    """`[rows]` int64: the answer to the counterfactual."""

    @classmethod
    def of(cls, pairs: PairSet) -> "Prompts | None":
        """Both sides of every pair whose tokens stand beside each other: prompts of one length. None: too few of them.

        Raises:
            ValueError: an answer that is no token.
        """
        if bool((pairs.answers < 0).any()):
            raise ValueError(f"task {pairs.task} asks for anything but a token; steering asks for an answer, choose another task")  # fmt: skip
        aligned = (pairs.last[:, 0] == pairs.last[:, 1]).nonzero().flatten()
        if len(aligned) < MIN_ALIGNED:
            return None
        pairs = pairs.batch(aligned)
        n_pos = int(pairs.last.max()) + 1
        return cls(
            presented=rearrange(pairs.tokens[..., :n_pos], "n side pos -> (side n) pos"),
            last=rearrange(pairs.last, "n side -> (side n)"),
            asked=rearrange(pairs.answers.flip(1), "n side -> (side n)"),
        )

    @property
    def shown(self) -> Tensor:
        """`[rows]` int64: the answer to what is presented."""
        return self.asked.roll(len(self.asked) // 2)

    @property
    def sign(self) -> Tensor:
        """`[rows]`: 1 where the counterfactual is the positive side, -1 where it is the negative one."""
        half = len(self.presented) // 2
        return torch.cat([-torch.ones(half), torch.ones(half)])

    def change(self, x: Tensor) -> Tensor:
        """Counterfactual less presented, `[rows, ...]`, of anything of the rows; 0 behind the last token."""
        other = x.roll(len(x) // 2, 0)
        inside = torch.arange(x.shape[1]) <= self.last[:, None]
        return (other - x) * inside[..., None].to(x)


@torch.no_grad()
def mean_rms(model: nn.Module, sites: Sequence[Site], windows: Tensor) -> Tensor:
    """RMS over channels of the residual stream, mean over the tokens of reference text: `[n_sites]`."""
    _, streams = run(model, sites, windows, keep=range(len(sites)))
    return torch.stack([streams[i].square().mean(-1).sqrt().mean() for i in range(len(sites))])


@dataclass(frozen=True, kw_only=True, eq=False)
class Steering:
    """What steers a dense model by nodes of a sparse one.

    Args:
        coupled: both models and their bridge, in eval mode, without gradients.
        ratio: RMS of the sparse stream / RMS of the dense one at every site.
    """

    coupled: Coupled
    ratio: Tensor

    @classmethod
    def of(cls, coupled: Coupled, windows: Tensor) -> "Steering":
        """With the RMS of reference text, `[n, pos]` int64."""
        sides: tuple[Model, Model] = ("sparse", "dense")
        sparse, dense = (mean_rms(*coupled.model(which), windows) for which in sides)
        return cls(coupled=coupled, ratio=sparse / dense)

    def site_of(self, node: NodeId) -> int | None:
        """The site whose layer reads this node; None: no layer does."""
        return next((i for i, site in enumerate(self.coupled.sparse_sites) if site.reads == node.point), None)

    @torch.no_grad()
    def reads(self, prompts: Prompts) -> dict[int, Tensor]:
        """What every layer of the sparse model reads, behind AbsTopK, in units of the norm: site -> `[rows, pos, d_sparse]`."""
        names = {site.reads: i for i, site in enumerate(self.coupled.sparse_sites) if site.reads is not None}
        _, seen = record(self.coupled.sparse, prompts.presented, names)
        found: dict[int, Tensor] = {}
        for name, i in names.items():
            gain = self.coupled.sparse.get_parameter(f"{self.coupled.sparse_sites[i].norm}.gain")
            found[i] = torch.where(gain == 0, 0.0, seen[name] / torch.where(gain == 0, 1.0, gain))
        return found

    @torch.no_grad()
    def dense_reads(self, prompts: Prompts) -> dict[int, Tensor]:
        """What every layer of the dense model reads, in units of the norm: site -> `[rows, pos, d_dense]`."""
        names = {site.normed: i for i, site in enumerate(self.coupled.sites)}
        _, seen = record(self.coupled.dense, prompts.presented, names)
        return {i: seen[name] for name, i in names.items()}

    def carried(self, site: int, channel: int, change: Tensor) -> Tensor:
        """A change of one sparse channel, `[rows, pos]`, as one of the dense model, `[rows, pos, d_dense]`."""
        return change[..., None] * self.ratio[site] * self.coupled.bridge.direction(site, channel)

    @torch.no_grad()
    def probability(
        self, prompts: Prompts, site: int, values: Tensor, strengths: Sequence[float], *, whole: bool = False
    ) -> Tensor:
        """Probability that the steered dense model gives to what is asked for, of both answers of the pair: `[n_strengths, rows]`.

        Args:
            prompts: as presented.
            site: where it is steered.
            values: `[rows, pos, d_dense]`, added at strength 1.
            strengths: any.
            whole: over the whole vocabulary instead.
        """
        added = torch.cat([strength * values for strength in strengths])
        with hooked(self.coupled.dense, {self.coupled.sites[site].normed: lambda x, point: x + added.to(x.dtype)}):
            logits = self.coupled.dense(prompts.presented.repeat(len(strengths), 1), at=prompts.last.repeat(len(strengths)))  # fmt: skip
        answers = torch.stack([prompts.asked, prompts.shown], -1).repeat(len(strengths), 1)
        found = logits.softmax(-1).gather(-1, answers) if whole else logits.gather(-1, answers).softmax(-1)
        return rearrange(found[:, 0], "(strength row) -> strength row", strength=len(strengths))


Made = Callable[[Prompts], Tensor]
"""Values that are added at strength 1, for any prompts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidate:
    """One way to steer."""

    site: int
    made: Made
    name: str = ""
    """Of the node."""


def node_candidate(steering: Steering, site: int, channel: int) -> Candidate:
    """Steering by one node."""

    def made(prompts: Prompts) -> Tensor:
        return steering.carried(site, channel, prompts.change(steering.reads(prompts)[site])[..., channel])

    point = steering.coupled.sparse_sites[site].reads
    assert point is not None
    return Candidate(site=site, made=made, name=str(NodeId(point, channel)))


def along(like: Candidate, direction: Tensor, *, signed: bool) -> Candidate:
    """Steering along a direction `[d_dense]` as far as another candidate does at every token.

    Args:
        signed: turn the direction round where the counterfactual is the negative side.
    """
    unit = direction / direction.norm().clamp_min(torch.finfo(direction.dtype).tiny)

    def made(prompts: Prompts) -> Tensor:
        length = like.made(prompts).norm(dim=-1, keepdim=True)
        return length * unit * (prompts.sign[:, None, None].to(unit) if signed else 1.0)

    return Candidate(site=like.site, made=made)


def own_change(steering: Steering, site: int) -> Candidate:
    """The dense model's own change of what it reads at a site, token by token."""
    return Candidate(site=site, made=lambda prompts: prompts.change(steering.dense_reads(prompts)[site]))


def controls(
    steering: Steering,
    control: Control,
    nodes: Sequence[tuple[int, int]],
    candidates: Sequence[Candidate],
    train: Prompts,
    seed: int,
) -> list[Candidate]:
    """As many candidates of a control as there are nodes to choose from.

    Args:
        steering: of both models.
        control: which.
        nodes: (site, channel) of every node that could be chosen.
        candidates: steering by them.
        train: prompts that means are taken of.
        seed: of what is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    if control in ("difference of means", "difference of means, all tokens"):
        reads, found = steering.dense_reads(train), list[Candidate]()
        for like in candidates:
            change = train.change(reads[like.site]) * train.sign[:, None, None]
            rows = torch.arange(len(change))
            direction = change[rows, train.last].mean(0) if control == "difference of means" else change.mean((0, 1))
            found.append(along(like, direction, signed=True))
        return found
    if control == "random direction":
        widths = [steering.coupled.sites[like.site].width for like in candidates]
        drawn = [torch.randn(width, generator=generator) for width in widths]
        return [along(like, direction, signed=False) for like, direction in zip(candidates, drawn, strict=True)]
    found = []
    for (site, _), like in zip(nodes, candidates, strict=True):
        taken = {channel for at, channel in nodes if at == site}
        free = [channel for channel in range(steering.coupled.sparse_sites[site].width) if channel not in taken]
        channel = free[int(torch.randint(len(free), (), generator=generator))]
        own = node_candidate(steering, site, channel)
        direction = steering.coupled.bridge.direction(site, channel)
        found.append(own if control == "random node" else along(like, direction, signed=True))
    return found


def chosen(steering: Steering, candidates: Sequence[Candidate], train: Prompts) -> tuple[Candidate, float]:
    """The candidate that gives most probability to what is asked for at strength 1, mean over training prompts, and that probability."""
    means = [float(steering.probability(train, one.site, one.made(train), [1.0]).mean()) for one in candidates]
    best = max(range(len(means)), key=means.__getitem__)
    return candidates[best], means[best]


def curve(
    steering: Steering, candidate: Candidate, heldout: Prompts, strengths: Sequence[float], *, whole: bool = False
) -> Tensor:
    """Probability of what is asked for at every strength, `[n_strengths, rows]`, see `Steering.probability`."""
    return steering.probability(heldout, candidate.site, candidate.made(heldout), strengths, whole=whole)


def moved(probabilities: Tensor) -> float:
    """The largest change of the mean of a curve `[n_strengths, rows]` from its first strength on."""
    means = probabilities.mean(1)
    return float((means - means[0]).abs().max())
