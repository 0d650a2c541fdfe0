"""Teacher and student on the texts of a run: the one training twice, the second time with a bridge."""

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from circuits.bridges.bridge import Between, Bridge
from circuits.bridges.losses import BridgeConfig, BridgeObjective
from circuits.bridges.sites import sites_of
from sparsetrain.data import Corpus, TokenStream, fit_bigram
from sparsetrain.data.stream import chars_per_token, val_batches
from sparsetrain.export import read_meta
from sparsetrain.model import Transformer
from sparsetrain.run import RunConfig, init_bigram_
from sparsetrain.training.callbacks import AtSteps, Validation, every
from sparsetrain.training.checkpoints import newest
from sparsetrain.training.fit import Exporter, train_model
from sparsetrain.training.objectives import Objective, next_token_loss


@dataclass(frozen=True, kw_only=True)
class TrainedOnText:
    """What a training leaves."""

    model: Transformer
    export: Path
    weights_sha256: str


def train_on_text(
    config: RunConfig, corpus: Corpus, folder: Path, objective: Objective = next_token_loss
) -> TrainedOnText:
    """Trains and exports; goes on from the folder's last checkpoint where there is one.

    Args:
        config: model, optimizer, sparsity, length, seed.
        corpus: prepared.
        folder: gets metrics.csv, checkpoints/ and export/.
        objective: batch -> loss.
    """
    recipe, n_ctx, tokenizer = config.recipe, config.model.n_ctx, corpus.tokenizer
    stream = TokenStream(corpus, "train", n_ctx, config.trainer.micro_batch, config.seed)
    val = val_batches(corpus, n_ctx, config.callbacks.n_val_batches)
    lengths = {name: chars_per_token(of, tokenizer.n_chars) for name, of in val.items()}
    validation = Validation(batches=val, weights=dict(corpus.weights), chars_per_token=lengths)

    def start(model: Transformer) -> None:
        if model.bigram is not None and config.bigram_init == "counts":
            batches = (stream.batch(k) for k in range(recipe.n_steps * config.trainer.accumulate))
            init_bigram_(model, fit_bigram(batches, tokenizer.d_vocab, val))

    trained = train_model(
        recipe,
        stream,
        Exporter(recipe=recipe, folder=folder, tokenizer=tokenizer.to_json(), facts={"corpus_hash": corpus.content_hash}),
        objective=objective,
        start=start,
        watchers=[AtSteps("validation", every(config.callbacks.val_every, recipe.n_steps), validation)],
        callbacks=config.callbacks,
        checkpoints=config.checkpoints,
        guard=config.guard,
        resume=newest(folder),
    )  # fmt: skip
    trained.model.cpu()
    export = trained.export()
    return TrainedOnText(model=trained.model, export=export, weights_sha256=read_meta(export)["weights_sha256"])


def train_bridged(
    config: RunConfig, corpus: Corpus, folder: Path, teacher: nn.Module, teacher_sha256: str, bridge: BridgeConfig
) -> TrainedOnText:
    """Trains a student with its bridge to a teacher; the bridge lies in the student's export.

    Raises:
        ValueError: a teacher of another depth.
    """
    own = sites_of(Transformer(replace(config.model, d_vocab=2)))
    between = Bridge.between(sites_of(teacher), own, share=bridge.share, seed=config.seed)
    student = train_on_text(config, corpus, folder, BridgeObjective(teacher, between, bridge))
    between.cpu().save(student.export, Between(dense_sha256=teacher_sha256, sparse_sha256=student.weights_sha256))
    return student
