"""The one way to see or touch an activation.

1. A `HookPoint` is an identity module in the model tree; its name is its module path.
2. `hooked(model, {name: fn})` attaches functions `fn(x, hook_point) -> x` and always detaches them.
3. A `NodeId` names one channel of a hook point; it is written and parsed here and nowhere else.
4. Recording, mean ablation, masking, patching, steering: each is such a function. Nobody writes a second forward pass.

Functions at one point run in the order in which they were attached; each sees what the one before returned.
Hooked passes run eagerly even when the model is compiled, so a hook attached late is never ignored.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from threading import Lock

import torch
from torch import Tensor, nn

NODE_KINDS = ("attn_in", "attn_q", "attn_k", "attn_v", "attn_out", "mlp_in", "mlp_neuron", "mlp_out")
"""The eight places whose channels are the nodes of a circuit (Gao et al. 2025, section 2.2), in forward order."""

WATCH_KINDS = ("resid", "norm_scale", "norm")
"""Places that are watched (or frozen) but never nodes: residual stream before the norm, 1/rms, normed without gain."""

FOREIGN_KINDS = ("attn_z",)
"""Places that models of other people have and ours do not: what an attention hands to its output projection, head by head."""

HookFn = Callable[[Tensor, "HookPoint"], Tensor]


@dataclass(frozen=True)
class NodeId:
    """A node: one channel of a hook point whose channels are nodes. Written `blocks.0.mlp.hook_neuron:17`."""

    point: str
    channel: int

    @classmethod
    def parse(cls, text: str) -> "NodeId":
        """Inverse of `str`.

        Raises:
            ValueError: a text of another form.
        """
        point, _, channel = text.rpartition(":")
        if not point or not channel.removeprefix("-").isdecimal():
            raise ValueError(
                f"no node {text!r}: unknown hook point or channel; a node is <hook point>:<channel>, e.g. blocks.0.mlp.hook_neuron:17"
            )
        return cls(point, int(channel))

    def __str__(self) -> str:
        return f"{self.point}:{self.channel}"

    @property
    def layer(self) -> int:
        """Number of its block."""
        return int(self.point.split(".")[1])

    @property
    def kind(self) -> str:
        """One of `NODE_KINDS` or `FOREIGN_KINDS`."""
        _, _, part, hook = self.point.split(".")
        return f"{part}_{hook.removeprefix('hook_')}"


class HookPoint(nn.Module):
    """Identity on `[batch, pos, width]`, unless functions are attached.

    Args:
        kind: one of `NODE_KINDS`, `WATCH_KINDS` or `FOREIGN_KINDS`.
        width: size of the last axis.
        is_node: whether its channels are nodes of a circuit; None: as its kind says.
    """

    def __init__(self, kind: str, width: int, is_node: bool | None = None) -> None:
        super().__init__()
        assert kind in NODE_KINDS + WATCH_KINDS + FOREIGN_KINDS, kind
        self.kind = kind
        self.width = width
        self.is_node = kind in NODE_KINDS if is_node is None else is_node
        self.name = ""
        self.fns: list[HookFn] = []

    def forward(self, x: Tensor) -> Tensor:
        for fn in self.fns:
            x = fn(x, self)
        return x

    def extra_repr(self) -> str:
        return f"{self.kind}, width={self.width}"


def name_hook_points_(model: nn.Module) -> None:
    """Gives every hook point of `model` its module path as name; called once at the end of a model's `__init__`."""
    for name, module in model.named_modules():
        if isinstance(module, HookPoint):
            module.name = name


def hook_points(model: nn.Module) -> dict[str, HookPoint]:
    """All hook points by name, in forward order."""
    model = getattr(model, "_orig_mod", model)
    return {module.name: module for module in model.modules() if isinstance(module, HookPoint)}


def node_points(model: nn.Module) -> dict[str, HookPoint]:
    """The hook points whose channels are circuit nodes, by name, in forward order."""
    return {name: point for name, point in hook_points(model).items() if point.is_node}


def select_points(model: nn.Module, names: Iterable[str]) -> dict[str, HookPoint]:
    """The named hook points.

    Raises:
        KeyError: a name that does not exist; the message lists the nearest ones.
    """
    points = hook_points(model)
    selected = {}
    for name in names:
        if name not in points:
            near = get_close_matches(name, points, n=5, cutoff=0.4) or list(points)[:5]
            raise KeyError(f"no hook point named {name!r}; near names: {', '.join(near)}")
        selected[name] = points[name]
    return selected


class _Eager:
    """Hooked passes run eagerly. torch has one stance for the whole process, so of several threads the first sets it and the last puts it back."""

    def __init__(self) -> None:
        self._lock, self._n_inside, self._stance = Lock(), 0, ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            # Only a process that has imported dynamo can hold a compiled model, and importing it costs seconds.
            if self._n_inside == 0 and "torch._dynamo" in sys.modules:
                self._stance.enter_context(torch.compiler.set_stance("force_eager"))
            self._n_inside += 1

    def __exit__(self, *raised: object) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0:
                self._stance.close()


_eager = _Eager()


@contextmanager
def hooked(model: nn.Module, fns: Mapping[str, HookFn]) -> Iterator[None]:
    """Attaches `fns[name]` to the hook point of that name for the length of the block.

    Args:
        model: any module that holds named hook points, compiled or not.
        fns: hook point name -> `fn(x, hook_point) -> x`, `x` of shape `[batch, pos, width]`, after AbsTopK.

    Raises:
        KeyError: a name that does not exist; the message lists the nearest ones. Nothing is attached then.
    """
    points = select_points(model, fns)
    for name, point in points.items():
        point.fns.append(fns[name])
    try:
        with _eager:
            yield
    finally:
        for name, point in points.items():
            # By identity and from the end: the same function may be attached twice by nested blocks.
            index = max(i for i, fn in enumerate(point.fns) if fn is fns[name])
            del point.fns[index]


def record(model: nn.Module, tokens: Tensor, names: Iterable[str], *more: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Runs the model once and keeps what passes the named hook points.

    Args:
        model: a model that maps tokens `[batch, pos]` (int64) to logits `[batch, pos, d_vocab]`.
        tokens: `[batch, pos]` int64.
        names: hook point names.
        more: what the model takes after the tokens.

    Returns:
        The logits, and per name the value `[batch, pos, width]` as the model uses it (part of the autograd graph).
    """
    seen: dict[str, Tensor] = {}

    def keep(x: Tensor, point: HookPoint) -> Tensor:
        seen[point.name] = x
        return x

    with hooked(model, dict.fromkeys(names, keep)):
        logits = model(tokens, *more)
    return logits, seen
