"""Rankings of nodes to compare learned pruning with: each with the same bisection, clean-up and calibration after it.

1. A ranking is a score per node. m is the logit difference of a prompt (right minus wrong answer), of the full model.
2. Gradient: `circuits.search.learn.attribution`, |dm/da x (a - mean)|.
3. Integrated gradients: the same gradient averaged while one hook point moves from its mean to what it is.
4. EAP-IG per weight: every edge keeps a share of itself, the rest carries the mean of its source; the gradient with respect
   to that share, averaged from no edges to all of them, is the edge's effect (its da w dm/dz along the path). A node ranks
   as its strongest edge.
5. Random: uniform numbers.
6. `circuit_by_ranking` turns scores into a circuit as the learned search does with its masks.

Source: Sundararajan et al. 2017 (integrated gradients); Hanna et al. 2024 (EAP-IG, there from a corrupted input and
between components).
"""

from collections.abc import Mapping

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from circuits.answers import Ablated, run_answers
from circuits.edges import edge_weights, join_weight, joins
from circuits.masks import NodeSpace
from circuits.search.learn import Aim, MaskRun, frozen
from circuits.search.search import Pruned, Search
from circuits.tasks.loss import logit_diff
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import HookFn, HookPoint, hooked, record
from sparsetrain.model import Transformer


def random_scores(n_nodes: int, seed: int) -> Tensor:
    """A ranking that knows nothing: float `[n_nodes]`, uniform in [0, 1)."""
    return torch.rand(n_nodes, generator=torch.Generator().manual_seed(seed))


def integrated_gradients(ablated: Ablated, pairs: PairSet, n_steps: int) -> Tensor:
    """Mean over prompts of the absolute `integrated_effects`: float `[n_nodes]`, logits."""
    return integrated_effects(ablated, pairs, n_steps).abs().mean(0)


