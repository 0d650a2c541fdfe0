"""The smallest set of nodes that still does a task: from rankings of nodes, learned or other, to circuits.

1. Candidates and masks: `circuits.search.learn`.
2. Bisection: nodes ranked by tau; the smallest k whose calibrated loss on fixed validation pairs meets the target.
3. Clean-up: nodes that lie on no path from tokens to logits go if the loss allows; then, round by round, all single
   removals are tried at once and the harmless ones dropped, until every node left is needed.
4. Transfer: training pairs have other names than validation pairs. 2 and 3 take no step that leaves a circuit worse
   there than the target, or than all candidates are; else it would be fitted to the names that it is cleaned up on.
5. Nor one that leaves it a shift's work: without calibration it must answer rightly often enough (`Aim.min_raw_accuracy`). Where
   `PruneConfig.ablation` asks for it, it must keep the target with a part of the rest alive, too.

Source: Gao et al. 2025, arXiv 2511.13653, section A.5. Steps 3 to 5 are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuits.calibrate import calibrated_loss, stacked
from circuits.compact import CompactCircuit, compile_circuit, compiles
from circuits.edges import on_path
from circuits.search.cleanup import drop_harmless, without_each
from circuits.search.learn import Aim, MaskRun, attribution, learn_masks
from circuits.search.rest import Rest
from circuits.tasks.loss import Calibration, pair_accuracy, task_loss
from circuits.tasks.pairs import PairSet

N_COMPILED = 16  # ours: compact circuits that are remembered
N_ATTACKS = 4  # ours: clean-ups that an adversary may undo before the circuit stays as it was ranked
ROUNDING = 1e-4  # ours: by which a loss may differ from itself, in another batch or in compact form
REFUSED = 2.0  # ours: added to the loss of a circuit that calibration alone would carry, in targets


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What one search found.

    Args:
        keep: bool `[n_nodes]`.
        loss: calibrated task loss on the validation pairs, nats.
        reached: whether it meets the aim: that target, and whatever else it is held to.
        calibration: fitted on the validation pairs.
        n_candidates: nodes that the search could choose from.
        n_ranked: nodes that the bisection kept, before the clean-up.
        removal_loss: float `[n_nodes]`, rise of the loss when one kept node is removed (same calibration); 0 elsewhere.
    """

    keep: Tensor
    loss: float
    reached: bool
    calibration: Calibration
    n_candidates: int
    n_ranked: int
    removal_loss: Tensor


