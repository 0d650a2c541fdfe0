"""A model with one recall head and one copy head, written by hand: attribution names both, and every intervention flips the answer exactly where
arithmetic says. What must not work does not: random heads, directions, nodes and donors."""

from math import exp, log

import numpy as np
import pytest
import torch
from prior_example import (
    COPY,
    COPY_HEAD,
    GATE,
    INTENT,
    INTENT_HEAD,
    RECALL,
    RECALL_HEAD,
    N,
    conflict_cases,
    two_path_model,
)

from circuits.masks import NodeSpace
from circuits.means import measure_means
from circuits.prior.asking import Asks, Subject, ask, plain
from circuits.prior.cases import AGREEING, IRRELEVANT, NOTHING, STATED, Form
from circuits.prior.heads import Heads, head_effects
from circuits.prior.interventions import (
    Contrast,
    DualRun,
    HeadScaling,
    OneDirection,
    Patching,
    RecallNodes,
    interventions,
)
from circuits.prior.interventions.direction import drawn_direction
from circuits.prior.interventions.patching import of_others
from circuits.prior.prompts import PROMPT_ARMS
from circuits.prior.study import forms_for
from sparsetrain.hooks import hooked

HALF = COPY / 2
"""What the copy head writes where an object stands there once: half of its attention is on the sink."""
NODES = [f"blocks.0.attn.hook_v:{2 * N + i}" for i in range(N)]


@pytest.fixture(scope="module")
def subject():
    return Subject(module=two_path_model(), weights_sha256="0" * 64)


@pytest.fixture(scope="module")
def arms(subject):
    return interventions(subject, NODES)[0]


@pytest.fixture(scope="module")
def cases(arms):
    return conflict_cases(forms_for([*PROMPT_ARMS, *arms]))


@pytest.fixture(scope="module")
def heads(subject):
    return Heads.of(subject.module)


def copied(n: float, intent: float = 0) -> float:
    """Logit of the stated object with n statements."""
    return COPY / (1 + exp(-(GATE * intent + log(n)))) if n else 0.0


def margin(subject, cases, arm, setting, intent="context", random=None):
    """Over all cases, which must agree."""
    found = ask(subject, cases, arm.apply(subject, arm.learn(subject, cases[:6]), setting, intent, random)).margin
    assert np.ptp(found) < 2e-4, found
    return float(found[0])


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (NOTHING, -RECALL),
        (STATED, HALF - RECALL),
        (AGREEING, -HALF - RECALL),
        (IRRELEVANT, -RECALL),
        (Form(n=2), copied(2) - RECALL),
        (Form(n=4), copied(4) - RECALL),
        (Form(n=8), copied(8) - RECALL),
        (Form(trust=1), copied(1, 1) - RECALL),
        (Form(distrust=0), copied(1, -1) - RECALL),
        (Form(behind=8), HALF - RECALL),
        (Form(wording=4), HALF - RECALL),
        (Form(trust=1, n=4), copied(4, 1) - RECALL),
    ],
)
def test_prompts(subject, cases, form, expected):
    assert ask(subject, cases, plain(subject, form)).margin == pytest.approx(np.full(len(cases), expected), abs=1e-4)


def test_prompts_saturate_and_trust_flips(subject, cases):
    says = {n: ask(subject, cases, plain(subject, Form(n=n))).says_context.mean() for n in (1, 2, 4, 8)}
    assert says == {1: 0, 2: 0, 4: 1, 8: 1}, "n / (n + 1) COPY passes RECALL between 2 and 4"


@pytest.mark.parametrize("how", ["first_order", "exact"])
def test_attribution_names_both_heads_and_no_other(subject, heads, cases, how):
    effects = head_effects(subject, heads, cases, STATED, how)["effects"]
    expected = np.zeros(heads.n)
    expected[RECALL_HEAD], expected[COPY_HEAD] = -RECALL, HALF
    assert effects == pytest.approx(np.tile(expected, (len(cases), 1)), abs=1e-4)
    assert heads.name(COPY_HEAD) == "blocks.1.attn head 3"


def test_attribution_of_the_intent_head_where_it_is_asked_for(subject, heads, cases):
    """Without it the copy head is back at one half: not linear, so that the exact effect is not the first-order one."""
    exact = head_effects(subject, heads, cases[:2], Form(trust=0), "exact")["effects"]
    assert exact[:, INTENT_HEAD] == pytest.approx(copied(1, 1) - HALF, abs=1e-4)
    first = head_effects(subject, heads, cases[:2], Form(trust=0))["effects"]
    slope = COPY * GATE * (a := copied(1, 1) / COPY) * (1 - a)
    assert first[:, INTENT_HEAD] == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize("factor", [0.0, 0.5, 1.0, 1.4, 1.6, 3.0])
