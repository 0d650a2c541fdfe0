"""Small models for every layer of tests; one thread, because two test workers share two cores."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from commands import corpus_cache, logging_of_a_fresh_process, python, session_folder, smoke

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
    """A test that runs the main function of a script has Hydra set up logging; no other test may write there."""
    with logging_of_a_fresh_process():
        yield


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
