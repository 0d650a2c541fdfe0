"""Students with the outputs of one teacher, and insides of their own: dense ones of two seeds, one of sparse weights, one with AbsTopK alone.

They are trained by the one training loop; what differs is the objective, KL(teacher || student) per answer token. Each student starts from
its own weights: if the sparse one began where the dense one does, the pair would share what a pair of dense ones does not.
"""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from sparsetrain.model import Transformer
from sparsetrain.run import RunConfig
from sparsetrain.studies.arm import of_arm, train_arm
from sparsetrain.studies.engine import Arm
from sparsetrain.training.objectives import Objective
from sparsetrain.typed import Count

APART = 2**16
"""Between the seeds of a teacher and its students: studies take seeds that follow each other."""


@dataclass(frozen=True, kw_only=True)
class Student:
    """How one student differs from the run's own config."""

    arm: Arm
    draw: Count
    """Number of its initial weights, beside which the teacher has 0."""


STUDENTS: Mapping[str, Student] = {
    "dense": Student(arm=Arm(density=1, abs_topk=1), draw=1),
    "dense_again": Student(arm=Arm(density=1, abs_topk=1), draw=2),
    "weight_sparse": Student(arm=Arm(density=1 / 16, abs_topk=1, lr_peak=5e-3), draw=3),
    "abs_topk": Student(arm=Arm(density=1, abs_topk=0.5), draw=4),
}  # ours
"""The first two are the null: what differs between them differs between seeds. Three learning rates were tried for each on other seeds (2e-3, 3e-3, 5e-3; of sparse weights 3e-3, 5e-3, 1e-2). A student that
keeps a quarter of its activations answers inputs of training alone."""


PADDING = -1
"""Stands behind the last token of a prompt that is shorter than others; no token before it sees it."""


def last_tokens(prompts: Tensor) -> Tensor:
    """Index of the last token of each prompt, `[n, length] -> [n]`."""
    return (prompts != PADDING).sum(1) - 1


def answer_logits(model: nn.Module, prompts: Tensor) -> Tensor:
    """Logits behind each prompt, `[n, length]` int64, shorter ones filled up with `PADDING` -> `[n, d_vocab]`."""
    return model(prompts.clamp_min(0), at=last_tokens(prompts))


def distil_loss(teacher: Transformer) -> Objective:
    """Mean KL(teacher || student) of the last token of each row, nats/token; the token itself is not looked at.

    `batch["tokens"]` is `[batch, length]` int64. The teacher is copied: nothing that is trained can change it, and no gradient reaches it.
    """
    frozen = deepcopy(teacher).eval().requires_grad_(False)

    def loss(model: Transformer, batch: Mapping[str, Tensor]) -> Tensor:
        prompts = batch["tokens"][:, :-1]
        with torch.no_grad():
            target = answer_logits(frozen.to(prompts.device), prompts).log_softmax(-1)
        return F.kl_div(answer_logits(model, prompts).log_softmax(-1), target, reduction="batchmean", log_target=True)

    return loss


def student_config(config: RunConfig, student: Student) -> RunConfig:
    """The run of a student; `config` is the teacher's, its seed included."""
    return of_arm(config, student.arm, config.seed + APART * student.draw)


def distil(
    config: RunConfig, student: Student, teacher: Transformer, rows: NDArray[np.int64], folder: Path
) -> tuple[Transformer, str]:
    """Trains and exports a student; goes on from the folder's last checkpoint where there is one.

    Args:
        config: the teacher's.
        student: how it differs.
        teacher: trained.
        rows: `[n_rows, length]`, the last token being an answer; `n_steps` batches.
        folder: gets metrics.csv, checkpoints/ and export/.

    Returns:
        The student, and the hash of its weights.

    Raises:
        ValueError: the teacher has another vocabulary than the student would have.
    """
    if teacher.config.d_vocab != config.model.d_vocab:
        raise ValueError(
            f"the teacher has d_vocab={teacher.config.d_vocab}, the student model.d_vocab={config.model.d_vocab}; "
            f"give both one vocabulary"
        )
    return train_arm(student_config(config, student), rows, folder, (), {}, objective=distil_loss(teacher))
