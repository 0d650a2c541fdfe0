"""Whether CUDA tensors run Triton kernels: imported on first use, so that nothing here needs Triton or a GPU."""

import functools
import importlib
import importlib.util
import logging
from types import ModuleType

log = logging.getLogger(__name__)


@functools.cache
def triton_module(name: str) -> ModuleType | None:
    """`sparsetrain.kernels.<name>`, or None (logged once) where Triton is not installed."""
    if importlib.util.find_spec("triton") is None:
        log.warning("no Triton, the torch forms run on CUDA (same results, slower); install triton")
        return None
    return importlib.import_module(f"sparsetrain.kernels.{name}")
