"""Streaming sums behind the tracker's numbers; their memory does not depend on the number of tokens.

1. The window (one sequence) is the sampling unit: tokens of one window are not independent, windows are.
2. `WindowMeans` keeps sums in `n_slots` slots, window i in slot i mod n_slots. Up to n_slots windows each slot is one
   window; beyond, slots are batch means, whose spread shrinks as their number of windows grows.
3. `UnitSums` keeps power sums per unit in a few groups of windows, for lifetime measures and their jackknife.
4. States are float64 on whatever device they are put (`stats/exact.py`); what is added follows them there.
5. All states are sums, so torchmetrics adds them over ranks; slots are numbered globally, so any sharding of the
   windows over ranks gives the same result.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from scipy.stats import t as student_t
from torch import Tensor
from torchmetrics import Metric

from sparsetrain.representation.measures import MEASURES, Magnitudes, PowerSums
from sparsetrain.stats.intervals import percentiles


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Means of several series with intervals; arrays `[n_series]` float64, NaN where undefined."""

    value: np.ndarray
    lo: np.ndarray
    hi: np.ndarray
    n: np.ndarray
    """Number of windows behind each value, int64."""


class WindowMeans(Metric):
    """Mean over windows of several series, with a percentile bootstrap interval.

    Args:
        n_series: how many numbers each window has.
        n_slots: slots kept.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, n_series: int, n_slots: int) -> None:
        super().__init__()
        self.n_slots = n_slots
        for name in ("total", "count"):
            self.add_state(name, torch.zeros(n_slots, n_series, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Tensor, defined: Tensor, windows: Tensor) -> None:
        """Adds windows.

        Args:
            values: `[n, n_series]` float; a NaN that is `defined` makes the mean NaN.
            defined: `[n, n_series]` bool; where False the value is left out.
            windows: `[n]` int64, number of each window within its split, the same on whichever rank it is seen.
        """
        values, defined, windows = (x.to(self.total.device) for x in (values, defined, windows))
        slots = windows % self.n_slots
        self.total.index_add_(0, slots, torch.where(defined, values.double(), 0.0))
        self.count.index_add_(0, slots, defined.double())

    def compute(self) -> tuple[Tensor, Tensor]:
        """Sum and number of windows per slot, `[n_slots, n_series]` float64 each, over all ranks."""
        return self.total, self.count

    def _slots(self) -> tuple[np.ndarray, np.ndarray]:
        # torchmetrics turns results of one element into scalars.
        total, count = (state.cpu().reshape(self.n_slots, -1).numpy() for state in self.compute())
        return total, count

    def slot_means(self) -> np.ndarray:
        """Mean per slot, `[n_slots, n_series]`; NaN in a slot without windows."""
        total, count = self._slots()
        with np.errstate(invalid="ignore"):
            return total / count

    def summary(self, n_bootstrap: int, confidence: float, seed: int) -> Summary:
        """Mean over windows, and its percentile bootstrap interval over slots.

        All series share the resamples, so that their intervals are comparable.

        Args:
            n_bootstrap: resamples.
            confidence: for instance 0.95.
            seed: of the resamples.
        """
        total, count = self._slots()
        used = count.max(-1) > 0
        total, count = total[used], count[used]
        n = count.sum(0)
        lo = hi = np.full(n.shape, np.nan)
        with np.errstate(invalid="ignore"):
            value = total.sum(0) / n
            if len(total) > 1:
                even = np.full(len(total), 1 / len(total))
                draws = np.random.default_rng(seed).multinomial(len(total), even, n_bootstrap)
                # torch's threads, not numpy's: those of a second library would go on spinning beside the next split's pass
                of_draws = torch.from_numpy(draws.T).double()
                totals, counts = ((torch.from_numpy(x).T @ of_draws).numpy() for x in (total, count))
                lo, hi = percentiles(totals / counts, (1 - confidence) / 2)
        return Summary(value=value, lo=lo, hi=hi, n=n.astype(np.int64))


class UnitSums(Metric):
    """Power sums of |h| per unit, for lifetime measures and for dead and always-on units.

    Args:
        widths: width of each hook point; their units lie side by side in the state.
        n_groups: groups of windows, for the jackknife.
    """

    full_state_update = False
    powers: Tensor
    n_tokens: Tensor

    def __init__(self, widths: Sequence[int], n_groups: int) -> None:
        super().__init__()
        self.widths = list(widths)
        self.n_groups = n_groups
        # half, one, two, four, n_active
        self.add_state("powers", torch.zeros(n_groups, 5, sum(widths), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("n_tokens", torch.zeros(n_groups, len(widths), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, h: Magnitudes, first: int, windows: Tensor, valid: Tensor | None = None) -> None:
        """Adds activations of neighbouring hook points of one width.

        Args:
            h: magnitudes of `[n_points, n_windows, pos, width]`.
            first: index of the first of these hook points in `widths`.
            windows: `[n_windows]` int64, number of each window within its split.
            valid: `[n_windows, pos]` bool, positions that count; None: all.
        """
        n_points, _, n_pos, width = h.raw.shape
        start = sum(self.widths[:first])
        groups = (windows % self.n_groups).to(self.powers.device)
        squared = h.raw.square()
        powers = (h.roots, h.raw, squared, squared.square(), h.active)
        n_tokens = torch.full((len(groups),), float(n_pos), device=h.raw.device)
        if valid is not None:
            powers = tuple(torch.where(valid[..., None], power, 0.0) for power in powers)
            n_tokens = valid.sum(1)
        per_window = rearrange([power.sum(2) for power in powers], "power point n d -> n power (point d)")
        per_window, n_tokens = (x.to(self.powers.device).double() for x in (per_window, n_tokens))
        self.powers[..., start : start + n_points * width].index_add_(0, groups, per_window)
        tokens = n_tokens[:, None].expand(-1, n_points)
        self.n_tokens[:, first : first + n_points].index_add_(0, groups, tokens)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Power sums `[n_groups, 5, sum of widths]` and tokens `[n_groups, n_points]`, over all ranks."""
        return self.powers, self.n_tokens

    def energy(self) -> list[np.ndarray]:
        """Sum of h^2 of each channel, `[width]` float64 per hook point, over all ranks."""
        powers, _ = self.compute()
        squares = powers.cpu().reshape(self.n_groups, 5, -1)[:, 2].sum(0).numpy()
        return np.split(squares, np.cumsum(self.widths)[:-1])

    def summary(self, measures: Sequence[str], confidence: float) -> list[dict[str, tuple[float, float, float]]]:
        """Lifetime numbers per hook point with a delete-a-group jackknife interval (Student's t).

        Args:
            measures: names in `MEASURES` with `from_sums`.
            confidence: for instance 0.95.

        Returns:
            Per hook point: `lifetime_<measure>` (mean over the units that are ever active), `dead` and `always_on`
            (fractions of the units) -> (value, lo, hi). NaN where no unit is active, or no interval from one group.
        """
        powers, n_tokens = (state.cpu() for state in self.compute())
        # torchmetrics turns results of one element into scalars.
        n_tokens = n_tokens.reshape(self.n_groups, -1)
        used = n_tokens.amax(-1) > 0
        powers, n_tokens = powers[used], n_tokens[used]
        n_groups = len(powers)
        # Row 0: everything. Row 1 + g: everything but group g.
        all_powers = torch.cat([powers.sum(0, keepdim=True), powers.sum(0) - powers])
        all_tokens = torch.cat([n_tokens.sum(0, keepdim=True), n_tokens.sum(0) - n_tokens])
        factor = float(student_t.isf((1 - confidence) / 2, n_groups - 1)) if n_groups > 1 else float("nan")
        half, one, two, four, n_active = all_powers.unbind(1)  # [1 + n_groups, units]
        point_of_unit = torch.arange(len(self.widths)).repeat_interleave(torch.tensor(self.widths))
        tokens = all_tokens[:, point_of_unit]
        # From the counts, which are exact: differences of float64 sums leave dust where nothing is left.
        live = n_active > 0
        unit_sums = PowerSums(n=tokens, half=half, one=one, two=two, four=four, n_active=n_active)

        def per_point(x: Tensor) -> Tensor:
            return x.new_zeros(len(x), len(self.widths)).index_add_(1, point_of_unit, x)

        width, n_live = torch.tensor(self.widths), per_point(live.double())
        numbers = {"dead": 1 - n_live / width, "always_on": per_point((n_active == tokens).double()) / width}
        for name in measures:
            numbers[f"lifetime_{name}"] = per_point(torch.where(live, MEASURES[name].fn(unit_sums), 0.0)) / n_live
        results: list[dict[str, tuple[float, float, float]]] = [{} for _ in self.widths]
        for name, reading in numbers.items():
            value, deleted = reading[0], reading[1:]
            spread = (deleted - deleted.mean(0)).square().sum(0).mul((n_groups - 1) / n_groups).sqrt() * factor
            for point, *number in zip(
                results, value.tolist(), (value - spread).tolist(), (value + spread).tolist(), strict=True
            ):
                point[name] = (number[0], number[1], number[2])
        return results
