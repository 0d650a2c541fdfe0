"""What a model says of examples: how sparse it is on each, how well it predicts its answer, and which ones resemble each other.

1. An example is read alone, in the wording of the prompts, with its answer behind it: sparsity is read at the token that predicts the answer,
   or over the question, before any of the answer is seen.
2. What two questions have in common is the cosine of their mean activations at a hook point, the mean of all of them taken off; or of the
   embeddings of a sentence encoder.
3. Scores are kept under the hash of the model's weights and of what was read, embeddings under that of the encoder's: a second call reads
   nothing, an interrupted one goes on.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from sparsetrain.adapters import LanguageModel
from sparsetrain.adapters.sentences import SENTENCE_PREFIX, SentenceEncoder
from sparsetrain.folder import own
from sparsetrain.hooks import HookPoint, hooked, select_points
from sparsetrain.representation.items import (
    Arrays,
    Item,
    Looks,
    ReadOut,
    by_length,
    kept_in_batches,
    read_items_of_any_length,
)
from sparsetrain.representation.measures import HEADLINE, MEASURES
from sparsetrain.store import fingerprint
from sparsetrain.typed import plain

Floats = NDArray[np.float64]
FINAL = "final_norm.hook_norm"
OF_MODEL = "model"
SIZE = 16
"""Examples of one file of scores."""


@dataclass(frozen=True, kw_only=True)
class ScoreConfig:
    """Where and how examples are scored."""

    measure: str = HEADLINE
    """Of sparsity; a name in docs/measure_sparsity.md."""
    hook_point: str = FINAL
    """Where sparsity is read, by default what the unembedding reads, before its gain. ours"""
    read_out: ReadOut = "last"
    """last: the token that predicts the answer (Jin et al. 2026); all: mean over the question's tokens but the first; first."""
    similarity: str = OF_MODEL
    """model: its own activations at hook_point; hf:<folder or hub name>: a sentence encoder, tokens averaged."""

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise ValueError(f"measure={self.measure!r} is no measure; there are {', '.join(MEASURES)}")
        if self.similarity != OF_MODEL and not self.similarity.startswith(SENTENCE_PREFIX):
            raise ValueError(
                f"similarity={self.similarity!r} must be {OF_MODEL} or {SENTENCE_PREFIX}<folder or hub name> of a sentence encoder"
            )


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What was read of examples; each `[n]`, `[n, width]`."""

    sparsity: Floats
    """In the direction of the measure turned so that higher is sparser."""
    measured: Floats
    """The measure as it is."""
    loss: Floats
    """Mean over the answer's tokens, nats/token."""
    entropy: Floats
    """Of the prediction of the answer's first token, nats."""
    logit_norm: Floats
    correct: Floats
    """Whether every token of the answer is the likeliest one, 0 or 1."""
    length: Floats
    """Tokens, the answer's too."""
    vectors: Floats
    """Of the question, the mean over examples taken off, of length 1."""

    def __getitem__(self, rows: NDArray[np.int64]) -> "Scores":
        """Some of the examples."""
        return Scores(**{name: values[rows] for name, values in vars(self).items()})

    def similarity(self, asked: "Scores") -> Floats:
        """Cosine of each of those that are asked with each of these, `[n_asked, n]`."""
        return asked.vectors @ self.vectors.T


