"""The four graded shifts of the knowledge graph: a triple is asked for behind other triples.

1. A triple is [mark, subject, relation, ask, object]; the mark says whether it begins a document or goes on with one.
2. Training rows are triples in documents of random length; now and then a triple of the same document is repeated, so that what stands
   in front is worth reading.
3. difficulty: left-out triples by their derivation (`medium`, `hard`); control: trained triples of the same relation, their
   subject trained on as often.
4. choices: triples in front with the relation that is asked for, their objects being alternatives; control: as many of one other relation.
5. context: triples in front in the same document; control: the asked triple begins a document of its own.
6. conflict: the asked triple in front with a wrong object, which is the right answer then; control: with its own object.
"""

from collections import Counter, defaultdict
from random import Random

import numpy as np
from numpy.typing import NDArray

from sparsetrain.data.worlds.graded import Graded, GradedConfig, Name, Unsuited, draw_graded
from sparsetrain.data.worlds.knowledge_graph import KnowledgeGraph, Triple

N_MARKS = 2
"""Tokens besides those of the graph."""
SIZE = 5
"""Tokens of a triple with its mark."""
END = 0.25
"""Probability that a triple begins a document. ours"""
REPEATED = 0.25
"""Probability that a triple inside a document repeats an earlier one of it. ours"""
DIFFICULTY = ("id deducible", "medium", "hard")


def marks(graph: KnowledgeGraph) -> tuple[int, int]:
    """The tokens behind those of the graph: a triple goes on with a document, or begins one."""
    return graph.d_vocab, graph.d_vocab + 1


def training_documents(graph: KnowledgeGraph, n_rows: int, n_triples: int, seed: int) -> NDArray[np.int64]:
    """Rows of training triples in documents, `[n_rows, SIZE * n_triples]`."""
    rng = np.random.default_rng(seed)
    index = rng.integers(len(graph.train), size=(n_rows, n_triples))
    begins = rng.random((n_rows, n_triples)) < END
    begins[:, 0] = True
    first = np.zeros(n_rows, dtype=np.int64)
    for t in range(n_triples):
        first[begins[:, t]] = t
        repeats = ~begins[:, t] & (rng.random(n_rows) < REPEATED)
        source = (first + rng.random(n_rows) * (t - first)).astype(np.int64)
        index[repeats, t] = index[repeats, source[repeats]]
    rows = graph.rows(graph.train)[index]
    go_on, begin = marks(graph)
    return np.concatenate([np.where(begins, begin, go_on)[..., None], rows], -1).reshape(n_rows, -1)


def check_length(config: GradedConfig, n_ctx: int) -> None:
    """Refuses rows longer than n_ctx."""
    length = SIZE * config.n_triples - 1
    if length > n_ctx:
        raise ValueError(
            f"n_triples={config.n_triples} needs rows of {length} tokens, model.n_ctx={n_ctx}; lower it or raise model.n_ctx"
        )


def build_triples(config: GradedConfig, graph: KnowledgeGraph, n_ctx: int, seed: int) -> list[Graded]:
    """The shifts of a graph: a function of its arguments.

    Raises:
        ValueError: rows longer than n_ctx, or a graph without triples for a level.
    """
    check_length(config, n_ctx)
    draws = _Draws(config, graph)
    return [draws.build(name, seed) for name in config.names]


Row = tuple[list[Triple], set[int], list[int]]
"""Triples with the asked one last, places that begin a document besides the first, entities to choose from."""


