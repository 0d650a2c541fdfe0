"""How a circuit computes one prompt: direct effects between its nodes at every position, and paths from token to answer.

1. The circuit runs once per target with every hook point cut: what passes is remembered and handed on as a new leaf, so
   that a gradient reaches only the nodes that the target reads *directly* (through one weight matrix, the residual
   stream or the attention of one head). Scales of norms are frozen.
2. A link's weight is (activation - mean) of the source x derivative of the target: to first order, how much the target
   would change if the source were deleted. Tokens link to the channels that read their embedding, with the embedding
   in place of the deviation. Without nonlinearities in between a target is the sum of its links and a constant.
3. Influence: the answer has 1 (what the last token adds directly, through embedding and bigram table, is no part of a
   circuit and stays out); every target hands its influence on to its sources in proportion to |weight|. A path's
   share is the influence that runs along it, so all paths together have 1; those that begin at no token (a bias, a channel
   that AbsTopK silenced) are counted and not listed. A path's effect is the first-order effect in logits.

After the attribution graphs of Ameisen et al. 2025, with one difference: attention is not frozen, so a query or a key
links to what its head writes, by the derivative of the attention pattern.
"""

import heapq
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from circuits.circuit import Circuit
from circuits.tasks.loss import answer_logits
from circuits.tasks.pairs import PairSet
from sparsetrain.hooks import HookPoint, NodeId, hook_points, hooked
from sparsetrain.model import RMSNorm, Transformer

TOKEN = "token"
"""Stands for the token at a position where nodes stand."""
ANSWER = "answer"
"""Stands for logit(right answer) - logit(wrong answer)."""

_MAX_ROWS = 128  # copies of the prompt per pass
_MAX_SEARCHED = 20_000  # ours: partial paths looked at before a search for paths gives up


@dataclass(frozen=True, kw_only=True)
class Severed:
    """What a pass through a cut model leaves behind.

    Args:
        values: hook point -> its value, `[row, pos, width]`, a function of the leaves before it.
        leaves: hook point -> the same value as a leaf, which everything after it reads.
        scales: norm's hook point -> 1/rms `[row, pos, 1]`.
    """

    values: dict[str, Tensor]
    leaves: dict[str, Tensor]
    scales: dict[str, Tensor]


@contextmanager
def frozen_norms(model: Transformer) -> Iterator[dict[str, Tensor]]:
    """Inside the block no gradient passes through the scales of norms; yields them by hook point once the model has run."""
    scales: dict[str, Tensor] = {}

    def freeze(x: Tensor, point: HookPoint) -> Tensor:
        scales[point.name] = x.detach()
        return scales[point.name]

    names = [name for name, point in hook_points(model).items() if point.kind == "norm_scale"]
    with hooked(model, dict.fromkeys(names, freeze)):
        yield scales


@contextmanager
def severed(model: Transformer, circuit: Circuit) -> Iterator[Severed]:
    """Inside the block the model runs as the node circuit, cut at every node, with the scales of its norms frozen."""
    with torch.enable_grad(), circuit.attached(model), frozen_norms(model) as scales:
        seen = Severed(values={}, leaves={}, scales=scales)

        def cut(x: Tensor, point: HookPoint) -> Tensor:
            seen.values[point.name] = x
            seen.leaves[point.name] = x.detach().requires_grad_()
            return seen.leaves[point.name]

        with hooked(model, dict.fromkeys(circuit.space.names, cut)):
            yield seen


def prompt_tokens(pairs: PairSet, pair: int, side: int) -> Tensor:
    """One prompt of a pair without its padding, int64 `[pos]`."""
    return pairs.tokens[pair, side, : int(pairs.last[pair, side]) + 1]


