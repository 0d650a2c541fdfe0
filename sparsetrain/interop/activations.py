"""Activations on disk, for dictionary learning (SAEs) and whatever else reads rows of vectors.

    activations/index.json             what was recorded, of which model, on which texts; the shards in order
    activations/shard_00000.safetensors

1. A row is one token; padding is no row. Of each row a shard holds its token's id, its example, its position, and its vector at each hook point.
2. A shard is written whole or not at all, and index.json behind the last one. A folder without it is unfinished: the same call goes on behind the
   shards that are there, another call is refused.
3. In float32 what is read back is what the model computed, bit for bit; in bfloat16 or float16 it is rounded once.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn

from sparsetrain.hooks import record, select_points
from sparsetrain.store import fingerprint, sha256, write_atomic
from sparsetrain.typed import from_dict, from_json, to_dict

FORMAT_VERSION = 1
INDEX, PLAN = "index.json", "plan.json"
TOKENS, EXAMPLE, POSITION = "tokens", "example", "position"
"""Tensors of a shard beside those of hook points, int32, `[n_tokens]`."""

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file."""

    file: str
    n_tokens: int
    first_example: int
    n_examples: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class PointEntry:
    """One hook point."""

    kind: str
    width: int


@dataclass(frozen=True, kw_only=True)
class Index:
    """What index.json says."""

    format_version: int = FORMAT_VERSION
    model: str
    weights_sha256: str
    texts: str
    """Where the tokens come from, in words."""
    dtype: Dtype
    n_ctx: int
    n_examples: int
    n_tokens: int
    points: Mapping[str, PointEntry]
    shards: tuple[Shard, ...]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Of what and on what activations are recorded."""

    model: str
    weights_sha256: str
    texts: str
    tokens: NDArray[np.int64]
    """`[n_examples, n_ctx]`, -1 behind the end of a shorter example."""


def export_activations(
    module: nn.Module,
    source: Source,
    points: Sequence[str],
    folder: Path,
    *,
    dtype: Dtype = "float32",
    batch_size: int = 8,
    shard_examples: int = 64,
    device: str = "cpu",
    on_examples: Callable[[int], object] = lambda n: None,
) -> Index:
    """Runs a model over tokens and writes what passes hook points.

    Args:
        module: tokens `[batch, pos]` -> logits, with hook points.
        source: the tokens, and what is said of them.
        points: names of hook points.
        folder: new, or left unfinished by the same call.
        dtype: of the vectors on disk.
        batch_size: examples of a forward pass.
        shard_examples: examples of a file, a multiple of `batch_size`, so that going on changes no batch.
        device: of the model.
        on_examples: called with the number of examples that are done.

    Raises:
        KeyError: no such hook point; lists near names.
        ValueError: a folder that holds something else; sizes that do not fit.
    """
    chosen = select_points(module, points)
    if not chosen:
        raise ValueError("points=[] names no hook point; give points=[blocks.0.mlp.hook_out,...] or a pattern as 'blocks.*.hook_out'")  # fmt: skip
    if shard_examples % batch_size:
        raise ValueError(f"shard_examples={shard_examples} must be a multiple of batch_size={batch_size}")
    plan = {
        "format_version": FORMAT_VERSION, "weights_sha256": source.weights_sha256, "points": list(chosen), "dtype": dtype, "batch_size": batch_size,
        "shard_examples": shard_examples, "tokens": fingerprint([list(source.tokens.shape), source.tokens.tolist()]),
    }  # fmt: skip
    finished = begin(folder, plan)
    if finished is not None:
        on_examples(len(source.tokens))
        return finished
    shards: list[Shard] = []
    for number, first in enumerate(range(0, len(source.tokens), shard_examples)):
        rows = source.tokens[first : first + shard_examples]
        path = folder / f"shard_{number:05d}.safetensors"
        if not path.is_file():
            write_atomic(path, save(record_rows(module, rows, list(chosen), first, dtype, batch_size, device)))
        shards.append(
            Shard(file=path.name, n_tokens=int((rows >= 0).sum()), first_example=first, n_examples=len(rows), sha256=sha256(path))
        )  # fmt: skip
        on_examples(len(rows))
    with safe_open(folder / shards[0].file, framework="pt") as file:
        widths = {name: file.get_slice(name).get_shape()[1] for name in chosen}
    index = Index(
        model=source.model,
        weights_sha256=source.weights_sha256,
        texts=source.texts,
        dtype=dtype,
        n_ctx=source.tokens.shape[1],
        n_examples=len(source.tokens),
        n_tokens=sum(shard.n_tokens for shard in shards),
        points={name: PointEntry(kind=point.kind, width=widths[name]) for name, point in chosen.items()},
        shards=tuple(shards),
    )
    write_atomic(folder / INDEX, json.dumps(to_dict(index), indent=1) + "\n")
    return index


def begin(folder: Path, plan: Mapping[str, Any]) -> Index | None:
    """Claims a folder for a plan; the index, if the plan has been carried out there already.

    Raises:
        ValueError: the folder holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"dst={folder} is a file; give a folder")
    if not (folder / PLAN).is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"dst={folder} holds something that is no export of activations; give another folder")
        write_atomic(folder / PLAN, json.dumps(plan, indent=1) + "\n")
        return None
    found = from_json(dict[str, Any], folder / PLAN)
    if differing := [key for key, value in plan.items() if found.get(key) != value]:
        raise ValueError(f"dst={folder} holds an export of other activations (it differs in {', '.join(differing)}); give another folder, or remove it")  # fmt: skip
    return read_index(folder) if (folder / INDEX).is_file() else None


