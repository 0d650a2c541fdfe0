"""Texts read one by one: how sparse is each at every hook point, at its last token, over all its tokens, at its first?

1. An `Item` is a row of tokens, with an answer at its end or without. Rows of any lengths are read together: they are sorted by length and
   filled up on the right, which a causal model does not see.
2. Read-outs: `last` is the position that predicts the answer (without one: the last that has a next token); `all` the mean over
   all such positions but the first; `first` the first alone, where many models keep an attention sink.
3. Few measures of every vector, and no sums per unit: reading every hook point costs less than the forward pass itself
   (`scripts/bench_items.py`).
4. What is read is an array per item, so that any statistic over items can be had later.
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Literal, get_args

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsetrain.hooks import HookPoint, hooked, select_points
from sparsetrain.kernels.host import spread, with_same_weights
from sparsetrain.representation.controls import gain_of, quiet_channels, random_rotation
from sparsetrain.representation.evaluate import LOGIT_MEASURES, evaluating, measure_logits
from sparsetrain.representation.measures import HEADLINE, MEASURES, Magnitudes
from sparsetrain.store import write_atomic

ReadOut = Literal["last", "all", "first"]
READ_OUTS: tuple[ReadOut, ...] = get_args(ReadOut)
MEASURED = (HEADLINE, "top5")
"""Read by default: the headline, and what the literature plots."""
Arrays = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, kw_only=True)
class Item:
    """A text as a model reads it.

    Args:
        tokens: at least two, with whatever the model expects in front.
        n_answer: how many of the last are the answer; 0: the text goes on by itself.
    """

    tokens: tuple[int, ...]
    n_answer: int = 0

    def __post_init__(self) -> None:
        if len(self.tokens) < 2 or not 0 <= self.n_answer < len(self.tokens):
            raise ValueError(
                f"an item of {len(self.tokens)} tokens, {self.n_answer} of them the answer: it needs two tokens, and one in front of the answer"
            )

    @property
    def last(self) -> int:
        """Position that is read as `last`."""
        return len(self.tokens) - 1 - max(1, self.n_answer)


@dataclass(frozen=True, kw_only=True)
class Looks:
    """Where and how items are read.

    Args:
        points: hook points, read as they are.
        controlled: hook points of them that are also read in a random basis (`rotated`) and, where `energy` is given, without
            the strongest 1% of channels (`trimmed`); at norms also with the gain (`gain`).
        energy: hook point -> `[width]`, sum of h^2 of each channel over reference texts: says which channels are the strongest.
        measures: names in `MEASURES`; controls have the headline alone.
        rotation_seed: of the random basis.
    """

    points: tuple[str, ...]
    controlled: tuple[str, ...] = ()
    energy: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor], repr=False)
    measures: tuple[str, ...] = MEASURED
    rotation_seed: int = 0


def read_items_of_any_length(
    model: nn.Module,
    items: Sequence[Item],
    looks: Looks,
    *,
    batch_size: int = 8,
) -> Arrays:
    """Reads every item.

    Args:
        model: tokens `[batch, pos]` int64 -> logits `[batch, pos, d_vocab]`; causal, with hook points.
        items: of any lengths.
        looks: where and how.
        batch_size: items of one forward pass; changes the speed alone.

    Returns:
        Name -> `[n_items]` float64 in the items' order. `<hook point>|<control>|<read-out>|<measure>`, and
        for each of `LOGIT_MEASURES` `<name>|last`, `<name>|all`, `answer_loss` (mean over the answer's tokens; NaN without an answer), `correct` (whether each token of the
        answer is the likeliest one; NaN without), `n_tokens`.

    Raises:
        KeyError: a hook point that does not exist.
        ValueError: a hook point of one channel, or a controlled one that is not read.
    """
    found: dict[str, NDArray[np.float64]] = {}
    order = by_length(items)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    readers = _Readers(model, items, looks, len(batches))
    over = spread if len(batches) > 1 else map  # one batch alone has all threads
    for numbers, arrays in zip(batches, over(readers.read, batches), strict=True):
        for name, values in arrays.items():
            found.setdefault(name, np.full(len(items), np.nan))[numbers] = values
    return found


class _Readers:
    """A reader for each thread: on the CPU batches are read side by side, each by a copy of the model with the same weights and hooks of its own."""

    def __init__(self, model: nn.Module, items: Sequence[Item], looks: Looks, n_batches: int) -> None:
        on_cpu = next(model.parameters()).device.type == "cpu"
        n_copies = max(0, min(torch.get_num_threads(), n_batches) - 1) if on_cpu else 0
        self.items = items
        self.free: SimpleQueue[_Reader] = SimpleQueue()
        for one in (model, *(with_same_weights(model) for _ in range(n_copies))):
            self.free.put(_Reader(one, looks))

    def read(self, numbers: Sequence[int]) -> Arrays:
        """The items of these numbers as one batch."""
        reader = self.free.get()
        try:
            with evaluating(reader.model):
                return reader.read([self.items[i] for i in numbers])
        finally:
            self.free.put(reader)


class _Reader:
    """One batch after the other; bases and channels are made once."""

    def __init__(self, model: nn.Module, looks: Looks) -> None:
        points = select_points(model, looks.points)
        if narrow := [name for name, point in points.items() if point.width < 2]:
            raise ValueError(f"hook point {narrow[0]!r} has one channel: there is no sparsity to read")
        if apart := [name for name in looks.controlled if name not in points]:
            raise ValueError(f"hook point {apart[0]!r} is controlled, but not among those that are read")
        self.model, self.looks = model, looks
        self.device = next(model.parameters()).device
        self.bases = {
            w: random_rotation(w, looks.rotation_seed) for w in {points[name].width for name in looks.controlled}
        }
        self.kept = {name: quiet_channels(looks.energy[name]) for name in looks.controlled if name in looks.energy}
        self.gains = {name: gain_of(model, name) for name in looks.controlled if points[name].kind == "norm"}
        named = [
            (name, control, measure)
            for name in looks.points
            for control in self._controls(name)
            for measure in (looks.measures if control == "none" else (HEADLINE,))
        ]
        self.rows = {one: row for row, one in enumerate(named)}

    def read(self, items: Sequence[Item]) -> dict[str, NDArray[np.float64]]:
        lengths = torch.tensor([len(item.tokens) for item in items])
        tokens = torch.zeros(len(items), int(lengths.max()), dtype=torch.int64)
        for row, item in zip(tokens, items, strict=True):
            row[: len(item.tokens)] = torch.tensor(item.tokens)
        last = torch.tensor([item.last for item in items])
        at = _Places(last=last, valid=torch.arange(tokens.shape[1] - 1) <= lengths[:, None] - 2)
        seen, zero = torch.empty(0), torch.empty(0)

        def watch(x: Tensor, point: HookPoint) -> Tensor:
            nonlocal seen, zero
            for control, h in self._variants(point.name, x):
                magnitudes = Magnitudes(h)
                for measure in self.looks.measures if control == "none" else (HEADLINE,):
                    value, row = MEASURES[measure].fn(magnitudes), self.rows[point.name, control, measure]
                    # Room for all is made once: a small result kept between large ones that come and go would keep their memory from being used again.
                    if not len(seen):
                        seen, zero = value.new_empty(len(self.rows), *value.shape), value.new_empty(len(self.rows), *value.shape, dtype=torch.bool)  # fmt: skip
                    seen[row], zero[row] = value, magnitudes.peak == 0
            return x

        with hooked(self.model, dict.fromkeys(self.looks.points, watch)):
            logits = self.model(tokens[:, :-1].to(self.device)).float()
        found: dict[str, Tensor] = {}
        if self.rows:  # all at once: one copy from the device, and few calls
            for read_out, of_all in at.read(seen.cpu(), zero.cpu()).items():
                found |= {
                    f"{point}|{control}|{read_out}|{measure}": of_one
                    for (point, control, measure), of_one in zip(self.rows, of_all, strict=True)
                }
        covariates = rearrange(measure_logits(logits, tokens[:, 1:].to(self.device)).cpu(), "n pos name -> name n pos")
        for read_out, of_all in at.read(covariates).items():
            if read_out != "first":
                found |= {f"{name}|{read_out}": of_one for name, of_one in zip(LOGIT_MEASURES, of_all, strict=True)}
        right = (logits.argmax(-1).cpu() == tokens[:, 1:]).double()
        found |= {"answer_loss": _over_answers(covariates[0], items), "correct": _over_answers(right, items).floor()}
        found["n_tokens"] = lengths
        return {name: values.double().numpy() for name, values in found.items()}

    def _controls(self, point: str) -> Iterator[str]:
        """How a hook point is read."""
        yield "none"
        if point in self.looks.controlled:
            yield "rotated"
            if self.gains.get(point) is not None:
                yield "gain"
            if point in self.kept:
                yield "trimmed"

    def _variants(self, point: str, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The activation as it is, and under the controls."""
        for control in self._controls(point):
            match control:
                case "rotated":
                    yield control, x.float() @ self.bases[x.shape[-1]].to(x.device)
                case "gain":
                    gain = self.gains[point]
                    assert gain is not None
                    yield control, x * gain.to(x)
                case "trimmed":
                    yield control, x[..., self.kept[point].to(x.device)]
                case _:
                    yield control, x


