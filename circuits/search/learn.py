"""Learned pruning, first half: which nodes matter for a task. `circuits.search.search` makes circuits of what is learned here.

1. Attribution: gradient x (activation - mean) of the logit difference ranks the nodes; only the best candidates get
   masks (it saves steps; where those candidates alone miss the target, more are let in), and start higher.
2. Learning: AdamW on tau, loss = calibrated task loss + k_coef x kept nodes, with k_coef steered so that the task loss
   settles at the target. Many runs (seeds, the nonsense twin) share each pass; losses are summed, gradients clipped and
   steps taken run by run, so that none influences another.

Source: Gao et al. 2025, arXiv 2511.13653, section A.5. Step 1, the steering and the calibration during learning are ours.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from circuits.answers import Ablated, pair_answers, run_answers
from circuits.calibrate import calibrated_loss, fit_calibrations, stacked
from circuits.edges import degrees, narrowed
from circuits.masks import HardConcreteMasks, NodeMasks, ablation_hooks
from circuits.partial import ascend, random_shares
from circuits.tasks.loss import Calibration, logit_diff, pair_task_loss, task_loss
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import HookPoint, hooked
from sparsetrain.typed import Above0, Below1, Count, Index, OpenShare, Share

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


def silent(stage: str, done: int, total: int) -> None:
    """Reports progress to nobody."""


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """Settings of the search (paper A.5 where not marked `ours`)."""

    n_steps: Count = 300  # ours: the paper takes some thousand steps, from all nodes
    n_pairs: Count = 8
    """Pairs per step and run; the paper takes 64. ours"""
    lr: Above0 = 2e-2  # ours: larger than the paper's 3e-3, for fewer steps
    weight_decay: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.95
    grad_clip: Above0 = 1.0
    """Largest norm of one run's gradient of tau."""
    k_coef: float = 5e-3
    """Price of a kept node at the start, nats; the paper's 1e-4 is the end of a search over hyperparameters. ours"""
    price: Literal["edges", "nodes"] = "edges"
    """What a kept node is charged for: the edges that it has with the other kept nodes and itself, in units of the mean over the
    kept, or (the paper) itself alone. ours"""
    steer: float = 0.05
    """Each step multiplies a run's k_coef by exp(steer (1 - loss / target)), so that its loss settles at the target. ours"""
    smooth: Below1 = 0.8
    """Share of the past in the loss that steers. ours"""
    refit_every: Count = 4
    """Steps between fits of the calibration under which the masks learn. ours"""
    temperature: Above0 = 0.5
    """T of the sigmoid whose derivative stands for that of the step. ours"""
    masks: Literal["straight_through", "hard_concrete"] = "straight_through"
    """How masks learn: as a step with a sigmoid's derivative (the paper), or drawn from a hard-concrete distribution (Louizos et
    al. 2018)."""
    ablation: Literal["complete", "partial", "adversarial"] = "complete"
    """What is left out while masks learn, and when circuits are held to the target: `complete`, all of it at its mean; `partial`, every
    other step a random part of it stays alive (`circuits.partial`), and the target must be met at fixed draws too; `adversarial`,
    every `adversary_every`-th of those steps an adversary chooses that part, and a circuit's loss may not exceed `worst` times
    the target at the worst part found. ours"""
    adversary_every: Count = 2
    """Of the partial steps, every how many-th is the adversary's."""
    adversary_steps: Count = 4
    """Gradients that the adversary takes in a step of learning; ten times as many when circuits are held to the target."""
    adversary_step: OpenShare = 0.25
    """Change of every share per gradient."""
    n_draws: Count = 3
    """Draws of a partial ablation at which the target must be met, on average."""
    worst: Above0 = 2.0
    """Loss under the worst partial ablation found that a circuit may have, as a multiple of the target."""
    tie_qk: bool = False
    """Learn one mask entry for a query channel and its key channel; the clean-up may still drop one of them. The paper has
    them untied and regrets it."""
    tau_mean: float = 0.1
    tau_std: float = 0.01
    tau_spread: float = 0.15
    """The node of highest attribution starts this much higher than the lowest, so that nodes go one after another. ours"""
    candidate_share: Share = 0.1
    """Share of all nodes that attribution lets into the search (more where these miss the target). ours"""
    n_screen: Count = 8
    """Pairs on which the clean-up tries every node's removal before it looks at all validation pairs. ours"""
    screen_slack: float = 1.25
    """The clean-up looks closer at nodes whose removal leaves a loss below this multiple of the target. ours"""
    clean_rounds: Count | None = None
    """Rounds of clean-up at most; None: until no node can go. A limit is for smoke tests, on models with no small circuit."""
    edge_rounds: Count | None = 3
    """Rounds of clean-up of edges at most; null: until no edge can go, which takes minutes for a hundred edges. ours"""
    max_rows: Count = 256
    """Prompts per pass in evaluations. ours"""
    compact_nodes: Index = 300
    """On a CPU, circuits of at most so many nodes are evaluated one by one in their compact form; 0: none. Above, passes over the
    masked model that many circuits share cost less. ours"""


