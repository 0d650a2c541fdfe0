"""Perturbations of equal effect: what happens to each behaviour of a model when its weights become theta + s rho u?

1. Copies of the prompts go through the model in one batch, each copy under a perturbation of its own. A changed matrix W + c u adds
   c u x to what W x is, so each copy's share is added to the output of the matrix; the weights themselves are never touched.
   This happens before AbsTopK and inside the model's own forward pass, at the module, because hook points lie behind AbsTopK.
2. rho is found per model and set of perturbations, so that the mean output KL is the same in all models.
3. The sweep goes through s in {-1, -1/2, 1/2, 1}. The response R[p, j] is the mean |change of margin| of behaviour j under perturbation p;
   the margin is the logit of the right answer less the largest other logit.

Source: Kumar, Clune, Lehman, Stanley 2025 (sweeps of weights and directions); equal KL is ours.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import log

import torch
from torch import Tensor, nn

from circuits.fracture.distil import answer_logits, last_tokens
from circuits.fracture.perturbations import Perturbation, matrices
from sparsetrain.data.worlds.rules import Inputs
from sparsetrain.model import Transformer
from sparsetrain.representation.evaluate import evaluating

SCALES = (-1.0, -0.5, 0.5, 1.0)
"""s."""
TOKENS_OF_A_PASS = 2**15
"""Prompts of a pass, in tokens; as many copies as fit, at least one. ours"""
TOLERANCE = 0.01
"""Share by which the mean KL may miss its target. ours"""
MOST_HALVINGS = 40
LARGEST = 2.0**20
"""rho that is not gone beyond."""

Change = tuple[Perturbation, float]
"""A perturbation, and s rho."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """Prompts with right answers, grouped into behaviours."""

    tokens: Tensor
    """`[n, length]` int64, the last one the answer; prompts that are shorter are filled up as `answer_logits` says."""
    behaviour: Tensor
    """`[n]` int64, every number from 0 to `n_behaviours` - 1 at least once."""
    n_behaviours: int

    def __post_init__(self) -> None:
        counts = torch.bincount(self.behaviour, minlength=self.n_behaviours)
        if len(self.behaviour) != len(self.tokens) or len(counts) != self.n_behaviours or not counts.all():
            raise ValueError(
                f"{len(self.tokens)} prompts of {self.n_behaviours} behaviours, {counts.tolist()} of each; every prompt needs a behaviour "
                f"from 0 to {self.n_behaviours - 1} and every behaviour a prompt"
            )

    @classmethod
    def of(cls, inputs: Inputs, n_behaviours: int) -> "Asked":
        """Inputs of a rule language; a behaviour is a rule in a context."""
        return cls(
            tokens=torch.from_numpy(inputs.tokens),
            behaviour=torch.from_numpy(inputs.behaviour),
            n_behaviours=n_behaviours,
        )

    @property
    def prompts(self) -> Tensor:
        """`[n, length - 1]`."""
        return self.tokens[:, :-1]

    @property
    def answers(self) -> Tensor:
        """`[n]`."""
        return self.tokens[:, -1]

    def means(self, values: Tensor) -> Tensor:
        """Mean over the prompts of each behaviour: `[..., n] -> [..., n_behaviours]`."""
        of = torch.nn.functional.one_hot(self.behaviour, self.n_behaviours).to(values)
        return values @ (of / of.sum(0))


@contextmanager
def perturbed(model: nn.Module, changes: Sequence[Change]) -> Iterator[None]:
    """Within the block a batch is so many equal parts, and part i sees the weights of change i: W + c u in the place of W.

    For passes without gradients: what the matrices return is changed in place.

    Raises:
        ValueError: a matrix that the model does not have, or one of another shape.
    """
    linears = matrices(model)
    mine: dict[str, list[tuple[int, Perturbation, float]]] = {}
    for i, (perturbation, size) in enumerate(changes):
        linear = linears.get(perturbation.name)
        shape = None if linear is None else tuple(linear.weight.shape)
        if shape is None or tuple(perturbation.values.shape) != (shape[1:] if perturbation.unit is not None else shape):
            raise ValueError(
                f"a perturbation of {perturbation.name} with {tuple(perturbation.values.shape)} values does not fit the model, which has "
                f"{shape if shape else 'no such matrix'}; draw perturbations for this model"
            )
        mine.setdefault(perturbation.name, []).append((i, perturbation, size))
    handles = [
        linears[name].register_forward_hook(partial(_add_shares_, some, len(changes))) for name, some in mine.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _add_shares_(
    changes: Sequence[tuple[int, Perturbation, float]], n_parts: int, _: nn.Module, given: tuple[Tensor], out: Tensor
) -> Tensor:
    n = len(out) // n_parts
    assert len(out) == n * n_parts, (len(out), n_parts)
    for i, perturbation, size in changes:
        x, y = given[0][i * n : (i + 1) * n], out[i * n : (i + 1) * n]
        share = x @ (size * perturbation.values).T if perturbation.unit is None else x @ (size * perturbation.values)
        (y if perturbation.unit is None else y[..., perturbation.unit]).add_(share)
    return out


def perturbed_logits(model: Transformer, prompts: Tensor, changes: Sequence[Change]) -> Iterator[Tensor]:
    """Logits behind each prompt under each change, in passes of several changes: `[n_changes of the pass, n, d_vocab]`.

    Args:
        model: any, on the device of the prompts; left as it is.
        prompts: `[n, length]` int64.
        changes: in their order.
    """
    n_copies = max(1, TOKENS_OF_A_PASS // prompts.numel())
    for first in range(0, len(changes), n_copies):
        some = changes[first : first + n_copies]
        with evaluating(model), perturbed(model, some):
            logits = answer_logits(model, prompts.repeat(len(some), 1))
        yield logits.unflatten(0, (len(some), len(prompts)))


def margins(logits: Tensor, answers: Tensor) -> Tensor:
    """Logit of the right answer less the largest other one: `[..., n, d_vocab]`, `[n]` -> `[..., n]`."""
    index = answers.expand(logits.shape[:-1])[..., None]
    others = logits.scatter(-1, index, float("-inf")).amax(-1)
    return logits.gather(-1, index)[..., 0] - others


def output_kl(logits: Tensor, changed: Tensor) -> Tensor:
    """KL(softmax(logits) || softmax(changed)) over the last axis, nats, in float64."""
    p, q = (x.double().log_softmax(-1) for x in (logits, changed))
    return (p.exp() * (p - q)).sum(-1)


def unchanged_logits(model: Transformer, prompts: Tensor) -> Tensor:
    """Logits behind each prompt, `[n, d_vocab]`."""
    with evaluating(model):
        return answer_logits(model, prompts)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
    """What perturbations do, prompt by prompt."""

    rho: float
    scales: tuple[float, ...]
    change: Tensor
    """Of the margin, `[n_perturbations, n_scales, n]`."""
    kl: Tensor
    """Output KL, nats, `[n_perturbations, n_scales, n]` float64."""
    asked: Asked

    @property
    def response(self) -> Tensor:
        """R: mean |change of margin| over scales and prompts, `[n_perturbations, n_behaviours]`."""
        return self.asked.means(self.change.abs().mean(1))

    @property
    def mean_kl(self) -> float:
        """Over perturbations, scales and prompts, nats."""
        return float(self.kl.mean())


def sweep(
    model: Transformer,
    asked: Asked,
    perturbations: Sequence[Perturbation],
    rho: float,
    scales: Sequence[float] = SCALES,
) -> Sweep:
    """Every perturbation u at every scale s: weights theta + s rho u, one after the other.

    Args:
        model: left as it is.
        asked: prompts of all behaviours.
        perturbations: drawn for this model.
        rho: their size, see `equal_effect`.
        scales: s.
    """
    before = unchanged_logits(model, asked.prompts)
    at_first = margins(before, asked.answers)
    changes = [(perturbation, s * rho) for perturbation in perturbations for s in scales]
    moved: list[Tensor] = []
    kl: list[Tensor] = []
    for logits in perturbed_logits(model, asked.prompts, changes):
        moved.append(margins(logits, asked.answers) - at_first)
        kl.append(output_kl(before, logits))
    shape = (len(perturbations), len(scales))
    return Sweep(
        rho=rho,
        scales=tuple(scales),
        change=torch.cat(moved).unflatten(0, shape),
        kl=torch.cat(kl).unflatten(0, shape),
        asked=asked,
    )


class OutOfReach(ValueError):
    """No size of some perturbations has the effect that was asked for."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """The size at which perturbations have the effect that was asked for."""

    swept: Sweep
    """There: what they do at that size."""
    n_passes: int
    """Changed models that were run to find it."""

    @property
    def rho(self) -> float:
        return self.swept.rho


def equal_effect(
    model: Transformer,
    asked: Asked,
    perturbations: Sequence[Perturbation],
    target_kl: float,
    scales: Sequence[float] = SCALES,
) -> Size:
    """Finds rho at which the mean output KL over perturbations, scales and prompts is the target, between two that bracket it, in log rho and log KL.

    Args:
        model: left as it is.
        asked: prompts that responses are read on: the effect is matched there, and nothing else is chosen by it.
        perturbations: drawn for this model.
        target_kl: nats; one number for all models that are compared.
        scales: s.

    Raises:
        ValueError: a target that is not above 0.
        OutOfReach: no rho comes within `TOLERANCE` of it.
    """
    if not target_kl > 0:
        raise ValueError(f"target_kl={target_kl} must be above 0 nats")
    tried: list[Sweep] = []

    def effect(rho: float) -> float:
        tried.append(sweep(model, asked, perturbations, rho, scales))
        return tried[-1].mean_kl

    rho, _ = _bisect(effect, target_kl)
    found = next(one for one in tried if one.rho == rho)
    return Size(swept=found, n_passes=len(tried) * len(perturbations) * len(scales))


def _bisect(effect: Callable[[float], float], target: float) -> tuple[float, float]:
    """The size between two that bracket the target: where a power law through both has it, or their geometric mean where that gains little."""
    low = high = 1.0
    kl = effect(1.0)
    below = above = kl
    while above < target:
        low, below = high, above
        high *= 4
        if high > LARGEST:
            raise OutOfReach(
                f"the mean output KL is {above:.3g} nats at rho={low:g} and does not reach target_kl={target:g}; lower the target"
            )
        above = effect(high)
    while below >= target:
        high, above = low, below
        low /= 4
        if low < 1 / LARGEST:
            raise OutOfReach(
                f"the mean output KL is {above:.3g} nats even at rho={high:g}, above target_kl={target:g}; raise the target"
            )
        below = effect(low)
    rho, kl = high, above
    for i in range(MOST_HALVINGS):
        if abs(kl / target - 1) <= TOLERANCE:
            return rho, kl
        share = 0.5
        if i % 3 < 2 and below > 0:
            share = min(max(log(target / below) / log(above / below), 0.05), 0.95)
        rho = low * (high / low) ** share
        kl = effect(rho)
        if kl < target:
            low, below = rho, kl
        else:
            high, above = rho, kl
    raise OutOfReach(
        f"the mean output KL jumps over target_kl={target:g} nats at rho={rho:g} ({kl:.3g} there); ask for more perturbations or another target"
    )


def gradient_cosines(model: Transformer, asked: Asked, *, nonzero: bool = False) -> Tensor:
    """Cosine between the gradients of the behaviours' mean margins, over all weight matrices.

    Args:
        model: left as it is.
        asked: prompts of all behaviours.
        nonzero: over nonzero weights alone.

    Returns:
        `[n_behaviours, n_behaviours]` float64; not a number where a behaviour has no gradient.
    """
    names = [f"{name}.weight" for name in matrices(model)]
    given = {name: p.detach() for name, p in model.named_parameters()}
    free = {name: given[name].clone().requires_grad_() for name in names}
    logits = torch.func.functional_call(
        model, {**given, **free}, (asked.prompts.clamp_min(0),), {"at": last_tokens(asked.prompts)}
    )
    means = asked.means(margins(logits, asked.answers))
    rows = []
    for mean in means:
        gradients = torch.autograd.grad(mean, [*free.values()], retain_graph=True)
        kept = [g[p != 0] if nonzero else g.flatten() for g, p in zip(gradients, free.values(), strict=True)]
        row = torch.cat(kept).double()
        rows.append(row / row.norm())
    unit = torch.stack(rows)
    return unit @ unit.T
