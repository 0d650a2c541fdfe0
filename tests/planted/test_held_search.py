"""What a circuit is held to beside its loss: a rest that is alive in part, no work done by a shift alone, excluded nodes; twins as well off."""

from dataclasses import replace

import pytest
import torch
from behind_sink import sink_model
from cases import PLANTED, PRUNE, TARGET
from test_search_recovers import FIND, ids

from circuits.answers import pair_answers
from circuits.calibrate import fit_shifts
from circuits.find import find_task
from circuits.masks import NodeSpace
from circuits.partial import ascend, random_shares
from circuits.search.learn import Aim, MaskRun, alive_part, partial_losses
from circuits.search.rest import Rest
from circuits.search.search import Search, search
from circuits.search.task import TaskSearch
from circuits.tasks.loss import Calibration, task_loss

STRINGS = PLANTED["string_closing"]


@pytest.fixture(scope="module")
def planted():
    model = STRINGS.model()
    return model, STRINGS.pair_sets(), STRINGS.means(model)


def aim_of(planted, **settings) -> Aim:
    model, _, means = planted
    return Aim(model=model, means=means.values, target=TARGET, config=replace(PRUNE, **settings))


@pytest.mark.parametrize("ablation", ["partial", "adversarial"])
def test_the_planted_circuit_is_found_whatever_part_of_the_rest_is_alive(planted, ablation):
    _, pairs, _ = planted
    aim = aim_of(planted, ablation=ablation, adversary_steps=2)
    (found,) = search(aim, [MaskRun(seed=0, train=pairs.train, val=pairs.val)])
    assert found.reached
    assert {aim.space.id(i) for i in found.keep.nonzero().flatten().tolist()} == ids(STRINGS.minimal[0][0])


def test_a_part_stays_alive_every_other_step_and_the_adversary_chooses_some_of_them(planted):
    _, pairs, _ = planted
    batch, keep = [pairs.train.batch(slice(0, 8))], torch.zeros(1, NodeSpace.of(planted[0]).n_nodes, dtype=torch.bool)
    fits = Calibration(scale=torch.ones(1), shift=torch.zeros(1))

    def part(ablation: str, step: int) -> torch.Tensor | None:
        aim = aim_of(planted, ablation=ablation, adversary_every=2)
        return alive_part(aim, keep, batch, fits, step, [torch.Generator().manual_seed(7)])

    assert part("complete", 1) is None and part("partial", 0) is None
    drawn = part("partial", 1)
    assert drawn is not None and 0 < float((drawn > 0).float().mean()) < 1
    assert torch.equal(part("adversarial", 3), drawn)  # a turn that is not the adversary's
    chosen = part("adversarial", 1)
    aim = aim_of(planted)
    losses = [float(partial_losses(aim, keep, batch, fits, r).mean()) for r in (drawn, chosen)]
    assert losses[1] > losses[0]


def test_the_adversary_finds_the_corner_that_arithmetic_says():
    weight = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 1.0, 0.0]])
    worst, losses, first = ascend(lambda r: (weight * r).sum(1, keepdim=True), torch.full((2, 3), 0.5), 10, 0.1)
    assert torch.allclose(worst[:, :2], torch.tensor([[1.0, 0.0], [0.0, 1.0]]), atol=1e-6)
    assert losses.flatten().tolist() == pytest.approx([1.5, 1.0], abs=1e-6)
    assert first.flatten().tolist() == pytest.approx([-0.25, 0.0], abs=1e-6)


def test_shares_are_a_function_of_the_seed_and_of_nothing_beside():
    def drawn(*seeds: int) -> torch.Tensor:
        return random_shares(2000, [torch.Generator().manual_seed(seed) for seed in seeds])

    assert torch.equal(drawn(3, 4)[1], drawn(4)[0])
    shares = drawn(*range(60))
    alive = (shares > 0).float().mean(1)  # drawn from U(0, 1)
    assert 0.35 < float(alive.mean()) < 0.65 and float(alive.min()) < 0.1 and float(alive.max()) > 0.9
    assert float(shares[shares > 0].mean()) == pytest.approx(0.5, abs=0.01)


