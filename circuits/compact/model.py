"""A compiled circuit: its layers, the tables of frames they share, and what it is asked for."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from circuits.compact.layers import AttentionPart, MLPPart, normed
from circuits.masks import NodeSpace
from circuits.tasks.loss import answer_logits
from circuits.tasks.pairs import PairSet
from sparsetrain.model import Block, Layer, Transformer

MAX_FRAMES = 1 << 15
"""Frames remembered at most; beyond that those not in the current batch are forgotten."""

SMALL = 8192
"""ours: channels computed, up to which a circuit runs on one thread. Its operations are too small to be worth spreading, and on a
machine with other jobs each of them would wait for its slowest thread: ten times slower with two threads than with one."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside the block torch's operations run on one thread."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


class CompactCircuit:
    """A node circuit that runs without its model's constant parts. Made by `compile_circuit`.

    Some weights are copied, others (embedding, unembedding) are the model's: a model that is trained further, or changed by
    hand, must be compiled again. Hooks attached to the model are not seen. What was evaluated before changes the time, never
    the result.
    """

    def __init__(self, model: Transformer, keep: Tensor, means: Tensor) -> None:
        space = NodeSpace.of(model)
        kept, mean = space.split(keep), space.split(means)
        self.model = model
        self.parts: list[tuple[AttentionPart, MLPPart]] = []
        written = torch.zeros(model.config.d_model, dtype=torch.bool, device=means.device)
        read = written
        concatenated = model.positions if model.config.positions == "concat" else None

        def places(layer: Layer) -> Tensor | None:
            return None if concatenated is None else layer.places(concatenated.detach())

        for i, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            name = f"blocks.{i}.attn.hook_"
            attn = AttentionPart(block.attn, of_layer(kept, name), of_layer(mean, name), written, places(block.attn))
            written, name = written | attn.writes, f"blocks.{i}.mlp.hook_"
            mlp = MLPPart(block.mlp, of_layer(kept, name), of_layer(mean, name), written, places(block.mlp))
            written, read = written | mlp.writes, read | attn.reads | mlp.reads
            self.parts.append((attn, mlp))
        self.carried = (written | read).nonzero().flatten()
        """Residual channels that are followed through the layers, sorted."""
        self._each_part = [part for parts in self.parts for part in parts]
        for part in self._each_part:
            part.locate(self.carried)
        self._last_mixing = max((i for i, (attn, _) in enumerate(self.parts) if attn.active), default=-1)
        self._frames = torch.empty(0, dtype=torch.int64, device=means.device)  # sorted keys
        self._numbers = self._frames  # their numbers
        self.n_moving = dict.fromkeys(space.names, 0)
        """Hook point name -> channels computed there; 0 where nothing is."""
        for i, parts in enumerate(self.parts):
            for name, part in zip(("attn", "mlp"), parts, strict=True):
                self.n_moving |= {f"blocks.{i}.{name}.hook_{x}": n for x, n in part.n_moving().items()}

    def _threads(self) -> AbstractContextManager[None]:
        return one_thread() if sum(self.n_moving.values()) <= SMALL else nullcontext()

    @torch.no_grad()
    def logits(self, tokens: Tensor, at: Tensor | None = None) -> Tensor:
        """Logits of the masked full model.

        Args:
            tokens: `[batch, pos]` int64.
            at: `[batch]` int64, the position asked for in each row; None for all.

        Returns:
            `[batch, pos, d_vocab]` float32, or `[batch, d_vocab]` with `at`.

        Raises:
            ValueError: more positions than n_ctx in a model with positions.
        """
        with self._threads():
            resid, tokens = self._final(tokens, at)
        logits = self.model.unembed(resid)
        if self.model.bigram is not None:
            logits = logits + self.model.bigram(tokens)
        return logits if at is None else logits[:, 0]

    @torch.no_grad()
    def answers(self, pairs: PairSet, batch_size: int = 64) -> Tensor:
        """Uncalibrated answer logits of a pair set, `[n, side, answer]` float32 on the CPU, as
        `circuits.circuit.pair_answers` gives them for the masked full model.

        Args:
            batch_size: pairs per pass.
        """
        parts = []
        for batch in pairs.batches(batch_size):
            rows, at, answers = (x.to(self.carried.device) for x in (*batch.prompts(), batch.answers))
            if bool((answers < 0).any()):  # the rest of the vocabulary is asked for
                found = answer_logits(self.logits(rows, at).unflatten(0, (-1, 2)), answers)
            else:
                with self._threads():
                    found = self._two_logits(rows, at, answers)
            parts.append(found.cpu())
        return torch.cat(parts)

    def _two_logits(self, tokens: Tensor, at: Tensor, answers: Tensor) -> Tensor:
        """Logits of two vocabulary entries per pair, `[n, side, answer]`; `tokens` is `[(n side), pos]`."""
        resid, tokens = self._final(tokens, at)
        resid = rearrange(resid, "(n side) 1 d -> n side d", side=2)
        found = einsum(resid, self.model.unembed.weight[answers], "n side d, n answer d -> n side answer")
        if self.model.unembed.bias is not None:
            found = found + self.model.unembed.bias[answers][:, None]
        if self.model.bigram is not None:
            current = rearrange(tokens, "(n side) 1 -> n side 1", side=2)
            found = found + self.model.bigram.weight[current, answers[:, None]]
        return found

    def _final(self, tokens: Tensor, at: Tensor | None) -> tuple[Tensor, Tensor]:
        """What the unembedding reads, `[batch, pos, d_model]`, and the tokens there; one position with `at`."""
        n_pos, n_ctx = tokens.shape[1], self.model.config.n_ctx
        if self.model.positions is not None and n_pos > n_ctx:
            raise ValueError(f"{n_pos} positions, but model.n_ctx={n_ctx}; shorten the input")

        def only_asked(*tensors: Tensor) -> tuple[Tensor, ...]:
            if at is None:
                return tensors
            rows = torch.arange(len(at), device=at.device)
            return tuple(t[rows, at, None] for t in tensors)

        place = torch.arange(n_pos, device=tokens.device)[None]  # broadcasts to [batch, pos]
        asked = place if at is None else at[:, None]
        frame, x = self._number(tokens, place), self._unmoved(tokens, place, self.carried)
        if self._last_mixing < 0:
            (x, frame, tokens), place = only_asked(x, frame, tokens), asked
        for i, (attn, mlp) in enumerate(self.parts):
            z = attn.mix(x, frame, place) if attn.active else None
            if i == self._last_mixing:
                assert z is not None
                (z, x, frame, tokens), place = only_asked(z, x, frame, tokens), asked
            x = attn.add(x, None if z is None else attn.out(z, place, n_pos))
            x = mlp.add(x, mlp.out(x, frame, place) if mlp.active else None)
        resid = self._unmoved(tokens, place)
        for part in self._each_part:
            resid = resid + part.constant
        resid[..., self.carried] = x
        return normed(resid, self.model.final_norm), tokens

    def _unmoved(self, tokens: Tensor, place: Tensor, channels: Tensor | None = None) -> Tensor:
        """The residual stream before any block, `[..., d_model]`, or some of its channels."""

        def rows(table: Tensor, index: Tensor) -> Tensor:
            return table[index] if channels is None else table[index[..., None], channels]

        resid = rows(self.model.embed.weight, tokens)
        if self.model.config.positions == "learned":
            assert self.model.positions is not None
            resid = resid + rows(self.model.positions, place)
        return resid

    def _number(self, tokens: Tensor, place: Tensor) -> Tensor:
        """Numbers of the frames of all positions, `[batch, pos]`; tables are made for those that are new."""
        n_places = self.model.config.n_ctx if self.model.config.positions == "learned" else 1
        keys = (tokens * n_places + (place if n_places > 1 else 0)).contiguous()
        new = keys[~torch.isin(keys, self._frames)].unique()
        if len(self._frames) + len(new) > MAX_FRAMES:
            new, self._frames, self._numbers = keys.unique(), self._frames[:0], self._numbers[:0]
            for part in self._each_part:
                if part.read is not None:
                    part.read.forget()
        if len(new):
            resid = self._unmoved(new // n_places, new % n_places)
            for part in self._each_part:
                if part.read is not None:
                    part.read.see(resid)
                resid = resid + part.constant
            numbers = torch.arange(len(self._frames), len(self._frames) + len(new), device=new.device)
            self._frames, order = torch.cat([self._frames, new]).sort()
            self._numbers = torch.cat([self._numbers, numbers])[order]
        return self._numbers[torch.searchsorted(self._frames, keys)]


def compiles(model: nn.Module) -> bool:
    """Whether circuits of a model have a compact form: ours in float32, whose positions do not compete in AbsTopK with what texts write."""
    return (
        isinstance(model, Transformer)
        and not model.config.places_compete
        and all(p.dtype == torch.float32 for p in model.parameters())
    )


@torch.no_grad()
def compile_circuit(model: nn.Module, keep: Tensor, means: Tensor) -> CompactCircuit:
    """Compiles a node circuit (`Circuit.compile` does it for a saved one).

    Args:
        model: the whole model, ours and in float32.
        keep: bool `[n_nodes]` in the order of `NodeSpace.of(model)`.
        means: float32 `[n_nodes]`, what deleted nodes emit.

    Raises:
        ValueError: a model of other people, weights in another dtype than float32, positions that compete in AbsTopK, or masks or means
            that do not fit the model.
    """
    if not isinstance(model, Transformer):
        raise ValueError(f"compact circuits are for models that were trained here, this is a {type(model).__name__}")
    if model.config.places_compete:
        raise ValueError(
            "compact circuits are for models whose positions do not compete in AbsTopK; this one has model.norm_positions=true "
            "and AbsTopK at attn_in or mlp_in, and runs as the masked model"
        )
    others = sorted({str(p.dtype) for p in model.parameters() if p.dtype != torch.float32})
    if others:
        raise ValueError(f"compact circuits are for weights in torch.float32, this model has {', '.join(others)}")
    n_nodes = NodeSpace.of(model).n_nodes
    for name, given in (("keep", keep), ("means", means)):
        if given.shape != (n_nodes,):
            raise ValueError(f"{name} has shape {list(given.shape)}; this model has {n_nodes} nodes")
    if keep.dtype != torch.bool:
        raise ValueError(f"keep has dtype {keep.dtype}; it must be torch.bool")
    device = next(model.parameters()).device
    with one_thread():
        return CompactCircuit(model, keep.to(device), means.to(device, torch.float32))


def of_layer(values: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """What belongs to the hook points whose names start with `name`, by the rest of their names."""
    return {point.removeprefix(name): value for point, value in values.items() if point.startswith(name)}
