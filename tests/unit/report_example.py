"""A report as a run would leave it, made up: two circuits and tasks of every status, curves, seven splits.

`hostile=True` puts payloads that would run in a careless page into every name a run can choose.
"""

import math
import random
from collections.abc import Callable
from typing import Any

from sparsetrain.report import number

KINDS = {
    "attn_in": "attn.hook_in",
    "attn_q": "attn.hook_q",
    "attn_k": "attn.hook_k",
    "attn_v": "attn.hook_v",
    "attn_out": "attn.hook_out",
    "mlp_in": "mlp.hook_in",
    "mlp_neuron": "mlp.hook_neuron",
    "mlp_out": "mlp.hook_out",
}
JOINS = [("attn_in", "attn_q"), ("attn_in", "attn_k"), ("attn_in", "attn_v"), ("attn_v", "attn_out")]
JOINS += [("mlp_in", "mlp_neuron"), ("mlp_neuron", "mlp_out")]

PAYLOADS = [
    template.format(n)
    for n in range(5)
    for template in (
        "<script>window.pwned={}</script>",
        "</script><script>window.pwned={}</script>",
        '"><img src=x onerror="window.pwned={}">',
        "'><svg onload='window.pwned={}'>",
        "</title><body onload=window.pwned={}>",
        "<a href='javascript:window.pwned={}'>x</a>",
        "<!--<script>window.pwned={}//-->",
        "\u2028window.pwned={}\u2029",
        "{{{{ ''.__class__ }}}}<iframe srcdoc='<script>parent.pwned={}</script>'>",
        "|x|\n\n<details open ontoggle=window.pwned={}>`",
    )
]


def node(layer: int, kind: str, channel: int, **others: Any) -> dict[str, Any]:
    return {
        "id": f"blocks.{layer}.{KINDS[kind]}:{channel}",
        "layer": layer,
        "kind": kind,
        "channel": channel,
        "mean": others.get("mean", 0.02),
        "reads": [{"what": what, "weight": weight} for what, weight in others.get("reads", [])],
        "writes": [{"what": what, "weight": weight} for what, weight in others.get("writes", [])],
        "ablation_delta": others.get("delta"),
    }


def string_closing_graph() -> dict[str, Any]:
    """The paper's string-closing circuit: 12 nodes, 9 edges."""
    nodes = [
        node(0, "mlp_in", 20, reads=[('("', 0.81), ("('", 0.77), ('"', 0.4)], delta=0.41, mean=0.11),
        node(0, "mlp_in", 44, reads=[("('", 0.92), ('("', -0.88)], delta=0.52, mean=-0.03),
        node(0, "mlp_neuron", 985, delta=0.47, mean=0.19),
        node(0, "mlp_neuron", 460, delta=0.61, mean=0.08),
        node(0, "mlp_out", 1249, delta=0.44, mean=0.05),
        node(0, "mlp_out", 863, delta=0.58, mean=0.01),
        node(1, "attn_in", 1249, delta=0.43, mean=0.2),
        node(1, "attn_in", 863, delta=0.55, mean=0.04),
        node(1, "attn_q", 83, delta=0.12, mean=3.1),
        node(1, "attn_k", 83, delta=0.39, mean=0.33),
        node(1, "attn_v", 82, delta=0.57, mean=0.02),
        node(1, "attn_out", 1079, writes=[("')", 0.94), ('")', -0.9), ("'", 0.31)], delta=0.63, mean=0.03),
    ]
    pairs = [(0, 2, 0.83), (0, 3, 0.12), (1, 3, 1.27), (2, 4, 0.91), (3, 5, -1.44), (6, 9, 1.62), (7, 10, 1.18)]
    pairs += [(6, 8, -0.08), (10, 11, -2.31)]
    return _graph(nodes, pairs)


def _graph(nodes: list[dict[str, Any]], pairs: list[tuple[int, int, float]]) -> dict[str, Any]:
    edges = [{"source": nodes[s]["id"], "target": nodes[t]["id"], "weight": w} for s, t, w in pairs]
    return {"d_head": 16, "nodes": nodes, "edges": edges}


