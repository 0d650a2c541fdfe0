"""The corpus as Lightning sees it: an endless stream whose position is part of the checkpoint.

1. Batch k comes from `TokenStream`; the data set has no length, so Lightning never restarts it behind our back.
2. Lightning fetches ahead. The state therefore counts what training has finished, not what has been read: the number
   carried by the batch in training, plus one once Lightning has marked that batch as processed.
3. The state names the corpus and the order; resuming on other data is refused.

With gradient accumulation a batch here is a micro-batch. Validation batches are the same for every run on a corpus.
"""

from collections.abc import Iterator
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from sparsetrain.data.corpus import Corpus
from sparsetrain.data.stream import TokenStream

VAL_SEED = 0  # one set of validation windows for all runs, so that their losses can be compared

Batch = dict[str, Any]


class TokenDataModule(LightningDataModule):
    """Batches of tokens for training and validation.

    Training batches are `{"tokens": LongTensor [batch, n_ctx + 1], "k": int}`, `batch` being this rank's share. There
    is no validation loader: whoever validates asks for `val_batches`.

    Args:
        corpus: a prepared corpus.
        n_ctx: predicted tokens per row.
        batch_size: rows of the global micro-batch, over all ranks.
        seed: of the order of the batches.
        n_workers: processes that read ahead; the order does not depend on it.
    """

    def __init__(self, corpus: Corpus, n_ctx: int, batch_size: int, seed: int, n_workers: int = 0) -> None:
        super().__init__()
        if n_workers < 0:
            raise ValueError(f"n_workers={n_workers} must be 0 (read in this process) or more")
        self.corpus = corpus
        self.stream = TokenStream(corpus, "train", n_ctx, batch_size, seed)
        self.n_workers = n_workers
        self._val_streams = {
            name: TokenStream(corpus, "val", n_ctx, batch_size, VAL_SEED, {name: 1.0}) for name in corpus.sources
        }
        self._first = 0  # where the stream starts when it is iterated
        self._in_training: int | None = None  # number of the batch that training was last given
        self._processed_before = 0  # Lightning's count of processed batches when it was given that batch

    @property
    def next_batch(self) -> int:
        """Number of the next batch to train on: how many micro-batches training has finished."""
        if self._in_training is None:
            return self._first
        finished = self._n_processed() > self._processed_before
        return self._in_training + finished

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader(_Endless(self), batch_size=None, num_workers=self.n_workers)

    def val_batches(self, n: int) -> dict[str, list[Tensor]]:
        """The first n validation batches of each source, `[batch_size, n_ctx + 1]` int64: the same in every run."""
        if n < 1:
            raise ValueError(f"n={n} validation batches asked; at least 1")
        return {
            source: [torch.from_numpy(stream.batch(k)) for k in range(n)]
            for source, stream in self._val_streams.items()
        }

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        # Called on the batch about to be trained on, not on those fetched ahead.
        if self.trainer is not None and self.trainer.training:
            self._in_training = batch["k"]
            self._processed_before = self._n_processed()
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"next_batch": self.next_batch, "content_hash": self.corpus.content_hash, "order": self._order()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the stream of a checkpoint.

        Raises:
            ValueError: the checkpoint was trained on another corpus, or in another order.
        """
        if state_dict["content_hash"] != self.corpus.content_hash:
            raise ValueError(
                f"the checkpoint was trained on corpus {state_dict['content_hash']}, this one is "
                f"{self.corpus.content_hash}; resume with the data config of the checkpoint"
            )
        if state_dict["order"] != self._order():
            raise ValueError(
                f"the checkpoint's batches follow {state_dict['order']}, this run's {self._order()}; "
                "resume with the same seed, sizes and weights"
            )
        self._first = state_dict["next_batch"]
        self._in_training = None

    def _order(self) -> dict[str, Any]:
        # Everything besides the corpus that decides what batch k holds.
        stream = self.stream
        return {
            "seed": stream.seed,
            "n_ctx": stream.n_ctx,
            "batch_size": stream.batch_size,
            "weights": {name: float(weight) for name, weight in self.corpus.weights.items()},
        }

    def _n_processed(self) -> int:
        assert self.trainer is not None
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # pyright: ignore[reportAttributeAccessIssue]

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)


class _Endless(IterableDataset[Batch]):
    # Batches from the module's next one on. Workers take turns, which is also how a DataLoader collects from them.

    def __init__(self, module: TokenDataModule) -> None:
        self.module: TokenDataModule | None = module
        self.first = 0
        self.stream = module.stream
        self.rank, self.n_ranks = module._rank()

    def __getstate__(self) -> dict[str, Any]:
        # A worker process gets the position of the moment it starts, not the module.
        return self.__dict__ | {"module": None, "first": self._position()}

    def _position(self) -> int:
        return self.first if self.module is None else self.module.next_batch

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        offset, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        k = self._position() + offset
        while True:
            yield {"tokens": torch.from_numpy(self.stream.rows(k, self.rank, self.n_ranks)), "k": k}
            k += step


class RowsDataModule(LightningDataModule):
    """Given rows in their given order, each once: batch k is rows k * batch_size and on (the last one may be short).

    Args:
        rows: tokens `[n_rows, length]` int64.
        batch_size: rows of a batch.
    """

    def __init__(self, rows: Tensor, batch_size: int) -> None:
        super().__init__()
        self.rows = rows
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[Batch]:
        batches = [{"tokens": batch, "k": k} for k, batch in enumerate(self.rows.split(self.batch_size))]
        return DataLoader(batches, batch_size=None)  # pyright: ignore[reportArgumentType]
