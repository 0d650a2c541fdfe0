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

import json
from collections.abc import Callable
from typing import Any

from torch import Tensor

import sparsetrain
from circuits.circuit import Circuit
from circuits.explain.flow import TOKEN, Flow, prompt_flow
from circuits.tasks.pairs import REST, PairSet
from circuits.views.graph import node_name
from sparsetrain.hooks import node_points
from sparsetrain.model import Transformer

SIDES = ("positive", "negative")


def neuronpedia_graph(
    model: Transformer, circuit: Circuit, pairs: PairSet, pair: int, side: int, token: Callable[[int], str]
) -> dict[str, Any]:
    """The attribution graph of one prompt: `metadata`, `qParams`, `nodes`, `links`.

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
    tokens = pairs.tokens[pair, side, : int(pairs.last[pair, side]) + 1]
    answers = pairs.answers[pair].tolist()
    flow = prompt_flow(model, circuit, tokens, pairs.answers[pair], side)
    text = pairs.texts[pair].positive if side == 0 else pairs.texts[pair].negative
    ids = _Ids(model, circuit, flow, answers)
    nodes = [*ids.tokens(token), *ids.features(), *ids.logits(token)]
    known = {node["node_id"] for node in nodes}
    return {
        "metadata": {
            "slug": f"{circuit.task}-{pair}-{SIDES[side]}".replace("_", "-"),
            "scan": f"sparsetrain-{circuit.provenance.weights_sha256[:12]}",
            "transcoder_list": [],
            "prompt_tokens": [token(number) for number in tokens.tolist()],
            "prompt": text.prompt,
            "node_threshold": 1.0,
            "schema_version": 1,
            "info": {
                "description": f"circuit of {circuit.task} with {circuit.n_nodes} nodes and {circuit.n_edges} edges, "
                f"everything else at its mean; pair {pair}, {SIDES[side]} prompt",
                "generator": {"name": "sparsetrain", "version": sparsetrain.__version__},
            },
            "generation_settings": {"weights_sha256": circuit.provenance.weights_sha256, "task": circuit.task},
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": nodes,
        "links": [link for link in ids.links() if link["source"] in known and link["target"] in known],
    }


def neuronpedia_json(
    model: Transformer, circuit: Circuit, pairs: PairSet, pair: int, side: int, token: Callable[[int], str]
) -> str:
    """`neuronpedia_graph` as text."""
    return json.dumps(neuronpedia_graph(model, circuit, pairs, pair, side, token), indent=1, allow_nan=False) + "\n"


class _Ids:
    """Names of tokens, nodes and answers at positions, and the entries made of them."""

    def __init__(self, model: Transformer, circuit: Circuit, flow: Flow, answers: list[int]) -> None:
        self.model, self.circuit, self.flow, self.answers = model, circuit, flow, answers
        self.last = len(flow.tokens) - 1
        self.influence = flow.influence[0]
        shares = sorted(
            (float(share), name, at)
            for name, own in self.influence.items()
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
        layer, number = node.split(".")[1], self.circuit.space.number(node)
        return f"{layer}_{number}_{at}"

    def answer(self, i: int) -> str:
        return f"{self.model.config.n_layer + 1}_{self.answers[i]}_{self.last}"

    def entry(self, node_id: str, at: int, **more: Any) -> dict[str, Any]:
        layer, feature, _ = node_id.split("_")
        plain = {"token_prob": 0.0, "is_target_logit": False, "run_idx": 0, "influence": None, "activation": None}
        return {
            "node_id": node_id,
            "layer": layer,
            "ctx_idx": at,
            "reverse_ctx_idx": self.last - at,
            "jsNodeId": f"{layer}_{feature}-{at}",
            **plain,
            **more,
        }

    def tokens(self, token: Callable[[int], str]) -> list[dict[str, Any]]:
        return [
            self.entry(
                self.name(TOKEN, at),
                at,
                feature=at,
                feature_type="embedding",
                clerp=token(number),
                influence=self.cumulative.get((TOKEN, at), 1.0),
            )
            for at, number in enumerate(self.flow.tokens.tolist())
        ]

    def features(self) -> list[dict[str, Any]]:
        kinds = {name: point.kind for name, point in node_points(self.model).items()}
        found = []
        for i, node in enumerate(self.flow.nodes):
            point, _, channel = node.rpartition(":")
            described = {"layer": node.split(".")[1], "kind": kinds[point], "channel": int(channel)}
            for at in range(self.last + 1):
                if (node, at) in self.cumulative:
                    more = {
                        "feature": self.circuit.space.number(node),
                        "feature_type": kinds[point],
                        "clerp": node_name(described, self.model.config.d_head),
                        "activation": float(self.flow.values[i, at]),
                        "influence": self.cumulative[node, at],
                    }
                    found.append(self.entry(self.name(node, at), at, **more))
        return found

    def logits(self, token: Callable[[int], str]) -> list[dict[str, Any]]:
        found = []
        for i, number in enumerate(self.answers):
            word = "any other token" if number == REST else f'"{token(number)}"'
            probability = float(self.flow.probabilities[i])
            more = {
                "feature": number,
                "feature_type": "logit",
                "clerp": f"Output {word} (p={probability:.3f})",
                "token_prob": probability,
                "is_target_logit": i == self.flow.right,
                "activation": float(self.flow.logits[i]),
            }
            found.append(self.entry(self.answer(i), self.last, **more))
        return found

    def links(self) -> list[dict[str, Any]]:
        found = []
        for (source, target), weight in self.flow.links.items():
            for to, at in weight.nonzero().tolist():
                found.append(_link(self.name(source, at), self.name(target, to), weight[to, at]))
        for source, weight in self.flow.to_answers.items():
            for i, at in weight.nonzero().tolist():
                found.append(_link(self.name(source, at), self.answer(i), weight[i, at]))
        return found


def _link(source: str, target: str, weight: Tensor) -> dict[str, Any]:
    return {"source": source, "target": target, "weight": float(weight)}
