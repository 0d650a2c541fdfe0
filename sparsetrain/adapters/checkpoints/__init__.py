"""Checkpoints of other people's code as models of ours: every tensor in its place, every setting honoured or refused.

1. A format is a function from a folder to an `Imported`: our `ModelConfig`, the tensors under our names, and what should be told of it.
2. Reading is strict (`reading.py`): a key that is missing, unknown or of another shape is an error that names it, and so is a setting that
   our model has not. Nothing that a file holds is ever run: tensors are read with `weights_only=True`.
3. What is written is an ordinary export; whoever loads it need not know where it came from (`meta.json` says so under `imported`).

Layouts: `gao.py` (the authors' release), `sparse_pretrain.py` (the public reproduction), `gpt2_like.py` (GPT-2 and OPT of `transformers`).
"""

from collections.abc import Callable, Mapping

from sparsetrain.adapters.checkpoints.gao import read_gao
from sparsetrain.adapters.checkpoints.gpt2_like import read_gpt2_like
from sparsetrain.adapters.checkpoints.reading import Imported, Source
from sparsetrain.adapters.checkpoints.sparse_pretrain import read_sparse_pretrain

FORMATS: Mapping[str, Callable[[Source], Imported]] = {
    "gao": read_gao,
    "sparse_pretrain": read_sparse_pretrain,
    "huggingface": read_gpt2_like,
}
"""Name -> reader."""

__all__ = ["FORMATS", "Imported", "Source"]