class _Draws:
    def __init__(self, config: GradedConfig, graph: KnowledgeGraph) -> None:
        self.config = config
        self.graph = graph
        self.n_choices = graph.choices["hard"].shape[1]
        self.n_before = config.n_triples - 1
        self.train: list[Triple] = [(s, r, o) for s, r, o in graph.train.tolist()]
        self.by_relation: dict[int, list[Triple]] = defaultdict(list)
        self.answers: dict[tuple[int, int], set[int]] = defaultdict(set)
        for s, r, o in self.train:
            self.by_relation[r].append((s, r, o))
        for s, r, o in [*self.train, *(tuple(t) for split in graph.splits.values() for t in split.tolist())]:
            self.answers[s, r].add(o)
        self.n_of_subject = Counter(s for s, _, _ in self.train)

    def build(self, name: Name, seed: int) -> Graded:
        levels = self.config.graph[name]
        n = len(self.graph.splits["hard"]) if name == "difficulty" else self.config.n_items

        def row(rng: Random, item: int, level: int, control: bool) -> tuple[list[int], list[int]]:
            # Difficulty goes through the splits in their order, another try being another context.
            triples, begins, chosen = self._row(name, rng, item, level, control)
            return self._tokens(triples, begins), [1 + entity for entity in chosen]

        return draw_graded(
            name,
            levels,
            n,
            seed,
            row,
            key=f"graph.{name}",
            unsuited="graph",
            advice="lower the levels or n_triples, or raise study.knowledge_graph.n_train",
        )

    def _tokens(self, triples: list[Triple], begins: set[int]) -> list[int]:
        rows = self.graph.rows(np.array(triples)).tolist()
        go_on, begin = marks(self.graph)
        return [token for i, row in enumerate(rows) for token in (begin if i == 0 or i in begins else go_on, *row)]

    def _row(self, name: Name, rng: Random, item: int, level: int, control: bool) -> Row:
        if name == "difficulty":
            return self._difficulty(rng, item, level, control)
        asked = rng.choice(self.train)
        s, r, o = asked
        wrong = self._others(rng, asked, self.n_choices)
        choices = [o, *wrong[: self.n_choices - 1]]
        places = set(rng.sample(range(self.n_before), self.n_before)[:level])
        if name == "choices":
            other = rng.choice([relation for relation in self.by_relation if relation != r])
            neutral = [t for t in self._context(rng, asked) if t[1] not in (r, other)]
            drawn = self._alternatives(rng, other if control else r, asked)
            if len(drawn) < self.n_before or len(neutral) < self.n_before:
                raise Unsuited("few_triples_of_relation")
            before = [drawn[i] if i in places else neutral[i] for i in range(self.n_before)]
            return [*before, asked], set(), choices
        before = self._context(rng, asked)[: self.n_before]
        if name == "context":
            begins = {self.n_before - level} | ({self.n_before} if control else set())
            return [*before, asked], begins, choices
        told = (s, r, wrong[-1]) if level and not control else asked
        before = [told if i in places else triple for i, triple in enumerate(before)]
        choices = [told[2], *([o] if told != asked else []), *wrong][: self.n_choices]
        return [*before, told], set(), choices

    def _difficulty(self, rng: Random, item: int, level: int, control: bool) -> Row:
        split, mixed = DIFFICULTY[level], Random(rng.random())
        s, r, o = (int(x) for x in self.graph.splits[split][item])
        choices = self.graph.choices[split][item].tolist()
        if control and level:
            trained = self.by_relation[r]
            near = min(abs(self.n_of_subject[t[0]] - self.n_of_subject[s]) for t in trained)
            s, r, o = rng.choice([t for t in trained if abs(self.n_of_subject[t[0]] - self.n_of_subject[s]) == near])
            choices = [o, *self._others(rng, (s, r, o), self.n_choices - 1)]
        # The same triples in front of every level and of the control.
        return [*self._context(mixed, (s, r, o))[: self.n_before], (s, r, o)], set(), choices

    def _context(self, rng: Random, asked: Triple) -> list[Triple]:
        """Trained triples that say nothing of what is asked, as many as stand in front or more."""
        drawn = rng.sample(self.train, min(len(self.train), 12 * self.n_before))
        found = [t for t in drawn if t[:2] != asked[:2]]
        if len(found) < self.n_before:
            raise Unsuited("few_triples")
        return found

    def _alternatives(self, rng: Random, relation: int, asked: Triple) -> list[Triple]:
        """Trained triples of a relation with objects that differ from the asked one and from each other."""
        found: dict[int, Triple] = {}
        for triple in rng.sample(self.by_relation[relation], len(self.by_relation[relation])):
            if triple[2] != asked[2] and triple[:2] != asked[:2]:
                found.setdefault(triple[2], triple)
        return list(found.values())

    def _others(self, rng: Random, asked: Triple, n: int) -> list[int]:
        """Entities that are no answer to what is asked."""
        known = self.answers[asked[:2]]
        free = [entity for entity in range(self.graph.n_entities) if entity not in known]
        if len(free) < n:
            raise Unsuited("few_entities")
        return rng.sample(free, n)
