"""One training: a recipe, a stream of batches and an objective become a trained model.

`train_model` serves runs and the arms of studies alike; whatever is watched meanwhile is handed in as callbacks
(`sparsetrain.training.callbacks.AtSteps`).
1. The model is drawn from the seed, `start` may set weights, the sparsity method is prepared on it and attached to the optimizer.
2. It is trained from the first step or from a checkpoint, bit-exactly; a step that goes wrong is dealt with by `guard`.
3. What is left, `Trained`, writes the export folder when it is asked to.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

import sparsetrain
from sparsetrain.data.datamodule import TokenDataModule
from sparsetrain.data.stream import Stream
from sparsetrain.export import export_model
from sparsetrain.interrupt import Pending, held_back
from sparsetrain.kernels.host import keep_freed_memory
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.optim import OptimConfig, PartialGradient, add_beside, build_optimizer, lr_factor, scale_gradients_
from sparsetrain.sparsity import DENSE, SparsityConfig, SparsityMethod, build_sparsity, require_attached
from sparsetrain.training.callbacks import AtSteps, CallbacksConfig, ProgressBar, StepScalars, every
from sparsetrain.training.checkpoints import Checkpoints, CheckpointsConfig, RandomState, VerifiedIO, newest
from sparsetrain.training.dead import check_reinitialisation, reinitialisation
from sparsetrain.training.devices import companions, environment, group_of_ranks, of_first, strategy
from sparsetrain.training.guard import Guard, GuardConfig, WrongStep, audit, refuse_unhealthy
from sparsetrain.training.metrics import MetricsCSV, ResumeLogs
from sparsetrain.training.objectives import LearningObjective, Objective, next_token_loss
from sparsetrain.training.profiling import Profiling
from sparsetrain.training.resume import SameRun
from sparsetrain.training.start import Start
from sparsetrain.training.tracking import kept_ids
from sparsetrain.training.trainer import TrainerConfig
from sparsetrain.typed import to_dict

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything beside data and objective that decides the trained weights."""

    seed: int
    model: ModelConfig
    sparsity: SparsityConfig
    optim: OptimConfig
    trainer: TrainerConfig
    start: Start | None = None
    """Given weights; None: they are drawn."""

    @property
    def n_steps(self) -> int:
        """Optimizer steps."""
        return self.trainer.n_steps

    def build_sparsity(self, model: Transformer) -> SparsityMethod | None:
        """The method, prepared on `model`; None: dense.

        Raises:
            ValueError: an infeasible budget; names the tensor.
        """
        method = self._sparsity()
        if method is not None:
            method.prepare(model)
        return method

    def _sparsity(self) -> SparsityMethod | None:
        method, trainer = self.sparsity.method, self.trainer
        if method != "topk" and not self.sparsity.is_dense and (trainer.n_ranks > 1 or trainer.compile):
            raise ValueError(
                f"sparsity.method={method} is for one device without torch.compile, here trainer.devices={trainer.devices} "
                f"trainer.nodes={trainer.nodes} trainer.compile={trainer.compile}; use sparsity.method=topk"
            )
        built = build_sparsity(self.computed, self.n_steps, DENSE if self.start is None else self.start.density)
        if built is not None:
            built.n_tokens = trainer.micro_batch * self.model.n_ctx
        return built

    @property
    def _obstacle(self) -> str:
        return self.trainer.obstacle or self.sparsity.obstacle

    @property
    def computed(self) -> SparsityConfig:
        """The settings of sparsity with what `compute` comes to in this training."""
        return self.sparsity.computed(self._obstacle)

    def say_how_it_computes(self) -> None:
        """Where that is not what `compute=auto` is hoped to be."""
        if self.sparsity.compute == "auto" and self._obstacle and not self.sparsity.is_dense:
            log.info("sparsity.compute=auto: computed with the zeros, since this run has %s", self._obstacle)

    def check(self) -> None:
        """Refuses, before any text is read, an infeasible weight budget (the ValueError names the tensor) and what this training or machine cannot have."""
        self.trainer.check()
        check_reinitialisation(self.sparsity, sharded=self.trainer.strategy == "fsdp")
        with torch.device("meta"):
            self.build_sparsity(Transformer(self.model))

    def draw(self, start: Callable[[Transformer], object] | None = None) -> Transformer:
        """The model before training, after `start` has set weights; seeds every random generator."""
        L.seed_everything(self.seed, workers=True, verbose=False)
        model = Transformer(self.model)
        if start is not None:
            start(model)
        return model

    def density(self, step: int) -> float:
        """Density of the weight matrices after `step` optimizer steps."""
        method = self._sparsity()
        return 1.0 if method is None else method.density(step)

    def n_tokens(self, step: int) -> int:
        """Tokens that were predicted in so many steps."""
        return step * self.trainer.batch_size * self.model.n_ctx

    @property
    def schedule(self) -> str:
        """Learning rate and density over the steps, in words."""
        optim, density = self.optim, self.sparsity.schedule
        rate = f"{self.n_steps:,} steps, lr_peak {optim.lr_peak:g}, warm-up {optim.warmup:.0%}, decay {optim.decay}"
        if self.density(0) == self.density(self.n_steps):
            return f"{rate}; density {self.density(0):.3g}"
        return (
            f"{rate}; density {self.density(0):.3g} to {self.density(self.n_steps):.3g}, {density.shape} between {density.start:.0%} and "
            f"{density.end:.0%} of the steps"
        )

    def key(self) -> dict[str, Any]:
        """What equal weights need on one machine: this version and the recipe without what only decides where and how fast."""
        trainer = TrainerConfig(
            n_steps=self.trainer.n_steps,
            batch_size=self.trainer.batch_size,
            accumulate=self.trainer.accumulate,
            precision=self.trainer.precision,
        )
        return {"version": sparsetrain.__version__, "recipe": replace(self, trainer=trainer, sparsity=self.computed)}


