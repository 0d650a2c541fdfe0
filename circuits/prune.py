"""Learned pruning: the smallest set of nodes that still does the task.

1. Attribution: gradient x (activation - mean) of the logit difference ranks the nodes; only the best candidates get
   masks (it saves steps; where those candidates alone miss the target, more are let in), and start higher.
2. Learning: AdamW on tau, loss = calibrated task loss + k_coef x kept nodes, with k_coef steered so that the task loss
   settles at the target. Many runs (seeds, the nonsense twin) share each pass; losses are summed, gradients clipped and
   steps taken run by run, so that none influences another.
3. Bisection: nodes ranked by tau; the smallest k whose calibrated loss on fixed validation pairs meets the target.
4. Clean-up: nodes that lie on no path from tokens to logits go if the loss allows; then, round by round, all single
   removals are tried at once and the harmless ones dropped, until every node left is needed.
5. Transfer: training pairs have other names than validation pairs. 3 and 4 take no step that leaves a circuit worse
   there than the target, or than all candidates are; else it would be fitted to the names that it is cleaned up on.

Source: Gao et al. 2025, arXiv 2511.13653, section A.5. Steps 1, 4 and 5, the steering and the calibration during learning
are ours.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from circuits.calibrate import fit_calibrations
from circuits.cleanup import drop_harmless, without_each
from circuits.compact import CompactCircuit, compile_circuit
from circuits.edges import degrees, narrowed, on_path
from circuits.masks import HardConcreteMasks, NodeMasks, NodeSpace, ablation_hooks
from circuits.tasks.loss import Calibration, answer_logits, logit_diff, task_loss
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import HookPoint, hooked
from sparsetrain.model import Transformer

N_LENGTH_GROUPS = 4  # ours: groups of similar length into which evaluations split their pairs
N_COMPILED = 16  # ours: compact circuits that are remembered

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """Settings of the search (paper A.5 where not marked `ours`)."""

    n_steps: int = 100  # ours: the paper takes some thousand steps, from all nodes
    n_pairs: int = 8
    """Pairs per step and run; the paper takes 64. ours"""
    lr: float = 2e-2  # ours: larger than the paper's 3e-3, for fewer steps
    weight_decay: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    grad_clip: float = 1.0
    """Largest norm of one run's gradient of tau."""
    k_coef: float = 5e-3
    """Price of a kept node at the start, nats; the paper's 1e-4 is the end of a search over hyperparameters. ours"""
    price: Literal["edges", "nodes"] = "edges"
    """What a kept node is charged for: the edges that it has with the other kept nodes and itself, in units of the mean over the
    kept, or (the paper) itself alone. ours"""
    steer: float = 0.05
    """Each step multiplies a run's k_coef by exp(steer (1 - loss / target)), so that its loss settles at the target. ours"""
    smooth: float = 0.8
    """Share of the past in the loss that steers. ours"""
    refit_every: int = 4
    """Steps between fits of the calibration under which the masks learn. ours"""
    temperature: float = 0.5
    """T of the sigmoid whose derivative stands for that of the step. ours"""
    masks: Literal["straight_through", "hard_concrete"] = "straight_through"
    """How masks learn: as a step with a sigmoid's derivative (the paper), or drawn from a hard-concrete distribution (Louizos et
    al. 2018)."""
    tie_qk: bool = False
    """Learn one mask entry for a query channel and its key channel; the clean-up may still drop one of them. The paper has
    them untied and regrets it."""
    tau_mean: float = 0.1
    tau_std: float = 0.01
    tau_spread: float = 0.15
    """The node of highest attribution starts this much higher than the lowest, so that nodes go one after another. ours"""
    candidate_share: float = 0.1
    """Share of all nodes that attribution lets into the search (more where these miss the target). ours"""
    n_screen: int = 8
    """Pairs on which the clean-up tries every node's removal before it looks at all validation pairs. ours"""
    screen_slack: float = 1.25
    """The clean-up looks closer at nodes whose removal leaves a loss below this multiple of the target. ours"""
    clean_rounds: int | None = None
    """Rounds of clean-up at most; None: until no node can go. A limit is for smoke tests, on models with no small circuit."""
    edge_rounds: int | None = 3
    """Rounds of clean-up of edges at most; null: until no edge can go, which takes minutes for a hundred edges. ours"""
    max_rows: int = 256
    """Prompts per pass in evaluations. ours"""
    compact_nodes: int = 150
    """On a CPU, circuits of at most so many nodes are evaluated one by one in their compact form; 0: none. Above, passes over the
    masked model that many circuits share cost less. ours"""

    def __post_init__(self) -> None:
        for name in ("clean_rounds", "edge_rounds"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"prune.{name}={getattr(self, name)} must be at least 1, or null for no limit")
        for name in ("n_steps", "n_pairs", "refit_every", "n_screen", "max_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"prune.{name}={getattr(self, name)} must be at least 1")
        for name in ("lr", "grad_clip", "temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"prune.{name}={getattr(self, name)} must be above 0")
        if not 0 < self.candidate_share <= 1:
            raise ValueError(f"prune.candidate_share={self.candidate_share} must lie in (0, 1]")
        if not 0 <= self.smooth < 1:
            raise ValueError(f"prune.smooth={self.smooth} must lie in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One search: a seed, pairs to learn from, fixed pairs to bisect and calibrate on.

    Args:
        settle: the loss at which the price of a node settles, as a multiple of the target: below 1 nodes are cheaper while
            masks learn, so that more of them are there to choose from afterwards.
    """

    seed: int
    train: PairSet
    val: PairSet
    settle: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What one search found.

    Args:
        keep: bool `[n_nodes]`.
        loss: calibrated task loss on the validation pairs, nats.
        reached: whether that is at most the target.
        calibration: fitted on the validation pairs.
        n_ranked: nodes that the bisection kept, before the clean-up.
        removal_loss: float `[n_nodes]`, rise of the loss when one kept node is removed (same calibration); 0 elsewhere.
    """

    keep: Tensor
    loss: float
    reached: bool
    calibration: Calibration
    n_ranked: int
    removal_loss: Tensor


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Inside the block no parameter of `model` takes a gradient."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    for p in wanted:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in wanted:
            p.requires_grad_(True)


def _fold(sets: Sequence[PairSet], device: torch.device) -> tuple[Tensor, Tensor]:
    """Tokens `[(run pair side), pos]` without useless columns, and last positions `[(run pair side)]`."""
    n_pos = max(int(pairs.last.max()) + 1 for pairs in sets)
    parts = []
    for pairs in sets:
        tokens = pairs.tokens[..., :n_pos]
        # Padding is behind every prompt's last token, where causal attention cannot see it.
        parts.append(nn.functional.pad(tokens, (0, n_pos - tokens.shape[-1])).flatten(0, 1))
    return torch.cat(parts).to(device), torch.cat([pairs.last.flatten() for pairs in sets]).to(device)


def run_answers(model: Transformer, sets: Sequence[PairSet]) -> Tensor:
    """Answer logits of runs folded into the batch axis: one pass, `[run, n, side, answer]` (all sets of equal size).

    Masks of as many runs must be attached. Runs that share their pairs may be given as the same set many times.
    """
    device = next(model.parameters()).device
    tokens, last = _fold(sets, device)
    logits = model(tokens, last).unflatten(0, (len(sets), -1, 2))
    if all(pairs.answers is sets[0].answers for pairs in sets):
        return answer_logits(logits, sets[0].answers.to(device))
    return torch.stack([answer_logits(x, p.answers.to(device)) for x, p in zip(logits, sets, strict=True)])


@torch.no_grad()
def masked_answers(
    model: Transformer,
    space: NodeSpace,
    keep: Tensor,
    values: Tensor,
    sets: Sequence[PairSet],
    max_rows: int,
) -> Tensor:
    """Answer logits of many node circuits, `[n_runs, n, side, answer]` on the CPU.

    Pairs are run in groups of similar length, so that little of a pass is padding.

    Args:
        keep: bool `[n_runs, n_nodes]`.
        values: `[n_nodes]`, what deleted nodes emit.
        sets: one pair set per run, all of one size.
        max_rows: prompts per pass (at least one run's group is always taken whole).
    """
    device = next(model.parameters()).device
    values = values.to(device)
    by_set: dict[int, list[tuple[PairSet, Tensor]]] = {}
    for pairs in sets:
        if id(pairs) not in by_set:
            orders = pairs.last.amax(1).argsort(stable=True).chunk(N_LENGTH_GROUPS)
            by_set[id(pairs)] = [(pairs.batch(order), order) for order in orders]
    n_groups = len(by_set[id(sets[0])])
    answers = torch.empty(len(keep), len(sets[0]), 2, 2)
    for group in range(n_groups):
        step = max(1, max_rows // (2 * len(by_set[id(sets[0])][group][0])))
        for start in range(0, len(keep), step):
            masks = keep[start : start + step].to(device)
            parts = [by_set[id(pairs)][group] for pairs in sets[start : start + step]]
            with (
                narrowed(model, space, masks.any(0), values) as channels,
                hooked(model, ablation_hooks(space, masks, values, channels)),
            ):
                found = run_answers(model, [pairs for pairs, _ in parts]).cpu()
            for run, (_, order) in enumerate(parts):
                answers[start + run, order] = found[run]
    return answers


def calibrated_loss(answers: Tensor) -> tuple[Tensor, Calibration]:
    """Task loss of each run after a calibration on the same pairs; `answers` is `[n_runs, n, side, answer]`."""
    calibration = fit_calibrations(answers)
    return task_loss(calibration.apply(answers.double())), calibration


def attribution(model: Transformer, space: NodeSpace, means: Tensor, pairs: PairSet, max_rows: int) -> Tensor:
    """First-order effect of deleting each node on the logit difference of the full model.

    score = mean over prompts of | sum over positions of d(right - wrong logit)/da x (a - mean) |. The absolute value is
    taken per prompt, so that a node which pushes the two sides in opposite directions does not cancel out.

    Returns:
        float `[n_nodes]`.
    """
    device = next(model.parameters()).device
    total = torch.zeros(space.n_nodes, device=device)
    step = max(1, max_rows // 2)
    means_at = space.split(means.to(device))
    for start in range(0, len(pairs), step):
        batch = pairs.batch(slice(start, start + step))
        seen: dict[str, Tensor] = {}

        def keep(x: Tensor, point: HookPoint, seen: dict[str, Tensor] = seen) -> Tensor:
            seen[point.name] = x if x.requires_grad else x.requires_grad_()
            return x

        with frozen(model), torch.enable_grad(), hooked(model, dict.fromkeys(space.names, keep)):
            answers = run_answers(model, [batch])[0]
            grads = torch.autograd.grad(logit_diff(answers) * 2 * len(batch), [seen[name] for name in space.names])
        products = {
            name: (grad * (seen[name].detach() - means_at[name])).sum(1).abs().sum(0)
            for name, grad in zip(space.names, grads, strict=True)
        }
        total += space.join(products)
    return (total / (2 * len(pairs))).cpu()


def learn_masks(
    model: Transformer,
    space: NodeSpace,
    means: Tensor,
    runs: Sequence[Run],
    candidates: Tensor,
    ranks: Tensor,
    target: float,
    config: PruneConfig,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """Learns the masks of all runs at once.

    Args:
        means: `[n_nodes]`, what deleted nodes emit.
        candidates: bool `[n_runs, n_nodes]`; the other nodes stay deleted.
        ranks: float `[n_runs, n_nodes]` in [0, 1], 1 for the node of highest attribution.
        target: task loss at which the price of a node settles, nats.

    Returns:
        tau at the end, and tau at the step with fewest nodes at the target (the last step's where there is none): float
        `[n_runs, n_nodes]` each, -1 outside the candidates.
    """
    device = next(model.parameters()).device
    noise = [NodeMasks.init_tau(space.n_nodes, run.seed, mean=config.tau_mean, std=config.tau_std) for run in runs]
    init = (torch.stack(noise) + config.tau_spread * ranks).clamp(-1, 1)
    active = candidates.to(device)
    if config.tie_qk:
        init, active = space.tied(init), space.tied(active.float()) > 0
    start = torch.where(active, init.to(device), -1.0)
    seeds = [run.seed for run in runs]
    masks = (
        NodeMasks(space, start, config.temperature)
        if config.masks == "straight_through"
        else HardConcreteMasks(space, start, seeds)
    )
    optimizer = torch.optim.AdamW(
        [masks.tau], lr=config.lr, betas=(config.beta1, config.beta2), weight_decay=config.weight_decay
    )
    batches = [_batches(run, config.n_pairs) for run in runs]
    values = means.to(device)
    k_coef = torch.full((len(runs), 1), config.k_coef, device=device)
    settle = target * torch.tensor([run.settle for run in runs], device=device)
    smooth = settle.clone()
    best, fewest = masks.tau.detach().clone(), active.sum(1) + 1
    fits = Calibration(scale=torch.ones(len(runs)), shift=torch.zeros(len(runs)))
    count = degrees(model, space)
    with frozen(model), torch.enable_grad(), narrowed(model, space, active.any(0), values) as channels:
        for step in range(config.n_steps):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * (1 - step / config.n_steps)
            with hooked(model, masks.hooks(values, channels)):
                answers = run_answers(model, [next(batch) for batch in batches])
            if step % config.refit_every == 0:
                fits = fit_calibrations(answers)
            losses = task_loss(fits.apply(answers))
            (grad,) = torch.autograd.grad(losses.sum(), [masks.tau])
            smooth = config.smooth * smooth + (1 - config.smooth) * losses.detach()
            n_kept = masks.keep.sum(1)
            better = (smooth <= settle) & (n_kept < fewest)
            best, fewest = torch.where(better[:, None], masks.tau.detach(), best), torch.where(better, n_kept, fewest)
            k_coef = k_coef * (config.steer * (1 - smooth / settle).clamp(-1, 1)).exp()[:, None]
            price = masks.price_gradient()
            if config.price == "edges":
                price = price * _relative(1 + count(masks.keep), masks.keep)
            grad = (grad + k_coef * price) * active
            grad = space.tied(grad) if config.tie_qk else grad
            norm = grad.norm(dim=1, keepdim=True)
            masks.tau.grad = grad * (config.grad_clip / norm.clamp(min=config.grad_clip))
            optimizer.step()
            masks.clamp_()
            if progress is not None:
                progress("masks", step + 1, config.n_steps)
    final = masks.tau.detach()
    best = torch.where((fewest <= active.sum(1))[:, None], best, final)
    return torch.where(active, final, -1.0).cpu(), torch.where(active, best, -1.0).cpu()


def _relative(charge: Tensor, keep: Tensor) -> Tensor:
    """Charges in units of their mean over the kept nodes of each run, `[n_runs, n_nodes]`."""
    return charge / ((charge * keep).sum(1) / keep.sum(1).clamp(min=1)).clamp(min=1)[:, None]


def _batches(run: Run, n_pairs: int) -> Iterator[PairSet]:
    """Endless batches of a run's training pairs, a function of its seed alone."""
    generator = torch.Generator().manual_seed(run.seed)
    n = len(run.train)
    while True:
        order = torch.randperm(n, generator=generator)
        for rows in order.split(min(n_pairs, n)):
            if len(rows) == min(n_pairs, n):
                yield run.train.batch(rows)


class Search:
    """From an order of the nodes to a circuit, for several runs: bisection and clean-up on validation pairs, transfer.

    Args:
        target: calibrated task loss to meet, nats.
    """

    def __init__(
        self,
        model: Transformer,
        space: NodeSpace,
        means: Tensor,
        runs: Sequence[Run],
        target: float,
        config: PruneConfig,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.space, self.means, self.runs = model, space, means, runs
        by_train = {id(run.train): run.train.batch(slice(0, (len(run.val) + 1) // 2)) for run in runs}
        self.transfer = [by_train[id(run.train)] for run in runs]  # seeds share their pairs, and with them a pass
        self.target, self.config, self.progress = target, config, progress
        self.allowed = [target] * len(runs)
        parameters = list(model.parameters())
        self.compiles = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in parameters)
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
        self.allowed = [max(self.target, loss) for loss in losses.tolist()]
        found = []
        for run, ranked in enumerate(self.bisect(orders, guesses)):
            keep, rise = ranked, torch.zeros(self.space.n_nodes)
            if self._meets(run, ranked):
                keep, rise = self.clean(run, ranked, orders[run])
            loss, calibration = self.loss(keep[None], [run])
            found.append(
                Pruned(
                    keep=keep,
                    loss=float(loss[0]),
                    reached=float(loss[0]) <= self.target,
                    calibration=Calibration(scale=calibration.scale[0], shift=calibration.shift[0]),
                    n_ranked=int(ranked.sum()),
                    removal_loss=rise,
                )
            )
        return found

    def training_loss(self, keep: Tensor, which: Sequence[int], calibration: Calibration) -> Tensor:
        """Task losses `[n]` of circuits on training pairs, half as many as there are validation pairs."""
        answers = self.answers(keep, [self.transfer[run] for run in which])
        return task_loss(calibration.apply(answers.double()))

    def worst_loss(self, keep: Tensor, which: Sequence[int]) -> Tensor:
        """`loss`, or the loss on training pairs in units of what is allowed there where that is larger: `[n]`.

        Training pairs are looked at only where the target is met on the validation pairs.
        """
        losses, calibration = self.loss(keep, which)
        good = (losses <= self.target).nonzero().flatten()
        if len(good):
            runs = [which[i] for i in good.tolist()]
            chosen = Calibration(scale=calibration.scale[good], shift=calibration.shift[good])
            allowed = torch.tensor([self.allowed[run] for run in runs])
            elsewhere = self.training_loss(keep[good], runs, chosen) * self.target / allowed
            losses = losses.index_copy(0, good, torch.maximum(losses[good], elsewhere.to(losses.dtype)))
        return losses

    def answers(self, keep: Tensor, sets: Sequence[PairSet]) -> Tensor:
        """Answer logits of circuits `keep [n, n_nodes]`, the i-th on the pairs `sets[i]`; small ones in their compact form."""
        small = (keep.sum(1) <= self.config.compact_nodes) & self.compiles
        answers = torch.empty(len(keep), len(sets[0]), 2, 2)
        for i in small.nonzero().flatten().tolist():
            answers[i] = self._compact(keep[i]).answers(sets[i])
        large = (~small).nonzero().flatten()
        if len(large):
            pairs = [sets[i] for i in large.tolist()]
            answers[large] = masked_answers(
                self.model, self.space, keep[large], self.means, pairs, self.config.max_rows
            )
        return answers

    def _compact(self, keep: Tensor) -> CompactCircuit:
        """The circuit compiled; the last few are remembered, since validation pairs are followed by training pairs."""
        key = keep.numpy().tobytes()
        if key not in self._compiled:
            if len(self._compiled) >= N_COMPILED:
                self._compiled.pop(next(iter(self._compiled)))
            self._compiled[key] = compile_circuit(self.model, keep, self.means)
        return self._compiled[key]

    def loss(self, keep: Tensor, which: Sequence[int]) -> tuple[Tensor, Calibration]:
        """Calibrated losses `[n]` of circuits, the i-th on the validation pairs of run `which[i]`."""
        return calibrated_loss(self.answers(keep, [self.runs[run].val for run in which]))

    def candidates(self) -> tuple[Tensor, Tensor]:
        """Per run the nodes of highest attribution, bool `[n_runs, n_nodes]`, and ranks in [0, 1] (1 for the highest).

        Where the full model meets the target and those nodes by themselves do not, twice as many are let in.
        """
        cfg, space, n_runs = self.config, self.space, len(self.runs)
        scores: dict[int, Tensor] = {}
        for run in self.runs:  # seeds share their pairs, and so their scores
            if id(run.val) not in scores:
                scores[id(run.val)] = attribution(self.model, space, self.means, run.val, cfg.max_rows)
        orders = [scores[id(run.val)].argsort(descending=True) for run in self.runs]
        keep = torch.ones(n_runs, space.n_nodes, dtype=torch.bool)
        full, _ = self.loss(keep, range(n_runs))
        share = cfg.candidate_share
        short = list(range(n_runs))
        while short and share < 1:
            for run in short:
                keep[run] = self._prefix(orders[run], max(1, round(share * space.n_nodes)))
            share *= 2
            solvable = [run for run in short if full[run] <= self.target]
            losses, _ = self.loss(keep[solvable], solvable) if solvable else (torch.zeros(0), None)
            short = [run for run, loss in zip(solvable, losses.tolist(), strict=True) if loss > self.target]
        keep[short] = True
        places = torch.stack([order.argsort() for order in orders])
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
        cost = torch.where(losses <= self.target, sizes, self.space.n_nodes + 1)
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
            for run, loss in zip(open_runs, self.worst_loss(keep, open_runs).tolist(), strict=True):
                if loss <= self.target:
                    high[run] = tries[run]
                else:
                    low[run] = tries[run]
                longest = len(orders[run])
                unbounded = high[run] > longest
                tries[run] = min(2 * max(tries[run], 1), longest) if unbounded else (low[run] + high[run]) // 2
            n_rounds += 1
            self._report("bisection", n_rounds, max(n_rounds, 12))
        return [self._prefix(order, min(n, len(order))) for order, n in zip(orders, high, strict=True)]

    def clean(self, run: int, keep: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
        """Drops nodes of a circuit that meets the target until none can go; see `circuits.cleanup`.

        Args:
            keep: bool `[n_nodes]`, meets the target.
            order: int64, the kept nodes and maybe others, from most to least important.

        Returns:
            The smaller mask, and the rise of the loss when one kept node is removed (on a few pairs), `[n_nodes]`.
        """
        some = slice(0, self.config.n_screen)
        few, elsewhere = self.runs[run].val.batch(some), self.transfer[run].batch(some)

        def answers_on(pairs: PairSet, masks: Tensor) -> Tensor:
            return masked_answers(self.model, self.space, masks, self.means, [pairs] * len(masks), self.config.max_rows)

        def few_losses(masks: Tensor) -> Tensor:
            losses, calibration = calibrated_loss(answers_on(few, masks))
            transferred = task_loss(calibration.apply(answers_on(elsewhere, masks).double()))
            return torch.maximum(losses, transferred * self.target / self.allowed[run])

        keep = drop_harmless(
            keep,
            lambda masks: self.worst_loss(masks, [run] * len(masks)),
            few_losses,
            self.target,
            slack=self.config.screen_slack,
            max_rounds=self.config.clean_rounds,
            order=order,
            loosen=lambda mask: self._drop_loose(run, mask),
            report=lambda done, total: self._report("clean-up", done, total),
        )
        nodes = keep.nonzero().flatten()
        answers = answers_on(few, torch.cat([keep[None], without_each(keep, nodes)]))
        base, calibration = calibrated_loss(answers[0])
        rise = torch.zeros(self.space.n_nodes)
        rise[nodes] = (task_loss(calibration.apply(answers[1:].double())) - base).float()
        return keep, rise

    def _drop_loose(self, run: int, keep: Tensor) -> Tensor:
        """`keep` without the nodes on no path from tokens to logits, if the loss allows."""
        path = on_path(self.model, self.space, keep)
        return path if int(path.sum()) < int(keep.sum()) and self._meets(run, path) else keep

    def _prefix(self, order: Tensor, n: int) -> Tensor:
        keep = torch.zeros(self.space.n_nodes, dtype=torch.bool)
        keep[order[:n]] = True
        return keep

    def _meets(self, run: int, keep: Tensor) -> bool:
        return float(self.worst_loss(keep[None], [run])) <= self.target

    def _report(self, stage: str, done: int, total: int) -> None:
        if self.progress is not None:
            self.progress(stage, done, total)


def search(
    model: Transformer,
    space: NodeSpace,
    means: Tensor,
    runs: Sequence[Run],
    target: float,
    config: PruneConfig,
    progress: Progress | None = None,
) -> list[Pruned]:
    """Learns, bisects and cleans up all runs.

    Args:
        means: `[n_nodes]`, what deleted nodes emit.
        runs: searches of equal numbers of training and of validation pairs.
        target: calibrated task loss to meet on each run's validation pairs, nats.

    Returns:
        One result per run, in order.
    """
    looking = Search(model, space, means, runs, target, config, progress)
    candidates, ranks = looking.candidates()
    final, best = learn_masks(model, space, means, runs, candidates, ranks, target, config, progress)
    tau, n_kept = looking.better(final, best)
    orders = [row.argsort(descending=True)[: int(on.sum())] for row, on in zip(tau, candidates, strict=True)]
    return looking.circuits(orders, n_kept)
