"""Tensors stored small: of a mostly zero one the nonzero values and the gaps between them, of a table 256 levels a row.

`pack` gives the tensors of a file, `unpack` those of a model. Nonzero values are kept as they are. A table's are rounded: what
`unpack` gives is the model, and whatever is found in it is found in the file too. So pack first, and read what comes back.
"""

import zlib
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

GAPS, VALUES = ":gaps", ":values"
LEVELS, LOW, STEP = ":levels", ":low", ":step"
"""Endings of the tensors that stand for one; no parameter's name has a colon."""
_MAX_DENSITY = 0.5  # above it, gaps cost more than zeros do
_GAP_TYPES = (torch.uint8, torch.uint16, torch.int32)
_N_LEVELS = 256
_SPARSE, _TABLE = (GAPS, VALUES), (LEVELS, LOW, STEP)


def pack(state: Mapping[str, Tensor], tables: Collection[str] = ()) -> dict[str, Tensor]:
    """Tensors to be saved in place of `state`.

    Args:
        state: float32 tensors by name.
        tables: names of matrices whose rows may be rounded to 256 evenly spaced values, from the row's smallest to its largest.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        parts = _levels(tensor) if name in tables else _sparse(tensor)
        packed |= {f"{name}{ending}": part for ending, part in parts.items()}
    return packed


def unpack(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The tensors of a model from those of its file, packed or not; others are handed on as they are.

    Args:
        tensors: by name, as in the file.
        shapes: of the model's tensors.

    Raises:
        ValueError: parts that make no tensor of that shape.
    """
    state = {key: tensor for key, tensor in tensors.items() if ":" not in key}
    parts_of: dict[str, dict[str, Tensor]] = {}
    for key in tensors.keys() - state.keys():
        name, _, ending = key.partition(":")
        parts_of.setdefault(name, {})[f":{ending}"] = tensors[key]
    for name, parts in sorted(parts_of.items()):
        if name not in shapes or parts.keys() not in (set(_SPARSE), set(_TABLE)):
            raise ValueError(f"{name}: its parts {sorted(parts)} stand for no tensor of the model")
        shape = shapes[name]
        state[name] = _from_sparse(name, parts, shape) if GAPS in parts else _from_levels(name, parts, shape)
    return state


def _sparse(tensor: Tensor) -> dict[str, Tensor]:
    """Nonzero values and the gaps between them, or the tensor itself where it is too dense for that."""
    flat = tensor.flatten()
    at = flat.nonzero()[:, 0]
    if len(at) > _MAX_DENSITY * len(flat):
        return {"": tensor}
    gaps = at.diff(prepend=at.new_zeros(1))
    largest = int(gaps.max()) if len(gaps) else 0
    kind = next(kind for kind in _GAP_TYPES if largest <= torch.iinfo(kind).max)
    return {GAPS: gaps.to(kind), VALUES: flat[at]}


def _from_sparse(name: str, parts: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
    gaps, values = parts[GAPS], parts[VALUES]
    if gaps.dtype not in _GAP_TYPES:
        raise ValueError(f"{name}: gaps of type {gaps.dtype}")
    steps = gaps.to(torch.int64)
    if not values.shape == steps.shape == (len(steps),) or bool((steps < 0).any()) or bool((steps[1:] == 0).any()):
        raise ValueError(f"{name}: its gaps are no places in order, one for each value")
    at = steps.cumsum(0)
    if len(at) and int(at[-1]) >= shape.numel():
        raise ValueError(f"{name}: a value lies behind the end of {list(shape)}")
    return values.new_zeros(shape.numel()).index_put_((at,), values).reshape(shape)


def _levels(tensor: Tensor) -> dict[str, Tensor]:
    """The nearest of 256 values a row, deflated: most of a table's entries are pairs that were never seen, hence alike."""
    low, high = tensor.amin(1), tensor.amax(1)
    step = ((high - low) / (_N_LEVELS - 1)).clamp(min=torch.finfo(tensor.dtype).tiny)
    levels = ((tensor - low[:, None]) / step[:, None]).round().clamp(0, _N_LEVELS - 1).to(torch.uint8)
    deflated = zlib.compress(levels.numpy().tobytes(), 9)
    return {LEVELS: torch.frombuffer(bytearray(deflated), dtype=torch.uint8), LOW: low, STEP: step}


def _from_levels(name: str, parts: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
    low, step = parts[LOW], parts[STEP]
    try:  # never more than what fits, whatever the file promises
        inflated = zlib.decompressobj().decompress(parts[LEVELS].cpu().numpy().tobytes(), shape.numel() + 1)
    except zlib.error as error:
        raise ValueError(f"{name}: its levels cannot be inflated ({error})") from None
    if len(shape) != 2 or len(inflated) != shape.numel() or not low.shape == step.shape == shape[:1]:
        raise ValueError(f"{name}: its levels, lows and steps are no table of {list(shape)}")
    levels = torch.frombuffer(bytearray(inflated), dtype=torch.uint8).to(low.device).reshape(shape)
    return low[:, None] + levels * step[:, None]