LIFT = 0.01
"""By how much a circuit of a model that misses the target itself may be worse than the model, nats. ours"""


@dataclass(frozen=True, kw_only=True)
class Aim(Ablated):
    """What searches in a model are to reach, and how.

    Args:
        target: calibrated task loss to meet, nats.
        min_raw_accuracy: share of prompts to answer rightly without calibration.
        config: settings; `max_rows` of the aim is theirs.
        progress: called with (stage, done, total).
    """

    target: float
    config: PruneConfig
    min_raw_accuracy: float = 0.0
    progress: Progress = silent


@dataclass(frozen=True, kw_only=True)
class MaskRun:
    """One search: a seed, pairs to learn from, fixed pairs to bisect and calibrate on.

    Args:
        settle: the loss at which the price of a node settles, as a share of the way from the full model's loss to the target: below 1
            nodes are cheaper while masks learn, so that more of them are there to choose from afterwards.
        calibration: of the answers, kept throughout; None: fitted to the circuit. One search's runs all do the same.
        excluded: bool `[n_nodes]`, nodes that it may not choose; None: none.
        control: a twin or null: it gets as many candidates as the runs beside it that are none, whatever its model can do.
    """

    seed: int
    train: PairSet
    val: PairSet
    settle: float = 1.0
    calibration: Calibration | None = None
    excluded: Tensor | None = None
    control: bool = False


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