def score(
    model: LanguageModel,
    items: Sequence[Item],
    config: ScoreConfig,
    folder: Path,
    *,
    texts: Sequence[str] = (),
    batch_size: int = SIZE,
    trust_remote_code: bool = False,
    on_items: Callable[[int], object] = lambda n: None,
) -> Scores:
    """Reads examples, or finds what was read of them.

    Args:
        model: that reads.
        items: examples with their answers, as prompts without demonstrations.
        config: what is read.
        folder: of all scores; these get one of their own below it, named by their content.
        texts: questions, one an item, for a sentence encoder; not looked at without one.
        batch_size: examples of one forward pass; changes the speed alone.
        trust_remote_code: whether code that comes with a sentence encoder may run.
        on_items: called with the number of examples of each batch.

    Raises:
        KeyError: a hook point that the model does not have.
        ValueError: an encoder that cannot be loaded; a measure without a value.
    """
    select_points(model.module, (config.hook_point,))
    vectors = None
    if config.similarity != OF_MODEL:  # first: it may not be there
        vectors = sentence_vectors(
            config.similarity.removeprefix(SENTENCE_PREFIX),
            texts,
            folder,
            batch_size=batch_size,
            trust_remote_code=trust_remote_code,
        )
    looks = Looks(points=(config.hook_point,), measures=(config.measure,))
    key = fingerprint(
        {
            "weights": model.weights_sha256,
            "items": [plain(item) for item in items],
            "point": config.hook_point,
            "measure": config.measure,
        }
    )

    def read(numbers: Sequence[int]) -> Arrays:
        some = [items[i] for i in numbers]
        answered = read_items_of_any_length(model.module, some, Looks(points=()), batch_size=batch_size)
        alone = read_items_of_any_length(
            model.module, [question_of(item) for item in some], looks, batch_size=batch_size
        )
        sparsity = {name: values for name, values in alone.items() if name.startswith(f"{config.hook_point}|")}
        return {**answered, **sparsity, "vectors": question_vectors(model, some, config.hook_point)}

    with own(folder / key[:32], wait=True):
        arrays = kept_in_batches(read, by_length(items), folder / key[:32], batch_size=batch_size, on_items=on_items)
    measured = arrays[f"{config.hook_point}|none|{config.read_out}|{config.measure}"]
    if not np.isfinite(measured).all():
        raise ValueError(
            f"{config.measure} at {config.hook_point} has no value in {int((~np.isfinite(measured)).sum())} of {len(items)} examples; "
            f"give another hook_point or measure"
        )
    return Scores(
        sparsity=measured if MEASURES[config.measure].direction == "higher" else -measured,
        measured=measured,
        loss=arrays["answer_loss"],
        entropy=arrays["entropy|last"],
        logit_norm=arrays["logit_norm|last"],
        correct=arrays["correct"],
        length=arrays["n_tokens"],
        vectors=directions(arrays["vectors"] if vectors is None else vectors),
    )


def question_of(item: Item) -> Item:
    """An item that ends where its answer begins: with more of the answer behind it, the mean over its tokens would show the answer."""
    return Item(tokens=item.tokens[: item.last + 2], n_answer=1)


def sentence_vectors(
    name: str, texts: Sequence[str], folder: Path, *, batch_size: int = SIZE, trust_remote_code: bool = False
) -> Floats:
    """Embeddings of texts by a sentence encoder, read or found, `[n_texts, width]`.

    Args:
        name: folder or hub name of the encoder.
        texts: cut to what it reads.
        folder: of all scores; these get one of their own below it.
        batch_size: texts that are read together.
        trust_remote_code: whether code that comes with the encoder may run.

    Raises:
        ValueError: an encoder that cannot be loaded.
    """
    encoder = SentenceEncoder.load(name, trust_remote_code=trust_remote_code)
    kept = folder / fingerprint({"encoder": encoder.weights_sha256, "texts": list(texts)})[:32]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))

    def read(numbers: Sequence[int]) -> Arrays:
        return {"vectors": encoder.vectors([texts[i] for i in numbers])}

    with own(kept, wait=True):
        return kept_in_batches(read, order, kept, batch_size=batch_size)["vectors"]


def question_vectors(model: LanguageModel, items: Sequence[Item], point: str) -> Floats:
    """Mean activation over the tokens of each question but the first (the last one predicts the answer), `[n_items, width]`.

    Items are filled up on the right, which a causal model does not see.
    """
    longest = max(item.last + 1 for item in items)
    tokens = torch.zeros(len(items), longest, dtype=torch.int64)
    inside = torch.zeros(len(items), longest, dtype=torch.bool)
    for row, place, item in zip(tokens, inside, items, strict=True):
        row[: item.last + 1] = torch.tensor(item.tokens[: item.last + 1])
        place[min(1, item.last) : item.last + 1] = True
    seen: list[torch.Tensor] = []

    def watch(x: torch.Tensor, hook_point: HookPoint) -> torch.Tensor:
        seen.append(x.double().cpu())
        return x

    device = next(model.module.parameters()).device
    with hooked(model.module, {point: watch}):
        model.logits(tokens.to(device))
    (x,) = seen
    weights = inside[..., None].double()
    return ((x * weights).sum(1) / weights.sum(1)).numpy()


def directions(vectors: Floats) -> Floats:
    """Vectors minus their mean, of length 1; one that is the mean itself stays zero. `[n, width]`"""
    centred = vectors - vectors.mean(0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-12)
