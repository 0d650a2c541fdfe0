"""A stream of batches as Lightning sees it: its position is part of the checkpoint.

1. Batch k is a function of k (`sparsetrain.data.stream`); the data set has no length, so Lightning never restarts it behind our
   back.
2. Lightning fetches ahead. The state therefore counts what training has finished, not what has been read: the number
   carried by the batch in training, plus one once Lightning has marked that batch as processed.
3. The state names the stream; resuming on another one is refused.

With gradient accumulation a batch here is a micro-batch.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from lightning import LightningDataModule

from sparsetrain.data.stream import Stream

Batch = dict[str, Any]


class TokenDataModule(LightningDataModule):
    """Training batches `{"tokens": LongTensor [batch, length], "k": int}`, `batch` being this rank's share.

    Args:
        stream: what the batches hold.
        left_out: numbers of batches that are never trained on; they ride in the checkpoint.
    """

    def __init__(self, stream: Stream, left_out: Collection[int] = ()) -> None:
        super().__init__()
        self.stream = stream
        self.left_out = frozenset(left_out)
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

    def train_dataloader(self) -> Iterable[Batch]:
        return _FromNext(self)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        # Called on the batch about to be trained on, not on those fetched ahead.
        if self.trainer is not None and self.trainer.training:
            self._in_training = batch["k"]
            self._processed_before = self._n_processed()
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"next_batch": self.next_batch, "left_out": sorted(self.left_out), "stream": self.stream.identity()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the stream of a checkpoint.

        Raises:
            ValueError: the checkpoint was trained on another corpus, or in another order.
        """
        then, now = state_dict["stream"], self.stream.identity()
        if then != now:
            changed = [name for name in {**then, **now} if then.get(name) != now.get(name)]
            raise ValueError(
                "the checkpoint was trained on other batches: "
                + ", ".join(f"{name}={then.get(name)!r} there, {now.get(name)!r} here" for name in changed)
                + "; resume with the data config, seed and sizes of the checkpoint"
            )
        self.left_out |= frozenset(state_dict["left_out"])
        self._first = state_dict["next_batch"]
        self._in_training = None

    def _n_processed(self) -> int:
        assert self.trainer is not None
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.processed  # pyright: ignore[reportAttributeAccessIssue]


class _FromNext:
    """Batches from the module's next one on, as often as it is iterated."""

    def __init__(self, module: TokenDataModule) -> None:
        self.module = module

    def __iter__(self) -> Iterator[Batch]:
        stream, trainer = self.module.stream, self.module.trainer
        rank, n_ranks = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        k, end = self.module.next_batch, stream.n_batches
        if end is not None and k >= end and (trainer is None or trainer.global_step < trainer.max_steps):
            raise ValueError(f"the rows are {end} batches and all are trained on; the training has more steps")
        while end is None or k < end:
            if k not in self.module.left_out:
                yield {"tokens": torch.from_numpy(stream.rows(k, rank, n_ranks)), "k": k}
            k += 1
