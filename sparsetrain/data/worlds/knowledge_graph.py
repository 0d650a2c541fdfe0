"""A knowledge graph grown under latent rules, and triples in and out of what a model is trained on.

1. Rules: acyclic chains `h(x0, xk) <- b1(x0, x1), ..., bk(xk-1, xk)`, every body relation of a lower index than its head.
2. Growth: nodes arrive one by one and attach to earlier ones with probability proportional to degree + 1 (a power law) or a power of it, by
   relations drawn at random; every so many nodes the closure under the rules is added. Added triples are `deducible`, the
   others `atomic`.
3. Training triples: a sample, half deducible. Of the rest, those still derivable from the training triples are kept.
4. Splits by the number of training triples in the shortest derivation: `hard` 2 or fewer, `medium` 3 or more; and the training
   triples themselves, atomic and deducible apart. All evaluated splits have the same number of triples of each relation.
5. Prompts are [subject, relation, ask] -> object, single tokens. Ten-way choice: gold and nine random entities that are no answer
   either.

Source: Jin et al. 2026 (arXiv 2603.03415), the synthetic testbed. Ours: matched relation marginals, atomic and deducible triples
apart, chain rules only, distractors that are no answers. Derivation steps are counted as triples used; the paper's may differ.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparsetrain.typed import Count, NotNegative, Several

Triple = tuple[int, int, int]
"""(subject, relation, object), 0-based."""

ASK = 0
MAX_DRAWS = 200
SPLITS = ("id atomic", "id deducible", "medium", "hard")


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """Sizes of the graph. `size=large` has the paper's; the defaults are ours, for a CPU."""

    n_entities: Count = 300
    n_relations: Count = 16
    n_rules: Count = 25
    """Rules of the graph."""
    n_rules_used: Count = 20
    """The first so many are used to deduce; the others are latent only."""
    max_body: Several = 4
    """Relations in a rule's body: 2 to this."""
    edges_per_node: Count = 6
    attachment: NotNegative = 1.0
    """Nodes attach with probability proportional to (degree + 1) to this power; above 1 hubs grow, and with them what the
    rules derive."""
    closure_every: Count = 100
    """Nodes between two closures."""
    n_train: Count = 3000
    """Training triples, half deducible."""
    n_eval: Count = 100
    """Triples of each evaluated split."""
    n_choices: int = 10

    def __post_init__(self) -> None:
        if self.n_relations < 3:
            raise ValueError(f"n_relations={self.n_relations} must be at least 3")
        if self.n_rules_used > self.n_rules:
            raise ValueError(f"n_rules_used={self.n_rules_used} exceeds n_rules={self.n_rules}")
        if not 2 <= self.n_choices <= self.n_entities // 2:
            raise ValueError(f"n_choices={self.n_choices} must lie in [2, n_entities / 2]")

    @property
    def d_vocab(self) -> int:
        """Tokens: ask, entities, relations."""
        return 1 + self.n_entities + self.n_relations


