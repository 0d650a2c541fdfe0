"""The logits that a model, or its circuits, give to the two answers of pairs.

1. `run_answers`: one pass; runs (masks, seeds) folded into the batch axis, with whatever hooks are attached.
2. `pair_answers`: the model as it stands, batch by batch.
3. `Ablated`: many node circuits at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from circuits.edges import narrowed
from circuits.masks import NodeSpace, ablation_hooks
from circuits.tasks.loss import answer_logits
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import hooked

N_LENGTH_GROUPS = 4  # ours: groups of similar length into which evaluations split their pairs


def run_answers(model: nn.Module, sets: Sequence[PairSet]) -> Tensor:
    """Answer logits of runs folded into the batch axis: one pass, `[run, n, side, answer]` (all sets of equal size).

    The model maps tokens `[batch, pos]` and positions `[batch]` to logits `[batch, d_vocab]` and has hook points. Masks of as many runs must be attached. Runs that share their pairs may be given as the same set many times.
    """
    device = next(model.parameters()).device
    prompts = [pairs.prompts() for pairs in sets]
    n_pos = max(tokens.shape[1] for tokens, _ in prompts)
    rows = torch.cat([nn.functional.pad(tokens, (0, n_pos - tokens.shape[1])) for tokens, _ in prompts])
    logits = model(rows.to(device), torch.cat([last for _, last in prompts]).to(device))
    logits = logits.unflatten(0, (len(sets), -1, 2))
    if all(pairs.answers is sets[0].answers for pairs in sets):
        return answer_logits(logits, sets[0].answers.to(device))
    return torch.stack([answer_logits(x, p.answers.to(device)) for x, p in zip(logits, sets, strict=True)])


@torch.no_grad()
def pair_answers(model: nn.Module, pairs: PairSet, batch_size: int = 64) -> Tensor:
    """Uncalibrated answer logits of a pair set, as the model stands: `[n, side, answer]` float32 on the CPU."""
    return torch.cat([run_answers(model, [batch])[0].cpu() for batch in pairs.batches(batch_size)])


@dataclass(frozen=True, kw_only=True)
class Ablated:
    """A model whose deleted nodes emit fixed values: what searches and measurements of node circuits are functions of.

    Args:
        means: float `[n_nodes]`, what deleted nodes emit.
        max_rows: prompts per pass (at least one run's group is always taken whole).
    """

    model: nn.Module
    means: Tensor
    max_rows: int = 256

    @cached_property
    def space(self) -> NodeSpace:
        """The model's nodes."""
        return NodeSpace.of(self.model)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return next(self.model.parameters()).device

    @cached_property
    def values(self) -> Tensor:
        """`means` where the model runs."""
        return self.means.to(self.device)

    @torch.no_grad()
    def answers(self, keep: Tensor, pairs: PairSet | Sequence[PairSet], alive: Tensor | None = None) -> Tensor:
        """Answer logits of many node circuits, `[n_runs, n, side, answer]` on the CPU.

        Pairs are run in groups of similar length, so that little of a pass is padding.

        Args:
            keep: bool `[n_runs, n_nodes]`.
            pairs: one pair set for all runs, or one per run, all of one size.
            alive: float `[n_runs, n_nodes]`, see `circuits.masks.ablation_hooks`; None: deleted nodes emit their means.
        """
        sets = [pairs] * len(keep) if isinstance(pairs, PairSet) else pairs
        by_set: dict[int, list[tuple[PairSet, Tensor]]] = {}
        for own in sets:
            if id(own) not in by_set:
                orders = own.last.amax(1).argsort(stable=True).chunk(N_LENGTH_GROUPS)
                by_set[id(own)] = [(own.batch(order), order) for order in orders]
        answers = torch.empty(len(keep), len(sets[0]), 2, 2)
        for group, (part, _) in enumerate(by_set[id(sets[0])]):
            step = max(1, self.max_rows // (2 * len(part)))
            for start in range(0, len(keep), step):
                masks = keep[start : start + step].to(self.device)
                shares = None if alive is None else alive[start : start + step].to(self.device)
                used = masks if shares is None else masks | (shares > 0)
                parts = [by_set[id(own)][group] for own in sets[start : start + step]]
                with (
                    narrowed(self.model, self.space, used.any(0), self.values) as channels,
                    hooked(self.model, ablation_hooks(self.space, masks, self.values, channels, shares)),
                ):
                    found = run_answers(self.model, [own for own, _ in parts]).cpu()
                for run, (_, order) in enumerate(parts):
                    answers[start + run, order] = found[run]
        return answers