def test_scaling_a_head_flips_where_arithmetic_says(subject, heads, cases, factor):
    for head, expected in ((COPY_HEAD, factor * HALF - RECALL), (RECALL_HEAD, HALF - factor * RECALL)):
        factors = np.ones(heads.n)
        factors[head] = factor
        scores = ask(subject, cases, lambda asks, f=factors: subject.logits(asks.rows(STATED), heads.scaled(f)))
        assert scores.margin == pytest.approx(np.full(len(cases), expected), abs=1e-4)
        assert scores.says_context.mean() == (expected > 0), (
            "the copy head from RECALL / HALF on, the recall head below HALF / RECALL"
        )


def test_scaling_where_heads_hand_on_is_scaling_their_values(make_model):
    """Attention is linear in its values, and the sink has value 0; AbsTopK behind the projection sees the changed sum."""
    model = make_model(abs_topk={"attn_out": 0.25, "attn_v": 0.5})
    heads, tokens = Heads.of(model), torch.arange(12).reshape(2, 6)
    factors = np.linspace(-1, 2, heads.n)
    by_layer = torch.from_numpy(factors).float().reshape(2, 4, 1)

    def values(layer):
        return lambda x, point: (x.unflatten(-1, (4, 8)) * by_layer[layer]).flatten(-2)

    with torch.no_grad():
        with hooked(model, heads.scaled(factors)):
            here = model(tokens)
        with hooked(model, {f"blocks.{i}.attn.hook_v": values(i) for i in range(2)}):
            there = model(tokens)
        with hooked(model, heads.hooks(lambda z, layer: z)):
            assert torch.equal(model(tokens), model(tokens)), "watching changes nothing"
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(here, model(tokens), atol=1e-2)


def test_contrastive_decoding(subject, cases):
    arm = Contrast()
    for setting in arm.settings:
        alpha = setting["alpha"]
        assert margin(subject, cases, arm, setting) == pytest.approx((1 + alpha) * HALF - RECALL, abs=1e-4)
        assert margin(subject, cases, arm, setting, "prior") == pytest.approx(-alpha * HALF - RECALL, abs=1e-4)
        random = margin(subject, cases, arm, setting, random=1)
        assert random == pytest.approx(HALF - RECALL, abs=1e-4), "an irrelevant statement changes nothing here"


def test_head_scaling_finds_its_heads(subject, heads, cases):
    arm = HeadScaling(heads)
    one, several, louder, both = arm.settings
    for setting, expected in ((one, HALF), (several, HALF), (louder, 2 * HALF - RECALL), (both, 2 * HALF)):
        assert margin(subject, cases, arm, setting) == pytest.approx(expected, abs=1e-4)
        assert margin(subject, cases, arm, setting, random=3) == pytest.approx(HALF - RECALL, abs=1e-4)
    assert margin(subject, cases, arm, both, "prior") == pytest.approx(-2 * RECALL, abs=1e-4)


def test_dual_run(subject, heads, cases):
    arm = DualRun(heads, alphas=(0.19, 0.21, 1.0, 4.0))
    for setting in arm.settings:
        alpha = setting["alpha"]
        found = margin(subject, cases, arm, setting)
        assert found == pytest.approx((1 + alpha) * HALF - (1 - alpha) * RECALL, abs=1e-3) and (found > 0) == (
            alpha > 0.2
        )
        assert margin(subject, cases, arm, setting, "prior") == pytest.approx(
            (1 - alpha) * HALF - (1 + alpha) * RECALL, abs=1e-3
        )
        assert margin(subject, cases, arm, setting, random=3) == pytest.approx(HALF - RECALL, abs=1e-3)


def test_one_direction_finds_the_planted_one(subject, cases):
    arm = OneDirection(subject.streams)
    point = "blocks.1.attn.norm.hook_resid"
    found = arm.direction(arm.learn(subject, cases[:6]), point)
    assert found.u[INTENT] >= 0.99 and np.linalg.norm(found.u) == pytest.approx(1), "cosine with the planted channel"
    assert (found.context, found.prior) == pytest.approx((1, -1), abs=1e-4)
    near, far = ({"point": point, "reach": reach} for reach in (1.0, 3.0))
    assert [setting["reach"] for setting in arm.settings] == [1, 2, 3, 4] and near in arm.settings, (
        "one place in two blocks"
    )
    assert margin(subject, cases, arm, near) == pytest.approx(copied(1, 1) - RECALL, abs=1e-3) and copied(1, 1) > RECALL
    assert margin(subject, cases, arm, far) == pytest.approx(copied(1, 3) - RECALL, abs=1e-3)
    assert margin(subject, cases, arm, near, "prior") == pytest.approx(copied(1, -1) - RECALL, abs=1e-3)


