"""What the circuit page shows of each node: where it is active, what it does to the answer, and what runs through it.

1. Activations on held-out text, in the full model: the windows where a node departs most from its mean. The mean is what
   it emits when it is deleted, so the departure is what deletion takes away.
2. Activations on task pairs, in the circuit; for every head that the circuit uses, its attention with the sink's share.
3. Effects on the answers' logits: direct (norms frozen, nothing in between) and by removal from the circuit.
4. Influence of nodes and edges, and the strongest paths from token to answer (`circuits.explain.flow`).

All of it is plain rounded data, small enough to stand in report.json; none of it decides whether a circuit is any good.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor

from circuits.answers import Ablated
from circuits.circuit import Circuit
from circuits.explain.flow import TOKEN, Flow, prompt_flow, prompt_tokens, severed
from circuits.section import (
    SIDES,
    DrawnPath,
    HeadAttention,
    NodeActivity,
    PromptActivity,
    PromptTokens,
    TextActivity,
    TextFacts,
    Viewer,
)
from circuits.tasks.loss import answer_logits
from circuits.tasks.pairs import PairSet
from circuits.tasks.tokenise import REST
from sparsetrain.hooks import HookFn, HookPoint, NodeId, hooked, record
from sparsetrain.kernels import attention_pattern
from sparsetrain.model import Attention, Transformer

VERSION = 2
"""Of the data; a page made with another version is made anew."""
MAX_NODES = 500
"""Larger circuits get no such data: nobody reads them node by node. ours"""


@dataclass(frozen=True, kw_only=True)
class ActivityConfig:
    """How much is shown; small, so that ten circuits of a hundred nodes stay below 3 MB. All ours."""

    n_windows: int = 4
    """Windows of held-out text per node."""
    n_before: int = 13
    """Tokens shown before the strongest one."""
    n_after: int = 4
    n_pairs: int = 8
    """Held-out pairs that are searched for activations, and over which effects on the logits are averaged."""
    n_flow_pairs: int = 2
    """Held-out pairs over which influence is averaged. Paths and attention are of the first."""
    n_paths: int = 8
    """Paths per prompt."""
    n_places: int = 4
    """Tokens named per path."""
    max_rows: int = 256
    """Prompts (or windows) per pass."""


def activity(
    model: Transformer,
    circuit: Circuit,
    heldout: PairSet,
    windows: Tensor,
    windows_source: str,
    token: Callable[[int], str],
    config: ActivityConfig | None = None,
) -> Viewer:
    """The `viewer` entry of a circuit in report.json; see `docs/report.md`.

    Args:
        model: the circuit's model.
        heldout: pairs that nothing was fitted on; the first one's prompts are those of paths and attention.
        windows: int64 `[n, pos]`, held-out text.
        windows_source: what that text is, in words.
        token: id -> readable text.
        config: sizes.
    """
    config = config or ActivityConfig()
    pairs = heldout.batch(slice(0, config.n_pairs))
    ids = circuit.node_ids
    means = circuit.means[[circuit.space.number(node) for node in ids]]
    flows = [
        prompt_flow(model, circuit, prompt_tokens(pairs, i, side), pairs.answers[i], side)
        for i in range(min(config.n_flow_pairs, len(pairs)))
        for side in range(2)
    ]
    through = [flow.influence for flow in flows]
    text = _top_text(node_values(model, windows, circuit, {}, config.max_rows), windows, means, token, config)
    places, values = _top_pairs(model, circuit, pairs, means, config)
    shown = sorted({(pair, side) for pair in {0}.union(*places) for side in range(2)})
    prompts = {prompt: i for i, prompt in enumerate(shown)}
    direct = direct_effects(model, circuit, pairs)
    removal = removal_effects(model, circuit, pairs, config.max_rows)
    return Viewer(
        text=TextFacts(source=windows_source, n_windows=len(windows), n_tokens=windows.numel()),
        n_pairs=len(pairs),
        n_flow_pairs=len(flows) // 2,
        prompts=tuple(_describe_prompt(pairs, pair, side, token) for pair, side in shown),
        nodes={
            node: NodeActivity(
                importance=rounded(sum(float(influence[node].sum()) for influence, _ in through) / len(flows)),
                direct=rounded(direct[i]) if NodeId.parse(node).kind.endswith("_out") else None,
                removal=rounded(removal[i]),
                text=text[i],
                prompts=tuple(
                    PromptActivity(
                        prompt=prompts[pair, side],
                        values=rounded(values[pair, side, : int(pairs.last[pair, side]) + 1, i]),
                    )
                    for pair in places[i]
                    for side in range(2)
                ),
            )
            for i, node in enumerate(ids)
        },
        edges=tuple(
            rounded(sum(links.get((edge.source, edge.target), 0.0) for _, links in through) / len(flows))
            for edge in circuit.edges
        ),
        heads=_heads(model, circuit, pairs, [prompts[0, side] for side in range(2)]),
        paths=tuple(path for side in range(2) for path in _paths(flows[side], prompts[0, side], config)),
        token_share=tuple(rounded(float(through[side][0][TOKEN].sum())) for side in range(2)),
        token_effect=tuple(rounded(flows[side].token_effect) for side in range(2)),
    )


def rounded(value: Any) -> Any:
    """Numbers to three significant digits, whole ones as int; tensors as nested tuples."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, list):
        return tuple(rounded(entry) for entry in value)
    short = float(f"{value:.3g}")
    return int(short) if short.is_integer() else short


