"""Circuits of behaviours: pairs by hand, circuits against random ones and those of the other rule, a model that misses the target."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from circuits.calibrate import model_calibration
from circuits.fracture import behaviour_circuits as search_module
from circuits.fracture.attributions import question_means
from circuits.fracture.behaviour_circuits import (
    BehaviourCircuits,
    CircuitsConfig,
    answered,
    behaviour_circuits,
    behaviour_pairs,
)
from circuits.fracture.measures import union_ratio
from circuits.fracture.questions import of_language
from circuits.search.learn import PruneConfig
from circuits.tasks.loss import answer_logits, task_loss
from circuits.tasks.pairs import PairSet
from circuits.tasks.tokenise import REST
from sparsetrain.data.worlds.rules import RulesConfig, draw_rules
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.training.objectives import answer_loss

WORLD = draw_rules(RulesConfig(n_symbols=6, rules=("copy", "successor")), 0)
QUESTIONS = of_language(WORLD)
CONFIG = CircuitsConfig(n_pairs=24, prune=PruneConfig(n_steps=40, n_pairs=6))


@pytest.fixture(scope="module")
def trained() -> Transformer:
    """Knows the world, training inputs and others."""
    torch.manual_seed(0)
    model = Transformer(ModelConfig(d_vocab=WORLD.config.d_vocab, n_layer=2, d_model=32, d_head=8, d_mlp=32, n_ctx=6, abs_topk={}, positions="learned"))  # fmt: skip
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    rows = torch.from_numpy(WORLD.train.tokens)
    for _ in range(150):
        optimizer.zero_grad()
        answer_loss(model, {"tokens": rows}).backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def found(trained) -> BehaviourCircuits:
    return behaviour_circuits(trained, QUESTIONS, question_means(trained, QUESTIONS), CONFIG)


def test_a_behaviour_of_few_questions_leaves_the_others_theirs(trained, found, monkeypatch) -> None:
    """Searched side by side are those of equally many pairs: what one lacks, the others need not."""
    asked: dict[int, int] = {}

    def pairs(questions, behaviour: int, n: int, seed: int) -> PairSet:
        made = behaviour_pairs(questions, behaviour, n, seed)
        return made.batch(slice(0, 4)) if behaviour == 1 else made

    searched = search_module._searched

    def seen(aim, runs):
        asked.update((len(run.train), asked.get(len(run.train), 0) + 1) for run in runs)
        return searched(aim, runs)

    monkeypatch.setattr(search_module, "behaviour_pairs", pairs)
    monkeypatch.setattr(search_module, "_searched", seen)
    again = behaviour_circuits(trained, QUESTIONS, question_means(trained, QUESTIONS), CONFIG)
    assert set(asked) == {4, 24}
    same = [i for i in range(QUESTIONS.n_behaviours) if i != 1 and again.targets[i] == found.targets[i]]
    assert len(same) >= 4 and all(again.reached[i] == found.reached[i] for i in same)


def test_pairs_by_hand() -> None:
    for behaviour in (0, 4):
        pairs = behaviour_pairs(QUESTIONS, behaviour, 100, 0)
        assert isinstance(pairs, PairSet) and len(pairs) == 24  # all training inputs of the behaviour, each first once
        rule, context = divmod(behaviour, 3)
        inputs = WORLD.inputs
        of = {tuple(row[:-1]): i for i, row in enumerate(inputs.tokens.tolist())}
        firsts, seconds = ([of[tuple(row)] for row in pairs.tokens[:, side].tolist()] for side in (0, 1))
        assert sorted(firsts) == np.flatnonzero((inputs.behaviour == behaviour) & ~inputs.held).tolist()
        assert not inputs.held[seconds].any() and set(inputs.context[seconds]) == {context}
        assert pairs.answers[:, 0].tolist() == inputs.tokens[firsts, -1].tolist()
        assert pairs.answers[:, 1].tolist() == [REST] * 24
        assert (inputs.tokens[firsts, -1] != inputs.tokens[seconds, -1]).all()
        firsts, seconds = np.array(firsts), np.array(seconds)
        assert (inputs.rule[seconds] != rule).all()
        same = (inputs.a[firsts] == inputs.a[seconds]) & (inputs.b[firsts] == inputs.b[seconds])
        twins = WORLD.number(1 - rule, context, inputs.a[firsts], inputs.b[firsts])
        # the same operands under the other rule, where those are not held out there and answered otherwise
        assert (same == (~inputs.held[twins] & (inputs.tokens[twins, -1] != inputs.tokens[firsts, -1]))).all()
    assert torch.equal(behaviour_pairs(QUESTIONS, 1, 5, 3).tokens, behaviour_pairs(QUESTIONS, 1, 5, 3).tokens)


def test_the_loss_of_a_pair_is_over_all_tokens() -> None:
    logits = torch.tensor([[[2.0, 0.0, 1.0], [0.0, 1.0, 0.5]]])  # one pair, three tokens
    loss = task_loss(model_calibration("none", torch.zeros(1, 2, 2)).apply(answer_logits(logits, torch.tensor([[0, REST]]))))  # fmt: skip
    p, q = logits[0, 0].softmax(-1)[0], logits[0, 1].softmax(-1)[0]
    assert float(loss) == pytest.approx(float(-(p.log() + (1 - q).log()) / 2), rel=1e-5)


def test_circuits_meet_their_target_and_chance_does_not(trained, found) -> None:
    means = question_means(trained, QUESTIONS)
    assert found.reached.all() and (found.pair_loss <= CONFIG.target_loss).all() and (found.targets == CONFIG.target_loss).all()  # fmt: skip
    assert (found.sizes < means.space.n_nodes).all() and (found.sizes > 0).all()
    assert found.train.accuracy.min() > 0.8
    keep = torch.from_numpy(found.keep)
    generator = torch.Generator().manual_seed(1)
    random = torch.stack([mask[torch.randperm(len(mask), generator=generator)] for mask in keep])
    assert answered(trained, means, random, QUESTIONS.asked(held=False)).loss.min() > 2 * found.train.loss.max()
    everything = answered(trained, means, torch.ones_like(keep), QUESTIONS.asked(held=True))
    heldout = WORLD.heldout
    right = trained(torch.from_numpy(heldout.tokens[:, :-1]))[:, -1].argmax(-1).numpy() == heldout.tokens[:, -1]
    np.testing.assert_allclose(everything.accuracy, [right[heldout.behaviour == j].mean() for j in range(6)])
    ratio = [union_ratio(of) for of in found.of_rules(3)]
    assert all(1 <= one <= 3 for one in ratio)
    np.testing.assert_array_equal(behaviour_circuits(trained, QUESTIONS, means, CONFIG).keep, found.keep)


def test_the_circuit_of_a_behaviour_stands_in_its_row(trained, found) -> None:
    means = question_means(trained, QUESTIONS)
    assert found.of_rules(3).shape == (2, 3, means.space.n_nodes)
    np.testing.assert_array_equal(found.of_rules(3)[1, 2], found.keep[5])
    # circuits of the other rule do worse; not each of them, for rules may share nodes
    exchanged = answered(trained, means, torch.from_numpy(found.keep).roll(3, 0), QUESTIONS.asked(held=False))
    assert exchanged.loss.mean() > 2 * found.train.loss.mean()


def test_a_model_that_cannot_do_it_is_said_to_miss() -> None:
    torch.manual_seed(2)
    model = Transformer(ModelConfig(d_vocab=WORLD.config.d_vocab, n_layer=1, d_model=8, d_head=4, d_mlp=8, n_ctx=6, abs_topk={}))  # fmt: skip
    quick = CircuitsConfig(n_pairs=6, n_tries=1, prune=PruneConfig(n_steps=5, n_pairs=6))
    found = behaviour_circuits(model, QUESTIONS, question_means(model, QUESTIONS), quick)
    assert not found.reached.any() and (found.targets > quick.target_loss).all()
    assert (found.pair_loss <= found.targets).all()  # searched down to what it can do


def test_questions_of_one_answer_make_no_pairs() -> None:
    tokens = QUESTIONS.tokens.copy()
    tokens[:, -1] = 0
    with pytest.raises(
        ValueError, match="no question of training in context '0' has another answer than one of copy in 0"
    ):
        behaviour_pairs(replace(QUESTIONS, tokens=tokens), 0, 5, 0)
