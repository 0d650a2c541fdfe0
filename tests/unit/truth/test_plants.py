"""Planted models compute what they should, by the nodes that they should."""

from dataclasses import replace

import pytest
import torch
from twins import no_nodes, same_nodes

from circuits.answers import pair_answers
from circuits.evidence.examination import CardInputs, Examination
from circuits.evidence.partial import worst_restored
from circuits.evidence.thresholds import PRESETS
from circuits.search.cleanup import without_each
from circuits.tasks.loss import pair_accuracy, pair_task_loss, task_loss
from circuits.truth.cases import OF_FORM
from circuits.truth.falsehoods import essential, false_specimen, place_of, true_specimen
from circuits.truth.graft import CARRIED, Feature, Graft, blocks_of
from circuits.truth.hosts import EOT, leak_, planted_host, trained_host, widened
from circuits.truth.mechanisms import FAMILIES
from circuits.truth.plants import MODEL_LOSS, TARGET, Plant, forms_of, losses_of, plant
from sparsetrain.hooks import NODE_KINDS, record
from sparsetrain.model import ModelConfig, Transformer


@pytest.fixture(scope="module")
def closing() -> Plant:
    return plant(planted_host(0), "closing", "plain", 0)


def small_model() -> Transformer:
    """Stands for a trained one: weights as they start, loud enough to matter."""
    torch.manual_seed(3)
    model = Transformer(
        ModelConfig(d_vocab=96, n_layer=3, d_model=32, d_head=8, n_ctx=32, abs_topk=dict.fromkeys(NODE_KINDS, 0.5))
    )
    for name, weights in model.named_parameters():
        if name.endswith(("embed.weight", "unembed.weight")):
            torch.nn.init.normal_(weights)
    return model.eval().requires_grad_(False)


def text() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, 70, (64, 32), generator=generator)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_planted_model_does_its_task_by_the_true_nodes(family):
    for form in forms_of(family)[:2]:
        made = plant(planted_host(0), family, form, 0)
        full, own, without = losses_of(made, torch.stack([torch.ones_like(made.true), made.true, ~made.true]))
        assert full <= TARGET and own <= TARGET and without > 2 * TARGET
        answers = pair_answers(made.model, made.all_pairs.heldout)
        assert float(pair_accuracy(answers).mean()) > 0.97  # raw: neither scale nor shift
        lacking = losses_of(made, without_each(made.true, made.true.nonzero().flatten()))
        assert min(lacking) > 2 * own, "a plain mechanism needs each of its nodes"


def test_the_margin_is_the_one_worked_out_by_hand(closing):
    """A head copies a type of strength 1: the logit difference is 2 x (weight of the unembedding) x size / rms."""
    made = closing
    pairs = made.pairs(16, "train", 99)
    answers = pair_answers(made.model, pairs)
    first = made.answers
    (channel,) = torch.nonzero(made.model.unembed.weight[first[0], list(made.host.plot.channels)]).flatten().tolist()
    weight = float(made.model.unembed.weight[first[0], list(made.host.plot.channels)[channel]])
    _, seen = record(made.model, pairs.prompts()[0], ["final_norm.hook_resid"])
    rms = seen["final_norm.hook_resid"][:, -1].square().mean(-1).sqrt().unflatten(0, (-1, 2))
    strength = torch.tensor([1.0, -1.0])  # the type of either quote
    by_hand = 2 * weight * made.host.plot.size / rms * strength
    d = answers[..., 0] - answers[..., 1]
    assert torch.allclose((d[:, 0] - d[:, 1]) / (by_hand[:, 0] - by_hand[:, 1]), torch.ones(16), atol=0.25)
    assert float(task_loss(answers)) <= 2 * MODEL_LOSS


def test_superposed_features_are_read_without_what_shares_their_channels():
    host = planted_host(0)
    graft = Graft(model=host.model, plot=host.plot, seed=0, superposed=True)
    feature = graft.feature()
    (clutter,) = graft.clutter
    assert feature.channels == clutter.channels
    assert sum(a * b for a, b in zip(feature.shares, clutter.shares, strict=True)) == pytest.approx(0)
    normed = torch.zeros(host.model.config.d_model)
    for part, strength in ((feature, 3.0), (clutter, 5.0)):
        normed[list(part.channels)] += strength * torch.tensor(part.shares)
    unit = host.plot.size / host.plot.rms["blocks.1.mlp.norm.hook_resid"]
    assert float(graft.strength(unit * normed, feature, 1, "mlp")) == pytest.approx(3.0, rel=1e-5)


def test_a_neuron_is_what_its_gains_and_bias_say():
    host = planted_host(1, d_model=48)
    graft = Graft(model=host.model, plot=host.plot, seed=0)
    feature, into, token = graft.feature(), graft.feature(), graft.token()
    graft.embed(feature, {token: 1.0})
    graft.neuron(1, {feature: 2.0}, -0.5, {into: 1.0})
    (neuron,) = graft.nodes["stages"]["blocks.1.mlp.hook_neuron"]
    points = ["blocks.1.mlp.norm.hook_resid", "blocks.1.mlp.hook_neuron"]
    _, seen = record(host.model, torch.tensor([[EOT, token]]), points)
    rms = float(seen[points[0]][0, 1].square().mean().sqrt())
    strength = host.plot.rms[points[0]] / rms  # 1 where the stream is as loud as the text's
    expected = torch.nn.functional.gelu(torch.tensor(CARRIED * (2.0 * strength - 0.5)))
    assert float(seen[points[1]][0, 1, neuron]) == pytest.approx(float(expected), rel=1e-3)