@dataclass(frozen=True, kw_only=True)
class _Places:
    """Which positions of a batch are read."""

    last: Tensor
    """`[n]` int64."""
    valid: Tensor
    """`[n, pos]` bool: positions that have a next token."""

    def read(self, values: Tensor, zero: Tensor | None = None) -> dict[ReadOut, Tensor]:
        """`[..., n, pos] -> [..., n]` for each read-out.

        `zero` says where a vector is zero and has no value: `all` leaves such positions out. A NaN from elsewhere stays visible. A text of one
        position has no `all`.
        """
        counted = self.valid if zero is None else self.valid & ~(zero & values.isnan())
        counted = counted & (torch.arange(values.shape[-1]) > 0)
        return {
            "last": values[..., torch.arange(len(self.last)), self.last],
            "all": torch.where(counted, values, 0.0).double().sum(-1) / counted.sum(-1),
            "first": values[..., 0],
        }


def _over_answers(values: Tensor, items: Sequence[Item]) -> Tensor:
    """Mean over the tokens of each answer of `[n, pos]` values at the positions that predict them; NaN without an answer."""
    means = [
        row[item.last : item.last + item.n_answer].double().mean()
        if item.n_answer
        else torch.tensor(torch.nan).double()
        for row, item in zip(values, items, strict=True)
    ]
    return torch.stack(means)