def attribution(ablated: Ablated, pairs: PairSet) -> Tensor:
    """First-order effect of deleting each node on the logit difference of the full model.

    score = mean over prompts of | sum over positions of d(right - wrong logit)/da x (a - mean) |. The absolute value is
    taken per prompt, so that a node which pushes the two sides in opposite directions does not cancel out.

    Returns:
        float `[n_nodes]`.
    """
    model, space = ablated.model, ablated.space
    total, means_at = torch.zeros_like(ablated.values), space.split(ablated.values)
    for batch in pairs.batches(ablated.max_rows // 2):
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


def learn_masks(aim: Aim, runs: Sequence[MaskRun], candidates: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Learns the masks of all runs at once.

    Args:
        aim: the price of a node settles at its target.
        candidates: bool `[n_runs, n_nodes]`; the other nodes stay deleted.
        ranks: float `[n_runs, n_nodes]` in [0, 1], 1 for the node of highest attribution.

    Returns:
        tau at the end, and tau at the step with fewest nodes at the target (the last step's where there is none): float
        `[n_runs, n_nodes]` each, -1 outside the candidates.
    """
    model, space, values, config, device = aim.model, aim.space, aim.values, aim.config, aim.device
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
    k_coef = torch.full((len(runs), 1), config.k_coef, device=device)
    settle = settling(aim, runs).to(device)
    smooth = settle.clone()
    best, fewest = masks.tau.detach().clone(), active.sum(1) + 1
    kept = stacked([run.calibration for run in runs])
    fits = kept or Calibration(scale=torch.ones(len(runs)), shift=torch.zeros(len(runs)))
    count = degrees(model, space)
    generators = [torch.Generator().manual_seed(run.seed) for run in runs]
    with ExitStack() as stack:
        stack.enter_context(frozen(model))
        stack.enter_context(torch.enable_grad())
        channels = None  # what is alive outside the candidates is read too
        if config.ablation == "complete":
            channels = stack.enter_context(narrowed(model, space, active.any(0), values))
        for step in range(config.n_steps):
            for group in optimizer.param_groups:
                group["lr"] = config.lr * (1 - step / config.n_steps)
            pairs = [next(batch) for batch in batches]
            alive = alive_part(aim, masks.keep, pairs, fits, step, generators)
            with hooked(model, masks.hooks(values, channels, alive)):
                answers = run_answers(model, pairs)
            if kept is None and step % config.refit_every == 0:
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
            aim.progress("masks", step + 1, config.n_steps)
    final = masks.tau.detach()
    best = torch.where((fewest <= active.sum(1))[:, None], best, final)
    return torch.where(active, final, -1.0).cpu(), torch.where(active, best, -1.0).cpu()


def settling(aim: Aim, runs: Sequence[MaskRun]) -> Tensor:
    """The loss at which each run's price settles, `[n_runs]`: `MaskRun.settle` of the way from the model's own loss to the target.

    A model with a loss near the target leaves little to give away; one that misses it (a twin's) counts as if it had none.
    """
    own: dict[int, float] = {}
    for run in runs:  # seeds share their pairs, and so the model's loss on them
        if id(run.val) not in own:
            answers = pair_answers(aim.model, run.val, max(1, aim.max_rows // 2))[None]
            own[id(run.val)] = float(calibrated_loss(answers, run.calibration)[0])
    bases = [own[id(run.val)] if own[id(run.val)] < aim.target else 0.0 for run in runs]
    return torch.tensor([base + run.settle * (aim.target - base) for run, base in zip(runs, bases, strict=True)])


def alive_part(
    aim: Aim,
    keep: Tensor,
    pairs: Sequence[PairSet],
    fits: Calibration,
    step: int,
    generators: Sequence[torch.Generator],
) -> Tensor | None:
    """What stays alive of the nodes left out at a step of learning, float `[n_runs, n_nodes]` in [0, 1]; None: nothing.

    Args:
        keep: bool `[n_runs, n_nodes]`, the masks as they act.
        pairs: of each run, at this step.
        fits: the calibrations they learn under.
        generators: one per run.
    """
    config = aim.config
    if config.ablation == "complete" or step % 2 == 0:
        return None
    shares = random_shares(aim.space.n_nodes, generators).to(aim.device)
    if config.ablation == "partial" or (step // 2) % config.adversary_every:
        return shares
    return ascend(
        lambda r: partial_losses(aim, keep, pairs, fits, r), shares, config.adversary_steps, config.adversary_step
    )[0]


def partial_answers(ablated: Ablated, keep: Tensor, pairs: Sequence[PairSet], alive: Tensor) -> Tensor:
    """Answers of circuits of which the rest is alive in part: `[n_runs, n, side, answer]`, differentiable in `alive`.

    Args:
        keep: bool `[n_runs, n_nodes]`.
        pairs: of each run.
        alive: float `[n_runs, n_nodes]` in [0, 1].
    """
    with frozen(ablated.model), hooked(ablated.model, ablation_hooks(ablated.space, keep, ablated.values, alive=alive)):
        return run_answers(ablated.model, pairs)


def partial_losses(
    ablated: Ablated, keep: Tensor, pairs: Sequence[PairSet], calibration: Calibration, alive: Tensor
) -> Tensor:
    """Calibrated loss of each pair in such circuits, `[n_runs, n]`, differentiable in `alive`; `calibration` of each run."""
    return pair_task_loss(calibration.apply(partial_answers(ablated, keep, pairs, alive)))


def _relative(charge: Tensor, keep: Tensor) -> Tensor:
    """Charges in units of their mean over the kept nodes of each run, `[n_runs, n_nodes]`."""
    return charge / ((charge * keep).sum(1) / keep.sum(1).clamp(min=1)).clamp(min=1)[:, None]


def _batches(run: MaskRun, n_pairs: int) -> Iterator[PairSet]:
    """Endless batches of a run's training pairs, a function of its seed alone."""
    generator = torch.Generator().manual_seed(run.seed)
    n = len(run.train)
    while True:
        order = torch.randperm(n, generator=generator)
        for rows in order.split(min(n_pairs, n)):
            if len(rows) == min(n_pairs, n):
                yield run.train.batch(rows)
