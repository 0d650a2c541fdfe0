"""Causal scrubbing: the loss that is recovered when every node outside the circuit is resampled.

recovered = (L_random - L_scrubbed) / (L_random - L_model)

Scrubbed: every node outside the circuit takes, per prompt and position, its value at a random place of pretraining text
(one place for all nodes of that prompt and position). Random: every node does. All three losses are calibrated alike.
Source: Chan et al. 2022. Deviation: L_random scrubs everything, where Chan et al. shuffle the outputs, so that 0 means
"no better than the current token".
"""

import torch
from torch import Tensor

from circuits.evidence.measurement import Measurement, bootstrap_statistic
from circuits.evidence.subject import Subject, hooked_answers, refit_answers
from circuits.masks import NodeSpace
from circuits.tasks.loss import pair_task_loss
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import HookFn, HookPoint


def scrub_hooks(space: NodeSpace, keep: Tensor, pool: Tensor, places: Tensor) -> dict[str, HookFn]:
    """Hooks that put rows of `pool` in place of the nodes outside the circuit.

    Args:
        keep: bool `[n_nodes]`.
        pool: float `[n_places, n_nodes]`, values to draw from.
        places: int64 `[row, pos]`, which row of the pool each prompt and position takes.
    """
    parts, pools = space.split(keep), space.split(pool)

    def put(x: Tensor, point: HookPoint) -> Tensor:
        drawn = pools[point.name][places[: x.shape[0], : x.shape[1]]]
        return torch.where(parts[point.name].to(x.device), x, drawn.to(x))

    return {name: put for name, part in parts.items() if not bool(part.all())}


def scrubbed(subject: Subject, pool: Tensor, n_draws: int, seed: int, n_boot: int) -> Measurement:
    """Recovered loss, mean over draws; the interval is over pairs.

    Args:
        pool: float `[n_places, n_nodes]` (see `ablations.text_values`).
    """
    generator = torch.Generator().manual_seed(seed)
    nothing = torch.zeros_like(subject.keep)

    def losses(keep: Tensor) -> Tensor:  # [n]
        def answers(pairs: PairSet) -> Tensor:
            shape = (2 * len(pairs), int(pairs.last.max()) + 1)
            places = torch.randint(len(pool), shape, generator=generator)
            return hooked_answers(subject.model, pairs, scrub_hooks(subject.space, keep, pool, places))

        draws = [pair_task_loss(refit_answers(answers, subject.fit, subject.heldout)) for _ in range(n_draws)]
        return torch.stack(draws).mean(0)

    model = pair_task_loss(subject.full_calibration.apply(subject.full.double()))
    rows = torch.stack([losses(nothing), losses(subject.keep), model], dim=-1)

    def recovered(values: Tensor) -> Tensor:  # [..., n, 3]
        random, own, full = values.mean(-2).unbind(-1)
        return (random - own) / (random - full)

    random, own, full = rows.mean(0).tolist()
    if random == full:
        return Measurement(value=None, unit="fraction", n=len(rows), note="scrubbing everything changes nothing")
    low, high = bootstrap_statistic(rows, recovered, seed, n_boot)
    note = f"{n_draws} draws; task loss: all scrubbed {random:.3f}, circuit {own:.3f}, model {full:.3f}"
    return Measurement(value=float(recovered(rows)), unit="fraction", n=len(rows), lo=low, hi=high, note=note)