@dataclass(frozen=True, kw_only=True)
class Path:
    """A way from the token to the answer.

    Args:
        nodes: ids in forward order.
        tokens: (position, share) of the tokens where it begins, largest first.
        share: influence on the answer that runs along it, 0 to 1.
        effect: first-order effect on logit(right) - logit(wrong).
    """

    nodes: tuple[str, ...]
    tokens: tuple[tuple[int, float], ...]
    share: float
    effect: float


@dataclass(frozen=True, kw_only=True)
class Flow:
    """One prompt in a circuit.

    Args:
        nodes: ids of the circuit's nodes, in forward order.
        tokens: int64 `[pos]`.
        right: 0 if answer A is right, 1 if B is.
        values: float `[n_nodes, pos]`, activations in the circuit.
        deviations: `[n_nodes, pos]`, the same minus the nodes' means.
        links: (source, target) -> float64 `[target pos, source pos]`; source is a node or `TOKEN`, target a node. Pairs
            without any effect are left out.
        to_answers: source -> float64 `[2, source pos]`: links to the logits of answers A and B at the last position.
        logits: `[2]`, the two answers' logits in the circuit, not calibrated.
        probabilities: `[2]`, of the two answers among all tokens.
    """

    nodes: tuple[str, ...]
    tokens: Tensor
    right: int
    values: Tensor
    deviations: Tensor
    links: Mapping[tuple[str, str], Tensor]
    to_answers: Mapping[str, Tensor]
    logits: Tensor
    probabilities: Tensor

    @cached_property
    def incoming(self) -> dict[str, dict[str, Tensor]]:
        """Target -> source -> weights `[target pos, source pos]`; `ANSWER` (one position) with the nodes it reads."""
        found: dict[str, dict[str, Tensor]] = {}
        for (source, target), weight in self.links.items():
            found.setdefault(target, {})[source] = weight
        answers = {name: (w[self.right] - w[1 - self.right])[None] for name, w in self.to_answers.items()}
        found[ANSWER] = {name: weight for name, weight in answers.items() if name != TOKEN}
        return found

    @property
    def token_effect(self) -> float:
        """What the last token adds to logit(right) - logit(wrong) by itself: its embedding and its bigram row."""
        weight = self.to_answers[TOKEN][:, -1]
        return float(weight[self.right] - weight[1 - self.right])

    @cached_property
    def fractions(self) -> dict[str, dict[str, Tensor]]:
        """`incoming` as shares of the target's summed |weight| at each of its positions."""
        found = {}
        for target, sources in self.incoming.items():
            total = sum((weight.abs().sum(1) for weight in sources.values()), torch.zeros(1, dtype=torch.float64))
            scale = torch.where(total > 0, 1 / total.clamp(min=1e-300), torch.zeros_like(total))
            found[target] = {name: weight.abs() * scale[:, None] for name, weight in sources.items()}
        return found

    @cached_property
    def influence(self) -> tuple[dict[str, Tensor], dict[tuple[str, str], float]]:
        """Influence on the answer: of nodes and tokens (name -> `[pos]`), and through links ((source, target) -> share)."""
        nodes = {name: torch.zeros(len(self.tokens), dtype=torch.float64) for name in (TOKEN, *self.nodes)}
        through: dict[tuple[str, str], float] = {}
        for target in (ANSWER, *reversed(self.nodes)):
            own = torch.ones(1, dtype=torch.float64) if target == ANSWER else nodes[target]
            for source, fraction in self.fractions.get(target, {}).items():
                share = own @ fraction
                nodes[source] = nodes[source] + share
                through[source, target] = float(share.sum())
        return nodes, through

    def paths(self, n: int) -> list[Path]:
        """The n paths with the largest shares, largest first. The same nodes at other positions are one path.

        Shares fall along a path, so the search takes the largest partial path first; paths as good as the last that
        was looked at may be missing if it gives up after `_MAX_SEARCHED` of them.
        """
        start = torch.ones(1, dtype=torch.float64)
        queue: list[tuple[float, int, tuple[str, ...], Tensor, Tensor]] = [(-1.0, 0, (ANSWER,), start, start)]
        counter, found = 0, []
        while queue and len(found) < n and counter < _MAX_SEARCHED:
            share, _, names, own, effect = heapq.heappop(queue)
            if names[0] == TOKEN:
                order = own.argsort(descending=True, stable=True).tolist()
                tokens = tuple((at, float(own[at])) for at in order if own[at] > 0)
                found.append(Path(nodes=names[1:-1], tokens=tokens, share=-share, effect=float(effect.sum())))
                continue
            for source, fraction in self.fractions.get(names[0], {}).items():
                share = own @ fraction
                total = float(share.sum())
                if total > 0:
                    counter += 1
                    entry = (-total, counter, (source, *names), share, effect @ self._slope(source, names[0]))
                    heapq.heappush(queue, entry)
        return found

    def _slope(self, source: str, target: str) -> Tensor:
        """Change of the target per unit of its own deviation that the source makes: `[target pos, source pos]`."""
        weight = self.incoming[target][source]
        if target == ANSWER:
            return weight
        deviation = self.deviations[self.nodes.index(target)].double()
        inverse = torch.where(deviation == 0, torch.zeros_like(deviation), 1 / deviation)
        return weight * inverse[:, None]