def random_graph(n_nodes: int, n_edges: int, n_layer: int = 4, width: int = 256, seed: int = 0) -> dict[str, Any]:
    """`n_nodes` nodes in random places and up to `n_edges` edges between places that a weight joins."""
    draw = random.Random(seed)
    places = [(layer, kind) for layer in range(n_layer) for kind in KINDS]
    chosen: dict[str, dict[str, Any]] = {}
    while len(chosen) < n_nodes:
        layer, kind = draw.choice(places)
        made = node(layer, kind, draw.randrange(width), mean=draw.gauss(0, 0.3), delta=abs(draw.gauss(0, 0.1)))
        words = [("def", draw.gauss(0, 1)), (" return", draw.gauss(0, 1)), ("\n    ", draw.gauss(0, 1))]
        made["reads" if kind.endswith("in") else "writes"] = [{"what": what, "weight": w} for what, w in words]
        chosen[made["id"]] = made
    nodes = list(chosen.values())
    groups: dict[tuple[int, str], list[int]] = {}
    for index, entry in enumerate(nodes):
        groups.setdefault((entry["layer"], entry["kind"]), []).append(index)
    candidates = [
        (s, t)
        for layer in range(n_layer)
        for source, target in JOINS
        for s in groups.get((layer, source), [])
        for t in groups.get((layer, target), [])
    ]
    draw.shuffle(candidates)
    return _graph(nodes, [(s, t, draw.gauss(0, 1)) for s, t in candidates[:n_edges]])


