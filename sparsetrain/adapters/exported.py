"""Our own exports behind the interface of `LanguageModel`."""

from collections.abc import Sequence
from pathlib import Path

from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.export import load_model
from sparsetrain.model import Transformer


class DocumentTokenizer:
    """Our tokenizer reading every text as a document: the separator stands in front of it, as in training."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.d_vocab = tokenizer.d_vocab
        self.special_ids = frozenset({tokenizer.eot_id})
        self.unknown_id: int | None = None

    def encode(self, text: str) -> list[int]:
        return [self.tokenizer.eot_id, *self.tokenizer.encode(text)]

    def characters(self, text: str) -> list[int]:
        return self.tokenizer.n_chars[self.encode(text)].tolist()

    def decode(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids)

    def token(self, id: int) -> str:
        return self.tokenizer.token(id)


def load(folder: Path, device: str) -> tuple[Transformer, DocumentTokenizer]:
    """Model and tokenizer of an export folder.

    Raises:
        FileNotFoundError: the folder is no export.
        ValueError: it is damaged, or holds no tokenizer.
    """
    return load_model(folder, device), DocumentTokenizer(Tokenizer.load(folder / "tokenizer.json"))
