"""Any Hugging Face causal model with hook points named as in our own models.

1. Nothing is looked up by architecture. A short pass with a few tokens shows which modules run, what goes in and what
   comes out: the blocks are the largest `ModuleList`; a norm belongs to whatever reads its output.
2. `blocks.<i>.attn.norm.hook_resid` is the residual stream before the norm, `...hook_norm` behind it without its gain,
   `blocks.<i>.attn.hook_in` behind the gain; `hook_out` what is added to the stream; the same for `mlp`, with
   `mlp.hook_neuron` and `attn.hook_z` (the heads' channels) in front of the last projection; `final_norm` before the unembedding.
3. What is claimed is checked in that pass: norm x gain must give the norm's output, stream + `attn.hook_out` +
   `mlp.hook_out` the block's, the last projection the attention's. What does not hold is left out, with the reason.
4. Functions come and go through `sparsetrain.hooks.hooked`, as everywhere. Torch's hooks hang on the model during a
   forward pass only, at points that have functions only, and are always taken off.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from sparsetrain.hooks import HookPoint

N_PROBE = 8
"""Tokens of the pass that finds the modules."""
CIRCUIT_KINDS = ("attn_z", "mlp_neuron")
"""The places whose channels are nodes of a circuit in a dense model: those with a basis of their own, unlike the residual stream."""
MAX_MLP_PROJECTIONS = 3
"""Gate, up and down; more are a mixture of experts, which has no one layer of neurons."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 3e-3}
"""Relative error up to which two ways to compute the same count as equal."""

PAST_KEYS = ("cache", "past_key_values")
"""What versions of transformers call the keys and values that a model goes on from."""

Place = Literal["input", "normed", "output"]


