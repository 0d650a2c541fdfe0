"""Whether torch.func or forward-mode differentiation is at work, which plain operators cannot serve alone."""

import torch
from torch import Tensor
from torch.autograd import forward_ad


def is_transformed(*tensors: Tensor) -> bool:
    """True inside torch.func (vmap, grad, jvp, ...) or for tensors with a tangent; not for use in a compiled graph."""
    if torch._C._are_functorch_transforms_active():
        return True
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)