def test_widening_keeps_what_a_model_says():
    model, tokens = small_model(), text()[:8]
    wide = widened(model, 2, 16)
    assert wide.config.d_model == 48 and wide.config.heads == 6 and wide.config.mlp_width == 144
    assert all(wide.config.k(kind) == model.config.k(kind) for kind in NODE_KINDS)
    # AbsTopK decides near ties by the last bits, which another width of the norm changes
    assert float((wide(tokens) - model(tokens)).abs().median()) < 1e-4


@pytest.mark.parametrize(("family", "form"), [("closing", "plain"), ("lookup", "superposed"), ("seen", "dormant")])
def test_a_transplant_works_in_its_host_and_dies_with_the_graft(family, form):
    host = trained_host(small_model(), text(), EOT)
    clutter = float(host.model(text()[:8]).std())
    made = plant(host, family, form, 0, leak=0.1)
    full, own, without = losses_of(made, torch.stack([torch.ones_like(made.true), made.true, ~made.true]))
    assert full <= TARGET and own <= TARGET and without > 2 * TARGET
    assert clutter > 0.5, "the host says something of its own"


def test_a_wrong_separator_is_refused():
    with pytest.raises(ValueError, match="token 5"):
        trained_host(small_model(), text(), 5)


def test_a_full_plot_is_refused():
    host = planted_host(0)
    graft = Graft(model=host.model, plot=replace(host.plot, heads=()), seed=0)
    with pytest.raises(ValueError, match="0 free heads"):
        graft.head(1, values=[({Feature((0,)): 1.0}, Feature((1,)))])


def test_planting_is_deterministic_and_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    models = [plant(planted_host(1), "lookup", "compensating", 1, leak=0.3).model for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before)
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_leaks_join_host_and_graft_both_ways():
    host = planted_host(0)
    free = list(host.plot.channels)
    leak_(host, 0.5, 0.5, 0)
    block = blocks_of(host.model)[0]
    assert bool(block.mlp.W_in.weight[:, free].any()) and bool(block.attn.W_o.weight[free].any())


def test_splits_have_words_of_their_own(closing):
    pairs, marks = closing.all_pairs, set(closing.mechanism.marks)
    words = [set(part.tokens.flatten().tolist()) - marks - {EOT} for part in (pairs.train, pairs.val, pairs.heldout)]
    assert not (words[0] & words[1] or words[0] & words[2] or words[1] & words[2])


def test_broken_bloated_and_partly_wrong_circuits_are_what_they_say(closing):
    here, true = place_of(closing), closing.true
    broken, bloated, wrong = (false_specimen(closing, here, kind) for kind in ("broken", "bloated", "partly wrong"))
    assert int((true & ~broken.keep).sum()) == 1 and not (broken.keep & ~true).any()
    assert losses_of(closing, broken.keep[None])[0] > TARGET
    assert bool((bloated.keep & true).sum() == true.sum()) and int(bloated.keep.sum()) == 2 * int(true.sum())
    assert int(wrong.keep.sum()) == int(true.sum()) and int((wrong.keep & ~true).sum()) == 3
    assert set(essential(closing)) <= set(true.nonzero().flatten().tolist())


def test_cancelling_and_dormant_circuits_suffice_and_are_not_the_true_ones():
    for form, kind in OF_FORM.items():
        made = plant(planted_host(0), "lookup", form, 0)
        false = false_specimen(made, place_of(made), kind)
        assert losses_of(made, false.keep[None])[0] <= TARGET, "complete mean ablation cannot see it"
        assert not torch.equal(false.keep, made.true)
    with pytest.raises(ValueError, match="it takes form 'compensating'"):
        false_specimen(made, place_of(made), "halved")


@pytest.mark.parametrize("family", ["closing", "chain"])
def test_half_of_a_compensating_pair_spoils_the_answer_and_restoring_it_tells(family):
    made = plant(planted_host(0), family, "compensating", 0, model_loss=0.06)
    halved = false_specimen(made, place_of(made), "halved")
    both, neither, *alone = losses_of(
        made, torch.stack([made.true, halved.keep, *(made.true & ~neuron for neuron in made.pair_neurons)])
    )
    assert max(both, neither) <= TARGET < 2 * TARGET <= min(alone)
    means, fit, heldout = made.means, made.all_pairs.fit, made.all_pairs.heldout
    losses = []
    for keep in (made.true, halved.keep):
        empty = no_nodes(made.model, "planted", means.values)
        circuit = same_nodes(made.model, empty, keep, means.values, fit)
        inputs = CardInputs(fit=fit, heldout=heldout, alive=means.alive)
        exam = Examination(model=made.model, circuit=circuit, inputs=inputs, config=PRESETS["quick"])
        losses.append(worst_restored.measure(exam).value)
    true, false = losses
    assert true < 0.2 < 2 * TARGET < false


def test_a_true_circuit_is_searched_and_held_against_the_truth(closing):
    found = true_specimen(closing, place_of(closing), search=True)
    assert not (found.keep & ~closing.true).any()
    assert bool(found.keep[essential(closing)].all())
    answers = pair_task_loss(pair_answers(closing.model, closing.all_pairs.heldout))
    assert float(answers.mean()) < TARGET
