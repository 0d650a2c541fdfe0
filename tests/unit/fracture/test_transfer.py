"""Transfer: rows and groups by hand, areas and equal success of planted curves, density held, a change that carries over when contexts are one."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from circuits.fracture import transfer as room
from circuits.fracture.transfer import (
    Curves,
    Transfer,
    TransferConfig,
    _groups,
    _read,
    transfer,
    transfer_rows,
    transfer_run,
)
from sparsetrain.data.worlds.rules import RulesConfig, change_rule, draw_rules
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.run import RunConfig
from sparsetrain.sparsity import SparsityConfig
from sparsetrain.training.fit import TrainerConfig

WORLD = draw_rules(RulesConfig(n_symbols=6, rules=("copy", "larger")), 0)
CONFIG = TransferConfig(rule="copy", to="successor", contexts=(1,), n_steps=8, equal_steps=4, batch_size=16, n_readings=4, rates=(1e-3, 1e-2))  # fmt: skip
CHANGED = change_rule(WORLD, "copy", "successor", (1,))
RUN = RunConfig(
    model=ModelConfig(d_vocab=WORLD.config.d_vocab, n_layer=1, d_model=8, d_head=4, d_mlp=8, n_ctx=6, abs_topk={}, positions="learned"),
    sparsity=SparsityConfig(density=0.25, floor=0),
    trainer=TrainerConfig(n_steps=30, batch_size=32, device="cpu", n_threads=1, progress=False),
)  # fmt: skip


def curves(changed, carried=None, others=None, steps=(0, 1, 3, 7)) -> Curves:
    changed = np.array(changed, dtype=np.float64)
    return Curves(
        steps=np.array(steps),
        changed=changed,
        changed_heldout=changed,
        carried=changed if carried is None else np.array(carried),
        kept=1 - changed,
        others=np.ones(len(changed)) if others is None else np.array(others),
    )


def transferred(equal_steps: float = 3.0, **tried: Curves) -> Transfer:
    return Transfer(tried={float(key[1:]): one for key, one in tried.items()}, success=0.95, equal_steps=equal_steps)


def test_areas_and_success_by_hand() -> None:
    one = curves([0, 0.5, 0.96, 1], carried=[0, 0.25, 0.5, 1], others=[1, 0.9, 0.7, 0.2])
    # log2(1 + step) is 0, 1, 2, 3: trapezoids of width 1
    assert one.area(one.carried) == pytest.approx((0.125 + 0.375 + 0.75) / 3)
    point = transferred(_1=one).point(1.0)
    assert point is not None and point.at == pytest.approx(1 + 45 / 46)  # .95 lies 45 / 46 of the way from .5 to .96
    assert point.carried == pytest.approx(0.25 + 0.25 * 45 / 46) and point.damage == pytest.approx(0.1 + 0.2 * 45 / 46)
    slower = curves([0, 0, 0.5, 0.96], carried=[0, 0, 0.25, 0.5], others=[1, 1, 0.9, 0.7])
    late = transferred(_1=slower).point(1.0)
    assert late is not None and (late.carried, late.damage) == pytest.approx((point.carried, point.damage))
    assert slower.area(slower.carried) < one.area(one.carried)  # what is learned later is not what carries over less
    at_once = transferred(_1=curves([1, 1, 1, 1], carried=[0.5, 1, 1, 1])).point(1.0)
    assert at_once is not None and (at_once.at, at_once.carried) == (0.0, 0.5)
    never = transferred(_1=curves([0, 0.1, 0.2, 0.9]))
    assert never.point(1.0) is None and all(np.isnan(never.at_equal_steps()))


def test_models_are_compared_at_equal_success_after_as_many_steps() -> None:
    slow = curves([0, 0, 0, 0.95], carried=[0, 0, 0, 0.4], others=[1, 1, 1, 0.9])
    soon = curves([0, 0.95, 1, 1], carried=[0, 0.8, 0.9, 1], others=[1, 0.5, 0.4, 0.4])
    never = curves([0, 0.1, 0.1, 0.1])
    both = transferred(_1=slow, _2=soon, _3=never)  # success at log2 = 3 and 1; equal steps at log2 = 2
    assert both.at_equal_steps() == pytest.approx((0.6, 0.3))
    assert transferred(7.0, _1=slow, _2=soon).at_equal_steps() == pytest.approx((0.4, 0.1))
    assert all(np.isnan(transferred(8.0, _1=slow, _2=soon).at_equal_steps()))  # not beyond what was seen
    assert all(np.isnan(transferred(0.5, _1=slow, _2=soon).at_equal_steps()))
    numbers = both.numbers()
    assert numbers["steps to success, rate 1"] == pytest.approx(7) and numbers[
        "steps to success, rate 2"
    ] == pytest.approx(1)
    assert np.isnan(numbers["transfer, rate 3"]) and numbers["transfer over steps, rate 3"] > 0
    # a model that learns twice as slowly in everything, given a larger rate that makes up for it, is the same model
    half = curves([0, 0, 0.95, 1], carried=[0, 0, 0.6, 1], others=[1, 1, 0.7, 0.7])
    assert transferred(_5=half, _6=half).at_equal_steps() == pytest.approx(both.at_equal_steps())


def test_curves_that_are_shown_are_those_nearest_to_the_equal_steps() -> None:
    slow, soon, never = curves([0, 0, 0, 1]), curves([0, 0, 1, 1]), curves([0.9, 0.9, 0.9, 0.9])
    assert transferred(_1=slow, _2=soon, _3=never).nearest == 2
    assert transferred(7.0, _1=slow, _2=soon, _3=never).nearest == 1
    assert transferred(_1=curves([0, 0.1, 0.1, 0.1]), _2=curves([0, 0.2, 0.2, 0.2])).nearest == 2
    good = curves([0, 0, 0, 1], carried=[0, 1, 1, 1], others=[1, 1, 1, 1])
    bad = curves([0, 0, 1, 1], carried=[0, 0, 0, 0], others=[1, 0, 0, 0])
    assert transferred(_1=good, _2=bad).nearest == 2  # what it carries over or damages has no say


def test_only_the_changed_contexts_are_trained_on() -> None:
    rows = transfer_rows(WORLD, CHANGED, CONFIG)
    assert rows.shape == (8 * 16, 6)
    assert set(rows[:, 0]) == {int(WORLD.config.mark(1))}
    numbers = [tuple(row) for row in rows]
    train = CHANGED.train
    allowed = {tuple(row) for row in train.tokens[(train.rule == 0) & (train.context == 1)]}
    assert set(numbers) == allowed and len(allowed) == 24  # 36 inputs, 12 held out; all of them come
    mixed = transfer_rows(WORLD, CHANGED, replace(CONFIG, other_share=0.5))
    words = [int(WORLD.config.word(1, c)) for c in range(3)]
    other = np.isin(mixed, words).any(1)
    assert 0.3 < other.mean() < 0.7
    assert {tuple(row) for row in mixed[~other]} <= allowed  # the rule in other contexts is never shown
    shown = {tuple(row) for row in WORLD.train.tokens}
    assert {tuple(row) for row in mixed[other]} <= shown


def test_groups_by_hand() -> None:
    groups = _groups(WORLD, CHANGED, CONFIG)
    sizes = {name: len(tokens) for name, tokens in groups.items()}
    # successor and copy never agree: 24 + 12 of the changed context, all 72 of both others; larger has 108
    assert sizes == {"changed": 24, "changed_heldout": 12, "carried": 72, "kept": 72, "others": 108}
    a = {int(row[-1]) for row in groups["carried"]}
    assert a == set(range(6))
    carried, kept = groups["carried"], groups["kept"]
    assert torch.equal(carried[:, :-1], kept[:, :-1]) and bool(((kept[:, -1] + 1) % 6 == carried[:, -1]).all())
    smaller = replace(CONFIG, rule="larger", to="copy")
    telling = _groups(WORLD, change_rule(WORLD, "larger", "copy", (1,)), smaller)["carried"]
    assert len(telling) == 2 * 15  # only where b > a does the copy differ from the larger one


class Oracle(torch.nn.Module):
    """Answers by a table of prompts."""

    def __init__(self, rows) -> None:
        super().__init__()
        self.none = torch.nn.Parameter(torch.zeros(1))
        self.known = {tuple(row[:-1]): row[-1] for row in rows.tolist()}

    def forward(self, tokens, at):
        answers = torch.tensor([self.known[tuple(row)] for row in tokens.tolist()])
        return torch.nn.functional.one_hot(answers, WORLD.config.d_vocab).float()


def test_a_model_that_changed_as_asked_and_one_that_did_not() -> None:
    groups = _groups(WORLD, CHANGED, CONFIG)
    as_before = _read(Oracle(WORLD.inputs.tokens), groups)
    assert {name: float(as_before[name]) for name in ("changed", "changed_heldout", "carried", "kept", "others")} == {
        "changed": 0, "changed_heldout": 0, "carried": 0, "kept": 1, "others": 1,
    }  # fmt: skip
    local = _read(Oracle(CHANGED.inputs.tokens), groups)  # the rule changed there and nowhere else
    assert [float(local[name]) for name in ("changed", "changed_heldout", "carried", "kept", "others")] == [1, 1, 0, 1, 1]  # fmt: skip


def test_density_is_held_and_the_model_left_as_it_is(tmp_path) -> None:
    torch.manual_seed(1)
    model = Transformer(RUN.model)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2 and name != "bigram.weight" and "positions" not in name:
                p.mul_(torch.zeros(p.numel()).index_fill(0, torch.randperm(p.numel())[: p.numel() // 4], 1).view_as(p))
    before = {name: p.clone() for name, p in model.state_dict().items()}
    nonzeros: list[int] = []

    def counted(one, groups):
        nonzeros.append(int(one.blocks[0].mlp.W_in.weight.count_nonzero()))
        return _read(one, groups)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "_read", counted)
        found = transfer(model, RUN, WORLD, CONFIG, tmp_path)
    assert set(nonzeros) == {16} and len(nonzeros) == 2 * 5  # a quarter of 8 x 8, at step 0 and ever after
    assert all(torch.equal(before[name], p) for name, p in model.state_dict().items())
    assert found.tried[1e-3].steps.tolist() == [0, 1, 2, 4, 8] and set(found.tried) == {1e-3, 1e-2}
    first = {rate: one.others[0] for rate, one in found.tried.items()}
    assert len(set(first.values())) == 1  # both start from the same weights
    with pytest.raises(ValueError, match=re.escape("is not the model's own config")):
        transfer(model, replace(RUN, model=replace(RUN.model, n_layer=2)), WORLD, CONFIG, tmp_path)


def test_the_run_of_a_transfer_holds_density_and_rate() -> None:
    run = transfer_run(RUN, CONFIG, 1e-3)
    assert [run.recipe.density(step) for step in (1, 4, 8)] == [0.25] * 3
    assert (run.optim.lr_peak, run.optim.decay, run.optim.density_factor) == (1e-3, "constant", "off")


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=re.escape("other_share=1.0 must lie in [0, 1)")):
        replace(CONFIG, other_share=1.0)
    with pytest.raises(ValueError, match="rates="):
        replace(CONFIG, rates=())