def record_rows(
    module: nn.Module,
    tokens: NDArray[np.int64],
    points: Sequence[str],
    first: int,
    dtype: Dtype,
    batch_size: int,
    device: str,
) -> dict[str, Tensor]:
    """Tensors of one shard.

    Args:
        tokens: `[n_examples, n_ctx]`, -1 behind the end.
        first: number of the first example.
    """
    kept = torch.from_numpy(tokens >= 0)
    found: dict[str, list[Tensor]] = {name: [] for name in points}
    for start in range(0, len(tokens), batch_size):
        batch, real = tokens[start : start + batch_size], kept[start : start + batch_size]
        with torch.no_grad():
            _, seen = record(module, torch.from_numpy(batch.clip(min=0)).to(device), points)
        for name in points:
            found[name].append(seen[name][real.to(device)].to("cpu", getattr(torch, dtype)))
    example, position = kept.nonzero(as_tuple=True)
    numbers = {TOKENS: torch.from_numpy(tokens)[kept], EXAMPLE: example + first, POSITION: position}
    return {**{name: x.to(torch.int32) for name, x in numbers.items()}, **{name: torch.cat(x) for name, x in found.items()}}  # fmt: skip


def read_index(folder: str | Path) -> Index:
    """index.json of a folder.

    Raises:
        ValueError: there is none, or it is of another version.
    """
    path = Path(folder) / INDEX
    if not path.is_file():
        started = (Path(folder) / PLAN).is_file()
        raise ValueError(f"{folder} holds no {INDEX}: {'the export is unfinished, the same command goes on with it' if started else 'it is no export of activations'}")  # fmt: skip
    content = from_json(dict[str, Any], path)
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"{path} has format_version {content.get('format_version')}; this version reads {FORMAT_VERSION}")  # fmt: skip
    return from_dict(Index, content)


class Activations:
    """Reads an export without loading more than it is asked for.

    Args:
        folder: with index.json.

    Raises:
        ValueError: no export, or a file that is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.index = read_index(folder)
        if missing := [shard.file for shard in self.index.shards if not (self.folder / shard.file).is_file()]:
            raise ValueError(f"{folder} lacks {', '.join(missing[:3])}, which {INDEX} names")
        self.starts = np.cumsum([0, *(shard.n_tokens for shard in self.index.shards)])

    def __len__(self) -> int:
        """Tokens."""
        return self.index.n_tokens

    def damaged(self) -> list[str]:
        """Files whose content is not what was written; reads everything."""
        return [shard.file for shard in self.index.shards if sha256(self.folder / shard.file) != shard.sha256]

    def check(self, names: Iterable[str]) -> list[str]:
        """The names, if all of them are there.

        Raises:
            ValueError: one that was not exported; lists those that were.
        """
        names, known = list(names), [TOKENS, EXAMPLE, POSITION, *self.index.points]
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"{unknown[0]!r} is not in {self.folder}; there are {', '.join(known)}")
        return names

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """Rows start to stop of a hook point `[n, width]`, or of `tokens`, `example`, `position` `[n]`; as in a slice, below 0 from the end.

        Raises:
            ValueError: a name that was not exported.
        """
        self.check([name])
        start, stop, _ = slice(start, stop).indices(len(self))
        parts = []
        for shard, first in zip(self.index.shards, self.starts[:-1], strict=True):
            low, high = max(start - first, 0), min(stop - first, shard.n_tokens)
            if low < high:
                with safe_open(self.folder / shard.file, framework="pt") as file:
                    parts.append(file.get_slice(name)[int(low) : int(high)])
        if parts or not self.index.shards:
            return torch.cat(parts) if parts else torch.empty(0)
        with safe_open(self.folder / self.index.shards[0].file, framework="pt") as file:
            return file.get_slice(name)[0:1][:0]

    def batches(self, *names: str, batch_size: int, seed: int | None = 0) -> Iterator[tuple[Tensor, ...]]:
        """Every row once, in batches: in random order over the rows of two shards at a time, or (`seed=None`) as they stand.

        Args:
            names: hook points, or `tokens`, `example`, `position`.
            batch_size: rows; the last batch may be smaller.
            seed: of the order of shards and of rows.

        Yields:
            One tensor for each name.

        Raises:
            ValueError: a name that was not exported.
        """
        wanted = self.check(names)
        rng = None if seed is None else np.random.default_rng(seed)
        order = np.arange(len(self.index.shards)) if rng is None else rng.permutation(len(self.index.shards))
        held = [torch.empty(0)] * len(wanted)
        for number, at in enumerate(order):
            with ExitStack() as files:
                file = files.enter_context(safe_open(self.folder / self.index.shards[at].file, framework="pt"))
                loaded = [file.get_tensor(name) for name in wanted]
            held = [new if not len(old) else torch.cat([old, new]) for old, new in zip(held, loaded, strict=True)]
            n = len(held[0])
            if rng is not None:
                shuffled = torch.from_numpy(rng.permutation(n))
                held = [x[shuffled] for x in held]
            # Half of what is held waits for the next shard, so that rows of different shards meet.
            stop = n if number == len(order) - 1 else (n // 2 if rng is not None else n) // batch_size * batch_size
            for start in range(0, stop, batch_size):
                yield tuple(x[start : start + batch_size] for x in held)
            held = [x[stop:] for x in held]
