"""The circuit that recalls: in models written by hand, one whose facts share their nodes and one in which every fact has a neuron of its own."""

from collections import Counter
from dataclasses import replace
from itertools import combinations
from math import log, sqrt
from typing import Any

import numpy as np
import pytest
import torch

from circuits.answers import Ablated
from circuits.context_prior.recall import Recall, RecallConfig, RecallPairs, recall_circuit, recall_pairs
from circuits.masks import NodeSpace
from circuits.search.learn import PruneConfig
from circuits.tasks.loss import pair_accuracy
from circuits.tasks.pairs import PairSet
from sparsetrain.data.worlds.conflicts import PLAIN, ConflictWorld, ConflictWorldConfig, draw_world
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.typed import from_dict

SMALL = ConflictWorldConfig(
    n_groups=6, levels=(0, 2, 4, 6), n_given=1, n_given_exposures=20, n_triples=4, n_trust=1, n_wordings=2, conflict=0.1
)
N_BITS, D_HEAD, EPS, SURE = 8, 8, 1e10, 30.0
CODE, CONSTANT, FLAG, OUT, NOISE = 0, 8, 9, 10, 18
"""First channels of the stream."""
CONFIG = RecallConfig(
    at_least=2,
    n_documents=40,
    margin=0.1,
    prune=PruneConfig(n_steps=60, n_pairs=8, clean_rounds=None, candidate_share=0.2),
)


def empty_model(**settings: Any) -> Transformer:
    """All weights 0, norms that change nothing."""
    model = Transformer(ModelConfig(n_layer=1, d_head=D_HEAD, n_ctx=12, abs_topk={}, bigram=False, norm_eps=EPS, d_vocab=SMALL.d_vocab, **settings))  # fmt: skip
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.fill_(sqrt(EPS) if name.endswith("gain") else 0.0)
    return model.eval()


def codes() -> torch.Tensor:
    """A word of +1 and -1 for each of the 30 subjects, with an even number of +1: any two differ in two places or more. `[n_subjects, N_BITS]`"""
    bits = torch.randperm(2**N_BITS, generator=torch.Generator().manual_seed(2))[:, None] >> torch.arange(N_BITS) & 1
    return 2.0 * bits[bits.sum(1) % 2 == 0][: SMALL.n_subjects] - 1


def coded_world() -> ConflictWorld:
    """Every fact of a subject has the subject's own object."""
    world = draw_world(SMALL, 0)
    prompts = world.facts.prompts.copy()
    prompts[:, 3] = SMALL.object(0) + world.facts.subject
    return replace(world, facts=replace(world.facts, prompts=prompts))


def coded_model(strength: float = 1.0) -> Transformer:
    """Head 2 hands the code of the subject on, from which objects are read: all facts share its nodes. Head 1 hands it on to where nobody reads."""
    model = empty_model(d_model=32, d_mlp=8)
    attn: Any = model.blocks[0].attn  # pyright: ignore[reportIndexIssue]
    mlp: Any = model.blocks[0].mlp  # pyright: ignore[reportIndexIssue]
    with torch.no_grad():
        subjects = slice(SMALL.subject(0), SMALL.subject(0) + SMALL.n_subjects)
        objects = slice(SMALL.object(0), SMALL.object(0) + SMALL.n_subjects)
        model.embed.weight[:, CONSTANT] = 1.0
        model.embed.weight[subjects, FLAG] = 1.0
        model.embed.weight[subjects, CODE : CODE + N_BITS] = codes()
        model.unembed.weight[objects, OUT : OUT + N_BITS] = codes()
        for head, channel, weight in ((1, NOISE, 1.0), (2, OUT, strength)):
            row = head * D_HEAD
            attn.W_q.weight[row, CONSTANT] = sqrt(D_HEAD)
            attn.W_k.weight[row, CONSTANT], attn.W_k.weight[row, FLAG] = -SURE, 2 * SURE
            for i in range(N_BITS):
                attn.W_v.weight[row + i, CODE + i] = 1.0
                attn.W_o.weight[channel + i, row + i] = weight
        mlp.W_in.weight[:, NOISE : NOISE + N_BITS] = 1.0
        mlp.W_out.weight[NOISE : NOISE + N_BITS] = 1.0
    return model