def test_what_the_adversary_finds_is_remembered_and_held_against_other_circuits(planted):
    _, pairs, _ = planted
    aim = aim_of(planted, ablation="adversarial", n_draws=2)
    run = MaskRun(seed=0, train=pairs.train, val=pairs.val)
    rest, fits = Rest(aim, [run]), Calibration(scale=torch.ones(1), shift=torch.zeros(1))
    weak = torch.zeros(1, aim.space.n_nodes, dtype=torch.bool)
    before = rest.losses(weak, [0], [pairs.val], fits)
    worst = rest.attack(weak, [0], [pairs.val], fits)
    after = rest.losses(weak, [0], [pairs.val], fits)
    assert len(rest.found[0]) == 1 and float(after) >= float(before)
    assert float(after) == pytest.approx(max(float(worst), float(before)), abs=1e-4)


def test_a_shift_that_does_the_work_is_no_circuit():
    # bracket_depth's unembedding answers one side always; only a shift between the answers tells its two depths apart
    planted = PLANTED["bracket_depth"]
    model = planted.model()
    pairs, means = planted.pair_sets(), planted.means(model)
    subject = TaskSearch(model=model, task="planted", description="", pairs=pairs, means=means, config=FIND)
    assert find_task(subject).status == "circuit"
    strict = find_task(replace(subject, config=replace(FIND, min_raw_accuracy=0.75)))
    assert strict.gate.passed and strict.gate.raw_accuracy.value < 0.75
    assert strict.status == "no_circuit"
    assert all(circuit.raw.accuracy.value < 0.75 for circuit in strict.circuits)  # what validation pairs let pass


def test_the_calibration_of_the_model_is_kept_by_its_circuits(planted):
    model, pairs, means = planted
    config = replace(FIND, calibration="model", target_loss=0.45, seeds=(0, 1))
    subject = TaskSearch(model=model, task="planted", description="", pairs=pairs, means=means, config=config)
    entry = find_task(subject)
    shift = fit_shifts(pair_answers(model, pairs.fit))
    assert entry.circuits and entry.status == "circuit"
    for circuit in entry.circuits:
        assert (circuit.calibration.scale, circuit.calibration.shift) == (1.0, pytest.approx(float(shift.shift)))
    raw = replace(subject, config=replace(config, calibration="none"))
    first = find_task(raw).circuits[0]
    assert (first.calibration.scale, first.calibration.shift) == (1.0, 0.0)
    assert first.task_loss == first.raw.loss and first.accuracy == first.raw.accuracy


def test_a_twin_gets_as_many_candidates_as_the_task_needed(planted):
    _, pairs, _ = planted
    aim = aim_of(planted, candidate_share=0.02)
    runs = [
        MaskRun(seed=0, train=pairs.train, val=pairs.val),
        MaskRun(seed=0, train=pairs.train, val=pairs.val, control=True),
    ]
    task, twin = (int(n) for n in Search(aim, runs).candidates()[0].sum(1))
    assert task == twin > round(0.02 * aim.space.n_nodes)
    assert int(Search(aim, runs[1:]).candidates()[0].sum()) == round(0.02 * aim.space.n_nodes)


def test_excluded_nodes_are_chosen_by_no_search_and_the_end_is_said():
    model = sink_model()
    planted = PLANTED["behind_sink"]
    pairs, means = planted.pair_sets(), planted.means(model)
    config = replace(FIND, exclude=2, seeds=(0,))
    subject = TaskSearch(model=model, task="planted", description="", pairs=pairs, means=means, config=config)
    entry = find_task(subject)
    assert entry.redundancy is not None and entry.redundancy.exhausted and entry.redundancy.n_disjoint.value == 1
    aim = Aim(model=model, means=means.values, target=TARGET, config=PRUNE)
    excluded = aim.space.mask(planted.minimal[0][0])
    run = MaskRun(seed=0, train=pairs.train, val=pairs.val, excluded=excluded)
    keep, ranks = Search(aim, [run]).candidates()
    assert not bool((keep[0] & excluded).any()) and float(ranks.max()) <= 1
    (left,) = search(aim, [run])
    assert not left.reached and not bool((left.keep & excluded).any())
    assert float(task_loss(pair_answers(model, pairs.val))) > 0