def viewer(graph: dict[str, Any], tokens: list[str], answers: tuple[str, str] = ("')", '")')) -> dict[str, Any]:
    """Made-up activity of a graph: what `circuits.activity` would store, with `tokens` as prompts and as text."""
    draw = random.Random(len(graph["nodes"]))
    n, d_head = len(tokens), graph["d_head"]

    def values() -> list[float]:
        return [round(draw.gauss(0, 1), 2) if draw.random() < 0.4 else 0 for _ in tokens]

    heads = sorted(
        {(x["layer"], x["channel"] // d_head) for x in graph["nodes"] if x["kind"] in ("attn_q", "attn_k", "attn_v")}
    )
    rows = [[round(0.6 / (i + 1), 3)] * (i + 1) + [0.4] for i in range(n)]
    rows[-1] = [0.05] * (n - 1) + [0.12, round(0.88 - 0.05 * (n - 1), 3)]
    way = [entry["id"] for entry in graph["nodes"] if entry["kind"] in ("mlp_in", "mlp_neuron", "mlp_out")][::2]
    ends = graph["edges"][0]
    ways = [[ends["source"], ends["target"]], way[:4]]
    return {
        "text": {"source": "held-out documents", "n_windows": 64, "n_tokens": 8192},
        "n_pairs": 16,
        "n_flow_pairs": 2,
        "prompts": [
            {"pair": 0, "side": side, "tokens": tokens, "right": answers[i], "wrong": answers[1 - i]}
            for i, side in enumerate(("positive", "negative"))
        ],
        "nodes": {
            entry["id"]: {
                "importance": round(0.5 / (i + 1), 4),
                "direct": [[0.5, -0.25], [0, 0.125]] if entry["kind"].endswith("out") else None,
                "removal": [[1.5, -0.75], [0.0625, 0.375]],
                "text": [{"tokens": tokens, "values": values(), "peak": 1} for _ in range(3)],
                "prompts": [{"prompt": 0, "values": values()}, {"prompt": 1, "values": values()}],
            }
            for i, entry in enumerate(graph["nodes"])
        },
        "edges": [round(0.4 / (i + 1), 5) for i in range(len(graph["edges"]))],
        "heads": [{"layer": a, "head": b, "prompt": side, "weights": rows} for side in range(2) for a, b in heads],
        "paths": [
            {"prompt": side, "nodes": nodes, "tokens": [[1, 0.2], [0, 0.05]], "share": 0.25 - 0.1 * i, "effect": 0.8}
            for side in range(2)
            for i, nodes in enumerate(ways)
        ],
        "token_share": [0.7, 0.65],
        "token_effect": [-1.5, 1.5],
    }


def circuit(task: str, graph: dict[str, Any], seed: int, loss: float) -> dict[str, Any]:
    draw = random.Random(seed)
    return {
        "seed": seed,
        "path": f"circuits/{task}/seed_{seed}",
        "n_nodes": number(len(graph["nodes"]), "nodes"),
        "n_edges": number(len(graph["edges"]), "edges"),
        "task_loss": number(loss, "nats", n=128, lo=loss - 0.02, hi=loss + 0.02, seed=seed),
        "accuracy": number(0.984, "fraction", n=128),
        "edge_task_loss": number(loss + 0.03, "nats", n=128),
        "calibration": {"scale": 1.31, "shift": [0.12, -0.12]},
        "necessity": number(0.93, "fraction", n=128, lo=0.9, hi=0.96),
        "necessity_random": {"mean": number(0.04, "fraction"), "hi": number(0.11, "fraction"), "n": 100},
        "random": {
            "n": 100,
            "n_beaten": number(100, "circuits", n=100),
            "losses": [0.69 + abs(draw.gauss(0, 0.09)) for _ in range(100)],
        },
        "biases": number(9, "biases"),
        "graph": graph,
        "ablations": [
            {"name": "full model", "loss": number(0.041, "nats"), "logit_diff": number(5.2, "logits")},
            {"name": "circuit only", "loss": number(loss, "nats"), "logit_diff": number(3.9, "logits")},
            {"name": "circuit ablated", "loss": number(0.671, "nats"), "logit_diff": number(0.3, "logits")},
            {"name": "one random set ablated", "loss": number(0.052, "nats"), "logit_diff": number(5.0, "logits")},
        ],
    }


def task(name: str, status: str, circuits: list[dict[str, Any]], description: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "task": name,
        "description": description,
        "status": status,
        "gate": {
            "passed": status != "failed_by_model",
            "accuracy": number(0.55 if status == "failed_by_model" else 0.992, "fraction", n=128, lo=0.5, hi=1.0),
            "loss": number(0.688 if status == "failed_by_model" else 0.041, "nats", n=128),
            "loss_uncalibrated": number(0.052, "nats", n=128),
            "scale": number(1.21, "factor"),
        },
        "empty": {"loss": number(0.08 if status == "bigram" else 0.693, "nats", n=128)},
        "rejected": {"prefix changes": 3},
        "example": {
            "positive": "acc = [1, 2]\nprint('red fox",
            "negative": 'acc = [1, 2]\nprint("red fox',
            "answer_positive": "')",
            "answer_negative": '")',
        },
        "circuits": circuits,
        "seconds": number(41.3, "s", "measured"),
    }
    if circuits:
        twin = {"reached": True, "n_nodes": number(61, "nodes"), "n_edges": number(144, "edges")}
        entry["nonsense_twin"] = {**twin, "task_loss": number(0.149, "nats", n=128), "note": "same search budget"}
        core = [entry["id"] for entry in circuits[0]["graph"]["nodes"][:3]]
        entry["seeds"] = {"jaccard_nodes": number(0.62, "fraction"), "core_nodes": core, "note": ""}
    return entry


def _arms(hostile_or: Callable[[str], str]) -> dict[str, Any]:
    """A sparse and a dense arm of equal loss, and a dense one without AbsTopK that is better."""
    sizes = {"sparse_128": [31, 58], "dense_80": [402, 511], "dense_plain": [380, 467]}
    models = [
        {
            "name": hostile_or(name),
            "d_model": width,
            "method": method,
            "density": number(density, "fraction"),
            "abs_topk": name != "dense_plain",
            "n_edges": number(100_000, "weights"),
            "val_loss": number(loss, "nats/token", "measured", n=1),
            "passed": ["var_if", "with_as"],
            "edges": {"var_if": [sizes[name][0]], "with_as": [sizes[name][1]]},
            "common_edges": number(math.sqrt(math.prod(sizes[name])), "edges", "measured", n=2),
        }
        for name, width, method, density, loss in (
            ("sparse_128", 128, "topk", 0.125, 3.01),
            ("dense_80", 80, "none", 1.0, 3.03),
            ("dense_plain", 48, "none", 1.0, 2.8),
        )
    ]
    pair = {
        "sparse": models[0]["name"],
        "dense": models[1]["name"],
        "loss_gap": number(0.007, "fraction", "measured"),
        "tasks": ["var_if", "with_as"],
        "passed_by_both": ["lambda_func", "var_if", "with_as"],
        "without_circuit": {models[0]["name"]: [], models[1]["name"]: [hostile_or("lambda_func")]},
        "ratio": number(10.7, "factor", "measured", n=2, lo=8.8, hi=13.0, seed=0),
        "verdict": "undecided",
    }
    common = ["var_if", "with_as"]
    return {"seeds": [0], "max_gap": 0.01, "common_tasks": common, "models": models, "pairs": [pair]}


def _formation(hostile_or: Callable[[str], str], steps: list[int], density: list[float]) -> dict[str, Any]:
    """One task whose circuit forms at the second look."""

    def point(step: int, edges: int | None, overlap: float) -> dict[str, Any]:
        seen = {
            "step": step,
            "status": "failed_by_model" if edges is None else "circuit",
            "model_loss": number(0.6 if edges is None else 0.02, "nats", "measured"),
            "model_accuracy": number(0.6 if edges is None else 0.99, "fraction", "measured"),
        }
        if edges is None:
            return seen
        sizes = {"n_nodes": number(edges // 2, "nodes", "measured"), "n_edges": number(edges, "edges", "measured")}
        shares = {"jaccard_seeds": 0.7, "jaccard_final": overlap, "jaccard_other_tasks": 0.1}
        numbers = {name: number(value, "fraction", "measured") for name, value in shares.items()}
        return {**seen, **sizes, "task_loss": number(0.1, "nats", "measured"), **numbers}

    points = [point(375, None, 0), point(750, 410, 0.2), point(1500, 62, 1.0)]
    sparsity = {"split": hostile_or("heldout"), "step": steps, "value": [0.4 + step / 1e4 for step in steps]}
    return {
        "tasks": [{"task": hostile_or("with_as"), "points": points}],
        "density": {"step": list(range(len(density))), "value": density},
        "sparsity": {"measure": "gini", "hook_point": "final_norm.hook_resid", "curves": [sparsity]},
    }


def _page(names: list[str], points: list[str], hostile_or: Callable[[str], str]) -> dict[str, Any]:
    """What one evaluation says: splits that are ever farther and ever sparser."""

    def known(value: float, unit: str = "fraction") -> dict[str, Any]:
        return number(value, unit, n=40, lo=value - 0.01, hi=value + 0.01)

    def correlation(value: float) -> dict[str, Any]:
        return number(value, "correlation", n=80, lo=value - 0.2, hi=value + 0.2, seed=0)

    def gini(depth: int, level: int) -> float:
        return 0.45 + 0.01 * depth + 0.02 * level

    return {
        "headline": "gini",
        "interval": "95% percentile bootstrap over examples",
        "positions": "every 8th that has a next token",
        "covariates": ["loss", "entropy", "logit_norm", "length"],
        "splits": [
            {
                "name": name,
                "level": level,
                "description": hostile_or("texts.jsonl"),
                "n_examples": 40,
                "n_tokens": 800,
                "median_tokens": 20.0,
                "loss": known(3.0 + level, "nats/token"),
                "entropy": known(2.5, "nats"),
                "logit_norm": known(9.0, "L2 norm"),
            }
            for level, name in enumerate(names)
        ],
        "points": [
            {
                "hook_point": point,
                "width": 32,
                "shown": True,
                "gaussian": {"gini": 0.4, "top5": 0.13},
                "values": {
                    name: {"gini": known(gini(depth, level)), "top5": known(0.2), "dead": known(0.0)}
                    for level, name in enumerate(names)
                },
                "differences": {name: known(0.02 * level) for level, name in enumerate(names) if level},
                "controls": {
                    control: {name: known(gini(depth, level) - 0.1) for level, name in enumerate(names)}
                    for control in ("rotated", "trimmed", "initialisation")
                },
                "trends": {
                    "loss": correlation(0.1),
                    "level": correlation(0.4),
                    "level_controlled": correlation(0.05),
                    "level_means": number(0.9, "correlation", n=len(names)),
                    "shuffled": number(0.01, "p-value", n=80, seed=0),
                    "level_rotated": correlation(0.0),
                    "level_trimmed": correlation(0.4),
                    "level_initialisation": correlation(-0.1),
                },
            }
            for depth, point in enumerate(points)
        ],
        "against_loss": [
            {
                "hook_point": point,
                "split": name,
                "loss": [2.0, 3.0, 4.0],
                "value": [0.44, 0.45, 0.47],
                "lo": [0.43, 0.44, None],
                "hi": [0.45, 0.46, None],
                "n": [14, 13, 1],
            }
            for point in points
            for name in names
        ],
    }


def _measurement(hostile_or: Callable[[str], str]) -> dict[str, Any]:
    """A model measured on two splits of a user's texts, and another seed of it."""
    points = ["blocks.0.mlp.hook_neuron", "final_norm.hook_resid"]
    page = _page([hostile_or("near"), hostile_or("far")], points, hostile_or)
    for level, split in enumerate(page["splits"]):
        split |= {"unknown_share": 0.01 * level, "n_cut": 1, "n_short": 2, "n_unknown": 0}
    over = {
        "over": number(0.3, "correlation", n=2, lo=-0.1, hi=0.7),
        "each": [0.4, 0.2],
        "n_positive": 2,
        "n_negative": 0,
        "p": number(0.5, "p-value", n=2),
    }
    return {
        "model": {
            "name": hostile_or("hf:models/small"),
            "architecture": "GPTJForCausalLM",
            "n_params": 29_472,
            "n_ctx": 64,
            "left_out": {"blocks.0.mlp.norm": hostile_or("it reads the same norm as the attention")},
        },
        **page,
        "seeds": {
            "models": [hostile_or("hf:models/small"), hostile_or("hf:models/other")],
            "interval": "95% Student's t over 2 models",
            "points": [{"hook_point": points[0], "level": over, "level_controlled": over}, {"hook_point": points[1]}],
        },
        "files": {"table": "sparsity.csv", "examples": "examples.csv"},
    }


def _representation(names: list[str], marks: list[int], hostile_or: Callable[[str], str]) -> dict[str, Any]:
    """Seven splits over a training, and the survey at its end."""
    points = ["blocks.0.mlp.norm.hook_resid", "blocks.2.attn.hook_out", "final_norm.hook_norm"]
    page = _page(names, points, hostile_or)
    curves = []
    for depth, point in enumerate(points):
        for measure, base in (("gini", 0.414), ("top5", 0.28)):
            value = [
                [base + 0.02 * depth + (0.06 + 0.018 * level) * (1 - math.exp(-step / 300)) for step in marks]
                for level in range(len(names))
            ]
            band = {end: [[v + shift for v in row] for row in value] for end, shift in (("lo", -0.006), ("hi", 0.006))}
            curves.append({"hook_point": point, "measure": measure, "gaussian": base, "value": value, **band})
    gone: list[list[float | None]] = [[None for _ in marks] for _ in names]
    curves.append({"hook_point": points[0], "measure": "dead", "gaussian": None, "value": gone, "lo": gone, "hi": gone})
    return {
        **page,
        "step": marks[-1],
        "training": {
            "steps": marks,
            "points": "all",
            "interval": "95%, bootstrap over windows",
            "positions": "every 8th that has a next token",
            "n": dict.fromkeys(names, 512),
            "curves": curves,
        },
        "files": {"table": "ood_sparsity.csv", "examples": "ood_examples.csv"},
    }


def example_report(hostile: bool = False, gates: str = "on") -> dict[str, Any]:
    """A whole report; see the module's docstring."""
    steps = list(range(0, 1501, 10))
    marks = list(range(0, 1501, 125))
    train = [3.1 + 3.6 * math.exp(-step / 190) + 0.05 * math.sin(step * 1.7) for step in steps]
    val = [3.12 + 3.6 * math.exp(-step / 190) for step in marks]
    density = [1.0 if step < 100 else max(0.0625, 0.0625 ** ((step - 100) / 800)) for step in steps]
    names = ["heldout", "packages", "renamed", "languages", "prose", "shuffled", "random"]
    payloads = iter(PAYLOADS * 3)

    def hostile_or(text: str) -> str:
        return next(payloads) if hostile else text

    names = [hostile_or(name) for name in names]
    quotes = string_closing_graph()
    if hostile:
        for entry in quotes["nodes"]:
            for side in ("reads", "writes"):
                entry[side] = [{"what": next(payloads), "weight": 0.5} for _ in range(2)]
    words = ["<|endoftext|>", "print", "('", "red", " fox"]
    told = [next(payloads) for _ in words] if hostile else words
    answers = (hostile_or("')"), hostile_or('")'))
    seen = {"viewer": viewer(quotes, told, answers)}
    tasks = [
        task(
            hostile_or("single_double_quote"),
            "circuit",
            [
                circuit("single_double_quote", quotes, 1, 0.112) | seen,
                circuit("single_double_quote", random_graph(34, 58), 2, 0.131),
            ],
            hostile_or("close a string with the quote that opened it"),
        ),
        task(
            "bracket_counting", "circuit", [circuit("b", random_graph(64, 120, seed=3), 1, 0.144)], "close one or two"
        ),
        task("else_elif", "bigram", [], "else needs a colon, elif a condition"),
        task("class_init", "failed_by_model", [], "assign the attribute its own argument"),
        task(
            "set_or_string",
            "no_circuit",
            [circuit("s", random_graph(25, 30, seed=5), 1, 0.31)],
            "add to a set or a string",
        ),
    ]
    if hostile:
        tasks[0]["example"] = {key: next(payloads) for key in tasks[0]["example"]}
    tensors = [
        {
            "name": f"blocks.{layer}.{name}.weight",
            "shape": [256, 256],
            "density_target": 0.0625,
            "nonzeros": 4096,
            "budget": 4096,
            "entries": 65536,
            "floor": 4,
            "exact": True,
        }
        for layer in range(4)
        for name in ("attn.W_q", "attn.W_k", "attn.W_v", "attn.W_o", "mlp.W_in", "mlp.W_out")
    ]
    skipped = [{"name": hostile_or("lib/bad_latin1.py"), "reason": "not UTF-8"}]
    source = {
        "n_docs": {"train": 18_200, "val": 900, "heldout": 900},
        "n_tokens": {"train": 4_812_001, "val": 190_233, "heldout": 187_120},
    }
    return {
        "schema_version": 1,
        "run": {
            "name": hostile_or("quickstart"),
            "created": "2026-11-20T09:14:03Z",
            "version": "0.1.0",
            "seed": 1,
            "command": hostile_or("python train.py +experiment=quickstart"),
            "debug": gates == "off",
            "gates": gates,
            "device": "cpu",
            "n_threads": 2,
            "torch": "2.13.0",
        },
        "weights": {"step": 1500, "sha256": "4f1c" * 16},
        "stages": [
            {"name": name, "seconds": number(seconds, "s", "measured")}
            for name, seconds in {"data": 41.2, "training": 512.9, "circuits": 203.0, "report": 1.4}.items()
        ],
        "arms": _arms(hostile_or),
        "formation": _formation(hostile_or, marks, density[::12]),
        "training": {
            "n_steps": number(1500, "steps"),
            "n_tokens": number(6_144_000, "tokens"),
            "tokens_per_s": number(11_840.3, "tokens/s", "measured"),
            "n_params": 2_361_344,
            "loss_convention": "mean over positions of -log p(next token), natural logarithm",
            "val_loss": {
                "mixed": number(3.123, "nats/token", n=131072, lo=3.09, hi=3.16),
                "idioms": number(1.21, "nats/token", n=65536),
                "stdlib": number(3.91, "nats/token", n=65536),
            },
            "bigram_loss": {
                "mixed": number(3.611, "nats/token", n=131072),
                "idioms": number(2.05, "nats/token", n=65536),
                "stdlib": number(4.02, "nats/token", n=65536),
                "smoothing": "interpolated with the unigram, strength 3.2 chosen on validation",
                "model_bigram_init": "smoothed log counts of the training tokens",
            },
            "curves": {
                "train_loss": {"step": steps, "value": train},
                "val_loss": {"step": marks, "value": val},
                "density": {"step": steps, "value": density},
                "lr": {"step": steps, "value": [0.0128 * min(1, step / 15) * (1 - step / 1500) for step in steps]},
                "tokens_per_s": {"step": marks, "value": [11_500 + 40 * (step % 7) for step in marks]},
            },
        },
        "data": {
            "content_hash": "9b" * 32,
            "synthetic_share": number(0.42, "fraction"),
            "tokenizer": {"d_vocab": 1024, "chars_per_token": number(2.61, "characters/token")},
            "sources": {
                "idioms": {**source, "synthetic": True, "weight": 0.4, "n_skipped": 0, "skipped": []},
                "stdlib": {**source, "synthetic": False, "weight": 0.6, "n_skipped": 1, "skipped": skipped},
            },
        },
        "sparsity": {"method": "projection: exact top-k per tensor after every step", "tensors": tensors},
        "representation": _representation(names, marks, hostile_or),
        "measurement": _measurement(hostile_or),
        "circuits": {
            "definitions": {
                "task_loss": "-log p(right answer) over the two answers, averaged over both sides, in nats",
                "ablation": "mean",
                "kind": "node circuit",
                "means": {"n_tokens": 65536, "source": "training text used for nothing else"},
            },
            "target_loss": 0.15,
            "tasks": tasks,
        },
    }