@torch.no_grad()
def node_values(
    model: Transformer, tokens: Tensor, circuit: Circuit, hooks: Mapping[str, HookFn], max_rows: int
) -> Tensor:
    """Activations of a circuit's nodes: float32 `[row, pos, node]` on the CPU, nodes in forward order.

    Args:
        tokens: int64 `[row, pos]`.
        hooks: attached before the recording: none for the full model, the circuit's for the circuit.
        max_rows: rows per pass.
    """
    device = next(model.parameters()).device
    seen: dict[str, Tensor] = {}

    def keep(x: Tensor, point: HookPoint) -> Tensor:
        seen[point.name] = x[..., list(circuit.nodes[point.name])].float().cpu()
        return x

    parts = []
    with hooked(model, hooks), hooked(model, dict.fromkeys(circuit.nodes, keep)):
        for rows in tokens.split(max_rows):
            # logits of one position are enough, and spare the unembedding of the others
            model(rows.to(device), torch.zeros(len(rows), dtype=torch.int64, device=device))
            parts.append(torch.cat([seen[name] for name in circuit.nodes], -1) if seen else torch.zeros(*rows.shape, 0))
    return torch.cat(parts)


def _top_text(
    values: Tensor, windows: Tensor, means: Tensor, token: Callable[[int], str], config: ActivityConfig
) -> list[tuple[TextActivity, ...]]:
    """Per node, windows around its largest departures from the mean, one per row of text, largest first."""
    peaks, places = (values - means).abs().max(1)  # [row, node]

    def around(row: int, i: int) -> TextActivity:
        at = int(places[row, i])
        start, stop = max(0, at - config.n_before), min(windows.shape[1], at + config.n_after + 1)
        return TextActivity(
            tokens=tuple(token(number) for number in windows[row, start:stop].tolist()),
            values=rounded(values[row, start:stop, i]),
            peak=at - start,
        )

    rows = peaks.argsort(dim=0, descending=True, stable=True)[: config.n_windows].T.tolist()  # [node, window]
    return [tuple(around(row, i) for row in own if peaks[row, i] != 0) for i, own in enumerate(rows)]


def _top_pairs(
    model: Transformer, circuit: Circuit, pairs: PairSet, means: Tensor, config: ActivityConfig
) -> tuple[list[list[int]], Tensor]:
    """Per node the first pair and the one with its largest departure; activations `[pair, side, pos, node]`."""
    rows = rearrange(pairs.tokens, "n side pos -> (n side) pos")
    values = node_values(model, rows, circuit, circuit.hooks(model), config.max_rows)
    values = rearrange(values, "(n side) pos node -> n side pos node", side=2)
    inside = torch.arange(values.shape[2]) <= pairs.last[..., None]
    departure = reduce((values - means).abs() * inside[..., None], "n side pos node -> n node", "max")
    best = departure.argmax(0).tolist()
    return [[0] if pair == 0 else [pair, 0] for pair in best], values


