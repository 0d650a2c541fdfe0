"""Each measure of the report card against a hand-computed value or a brute-force version.

As long as the card: one or two tests a criterion, over fixtures that they share.
"""

import copy
from dataclasses import replace
from math import exp, log2, sqrt
from random import Random
from types import SimpleNamespace

import pytest
import torch
from scipy.stats import pearsonr
from twins import same_nodes

from circuits.answers import run_answers
from circuits.calibrate import calibrated_loss
from circuits.circuit import Circuit, Provenance
from circuits.edges import find_edges, join_weight, joins
from circuits.evidence import gather, hypotheses, partial, random_circuits
from circuits.evidence.agreement import cohens_kappa, heldout_agreement, shared_errors
from circuits.evidence.curve import SHARES, area, circuit_first, cmd, cpr, edge_diffs, effect_shares
from circuits.evidence.deletions import (
    Cell,
    deleted_loss,
    robustness,
    scale_hooks,
    scrub_hooks,
    scrubbed,
    task_means,
    text_values,
)
from circuits.evidence.effect import (
    circuit_necessity,
    completeness,
    faithfulness,
    minimality,
    node_effects,
    subsets,
)
from circuits.evidence.examination import CardInputs, Examination
from circuits.evidence.hypotheses import (
    edge_shifts,
    enough_draws,
    equivalence,
    equivalence_p,
    gaussian_kernel,
    hsic,
    independence,
    independence_p,
    minimality_test,
    permutation_p,
    random_path,
    with_edges,
)
from circuits.evidence.measurement import Measurement, share
from circuits.evidence.partial import partial_hooks, partial_losses, random_partial, worst_partial
from circuits.evidence.random_circuits import needed_more, sufficiency_test
from circuits.evidence.roles import (
    attention_shift,
    binarised,
    correlations,
    fit_steps,
    heads_used,
    js_distance,
    node_roles,
)
from circuits.evidence.searches import permuted_model, size_ratio
from circuits.evidence.specificity import damage, other_tasks, pretraining_damage, window_losses
from circuits.evidence.thresholds import CardConfig
from circuits.intervals import interval
from circuits.masks import NodeSpace, ablation_hooks
from circuits.means import measure_means
from circuits.tasks.loss import Calibration, logit_diff, pair_logit_diff, task_loss
from circuits.tasks.pairs import PairSet
from circuits.tasks.task import PairText, Side
from sparsetrain.hooks import HookPoint, hooked
from sparsetrain.model import Transformer


def random_pairs(n: int, seed: int) -> PairSet:
    generator = torch.Generator().manual_seed(seed)
    sides = [Side(prompt=prompt, answer="x", continuation="") for prompt in "ab"]
    return PairSet(
        task="random",
        split="heldout",
        seed=seed,
        twin=None,
        tokens=torch.randint(61, (n, 2, 8), generator=generator),
        last=torch.randint(4, 8, (n, 2), generator=generator),
        answers=torch.tensor([[3, 4]] * n),
        texts=(PairText(positive=sides[0], negative=sides[1]),) * n,
    )


@pytest.fixture
def model(make_model) -> Transformer:
    return make_model(d_model=16, d_head=4).eval().requires_grad_(False)


@pytest.fixture
def exam(model) -> Examination:
    space, generator = NodeSpace.of(model), torch.Generator().manual_seed(0)
    keep = torch.rand(space.n_nodes, generator=generator) < 0.3
    circuit = Circuit(
        task="random",
        nodes=space.nodes(keep),
        edges=tuple(find_edges(model, space, keep)),
        space=space,
        means=0.1 * torch.randn(space.n_nodes, generator=generator),
        calibration=Calibration(scale=torch.tensor(2.0), shift=torch.tensor(0.5)),
        provenance=Provenance(
            weights_sha256="0" * 64, seed=0, config={}, loss_convention="", means_source="", means_n_tokens=1
        ),
    )
    inputs = CardInputs(fit=random_pairs(6, seed=1), heldout=random_pairs(5, seed=2), alive=torch.ones_like(keep))
    return Examination(model=model, circuit=circuit, inputs=inputs, config=CardConfig(n_boot=50))


@pytest.fixture
def circuit(exam) -> Circuit:
    return exam.circuit


def with_settings(exam: Examination, **settings: float) -> Examination:
    return replace(exam, config=replace(exam.config, **settings))


def with_nodes(exam: Examination, keep: torch.Tensor) -> Examination:
    return replace(exam, circuit=replace(exam.circuit, nodes=exam.space.nodes(keep)))


