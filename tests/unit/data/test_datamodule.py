"""The data module under Lightning: what was trained on is what the state says, and a resumed run continues exactly."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from data_example import small_corpus
from torch import nn

from sparsetrain.data import Corpus
from sparsetrain.data.datamodule import TokenDataModule
from sparsetrain.data.stream import VAL_ROWS, RowsStream, TokenStream, val_batches

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning"),  # of Lightning, under this version of torch
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return small_corpus(tmp_path_factory.mktemp("data"))


class Tiny(L.LightningModule):
    """Next-token prediction with one table; remembers the batches it saw, may raise in the middle of one."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(400, 400)
        self.fail_at = fail_at
        self.seen: list[int] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        if batch["k"] == self.fail_at:
            raise RuntimeError("power cut")
        self.seen.append(batch["k"])
        tokens = batch["tokens"]
        return nn.functional.cross_entropy(self.table(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-2)


class Saver(L.Callback):
    """Saves after every step, and when something is raised."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            trainer.save_checkpoint(self.folder / f"step={trainer.global_step}.ckpt")

    def on_exception(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / "exception.ckpt")


def data(corpus: Corpus) -> TokenDataModule:
    return TokenDataModule(TokenStream(corpus, "train", 16, 4, seed=1))


def train(
    module: Tiny,
    data: TokenDataModule,
    folder: Path,
    n_steps: int,
    ckpt: Path | None = None,
    accumulate: int = 1,
    limit_train_batches: int | None = None,
) -> None:
    trainer = L.Trainer(
        max_steps=n_steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        callbacks=[Saver(folder)],
        enable_checkpointing=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=folder,
        limit_train_batches=limit_train_batches,
    )
    trainer.fit(module, data, ckpt_path=None if ckpt is None else str(ckpt))


def next_batch(path: Path) -> int:
    return torch.load(path, weights_only=True)["TokenDataModule"]["next_batch"]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_resumed_run_is_the_straight_run(corpus: Corpus, tmp_path: Path, accumulate: int) -> None:
    straight = Tiny()
    train(straight, data(corpus), tmp_path / "a", 6, accumulate=accumulate)
    assert straight.seen == list(range(6 * accumulate))
    for step in (1, 3, 5):
        path = tmp_path / "a" / f"step={step}.ckpt"
        # Lightning had fetched one batch more by then.
        assert next_batch(path) == step * accumulate
        resumed = Tiny()
        train(resumed, data(corpus), tmp_path / f"b{step}", 6, ckpt=path, accumulate=accumulate)
        assert resumed.seen == list(range(step * accumulate, 6 * accumulate))
        assert torch.equal(resumed.table.weight, straight.table.weight)


def test_a_batch_that_failed_is_trained_on_again(corpus: Corpus, tmp_path: Path) -> None:
    straight = Tiny()
    train(straight, data(corpus), tmp_path / "a", 6)
    with pytest.raises(RuntimeError, match="power cut"):
        train(Tiny(fail_at=3), data(corpus), tmp_path / "b", 6)
    path = tmp_path / "b" / "exception.ckpt"
    assert next_batch(path) == 3
    resumed = Tiny()
    train(resumed, data(corpus), tmp_path / "c", 6, ckpt=path)
    assert resumed.seen == [3, 4, 5]
    assert torch.equal(resumed.table.weight, straight.table.weight)


def test_the_stream_goes_on_over_epochs(corpus: Corpus, tmp_path: Path) -> None:
    module = Tiny()
    train(module, data(corpus), tmp_path, 6, limit_train_batches=2)
    assert module.seen == list(range(6))


def test_another_corpus_or_order_is_refused(corpus: Corpus) -> None:
    state = data(corpus).state_dict()
    for change, message in (({"corpus": "0123"}, "corpus='0123' there, "), ({"seed": 2}, "seed=2 there, 1 here;")):
        with pytest.raises(ValueError, match=message):
            data(corpus).load_state_dict(state | {"stream": state["stream"] | change})
    data(corpus).load_state_dict(state)


def test_rows_are_given_once_in_their_order() -> None:
    rows = torch.arange(28).reshape(7, 4).numpy()
    module = TokenDataModule(RowsStream(rows, 3))
    batches = list(module.train_dataloader())
    assert [batch["tokens"].tolist() for batch in batches] == [rows[i : i + 3].tolist() for i in (0, 3, 6)]
    assert [batch["k"] for batch in batches] == [0, 1, 2]
    other = RowsStream(rows + 1, 3)
    with pytest.raises(ValueError, match=r"rows='.*' there"):
        TokenDataModule(other).load_state_dict(module.state_dict())


def test_validation_batches_are_fixed(corpus: Corpus) -> None:
    one, other = val_batches(corpus, 16, 3), val_batches(corpus, 16, 3)
    assert list(one) == ["code", "idioms"]
    for source in one:
        assert [tuple(tokens.shape) for tokens in one[source]] == [(VAL_ROWS, 17)] * 3
        assert all(torch.equal(a, b) for a, b in zip(one[source], other[source], strict=True))