def prompt_flow(model: Transformer, circuit: Circuit, tokens: Tensor, answers: Tensor, right: int) -> Flow:
    """Direct effects between all nodes of a circuit, its tokens and the two answers, on one prompt.

    Args:
        model: the circuit's model.
        tokens: int64 `[pos]`, without padding; the answers are compared after the last one.
        answers: int64 `[2]`, ids of A and B; -1 is every token but the other.
        right: 0 if A is right, 1 if B is.
    """
    ids, n_pos = tuple(circuit.node_ids), len(tokens)
    device = next(model.parameters()).device
    prompt, answers = tokens[None].to(device), answers[None].to(device)
    targets = _targets(model, ids, n_pos)
    slopes = []
    with severed(model, circuit) as seen:
        for start in range(0, len(targets), _MAX_ROWS):
            part = targets[start : start + _MAX_ROWS]
            model(prompt.expand(len(part), -1), torch.full((len(part),), n_pos - 1, device=device))
            total = torch.zeros((), device=device)
            for row, (node, at) in enumerate(part):
                named = NodeId.parse(node)
                x = seen.values[named.point][row, :, named.channel]
                total = total + (x.sum() if at is None else x[at])
            slopes.append(_slopes(total, seen, circuit, len(part)))
        out = model(prompt.expand(2, -1), torch.full((2,), n_pos - 1, device=device))
        pair = answer_logits(out[None], answers)[0]  # both sides are this prompt
        total = pair[0, 0] + pair[1, 1]
        by_logit = torch.autograd.grad(total, out, retain_graph=True)[0]
        slopes.append(_slopes(total, seen, circuit, 2))
        values = _channels({name: x.detach()[:1] for name, x in seen.values.items()}, circuit)[0]
        own = _token_logits(model, prompt[0, -1], by_logit, seen.scales["final_norm.hook_scale"][0, -1])
    slope = torch.cat(slopes).double()  # [target row, node, source pos]
    means = circuit.means[[circuit.space.number(node) for node in ids]]
    deviations = values - means[:, None]
    effects = slope * deviations.double()
    links: dict[tuple[str, str], Tensor] = {}
    for row, (node, at) in enumerate(targets):
        for source in effects[row].any(1).nonzero().flatten().tolist():
            key = (ids[source], node)
            if at is None:
                links[key] = torch.diag(effects[row, source])
            else:
                links.setdefault(key, torch.zeros(n_pos, n_pos, dtype=torch.float64))[at] = effects[row, source]
    links |= _token_links(model, circuit, tokens, values, seen.scales)
    to_answers = {ids[i]: effects[-2:, i] for i in effects[-2:].any(0).any(1).nonzero().flatten().tolist()}
    to_answers[TOKEN] = torch.zeros(2, n_pos, dtype=torch.float64)
    to_answers[TOKEN][:, -1] = own.double().cpu()
    probabilities = out[0].detach().double().softmax(-1)
    chosen = [float(1 - probabilities[o] if a < 0 else probabilities[a]) for a, o in (answers[0], answers[0].flip(0))]
    return Flow(
        nodes=ids,
        tokens=tokens.cpu(),
        right=right,
        values=values,
        deviations=deviations,
        links=links,
        to_answers=to_answers,
        logits=torch.stack([pair[0, 0], pair[0, 1]]).detach().cpu(),
        probabilities=torch.tensor(chosen),
    )


