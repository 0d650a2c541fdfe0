"""Token files, written as they grow, and gone on with where a preparation was stopped.

Every `SAVE_EVERY` tokens what was written is flushed to the disk and its length is put down; behind it, whatever a kill or a power cut
left is cut off. A document is the unit: one that was not finished is encoded again.
"""

import io
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.store import write_atomic

SAVE_EVERY = 2**22  # tokens  # ours


class TokenFiles:
    """Arrays of token ids in a folder, each document behind its separator.

    Args:
        folder: of the arrays; made if it is not there.
        state: file that says how far they are.
        tokenizer: of all.
    """

    def __init__(self, folder: Path, state: Path, tokenizer: Tokenizer) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.tokenizer = tokenizer
        self.dtype = np.dtype(np.uint16 if tokenizer.d_vocab <= 2**16 else np.uint32)
        self._state = state
        self._done: dict[str, list[int]] = json.loads(state.read_bytes()) if state.is_file() else {}

    def n_docs(self, name: str) -> int:
        """How many documents of an array are on the disk."""
        return self._done.get(name, [0, 0])[0]

    def write(self, name: str, documents: Iterable[Iterable[str]]) -> Iterator[int]:
        """Writes what is missing of an array.

        Args:
            name: of the file.
            documents: those behind the `n_docs(name)` that are there, each as its blocks.

        Yields:
            How many documents are in the file, as it grows.
        """
        n_before, n_tokens = self._done.get(name, [0, 0])
        path = self.folder / name
        separator = np.array([self.tokenizer.eot_id], self.dtype)
        with cast(BinaryIO, path.open("r+b" if n_before else "wb")) as file:
            file.truncate(len(_head(0, self.dtype)) + n_tokens * self.dtype.itemsize)
            file.seek(0, os.SEEK_END)
            number, n_saved = -1, n_tokens
            for current, ids in self.tokenizer.encode_documents(documents):
                if current != number:
                    if n_tokens - n_saved >= SAVE_EVERY:
                        n_saved = self._save(file, name, n_before + current, n_tokens)
                    number = current
                    file.write(separator.tobytes())
                    n_tokens += 1
                    yield n_before + number
                file.write(np.array(ids, self.dtype).tobytes())
                n_tokens += len(ids)
            file.seek(0)
            file.write(_head(n_tokens, self.dtype))
            self._save(file, name, n_before + number + 1, n_tokens)
        yield n_before + number + 1

    def n_tokens(self, name: str) -> int:
        """Tokens of an array."""
        return self._done[name][1]

    def _save(self, file: BinaryIO, name: str, n_docs: int, n_tokens: int) -> int:
        file.flush()
        os.fsync(file.fileno())
        self._done[name] = [n_docs, n_tokens]
        write_atomic(self._state, json.dumps(self._done))
        return n_tokens


def _head(n: int, dtype: np.dtype[Any]) -> bytes:
    """What stands in a .npy file before n numbers; numpy leaves room for any n."""
    head = io.BytesIO()
    shape = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (n,)}
    np.lib.format.write_array_header_1_0(head, shape)
    return head.getvalue()