@dataclass(frozen=True, kw_only=True)
class Exporter:
    """Writes `<folder>/export/step_<n>` of a model in training."""

    recipe: Recipe
    folder: Path
    tokenizer: str | None = None
    """Text of a tokenizer.json."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """More for meta.json."""
    first_batch: int = 0
    """Number in its stream of the training's first batch."""
    data: TokenDataModule | None = None
    """Knows which batches were taken; None: as many as the steps need."""
    packed: bool = False
    """Stored small, see `sparsetrain.export.export_model`."""

    def __call__(self, model: Transformer, step: int) -> Path:
        recipe = self.recipe
        meta = {"step": step, "seed": recipe.seed, "version": sparsetrain.__version__, **self.facts}
        meta |= {"density": recipe.density(step), "n_tokens": recipe.n_tokens(step), "schedule": recipe.schedule}
        taken = step * recipe.trainer.accumulate if self.data is None else self.data.next_batch
        meta["next_batch"] = self.first_batch + taken
        if recipe.start is not None:
            meta["lineage"] = to_dict(recipe.start)["ancestors"]
        folder = self.folder / "export" / f"step_{step}"
        return export_model(model, folder, self.tokenizer, meta, packed=self.packed)


class LitTransformer(L.LightningModule):
    """Trains `model` under `sparsity` (None: dense).

    Args:
        model: the transformer; compiled in place if it is compiled at all.
        objective: batch -> loss; the weights of a `LearningObjective` are trained too.
        optim: optimiser settings.
        sparsity: the method, already prepared on this model; attached to the optimizer here.
        n_steps: optimizer steps of the whole run (the schedules' length).
        guard: judges every step before it is taken; its memory rides in the checkpoint.
    """

    def __init__(
        self,
        model: Transformer,
        objective: Objective,
        optim: OptimConfig,
        sparsity: SparsityMethod | None,
        n_steps: int,
        guard: Guard,
    ) -> None:
        super().__init__()
        self.model = model
        self.objective = objective
        self.learning = objective if isinstance(objective, LearningObjective) else None
        self.beside = None if self.learning is None else self.learning.beside
        self.optim = optim
        self.sparsity = sparsity
        self.sparsity_state = None if sparsity is None else sparsity.own  # registered: it rides in the checkpoint
        self.n_steps = n_steps
        self.guard = guard
        self.scalars: dict[str, Tensor] = {}
        """Loss and gradient RMS of the last step."""
        self._micro: list[tuple[int, Tensor]] = []  # (number, loss) of the micro-batches since the last step

    def density(self, step: int) -> float:
        """Density of the weight matrices after `step` optimizer steps."""
        return 1.0 if self.sparsity is None else self.sparsity.density(step)

    def applied(self, *, training: bool = False) -> AbstractContextManager[None]:
        """Within it the model has the weights that its forward pass is meant to use; see `SparsityMethod.applied`."""
        return nullcontext() if self.sparsity is None else self.sparsity.applied(self.model, training=training)

    def configure_optimizers(self) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        optimizer = build_optimizer(self.model, self.optim)
        n_groups = len(optimizer.param_groups)
        if self.sparsity is not None:
            self.sparsity.prepare(self.model)  # FSDP2 has put shards into the places of the tensors
            self.sparsity.attach(optimizer)
            require_attached(optimizer)
        target = self.density(self.n_steps)

        def factor(step: int) -> float:
            return lr_factor(step, self.n_steps, self.optim, self.density(step), target)

        constant = OptimConfig(warmup=self.optim.warmup, decay="constant", density_factor="off")
        factors: list[Callable[[int], float]] = [factor] * n_groups
        factors += [partial(lr_factor, n_steps=self.n_steps, config=constant)] * (
            len(optimizer.param_groups) - n_groups
        )
        if self.learning is not None:
            add_beside(optimizer, self.learning.beside, self.learning.optim)
            factors.append(partial(lr_factor, n_steps=self.n_steps, config=self.learning.optim))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, factors), "interval": "step"}}

    @property
    def partial_gradients(self) -> Sequence[PartialGradient]:
        """Gradients that some entries alone have, beside the parameters' own."""
        return () if self.sparsity is None else self.sparsity.partial_gradients()

    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor:
        loss, penalised = self.losses(batch)
        self._micro.append((batch["k"], loss.detach()))
        return penalised

    def losses(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """The objective of a batch, and the same with the penalty of the sparsity method."""
        with self.applied(training=True):
            loss = self.objective(self.model, batch)
        penalty = None if self.sparsity is None else self.sparsity.penalty()
        return loss, loss if penalty is None else loss + penalty

    def ready_step(self) -> Tensor:
        """With all gradients of a step there, makes ready what the optimizer works on; returns their RMS as it was."""
        if self.sparsity is not None:
            self.sparsity.before_step()
        return scale_gradients_(self.model.parameters(), self.optim, self.partial_gradients)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        rms = self.ready_step()
        mean = torch.stack([loss for _, loss in self._micro]).mean()
        if self.trainer.world_size > 1:
            mean = self.trainer.strategy.reduce(mean, reduce_op="mean")
        batches = [k for k, _ in self._micro]
        self._micro.clear()
        self.scalars = {"train_loss": mean.float(), "grad_rms": rms}
        judged = torch.stack([*self.scalars.values()])
        if self.learning is not None:
            scale_gradients_(self.learning.beside.parameters(), self.learning.optim)
            self.scalars |= self.learning.terms
        if self.guard.config.policy == "off":
            return
        loss, grad_rms = judged.tolist()
        if not self.guard.judge(self.global_step, batches, loss, grad_rms):
            optimizer.zero_grad(set_to_none=True)
            if self.sparsity is not None:
                self.sparsity.drop_gradients()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["guard"] = self.guard.state_dict()
        checkpoint["sparsity"] = {} if self.sparsity is None else self.sparsity.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.guard.load_state_dict(checkpoint["guard"])
        if self.sparsity is not None:
            self.sparsity.load_state_dict(checkpoint.get("sparsity", {}))


def take_step(module: LitTransformer, optimizer: Optimizer, *batches: Mapping[str, Tensor]) -> Tensor:
    """One optimizer step as Lightning takes it with this module, without Lightning (to be timed); returns the loss.

    Args:
        batches: its micro-batches.
    """
    optimizer.zero_grad()
    losses: list[Tensor] = []
    for batch in batches:
        loss, penalised = module.losses(batch)
        (penalised / len(batches)).backward()
        losses.append(loss.detach() / len(batches))
    module.ready_step()
    optimizer.step()
    return torch.stack(losses).sum()


def set_arithmetic(trainer: TrainerConfig) -> None:
    """Sets what changes the last bits of a training or a reading, and its speed, for this process."""
    keep_freed_memory()
    # Denormals slow CPU arithmetic by up to half late in training; every rank needs this, and it changes the last bits.
    torch.set_flush_denormal(True)
    if trainer.n_threads is not None:
        torch.set_num_threads(trainer.n_threads)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training leaves."""

    model: Transformer
    """On the device it was trained on."""
    step: int
    complete: bool
    """False: stopped before its schedule ended."""
    sparsity: SparsityMethod | None
    scalars: StepScalars
    exporter: Exporter

    def export(self) -> Path:
        """Writes the export folder of the model as it is."""
        with nullcontext() if self.sparsity is None else self.sparsity.applied(self.model):
            return self.exporter(self.model, self.step)


def train_model(
    recipe: Recipe,
    stream: Stream,
    export: Exporter,
    *,
    objective: Objective = next_token_loss,
    start: Callable[[Transformer], object] | None = None,
    watchers: Sequence[L.Callback] = (),
    callbacks: CallbacksConfig,
    checkpoints: CheckpointsConfig,
    guard: GuardConfig,
    loggers: Sequence[Logger] = (),
    resume: Path | None = None,
    allow: Collection[str] = (),
    stop_at_step: int | None = None,
) -> Trained:
    """Trains until the schedule ends (or until `stop_at_step`) and leaves a checkpoint of the last step.

    Args:
        recipe: model, sparsity, optimizer, length and device.
        stream: batches as a function of their number.
        export: how the model is saved, and the folder of everything else: metrics.csv, checkpoints/.
        objective: batch -> loss.
        start: sets weights before the first step, after they are drawn; not called again where a checkpoint is resumed from.
        watchers: callbacks that must leave the training as it is.
        callbacks: how often things happen.
        checkpoints: when checkpoints are written and which are kept.
        guard: what is done about a step that goes wrong.
        loggers: where scalars go beside metrics.csv.
        resume: checkpoint to continue from, bit-exactly.
        allow: settings that may differ from the checkpoint's, as `optim.lr_peak` or `optim`; they are applied.
        stop_at_step: stops early; schedules keep their length.

    Raises:
        ValueError: an infeasible budget, a damaged checkpoint, or one of other data or other settings.
        FloatingPointError: loss, gradient or weights are not finite or exploded, and `guard` says to end the run.
        Interrupted: a signal asked to stop; the step it came in has been finished and saved.
        SystemExit: with code 0 on every rank but the first, once the training has ended.
        RuntimeError: another rank has failed.
    """
    left_out: list[int] = []
    n_wrong = 0
    trainer = recipe.trainer
    recipe.say_how_it_computes()
    with companions(trainer.devices, trainer.nodes), held_back() as pending, group_of_ranks():
        while True:
            try:
                trained = _train(
                    recipe, stream, export, pending,
                    objective=objective, start=start, watchers=watchers, callbacks=callbacks, checkpoints=checkpoints,
                    guard=Guard(guard, n_before=n_wrong), loggers=loggers, resume=resume, allow=allow,
                    stop_at_step=stop_at_step, left_out=left_out,
                )  # fmt: skip
                break
            except WrongStep as wrong:
                resume = of_first(newest(export.folder))
                assert resume is not None, (
                    "the model that a training starts from is saved where the policy is to roll back"
                )
                left_out += wrong.batches
                n_wrong = wrong.n_wrong
                log.warning("%s: back to %s, without those batches from now on", wrong, resume.name)
    if trained is None:
        raise SystemExit(0)
    return trained


def _train(
    recipe: Recipe,
    stream: Stream,
    export: Exporter,
    pending: Pending,
    *,
    objective: Objective,
    start: Callable[[Transformer], object] | None,
    watchers: Sequence[L.Callback],
    callbacks: CallbacksConfig,
    checkpoints: CheckpointsConfig,
    guard: Guard,
    loggers: Sequence[Logger],
    resume: Path | None,
    allow: Collection[str],
    stop_at_step: int | None,
    left_out: Collection[int],
) -> Trained | None:
    trainer, n_steps, folder = recipe.trainer, recipe.n_steps, export.folder
    data = TokenDataModule(stream, left_out)
    export = replace(export, data=data)
    model = recipe.draw(start)
    sparsity = recipe.build_sparsity(model)
    module = LitTransformer(model, objective, recipe.optim, sparsity, n_steps, guard)
    scalars = StepScalars(module.density, every(callbacks.log_every, n_steps))
    saver = Checkpoints(
        folder, checkpoints, pending, on_unhealthy=refuse_unhealthy, at_start=guard.config.policy == "rollback"
    )
    exports = every(callbacks.export_every or n_steps, n_steps) - {n_steps}
    set_arithmetic(trainer)
    if trainer.compile:
        model.compile()
    engine = L.Trainer(
        accelerator="gpu" if trainer.on_gpu else "cpu",
        devices=trainer.devices,
        num_nodes=trainer.nodes,
        strategy=strategy(trainer.strategy, trainer.n_ranks),
        precision={"32": "32-true", "bf16": "bf16-mixed"}[trainer.precision],  # pyright: ignore[reportArgumentType]
        max_steps=n_steps if stop_at_step is None else min(stop_at_step, n_steps),
        accumulate_grad_batches=trainer.accumulate,
        callbacks=[
            ResumeLogs(),
            RandomState(),
            SameRun(
                to_dict(recipe), recipe.optim, allow, {**export.facts, "trackers": kept_ids(folder) if loggers else {}}
            ),
            scalars,
            *reinitialisation(recipe.sparsity, n_steps, recipe.seed, stream, sparsity),
            *watchers,
            AtSteps("export", exports, export),
            AtSteps(
                "audit", every(guard.config.audit_every or n_steps, n_steps), partial(audit, sparsity), all_ranks=True
            ),
            *([Profiling(callbacks.profile_steps, folder)] if callbacks.profile_steps else []),
            *([ProgressBar()] if trainer.progress else []),
            saver,  # after everything that looks at a step, so that its checkpoint holds what they have seen
        ],
        plugins=[VerifiedIO(), *environment()],
        enable_checkpointing=False,
        logger=[MetricsCSV(folder / "metrics.csv"), *loggers],
        num_sanity_val_steps=0,
        limit_val_batches=0,
        enable_model_summary=False,
        enable_progress_bar=trainer.progress,
        use_distributed_sampler=False,
        default_root_dir=folder,
    )
    checkpoint = None if resume is None else str(resume)
    engine.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    if not engine.is_global_zero:
        return None
    step, model = module.global_step, module.model
    if sparsity is not None:
        sparsity.prepare(model)  # whole tensors again
        if step >= n_steps:
            sparsity.finalize()
    return Trained(
        model=model,
        step=step,
        complete=step >= n_steps,
        sparsity=sparsity,
        scalars=scalars,
        exporter=export,
    )
