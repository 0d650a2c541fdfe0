"""The graph's closure against brute force; splits are what they say, with matched relations."""

import itertools

import numpy as np
import pytest

from sparsetrain.data.worlds.knowledge_graph import (
    ASK,
    SPLITS,
    ChainRule,
    GraphConfig,
    derivation_sizes,
    draw_graph,
    draw_rules,
)

SMALL = GraphConfig(n_entities=60, closure_every=30, n_train=240, n_eval=4)


def brute_force(known: set, rules: tuple[ChainRule, ...], n: int) -> dict:
    """Smallest derivations by trying every path of entities, until nothing changes."""
    cost = dict.fromkeys(known, 1)
    while True:
        before = dict(cost)
        for rule in rules:
            for path in itertools.product(range(n), repeat=len(rule.body) + 1):
                steps = [(a, r, b) for a, r, b in zip(path[:-1], rule.body, path[1:], strict=True)]
                if path[0] != path[-1] and all(step in cost for step in steps):
                    head, size = (path[0], rule.head, path[-1]), sum(cost[step] for step in steps)
                    cost[head] = min(cost.get(head, size), size)
        if cost == before:
            return cost


@pytest.mark.parametrize("seed", range(5))
def test_derivation_sizes_are_the_brute_force_ones(seed):
    rng = np.random.default_rng(seed)
    known = {
        (int(a), int(r), int(b)) for a, r, b in zip(*rng.integers(0, [[6], [3], [6]], (3, 14)), strict=True) if a != b
    }
    rules = (
        ChainRule(head=3, body=(0, 1)),
        ChainRule(head=4, body=(3, 2)),
        ChainRule(head=4, body=(0, 0, 1)),
        ChainRule(head=2, body=(1, 1)),
    )
    assert derivation_sizes(dict.fromkeys(known, 1), rules) == brute_force(known, rules, 6)


def test_rules_are_acyclic_and_different():
    rules = draw_rules(GraphConfig(), np.random.default_rng(0))
    assert len(set(rules)) == GraphConfig().n_rules
    assert all(max(rule.body) < rule.head and 2 <= len(rule.body) <= 4 for rule in rules)


@pytest.mark.parametrize("seed", range(3))
def test_splits_are_what_they_say(seed):
    graph = draw_graph(SMALL, seed)
    train = set(map(tuple, graph.train.tolist()))
    assert len(train) == SMALL.n_train and graph.deducible.sum() == SMALL.n_train // 2
    sizes = derivation_sizes(dict.fromkeys(train, 1), graph.rules)
    for name in SPLITS:
        triples = list(map(tuple, graph.splits[name].tolist()))
        assert len(set(triples)) == SMALL.n_eval
        for triple in triples:
            assert (triple in train) == name.startswith("id")
            assert name.startswith("id") or (sizes[triple] >= 3) == (name == "medium")
    for name, wanted in (("id atomic", False), ("id deducible", True)):
        where = {tuple(t): d for t, d in zip(graph.train.tolist(), graph.deducible, strict=True)}
        assert all(where[tuple(t)] == wanted for t in graph.splits[name].tolist())


def test_relations_are_matched_between_splits():
    graph = draw_graph(GraphConfig(), 0)
    counts = [np.bincount(graph.splits[name][:, 1], minlength=16).tolist() for name in SPLITS]
    assert all(count == counts[0] for count in counts) and sum(counts[0]) == 100


def test_choices_hold_one_answer():
    graph = draw_graph(SMALL, 1)
    train = set(map(tuple, graph.train.tolist()))
    closure = derivation_sizes(dict.fromkeys(train, 1), graph.rules)
    for name in SPLITS:
        for (s, r, o), choices in zip(graph.splits[name].tolist(), graph.choices[name].tolist(), strict=True):
            assert choices[0] == o and len(set(choices)) == SMALL.n_choices
            assert not any((s, r, other) in closure for other in choices[1:])


def test_rows_are_single_tokens():
    graph = draw_graph(SMALL, 0)
    rows = graph.rows(graph.train)
    assert (rows[:, 2] == ASK).all() and rows.max() < SMALL.d_vocab and rows.min() == ASK
    assert len(np.intersect1d(rows[:, 0], rows[:, 1])) == 0


def test_a_function_of_the_seed():
    assert (draw_graph(SMALL, 2).train == draw_graph(SMALL, 2).train).all()


def test_bad_sizes():
    with pytest.raises(ValueError, match="n_train=100000"):
        draw_graph(GraphConfig(n_entities=40, n_train=100000, closure_every=20), 0)
    with pytest.raises(ValueError, match="n_rules_used=30 exceeds n_rules=25"):
        GraphConfig(n_rules_used=30)
    with pytest.raises(ValueError, match="different rules cannot be drawn"):
        draw_rules(GraphConfig(n_relations=3, n_rules=200), np.random.default_rng(0))
