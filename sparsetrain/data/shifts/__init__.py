"""Splits that lie ever farther from the corpus: one file per kind, all of the same shape.

| level | kind     | text                                                              |
|-------|----------|-------------------------------------------------------------------|
| 0     | heldout  | held-out documents of the real sources                            |
| 1     | packages | other Python packages installed on this machine                   |
| 2     | renamed  | the documents of split 0 with identifiers renamed, meaning unchanged |
| 3     | headers  | another language: the C headers of the interpreter                |
| 4     | prose    | English: licences and descriptions of installed packages          |
| 5     | shuffled | the windows of split 0 with their tokens in random order          |
| 6     | uniform  | tokens drawn uniformly from the vocabulary                        |

Every split has the same number of windows of the same length, so that length and position are matched. What a machine
cannot give is left out, with the reason kept in `Shifts.left_out`.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from sparsetrain.data.corpus import Corpus
from sparsetrain.data.shifts import headers, packages, prose, renamed, shuffled, uniform
from sparsetrain.data.shifts.split import (
    SPARE,
    Request,
    ShiftedSplit,
    Unavailable,
    cut_windows,
    encode_documents,
    shift_generator,
)
from sparsetrain.typed import Count

Kind = Literal["heldout", "packages", "renamed", "headers", "prose", "shuffled", "uniform"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""In the order of their levels: the level of a kind is its place."""

_BUILD: dict[Kind, Callable[[Request, int], tuple[NDArray[np.int64], str]]] = {
    "packages": packages.build,
    "renamed": renamed.build,
    "headers": headers.build,
    "prose": prose.build,
    "shuffled": shuffled.build,
    "uniform": uniform.build,
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ShiftsConfig:
    """Which shift splits to build, and how large."""

    kinds: tuple[Kind, ...] = KINDS  # "heldout", level 0, is the reference and must be among them
    n_tokens: Count = 16_384  # tokens of each split, rounded down to whole windows

    def __post_init__(self) -> None:
        if len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"kinds={list(self.kinds)} must be different ones of {', '.join(KINDS)}")
        if "heldout" not in self.kinds:
            raise ValueError(f"kinds={list(self.kinds)} must contain 'heldout', the split the others are compared with")


class Shifts(list[ShiftedSplit]):
    """The splits that could be built, by level.

    Attributes:
        left_out: kind -> why it could not be built.
    """

    def __init__(self, splits: Iterable[ShiftedSplit], left_out: dict[str, str]) -> None:
        super().__init__(splits)
        self.left_out = left_out


def build_shifts(config: ShiftsConfig, corpus: Corpus, n_ctx: int, seed: int) -> Shifts:
    """Builds the shift splits of a corpus; a function of the seed, the corpus and what is installed.

    Args:
        config: which splits, and how large.
        corpus: gives the tokenizer and the held-out documents.
        n_ctx: tokens per window.
        seed: of the choice of documents and windows.

    Returns:
        Splits of `[n_tokens // n_ctx, n_ctx]` ids, and the kinds left out with their reasons (also logged as warnings).

    Raises:
        ValueError: `n_tokens` is less than a window, or the held-out split is too small for level 0.
    """
    n_windows = config.n_tokens // n_ctx
    if n_windows < 1:
        raise ValueError(f"n_tokens={config.n_tokens} of a shift split is less than one window of n_ctx={n_ctx}")
    generator = shift_generator(seed, 0)
    documents, origin = _heldout_documents(corpus, SPARE * n_windows * n_ctx, generator)
    ids = encode_documents(corpus, documents, SPARE * n_windows * n_ctx)
    try:
        base = cut_windows(ids, n_windows, n_ctx, generator)
    except Unavailable as error:
        raise ValueError(
            f"split 'heldout' (level 0) is too small: {error}; enlarge the source or heldout_fraction, lower n_tokens"
        ) from None
    request = Request(
        corpus=corpus, n_windows=n_windows, n_ctx=n_ctx, seed=seed, documents=documents, origin=origin, base=base
    )
    splits = [ShiftedSplit(name="heldout", level=0, tokens=base, description=f"held-out documents of {origin}")]
    left_out: dict[str, str] = {}
    for level, kind in enumerate(KINDS):
        if kind in config.kinds and kind in _BUILD:
            try:
                tokens, description = _BUILD[kind](request, level)
            except Unavailable as error:
                left_out[kind] = str(error)
                log.warning("shift split %r (level %d) is left out: %s", kind, level, error)
            else:
                splits.append(ShiftedSplit(name=kind, level=level, tokens=tokens, description=description))
    return Shifts(splits, left_out)


def _heldout_documents(corpus: Corpus, n_tokens: int, generator: np.random.Generator) -> tuple[tuple[str, ...], str]:
    # Of the real sources where there are any: synthetic text is no measure of how far other text lies.
    described = corpus.manifest.sources
    real = [name for name in corpus.sources if not described[name].synthetic] or list(corpus.sources)
    places = [(name, i) for name in real for i in range(len(corpus.starts(name, "heldout")))]
    chosen: list[str] = []
    n_chars = 0
    for place in generator.permutation(len(places)):
        name, i = places[place]
        chosen.append(corpus.text(name, "heldout", i))
        n_chars += len(chosen[-1])
        # A token has at least one character, and seldom more than eight on average.
        if n_chars >= 8 * n_tokens:
            break
    return tuple(chosen), ", ".join(real)