def _targets(model: Transformer, ids: tuple[str, ...], n_pos: int) -> list[tuple[str, int | None]]:
    """Targets of a pass each: (node, position), or (node, None) where no position reads another."""
    targets: list[tuple[str, int | None]] = []
    for node in ids:
        mixes = NodeId.parse(node).kind == "attn_out"
        targets += [(node, at) for at in range(n_pos)] if mixes else [(node, None)]
    return targets


def _channels(values: Mapping[str, Tensor], circuit: Circuit) -> Tensor:
    """The circuit's nodes among the values of hook points: `[row, node, pos]`, on the CPU."""
    parts = [values[name][..., list(channels)].transpose(-1, -2) for name, channels in circuit.nodes.items()]
    return torch.cat(parts, dim=-2).cpu() if parts else torch.zeros(1, 0, 0)


def _slopes(total: Tensor, seen: Severed, circuit: Circuit, n_rows: int) -> Tensor:
    """Derivative of the target of each row by the nodes of that row: `[row, node, pos]`."""
    names = list(circuit.nodes)
    leaves = [seen.leaves[name] for name in names]
    found: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if leaves and total.requires_grad:
        found = torch.autograd.grad(total, leaves, allow_unused=True)
    grads = {n: torch.zeros_like(x) if g is None else g for n, x, g in zip(names, leaves, found, strict=True)}
    return _channels(grads, circuit) if names else torch.zeros(n_rows, 0, seen.scales["final_norm.hook_scale"].shape[1])


def _token_logits(model: Transformer, token: Tensor, by_logit: Tensor, scale: Tensor) -> Tensor:
    """What the last token's own embedding and bigram row add to the answers' logits: `[answer]`.

    Args:
        by_logit: derivative of each answer by the logits, `[answer, d_vocab]`.
        scale: of the final norm at the last position.
    """
    embedded = model.embed.weight.detach()[token] * model.final_norm.gain.detach() * scale
    logits = model.unembed.weight.detach() @ embedded
    if model.bigram is not None:
        logits = logits + model.bigram.weight.detach()[token]
    return by_logit.to(logits.dtype) @ logits


def _token_links(
    model: Transformer, circuit: Circuit, tokens: Tensor, values: Tensor, scales: Mapping[str, Tensor]
) -> dict[tuple[str, str], Tensor]:
    """Links from the embedding of each token (and an added position) to the read nodes that pass at its place."""
    embedded = model.embed.weight.detach().cpu()[tokens.cpu()]
    if model.positions is not None and model.config.positions == "learned":
        embedded = embedded + model.positions.detach().cpu()[: len(tokens)]
    links = {}
    for i, node in enumerate(circuit.node_ids):
        named = NodeId.parse(node)
        if named.kind not in ("attn_in", "mlp_in"):
            continue
        norm_name = named.point.rpartition(".")[0] + ".norm"
        norm = model.get_submodule(norm_name)
        assert isinstance(norm, RMSNorm)
        scale = scales[f"{norm_name}.hook_scale"][0, :, 0].cpu()
        weight = embedded[:, named.channel] * norm.gain.detach().cpu()[named.channel] * scale * (values[i] != 0)
        if weight.any():
            links[TOKEN, node] = torch.diag(weight.double())
    return links