def planted() -> set[str]:
    """The nodes on the path from subject to object in `coded_model`."""
    parts = {
        "in": [*range(CODE, CODE + N_BITS), CONSTANT, FLAG],
        "q": [2 * D_HEAD],
        "k": [2 * D_HEAD],
        "v": range(2 * D_HEAD, 3 * D_HEAD),
        "out": range(OUT, OUT + N_BITS),
    }
    return {f"blocks.0.attn.hook_{name}:{channel}" for name, channels in parts.items() for channel in channels}


def lookup_model(world: ConflictWorld) -> Transformer:
    """Head 0 fetches the relation, and a neuron for each fact fires where subject and relation are its own."""
    facts = np.flatnonzero(world.facts.of_kind("shown") & (world.facts.n > 0))
    n = SMALL.d_vocab
    constant, relations, out = n, n + 1, n + 1 + SMALL.n_relations
    d_model = -(-(out + SMALL.n_subjects) // D_HEAD) * D_HEAD
    model = empty_model(d_model=d_model, d_mlp=len(facts))
    attn: Any = model.blocks[0].attn  # pyright: ignore[reportIndexIssue]
    mlp: Any = model.blocks[0].mlp  # pyright: ignore[reportIndexIssue]
    with torch.no_grad():
        model.embed.weight[:, :n] = torch.eye(n)
        model.embed.weight[:, constant] = 1.0
        attn.W_q.weight[0, constant], attn.W_k.weight[0, constant] = sqrt(D_HEAD), -SURE
        for i in range(SMALL.n_relations):
            attn.W_k.weight[0, SMALL.relation(i)] = 2 * SURE
            attn.W_v.weight[i, SMALL.relation(i)] = 1.0
            attn.W_o.weight[relations + i, i] = 1.0
        for neuron, fact in enumerate(facts):
            subject, relation, _, obj = world.facts.prompts[fact].tolist()
            mlp.W_in.weight[neuron, subject] = mlp.W_in.weight[neuron, relations + relation - SMALL.relation(0)] = 20.0
            mlp.W_in.weight[neuron, constant] = -30.0
            mlp.W_out.weight[out + obj - SMALL.object(0), neuron] = 1.0
        for i in range(SMALL.n_subjects):
            model.unembed.weight[SMALL.object(i), out + i] = 1.0
    return model


def dealt(world: ConflictWorld) -> RecallPairs:
    pairs = recall_pairs(world, 2, 0)
    assert isinstance(pairs, RecallPairs)
    return pairs


def accuracy(model: Transformer, recall: Recall, keep: torch.Tensor, pairs: PairSet) -> float:
    answers = Ablated(model=model, means=recall.means.values).answers(keep[None], pairs)
    return float(pair_accuracy(answers).mean())


def clean_pairs(world: ConflictWorld, like: PairSet) -> PairSet:
    """Pairs of facts that the search may not use, of one relation each."""
    facts = np.concatenate([world.clean(n) for n in SMALL.levels[1:]])
    prompts = world.facts.prompts
    found = [
        (a, b) for a, b in combinations(facts, 2) if prompts[a, 1] == prompts[b, 1] and prompts[a, 3] != prompts[b, 3]
    ]
    sides = torch.from_numpy(prompts[np.array(found)])
    tokens = torch.stack([torch.full_like(sides[..., 0], PLAIN), sides[..., 1], sides[..., 0]], -1)
    return replace(
        like,
        tokens=tokens,
        last=torch.full(tokens.shape[:2], 2),
        answers=sides[..., 3],
        texts=like.texts[:1] * len(found),
        groups=torch.arange(len(found)),
    )


@pytest.fixture(scope="module")
def shared() -> tuple[Transformer, ConflictWorld, Recall]:
    model, world = coded_model(), coded_world()
    return model, world, recall_circuit(model, world, "a" * 64, CONFIG, 0)


def test_the_nodes_found_are_those_that_recall(shared):
    _, _, found = shared
    assert found.reached and not found.reason and found.loss <= found.target == 0.15
    assert found.model_loss < 0.02
    assert set(found.nodes) <= planted() and 2 * 3 <= found.n_nodes <= len(planted()) < found.n_all
    assert 0 < found.n_edges <= 4 * N_BITS + 4
    assert found.means.weights_sha256 == "a" * 64 and "recall" in found.means.source and "given" in found.means.source


def test_the_other_nodes_do_not_matter(shared):
    model, world, found = shared
    space = NodeSpace.of(model)
    keep = torch.zeros(space.n_nodes, dtype=torch.bool)
    keep[[space.number(node) for node in found.nodes]] = True
    path = torch.zeros_like(keep)
    path[[space.number(node) for node in planted()]] = True
    pairs = clean_pairs(world, dealt(world).heldout)
    whole = accuracy(model, found, torch.ones_like(keep), pairs)
    assert whole == 1 and accuracy(model, found, path, pairs) == 1
    assert accuracy(model, found, keep, pairs) > 0.9, "facts of other subjects too, since they share the nodes"
    assert accuracy(model, found, ~path, pairs) == 0.5, "one and the same answer to both sides"
    assert accuracy(model, found, ~keep, pairs) < 0.75


def test_facts_that_share_no_nodes_are_not_passed_off_as_recall():
    """A neuron for each fact: the circuit of some facts has no neuron of the others, and says so."""
    world = draw_world(SMALL, 0)
    found = recall_circuit(lookup_model(world), world, "b" * 64, CONFIG, 0)
    assert found.model_loss < 0.02 and not found.reached
    assert found.loss > 0.15 and "on facts that the search has not seen" in found.reason
    assert 0 < found.n_nodes < found.n_all


def test_a_model_that_knows_nothing():
    world = coded_world()
    found = recall_circuit(coded_model(strength=0), world, "c" * 64, CONFIG, 0)
    assert not found.reached and found.model_loss == pytest.approx(log(2)) == found.loss
    assert found.reason.startswith("the model itself has a loss of 0.693 nats") and found.nodes == ()


def test_too_few_facts():
    world = draw_world(replace(SMALL, n_groups=3, conflict=0), 0)
    for at_least, n in ((7, 0), (6, 5)):
        found = recall_circuit(coded_like(world), world, "d" * 64, replace(CONFIG, at_least=at_least), 0)
        assert not found.reached and found.nodes == () and np.isnan(found.loss) and found.facts == ()
        assert f"{n} facts of contradicted subjects were shown at least {at_least} times" in found.reason


def coded_like(world: ConflictWorld) -> Transformer:
    return Transformer(ModelConfig(d_vocab=world.config.d_vocab, n_layer=1, d_model=16, d_head=8, n_ctx=12)).eval()


def test_a_function_of_the_seed(shared):
    model, world, found = shared
    again = recall_circuit(model, world, "a" * 64, CONFIG, 0)
    assert (again.nodes, again.loss, again.facts) == (found.nodes, found.loss, found.facts)
    assert not torch.equal(dealt(world).heldout.tokens, recall_pairs(world, 2, 1).heldout.tokens)  # pyright: ignore


@pytest.mark.parametrize(
    "config", [SMALL, ConflictWorldConfig(n_groups=9), replace(SMALL, n_groups=3, levels=(0, 2, 3, 4, 5))], ids=str
)
def test_pairs(config):
    """Prompts differ in the subject alone; no fact is in two sets; all are often shown facts of contradicted subjects."""
    world, at_least = draw_world(config, 1), 64 if config.levels[-1] > 64 else 2
    pairs = recall_pairs(world, at_least, 0)
    assert isinstance(pairs, RecallPairs)
    facts = {(int(p[1]), int(p[0])): i for i, p in enumerate(world.facts.prompts)}
    seen: list[set[int]] = []
    for of in (pairs.train, pairs.val, pairs.heldout):
        assert (of.tokens[..., 0] == PLAIN).all() and of.tokens.shape[1:] == (2, 3) and (of.last == 2).all()
        assert (of.tokens[:, 0, 1] == of.tokens[:, 1, 1]).all() and (of.tokens[:, 0, 2] != of.tokens[:, 1, 2]).all()
        assert (of.answers[:, 0] != of.answers[:, 1]).all() and of.n_distinct == len(of)
        used = {facts[int(r), int(s)] for r, s in of.tokens[..., 1:].reshape(-1, 2)}
        for (_, r, s), answer in zip(of.tokens.reshape(-1, 3).tolist(), of.answers.flatten().tolist(), strict=True):
            assert world.facts.prompts[facts[r, s], 3] == answer
        seen.append(used)
    counts = Counter(fact for used in seen for fact in used)
    assert set(counts.values()) == {1} and sorted(counts) == list(pairs.facts)
    assert all(world.facts.subject[i] < config.n_contradicted and world.facts.n[i] >= at_least for i in pairs.facts)
    assert all(not set(world.clean(n)) & set(counts) for n in config.levels)


def test_bad_config():
    with pytest.raises(ValueError, match=r"min_raw_accuracy=2.0 must be from 0 to 1"):
        from_dict(RecallConfig, {"min_raw_accuracy": 2.0})