@dataclass(frozen=True, kw_only=True)
class ChainRule:
    """`head(x0, xk) <- body[0](x0, x1), ..., body[k-1](xk-1, xk)`."""

    head: int
    body: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class KnowledgeGraph:
    """A drawn graph with its splits."""

    rules: tuple[ChainRule, ...]
    """Those used to deduce."""
    train: NDArray[np.int64]
    """`[n_train, 3]` triples."""
    deducible: NDArray[np.bool_]
    """Of each training triple, `[n_train]`."""
    splits: Mapping[str, NDArray[np.int64]]
    """Name in `SPLITS` -> triples `[n, 3]`, n the same for all."""
    choices: Mapping[str, NDArray[np.int64]]
    """Name -> entities `[n, n_choices]`, the gold one first."""
    n_out: Mapping[str, int]
    """How many triples there were in each split before relations were matched."""
    n_entities: int
    d_vocab: int

    def rows(self, triples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Triples as tokens, `[n, 4]`: subject, relation, ask, object."""
        s, r, o = triples.T
        return np.stack([1 + s, 1 + self.n_entities + r, np.full_like(s, ASK), 1 + o], axis=1)


def draw_rules(config: GraphConfig, rng: np.random.Generator) -> tuple[ChainRule, ...]:
    """Acyclic chain rules; heads come from the upper half of the relations."""
    rules = set()
    first_head = config.n_relations // 2
    for _ in range(100 * config.n_rules):
        head = int(rng.integers(first_head, config.n_relations))
        body = tuple(int(b) for b in rng.integers(head, size=int(rng.integers(2, config.max_body + 1))))
        rules.add(ChainRule(head=head, body=body))
        if len(rules) == config.n_rules:
            # A set has no order of its own.
            ordered = sorted(rules, key=lambda rule: (rule.head, rule.body))
            return tuple(ordered[i] for i in rng.permutation(len(ordered)))
    raise ValueError(
        f"n_rules={config.n_rules} different rules cannot be drawn from {config.n_relations} relations; "
        f"raise n_relations or lower n_rules"
    )


def derivation_sizes(known: Mapping[Triple, int], rules: tuple[ChainRule, ...]) -> dict[Triple, int]:
    """The smallest number of known triples that derive each triple of the closure (a known one: its own cost).

    Rules are acyclic, so that one pass over the heads in rising order is enough. A triple used twice counts twice.

    Args:
        known: triple -> cost, usually 1.
        rules: chain rules whose bodies have lower relations than their heads.
    """
    cost = dict(known)
    by_relation: dict[int, dict[int, dict[int, int]]] = defaultdict(lambda: defaultdict(dict))
    for (s, r, o), c in known.items():
        by_relation[r][s][o] = c
    for rule in sorted(rules, key=lambda rule: rule.head):
        reached = {s: dict(objects) for s, objects in by_relation[rule.body[0]].items()}
        for relation in rule.body[1:]:
            edges = by_relation[relation]
            step: dict[int, dict[int, int]] = {}
            for s, middles in reached.items():
                ends: dict[int, int] = {}
                for middle, c in middles.items():
                    for o, c_edge in edges.get(middle, {}).items():
                        ends[o] = min(ends.get(o, c + c_edge), c + c_edge)
                if ends:
                    step[s] = ends
            reached = step
        for s, ends in reached.items():
            for o, c in ends.items():
                triple = (s, rule.head, o)
                if s != o and c < cost.get(triple, c + 1):
                    cost[triple] = c
                    by_relation[rule.head][s][o] = c
    return cost


def grow(
    config: GraphConfig, rules: tuple[ChainRule, ...], rng: np.random.Generator
) -> tuple[set[Triple], set[Triple]]:
    """Atomic and deducible triples of a graph grown node by node."""
    atomic: set[Triple] = set()
    deduced: set[Triple] = set()
    degree = np.zeros(config.n_entities)
    for node in range(1, config.n_entities):
        weights = (degree[:node] + 1) ** config.attachment
        for other in rng.choice(node, size=config.edges_per_node, p=weights / weights.sum()):
            ends = (node, int(other)) if rng.random() < 0.5 else (int(other), node)
            triple = (ends[0], int(rng.integers(config.n_relations)), ends[1])
            if triple not in atomic and triple not in deduced:
                atomic.add(triple)
                degree[[node, int(other)]] += 1
        if (node + 1) % config.closure_every == 0 or node == config.n_entities - 1:
            closure = derivation_sizes(dict.fromkeys(atomic | deduced, 1), rules)
            for s, r, o in set(closure) - atomic - deduced:
                deduced.add((s, r, o))
                degree[[s, o]] += 1
    return atomic, deduced


def draw_graph(config: GraphConfig, seed: int) -> KnowledgeGraph:
    """Draws rules, graph and splits until there are enough triples: a function of config and seed.

    Raises:
        ValueError: no graph of these sizes has so many triples.
    """
    rng = np.random.default_rng(seed)
    for _ in range(MAX_DRAWS):
        rules = draw_rules(config, rng)[: config.n_rules_used]
        atomic, deduced = (sorted(triples) for triples in grow(config, rules, rng))
        n_deduced = config.n_train // 2
        n_atomic = config.n_train - n_deduced
        if len(atomic) < n_atomic or len(deduced) <= n_deduced:
            continue
        chosen = [atomic[i] for i in rng.permutation(len(atomic))[:n_atomic]]
        chosen += [deduced[i] for i in rng.permutation(len(deduced))[:n_deduced]]
        train, is_deducible = np.array(chosen), np.arange(config.n_train) >= n_atomic
        pools = {
            "id atomic": train[~is_deducible],
            "id deducible": train[is_deducible],
            **out_of_training(chosen, rules),
        }
        splits = match_relations(pools, config, rng)
        if len(splits["hard"]) == config.n_eval:
            break
    else:
        raise ValueError(
            f"n_train={config.n_train} triples, half of them deducible, and n_eval={config.n_eval} of each split with matched "
            f"relations were in none of {MAX_DRAWS} graphs drawn with seed {seed}; lower these or raise n_entities"
        )
    answers: dict[tuple[int, int], set[int]] = defaultdict(set)
    for s, r, o in [*atomic, *deduced]:
        answers[s, r].add(o)
    choices = {}
    for name, triples in splits.items():
        rows = []
        for s, r, o in triples.tolist():
            others = [e for e in rng.permutation(config.n_entities).tolist() if e != o and e not in answers[s, r]]
            rows.append([o, *others[: config.n_choices - 1]])
        choices[name] = np.array(rows)
    return KnowledgeGraph(
        rules=rules,
        train=train,
        deducible=is_deducible,
        splits=splits,
        choices=choices,
        n_out={name: len(pool) for name, pool in pools.items()},
        n_entities=config.n_entities,
        d_vocab=config.d_vocab,
    )


def out_of_training(train: list[Triple], rules: tuple[ChainRule, ...]) -> dict[str, NDArray[np.int64]]:
    """Triples that follow from the training triples without being among them, by the size of the shortest derivation."""
    known = dict.fromkeys(train, 1)
    sizes = {t: size for t, size in sorted(derivation_sizes(known, rules).items()) if t not in known}
    return {
        "medium": np.array([t for t, size in sizes.items() if size >= 3], dtype=np.int64).reshape(-1, 3),
        "hard": np.array([t for t, size in sizes.items() if size <= 2], dtype=np.int64).reshape(-1, 3),
    }


def match_relations(
    pools: Mapping[str, NDArray[np.int64]], config: GraphConfig, rng: np.random.Generator
) -> dict[str, NDArray[np.int64]]:
    """Samples of all pools with the same number of triples of each relation, `n_eval` triples at most."""
    counts = np.array([np.bincount(pool[:, 1], minlength=config.n_relations) for pool in pools.values()])
    quota = counts.min(0)
    while quota.sum() > config.n_eval:
        quota[quota.argmax()] -= 1
    splits = {}
    for name, pool in pools.items():
        parts = [rng.permutation(np.flatnonzero(pool[:, 1] == r))[:n] for r, n in enumerate(quota)]
        splits[name] = pool[np.concatenate(parts).astype(np.int64)]
    return splits