def test_a_random_direction_of_the_same_size_is_not_enough(subject, cases):
    arm = OneDirection(subject.streams)
    learned = arm.learn(subject, cases[:6])
    setting = {"point": "blocks.1.attn.norm.hook_resid", "reach": 1.0}
    said = [
        ask(subject, cases, arm.apply(subject, learned, setting, random=seed)).says_context.mean() for seed in range(10)
    ]
    assert max(said) == 0, said
    assert abs(float(drawn_direction(36, 0)[INTENT])) < 0.99 and float(drawn_direction(36, 0).norm()) == pytest.approx(
        1
    )


def test_patching_works_behind_the_copy_head_and_nowhere_before(subject, cases):
    arm = Patching(subject.streams)
    before, after = "blocks.1.attn.norm.hook_resid", "final_norm.hook_resid"
    assert {setting["point"] for setting in arm.settings} == {before}, (
        "behind the last block it would be the donor's own answer"
    )
    assert margin(subject, cases, arm, {"point": before, "strength": 1.0}) == pytest.approx(HALF - RECALL, abs=1e-4)
    for strength in (1.0, 2.0):
        expected = HALF + strength * (copied(4) - HALF) - RECALL
        assert margin(subject, cases, arm, {"point": after, "strength": strength}) == pytest.approx(expected, abs=1e-4)
    restored = margin(subject, cases, arm, {"point": after, "strength": 1.0}, "prior")
    assert restored == pytest.approx(-RECALL, abs=1e-4)
    said = [
        ask(subject, cases, arm.apply(subject, {}, {"point": after, "strength": 1.0}, random=i)).says_context
        for i in range(4)
    ]
    assert np.mean(said) <= 1 / 3, "the donor of another case says another object, but where it happens to say the same"


@pytest.mark.parametrize("seed", range(6))
def test_a_donor_drawn_by_lot_is_of_another_case(seed):
    owner = np.array([0, 0, 0, 1, 2, 2, 3, 3])
    order = of_others(owner, seed).numpy()
    assert (owner[order] != owner).all(), "no place keeps the donor of its own case"
    number = np.array([0, 1, 2, 0, 0, 1, 0, 1])
    n_places = np.array([3, 1, 2, 2])
    assert np.array_equal(number[order], number % n_places[owner[order]])
    assert of_others(np.zeros(3, dtype=np.int64), seed) is None


def test_editing_the_recall_circuit(subject, cases):
    space = NodeSpace.of(subject.module)
    arm = RecallNodes(space, NODES)
    for setting in arm.settings:
        factor = setting["factor"]
        assert margin(subject, cases, arm, setting) == pytest.approx(HALF - factor * RECALL, abs=1e-4)
        assert margin(subject, cases, arm, setting, "prior") == pytest.approx(HALF - (2 - factor) * RECALL, abs=1e-4)
        assert margin(subject, cases, arm, setting, random=1) == pytest.approx(HALF - RECALL, abs=1e-4)
    assert int(arm.edited(5).sum()) == len(NODES) and not (arm.edited(5) & arm.chosen).any()


def test_nodes_go_to_their_mean(subject, cases):
    tokens = torch.tensor([case.prompts[NOTHING] for case in cases])
    means = measure_means(subject.module, tokens, source="prompts", weights_sha256="0" * 64)
    arm = RecallNodes(NodeSpace.of(subject.module), NODES, means)
    # Every subject's value is 1 in one of its 18 prompts of two tokens times three: the mean of each channel is 1 / 12. Recall attends to the
    # subject alone, so that deleted nodes hand on the same for every object.
    assert margin(subject, cases, arm, {"factor": 0.0}) == pytest.approx(HALF, abs=1e-4)


def test_the_circuit_needs_nodes_that_exist(subject):
    space = NodeSpace.of(subject.module)
    with pytest.raises(ValueError, match="no nodes of a recall circuit"):
        RecallNodes(space, [])
    with pytest.raises(ValueError, match="near names"):
        RecallNodes(space, ["blocks.0.attn.hook_x:1"])


def test_answers_share_a_row_where_they_have_one_token(subject, cases):
    asks = Asks(cases[:2])
    assert asks.rows(STATED).tokens.shape == (2, 4) and asks.n_places == 2
