"""From sources of text to batches of tokens.

`prepare_corpus` gives a `Corpus` (tokenizer and token files), `TokenStream` gives batch k as a function of a seed and
k, `fit_bigram` the baseline that every model has to beat, `shifts` the splits that lie ever farther from the corpus.
"""

from sparsetrain.data.bigram import BigramTable, fit_bigram
from sparsetrain.data.corpus import SPLITS, Corpus, DataConfig, DataSection, describe, prepare_corpus
from sparsetrain.data.sources import FilesSource, HubSource, IdiomsSource, SourceConfig, StdlibSource
from sparsetrain.data.stream import TokenStream
from sparsetrain.data.tokenizer import Tokenizer, train_tokenizer

__all__ = [
    "SPLITS",
    "BigramTable",
    "Corpus",
    "DataConfig",
    "DataSection",
    "FilesSource",
    "HubSource",
    "IdiomsSource",
    "SourceConfig",
    "StdlibSource",
    "TokenStream",
    "Tokenizer",
    "describe",
    "fit_bigram",
    "prepare_corpus",
    "train_tokenizer",
]