def as_if(exam: Examination, kept: dict | None = None, **found: torch.Tensor | float) -> Examination:
    """The examination as if these of its values had been found already."""
    other = replace(exam)
    vars(other).update(found)
    other._kept.update(kept or {})
    return other


def answers_of(margins: torch.Tensor) -> torch.Tensor:
    """Answers `[n, side, answer]` with these logit differences on both sides."""
    sides = torch.stack([margins, -margins], dim=-1)
    return torch.stack([sides / 2, -sides / 2], dim=-1)


def plain_answers(exam: Examination, keep: torch.Tensor, values: torch.Tensor | None = None) -> torch.Tensor:
    """Answers of one circuit by the plain hooks, without folding, narrowing or groups."""
    values = exam.circuit.means if values is None else values
    with hooked(exam.model, ablation_hooks(exam.space, keep, values)):
        return run_answers(exam.model, [exam.heldout])[0]


# --- intervals


def test_wilson_interval_by_hand():
    found, z = share(9, 10), 1.959964
    middle, half = (0.9 + z**2 / 20) / (1 + z**2 / 10), z * sqrt(0.09 / 10 + z**2 / 400) / (1 + z**2 / 10)
    assert (found.value, found.n) == (0.9, 10)
    assert (found.lo, found.hi) == (pytest.approx(middle - half), pytest.approx(middle + half))
    assert share(0, 0).value is None


def test_bootstrap_of_a_ratio_covers_it_and_drops_infinite_resamples():
    rows = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) + torch.tensor([1.0, 2.0])

    def ratio(values: torch.Tensor) -> torch.Tensor:
        a, b = values.mean(-2).unbind(-1)
        return a / b

    low, high = interval(rows, 0, 500, ratio)
    assert low is not None and high is not None
    assert low < float(ratio(rows)) < high and high - low < 0.1
    assert interval(torch.zeros(4, 2), 0, 50, ratio) == (None, None)


# --- nulls


def test_permuted_model_keeps_patterns_values_and_vectors(model):
    with torch.no_grad():
        model.blocks[0].mlp.W_in.weight[:, ::2] = 0
    before = copy.deepcopy(model.state_dict())
    null = permuted_model(model, seed=3)
    for name, value in null.state_dict().items():
        assert torch.equal(value != 0, before[name] != 0), name
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values), name
        assert torch.equal(value, before[name]) == (value.ndim < 2), name
        assert torch.equal(model.state_dict()[name], before[name]), name
    again, other = (permuted_model(model, seed).embed.weight for seed in (3, 4))
    assert torch.equal(again, null.embed.weight) and not torch.equal(other, null.embed.weight)


def test_nulls_are_searched_in_permuted_weights_and_with_permuted_labels(model, exam, monkeypatch):
    asked = []

    def search(files, name, seed, null, means, pairs, progress):
        asked.append((null is model, means is own_means, pairs, seed))
        pruned = SimpleNamespace(reached=pairs == "labels", keep=exam.keep)
        return SimpleNamespace(model=null, space=exam.space), pruned

    monkeypatch.setattr(gather, "_search", search)
    monkeypatch.setattr(gather, "Pairs", SimpleNamespace(build=lambda name, tokenizer, find, twin: twin))
    own_means, windows = (
        measure_means(model, torch.ones(2, 8, dtype=torch.int64), source="", weights_sha256=""),
        torch.ones(2, 8),
    )
    files = SimpleNamespace(
        model=model, means=own_means, windows=windows.long(), tokenizer=None, find=None, pairs=lambda name: name
    )
    found = gather.null_sizes(files, "task", 2)  # pyright: ignore[reportArgumentType]
    weights, labels = (False, False, "task"), (True, True, "labels")
    assert asked == [(*weights, 0), (*labels, 0), (*weights, 1), (*labels, 1)]
    assert found == [None, exam.circuit.n_edges, None, exam.circuit.n_edges]


def test_size_ratio_by_hand():
    assert size_ratio(10, [None, 35, 30]).value == 3.0
    assert size_ratio(10, [None, None]).verdict == "pass"
    assert size_ratio(10, []).verdict == "not enough data"
    assert size_ratio(0, [3]).value is None


def test_same_nodes_in_another_model_are_calibrated_there(model, circuit, exam):
    null = permuted_model(model, seed=0)
    found = same_nodes(null, circuit, exam.keep, exam.circuit.means, exam.fit)
    assert found.nodes == circuit.nodes
    assert found.edges == tuple(find_edges(null, exam.space, exam.keep))
    with found.attached(null):
        answers = run_answers(null, [exam.fit])
    best, _ = calibrated_loss(answers)
    assert float(task_loss(found.calibration.apply(answers[0].double()))) == pytest.approx(float(best[0]), abs=1e-6)


