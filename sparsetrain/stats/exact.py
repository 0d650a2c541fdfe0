"""Where sums of many numbers are kept: in float64, on a device that has it.

Apple's GPUs (MPS) have no float64. What lies there is added up on the CPU, a few numbers per window of text; compensated float32 on the
device would take more memory and code for less precision.
"""

import torch
from torch import Tensor

WITHOUT_FLOAT64 = frozenset({"mps"})
"""Types of device that cannot hold float64."""


def exact_device(device: torch.device) -> torch.device:
    """The device that keeps float64 sums of what lies on `device`: itself, or the CPU."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def exact(x: Tensor) -> Tensor:
    """`x` in float64, on the device that can hold it."""
    return x.to(exact_device(x.device)).double()
