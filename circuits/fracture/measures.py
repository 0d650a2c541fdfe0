"""How fractured and how entangled the inside of a network is, as numbers of arrays; which network they come from does not matter.

| of | array | numbers |
|---|---|---|
| units | contributions C `[n_inputs, n_units]` | `effective_units`, `effective_rank`, `gini` |
| feature maps | `[..., height, width]` | `total_variation`, `relative_variation` |
| changes of the output | `[..., n_inputs, n_outputs]` | `symmetry_kept`, `coherence` |
| responses R | `[n_perturbations, n_behaviours]` | `modularity`, `entanglement` |
| attributions, circuits | `[n_contexts, n_units]` | `fracture`, `union_ratio` |
| ablations | joint and single | `interaction`, `redundancy` |

1. No number depends on the order of units, perturbations, inputs, contexts or behaviours.
2. Where there is nothing to measure (no unit, all zero, one behaviour, one context) a number is NaN, or what its text says; input that holds NaN or infinity is
   refused.
3. Networks of different densities are not comparable weight by weight: the sparser one has fewer weights to perturb, smaller circuits and more dead units. Each
   number that this touches has a matched variant: `largest` picks equally many of each network, `gini_alive` and `effective_share` leave dead units out,
   `excess_union` is relative to random circuits of the same sizes.

Source: Kumar et al. 2025 (arXiv 2505.11581) for the idea of fracture and entanglement; K. Xu, thesis, UT Austin 2026, for numbers of contributions and maps. The
numbers of behaviours and contexts are ours.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.special import entr  # pyright: ignore[reportMissingTypeStubs]

from sparsetrain.representation.measures import gini as gini_of_vectors

Floats = NDArray[np.float64]


def numbers(name: str, values: ArrayLike, axes: tuple[str, ...], at_least: float | None = None) -> Floats:
    """An array as float64, once its shape and entries have been checked.

    Args:
        name: of the argument, for messages.
        values: to be checked.
        axes: names of the last axes; `("...",) + axes` allows any number before them.
        at_least: smallest allowed entry.

    Raises:
        ValueError: wrong number of axes, an entry that is NaN or infinite, or one that is too small.
    """
    x = np.asarray(values, dtype=np.float64)
    free = axes[:1] == ("...",)
    n_axes = len(axes) - free
    if x.ndim < n_axes or (not free and x.ndim > n_axes):
        raise ValueError(f"{name} of shape {x.shape}: expected [{', '.join(axes)}]")
    if not np.isfinite(x).all():
        n_bad = int((~np.isfinite(x)).sum())
        raise ValueError(
            f"{name}: {n_bad} of {x.size} entries are NaN or infinite; leave those rows out before measuring"
        )
    if at_least is not None and x.size and x.min() < at_least:
        raise ValueError(f"{name}: smallest entry {x.min():g}, expected at least {at_least:g}; pass magnitudes")
    return x


def _divided(part: ArrayLike, whole: ArrayLike, empty: float = np.nan) -> Floats:
    """part / whole, and `empty` where the whole is 0."""
    a, b = np.broadcast_arrays(np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64))
    return np.divide(a, b, out=np.full(a.shape, empty), where=b != 0)


def _scaled(x: Floats, axis: int | tuple[int, ...] = -1) -> Floats:
    """x / max |x|, so that squares neither overflow nor vanish; zeros stay."""
    return _divided(x, np.abs(x).max(axis, keepdims=True, initial=0.0), 0.0)


def _cosines(vectors: Floats) -> Floats:
    """Between all pairs of rows, `[n, width] -> [n (n - 1) / 2]`; NaN where one of them is zero."""
    x = _scaled(vectors)
    norms = np.linalg.norm(x, axis=-1)
    return np.clip(_divided(x @ x.T, np.outer(norms, norms))[np.triu_indices(len(x), 1)], -1, 1)


def largest(sizes: ArrayLike, k: int) -> Floats:
    """Which entries are among the k largest in magnitude: 1 or 0, and equal entries at the border share what is left for them.

    So that two networks are compared on equally many weights, or two attributions on equally many units. Zeros are never chosen: with fewer than k entries
    that are not zero, all of those are.

    Args:
        sizes: `[..., n]`.
        k: at least 0.

    Returns:
        `[..., n]` in [0, 1], sum min(k, number of nonzeros). Use as `share` of responses, or as a factor of attributions.
    """
    x = np.abs(numbers("sizes", sizes, ("...", "n")))
    if k < 0:
        raise ValueError(f"k: {k}, expected at least 0")
    if k == 0 or x.shape[-1] == 0:
        return np.zeros(x.shape)
    if k >= x.shape[-1]:
        return (x > 0).astype(np.float64)
    border = -np.partition(-x, k - 1, axis=-1)[..., k - 1 : k]
    above, at = x > border, (x == border) & (x > 0)
    return above + _divided((k - above.sum(-1, keepdims=True)) * at, at.sum(-1, keepdims=True), 0.0)


# Units


def contributions(whole: ArrayLike, without: ArrayLike) -> Floats:
    """C_i(x) = |f(x) - f without unit i (x)|_2, in units of the output.

    Args:
        whole: f(x), `[n_inputs, n_outputs]`.
        without: the outputs without each unit, `[n_units, n_inputs, n_outputs]`.

    Returns:
        `[n_inputs, n_units]`, at least 0.

    Source: K. Xu 2026. What "without" means (0, or the unit's mean) is the caller's choice, and must be the same for networks that are compared.
    """
    f = numbers("whole", whole, ("n_inputs", "n_outputs"))
    g = numbers("without", without, ("n_units", "n_inputs", "n_outputs"))
    if g.shape[1:] != f.shape:
        raise ValueError(f"without of shape {g.shape}: expected [n_units, {f.shape[0]}, {f.shape[1]}]")
    return np.linalg.norm(f - g, axis=-1).T


def effective_units(c: ArrayLike) -> Floats:
    """N_eff = (sum C)^2 / sum C^2: how many units would contribute alike, `[..., n_units] -> [...]`.

    Range [1, n_units]; 0 where no unit contributes or there is none. A unit that is split into m equal parts counts m times.

    Source: K. Xu 2026; about 7-10 of evolved image networks, 83-92 of imitations by gradient descent.
    """
    x = _scaled(numbers("contributions", c, ("...", "n_units"), 0))
    return _divided(x.sum(-1) ** 2, (x**2).sum(-1), 0.0)


def effective_share(c: ArrayLike) -> Floats:
    """N_eff / number of units that contribute at all: `effective_units` of networks with differently many living units.

    `[..., n_units] -> [...]`; range (0, 1], 1 where all living units contribute alike; NaN where none does. Source: ours.
    """
    x = numbers("contributions", c, ("...", "n_units"), 0)
    return _divided(effective_units(x), (x > 0).sum(-1))


def effective_rank(matrix: ArrayLike) -> float:
    """exp(H(s / sum s)) of the singular values s: how many directions a matrix uses.

    Args:
        matrix: `[n_rows, n_columns]`, for instance C, or feature maps as `[n_inputs, n_units]`. Weights of different densities: multiply by `largest` first.

    Returns:
        In [1, min(n_rows, n_columns)]; 0 of a matrix that is zero or empty. Unchanged when a column is split into equal parts, or rows or columns are rotated.

    Source: Roy & Vetterli 2007; of contributions: K. Xu 2026.
    """
    x = _scaled(numbers("matrix", matrix, ("n_rows", "n_columns")), (0, 1))
    if not x.any():
        return 0.0
    s = np.linalg.svd(x, compute_uv=False)
    return float(np.exp(entr(s / s.sum()).sum()))


def gini(c: ArrayLike) -> Floats:
    """Gini index sum_ij |C_i - C_j| / (2 n sum C), `[..., n_units] -> [...]`.

    Range [0, 1 - 1/n]: 0 where units contribute alike, 1 - 1/n where one does everything. NaN where none contributes or there is none; 0 of one unit. Unchanged
    when each unit is split into equally many equal parts. Source: K. Xu 2026; the function is that of `sparsetrain.representation.measures`.
    """
    x = numbers("contributions", c, ("...", "n_units"), 0)
    if x.shape[-1] < 2:  # of one unit 0, of none NaN
        return np.zeros(x.shape[:-1]) + _divided(0.0, x.sum(-1))
    return gini_of_vectors(torch.from_numpy(np.ascontiguousarray(x))).numpy()


def gini_alive(c: ArrayLike) -> Floats:
    """`gini` among the units that contribute at all, so that dead units of a sparse network do not count: 1 - (1 - gini) n / n_alive. Source: ours."""
    x = numbers("contributions", c, ("...", "n_units"), 0)
    return 1 - (1 - gini(x)) * _divided(x.shape[-1], (x > 0).sum(-1))


# Feature maps and changes of the output


def total_variation(maps: ArrayLike) -> Floats:
    """How much a map goes up and down: variation along a row, mean over rows, plus variation along a column, mean over columns.

    `[..., height, width] -> [...]`, in units of the map, at least 0; 0 of a constant or of one pixel, b - a of a ramp from a to b along one axis, at any
    resolution. Source: K. Xu 2026 (1.5-1.8 times lower in evolved networks); the scaling by rows and columns, which makes it independent of resolution, is ours.
    """
    x = numbers("maps", maps, ("...", "height", "width"))
    if 0 in x.shape[-2:]:
        raise ValueError(f"maps of shape {x.shape}: expected at least one pixel")
    along_rows = np.abs(np.diff(x, axis=-1)).sum(-1).mean(-1)
    along_columns = np.abs(np.diff(x, axis=-2)).sum(-2).mean(-1)
    return along_rows + along_columns


def relative_variation(maps: ArrayLike) -> Floats:
    """`total_variation` in units of the map's range, max - min, so that a unit's scale does not count; 0 of a constant map.

    Larger weights enlarge every map: without this, networks with larger weights would be called rougher. Source: ours.
    """
    x = numbers("maps", maps, ("...", "height", "width"))
    return _divided(total_variation(x), x.max((-1, -2)) - x.min((-1, -2)), 0.0)


def symmetry_kept(changes: ArrayLike, images: ArrayLike) -> Floats:
    """Which share of a change keeps a symmetry: |mean over g of change(g x)|^2 / |change|^2.

    The mean over a group projects onto what the group leaves alone, so a change splits into a part that keeps the symmetry and one that breaks it. Of the change
    and not of the perturbed output: an output that is symmetric only nearly starts alike.

    Args:
        changes: f'(x) - f(x) for perturbations f', `[..., n_inputs, n_outputs]`.
        images: for each element g of the group, the number of the input g x, `[n_elements, n_inputs]`, the identity among them.

    Returns:
        `[...]` in [0, 1]; NaN where nothing changes. A change at random keeps n_orbits / n_inputs, about 1 / n_elements.

    Raises:
        ValueError: images are not the permutations of a group.

    Source: ours; Kumar et al. 2025 show sweeps in which a symmetry is kept or lost.
    """
    x = numbers("changes", changes, ("...", "n_inputs", "n_outputs"))
    group = np.asarray(images)
    everything = np.arange(x.shape[-2])
    if group.ndim != 2 or group.shape[1] != len(everything) or not (np.sort(group, 1) == everything).all():
        raise ValueError(
            f"images of shape {group.shape}: expected permutations of {len(everything)} inputs, [n_elements, n_inputs]"
        )
    elements = {g.tobytes() for g in group}
    if not all(g[h].tobytes() in elements for g in group for h in group):
        raise ValueError(f"images: the {len(group)} permutations are no group; add their products and the identity")
    x = _scaled(x, (-1, -2))
    kept = np.mean([x[..., g, :] for g in group], axis=0)
    return np.clip(_divided((kept**2).sum((-1, -2)), (x**2).sum((-1, -2))), 0, 1)


def coherence(changes: ArrayLike, of_images: ArrayLike, relabelled: ArrayLike | None = None) -> Floats:
    """Does a perturbation act alike on f(g x) and on g f(x)? Cosine of the change at g x and of the change at x, relabelled.

    Args:
        changes: f'(x) - f(x), `[..., n_inputs, n_outputs]`.
        of_images: f'(g x) - f(g x), same shape, same order of x.
        relabelled: g on outputs: output j of x is output `relabelled[j]` of g x, `[n_outputs]`; None: outputs keep their names.

    Returns:
        `[...]` in [-1, 1]: 1 where a perturbation knows no difference between x and g x, about 0 where it hits one of them. NaN where one does not change.

    Source: ours.
    """
    x = numbers("changes", changes, ("...", "n_inputs", "n_outputs"))
    y = numbers("of_images", of_images, ("...", "n_inputs", "n_outputs"))
    if x.shape != y.shape:
        raise ValueError(f"of_images of shape {y.shape}: expected that of changes, {x.shape}")
    if relabelled is not None:
        names = np.asarray(relabelled)
        if names.shape != x.shape[-1:] or not (np.sort(names) == np.arange(x.shape[-1])).all():
            raise ValueError(f"relabelled: {names.tolist()}, expected each of 0 to {x.shape[-1] - 1} once")
        y = y[..., names]
    x, y = _scaled(x, (-1, -2)), _scaled(y, (-1, -2))
    norms = np.sqrt((x**2).sum((-1, -2)) * (y**2).sum((-1, -2)))
    return np.clip(_divided((x * y).sum((-1, -2)), norms), -1, 1)


# Responses of behaviours to perturbations


def _responses(responses: ArrayLike, share: ArrayLike | None) -> tuple[Floats, Floats]:
    """R, scaled by its largest entry, and how much each row counts."""
    r = _scaled(numbers("responses", responses, ("n_perturbations", "n_behaviours"), 0), (0, 1))
    counts = np.ones(len(r)) if share is None else numbers("share", share, ("n_perturbations",), 0)
    if len(counts) != len(r):
        raise ValueError(f"share: {len(counts)} entries for {len(r)} perturbations")
    return r, counts


def profiles(responses: ArrayLike) -> Floats:
    """R_p / sum_j R_pj: how a perturbation's effect is spread over behaviours, whatever its size; a row of zeros stays. `[n_perturbations, n_behaviours]`."""
    r = numbers("responses", responses, ("n_perturbations", "n_behaviours"), 0)
    return _divided(r, r.sum(1, keepdims=True), 0.0)


def modularity(responses: ArrayLike, share: ArrayLike | None = None) -> float:
    """M = sum_p w_p (1 - H(R_p / sum_j R_pj) / ln J): does a perturbation move one behaviour or all?

    Args:
        responses: R[p, j] = mean |change of the margin| of behaviour j under perturbation p, `[n_perturbations, n_behaviours]`, at least 0.
        share: how much each perturbation counts, `[n_perturbations]`; `largest(weights, k)` compares networks on their k largest weights each. None: alike.

    Returns:
        In [0, 1]: 1 where each perturbation moves one behaviour, 0 where each moves all J alike. w_p is the perturbation's part of all effect. NaN with fewer
        than two behaviours, or where nothing moves.

    Source: ours.
    """
    r, counts = _responses(responses, share)
    if r.shape[1] < 2:
        return float("nan")
    spread = entr(profiles(r)).sum(1) / np.log(r.shape[1])
    w = counts * r.sum(1)
    return float(_divided((w * (1 - spread)).sum(), w.sum()))


def entanglement(responses: ArrayLike, share: ArrayLike | None = None) -> float:
    """Mean cosine between the responses of two behaviours, over pairs: are they moved by the same perturbations?

    Args:
        responses: as of `modularity`; `profiles` of them if large perturbations should count no more than small ones. Magnitudes of the behaviours' gradients,
            `[n_weights, n_behaviours]`, give the same number of infinitely small perturbations of single weights.
        share: as of `modularity`.

    Returns:
        In [0, 1]: 0 where no perturbation moves two behaviours, 1 where all move in fixed proportion. NaN with fewer than two behaviours or where one is never
        moved.

    Source: ours. Not the correlation of columns after removing row means: what is left then sums to zero over behaviours, so that with equal spreads the mean
    correlation is -1 / (J - 1) whatever the network does.
    """
    r, counts = _responses(responses, share)
    return _mean(_cosines((np.sqrt(counts)[:, None] * r).T))


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else float("nan")


# One rule in several contexts


def fracture(attributions: ArrayLike, k: int | None = None) -> float:
    """1 - mean cosine between a rule's attributions in two contexts, over pairs: is it computed by the same units everywhere?

    Args:
        attributions: effect of each unit (or weight) on the rule's margin, signed, `[n_contexts, n_units]`.
        k: only the k largest magnitudes of each context, so that networks of different densities are compared on equally many units. None: all.

    Returns:
        In [0, 2]: 0 unified, 1 where contexts share no unit. NaN with fewer than two contexts, or where no unit matters in one.

    Source: ours.
    """
    a = numbers("attributions", attributions, ("n_contexts", "n_units"))
    return 1 - _mean(_cosines(a if k is None else a * largest(a, k)))


def union_ratio(circuits: ArrayLike) -> float:
    """|union of circuits| / mean |circuit| over the contexts of one rule.

    Args:
        circuits: which nodes belong to the circuit of a context, bool `[n_contexts, n_nodes]`.

    Returns:
        In [1, n_contexts]: 1 unified, n_contexts where circuits share nothing. NaN where all are empty.

    Source: ours.
    """
    inside = numbers("circuits", circuits, ("n_contexts", "n_nodes")) != 0
    return float(_divided(inside.any(0).sum(), _mean(inside.sum(1).astype(np.float64))))


def excess_union(circuits: ArrayLike) -> float:
    """`union_ratio` on the scale of chance: (ratio - 1) / (ratio of random circuits of the same sizes - 1).

    Large circuits overlap by chance, so a dense network looks unified without being it. Random circuits of sizes k_c among n nodes have a union of
    n (1 - prod_c (1 - k_c / n)) nodes on average.

    Returns:
        0 unified, 1 as random circuits, above 1 where contexts avoid each other's nodes. NaN where chance leaves no room: one context, or circuits of all nodes.

    Source: ours.
    """
    inside = numbers("circuits", circuits, ("n_contexts", "n_nodes")) != 0
    n, sizes = inside.shape[1], inside.sum(1).astype(np.float64)
    by_chance = _divided(n * (1 - np.prod(1 - _divided(sizes, n, 0.0))), _mean(sizes))
    room = by_chance - 1
    return float(_divided(union_ratio(inside) - 1, np.where(np.abs(room) < 1e-12, 0.0, room)))


def interaction(joint: ArrayLike, single: ArrayLike) -> Floats:
    """Joint ablation minus the sum of single ones, in units of the effect.

    Args:
        joint: effect of ablating all units of a set together, `[...]`.
        single: of ablating each alone, `[..., n_units]`.

    Returns:
        `[...]`: 0 where effects add up, positive where units stand in for each other, negative where each alone is needed. A set of no unit has no single effect:
        all of the joint one.

    Source: ours.
    """
    together = numbers("joint", joint, ("...",))
    alone = numbers("single", single, ("...", "n_units"))
    if alone.shape[:-1] != together.shape:
        raise ValueError(
            f"single of shape {alone.shape}: expected that of joint, {together.shape}, and one axis of units"
        )
    return together - alone.sum(-1)


def redundancy(joint: ArrayLike, single: ArrayLike) -> Floats:
    """`interaction` in units of the joint effect, 1 - sum of single / joint: how much of it single ablations miss.

    `[...]`: 1 where each unit can be spared as long as the others are there, 0 where effects add up, 1 - n where each of n units alone is needed for all of it.
    NaN where the joint ablation does nothing. Source: ours.
    """
    return _divided(interaction(joint, single), numbers("joint", joint, ("...",)))
