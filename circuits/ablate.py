"""Try a hypothesis by hand: change named nodes on one prompt and see what happens to the next token.

Modes: `zero` sets the nodes to zero, `mean` to their mean over pretraining text, `resample` to what they were at random
places of such text (averaged over draws; nodes of one draw come from one place), `patch` to what they are on another
prompt of the same length, position by position.

Nodes are named `blocks.0.mlp.hook_neuron:17`, a range `...:3-7`, a whole hook point `...:all`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from circuits.masks import NodeSpace
from circuits.means import Means
from sparsetrain.hooks import HookFn, HookPoint, NodeId, hooked, record
from sparsetrain.model import Transformer

Mode = Literal["zero", "mean", "resample", "patch"]


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """Next-token probabilities of one prompt before and after.

    Args:
        nodes: ids of the nodes changed.
        mode: how.
        before: `[d_vocab]`, sums to 1.
        after: `[d_vocab]`, sums to 1.
    """

    nodes: tuple[str, ...]
    mode: Mode
    before: Tensor
    after: Tensor

    def top(self, n: int) -> list[tuple[int, float, float]]:
        """The n likeliest tokens before or after, as (id, before, after), likeliest first."""
        ids = torch.maximum(self.before, self.after).topk(min(n, len(self.before))).indices.tolist()
        return [(i, float(self.before[i]), float(self.after[i])) for i in ids]


def parse_nodes(space: NodeSpace, names: Sequence[str]) -> Tensor:
    """Node names -> bool `[n_nodes]`.

    Args:
        names: ids `point:17`, ranges `point:3-7` (both ends included), whole hook points `point:all`.

    Raises:
        ValueError: no name, an unknown hook point (near names are listed) or channel (the range is).
    """
    if not names:
        raise ValueError("no nodes to ablate; name some, e.g. nodes=blocks.0.mlp.hook_neuron:17")
    chosen = torch.zeros(space.n_nodes, dtype=torch.bool)
    for name in names:
        point, _, channel = name.rpartition(":")
        if channel == "all":
            space.number(NodeId(point, 0))  # refuses unknown points
            chosen[space.slice(point)] = True
            continue
        first, dash, last = name.rpartition("-")
        if dash and first.endswith(":"):  # a channel below 0
            first, dash = name, ""
        start = space.number(first if dash else name)
        stop = space.number(NodeId.parse(first).point + ":" + last) if dash else start
        if stop < start:
            raise ValueError(f"node range {name!r} is empty; write the smaller channel first")
        chosen[start : stop + 1] = True
    return chosen


@torch.no_grad()
def ablate(
    model: Transformer,
    tokens: Tensor,
    nodes: Sequence[str],
    mode: Mode,
    *,
    means: Means | None = None,
    windows: Tensor | None = None,
    patch_tokens: Tensor | None = None,
    n_draws: int = 32,
    seed: int = 0,
) -> Ablation:
    """Runs a prompt with and without a change to some nodes.

    Args:
        tokens: int64 `[pos]`, the prompt.
        nodes: see `parse_nodes`.
        mode: zero, mean (needs `means`), resample (needs `windows`) or patch (needs `patch_tokens`).
        means: mean activations of the model.
        windows: int64 `[n, pos']`, text to resample from.
        patch_tokens: int64 `[pos]`, the other prompt.
        n_draws: draws of resample; the probabilities are averaged over them.
        seed: of the draws.

    Raises:
        ValueError: an unknown node or mode, something the mode needs is missing, or prompts of different lengths.
    """
    if mode not in get_args(Mode):
        raise ValueError(f"unknown mode {mode!r}; allowed: {', '.join(get_args(Mode))}")
    space = NodeSpace.of(model)
    chosen = parse_nodes(space, nodes)
    masks = {name: part for name, part in space.split(chosen).items() if part.any()}
    device = next(model.parameters()).device
    prompt = tokens[None].to(device)
    n_rows = n_draws if mode == "resample" else 1
    values: dict[str, Tensor] = {}
    if mode == "zero":
        values = {name: torch.zeros(len(mask)) for name, mask in masks.items()}
    elif mode == "mean":
        if means is None:
            raise ValueError("mode=mean needs the mean activations of the model")
        values = {name: part for name, part in space.split(means.values).items() if name in masks}
    elif mode == "resample":
        if windows is None:
            raise ValueError("mode=resample needs text to resample from")
        _, seen = record(model, windows.to(device), masks)
        generator = torch.Generator().manual_seed(seed)
        places = torch.randint(windows.numel(), (n_draws, len(tokens)), generator=generator).to(device)
        values = {name: x.flatten(0, 1)[places] for name, x in seen.items()}
    else:
        if patch_tokens is None:
            raise ValueError("mode=patch needs another prompt to take the values from")
        if len(patch_tokens) != len(tokens):
            raise ValueError(
                f"mode=patch needs prompts of equal length; the prompt has {len(tokens)} tokens, the other one "
                f"{len(patch_tokens)}: change the wording until they agree"
            )
        _, values = record(model, patch_tokens[None].to(device), masks)
    hooks = {name: _put(masks[name].to(device), value.to(device)) for name, value in values.items()}
    last = torch.full((n_rows,), len(tokens) - 1, device=device)
    before = model(prompt, last[:1]).softmax(-1)
    with hooked(model, hooks):
        after = model(prompt.expand(n_rows, -1), last).softmax(-1)
    ids = tuple(space.id(number) for number in chosen.nonzero().flatten().tolist())
    return Ablation(nodes=ids, mode=mode, before=before[0].cpu(), after=after.mean(0).cpu())


def _put(mask: Tensor, value: Tensor) -> HookFn:
    def put(x: Tensor, point: HookPoint) -> Tensor:
        return torch.where(mask, value.to(x.dtype), x)

    return put