def direct_effects(model: Transformer, circuit: Circuit, pairs: PairSet) -> Tensor:
    """What each node adds to the answers' logits without anything in between: `[node, side, answer]`, mean over pairs.

    (activation - mean) x derivative of the logit, with the final norm's scale frozen; zero for nodes that do not write
    the residual stream.
    """
    device = next(model.parameters()).device
    with severed(model, circuit) as seen:
        logits = model(pairs.tokens.flatten(0, 1).to(device), pairs.last.flatten().to(device)).unflatten(0, (-1, 2))
        answers = answer_logits(logits, pairs.answers.to(device))
        names = [name for name in circuit.nodes if name.endswith("hook_out")]
        leaves = [seen.leaves[name] for name in names]
        found = torch.zeros(len(circuit.node_ids), 2, 2)
        means, ids = circuit.space.split(circuit.means.to(device)), circuit.node_ids
        for answer in range(2):
            if not names:
                break
            for name, slope, leaf in zip(
                names, torch.autograd.grad(answers[..., answer].sum(), leaves, retain_graph=True), leaves, strict=True
            ):
                effect = reduce(slope * (leaf.detach() - means[name]), "(n side) pos c -> side c", "sum", side=2)
                for channel in circuit.nodes[name]:
                    found[ids.index(str(NodeId(name, channel))), :, answer] = effect[:, channel].cpu() / len(pairs)
    return found


@torch.no_grad()
def removal_effects(model: Transformer, circuit: Circuit, pairs: PairSet, max_rows: int) -> Tensor:
    """How much lower the answers' logits are when a node is removed: `[node, side, answer]`, mean over pairs.

    Raw logits, not calibrated; the node alone is set to its mean, the rest of the circuit stays.
    """
    numbers = [circuit.space.number(node) for node in circuit.node_ids]
    keep = circuit.keep.repeat(len(numbers) + 1, 1)
    keep[torch.arange(len(numbers)), numbers] = False
    answers = Ablated(model=model, means=circuit.means, max_rows=max_rows).answers(keep, pairs)
    return (answers[-1:] - answers[:-1]).mean(1)


def _heads(model: Transformer, circuit: Circuit, pairs: PairSet, prompts: list[int]) -> tuple[HeadAttention, ...]:
    """Attention in the circuit of every head with a kept q, k or v channel, on both prompts of the first pair.

    Row i of `weights` has the share of each key 0..i and then the sink's.
    """
    d_head, device = model.config.d_head, next(model.parameters()).device
    used: set[tuple[int, int]] = set()
    for name, channels in circuit.nodes.items():
        if name.endswith(("hook_q", "hook_k", "hook_v")):
            used |= {(int(name.split(".")[1]), channel // d_head) for channel in channels}
    names = [f"blocks.{layer}.attn.hook_{x}" for layer in sorted({layer for layer, _ in used}) for x in "qk"]
    found = []
    for side, prompt in enumerate(prompts):
        with torch.no_grad(), circuit.attached(model):
            _, seen = record(model, prompt_tokens(pairs, 0, side)[None].to(device), names)
        for layer, head in sorted(used):
            attn = model.get_submodule(f"blocks.{layer}.attn")
            assert isinstance(attn, Attention)
            q, k = (
                rearrange(seen[f"blocks.{layer}.attn.hook_{x}"], "row pos (head d) -> row head pos d", d=d_head)
                for x in "qk"
            )
            sink = None if attn.sink is None else attn.sink.detach()
            pattern = attention_pattern(q.float(), k.float(), sink)[0, head].tolist()
            weights = tuple(
                tuple(round(share, 3) for share in (*row[: i + 1], row[-1])) for i, row in enumerate(pattern)
            )
            found.append(HeadAttention(layer=layer, head=head, prompt=prompt, weights=weights))
    return tuple(found)


def _paths(flow: Flow, prompt: int, config: ActivityConfig) -> list[DrawnPath]:
    return [
        DrawnPath(
            prompt=prompt,
            nodes=path.nodes,
            tokens=tuple((at, rounded(share)) for at, share in path.tokens[: config.n_places]),
            share=rounded(path.share),
            effect=rounded(path.effect),
        )
        for path in flow.paths(config.n_paths)
    ]


def _describe_prompt(pairs: PairSet, pair: int, side: int, token: Callable[[int], str]) -> PromptTokens:
    answers = [None if number == REST else token(number) for number in pairs.answers[pair].tolist()]
    return PromptTokens(
        pair=pair,
        side=SIDES[side],
        tokens=tuple(token(number) for number in prompt_tokens(pairs, pair, side).tolist()),
        right=answers[side],
        wrong=answers[1 - side],
    )