# --- parts taken away


def test_faithfulness_and_necessity_by_their_formulas(exam):
    everything = torch.ones_like(exam.keep)
    full, empty, own, without = (
        float(logit_diff(plain_answers(exam, keep))) for keep in (everything, ~everything, exam.keep, ~exam.keep)
    )
    assert exam.effect == pytest.approx(full - empty, abs=1e-5)
    found = faithfulness(exam)
    assert found.value == pytest.approx(abs(full - own) / abs(full - empty), rel=1e-3)
    random = torch.stack([everything, ~everything])  # without everything all is lost, without nothing nothing
    among = needed_more(as_if(exam, {random_circuits.drawn: random}))
    value = circuit_necessity(exam)
    assert value.value == pytest.approx((full - without) / (full - empty), rel=1e-3, abs=1e-4)
    assert among.detail["random"] == pytest.approx([1.0, 0.0], abs=1e-4)
    assert among.value == ((value.value > 1) + (value.value > 0)) / 2


def test_subsets_are_single_nodes_and_halves_of_the_circuit():
    keep = torch.tensor([True, False, True, True, False, True])
    parts = subsets(keep, 200, seed=0, max_single=10)
    assert parts.shape == (204, 6) and not bool((parts & ~keep).any())
    assert parts[:4].nonzero()[:, 1].tolist() == [0, 2, 3, 5]
    assert parts[4:].float().mean(0)[keep].tolist() == pytest.approx([0.5] * 4, abs=0.12)
    assert len(subsets(keep, 0, seed=0, max_single=2)) == 2


def test_completeness_and_minimality_by_brute_force(exam):
    exam = with_settings(exam, n_subsets=3, n_singles=4)
    parts = subsets(exam.keep, 3, seed=0, max_single=4)
    gaps = [
        abs(float(logit_diff(plain_answers(exam, exam.keep & ~k)) - logit_diff(plain_answers(exam, ~k)))) for k in parts
    ]
    found = completeness(exam)
    assert found.value == pytest.approx(max(gaps) / abs(exam.effect), rel=1e-3)
    effects = node_effects(exam)
    own = plain_answers(exam, exam.keep)
    for i in (0, len(effects) - 1):
        less = exam.keep.clone()
        less[exam.keep.nonzero().flatten()[i]] = False
        moved = (plain_answers(exam, less) - own)[..., 0] - (plain_answers(exam, less) - own)[..., 1]
        assert float(effects[i]) == pytest.approx(float(moved.abs().mean()) / abs(exam.effect), rel=1e-3, abs=1e-5)
    least = float(effects.median())
    idle = [
        number for number, x in zip(exam.keep.nonzero().flatten().tolist(), effects.tolist(), strict=True) if x < least
    ]
    found = minimality(with_settings(exam, min_node_effect=least))
    assert 0 < len(idle) < len(effects)
    assert found.value == pytest.approx(1 - len(idle) / len(effects))
    assert found.detail["idle_nodes"] == [exam.space.id(number) for number in idle]


# --- partial ablation


def test_partial_ablation_ends_at_circuit_and_model(exam):
    everything = torch.ones_like(exam.keep)
    with torch.no_grad():
        losses = partial_losses(exam, torch.tensor([[0.0], [1.0]]).expand(2, exam.space.n_nodes))
    for row, keep in zip(losses, (exam.keep, everything), strict=True):
        expected = task_loss(exam.circuit.calibration.apply(plain_answers(exam, keep)))
        assert float(row.mean()) == pytest.approx(float(expected), abs=1e-5)