def channel_energy(model: nn.Module, items: Sequence[Item], points: Sequence[str]) -> dict[str, Tensor]:
    """Sum of h^2 of each channel over items' tokens but the first: hook point -> `[width]` float64, on the CPU."""
    widths = {name: point.width for name, point in select_points(model, points).items()}
    energy = {name: torch.zeros(width, dtype=torch.float64) for name, width in widths.items()}
    device = next(model.parameters()).device
    for item in items:

        def add(x: Tensor, point: HookPoint) -> Tensor:
            energy[point.name] += x[0, 1:].double().square().sum(0).cpu()
            return x

        with evaluating(model), hooked(model, dict.fromkeys(points, add)):
            model(torch.tensor([item.tokens[:-1]], device=device))
    return energy


def read_resumably(
    model: nn.Module,
    items: Sequence[Item],
    looks: Looks,
    folder: Path,
    *,
    batch_size: int = 8,
    on_items: Callable[[int], object] = lambda n: None,
) -> Arrays:
    """`read_items_of_any_length`, kept batch by batch: what an interruption left is not read again.

    Args:
        model: as there.
        items: as there.
        looks: as there.
        batch_size: as there; what was kept under another batch size is read again.
        folder: holds batches until all are read, then `readings.npz` alone. Whoever calls sees to it that it is of this model and these items.
        on_items: called with the number of items of each batch, also of those that were kept.
    """
    read = _Readers(model, items, looks, -(-len(items) // batch_size)).read
    return kept_in_batches(read, by_length(items), folder, batch_size=batch_size, on_items=on_items, over=spread)


def by_length(items: Sequence[Item]) -> list[int]:
    """Numbers of items, the shortest first: what is read together is filled up least."""
    return sorted(range(len(items)), key=lambda i: len(items[i].tokens))


def kept_in_batches(
    read: Callable[[Sequence[int]], Arrays],
    order: Sequence[int],
    folder: Path,
    *,
    batch_size: int,
    on_items: Callable[[int], object] = lambda n: None,
    over: Callable[[Callable[[Sequence[int]], Arrays], Sequence[Sequence[int]]], Iterable[Arrays]] = map,
) -> Arrays:
    """What `read` gives for the items of some numbers, for all of them; what an interruption left is not read again.

    Args:
        read: numbers of items -> name -> `[n_items, ...]`, in the order given.
        order: every number from 0 once, in the order in which they are read.
        folder: holds batches until all are read, then `readings.npz` alone. Whoever calls sees to it that it is of this model and these items.
        batch_size: items of one batch.
        on_items: called with the number of items of each batch, first of those that were kept.
        over: applies `read` to batches, as `map` does.

    Returns:
        Name -> `[n_items, ...]` float64 in the order of the numbers.
    """
    whole = folder / "readings.npz"
    if whole.is_file():
        _remove_parts(folder)  # where the end came in between
        on_items(len(order))
        return _loaded(whole)
    folder.mkdir(parents=True, exist_ok=True)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    parts = [folder / f"batch_{i * batch_size}_{len(numbers)}.npz" for i, numbers in enumerate(batches)]
    missing = [i for i, part in enumerate(parts) if not part.is_file()]
    for i in sorted(set(range(len(batches))) - set(missing)):
        on_items(len(batches[i]))
    for i, arrays in zip(missing, over(read, [batches[i] for i in missing]), strict=True):
        _save(parts[i], arrays)
        on_items(len(batches[i]))
    found: dict[str, NDArray[np.float64]] = {}
    for numbers, part in zip(batches, parts, strict=True):
        for name, values in _loaded(part).items():
            found.setdefault(name, np.full((len(order), *values.shape[1:]), np.nan))[numbers] = values
    _save(whole, found)
    _remove_parts(folder)
    return found


def _remove_parts(folder: Path) -> None:
    for part in folder.glob("batch_*.npz"):
        part.unlink(missing_ok=True)


def _save(path: Path, arrays: Arrays) -> None:
    data = io.BytesIO()
    np.savez(data, **arrays)  # pyright: ignore[reportArgumentType]
    write_atomic(path, data.getvalue())


def _loaded(path: Path) -> dict[str, NDArray[np.float64]]:
    with np.load(path) as file:
        return {name: file[name] for name in file.files}
