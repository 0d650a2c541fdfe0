r"""Byte-level BPE that cuts Python where its grammar cuts it.

1. The text is split into pieces; a token never crosses a piece, so the same prompt has the same ids whatever follows.
2. A newline is a piece of its own; so is the whole run of blanks that indents a line.
3. `[letters and _]+`, a single digit, and a run of punctuation are pieces, each with at most one leading space.
4. Merges are learned inside the pieces, over bytes: any text can be encoded and decoded back exactly.

A long text is encoded in pieces that end where two pieces of 1. meet whatever stands around, so that its ids are those of the whole text.

The separator `<|endoftext|>` is id 0 and can never be produced by encoding text: a document that spells it out is
encoded as ordinary bytes.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from sparsetrain.data.pieces import cut
from sparsetrain.typed import one_line

EOT = "<|endoftext|>"

PIECES = "|".join(
    (
        r"\n",
        r"(?<=\n)[^\S\n]+",  # indentation
        r"\A[^\S\n]+",  # indentation of the first line
        r" ?[\p{L}_]+",
        r" ?\p{N}",
        r" ?[^\s\p{L}\p{N}_]+",
        r"[^\S\n]+(?!\S)",  # trailing blanks, and all but the last of several blanks inside a line
        r"[^\S\n]+",
    )
)
"""The pre-tokenisation, as an Oniguruma pattern; every character belongs to exactly one alternative."""

SEAMS = tuple(
    map(
        re.compile,
        (
            r"\n",
            r"\S(?=[ \t])|[0-9](?=[0-9])|[0-9A-Za-z_\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5](?=[!-/:-@\[-^`{-~\u3001\u3002\uff0c])",
        ),
    )
)
"""Behind these a text may be cut: a piece of `PIECES` ends there. Behind a newline the rest is cut as at the beginning of a text; behind
the others it begins with a blank, a digit or punctuation, and is cut as behind any letter."""
SEAM_SIZE = 2**15  # characters of a part of a long text, or up to twice as many  # ours
BATCH = 2**19  # characters that are encoded at a time; an encoder holds some 40 bytes for each  # ours

LEAD = "a"  # of one byte, hence one token

MIN_D_VOCAB = 257
"""256 bytes and the separator."""


class Tokenizer:
    """Text to ids and back, exactly.

    Args:
        backend: a `tokenizers.Tokenizer` trained by `train_tokenizer`, or loaded from its file.
    """

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        eot_id = backend.token_to_id(EOT)
        if eot_id is None:
            raise ValueError(f"the tokenizer has no {EOT!r} token; train one with sparsetrain.data.train_tokenizer")
        # Not part of the saved file, hence set here: text that spells the separator must not become the separator.
        backend.encode_special_tokens = True
        self._backend = backend
        self.eot_id: int = eot_id
        self.d_vocab: int = backend.get_vocab_size()
        self._bytes_of_char = {char: byte for byte, char in _byte_alphabet().items()}

    def encode(self, text: str) -> list[int]:
        """Ids of `text`; nothing is added in front or behind."""
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_documents(self, documents: Iterable[Iterable[str]]) -> Iterator[tuple[int, list[int]]]:
        """Ids of many texts, computed in parallel and in the memory of a few of them.

        Args:
            documents: each as its blocks.

        Yields:
            The number of a text and the ids of its next part, at least one for each text.
        """
        parts = ((number, led, part) for number, blocks in enumerate(documents) for led, part in _led(blocks))
        for batch in _batches(parts):
            texts = [LEAD + part if led else part for _, led, part in batch]
            encoded = self._backend.encode_batch_fast(texts, add_special_tokens=False)
            for (number, led, _), encoding in zip(batch, encoded, strict=True):
                yield number, encoding.ids[1:] if led else encoding.ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 by themselves become U+FFFD, the separator its name."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=False)

    def token(self, id: int) -> str:
        r"""One token as a person reads it: newlines and tabs escaped (`\n`), stray bytes as `\xNN`, blanks kept."""
        surface = self._backend.id_to_token(int(id))
        if surface is None:
            raise ValueError(f"no token with id {id}; ids go from 0 to {self.d_vocab - 1}")
        if id == self.eot_id:
            return surface
        text = bytes(self._bytes_of_char[char] for char in surface).decode("utf-8", errors="backslashreplace")
        return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)

    @cached_property
    def n_chars(self) -> NDArray[np.int64]:
        """Characters of every token, `[d_vocab]`: code points that begin in it, so that those of a text's tokens sum to its length.

        The separator has none.
        """
        n = np.zeros(self.d_vocab, np.int64)
        for id in range(self.d_vocab):
            if id != self.eot_id:
                surface = self._backend.id_to_token(id)
                assert surface is not None
                n[id] = sum(
                    self._bytes_of_char[char] & 0xC0 != 0x80 for char in surface
                )  # 10xxxxxx goes on with a character
        return n

    def to_json(self) -> str:
        """The tokenizer as the text of a `tokenizer.json`."""
        return self._backend.to_str(pretty=True)

    def save(self, path: Path | str) -> None:
        """Writes `tokenizer.json`, readable by the `tokenizers` library."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Reads what `save` wrote.

        Raises:
            ValueError: no such file, or one that is no tokenizer.
        """
        if not Path(path).is_file():
            raise ValueError(f"no tokenizer at {path}; expected a tokenizer.json")
        try:
            return cls(tokenizers.Tokenizer.from_file(str(path)))
        except Exception as error:  # the library raises nothing more precise
            raise ValueError(f"{path} is no tokenizer: {one_line(error)}") from None

    @classmethod
    def parse(cls, text: str, what: str, instead: str) -> "Tokenizer":
        """Reads the text of a `tokenizer.json` that was made elsewhere.

        Args:
            text: JSON.
            what: the user called it, for messages.
            instead: what may be done without it, for messages.

        Raises:
            ValueError: no tokenizer, one without the separator, or one whose words are not spelled in bytes.
        """
        try:
            found = cls(tokenizers.Tokenizer.from_str(text))
            unspelled = next(
                (id for id in range(found.d_vocab) if id != found.eot_id and not found._in_bytes(id)), None
            )
        except Exception as error:  # the library raises nothing more precise
            raise ValueError(f"{what} cannot be read: {one_line(error)}; or give {instead}") from None
        if unspelled is not None:
            raise ValueError(
                f"{what} is no byte-level BPE: token {unspelled} is {found._backend.id_to_token(unspelled)!r}; or give {instead}"
            )
        return found

    def _in_bytes(self, id: int) -> bool:
        surface = self._backend.id_to_token(id)
        return surface is not None and all(char in self._bytes_of_char for char in surface)


def train_tokenizer(texts: Iterable[str], d_vocab: int) -> Tokenizer:
    """Learns a byte-level BPE of exactly `d_vocab` tokens, the separator included. Deterministic.

    Args:
        texts: the training split of the corpus.
        d_vocab: number of tokens, at least 257.

    Raises:
        ValueError: `d_vocab` is below 257, or the text is too small to give that many tokens.
    """
    if d_vocab < MIN_D_VOCAB:
        raise ValueError(f"d_vocab={d_vocab} is too small; byte-level BPE needs at least {MIN_D_VOCAB}")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=d_vocab,
        special_tokens=[EOT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    n_found = backend.get_vocab_size()
    if n_found != d_vocab:
        raise ValueError(
            f"d_vocab={d_vocab} asked, but the text gives only {n_found} tokens; give data.d_vocab={n_found} or less, or more text"
        )
    return Tokenizer(backend)


def text_parts(blocks: Iterable[str]) -> Iterator[str]:
    """A text in parts of which each can be encoded for itself; a text without any seam is one part."""
    return cut(blocks, SEAM_SIZE, SEAMS, anywhere=False)


def _led(blocks: Iterable[str]) -> Iterator[tuple[bool, str]]:
    """Whether a part has to be encoded behind `LEAD`, and the part: what begins with a blank would be an indentation."""
    led = False
    for part in text_parts(blocks):
        yield led, part
        led = not part.endswith("\n")


def _batches(parts: Iterable[tuple[int, bool, str]]) -> Iterator[list[tuple[int, bool, str]]]:
    batch: list[tuple[int, bool, str]] = []
    n_chars = 0
    for part in parts:
        batch.append(part)
        n_chars += len(part[-1])
        if n_chars >= BATCH:
            yield batch
            batch, n_chars = [], 0
    if batch:
        yield batch


def _byte_alphabet() -> dict[int, str]:
    # GPT-2's printable stand-in for each byte, as used by the ByteLevel pre-tokeniser.
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    alphabet = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in alphabet]
    return alphabet | {byte: chr(256 + i) for i, byte in enumerate(others)}
