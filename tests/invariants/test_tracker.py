"""Watching changes nothing and reads the truth: weights, random states and modes; rows against recorded activations."""

import random
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fixed_split import FixedSplit
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger
from torch.utils.data import DataLoader, TensorDataset

from sparsetrain.hooks import hook_points, record
from sparsetrain.representation.evaluate import WatchConfig, measure_splits
from sparsetrain.representation.measures import all_measures
from sparsetrain.representation.table import read_rows
from sparsetrain.representation.tracker import SparsityTracker, TrackerConfig
from sparsetrain.typed import from_dict

N_CTX, D_VOCAB = 24, 61
SMALL: dict[str, Any] = {"n_windows": 4, "batch_size": 2, "position_stride": 5, "n_bootstrap": 20}


def make_splits(n=6):
    rng = np.random.default_rng(0)
    return [FixedSplit(f"split_{i}", i, rng.integers(D_VOCAB, size=(n, N_CTX)).astype(np.uint16)) for i in range(2)]


class Lit(L.LightningModule):
    """Next-token loss plus noise from the training's random stream, which a watcher must not advance."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def training_step(self, batch, batch_idx):
        (tokens,) = batch
        logits = self.model(tokens[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()) * (1 + torch.rand(()))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class Kept(Logger):
    def __init__(self):
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []

    name = "kept"
    version = 0

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    def log_hyperparams(self, params, *args, **kwargs): ...


def train(make_model, tmp_path, callbacks, max_steps=7, logger=None, accumulate=1, ckpt_path=None, **model):
    lit = Lit(make_model(n_ctx=N_CTX, d_vocab=D_VOCAB, **model))
    L.seed_everything(1, verbose=False)
    tokens = torch.randint(D_VOCAB, (64, N_CTX + 1), generator=torch.Generator().manual_seed(2))
    trainer = L.Trainer(
        default_root_dir=tmp_path,
        max_steps=max_steps,
        accelerator="cpu",
        logger=[logger] if logger else False,
        callbacks=callbacks,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        accumulate_grad_batches=accumulate,
        log_every_n_steps=1,
    )
    trainer.fit(lit, DataLoader(TensorDataset(tokens), batch_size=4), ckpt_path=ckpt_path, weights_only=False)
    return lit.model, (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())


pytestmark = [
    # Lightning's advice on loaders and on a signature of torch's; not about this code.
    pytest.mark.filterwarnings("ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning"),
    pytest.mark.filterwarnings("ignore:.*treespec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
]


def test_watching_is_not_watching(make_model, tmp_path):
    tracker = SparsityTracker(TrackerConfig(every_n_steps=2, **SMALL), make_splits(), tmp_path / "ood.csv")
    plain, plain_random = train(make_model, tmp_path, [])
    watched, watched_random = train(make_model, tmp_path, [tracker])
    assert tracker.n_evaluations == 5 and tracker.seconds > 0
    for (name, p), q in zip(plain.named_parameters(), watched.parameters(), strict=True):
        assert torch.equal(p, q), name
    assert torch.equal(plain_random[0], watched_random[0])
    assert plain_random[1:] == watched_random[1:]


def test_modes_gradients_and_hooks_are_put_back(make_model):
    model = make_model()
    model.train()
    model.blocks[1].eval()
    model.embed.weight.grad = torch.ones_like(model.embed.weight)
    modes = [m.training for m in model.modules()]
    state = torch.get_rng_state()
    measure_splits(model, make_splits(), WatchConfig(**SMALL))
    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state) and torch.is_grad_enabled()
    assert (model.embed.weight.grad == 1).all() and model.unembed.weight.grad is None
    assert not any(point.fns for point in hook_points(model).values())
    tokens = torch.zeros(1, 4, dtype=torch.int64)
    assert model(tokens).requires_grad


def overlap_of(a, b):
    """Shared active units / units active in either."""
    return (a & b).sum().item() / (a | b).sum().item()


@pytest.mark.parametrize("config", [WatchConfig(**SMALL), WatchConfig(n_windows=6, batch_size=6, positions="last")])
def test_rows_are_the_measures_of_recorded_activations(make_model, config):
    model = make_model()
    splits = make_splits()
    evaluation = measure_splits(model, splits, config)
    positions = [4, 9, 14, 19] if config.positions == "strided" else [22]
    for split in splits:
        tokens = torch.as_tensor(split.tokens[: config.n_windows]).long()
        names = [name for name, point in hook_points(model).items() if point.kind != "norm_scale"]
        with torch.no_grad():
            logits, seen = record(model, tokens[:, :-1], names)
        for name in names:
            h = seen[name][:, positions]
            for measure, value in all_measures(h).items():
                got = evaluation.per_window(split.name, name, measure)
                np.testing.assert_allclose(got, value.mean(1), rtol=1e-5, atol=1e-7, err_msg=f"{name} {measure}")
                assert evaluation.value(split.name, name, measure) == pytest.approx(value.mean().item(), rel=1e-5)
            overlap = [
                overlap_of(h[2 * i, p] != 0, h[2 * i + 1, p] != 0)
                for i in range(len(h) // 2)
                for p in range(len(positions))
            ]
            assert evaluation.value(split.name, name, "jaccard") == pytest.approx(np.mean(overlap), rel=1e-5)
            active = (h != 0).flatten(0, 1)
            assert evaluation.value(split.name, name, "dead") == pytest.approx((~active.any(0)).float().mean().item())
        log_p = logits[:, positions].log_softmax(-1)
        targets = tokens[:, [p + 1 for p in positions]]
        loss = F.nll_loss(log_p.flatten(0, 1), targets.flatten()).item()
        assert evaluation.value(split.name, "logits", "loss") == pytest.approx(loss, rel=1e-5)
        entropy = torch.distributions.Categorical(logits=logits[:, positions]).entropy().mean().item()
        assert evaluation.value(split.name, "logits", "entropy") == pytest.approx(entropy, rel=1e-5)


def test_batch_size_and_ranks_do_not_change_the_numbers(make_model):
    model, splits = make_model(), make_splits(8)
    settings = {**SMALL, "n_windows": 7}
    small, large = (measure_splits(model, splits, WatchConfig(**{**settings, "batch_size": b})) for b in (2, 8))
    for a, b in zip(small.rows, large.rows, strict=True):
        assert (a.hook_point, a.measure, a.n) == (b.hook_point, b.measure, b.n)
        assert a.value == pytest.approx(b.value, rel=1e-5, abs=1e-6)
    halves = [measure_splits(model, splits, WatchConfig(**settings), rank=r, world_size=2) for r in range(2)]
    for a, *shards in zip(small.rows, *(half.rows for half in halves), strict=True):
        if a.hook_point == "logits":
            n = sum(s.n for s in shards)
            assert n == a.n and sum(s.value * s.n for s in shards) / n == pytest.approx(a.value, rel=1e-5)


def rows_at(path):
    steps = {}
    for step, row in read_rows(path):
        steps.setdefault(step, []).append((row.split, row.hook_point, row.measure))
    return steps


def test_first_and_last_step_and_no_duplicates(make_model, tmp_path):
    path, kept = tmp_path / "ood.csv", Kept()
    config = TrackerConfig(every_n_steps=3, at_steps=(1,), **SMALL)
    train(make_model, tmp_path, [SparsityTracker(config, make_splits(), path)], logger=kept, accumulate=2)
    steps = rows_at(path)
    assert list(steps) == [0, 1, 3, 6, 7]
    for rows in steps.values():
        assert len(rows) == len(set(rows)) and rows == steps[0]
    assert {step for step, metrics in kept.rows if "ood/split_1/loss" in metrics} == {0, 1, 3, 6, 7}
    names = {name for _, metrics in kept.rows for name in metrics if name.startswith("ood/split_0/")}
    kinds = ("resid", "attn_out", "mlp_neuron", "mlp_out")
    assert names == {"ood/split_0/loss", *(f"ood/split_0/gini/{kind}" for kind in kinds)}
    other = tmp_path / "other.csv"
    config = TrackerConfig(every_n_steps=100, at_start=False, **SMALL)
    train(make_model, tmp_path, [SparsityTracker(config, make_splits(), other)])
    assert list(rows_at(other)) == [7]


@pytest.mark.parametrize("stop", [4, 5])
def test_resumed_table_is_the_straight_one(make_model, tmp_path, stop):
    config = TrackerConfig(every_n_steps=2, kinds=("mlp_neuron",), **SMALL)

    def run(folder, max_steps, ckpt_path=None):
        save = ModelCheckpoint(dirpath=folder, save_last=True, every_n_train_steps=1)
        tracker = SparsityTracker(config, make_splits(), folder / "ood.csv")
        train(make_model, folder, [tracker, save], max_steps=max_steps, ckpt_path=ckpt_path)

    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    run(tmp_path / "a", 8)
    run(tmp_path / "b", stop)
    with (tmp_path / "b" / "ood.csv").open("a") as file:
        file.write("6,split_0,0,torn")
    run(tmp_path / "b", 8, tmp_path / "b" / "last.ckpt")
    straight, resumed = (rows_at(tmp_path / run / "ood.csv") for run in "ab")
    assert resumed == straight and list(straight) == [0, 2, 4, 6, 8]


def test_bad_input(make_model, tmp_path):
    model, splits = make_model(), make_splits()
    with pytest.raises(KeyError, match=r"hook_neuron.*near names: .*blocks\.0\.mlp\.hook_neuron"):
        measure_splits(model, splits, WatchConfig(points=("blocks.0.mlp.hook_neurons",)))
    with pytest.raises(ValueError, match="one channel"):
        measure_splits(model, splits, WatchConfig(points=("final_norm.hook_scale",)))
    with pytest.raises(ValueError, match="no hook point"):
        measure_splits(torch.nn.Linear(2, 2), splits, WatchConfig())
    empty = FixedSplit("nothing", 3, np.zeros((0, N_CTX), dtype=np.int64))
    with pytest.raises(ValueError, match=r"'nothing' has tokens of shape \(0, 24\)"):
        SparsityTracker(TrackerConfig(), [*splits, empty], tmp_path / "ood.csv")
    with pytest.raises(ValueError, match="no split"):
        measure_splits(model, [], WatchConfig())
    with pytest.raises(ValueError, match="must differ"):
        measure_splits(model, [splits[0], splits[0]], WatchConfig())
    for bad, words in (
        ({"kinds": ("resid", "mlp")}, r"kinds has unknown entries \['mlp'\]; allowed: resid"),
        ({"measures": ("ginni",)}, "measures has unknown"),
        ({"lifetime_measures": ("gini",)}, "lifetime_measures has unknown"),
        ({"batch_size": 3}, "batch_size=3 must be even"),
        ({"n_windows": 0}, "n_windows=0"),
        ({"confidence": 1.0}, "confidence"),
        ({"every_n_steps": 0}, "every_n_steps=0"),
        ({"at_steps": (-1,)}, "at_steps"),
    ):
        with pytest.raises(ValueError, match=words):
            from_dict(TrackerConfig, bad)


def test_dead_layer_and_nan_are_told_apart(make_model):
    model, splits = make_model(), make_splits()
    with torch.no_grad():
        model.blocks[0].mlp.W_out.weight.zero_()
        model.blocks[0].mlp.W_out.bias.zero_()
    evaluation = measure_splits(model, splits, WatchConfig(**SMALL))
    rows = {r.measure: r for r in evaluation.rows if r.hook_point == "blocks.0.mlp.hook_out" and r.split == "split_0"}
    assert rows["gini"].n == 0 and np.isnan(rows["gini"].value)
    assert rows["l0"].value == 0 and rows["l0"].n == 4 and rows["dead"].value == 1
