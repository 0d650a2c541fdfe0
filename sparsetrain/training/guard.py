"""What happens when a training goes wrong: a loss or a gradient that is not finite, a loss that jumps, weights that explode.

1. Before each optimizer step `Guard.judge` sees the step's loss and gradient. The weights are still those of the step before.
2. `raise` ends the run. `skip` takes the step without a gradient. `rollback` returns to the newest checkpoint and never
   trains on that step's batches again.
3. A jump is a loss that is more than `spike` nats above the largest of the last `window` steps.

4. `audit` counts the nonzeros that the sparsity method has left.

Whatever the policy, weights that are not finite are never written to a checkpoint (`checkpoints.unhealthy`).
"""

import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sparsetrain.model import Transformer
from sparsetrain.sparsity import SparsityMethod
from sparsetrain.typed import Above0, Count

log = logging.getLogger(__name__)

Policy = Literal["raise", "skip", "rollback", "off"]


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """What is done about a step that went wrong. ours"""

    policy: Policy = "raise"
    """raise: end the run; skip: take the step without a gradient; rollback: return to the newest checkpoint and leave those batches out;
    off: do not look, so that the host never waits for a GPU (what is not healthy is not saved all the same)."""
    spike: Above0 | None = 4.0
    """A loss so many nats above the largest of the last `window` steps counts as wrong. None: only values that are not finite."""
    window: Count = 100
    """Steps that a loss is compared with; before there are so many, only values that are not finite count."""
    limit: Count = 10
    """After so many skipped steps or rollbacks the run ends: the settings are at fault, not a batch."""
    audit_every: Count | None = None
    """Steps between two counts of the nonzeros of every sparse tensor; one that has not exactly its budget ends the run. None: after the last step alone."""


class WrongStep(Exception):
    """A step went wrong, and the policy is to return to an earlier one.

    Args:
        step: optimizer steps taken before it.
        batches: numbers of its micro-batches.
        what: what was wrong.
        n_wrong: steps that were left out in this run, this one among them.
    """

    def __init__(self, step: int, batches: Sequence[int], what: str, n_wrong: int) -> None:
        super().__init__(what)
        self.step = step
        self.batches = tuple(batches)
        self.n_wrong = n_wrong


class Guard:
    """Judges steps; its memory of earlier losses rides in the checkpoint.

    Args:
        config: policy and limits.
        n_before: steps that were left out before, in this run.
    """

    def __init__(self, config: GuardConfig, n_before: int = 0) -> None:
        self.config = config
        self.n_wrong = n_before
        self._losses: deque[float] = deque(maxlen=config.window)

    def judge(self, step: int, batches: Sequence[int], loss: float, grad_rms: float) -> bool:
        """Whether the step may be taken.

        Args:
            step: optimizer steps taken before this one.
            batches: numbers of its micro-batches.
            loss: their mean loss, nats/token.
            grad_rms: of the gradient.

        Returns:
            True: take it. False: the policy is to take it without a gradient.

        Raises:
            FloatingPointError: something is wrong and the policy is to end the run, or the limit is reached.
            WrongStep: something is wrong and the policy is to roll back.
        """
        what = self._wrong(loss, grad_rms)
        if what is None:
            self._losses.append(loss)
            return True
        named = f"{what} at step {step} (batches {', '.join(map(str, batches))})"
        if self.config.policy == "raise":
            raise FloatingPointError(f"{named}; the weights are those before this step. {ADVICE}")
        self.n_wrong += 1
        if self.n_wrong > self.config.limit:
            raise FloatingPointError(
                f"{named}; {self.config.limit} steps were left out before (guard.limit), so the settings are at fault. {ADVICE}"
            )
        if self.config.policy == "rollback":
            raise WrongStep(step, batches, named, self.n_wrong)
        log.warning(
            "%s: the step is taken without a gradient (%d of at most %d)", named, self.n_wrong, self.config.limit
        )
        return False

    def _wrong(self, loss: float, grad_rms: float) -> str | None:
        if not math.isfinite(loss):
            return f"loss {loss} is not finite"
        if not math.isfinite(grad_rms):
            return f"gradient is not finite (loss {loss:.3f})"
        full = len(self._losses) == self.config.window
        if full and self.config.spike is not None and loss > (highest := max(self._losses)) + self.config.spike:
            return (
                f"loss {loss:.3f} is {loss - highest:.1f} nats above the largest of the last {self.config.window} steps"
            )
        return None

    def state_dict(self) -> dict[str, Any]:
        return {"losses": list(self._losses), "n_wrong": self.n_wrong}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._losses.extend(state_dict["losses"])
        self.n_wrong = max(self.n_wrong, state_dict["n_wrong"])


ADVICE = "Lower optim.lr_peak and resume with ckpt_path=last resume.allow=[optim.lr_peak], or leave such batches out with guard=rollback"


def refuse_unhealthy(step: int, what: str) -> None:
    """Ends a run whose weights can no longer be used; the checkpoints before stay.

    Raises:
        FloatingPointError: always.
    """
    raise FloatingPointError(
        f"after step {step} {what}: not finite or exploded, so this state is not saved; earlier checkpoints stay. {ADVICE}"
    )


def audit(sparsity: SparsityMethod | None, model: Transformer, step: int) -> None:
    """Counts the nonzeros of every sparse tensor of a model after so many steps.

    Raises:
        AssertionError: more than its budget, or a line without its floor in a training that began with dense weights.
    """
    for tensor in () if sparsity is None else sparsity.audit(step):
        assert tensor.nonzeros <= tensor.budget, (
            f"{tensor.name} has {tensor.nonzeros} nonzeros after step {step}, {tensor.budget} allowed"
        )
        assert tensor.kept is None or tensor.kept == tensor.budget, (
            f"{tensor.name} keeps {tensor.kept} positions after step {step}, {tensor.budget} asked for"
        )
        if not tensor.floor_kept:
            short = f"a line of {tensor.name} has fewer than {tensor.floor} nonzeros after step {step}"
            assert tensor.from_sparse, short
            log.warning(
                "%s: it may have had as few in the weights of init_from, where no gradient reaches a dead unit", short
            )