def test_partial_hooks_blend_node_by_node(exam):
    name = exam.space.names[3]
    r = torch.rand(2, exam.space.n_nodes, generator=torch.Generator().manual_seed(0))
    hook = partial_hooks(exam.space, exam.keep, exam.circuit.means, r)[name]
    x = torch.randn(4, 3, exam.space.split(r)[name].shape[1])
    keep, mean, shares = (exam.space.split(t)[name] for t in (exam.keep, exam.circuit.means, r))
    out = hook(x, HookPoint("attn_v", x.shape[-1]))
    for row in range(4):
        expected = torch.where(keep, x[row], mean + shares[row // 2] * (x[row] - mean))
        torch.testing.assert_close(out[row], expected)


def test_adversary_finds_worse_than_chance_draws_and_stays_in_bounds(exam, monkeypatch):
    drawn = random_partial(with_settings(exam, n_partial=8))
    worst = worst_partial(with_settings(exam, n_adversary_steps=10, n_adversary_starts=2, adversary_step=0.2))
    assert worst.value is not None and drawn.value is not None
    assert worst.value > float(drawn.note.rsplit(" ", 1)[1])

    tried = []

    def spy(exam: Examination, r: torch.Tensor) -> torch.Tensor:
        tried.append(r.detach())
        return partial_losses(exam, r)

    monkeypatch.setattr(partial, "partial_losses", spy)
    worst_partial(with_settings(exam, n_adversary_steps=3, n_adversary_starts=2, adversary_step=0.4))
    assert len(tried) == 4 and bool((torch.stack(tried) >= 0).all()) and bool((torch.stack(tried) <= 1).all())


def test_gradient_of_a_partial_ablation(exam):
    r = torch.full((1, exam.space.n_nodes), 0.5, requires_grad=True)
    (grad,) = torch.autograd.grad(partial_losses(exam, r).mean(), [r])
    assert not bool(grad[0, exam.keep].any())
    node = int(grad[0].abs().argmax())
    change = torch.zeros_like(r)
    change[0, node] = 1e-3
    with torch.no_grad():
        up, down = (partial_losses(exam, r + s * change).mean() for s in (1, -1))
    assert float(up - down) / 2e-3 == pytest.approx(float(grad[0, node]), rel=0.05)


# --- roles


def test_correlations_match_scipy_and_constants_are_compared():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(50, 5, generator=generator), torch.randn(50, 5, generator=generator)
    a[:, 2] = b[:, 2] = 3.0  # equal constants
    a[:, 3], b[:, 3] = 1.0, 2.0  # different constants
    b[:, 4] = 2.0  # one constant
    found = correlations(a, b)
    for i in (0, 1):
        assert float(found[i]) == pytest.approx(float(pearsonr(a[:, i], b[:, i]).statistic), abs=1e-6)
    assert found[2:].tolist() == [1.0, 0.0, 0.0]


def test_jensen_shannon_by_hand():
    p, q = torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])
    by_hand = 0.5 * log2(1 / 0.75) + 0.5 * (0.5 * log2(0.5 / 0.75) + 0.5 * log2(0.5 / 0.25))
    assert float(js_distance(p, q)) == pytest.approx(sqrt(by_hand))
    assert float(js_distance(p, p)) == 0.0
    assert float(js_distance(p, 1 - p)) == pytest.approx(1.0)


def test_whole_model_keeps_every_role(exam):
    whole = with_nodes(exam, exam.everything)
    assert node_roles(whole).value == pytest.approx(1.0)
    assert attention_shift(whole).value == pytest.approx(0.0, abs=1e-6)
    assert heads_used(whole) == {0: [0, 1, 2, 3], 1: [0, 1, 2, 3]}


def test_attention_shift_by_brute_force(exam):
    """One head, written out query by query with its sink."""
    hooks = ablation_hooks(exam.space, exam.keep, exam.circuit.means)
    layer, head, d_head = 1, 2, 4
    sink = float(exam.model.blocks[layer].attn.sink[head])
    names = [f"blocks.{layer}.attn.hook_{x}" for x in "qk"]
    runs = [exam.recorded(exam.heldout, names, more)[0] for more in ({}, hooks)]

    def weights(seen: dict, row: int, query: int) -> list[float]:
        q, k = (seen[name][row, :, head * d_head : (head + 1) * d_head] for name in names)
        raw = [exp(float(q[query] @ k[key]) / sqrt(d_head)) for key in range(query + 1)] + [exp(sink)]
        return [x / sum(raw) for x in raw]

    rows = []
    for row, last in enumerate(exam.heldout.last.flatten().tolist()):
        found = []
        for query in range(last + 1):
            p, q = (torch.tensor(weights(seen, row, query), dtype=torch.float64) for seen in runs)
            middle = (p + q) / 2
            found.append(sqrt(max(0.0, float(sum((x * (x / middle).log2()).sum() for x in (p, q))) / 2)))
        rows.append(sum(found) / len(found))
    heads = attention_shift(exam).detail["heads"]
    assert heads[f"layer {layer}, head {head}"] == pytest.approx(sum(rows) / len(rows), rel=1e-3)


def test_roles_ignore_padding(exam):
    padded = exam.heldout.tokens.clone()
    for row, last in enumerate(exam.heldout.last.flatten().tolist()):
        padded.flatten(0, 1)[row, last + 1 :] = 60
    other = PairSet(**{**{k: getattr(exam.heldout, k) for k in PairSet.__dataclass_fields__}, "tokens": padded})
    changed = replace(exam, inputs=replace(exam.inputs, heldout=other))
    for measure in (node_roles, attention_shift):
        assert measure(exam).value == pytest.approx(measure(changed).value, abs=1e-6)
    assert 0 < attention_shift(exam).value < 1
    assert node_roles(exam).value < 0.999