class Search:
    """From an order of the nodes to a circuit, for several runs: bisection and clean-up on validation pairs, transfer."""

    def __init__(self, aim: Aim, runs: Sequence[MaskRun]) -> None:
        self.aim, self.runs = aim, runs
        by_train = {id(run.train): run.train.batch(slice(0, (len(run.val) + 1) // 2)) for run in runs}
        self.transfer = [by_train[id(run.train)] for run in runs]  # seeds share their pairs, and with them a pass
        self.allowed = [aim.target] * len(runs)
        self.rest = Rest(aim, runs)
        self.compiles = compiles(aim.model) and aim.device.type == "cpu"
        self._compiled: dict[bytes, CompactCircuit] = {}

    def circuits(self, orders: Sequence[Tensor], guesses: Sequence[int]) -> list[Pruned]:
        """One result per run: the smallest prefix of its order that meets the target, cleaned up.

        Args:
            orders: per run, node numbers from most to least important.
            guesses: per run, the length of the order that bisection tries first.
        """
        runs = range(len(self.runs))
        everything = torch.stack([self._prefix(order, len(order)) for order in orders])
        losses = self.training_loss(everything, runs, self.loss(everything, runs)[1])
        self.allowed = [max(self.aim.target, loss * (1 + ROUNDING)) for loss in losses.tolist()]
        found = []
        for run, ranked in enumerate(self.bisect(orders, guesses)):
            met = self._meets(run, ranked)
            keep = self.withstanding(run, ranked, orders[run]) if met else ranked
            found.append(self.pruned(run, keep, reached=met, n_candidates=len(orders[run]), n_ranked=int(ranked.sum())))
        return found

    def pruned(self, run: int, keep: Tensor, *, reached: bool, n_candidates: int = 0, n_ranked: int = 0) -> Pruned:
        """What is to be said of a circuit, whichever way it was found.

        Args:
            keep: bool `[n_nodes]`.
            reached: whether it meets the target.
            n_candidates: nodes that its search could choose from.
            n_ranked: nodes that the bisection kept.
        """
        loss, calibration = self.loss(keep[None], [run])
        return Pruned(
            keep=keep,
            loss=float(loss[0]),
            reached=reached,
            calibration=calibration.first,
            n_candidates=n_candidates,
            n_ranked=n_ranked,
            removal_loss=self.rises(run, keep) if reached else torch.zeros(self.aim.space.n_nodes),
        )

    def withstanding(self, run: int, ranked: Tensor, order: Tensor) -> Tensor:
        """`clean`, again and again until the adversary (if there is one) breaks what is left of it no more; the circuit as it was
        ranked, where it always does."""
        for _ in range(N_ATTACKS):
            keep = self.clean(run, ranked, order)
            if self._meets(run, keep, attacked=True):
                return keep
            self.aim.progress("attack", 0, 1)
        return ranked

    def training_loss(self, keep: Tensor, which: Sequence[int], calibration: Calibration) -> Tensor:
        """Task losses `[n]` of circuits on training pairs, half as many as there are validation pairs."""
        answers = self.answers(keep, [self.transfer[run] for run in which])
        return task_loss(calibration.apply(answers.double()))

    def worst_loss(self, keep: Tensor, which: Sequence[int], *, attacked: bool = False) -> Tensor:
        """`loss`, or where it is larger: the loss on training pairs in units of what is allowed there, and with a part of the rest
        alive (`circuits.search.rest`); more than the target where too few prompts are answered rightly without calibration.

        What lies beyond the validation pairs is looked at only where the target is met there.

        Args:
            keep: bool `[n, n_nodes]`.
            which: the run of each.
            attacked: let the adversary look for a worse part of the rest first.

        Returns:
            `[n]`, nats.
        """
        vals = [self.runs[run].val for run in which]
        answers = self.answers(keep, vals)
        losses, calibration = calibrated_loss(answers, self.kept(which))
        losses = torch.where(self.raw_enough(answers), losses, losses + self.aim.target * REFUSED)
        good = (losses <= self.aim.target).nonzero().flatten()
        if len(good):
            runs = [which[i] for i in good.tolist()]
            chosen = Calibration(scale=calibration.scale[good], shift=calibration.shift[good])
            allowed = torch.tensor([self.allowed[run] for run in runs])
            elsewhere = self.training_loss(keep[good], runs, chosen) * self.aim.target / allowed
            losses = losses.index_copy(0, good, torch.maximum(losses[good], elsewhere.to(losses.dtype)))
        good = (losses <= self.aim.target).nonzero().flatten()
        if len(good) and self.aim.config.ablation != "complete":
            runs, sets = [which[i] for i in good.tolist()], [vals[i] for i in good.tolist()]
            chosen = Calibration(scale=calibration.scale[good], shift=calibration.shift[good])
            if attacked:
                self.rest.attack(keep[good], runs, sets, chosen)
            losses[good] = torch.maximum(
                losses[good], self.rest.losses(keep[good], runs, sets, chosen).to(losses.dtype)
            )
        return losses

    def raw_enough(self, answers: Tensor) -> Tensor:
        """Whether circuits answer rightly without calibration often enough, from their answers `[n, pair, side, answer]`: bool `[n]`."""
        return pair_accuracy(answers).mean(-1) >= self.aim.min_raw_accuracy

    def answers(self, keep: Tensor, sets: Sequence[PairSet]) -> Tensor:
        """Answer logits of circuits `keep [n, n_nodes]`, the i-th on the pairs `sets[i]`; small ones in their compact form."""
        small = (keep.sum(1) <= self.aim.config.compact_nodes) & self.compiles
        answers = torch.empty(len(keep), len(sets[0]), 2, 2)
        for i in small.nonzero().flatten().tolist():
            answers[i] = self._compact(keep[i]).answers(sets[i])
        large = (~small).nonzero().flatten()
        if len(large):
            answers[large] = self.aim.answers(keep[large], [sets[i] for i in large.tolist()])
        return answers

    def _compact(self, keep: Tensor) -> CompactCircuit:
        """The circuit compiled; the last few are remembered, since validation pairs are followed by training pairs."""
        key = keep.numpy().tobytes()
        if key not in self._compiled:
            if len(self._compiled) >= N_COMPILED:
                self._compiled.pop(next(iter(self._compiled)))
            self._compiled[key] = compile_circuit(self.aim.model, keep, self.aim.means)
        return self._compiled[key]

    def loss(self, keep: Tensor, which: Sequence[int]) -> tuple[Tensor, Calibration]:
        """Calibrated losses `[n]` of circuits, the i-th on the validation pairs of run `which[i]`."""
        return calibrated_loss(self.answers(keep, [self.runs[run].val for run in which]), self.kept(which))

    def kept(self, which: Sequence[int]) -> Calibration | None:
        """The calibrations that runs keep; None where they are fitted."""
        return stacked([self.runs[run].calibration for run in which])

    def candidates(self) -> tuple[Tensor, Tensor]:
        """Per run the nodes of highest attribution, bool `[n_runs, n_nodes]`, and ranks in [0, 1] (1 for the highest).

        Where the full model meets the target and those nodes by themselves do not, twice as many are let in; controls get as
        many as the others needed.
        """
        cfg, space, n_runs = self.aim.config, self.aim.space, len(self.runs)
        scores: dict[int, Tensor] = {}
        for run in self.runs:  # seeds share their pairs, and so their scores
            if id(run.val) not in scores:
                scores[id(run.val)] = attribution(self.aim, run.val)
        everything = torch.ones(space.n_nodes, dtype=torch.bool)
        pools = torch.stack([everything if run.excluded is None else ~run.excluded for run in self.runs])
        orders = [scores[id(run.val)].argsort(descending=True) for run in self.runs]
        orders = [order[pool[order]] for order, pool in zip(orders, pools, strict=True)]
        keep = pools.clone()
        full, _ = self.loss(pools, range(n_runs))
        share, open_runs = cfg.candidate_share, list(range(n_runs))
        while open_runs and share < 1:
            for run in open_runs:
                keep[run] = self._prefix(orders[run], max(1, round(share * space.n_nodes)))
            share *= 2
            solvable = [run for run in open_runs if full[run] <= self.aim.target and not self.runs[run].control]
            losses, _ = self.loss(keep[solvable], solvable) if solvable else (torch.zeros(0), None)
            short = [run for run, loss in zip(solvable, losses.tolist(), strict=True) if loss > self.aim.target]
            open_runs = short + [run for run in open_runs if self.runs[run].control] if short else []
        keep[open_runs] = pools[open_runs]
        places = torch.full((n_runs, space.n_nodes), space.n_nodes)
        for run, order in enumerate(orders):
            places[run, order] = torch.arange(len(order))
        return keep, (1 - places / keep.sum(1, keepdim=True)).clamp(min=0)

    def better(self, final: Tensor, best: Tensor) -> tuple[Tensor, list[int]]:
        """Of two tau per run the one whose mask is smaller, if it meets the target; else the other; and its size.

        Args:
            final: float `[n_runs, n_nodes]`, chosen where neither meets the target.
            best: the same.
        """
        runs = range(len(self.runs))
        both = torch.stack([final, best])
        losses = torch.stack([self.loss(tau > 0, runs)[0] for tau in both])
        sizes = (both > 0).sum(-1)
        cost = torch.where(losses <= self.aim.target, sizes, self.aim.space.n_nodes + 1)
        chosen = [int(cost[:, run].argmin()) for run in runs]
        return torch.stack([both[i, run] for run, i in enumerate(chosen)]), [
            int(sizes[i, r]) for r, i in enumerate(chosen)
        ]

    def bisect(self, orders: Sequence[Tensor], guesses: Sequence[int]) -> list[Tensor]:
        """Smallest prefix of each run's node order that meets the target; the whole order if none does.

        Starts at the guess, doubles the length until the target is met, then bisects. This takes the loss to fall with
        the length; where it does not, the prefix found still meets the target.

        Args:
            orders: per run, node numbers from most to least important.
            guesses: per run, the length to try first.

        Returns:
            Per run bool `[n_nodes]`.
        """
        low = [-1] * len(orders)  # this length misses the target (or is below the shortest)
        high = [len(order) + 1 for order in orders]  # this one meets it (or is above the longest)
        tries = [min(guess, len(order)) for guess, order in zip(guesses, orders, strict=True)]
        n_rounds = 0
        while open_runs := [run for run in range(len(orders)) if high[run] - low[run] > 1]:
            keep = torch.stack([self._prefix(orders[run], tries[run]) for run in open_runs])
            for run, loss in zip(open_runs, self.worst_loss(keep, open_runs, attacked=True).tolist(), strict=True):
                if loss <= self.aim.target:
                    high[run] = tries[run]
                else:
                    low[run] = tries[run]
                longest = len(orders[run])
                unbounded = high[run] > longest
                tries[run] = min(2 * max(tries[run], 1), longest) if unbounded else (low[run] + high[run]) // 2
            n_rounds += 1
            self.aim.progress("bisection", n_rounds, max(n_rounds, 12))
        return [self._prefix(order, min(n, len(order))) for order, n in zip(orders, high, strict=True)]

    def clean(self, run: int, keep: Tensor, order: Tensor) -> Tensor:
        """Drops nodes of a circuit that meets the target until none can go; see `circuits.search.cleanup`.

        Args:
            keep: bool `[n_nodes]`, meets the target.
            order: int64, the kept nodes and maybe others, from most to least important.

        Returns:
            The smaller mask.
        """
        some = slice(0, self.aim.config.n_screen)
        few, elsewhere = self.runs[run].val.batch(some), self.transfer[run].batch(some)

        def few_losses(masks: Tensor) -> Tensor:
            losses, calibration = calibrated_loss(self.aim.answers(masks, few), self.runs[run].calibration)
            transferred = task_loss(calibration.apply(self.aim.answers(masks, elsewhere).double()))
            losses = torch.maximum(losses, transferred * self.aim.target / self.allowed[run])
            if self.aim.config.ablation == "complete":
                return losses
            rest = self.rest.losses(masks, [run] * len(masks), [few] * len(masks), calibration)
            return torch.maximum(losses, rest.to(losses.dtype))

        return drop_harmless(
            keep,
            lambda masks: self.worst_loss(masks, [run] * len(masks)),
            few_losses,
            self.aim.target,
            slack=self.aim.config.screen_slack,
            max_rounds=self.aim.config.clean_rounds,
            order=order,
            loosen=lambda mask: self._drop_loose(run, mask),
            report=lambda done, total: self.aim.progress("clean-up", done, total),
        )

    def rises(self, run: int, keep: Tensor) -> Tensor:
        """Rise of the loss on a few validation pairs when one kept node is removed, calibration kept: `[n_nodes]`, 0 elsewhere."""
        few = self.runs[run].val.batch(slice(0, self.aim.config.n_screen))
        nodes = keep.nonzero().flatten()
        answers = self.aim.answers(torch.cat([keep[None], without_each(keep, nodes)]), few)
        base, calibration = calibrated_loss(answers[:1], self.runs[run].calibration)
        rise = torch.zeros(self.aim.space.n_nodes)
        rise[nodes] = (task_loss(calibration.apply(answers[1:].double())) - base).float()
        return rise

    def _drop_loose(self, run: int, keep: Tensor) -> Tensor:
        """`keep` without the nodes on no path from tokens to logits, if the loss allows."""
        path = on_path(self.aim.model, self.aim.space, keep)
        return path if int(path.sum()) < int(keep.sum()) and self._meets(run, path) else keep

    def _prefix(self, order: Tensor, n: int) -> Tensor:
        keep = torch.zeros(self.aim.space.n_nodes, dtype=torch.bool)
        keep[order[:n]] = True
        return keep

    def _meets(self, run: int, keep: Tensor, *, attacked: bool = False) -> bool:
        return float(self.worst_loss(keep[None], [run], attacked=attacked)) <= self.aim.target


def search(aim: Aim, runs: Sequence[MaskRun]) -> list[Pruned]:
    """Learns, bisects and cleans up all runs.

    Args:
        runs: searches of equal numbers of training and of validation pairs; each has its aim on its own validation pairs.

    Returns:
        One result per run, in order.
    """
    looking = Search(aim, runs)
    candidates, ranks = looking.candidates()
    tau, n_kept = looking.better(*learn_masks(aim, runs, candidates, ranks))
    orders = [row.argsort(descending=True)[: int(on.sum())] for row, on in zip(tau, candidates, strict=True)]
    return looking.circuits(orders, n_kept)