def integrated_effects(ablated: Ablated, pairs: PairSet, n_steps: int) -> Tensor:
    """What each node adds to each prompt's logit difference, hook point by hook point.

    effect_c = sum over positions of (a_c - mean_c) x average over t in (0, 1) of dm/da_c at mean + t (a - mean), where the
    whole hook point moves and everything behind it is computed anew; midpoint rule. Without AbsTopK the effects of one
    hook point sum to m - m with that point at its mean; where AbsTopK changes its survivors on the way m jumps, and a
    gradient does not see the jump.

    Args:
        n_steps: points on the way.

    Returns:
        float32 `[prompt, n_nodes]` in logits, prompts as "(pair side)".

    Raises:
        ValueError: n_steps below 1.
    """
    _check_steps(n_steps)
    model, space = ablated.model, ablated.space
    means_at, parts = space.split(ablated.values), []
    for batch in pairs.batches(ablated.max_rows // 2):
        with torch.no_grad():
            _, full = record(model, batch.prompts()[0].to(ablated.device), space.names)
        effects = {}
        for name in space.names:
            change, total = full[name] - means_at[name], torch.zeros_like(full[name])
            for i in range(n_steps):
                at = (means_at[name] + (i + 0.5) / n_steps * change).requires_grad_()
                with frozen(model), torch.enable_grad(), hooked(model, {name: _put(at)}):
                    m = logit_diff(run_answers(model, [batch])[0]) * 2 * len(batch)
                    total += torch.autograd.grad(m, at)[0]
            effects[name] = (change * total / n_steps).sum(1)
        parts.append(space.join(effects).cpu())
    return torch.cat(parts)


def _check_steps(n_steps: int) -> None:
    if n_steps < 1:
        raise ValueError(f"n_steps={n_steps} must be at least 1")


def _put(value: Tensor) -> HookFn:
    def put(x: Tensor, point: HookPoint) -> Tensor:
        return value

    return put


def edge_effects(ablated: Ablated, pairs: PairSet, n_steps: int) -> dict[str, Tensor]:
    """What each weight adds to the mean logit difference, on the way from no edges to all of them.

    effect_ij = integral over t in (0, 1) of dm/dM_ij, where an edge carries w_ij (M_ij a_j + (1 - M_ij) mean_j) and all
    M = t; midpoint rule. Without AbsTopK the effects of all weights sum to m of the model - m without edges.

    Args:
        n_steps: points on the way.

    Returns:
        Linear's path -> float `[target width, source width]` in logits, 0 where the weight is 0.

    Raises:
        ValueError: n_steps below 1.
    """
    _check_steps(n_steps)
    model, space = ablated.model, ablated.space
    assert isinstance(model, Transformer), "without edges there are no effects of edges"
    all_joins, values = joins(model), space.split(ablated.values)
    weights = {join.linear: join_weight(model, space, join) for join in all_joins}
    total = {linear: torch.zeros_like(weight) for linear, weight in weights.items()}
    for i in range(n_steps):
        share = {linear: torch.full_like(weight, (i + 0.5) / n_steps) for linear, weight in weights.items()}
        for batch in pairs.batches(ablated.max_rows // 2):
            with (
                frozen(model),
                edge_weights(model, space, share, ablated.values) as hooks,
                hooked(model, hooks),
                torch.enable_grad(),
            ):
                gradients = _carried_gradients(model, space, batch)
            for join in all_joins:
                if join.linear in gradients:
                    by_weight, by_constant = gradients[join.linear]
                    change = by_weight - by_constant * values[join.source]
                    total[join.linear] += weights[join.linear] * change * (len(batch) / len(pairs) / n_steps)
    return total


def _carried_gradients(model: Transformer, space: NodeSpace, pairs: PairSet) -> dict[str, tuple[Tensor, Tensor]]:
    """Inside `edge_weights`: d(mean logit difference) by the weights, and by what stands for the means of their sources.

    Returns:
        Linear's path -> (`[target, source]`, the same for one unit of each source's constant), layers that m depends on.
    """
    linears = {join: model.get_submodule(join.linear) for join in joins(model)}
    held = {(join, name): p for join, linear in linears.items() for name, p in linear.named_parameters()}
    parameters = [p.requires_grad_() for p in held.values()]
    slopes = torch.autograd.grad(logit_diff(run_answers(model, [pairs])[0]), parameters, allow_unused=True)
    for p in parameters:
        p.requires_grad_(False)
    found = dict(zip(held, slopes, strict=True))
    gradients: dict[str, tuple[Tensor, Tensor]] = {}
    for join in linears:
        by_weight, by_bias = found[join, "weight"], found.get((join, "bias"))
        if by_weight is None:
            continue
        if join.source.endswith("hook_v"):  # the last column of every head carries its constant
            n_head = model.config.heads
            heads = rearrange(by_weight, "out (head d) -> out head d", head=n_head)
            constant = repeat(heads[..., -1], "out head -> out (head d)", d=model.config.d_head)
            gradients[join.linear] = rearrange(heads[..., :-1], "out head d -> out (head d)"), constant
        elif by_bias is not None:  # none: a layer without biases that got none either, since all its weights are zero
            width = space.widths[space.names.index(join.source)]
            gradients[join.linear] = by_weight[:, :width], by_bias[:, None].expand(-1, width)
    return gradients


def strongest_edges(model: nn.Module, space: NodeSpace, effects: Mapping[str, Tensor]) -> Tensor:
    """Per node the largest absolute effect of an edge that begins or ends there: float `[n_nodes]`, logits."""
    scores = {name: torch.zeros(width) for name, width in zip(space.names, space.widths, strict=True)}
    for join in joins(model):
        effect = effects[join.linear].abs().cpu()
        scores[join.source] = torch.maximum(scores[join.source], effect.amax(0))
        scores[join.target] = torch.maximum(scores[join.target], effect.amax(1))
    return space.join(scores)


@torch.no_grad()
def circuit_by_ranking(aim: Aim, run: MaskRun, scores: Tensor) -> Pruned:
    """The circuit that a ranking gives: shortest prefix that meets the target, clean-up, transfer and calibration.

    Args:
        aim: of its settings, `candidate_share` is the first length tried.
        run: its validation pairs are bisected and calibrated on, as in the learned search; its training pairs are
            those to take scores from, and to transfer to.
        scores: float `[n_nodes]`, larger is more important.

    Raises:
        ValueError: not one score per node.
    """
    n_nodes = aim.space.n_nodes
    if scores.shape != (n_nodes,):
        raise ValueError(f"scores of shape {list(scores.shape)}; the model has {n_nodes} nodes")
    guess = max(1, round(aim.config.candidate_share * n_nodes))
    return Search(aim, [run]).circuits([scores.argsort(descending=True, stable=True)], [guess])[0]
