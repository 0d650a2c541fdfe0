"""Tensors stored small: of a mostly zero one the nonzero values and the gaps between them, a table in half precision.

`pack` gives the tensors of a file, `unpack` those of a model. What a value is does not change, but for tensors that are asked for
in half precision: round those first (`rounded`), and the file says exactly what the model says.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

GAPS, VALUES = ":gaps", ":values"
"""Endings of the two tensors that stand for one; no parameter's name has a colon."""
_MAX_DENSITY = 0.5  # above it, gaps cost more than zeros do
_GAP_TYPES = (torch.uint8, torch.uint16, torch.int32)


def rounded(tensor: Tensor) -> Tensor:
    """The nearest values that half precision has, in the tensor's own type."""
    return tensor.to(torch.float16).to(tensor.dtype)


def pack(state: Mapping[str, Tensor], half: Collection[str] = ()) -> dict[str, Tensor]:
    """Tensors to be saved in place of `state`.

    Args:
        state: float32 tensors by name.
        half: names of tensors that hold half precision values (see `rounded`).

    Raises:
        ValueError: a tensor of `half` that half precision would change.
    """
    packed: dict[str, Tensor] = {}
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        if name in half:
            if not torch.equal(rounded(tensor), tensor):
                raise ValueError(f"{name} has values that half precision has not; round it first")
            packed[name] = tensor.to(torch.float16)
            continue
        flat = tensor.flatten()
        at = flat.nonzero()[:, 0]
        if len(at) > _MAX_DENSITY * len(flat):
            packed[name] = tensor
            continue
        gaps = at.diff(prepend=at.new_zeros(1))
        largest = int(gaps.max()) if len(gaps) else 0
        kind = next(kind for kind in _GAP_TYPES if largest <= torch.iinfo(kind).max)
        packed[f"{name}{GAPS}"], packed[f"{name}{VALUES}"] = gaps.to(kind), flat[at]
    return packed


def unpack(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The tensors of a model from those of its file, packed or not; others are handed on as they are.

    Args:
        tensors: by name, as in the file.
        shapes: of the model's tensors.

    Raises:
        ValueError: gaps and values that make no tensor of that shape.
    """
    state = {name: tensor.float() if tensor.dtype == torch.float16 else tensor for name, tensor in tensors.items()}
    for name in sorted({key.rpartition(":")[0] for key in tensors if key.endswith((GAPS, VALUES))}):
        gaps, values = state.pop(f"{name}{GAPS}", None), state.pop(f"{name}{VALUES}", None)
        shape = shapes.get(name)
        if gaps is None or values is None or shape is None or gaps.dtype not in _GAP_TYPES:
            raise ValueError(f"{name}: it takes gaps, values and a tensor of that name in the model")
        steps = gaps.to(torch.int64)
        if not values.shape == steps.shape == (len(steps),) or bool((steps < 0).any()) or bool((steps[1:] == 0).any()):
            raise ValueError(f"{name}: its gaps are no places in order, one for each value")
        at = steps.cumsum(0)
        if len(at) and int(at[-1]) >= shape.numel():
            raise ValueError(f"{name}: a value lies behind the end of {list(shape)}")
        state[name] = values.new_zeros(shape.numel()).index_put_((at,), values).reshape(shape)
    return state