# --- agreement


def test_kappa_by_hand():
    """The textbook table 20, 5, 10, 15: p_o = 0.7, p_e = 0.5, kappa = 0.4."""
    a = torch.tensor([1] * 25 + [0] * 25).bool()
    b = torch.tensor([1] * 20 + [0] * 5 + [1] * 10 + [0] * 15).bool()
    assert float(cohens_kappa(a, b)) == pytest.approx(0.4)
    assert float(cohens_kappa(a, a)) == 1.0
    assert float(cohens_kappa(a, ~a)) == -1.0


def test_agreement_and_shared_errors_by_hand(exam):
    def seen(circuit: torch.Tensor, model: torch.Tensor) -> Examination:
        return as_if(exam, calibrated=circuit, full_calibrated=model)

    right, wrong = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    model = torch.stack([right, right, wrong, wrong])
    circuit = torch.stack([right, wrong, wrong, torch.stack([wrong[0], right[1]])])
    found = heldout_agreement(seen(circuit, model))
    assert (found.value, found.n) == (pytest.approx(0.25), 8)  # 5 of 8 agree; both say A half of the time
    errors = shared_errors(seen(circuit, model))
    assert (errors.value, errors.n) == (0.75, 4)
    only_a = torch.stack([right[0], wrong[1]]).expand(3, 2, 2)  # always A: right on side 0, wrong on side 1
    errors = shared_errors(seen(torch.stack([right, only_a[0], wrong]), torch.stack([only_a[0], only_a[0], right])))
    assert (errors.value, errors.n) == (0.5, 2)
    errors = shared_errors(seen(wrong.expand(3, 2, 2), torch.stack([wrong, wrong, right])))
    assert (errors.value, errors.n) == (1.0, 4)
    one_answer = torch.tensor([[1.0, 0.0], [1.0, 0.0]]).expand(4, 2, 2)
    assert heldout_agreement(seen(one_answer, one_answer)).verdict == "not enough data"


# --- specificity


def test_damage_by_its_formula(exam):
    full = [run_answers(exam.model, [pairs]) for pairs in (exam.fit, exam.heldout)]
    _, calibration = calibrated_loss(full[0])
    without = plain_answers(exam, ~exam.keep)
    before, after = (float(task_loss(calibration.apply(x.double()))) for x in (full[1], without[None]))
    assert damage(exam, exam.fit, exam.heldout) == pytest.approx(after - before, abs=1e-5)
    found = other_tasks(replace(exam, inputs=replace(exam.inputs, others={"itself": (exam.fit, exam.heldout)})))
    if after > before:
        assert found.value == pytest.approx(1.0)
    else:
        assert found.verdict == "fail"
    assert other_tasks(exam).verdict == "not enough data"


def test_pretraining_damage_by_brute_force(exam):
    windows = torch.randint(61, (5, 9), generator=torch.Generator().manual_seed(0))
    losses = []
    for keep in (torch.ones_like(exam.keep), ~exam.keep):
        with hooked(exam.model, ablation_hooks(exam.space, keep, exam.circuit.means)):
            logs = exam.model(windows).log_softmax(-1)
        picked = [-float(logs[i, t, windows[i, t + 1]]) for i in range(5) for t in range(8)]
        losses.append(sum(picked) / len(picked))
    found = pretraining_damage(replace(exam, inputs=replace(exam.inputs, windows=windows)))
    assert found.value == pytest.approx(losses[1] - losses[0], abs=1e-5)
    assert float(window_losses(exam.model, windows, {}, batch_size=2).mean()) == pytest.approx(losses[0], abs=1e-5)


# --- other ways to delete


