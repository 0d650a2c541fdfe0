"""Scores of conflicts: numbers worked out by hand."""

from math import e, exp, log

import numpy as np
import pytest
import torch

from circuits.prior.asking import Asks, Subject, ask, plain, read_answers
from circuits.prior.cases import NOTHING, STATED, Case
from circuits.prior.scores import (
    CaseScores,
    by_fact,
    falling,
    half_point,
    headroom,
    mean_over_facts,
    persuasion,
    susceptibility,
)


def scored(mean_logp, p_context=0.0, p_prior=0.0):
    rows = np.asarray(mean_logp, dtype=float)
    fill = np.zeros(len(rows))
    return CaseScores(
        mean_logp=rows, p_context=fill + p_context, p_prior=fill + p_prior, says_context=fill, says_prior=fill
    )


def test_memory_ratio_and_margin_of_one_token_are_those_of_the_probabilities():
    scores = scored([[log(0.2), log(0.6)]], 0.2, 0.6)
    assert scores.memory_ratio == pytest.approx(0.6 / 0.8) and scores.preference == pytest.approx(0.25)
    assert scores.margin == pytest.approx(log(0.2) - log(0.6)) and scores.p_other == pytest.approx(0.2)


def test_persuasion_is_the_divergence_over_the_answers():
    p, q = [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]
    assert persuasion(p, q) == pytest.approx(0.5 * log(2) - 0.25 * log(2))
    assert persuasion([1, 0], [0.5, 0.5]) == pytest.approx(log(2)) and persuasion([0.5, 0.5], [1, 0]) == np.inf
    stated, without = scored([[log(0.3), log(0.1)]]), scored([[log(0.1), log(0.3)]])
    assert stated.persuasion(without) == pytest.approx(0.75 * log(3) - 0.25 * log(3))  # of .75, .25 against .25, .75


def test_susceptibility_under_the_mixture_is_the_mutual_information():
    given = np.array([[0.9, 0.1], [0.5, 0.5]])
    entropy = lambda p: -sum(x * log(x) for x in p)  # noqa: E731
    by_hand = entropy([0.7, 0.3]) - (entropy([0.9, 0.1]) + entropy([0.5, 0.5])) / 2
    found = susceptibility(given)
    assert found.form == "mixture" and found.value == pytest.approx(by_hand, abs=1e-12)
    joint = given / 2  # the definition of mutual information, from the joint distribution
    independent = joint.sum(1, keepdims=True) * joint.sum(0)
    assert found.value == pytest.approx(float((joint * np.log(joint / independent)).sum()), abs=1e-12)
    other = susceptibility(given, without=[0.2, 0.8])
    assert other.form == "without context"
    mixture = persuasion([0.7, 0.3], [0.2, 0.8])
    assert other.value == pytest.approx(by_hand + float(mixture)), (
        "more than the mutual information, by the divergence of the mixture"
    )


def test_contexts_that_change_nothing_have_no_susceptibility():
    assert susceptibility([[0.4, 0.6]] * 3).value == pytest.approx(0, abs=1e-15)


def test_a_fact_counts_once_however_many_cases_it_has():
    facts = ["a", "a", "a", "b"]
    assert by_fact([0, 0, 0, 1], facts).tolist() == [0, 1]
    assert mean_over_facts([0, 0, 0, 1], facts).value == 0.5 and mean_over_facts([1, 1], ["a", "a"]) is None


def test_headroom_is_paired():
    rng = np.random.default_rng(0)
    prompt = rng.random(50)
    facts = [str(i) for i in range(50)]
    found = headroom(prompt + 0.1, prompt, facts, n_bootstrap=200)
    assert (found.value, found.lo, found.hi) == pytest.approx((0.1, 0.1, 0.1)), "the spread over facts is in both"
    none = headroom(rng.permutation(prompt), prompt, facts, n_bootstrap=500)
    assert none.lo < 0 < none.hi, "nothing but noise is no headroom"


