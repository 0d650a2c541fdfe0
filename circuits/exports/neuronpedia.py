"""A circuit on one prompt as an attribution graph in the JSON of circuit-tracer and Neuronpedia.

The format knows tokens (layer "E"), features of a layer at a position, and logits. How ours map:
- A node of the circuit at a position is a feature; `feature` is its number among all nodes of the model, `layer` its block,
  `feature_type` its kind (`attn_in` ... `mlp_out`), `activation` its value in the circuit. Viewers draw unknown types as they
  draw features. There are no error nodes: the circuit is the model with everything else at its mean.
- A link is a first-order direct effect (`circuits.explain.flow`): deviation from the mean x derivative. q and k link to what their
  head writes.
- The two answers are the logits; the right one is the target. "Any other token" has vocabulary index -1.
- What the last token adds directly through embedding and bigram table is a link from its embedding to the logits.
- Nodes through which nothing reaches the answers are left out. `influence` is the share of all influence held by a node
  and those stronger than it, as circuit-tracer's node threshold reads it.

Source: graph-schema.json of Neuronpedia and circuit-tracer's graph models (both public), restated.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

import sparsetrain
from circuits.circuit import Circuit
from circuits.explain.flow import TOKEN, Flow, prompt_flow, prompt_tokens
from circuits.explain.words import describe
from circuits.exports.typed import Exported, Sha256
from circuits.section import SIDES
from circuits.tasks.pairs import PairSet
from circuits.tasks.tokenise import REST
from sparsetrain.hooks import NODE_KINDS, NodeId
from sparsetrain.model import Transformer
from sparsetrain.typed import Index

GraphId = Annotated[str, Field(pattern="^(E|[0-9]+)_-?[0-9]+_[0-9]+$")]
Part = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Generator(Exported):
    """The program that wrote the file."""

    name: Literal["sparsetrain"] = "sparsetrain"
    version: str = sparsetrain.__version__


@dataclass(frozen=True, kw_only=True)
class Info(Exported):
    """What the graph is, in words."""

    description: str
    generator: Generator = Generator()


@dataclass(frozen=True, kw_only=True)
class Settings(Exported):
    """Where the graph comes from."""

    weights_sha256: Sha256
    task: str


@dataclass(frozen=True, kw_only=True)
class Metadata(Exported):
    """The prompt, and names for the viewer."""

    slug: Annotated[str, Field(pattern="^[a-z0-9-]+$")]
    scan: str
    transcoder_list: tuple[str, ...] = ()
    prompt_tokens: Annotated[tuple[str, ...], Field(min_length=1)]
    prompt: str
    node_threshold: Part = 1.0
    schema_version: Literal[1] = 1
    info: Info
    generation_settings: Settings


@dataclass(frozen=True, kw_only=True)
class QParams(Exported):
    """State of the viewer; as it is before anybody has clicked."""

    pinnedIds: tuple[str, ...] = ()
    supernodes: tuple[tuple[str, ...], ...] = ()
    linkType: Literal["input", "output", "both"] = "both"
    clickedId: str = ""
    sg_pos: str = ""


@dataclass(frozen=True, kw_only=True)
class GraphNode(Exported):
    """A token, a node of the circuit or an answer at one position."""

    node_id: GraphId
    layer: Annotated[str, Field(pattern="^(E|[0-9]+)$")]
    ctx_idx: Index
    reverse_ctx_idx: Index
    jsNodeId: str
    token_prob: Part = 0.0
    is_target_logit: bool = False
    run_idx: Index = 0
    influence: Part | None = None
    activation: float | None = None
    feature: Annotated[int, Field(ge=-1)]
    feature_type: Annotated[str, Field(pattern=f"^(embedding|logit|{'|'.join(NODE_KINDS)})$")]
    clerp: str


@dataclass(frozen=True, kw_only=True)
class GraphLink(Exported):
    """A first-order direct effect."""

    source: GraphId
    target: GraphId
    weight: float


@dataclass(frozen=True, kw_only=True)
class AttributionGraph(Exported):
    """The keys that Neuronpedia's and circuit-tracer's readers ask for."""

    metadata: Metadata
    qParams: QParams = QParams()
    nodes: tuple[GraphNode, ...]
    links: tuple[GraphLink, ...]


def neuronpedia_graph(
    model: Transformer, circuit: Circuit, pairs: PairSet, pair: int, side: int, token: Callable[[int], str]
) -> AttributionGraph:
    """The attribution graph of one prompt.

    Args:
        pairs: pairs of the circuit's task.
        pair: which of them.
        side: 0 for the positive prompt, 1 for the negative one.
        token: id -> readable text.

    Raises:
        ValueError: no such pair.
    """
    if not 0 <= pair < len(pairs):
        raise ValueError(f"pair={pair} does not exist; there are pairs 0 to {len(pairs) - 1}")
    tokens = prompt_tokens(pairs, pair, side)
    flow = prompt_flow(model, circuit, tokens, pairs.answers[pair], side)
    text, weights = pairs.texts[pair], circuit.provenance.weights_sha256
    ids = _Ids(model, circuit, flow, pairs.answers[pair].tolist())
    nodes = (*ids.tokens(token), *ids.features(), *ids.logits(token))
    known = {node.node_id for node in nodes}
    description = (
        f"circuit of {circuit.task} with {circuit.n_nodes} nodes and {circuit.n_edges} edges, "
        f"everything else at its mean; pair {pair}, {SIDES[side]} prompt"
    )
    return AttributionGraph(
        metadata=Metadata(
            slug=f"{circuit.task}-{pair}-{SIDES[side]}".replace("_", "-").lower(),
            scan=f"sparsetrain-{weights[:12]}",
            prompt_tokens=tuple(token(number) for number in tokens.tolist()),
            prompt=(text.negative if side else text.positive).prompt,
            info=Info(description=description),
            generation_settings=Settings(weights_sha256=weights, task=circuit.task),
        ),
        nodes=nodes,
        links=tuple(link for link in ids.links() if link.source in known and link.target in known),
    )


class _Ids:
    """Names of tokens, nodes and answers at positions, and the entries made of them."""

    def __init__(self, model: Transformer, circuit: Circuit, flow: Flow, answers: list[int]) -> None:
        self.model, self.circuit, self.flow, self.answers = model, circuit, flow, answers
        self.last = len(flow.tokens) - 1
        shares = sorted(
            (float(share), name, at)
            for name, own in flow.influence[0].items()
            for at, share in enumerate(own)
            if share > 0
        )[::-1]
        total, sum_so_far = sum(share for share, *_ in shares), 0.0
        self.cumulative: dict[tuple[str, int], float] = {}
        for share, name, at in shares:
            sum_so_far += share
            self.cumulative[name, at] = min(1.0, sum_so_far / total)

    def name(self, node: str, at: int) -> str:
        if node == TOKEN:
            return f"E_{int(self.flow.tokens[at])}_{at}"
        return f"{NodeId.parse(node).layer}_{self.circuit.space.number(node)}_{at}"

    def answer(self, i: int) -> str:
        return f"{self.model.config.n_layer + 1}_{self.answers[i]}_{self.last}"

    def entry(self, node_id: str, at: int, **more: Any) -> GraphNode:
        layer, feature, _ = node_id.split("_")
        return GraphNode(
            node_id=node_id,
            layer=layer,
            ctx_idx=at,
            reverse_ctx_idx=self.last - at,
            jsNodeId=f"{layer}_{feature}-{at}",
            **more,
        )

    def tokens(self, token: Callable[[int], str]) -> Iterator[GraphNode]:
        for at, number in enumerate(self.flow.tokens.tolist()):
            yield self.entry(
                self.name(TOKEN, at),
                at,
                feature=at,
                feature_type="embedding",
                clerp=token(number),
                influence=self.cumulative.get((TOKEN, at), 1.0),
            )

    def features(self) -> Iterator[GraphNode]:
        for i, node in enumerate(self.flow.nodes):
            named = NodeId.parse(node)
            kind, words = named.kind, describe(named.layer, named.kind, named.channel, self.model.config.d_head)
            for at in range(self.last + 1):
                if (node, at) in self.cumulative:
                    yield self.entry(
                        self.name(node, at),
                        at,
                        feature=self.circuit.space.number(node),
                        feature_type=kind,
                        clerp=words,
                        activation=float(self.flow.values[i, at]),
                        influence=self.cumulative[node, at],
                    )

    def logits(self, token: Callable[[int], str]) -> Iterator[GraphNode]:
        for i, number in enumerate(self.answers):
            word = "any other token" if number == REST else f'"{token(number)}"'
            probability = float(self.flow.probabilities[i])
            yield self.entry(
                self.answer(i),
                self.last,
                feature=number,
                feature_type="logit",
                clerp=f"Output {word} (p={probability:.3f})",
                token_prob=probability,
                is_target_logit=i == self.flow.right,
                activation=float(self.flow.logits[i]),
            )

    def links(self) -> Iterator[GraphLink]:
        for (source, target), weight in self.flow.links.items():
            for to, at in weight.nonzero().tolist():
                yield _link(self.name(source, at), self.name(target, to), weight[to, at])
        for source, weight in self.flow.to_answers.items():
            for i, at in weight.nonzero().tolist():
                yield _link(self.name(source, at), self.answer(i), weight[i, at])


def _link(source: str, target: str, weight: Tensor) -> GraphLink:
    return GraphLink(source=source, target=target, weight=float(weight))