def test_values_of_text_come_from_one_place_each(exam):
    windows = torch.randint(61, (6, 7), generator=torch.Generator().manual_seed(0))
    values = text_values(with_settings(exam, seed=1), windows, 60)
    seen = {}

    def keep(x: torch.Tensor, point: HookPoint) -> torch.Tensor:
        seen[point.name] = x
        return x

    with hooked(exam.model, dict.fromkeys(exam.space.names, keep)):
        exam.model(windows)
    everywhere = exam.space.join(seen).flatten(0, 1)
    distance = torch.cdist(values.double(), everywhere.double())
    assert float(distance.min(1).values.max()) < 1e-4
    assert len((distance.argmin(1) // 7).unique()) == 6 and len((distance.argmin(1) % 7).unique()) == 7


def test_task_means_leave_padding_out(exam):
    seen, valid = exam.recorded(exam.fit, exam.space.names, {})
    assert valid.sum(1).tolist() == (exam.fit.last.flatten() + 1).tolist()
    name = exam.space.names[4]
    rows = [seen[name][i, : int(n) + 1] for i, n in enumerate(exam.fit.last.flatten())]
    means = exam.space.split(task_means(exam))[name]
    torch.testing.assert_close(means, torch.cat(rows).mean(0))


def test_cells_of_the_table(exam, circuit):
    """Node circuit under its means; all kept and all norms frozen at their own scale is the model itself."""
    fit = exam.answers(exam.keep[None], exam.fit)
    _, calibration = calibrated_loss(fit)
    expected = float(task_loss(calibration.apply(exam.own[None].double())))
    assert deleted_loss(exam, exam.circuit.means) == pytest.approx(expected, abs=1e-5)
    whole = with_nodes(exam, exam.everything)
    scales = scale_hooks(whole, whole.fit), scale_hooks(whole, whole.heldout)
    edges = find_edges(exam.model, exam.space, exam.everything)
    plain = deleted_loss(whole, exam.circuit.means)
    assert deleted_loss(whole, exam.circuit.means, edges, scales) == pytest.approx(plain, abs=1e-5)
    own = scale_hooks(exam, exam.fit), scale_hooks(exam, exam.heldout)
    frozen, moving = (deleted_loss(exam, exam.circuit.means, circuit.edges, scales) for scales in (own, ({}, {})))
    assert abs(frozen - moving) > 1e-6


def test_robustness_counts_cells(exam, monkeypatch):
    cells = [Cell("zero", "nodes", "moving", loss) for loss in (0.1, 0.2, 0.4, 0.1)]
    monkeypatch.setattr("circuits.evidence.deletions.ablation_table", lambda exam: cells)
    found = robustness(with_settings(exam, max_robust_loss=0.2))
    assert (found.value, found.n, found.lo) == (0.75, 4, None)
    assert "0.400" in found.note


# --- scrubbing, binarisation


def test_scrub_hooks_put_the_drawn_rows(exam):
    pool = torch.randn(4, exam.space.n_nodes)
    places = torch.tensor([[0, 3, 1], [2, 2, 0]])
    name = exam.space.names[6]
    hook = scrub_hooks(exam.space, exam.keep, pool, places)[name]
    width = exam.space.widths[6]
    x, point = torch.randn(2, 3, width), HookPoint("mlp_neuron", width)
    point.name = name
    out = hook(x, point)
    keep, rows = exam.space.split(exam.keep)[name], exam.space.split(pool)[name]
    torch.testing.assert_close(out[1, 2], torch.where(keep, x[1, 2], rows[0]))
    torch.testing.assert_close(out[0, 1], torch.where(keep, x[0, 1], rows[3]))


def test_scrubbing_nothing_recovers_all_and_everything_nothing(exam):
    pool = torch.randn(8, exam.space.n_nodes, generator=torch.Generator().manual_seed(0))
    whole = with_nodes(exam, exam.everything)
    assert scrubbed(with_settings(whole, n_scrub=2), pool).value == pytest.approx(1.0, abs=1e-4)
    constant = pool[:1].expand(8, -1)  # no luck in the draws: the empty circuit and the random one are the same
    empty = with_nodes(exam, ~exam.everything)
    assert scrubbed(with_settings(empty, n_scrub=2), constant).value == pytest.approx(0.0, abs=1e-6)


def test_steps_by_brute_force():
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 5.0
    x[:, 2] = torch.tensor([0.0] * 9 + [7.0] * 3)
    steps = fit_steps(x)

    def error(column: torch.Tensor, threshold: float) -> float:
        parts = [column[column > threshold], column[column <= threshold]]
        return sum(float(((part - part.mean()) ** 2).sum()) for part in parts if len(part))

    column = x[:, 0].double()
    best = min(error(column, t) for t in column.tolist())
    fitted = torch.where(column > steps.threshold[0], steps.hi[0], steps.lo[0])
    assert float(((column - fitted) ** 2).sum()) == pytest.approx(best, rel=1e-9)
    assert float(steps.lo[1]) == float(steps.hi[1]) == 5.0
    assert (float(steps.lo[2]), float(steps.threshold[2]), float(steps.hi[2])) == (0.0, 3.5, 7.0)


def test_binarising_the_empty_circuit_changes_nothing(exam):
    empty = with_nodes(exam, ~exam.everything)
    assert binarised(empty).value == pytest.approx(deleted_loss(empty, exam.circuit.means), abs=1e-6)
    assert abs(binarised(exam).value - deleted_loss(exam, exam.circuit.means)) > 1e-6


# --- curve


def test_areas_of_a_perfect_ranking():
    shares = torch.tensor(SHARES, dtype=torch.float64)
    assert area(torch.ones(10)).item() == pytest.approx(0.999)
    assert area(shares).item() == pytest.approx((1 - 0.001**2) / 2)  # exact for a line
    assert area(torch.stack([shares, torch.zeros(10)])).shape == (2,)


def test_edges_of_the_circuit_come_first_each_by_score(exam, circuit):
    scores = {join.linear: join_weight(exam.model, exam.space, join) for join in joins(exam.model)}
    ranks, n_edges = circuit_first(exam.model, exam.space, circuit.edges, scores)
    assert n_edges == sum(int((weight != 0).sum()) for weight in scores.values())
    by_ends = {(join.source, join.target): join.linear for join in joins(exam.model)}
    places = {}
    for edge in circuit.edges:
        (source, s), (target, t) = (end.rsplit(":", 1) for end in (edge.source, edge.target))
        places[int(ranks[by_ends[source, target]][int(t), int(s)])] = edge.weight
    assert sorted(places) == list(range(circuit.n_edges))
    assert [places[i] for i in range(circuit.n_edges)] == sorted((e.weight for e in circuit.edges), reverse=True)
    rest = torch.cat(
        [s.flatten()[r.flatten() >= circuit.n_edges] for s, r in zip(scores.values(), ranks.values(), strict=True)]
    )
    order = torch.cat([r.flatten()[r.flatten() >= circuit.n_edges] for r in ranks.values()]).argsort()
    assert bool((rest[order].diff() <= 0).all())


def test_edge_curve_ends_at_the_model_and_passes_through_the_circuit(exam, circuit):
    scores = {join.linear: join_weight(exam.model, exam.space, join) for join in joins(exam.model)}
    ranks, n_edges = circuit_first(exam.model, exam.space, circuit.edges, scores)
    diffs = [edge_diffs(exam, ranks, n) for n in (n_edges, 0, circuit.n_edges)]
    ends = [pair_logit_diff(exam.full), pair_logit_diff(exam.empty)]
    everything, nothing, found = effect_shares(torch.stack([*ends, *diffs], dim=-1)).tolist()
    assert everything == pytest.approx(1.0, abs=1e-4)
    assert nothing == pytest.approx(0.0, abs=1e-4)
    with with_edges(circuit, circuit.edges).attached(exam.model, "edge"):
        own = float(logit_diff(run_answers(exam.model, [exam.heldout])[0]))
    expected = (own - float(logit_diff(exam.empty))) / exam.effect
    ends = {end for edge in circuit.edges for end in (edge.source, edge.target)}
    assert ends == set(circuit.node_ids), "every node has an edge, so that both are the same circuit"
    assert found == pytest.approx(expected, abs=1e-4)


def test_cpr_and_cmd_follow_their_scores(exam, circuit):
    """Scores of one sign: both come from one curve. A negative score is last for CPR and first for CMD."""
    plain = cpr(exam), cmd(exam)
    curve = torch.tensor(plain[0].detail["f"])
    assert plain[0].value == pytest.approx(area(curve).item()) and plain[0].detail == plain[1].detail
    assert plain[1].value == pytest.approx(area((1 - curve).abs()).item())
    assert curve[-1].item() == pytest.approx(1.0, abs=1e-4)
    signed = {join.linear: join_weight(exam.model, exam.space, join) for join in joins(exam.model)}
    scored = replace(exam, inputs=replace(exam.inputs, edge_scores=signed))
    assert cpr(scored).detail != cmd(scored).detail and cmd(scored).detail["f"] == plain[1].detail["f"]
    assert cpr(scored).note != plain[0].note


# --- hypothesis tests


def test_permutation_p_by_hand():
    assert permutation_p(3.0, [1.0, 2.0, 3.0, 4.0]) == 3 / 5
    assert permutation_p(5.0, [1.0, 2.0]) == 1 / 3
    assert enough_draws(180, 9) and not enough_draws(179, 9)


def test_equivalence_by_hand(exam):
    def compared(circuit: torch.Tensor, model: torch.Tensor) -> Measurement:
        return equivalence(as_if(exam, calibrated=answers_of(-circuit), full_calibrated=answers_of(-model)))

    assert equivalence_p(4, 4, 0.0) == pytest.approx(2 / 16)  # the sign test
    assert equivalence_p(2, 4, 0.0) == 1.0
    assert equivalence_p(0, 4, 0.1) == pytest.approx(0.6**4 + 0.4**4)
    model = torch.rand(64, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(64, generator=torch.Generator().manual_seed(1))
    assert compared(model + 0.1 * noise, model).value > 0.05
    assert compared(model + 0.1, model).value < 1e-9
    assert compared(model, model).value == 1.0
    assert compared(model[:3] + 0.1, model[:3]).verdict == "not enough data"


def test_hsic_by_its_formula():
    generator = torch.Generator().manual_seed(0)
    k, l = (gaussian_kernel(torch.randn(9, generator=generator)) for _ in range(2))  # noqa: E741
    h = torch.eye(9, dtype=torch.float64) - 1 / 9
    assert hsic(k, l) == pytest.approx(float(torch.trace(k @ h @ l @ h)) / 81)
    x = torch.tensor([0.0, 1.0, 3.0])
    assert float(gaussian_kernel(x)[0, 1]) == pytest.approx(float(torch.tensor(-1 / 8).exp()))  # median distance 2
    assert torch.equal(gaussian_kernel(torch.ones(4)), torch.ones(4, 4, dtype=torch.float64))


def test_independence_finds_a_dependence_that_no_correlation_shows(exam):
    x = torch.randn(80, generator=torch.Generator().manual_seed(0))
    other = torch.randn(80, generator=torch.Generator().manual_seed(1))
    assert independence_p(x, x.square(), 200, seed=0) == pytest.approx(1 / 201)
    assert independence_p(x, other, 200, seed=0) > 0.05
    still = as_if(with_settings(exam, n_permutations=200), full=answers_of(x), without=answers_of(1e-4 * x), effect=1.0)
    assert independence(still).value == 1.0
    few = as_if(with_settings(exam, n_permutations=19), full=answers_of(x), without=answers_of(x), effect=1.0)
    assert independence(few).verdict == "not enough data"


def test_sufficiency_p_by_hand(exam):
    def tested(*losses: float) -> Measurement:
        return sufficiency_test(as_if(exam, {random_circuits.losses: [0.1, *losses]}))

    assert tested(*[0.5] * 19, 0.05).value == pytest.approx(2 / 21)
    assert tested(*[0.5] * 19).verdict == "not enough data"


def test_random_paths_follow_weights_outside_the_circuit(exam, circuit):
    taken = {(edge.source, edge.target) for edge in circuit.edges}
    everything = {(e.source, e.target): e.weight for e in find_edges(exam.model, exam.space, exam.everything)}
    rng, kinds = Random(0), set()
    for _ in range(20):
        path = random_path(exam.model, exam.space, taken, rng)
        assert path is not None and len(path) == 2 and path[0].target == path[1].source
        assert all(everything[e.source, e.target] == e.weight and (e.source, e.target) not in taken for e in path)
        kinds.add(path[0].target.split(".")[2])
    assert kinds == {"attn", "mlp"}
    assert random_path(exam.model, exam.space, set(everything), rng) is None


def test_edge_shifts_by_brute_force(exam, circuit):
    edge = circuit.edges[5]

    def difference(edges: tuple) -> torch.Tensor:
        with Circuit(**{**{k: getattr(circuit, k) for k in Circuit.__dataclass_fields__}, "edges": edges}).attached(
            exam.model, "edge"
        ):
            answers = run_answers(exam.model, [exam.heldout])[0]
        return answers[..., 0] - answers[..., 1]

    less = tuple(e for e in circuit.edges if e != edge)
    expected = float((difference(circuit.edges) - difference(less)).abs().mean())
    assert edge_shifts(exam.model, circuit, [edge], exam.heldout) == [pytest.approx(expected, rel=1e-4)]


def test_minimality_is_corrected_for_the_number_of_edges(exam, circuit, monkeypatch):
    """Of 40 draws one is as large as the second edge's shift: p = 1/41 and 2/41, and 0.05 / 2 lies between."""
    drawn = iter([2.0] + [1.0] * 39)

    def shifts(model, inflated, edges, pairs) -> list[float]:
        return [3.0, 2.0] if len(edges) == 2 else [next(drawn)]

    monkeypatch.setattr(hypotheses, "edge_shifts", shifts)
    two = with_edges(circuit, circuit.edges[:2])
    found = minimality_test(replace(with_settings(exam, n_inflated=40), circuit=two))
    assert (found.value, found.n, next(drawn, None)) == (0.5, 2, None)
    assert found.detail["edges_not_needed"] == [f"{two.edges[1].source} -> {two.edges[1].target}"]


def test_minimality_test_asks_for_enough_draws(exam, circuit):
    assert circuit.n_edges > 2
    found = minimality_test(with_settings(exam, n_inflated=40))
    assert found.verdict == "not enough data" and str(20 * circuit.n_edges) in found.note