@dataclass(frozen=True, kw_only=True)
class Norm:
    """How a norm module computes: (x - mean) / sqrt(var + eps), or without the mean, times gain, plus bias."""

    centred: bool
    eps: float
    gain: Tensor | None
    bias: Tensor | None

    def normalise(self, x: Tensor) -> Tensor:
        """Without gain and bias, `[..., width]`; statistics in float32."""
        y = x.float()
        y = y - y.mean(-1, keepdim=True) if self.centred else y
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)

    def rescale(self, normed: Tensor) -> Tensor:
        """Gain and bias put back."""
        y = normed if self.gain is None else normed * self.gain
        return y if self.bias is None else y + self.bias


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where the activation of a hook point is found."""

    kind: str
    width: int
    module: nn.Module
    place: Place
    norm: Norm | None = None
    """Of a place "normed"."""


@dataclass(frozen=True, kw_only=True)
class Sites:
    """What an architecture shows."""

    sites: dict[str, Site]
    """Hook point name -> where it is, in forward order."""
    left_out: dict[str, str]


class HookedHubModel(nn.Module):
    """A Hugging Face causal model: tokens `[batch, pos]` int64 -> logits `[batch, pos, d_vocab]` float32.

    With `at` (`[batch]`, int64) the logits at that position of each row: `[batch, d_vocab]`. With `past`, what `begin` gave, the tokens
    follow those that it read; it is left as it was, so that many ways to go on can be tried.

    Args:
        hub: the model; it is put into eval mode and its weights are frozen.

    Raises:
        ValueError: it does not run on plain tokens, looks ahead, changes its hidden size between layers, or shows no
            hook point.
    """

    def __init__(self, hub: nn.Module) -> None:
        super().__init__()
        self.hub = hub.eval().requires_grad_(False)
        settings = cast(Any, hub).config.get_text_config()
        self.n_ctx: int | None = getattr(settings, "max_position_embeddings", None)
        self.d_vocab = int(settings.vocab_size)
        takes = inspect.signature(cast(Any, hub).forward).parameters
        self._past_key = next((key for key in PAST_KEYS if key in takes), None)
        # Where only keys and values are asked for, logits of one position spare the unembedding of all others.
        self._fewest_logits = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._n_head: int | None = getattr(settings, "num_attention_heads", None)
        found = locate(self._run, hub, min(N_PROBE, self.n_ctx or N_PROBE), self.d_vocab)
        self.left_out = found.left_out
        self._sites = found.sites
        self.points = nn.ModuleList()
        for name, site in found.sites.items():
            point = HookPoint(site.kind, site.width, is_node=site.kind in CIRCUIT_KINDS)
            point.name = name
            self.points.append(point)

    def norm_gain(self, point: str) -> Tensor | None:
        """The gain of the norm behind a hook point of kind `norm`, `[width]`; None: it has none."""
        norm = self._sites[point].norm
        return None if norm is None else norm.gain

    @property
    def d_head(self) -> int | None:
        """Channels of a head at `attn.hook_z`; None: not known, or not the same in every block."""
        widths = {site.width for site in self._sites.values() if site.kind == "attn_z"}
        return widths.pop() // self._n_head if len(widths) == 1 and self._n_head else None

    @property
    def max_positions(self) -> int | None:
        """Most positions it can read; None: any number."""
        return self.n_ctx

    def begin(self, tokens: Tensor) -> Any:
        """Keys and values of tokens `[batch, pos]`, for `forward(past=)`; None: the model keeps none."""
        if self._past_key is None:
            return None
        seen = torch.ones_like(tokens)
        read = self.hub(input_ids=tokens, attention_mask=seen, use_cache=True, **self._fewest_logits)
        return getattr(read, self._past_key)

    def forward(self, tokens: Tensor, at: Tensor | None = None, past: Any = None) -> Tensor:
        n_pos = tokens.shape[1] + (0 if past is None else int(past.get_seq_length()))
        if self.n_ctx is not None and n_pos > self.n_ctx:
            raise ValueError(f"{n_pos} positions, but the model reads {self.n_ctx}; shorten the input")
        active = [point for point in self.points if isinstance(point, HookPoint) and point.fns]
        with ExitStack() as stack:
            for point in active:
                stack.enter_context(_calling(point, self._sites[point.name], tokens.shape))
            logits = self._run(tokens) if past is None else self._go_on(tokens, past)
        return logits if at is None else logits[torch.arange(len(tokens), device=tokens.device), at]

    def _run(self, tokens: Tensor) -> Tensor:
        return self.hub(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits.float()

    def _go_on(self, tokens: Tensor, past: Any) -> Tensor:
        seen = torch.ones(
            len(tokens), past.get_seq_length() + tokens.shape[1], dtype=tokens.dtype, device=tokens.device
        )
        assert self._past_key is not None
        kept = {self._past_key: deepcopy(past)}
        return self.hub(input_ids=tokens, attention_mask=seen, use_cache=True, **kept).logits.float()


@contextmanager
def _calling(point: HookPoint, site: Site, shape: torch.Size) -> Iterator[None]:
    """A torch hook on the site's module that passes its activation through the hook point, for the length of the block."""

    def through(x: Tensor) -> Tensor:
        # Some models flatten batch and position in front of their MLP.
        value = x if x.shape[:-1] == shape else x.reshape(*shape, x.shape[-1])
        changed = point(value)
        # A hook that asks for gradients has made of the value what the rest must be computed from.
        return x if changed is value and (value is x or not value.requires_grad) else changed.reshape(x.shape)

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        key = _hidden_key(args, kwargs)
        if isinstance(key, int):
            return (*args[:key], through(args[key]), *args[key + 1 :]), kwargs
        return args, {**kwargs, key: through(kwargs[key])}

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if site.norm is None:
            first = through(_first(output))
            return first if torch.is_tensor(output) else (first, *output[1:])
        normed = site.norm.normalise(_hidden(args, kwargs))
        changed = through(normed)
        # Watching must leave the model's own rounding alone.
        return output if changed is normed else site.norm.rescale(changed).to(output.dtype)

    if site.place == "input":
        handle = site.module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = site.module.register_forward_hook(after, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _hidden_key(args: Sequence[Any], kwargs: dict[str, Any]) -> int | str:
    """Where the hidden states stand among the arguments of a module."""
    if "hidden_states" in kwargs:
        return "hidden_states"
    return next(i for i, value in enumerate(args) if torch.is_tensor(value))


def _hidden(args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    key = _hidden_key(args, kwargs)
    return args[key] if isinstance(key, int) else kwargs[key]


def _first(output: Any) -> Tensor:
    return output if torch.is_tensor(output) else output[0]


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One call of a module in the probing pass."""

    module: nn.Module
    input: Tensor
    output: Tensor


@contextmanager
def _calls(modules: Sequence[nn.Module]) -> Iterator[list[_Call]]:
    """Collects the calls of modules, in the order in which they end."""
    calls: list[_Call] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if "hidden_states" in kwargs or any(map(torch.is_tensor, args)):
            calls.append(_Call(module=module, input=_hidden(args, kwargs), output=_first(output)))

    handles = [module.register_forward_hook(keep, with_kwargs=True) for module in modules]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


def locate(run: Callable[[Tensor], Tensor], hub: nn.Module, n_probe: int, d_vocab: int) -> Sites:
    """Finds the hook points of a model by running it on a few tokens.

    Args:
        run: tokens `[1, n_probe]` -> logits.
        hub: the model.
        n_probe: tokens of the pass.
        d_vocab: ids go from 0 to d_vocab - 1.

    Raises:
        ValueError: as `HookedHubModel`.
    """
    architecture = type(hub).__name__
    weight = next(hub.parameters())
    tokens = torch.arange(n_probe, device=weight.device)[None] % d_vocab
    other = tokens.clone()
    other[0, -1] = (other[0, -1] + 1) % d_vocab
    try:
        with torch.no_grad(), _calls(list(hub.modules())) as calls:
            logits = run(tokens)
        with torch.no_grad():
            again = run(other)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ValueError(f"{architecture} does not run on plain tokens: {str(error).splitlines()[0]}") from error
    tolerance = TOLERANCE.get(weight.dtype, 3e-2)
    if _distance(logits[:, :-1], again[:, :-1]) > tolerance:
        raise ValueError(
            f"{architecture} looks ahead: its logits change with a later token. Give a causal language model"
        )
    lists = [module for module in hub.modules() if isinstance(module, nn.ModuleList) and len(module)]
    if not lists:
        raise ValueError(f"{architecture} has no list of blocks (nn.ModuleList), so no hook point can be found in it")
    blocks = list(max(lists, key=lambda module: sum(p.numel() for p in module.parameters())))
    found = _Found(calls, tolerance)
    for i, block in enumerate(blocks):
        found.add_block(f"blocks.{i}", block)
    inside = {id(module) for block in blocks for module in block.modules()}
    ends = [i for i, call in enumerate(calls) if call.module is blocks[-1]]
    final = (
        [call for call in calls[ends[-1] + 1 :] if _is_norm(call.module) and id(call.module) not in inside]
        if ends
        else []
    )
    if final:
        found.streams["final_norm"] = final[-1].input.shape[-1]
        found.add_norm("final_norm", final[-1], None)
    else:
        found.left_out["final_norm"] = "no norm runs behind the last block"
    first = next(iter(found.streams), "")
    for name, width in found.streams.items():
        if width != found.streams[first]:
            raise ValueError(
                f"the hidden size of {architecture} changes between layers: {found.streams[first]} at {first}, {width} at "
                f"{name}; sparsity is compared over layers of one width only"
            )
    if not found.sites:
        reasons = "; ".join(dict.fromkeys(found.left_out.values()))
        raise ValueError(f"no hook point found in {architecture}: {reasons}")
    return Sites(sites=found.sites, left_out=found.left_out)


class _Found:
    """Hook points gathered from the calls of one pass."""

    def __init__(self, calls: Sequence[_Call], tolerance: float) -> None:
        self.calls = calls
        self.tolerance = tolerance
        self.sites: dict[str, Site] = {}
        self.left_out: dict[str, str] = {}
        self.streams: dict[str, int] = {}
        """Block, or the final norm -> width of the residual stream that it reads."""

    def call_of(self, module: nn.Module | None) -> _Call | None:
        """The last call of a module."""
        return next((call for call in reversed(self.calls) if call.module is module), None)

    def add_block(self, name: str, block: nn.Module) -> None:
        """The points of one block."""
        whole = self.call_of(block)
        if whole is None:
            self.left_out[name] = "the block does not run on plain tokens"
            return
        self.streams[name] = whole.input.shape[-1]
        norms = [call for child in block.children() if _is_norm(child) and (call := self.call_of(child))]
        attention, reader, writer = _parts(block)
        attn, mlp_in, mlp_out = (self.call_of(module) for module in (attention, reader, writer))
        written = [call.output for call in (attn, mlp_out) if call is not None]
        width = whole.output.shape[-1]
        adds_up = (
            all(part.numel() == whole.output.numel() for part in (whole.input, *written))
            and _farthest(whole.input + sum(part.reshape(whole.input.shape) for part in written), whole.output)
            <= self.tolerance
        )
        used: set[int] = set()
        for part, reads, writes in (("attn", attn, attn), ("mlp", mlp_in, mlp_out)):
            if reads is None or writes is None:
                self.left_out[f"{name}.{part}"] = (
                    f"no {'attention' if part == 'attn' else 'MLP'} found in {type(block).__name__}"
                )
                continue
            norm = next((call for call in norms if call.output is reads.input), None)
            if norm is None or id(norm.module) in used:
                reason = "its input is not the output of a norm of the block"
                reason = reason if norm is None else "it reads the same norm as the attention"
                self.left_out |= {f"{name}.{part}.norm": reason, f"{name}.{part}.hook_in": reason}
            else:
                used.add(id(norm.module))
                self.add_norm(f"{name}.{part}.norm", norm, f"{name}.{part}.hook_in")
            if part == "attn":
                self.add_heads(f"{name}.attn.hook_z", reads)
            else:
                self.add_neurons(f"{name}.mlp.hook_neuron", cast(nn.Module, writer), width)
            if adds_up:
                self.sites[f"{name}.{part}.hook_out"] = Site(
                    kind=f"{part}_out", width=width, module=writes.module, place="output"
                )
            else:
                self.left_out[f"{name}.{part}.hook_out"] = "stream + attention + MLP is not the output of the block"

    def add_norm(self, name: str, call: _Call, gained: str | None) -> None:
        """The residual stream before a norm, behind it without gain, and (`gained`) with it."""
        width = call.input.shape[-1]
        self.sites[f"{name}.hook_resid"] = Site(kind="resid", width=width, module=call.module, place="input")
        norm = understand_norm(call.module, call.input, call.output, self.tolerance)
        if norm is None:
            self.left_out[f"{name}.hook_norm"] = (
                f"{type(call.module).__name__} is neither LayerNorm nor RMSNorm times a gain"
            )
        else:
            self.sites[f"{name}.hook_norm"] = Site(
                kind="norm", width=width, module=call.module, place="normed", norm=norm
            )
        if gained is not None:
            kind = "attn_in" if gained.endswith("attn.hook_in") else "mlp_in"
            self.sites[gained] = Site(kind=kind, width=width, module=call.module, place="output")

    def add_heads(self, name: str, attention: _Call) -> None:
        """What goes into the output projection of an attention: its heads' channels, one head behind the other."""
        inside = [module for module in attention.module.modules() if _is_projection(module)]
        ran = [call for call in self.calls if any(call.module is module for module in inside)]
        last = ran[-1] if ran else None
        if (
            last is None
            or last.output.numel() != attention.output.numel()
            or _distance(last.output.reshape(attention.output.shape), attention.output) > self.tolerance
        ):
            self.left_out[name] = "no projection of the attention gives its output"
        else:
            self.sites[name] = Site(kind="attn_z", width=last.input.shape[-1], module=last.module, place="input")

    def add_neurons(self, name: str, writer: nn.Module, width: int) -> None:
        """What goes into the last projection of an MLP."""
        leaves = [module for module in writer.modules() if _is_projection(module)]
        ran = [call for call in self.calls if any(call.module is leaf for leaf in leaves)]
        if not ran or len(leaves) > MAX_MLP_PROJECTIONS or ran[-1].output.shape[-1] != width:
            self.left_out[name] = "the MLP has no one last projection, as in a mixture of experts"
        else:
            self.sites[name] = Site(
                kind="mlp_neuron", width=ran[-1].input.shape[-1], module=ran[-1].module, place="input"
            )


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and not list(module.children())


def _is_projection(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return torch.is_tensor(weight) and weight.ndim == 2 and not isinstance(module, nn.Embedding)


def _parts(block: nn.Module) -> tuple[nn.Module | None, nn.Module | None, nn.Module | None]:
    """Attention, the module that reads for the MLP, and the one that writes for it (the same, where it is one module)."""
    attention = mlp = None
    for name, child in block.named_children():
        words = f"{name} {type(child).__name__}".lower()
        if "norm" in words or "cross" in words or "dropout" in words:
            continue
        if attention is None and ("attention" in words or "attn" in words):
            attention = child
        elif mlp is None and ("mlp" in words or "feed_forward" in words or "feedforward" in words or "ffn" in words):
            mlp = child
    if mlp is not None:
        return attention, mlp, mlp
    projections = [child for child in block.children() if _is_projection(child) and not _is_norm(child)]
    return (attention, projections[0], projections[-1]) if len(projections) >= 2 else (attention, None, None)


def understand_norm(module: nn.Module, x: Tensor, y: Tensor, tolerance: float) -> Norm | None:
    """The form of a norm that gives `y` for `x`: centred or not, gain `weight` or `1 + weight`; None: none does."""
    eps = next(
        (float(value) for key in ("eps", "variance_epsilon") if (value := getattr(module, key, None)) is not None), 0.0
    )
    weight, bias = (getattr(module, name, None) for name in ("weight", "bias"))
    gains = [None] if weight is None else [weight, 1 + weight]
    # The nearest of those within the tolerance: in half precision the centred form of a wide stream comes near, too.
    forms = [Norm(centred=centred, eps=eps, gain=gain, bias=bias) for centred in (True, False) for gain in gains]
    apart, best = min(((_distance(norm.rescale(norm.normalise(x)), y), i) for i, norm in enumerate(forms)))
    return forms[best] if apart <= tolerance else None


def _farthest(a: Tensor, b: Tensor) -> float:
    """The same of the token where it is largest: one of massive activations must not hide the others."""
    return max(_distance(x, y) for x, y in zip(a.flatten(0, -2), b.flatten(0, -2), strict=True))


def _distance(a: Tensor, b: Tensor) -> float:
    """Size of the difference relative to that of b."""
    a, b = a.float(), b.float()
    return float((a - b).norm() / b.norm().clamp_min(torch.finfo(torch.float32).tiny))
