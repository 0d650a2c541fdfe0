"""What every attention head hands to its output projection, to see and to change; and which heads move an answer.

1. In models of other people that is the hook point `attn.hook_z`. Ours have none: z is computed from the queries, keys and values that
   pass in the same run, and a changed z changes `attn.hook_out` by what the output projection makes of the difference.
2. The effect of a head on a case: the margin towards the context's answer with the head less the margin without it (z = 0 at all
   positions). Positive: the head moves towards the context; negative: towards memory.
3. `first_order`: z . d margin / d z, all heads in one backward pass, exact where the answer is linear in the head. `exact`: a run per head.

Source: Nanda 2023, Attribution patching (first order); Yu et al. 2023, section 5, and Ortu et al. 2024, section 5 (heads by direct effect).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from circuits.prior.asking import Asks, Subject, over
from circuits.prior.cases import Case, Form
from sparsetrain.adapters.hugging_face import HookedHubModel
from sparsetrain.hooks import HookFn, HookPoint, hook_points
from sparsetrain.kernels import abs_topk
from sparsetrain.model import Attention, Block, Transformer
from sparsetrain.representation.items import Arrays

How = Literal["first_order", "exact"]
ChangeHeads = Callable[[Tensor, int], Tensor]
"""z `[batch, pos, head, d_head]` of a layer (an index into `Heads.layers`) -> what it is to be; the same object: untouched."""


@dataclass(frozen=True, kw_only=True)
class Heads:
    """The attention heads of a model.

    Args:
        layers: names of the attentions that are shown, `blocks.0.attn`, in forward order.
        n_head: of each.
    """

    model: nn.Module
    layers: tuple[str, ...]
    n_head: int

    @classmethod
    def of(cls, model: nn.Module) -> "Heads":
        """The heads of ours or of a model of somebody else.

        Raises:
            ValueError: the model shows no heads, or not as many in every block.
        """
        model = getattr(model, "_orig_mod", model)
        if isinstance(model, Transformer):
            layers = tuple(f"blocks.{i}.attn" for i in range(model.config.n_layer))
            return cls(model=model, layers=layers, n_head=model.config.heads)
        points = [name for name, point in hook_points(model).items() if point.kind == "attn_z"]
        d_head = model.d_head if isinstance(model, HookedHubModel) else None
        if not points or d_head is None:
            raise ValueError(
                "the model shows no attention heads (blocks.<i>.attn.hook_z), or not as many in every block"
            )
        n_head = hook_points(model)[points[0]].width // d_head
        return cls(model=model, layers=tuple(name.removesuffix(".hook_z") for name in points), n_head=n_head)

    @property
    def n(self) -> int:
        """All heads."""
        return len(self.layers) * self.n_head

    def name(self, number: int) -> str:
        """Number -> `blocks.3.attn head 5`; heads are numbered layer by layer."""
        layer, head = divmod(number, self.n_head)
        return f"{self.layers[layer]} head {head}"

    def hooks(self, change: ChangeHeads, layers: Iterable[int] | None = None) -> dict[str, HookFn]:
        """Hooks for one pass in which `change` sees, and may change, the heads of some layers (None: of all).

        Together with hooks at queries, keys or values they must be attached last.
        """
        hooks: dict[str, HookFn] = {}
        for layer in range(len(self.layers)) if layers is None else sorted(set(layers)):
            if isinstance(self.model, Transformer):
                hooks |= self._ours(change, layer)
            else:
                hooks[f"{self.layers[layer]}.hook_z"] = self._others(change, layer)
        return hooks

    def _others(self, change: ChangeHeads, layer: int) -> HookFn:
        def hook(x: Tensor, point: HookPoint) -> Tensor:
            z = rearrange(x, "batch pos (head d) -> batch pos head d", head=self.n_head)
            changed = change(z, layer)
            return x if changed is z else rearrange(changed, "batch pos head d -> batch pos (head d)")

        return hook

    def _ours(self, change: ChangeHeads, layer: int) -> dict[str, HookFn]:
        assert isinstance(self.model, Transformer)
        attention: Attention = cast(Block, self.model.blocks[layer]).attn
        seen: dict[str, Tensor] = {}

        def keep(x: Tensor, point: HookPoint) -> Tensor:
            seen[point.kind] = x
            return x

        def written(z: Tensor) -> Tensor:
            return abs_topk(
                attention.W_o(rearrange(z, "batch pos head d -> batch pos (head d)")), attention.k["attn_out"]
            )

        def hook(x: Tensor, point: HookPoint) -> Tensor:
            q, k, v = (
                rearrange(seen.pop(kind), "batch pos (head d) -> batch head pos d", head=self.n_head)
                for kind in ("attn_q", "attn_k", "attn_v")
            )
            z = rearrange(attention.attend(q, k, v, attention.sink), "batch head pos d -> batch pos head d")
            changed = change(z, layer)
            return x if changed is z else x + (written(changed) - written(z))

        name = self.layers[layer]
        return {f"{name}.hook_{part}": keep for part in "qkv"} | {f"{name}.hook_out": hook}

    def scaled(self, factors: NDArray[np.float64]) -> dict[str, HookFn]:
        """Hooks that multiply what heads hand on, at all positions; `[n]`, 0 knocks a head out."""
        by_layer = torch.from_numpy(factors).float().reshape(len(self.layers), self.n_head)
        touched = [layer for layer, row in enumerate(by_layer) if (row != 1).any()]
        return self.hooks(lambda z, layer: z * by_layer[layer].to(z)[:, None], touched)


def drawn_heads(n: int, chosen: Sequence[int], seed: int) -> NDArray[np.int64]:
    """Heads in an order drawn by lot, `[n]`: those that were not chosen first, so that a control takes the others where there are enough."""
    order = np.random.default_rng(seed).permutation(n)
    return np.concatenate([order[~np.isin(order, chosen)], order[np.isin(order, chosen)]])


def head_effects(subject: Subject, heads: Heads, cases: Sequence[Case], form: Form, how: How = "first_order") -> Arrays:
    """The effect of every head on the margin towards the context's answer, nats/token: `{"effects": [n_cases, n_heads]}`.

    Args:
        cases: that have the form.
        form: of the prompts.
        how: see the module.
    """

    def read(numbers: Sequence[int]) -> Arrays:
        asks = Asks([cases[i] for i in numbers])
        effects = (
            _first_order(subject, heads, asks, form) if how == "first_order" else _exact(subject, heads, asks, form)
        )
        return {"effects": effects.double().numpy()}

    return over(cases, read, subject.batch_size)


def _exact(subject: Subject, heads: Heads, asks: Asks, form: Form) -> Tensor:
    rows = asks.rows(form)
    whole, effects = asks.margins(subject.logits(rows).double()), torch.zeros(len(asks.cases), heads.n)
    for number in range(heads.n):
        factors = np.ones(heads.n)
        factors[number] = 0
        effects[:, number] = whole - asks.margins(subject.logits(rows, heads.scaled(factors)).double())
    return effects


def _first_order(subject: Subject, heads: Heads, asks: Asks, form: Form) -> Tensor:
    rows = asks.rows(form)
    added: dict[int, Tensor] = {}
    seen: dict[int, Tensor] = {}

    def add(z: Tensor, layer: int) -> Tensor:
        seen[layer], added[layer] = z.detach(), torch.zeros_like(z, requires_grad=True)
        return z + added[layer]

    margins = asks.margins(subject.differentiable(rows, heads.hooks(add)))
    grads = torch.autograd.grad(margins.sum(), [added[layer] for layer in range(len(heads.layers))])
    by_row = torch.stack(
        [(seen[layer] * grad).sum((1, 3)) for layer, grad in enumerate(grads)], 1
    )  # [row, layer, head]
    by_case = torch.zeros(len(asks.cases), *by_row.shape[1:], dtype=torch.float32)
    return by_case.index_add(0, rows.owner, by_row.float().cpu()).flatten(1)