def test_half_point_by_straight_lines():
    n = np.repeat([0, 1, 3, 7], 5)  # log2(1 + n) is 0, 1, 2, 3
    p = np.repeat([1.0, 0.8, 0.4, 0.2], 5)
    facts = [str(i) for i in range(20)]
    found = half_point(p, n, facts, n_bootstrap=50)
    assert found.n50 == pytest.approx(2 ** (1 + 0.3 / 0.4) - 1) and found.beyond == "" and found.n_facts == 20
    assert found.lo == found.hi == pytest.approx(found.n50), "no spread within an exposure count"


def test_half_point_says_when_it_is_not_crossed():
    n, facts = np.repeat([0, 15], 4), [str(i) for i in range(8)]
    assert half_point([0.9] * 8, n, facts).beyond == "above" and half_point([0.9] * 8, n, facts).n50 == pytest.approx(
        15
    )
    assert half_point([0.1] * 8, n, facts).beyond == "below" and half_point([0.1] * 8, n, facts).n50 == 0
    with pytest.raises(ValueError, match="at least two exposure counts"):
        half_point([0.9] * 8, [4] * 8, facts)


def test_the_interval_of_the_half_point_covers_the_truth():
    """P(context) = sigmoid(4 - 2 x) has its half at x = 2, n50 = 3."""
    hits = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        n = np.repeat([0, 1, 3, 7, 15], 30)
        truth = 1 / (1 + np.exp(2 * np.log2(1 + n) - 4))
        said = (rng.random(len(n)) < truth).astype(float)
        found = half_point(said, n, [str(i) for i in range(len(n))], n_bootstrap=200, seed=seed)
        hits += found.lo <= 3 <= found.hi
    assert hits >= 34, hits


def test_falling_is_the_weighted_isotonic_fit():
    assert falling(np.array([0.5, 0.7, 0.1]), np.array([1, 3, 1])).tolist() == pytest.approx([0.65, 0.65, 0.1])
    assert falling(np.array([0.9, 0.5]), np.array([1, 1])).tolist() == [0.9, 0.5]


def case(prior, context, others=(), prompt=(1, 2)):
    prompts = {STATED: (3, *prompt), NOTHING: prompt}
    return Case(place="here", fact="f", prompts=prompts, prior=prior, context=context, others=others)


def test_answers_of_several_tokens_against_brute_force(make_model):
    model = make_model().double()
    subject = Subject(module=model, weights_sha256="0" * 64)
    cases = [case((5, 6), (7,), ((8, 9, 10),)), case((11,), (12,)), case((13, 14, 15), (13, 16), prompt=(4, 5, 6, 7))]
    scores = ask(subject, cases, plain(subject, STATED))
    for i, one in enumerate(cases):
        logps = []
        for answer in one.answers:
            tokens = torch.tensor([[*one.prompts[STATED], *answer]])
            with torch.no_grad():
                lp = model(tokens).float().double().log_softmax(-1)[0]
            start = len(one.prompts[STATED])
            logps.append([float(lp[start + j - 1, token]) for j, token in enumerate(answer)])
        assert scores.mean_logp[i, : len(logps)] == pytest.approx([np.mean(tokens) for tokens in logps], abs=1e-5)
        assert np.isnan(scores.mean_logp[i, len(logps) :]).all()
        assert scores.p_context[i] == pytest.approx(exp(sum(logps[0])), rel=1e-4)
        assert scores.p_prior[i] == pytest.approx(exp(sum(logps[1])), rel=1e-4)


def test_greedy_answers_need_every_token():
    asks = Asks([case((1, 2), (3,)), case((1,), (2,))])
    logits = torch.full((asks.n_places, 5), 0.0)
    assert (
        asks.n_places == 4
    )  # of the first case: before 3, before 1, before 2; of the second one place for both answers
    logits[0, 4], logits[1, 1], logits[2, 2], logits[3, 2] = 1, 1, 1, e
    found = read_answers(asks, logits, 2)
    assert found["says_prior"].tolist() == [1, 0] and found["says_context"].tolist() == [0, 1]
    logits[2, 0] = 2
    assert read_answers(asks, logits, 2)["says_prior"].tolist() == [0, 0], "the second token is another one"
