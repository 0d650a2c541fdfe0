"""The gate: numbers by hand, a copy that passes, and known-false pairs of each kind that do not."""

import re
from copy import deepcopy
from math import log

import pytest
import torch
from torch import Tensor

from circuits.fracture.gates import MAX_KL, MIN_AGREEMENT, Match, match, match_pair, require_match
from sparsetrain.data.worlds.rules import RulesConfig, draw_rules
from sparsetrain.model import ModelConfig, Transformer

WORLD = draw_rules(RulesConfig(n_symbols=6, rules=("copy", "larger")), 0)
TRAIN, HELD = (torch.from_numpy(part.tokens) for part in (WORLD.train, WORLD.heldout))


def by_last_token(table: Tensor) -> Transformer:
    """Logits are a row of a table, that of the last token of the prompt: all other weights are zero."""
    n = len(table)
    model = Transformer(ModelConfig(d_vocab=n, n_layer=1, d_model=8, d_head=4, n_ctx=6, abs_topk={}))
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        assert model.bigram is not None
        model.bigram.weight.copy_(table)
    return model


def test_numbers_by_hand() -> None:
    # P(token) 1/2 1/2 against 3/4 1/4 behind token 0, the same behind token 1
    a = by_last_token(torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    b = by_last_token(torch.tensor([[0.0, log(3.0)], [0.0, 1.0]]))
    rows = torch.tensor(
        [[1, 0, 0], [0, 1, 1], [1, 1, 0], [1, 1, 1]]
    )  # the second of three tokens is the last of the prompt
    found = match(a, b, rows)
    forth = 0.5 * log(0.5 / 0.25) + 0.5 * log(0.5 / 0.75)
    back = 0.25 * log(0.25 / 0.5) + 0.75 * log(0.75 / 0.5)
    assert forth > back and found.kl == pytest.approx(forth / 4, rel=1e-6) and found == match(b, a, rows)
    assert (found.agreement, found.n) == (0.75, 4)  # token 0 wins the tie


def trained_like(seed: int = 0) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(
        ModelConfig(d_vocab=WORLD.config.d_vocab, n_layer=1, d_model=8, d_head=4, n_ctx=6, abs_topk={}, positions="learned")
    )  # fmt: skip
    with torch.no_grad():
        model.unembed.weight.normal_(std=2)
        model.embed.weight.normal_()
    return model


def test_a_copy_passes_and_so_do_small_differences() -> None:
    a = trained_like()
    b = deepcopy(a)
    require_match(match_pair(("one", "other"), a, b, TRAIN, HELD))
    with torch.no_grad():
        b.unembed.bias.add_(1e-4 * torch.randn_like(b.unembed.bias))
    matching = match_pair(("one", "other"), a, b, TRAIN, HELD)
    require_match(matching)
    assert 0 < matching.train.kl < 1e-6 and matching.heldout.n == len(HELD)


def test_another_network_is_refused_in_one_line_with_its_numbers() -> None:
    matching = match_pair(("dense", "sparse"), trained_like(0), trained_like(1), TRAIN, HELD)
    with pytest.raises(ValueError) as refused:
        require_match(matching)
    message = str(refused.value)
    assert "\n" not in message and message.startswith(
        "dense and sparse do not have the same outputs and are not compared: train: KL "
    )
    numbers = re.findall(r"KL ([\d.e+-]+) nats/token, agreement ([\d.]+)% \(n=(\d+)\)", message)
    assert [
        (f"{m.kl:.3g}", f"{100 * m.agreement:.2f}", str(m.n)) for m in (matching.train, matching.heldout)
    ] == numbers
    assert "KL below 0.001 and agreement above 99.5%" in message


def test_what_differs_on_held_out_inputs_alone_is_refused() -> None:
    a = trained_like()
    b = deepcopy(a)
    word = int(HELD[0, 1])  # in context 0 the word stands behind the mark
    with torch.no_grad():
        b.embed.weight[word].add_(3.0)
    without = TRAIN[~(word == TRAIN).any(1)]
    matching = match_pair(("one", "other"), a, b, without, HELD)
    assert matching.train.passes and not matching.heldout.passes
    with pytest.raises(ValueError, match="not compared"):
        require_match(matching)
    require_match(match_pair(("one", "other"), a, b, without, without))


def test_each_bound_refuses_alone() -> None:
    assert Match(kl=0.99 * MAX_KL, agreement=0.996, n=9).passes
    assert not Match(kl=MAX_KL, agreement=1, n=9).passes
    assert not Match(kl=0, agreement=MIN_AGREEMENT, n=9).passes
    assert not Match(kl=float("nan"), agreement=1, n=9).passes
    # ties broken the other way: no divergence, no agreement
    a, b = by_last_token(torch.tensor([[0.0, 1e-4]] * 2)), by_last_token(torch.tensor([[1e-4, 0.0]] * 2))
    rows = torch.zeros(4, 3, dtype=torch.int64)
    assert match(a, b, rows).kl < 1e-8 and match(a, b, rows).agreement == 0 and not match(a, b, rows).passes
    # the same first token, another certainty
    sure, unsure = by_last_token(torch.tensor([[0.0, 5.0]] * 2)), by_last_token(torch.tensor([[0.0, 0.5]] * 2))
    assert match(sure, unsure, rows).agreement == 1 and not match(sure, unsure, rows).passes


def test_a_model_that_is_not_a_number_is_refused() -> None:
    broken = by_last_token(torch.full((2, 2), float("nan")))
    found = match(by_last_token(torch.zeros(2, 2)), broken, torch.zeros(4, 3, dtype=torch.int64))
    assert found.kl != found.kl and not found.passes
    with pytest.raises(ValueError, match="no rows"):
        match(broken, broken, torch.zeros(0, 3, dtype=torch.int64))
