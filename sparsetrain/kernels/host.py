"""What a CPU and its main memory need beside kernels: jobs side by side on its cores, freed memory kept."""

import ctypes
import sys
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from copy import deepcopy
from typing import TypeVar

import torch
from torch import nn

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Names of mallopt(3)."""

J = TypeVar("J")
R = TypeVar("R")
M = TypeVar("M", bound=nn.Module)


def spread(work: Callable[[J], R], jobs: Sequence[J]) -> Generator[R]:
    """As `map`, but on as many threads as torch has, with one thread of torch's for each job: whatever numpy and Python do between products then
    keeps one core from working instead of all.

    Args:
        work: lets go of the interpreter lock most of the time, as torch and numpy do; called from several threads at once, which have gradients
            enabled whatever the calling one has.
        jobs: of about equal size where they stand beside each other.

    Returns:
        Results in the order of the jobs, a few of which are begun ahead. Whoever stops early ends what has not begun, and waits for what has.
    """
    n_threads = torch.get_num_threads()
    if n_threads == 1 or not jobs:
        yield from map(work, jobs)
        return
    n_workers = min(n_threads, len(jobs))
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(n_workers, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[Future[R]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(work, job))
            if len(waiting) == 2 * n_workers:  # no more than that is done in vain
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(n_threads)


def with_same_weights(module: M) -> M:
    """A copy whose hooks and modes are its own and whose parameters and buffers are the module's own tensors."""
    tensors = (*module.parameters(), *module.buffers())
    return deepcopy(module, {id(one): one for one in tensors})


def keep_freed_memory() -> None:
    """Lets this process keep the memory of large tensors that are freed, so that the next ones need no new pages.

    glibc gives blocks of 32 MiB and more back to the system at once; a training or a reading of a wide model then spends up to a tenth of its time
    on new, zeroed pages. Does nothing where there is no glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if mallopt is not None:
        for size in (1 << 30, 1 << 25):  # the largest that this glibc takes
            if mallopt(M_MMAP_THRESHOLD, size):
                mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
                return
