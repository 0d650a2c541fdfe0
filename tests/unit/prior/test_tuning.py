"""Tuning: equal budgets, disjoint facts, a log of all that was tried, and what selects is never what is reported."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from prior_example import RECALL, N, conflict_cases, neutral_texts, two_path_model

from circuits.prior.arm import Arm
from circuits.prior.asking import Subject
from circuits.prior.cases import STATED, Case, Dealt, Form, complete, deal
from circuits.prior.gentle import gentle
from circuits.prior.interventions import Contrast, OneDirection, interventions
from circuits.prior.page import section_of
from circuits.prior.prompts import PROMPT_ARMS, REFERENCES, PromptArm
from circuits.prior.study import ExamineConfig, examine, forms_for, n_asked
from circuits.prior.tuning import Tried, check_budget, tune
from circuits.section import ContextPriorSection
from circuits.views import KINDS
from sparsetrain.report.blocks import Heatmap, Table, Tile, walk
from sparsetrain.typed import from_dict, plain

NODES = [f"blocks.0.attn.hook_v:{2 * N + i}" for i in range(N)]
CONFIG = ExamineConfig(n_fit=6, min_facts=3, n_bootstrap=100, n_random=2)


@pytest.fixture(scope="module")
def subject():
    return Subject(module=two_path_model(), weights_sha256="0" * 64)


@pytest.fixture(scope="module")
def arms(subject):
    return [*PROMPT_ARMS, *interventions(subject, NODES)[0]]


@pytest.fixture(scope="module")
def cases(arms):
    return conflict_cases(forms_for(arms))


@pytest.fixture(scope="module")
def outcome(subject, arms, cases):
    return examine(subject, deal(cases, 6), arms, neutral_texts(forms_for(arms)), CONFIG)


@pytest.fixture(scope="module")
def section(outcome):
    return section_of(outcome, model="by hand")


class Lucky(Arm):
    """Knows the facts of the fitting cases, and nothing else."""

    name, kind, source = "lucky", "intervention", "known false"
    settings = tuple({"i": i} for i in range(4))

    def learn(self, subject, cases):
        self.facts = {case.fact for case in cases}
        return {}

    def logits(self, subject, asks, learned, setting, intent, random):
        logits = subject.logits(asks.rows(STATED))
        for i, case in enumerate(asks.cases):
            if case.fact in self.facts and intent == "context" and random is None:
                logits[i, case.context[0]] += 20.0
        return logits


def test_every_arm_has_the_same_budget_and_it_is_logged(outcome, section, arms):
    log = outcome.tuned.log
    spent = Counter(row.arm for row in log)
    assert spent == dict.fromkeys([arm.name for arm in arms], 4) and {row.n_cases for row in log} == {6}
    assert not outcome.left_out and len(section.budget) == len(log) == 48
    kinds = Counter(row.kind for row in log)
    assert kinds == {"prompt": 24, "intervention": 24}, "neither side has more tries than the other"
    assert sum(row.chosen for row in section.budget) == len(arms)
    assert {row.arm for row in section.budget if row.n_learning} == {"head scaling", "dual run", "one direction"}


def test_unequal_budgets_are_refused(subject, cases):
    few = Contrast(alphas=(0.5, 1.0))
    with pytest.raises(
        ValueError,
        match=r"unequal tuning budgets: arm 'repeat' tried 4 settings on 24 cases in all, arm 'contrastive decoding' 2 on 12",
    ):
        tune(subject, [PROMPT_ARMS[0], few], cases[:6], cases[6:])
    check_budget([])


def test_no_fact_is_both_fitted_on_and_evaluated(subject, outcome, cases):
    fit, evaluated = outcome.dealt.fit, outcome.dealt.evaluated
    assert {case.fact for case in fit}.isdisjoint(case.fact for case in evaluated) and len(fit) + len(evaluated) == len(
        cases
    )
    with pytest.raises(ValueError, match="fact 'subject 0' is both fitted on and evaluated"):
        Dealt(fit=tuple(cases[:2]), evaluated=tuple(cases[2:]))
    with pytest.raises(ValueError, match="is both fitted on and evaluated"):
        tune(subject, PROMPT_ARMS, cases[:2], cases[2:])


def test_the_deal_is_of_whole_facts_and_of_all_kinds(cases):
    dealt = deal(cases, 6)
    assert len(dealt.fit) == 6 and {case.group for case in dealt.fit} == {"half 0", "half 1"}
    assert [case.fact for case in deal(cases, 6).fit] == [case.fact for case in dealt.fit]
    assert {case.fact for case in deal(cases, 6, seed=3).fit} != {case.fact for case in dealt.fit}
    for n in (0, 2, 18, 100):
        with pytest.raises(ValueError, match="some facts are needed for fitting and others for evaluation"):
            deal(cases, n)


def test_what_selects_is_not_what_is_reported(subject, cases):
    """An arm that has only learned the fitting facts by heart wins the tuning, and is worth nothing in the report."""
    found = examine(subject, deal(cases, 6), [*PROMPT_ARMS[:1], Lucky()], (), CONFIG)
    section = section_of(found, model="by hand")
    (lucky,) = [arm for arm in section.arms if arm.name == "lucky"]
    assert lucky.fitted.value > 0.99 and section.best_intervention == "lucky"
    stated = next(one.scores for one in section.references if one.name == "stated once")
    assert lucky.scores.p_context.value == pytest.approx(stated.p_context.value) and lucky.beyond_random.value == 0
    assert (
        section.headroom.hi < 0
        and next(b for b in walk(KINDS["context_prior"].view(section)) if isinstance(b, Tile)).tone == "warn"
    )


def test_evaluation_cases_choose_nothing(subject, arms, cases, outcome):
    """With other evaluation cases the same settings are chosen."""
    dealt = outcome.dealt
    fewer = replace(dealt, evaluated=dealt.evaluated[:3])
    other = tune(subject, arms, dealt.fit, fewer.evaluated)
    assert [one.setting for one in other.chosen] == [one.setting for one in outcome.tuned.chosen]
    swapped = tuple(replace(case, prior=case.context, context=case.prior, others=()) for case in dealt.evaluated)
    assert [one.setting for one in tune(subject, arms, dealt.fit, swapped).chosen] == [
        one.setting for one in other.chosen
    ]


def test_controls_stay_where_the_statement_alone_is(section):
    stated = next(one.scores.p_context.value for one in section.references if one.name == "stated once")
    for arm in section.arms:
        if arm.kind == "prompt":
            assert arm.random is None and arm.restored is None and arm.beyond_random is None
        else:
            assert arm.restored.value == 1, "the opposite intent gives memory's answer"
            assert arm.random.value <= stated + 1e-6, arm.name
            works = arm.name != "activation patching"  # in front of the copy head nothing differs
            assert (arm.beyond_random.lo > 0) == works, arm.name


def test_a_random_arm_has_no_headroom(subject, cases):
    """Known false: a direction drawn by lot in the place of the planted one."""

    class Drawn(OneDirection):
        def logits(self, subject, asks, learned, setting, intent, random):
            return super().logits(subject, asks, learned, setting, intent, 5 if random is None else random)

    found = examine(
        subject, deal(cases, 6), [PROMPT_ARMS[2], Drawn(subject.streams, reaches=(1.0, 0.5, 0.25, 1.2))], (), CONFIG
    )
    section = section_of(found, model="by hand")
    assert section.headroom.hi < 0 and section.arms[1].scores.says_context.value == 0


def test_numbers_of_the_page(section, outcome):
    assert (section.n_cases, section.n_fit, section.n_known, section.n_prior_wins) == (12, 6, 12, 12)
    assert section.best_prompt == "trust, repeated"
    best = next(arm for arm in section.arms if arm.name == "trust, repeated")
    intervention = next(arm for arm in section.arms if arm.name == section.best_intervention)
    assert section.headroom.value == pytest.approx(intervention.scores.p_context.value - best.scores.p_context.value)
    assert [(head.name, round(head.effect.value, 3)) for head in section.heads[:1] + section.heads[-1:]] == [
        ("blocks.1.attn head 3", 2.0),
        ("blocks.0.attn head 2", -RECALL),
    ]
    assert {group.name for group in section.groups} == {"half 0", "half 1"} and sum(
        g.n_cases for g in section.groups
    ) == 12
    references = {one.name: one for one in section.references}
    assert set(references) == {*REFERENCES, "asked to distrust"} and references["agreeing context"].n_cases == 12
    assert references["no context"].scores.persuasion.value == 0
    given = [
        outcome.references[name].over_answers[0] for name in ("stated once", "agreeing context", "irrelevant context")
    ]
    mixture = np.mean(given, axis=0)
    by_hand = np.mean([(p * np.log(p / mixture)).sum() for p in given])
    assert section.susceptibility.value == pytest.approx(by_hand, abs=1e-6)
    assert from_dict(ContextPriorSection, plain(section)) == section
    blocks = list(walk(KINDS["context_prior"].view(section)))
    assert any(isinstance(block, Heatmap) for block in blocks)
    titles = {block.title for block in blocks if isinstance(block, Table)}
    assert {"What turns an answer", "By relation"} <= titles


def test_where_the_prior_seldom_wins_there_is_no_headroom(outcome):
    wins = int(outcome.prior_wins.sum())
    enough, more = (section_of(outcome, model="by hand", min_wins=n) for n in (wins, wins + 1))
    assert enough.headroom.value is not None
    assert more.headroom.value is None and f"the prior wins in {wins} cases" in (more.headroom.note or "")
    assert all(group.headroom.value is None for group in more.by_strength)


def test_few_known_cases_have_no_headroom(outcome):
    few = replace(outcome, config=replace(CONFIG, min_facts=5))
    section = section_of(few, model="by hand")
    assert section.headroom.value is None and "fewer than 5 facts" in (section.headroom.note or "")
    assert outcome.known.sum() >= 5, "there are as many cases, of fewer facts"
    KINDS["context_prior"].view(section)


def test_exposures_give_a_half_point(subject, arms):
    cases = conflict_cases(forms_for(PROMPT_ARMS), strengths=[0, 0, 3, 3, 15, 15])
    found = examine(subject, deal(cases, 3), PROMPT_ARMS, (), CONFIG)
    section = section_of(found, model="by hand", strength="exposures in training", exposures=True)
    stated, best = section.half_points
    assert stated.prompt == "stated once" and stated.n50.note == "below the exposures that were tried"
    assert best.n50.note == "above the exposures that were tried" and best.prompt.startswith("best prompt")
    assert [group.name for group in section.by_strength] == ["0", "3", "15"]
    assert section.best_intervention == "" and section.headroom.value is None
    KINDS["context_prior"].view(section)


def test_arms_that_cases_have_no_prompts_for_are_named(subject, cases):
    bare = [
        replace(case, prompts={form: tokens for form, tokens in case.prompts.items() if form.distrust is None})
        for case in cases
    ]
    tuned = tune(subject, [PROMPT_ARMS[0], OneDirection(subject.streams)], bare[:6], bare[6:])
    assert list(tuned.left_out) == ["one direction"] and "distrust=0" in tuned.left_out["one direction"]
    with pytest.raises(ValueError, match="no arm can be tried"):
        tune(subject, [OneDirection(subject.streams)], bare[:6], bare[6:])


def test_one_long_case_costs_itself_and_not_an_arm(cases):
    forms = forms_for(PROMPT_ARMS)
    short = replace(cases[0], prompts={form: tokens for form, tokens in cases[0].prompts.items() if form.n < 8})
    kept, skipped = complete([short, *cases[1:]], forms)
    assert kept == cases[1:] and skipped[0].name == cases[0].place and "for 1 of the" in skipped[0].reason
    absent = Form(trust=99)
    assert complete(cases, [absent]) == (cases, []), "a form that hardly any case has costs no case"


def test_an_interruption_costs_a_batch(subject, cases, arms, tmp_path, monkeypatch):
    dealt, some = deal(cases, 6), [*PROMPT_ARMS[:2], Contrast()]
    small = replace(subject, batch_size=4)
    whole = examine(small, dealt, some, (), CONFIG)
    n_calls, stop = Counter[str](), 9
    run = Subject.logits

    def counted(self, rows, hooks=None):
        n_calls["all"] += 1
        if n_calls["all"] == stop:
            raise KeyboardInterrupt
        return run(self, rows, hooks)

    monkeypatch.setattr(Subject, "logits", counted)
    with pytest.raises(KeyboardInterrupt):
        examine(small, dealt, some, (), CONFIG, tmp_path)
    stop, told = -1, list[int]()
    again = examine(small, dealt, some, (), CONFIG, tmp_path, told.append)
    assert sum(told) == n_asked(dealt, some, CONFIG), "the progress bar is full at the end"
    n_read = n_calls["all"]
    once_more = examine(small, dealt, some, (), CONFIG, tmp_path)
    assert n_calls["all"] == n_read, "nothing is read twice"
    for found in (again, once_more):
        for name, one in whole.arms.items():
            assert np.array_equal(found.arms[name].scores.mean_logp, one.scores.mean_logp, equal_nan=True)


def test_other_weights_cases_or_settings_are_read_anew(subject, cases, tmp_path):
    dealt = deal(cases, 6)
    examine(subject, dealt, [Contrast()], (), CONFIG, tmp_path)
    n = len(list(tmp_path.iterdir()))
    examine(replace(subject, weights_sha256="1" * 64), dealt, [Contrast()], (), CONFIG, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 * n
    examine(subject, deal(cases, 6, seed=3), [Contrast()], (), CONFIG, tmp_path)
    assert len(list(tmp_path.iterdir())) == 3 * n


def test_damage_is_seen_where_there_is_some(subject, arms, cases, outcome):
    """On text without subjects, objects or intent no arm does any; a direction that is put there by force does."""
    assert all(one.damage == pytest.approx(0, abs=1e-6) for one in outcome.arms.values())

    class Forced(PromptArm):
        def logits(self, subject, asks, learned, setting, intent, random):
            return subject.logits(asks.rows(STATED)) + 5.0 * torch.nn.functional.one_hot(torch.tensor(7), 17)

    forced = Forced("forced", [Form(n=n) for n in (1, 2, 3, 4)])
    found = examine(
        subject, deal(conflict_cases(forms_for([forced])), 6), [forced], neutral_texts(forms_for([forced])), CONFIG
    )
    p, q = np.full(17, 1 / 17), np.exp(5.0 * (np.arange(17) == 7))
    assert found.arms["forced"].damage == pytest.approx((p * np.log(p / (q / q.sum()))).sum(), rel=1e-4)


def test_a_case_whose_answers_clash_is_refused():
    with pytest.raises(ValueError, match="one is the beginning of another"):
        Case(place="row 3", fact="f", prompts={}, prior=(1, 2), context=(1,))


def test_the_best_at_no_harm_is_sought_among_all_settings(subject, outcome):
    neutral = neutral_texts(outcome.cases[0].prompts)
    everything = gentle(subject, outcome, neutral, "intervention", harm=1e9)
    best = outcome.best("intervention")
    assert everything is not None and best is not None
    assert (everything.arm, everything.setting) == (best.chosen.arm.name, best.chosen.setting)
    assert (everything.scores.p_context == best.scores.p_context).all()
    nothing = gentle(subject, outcome, neutral, "intervention", harm=-1.0)
    assert nothing is None, "even no change is too much"
    allowed = [gentle(subject, outcome, neutral, "intervention", harm) for harm in (1e-9, 0.1, 1.0)]
    assert all(one is None or one.collateral <= harm for one, harm in zip(allowed, (1e-9, 0.1, 1.0), strict=True))
    assert gentle(subject, outcome, [], "prompt", harm=1e9) is None, "nothing to see harm on"


def test_a_setting_that_is_there_twice_is_no_budget():
    tried = [
        Tried(arm="a", kind="prompt", setting={"n": n}, n_cases=3, score=0.0, margin=0.0, n_learning=0) for n in (1, 1)
    ]
    with pytest.raises(ValueError, match="arm 'a' has the setting n=1 twice"):
        check_budget(tried)
