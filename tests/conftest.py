"""Small models for every layer of tests; one thread, because two test workers share two cores."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from commands import corpus_cache, python, session_folder, smoke

from sparsetrain.model import ModelConfig, Transformer

__all__ = ["corpus_cache", "python", "session_folder", "smoke"]

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def arithmetic_of_a_fresh_process() -> Iterator[None]:
    """Training in a test's process flushes denormals and may set threads; no other test may notice."""

    def reset() -> None:
        torch.set_flush_denormal(False)
        torch.set_num_threads(1)

    reset()
    yield
    reset()


@pytest.fixture(autouse=True)
def handlers_of_a_fresh_process() -> Iterator[None]:
    """A command run in a test's process has Hydra set up logging, to streams that are closed with the test; no other test may write there."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in before:
            handler.close()
    root.handlers[:] = before
    root.setLevel(level)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Transformer]:
    """Builds a seeded small model with nothing left at zero, so that every part of it matters."""

    def make(seed: int = 0, **overrides: Any) -> Transformer:
        settings: dict[str, Any] = {"d_vocab": 61, "n_layer": 2, "d_model": 32, "d_head": 8, "n_ctx": 24, **overrides}
        torch.manual_seed(seed)
        model = Transformer(ModelConfig(**settings))
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * torch.randn_like(p))
        return model

    return make
