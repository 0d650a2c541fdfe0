"""The search from end to end on a small untrained model: statuses, saved files, resuming."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from circuits.answers import pair_answers
from circuits.brief import describe_task
from circuits.calibrate import fit_shifts
from circuits.circuit import Circuit
from circuits.evidence.gather import solved
from circuits.find import GATE_OFF_NOTE, examined, find_once, find_task, passed_over, section_of
from circuits.means import Means, measure_means
from circuits.merged import merge_tasks
from circuits.run import CircuitsConfig
from circuits.search.comparison import size_ratios
from circuits.search.learn import PruneConfig
from circuits.search.task import FindConfig, TaskSearch, heldout_pairs
from circuits.section import CircuitsSection, TaskEntry
from circuits.tasks import TASKS, build_pairs
from circuits.tasks.loss import pair_accuracy, task_loss
from sparsetrain.data.pools import pool
from sparsetrain.data.tokenizer import Tokenizer, train_tokenizer
from sparsetrain.model import Transformer
from sparsetrain.typed import plain

CONFIG = FindConfig(
    gate=False,
    seeds=(3, 4),
    n_train=8,
    n_fit=6,
    n_val=6,
    n_heldout=6,
    n_random=5,
    n_random_pairs=4,
    n_random_necessity=2,
    n_boot=20,
    max_tokens=40,
    prune_edges=True,
    prune=PruneConfig(n_steps=6, n_pairs=4, n_screen=3),
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    rng, names = Random(0), pool("train")
    pairs = [task.generate(rng, names) for task in TASKS.values() for _ in range(40)]
    texts = [s.prompt + s.hinge + s.answer + s.continuation for pair in pairs for s in (pair.positive, pair.negative)]
    words = " is when not the and of to this that return import None raise from or it on at be are by can but you all\n"
    return train_tokenizer([*texts, *[words] * 20], 500)


@pytest.fixture
def model(make_model, tokenizer) -> Transformer:
    return make_model(d_vocab=tokenizer.d_vocab, d_model=16, d_head=4, n_ctx=64).eval().requires_grad_(False)


@pytest.fixture
def means(model, tokenizer) -> Means:
    windows = torch.randint(tokenizer.d_vocab, (8, 16), generator=torch.Generator().manual_seed(0))
    return measure_means(model, windows, source="noise", weights_sha256="f" * 64)


def test_search_without_gate_saves_circuits_that_give_the_reported_numbers(model, means, tokenizer, tmp_path: Path):
    stages = set()
    for name in ("var_if", "bracket_counting"):
        report = lambda stage, done, total: stages.add(stage)  # noqa: E731
        task = find_once(model, name, tokenizer, means, CONFIG, tmp_path, report)
        assert task.task == name
        assert task.status == "failed_by_model"
        plain(task)
        assert task.circuits, "without a gate every task is pruned to the loss that the model has"
        for entry in task.circuits:
            circuit = Circuit.load(tmp_path / Path(entry.path).relative_to("circuits"))
            pairs = heldout_pairs(circuit, tokenizer)
            assert circuit.evaluate(model, pairs, "node", CONFIG.batch_size) == entry.task_loss.value
            assert circuit.evaluate(model, pairs, "edge", CONFIG.batch_size) == entry.edge_task_loss.value
            assert circuit.n_edges == entry.n_edges.value == len(entry.graph.edges)
            assert circuit.n_nodes == len(entry.graph.nodes)
            assert len(entry.random.losses) == 5
        entry = task.circuits[0].edge_circuit
        assert entry is not None
        fewer = Circuit.load(tmp_path / Path(entry.path).relative_to("circuits"))
        most = task.circuits[0].n_edges.value
        assert most is not None and fewer.n_edges == entry.n_edges.value <= most
        loss = fewer.evaluate(model, heldout_pairs(fewer, tokenizer), "edge", CONFIG.batch_size)
        assert loss == entry.task_loss.value
    assert "masks" in stages


def test_a_finished_task_is_read_from_disk_unless_the_search_changes(model, means, tokenizer, tmp_path: Path):
    def find(config: FindConfig) -> tuple[TaskEntry, set[str]]:
        stages: set[str] = set()
        report = lambda stage, done, total: stages.add(stage)  # noqa: E731
        return find_once(model, "var_if", tokenizer, means, config, tmp_path, report), stages

    first, worked = find(CONFIG)
    second, rested = find(CONFIG)
    assert worked and not rested
    assert plain(first) == plain(second)
    gated, _ = find(FindConfig(n_fit=6, n_val=6, n_heldout=6, max_tokens=40))
    assert gated.status == "failed_by_model"
    assert gated.circuits == ()
    assert not list(tmp_path.rglob("circuit.json"))


def test_unknown_task_is_refused_before_any_search(model, means, tokenizer, tmp_path: Path):
    with pytest.raises(ValueError, match="nope"):
        CircuitsConfig(tasks=("var_if", "nope"))
    with pytest.raises(ValueError, match="nope"):
        CircuitsConfig(tasks=("all", "nope"))
    with pytest.raises(ValueError, match="nope"):
        find_once(model, "nope", tokenizer, means, CONFIG, tmp_path)
    assert not list(tmp_path.iterdir())


def test_means_of_another_model_are_refused(make_model, means, tokenizer, tmp_path: Path):
    other = make_model(d_vocab=tokenizer.d_vocab, d_model=16, d_head=4, n_layer=1)
    with pytest.raises(ValueError, match="the means are of a model"):
        find_once(other, "var_if", tokenizer, means, CONFIG, tmp_path)


def test_damaged_circuits_are_refused(model, means, tokenizer, tmp_path: Path):
    assert find_once(model, "var_if", tokenizer, means, CONFIG, tmp_path).circuits
    path = tmp_path / "var_if" / "circuit.json"
    text, circuit = path.read_text(), Circuit.load(path)
    for damaged, message in (
        (text.replace('"task"', '"tusk"', 1), "unknown keys"),
        (text.replace('"format_version": 1', '"format_version": 9'), "format_version 9"),
        (text.replace('"n_nodes": ', '"n_nodes": 9'), "does not hold"),
        (text.replace('"n_nodes": ', '"n_nodes": "x"+'), "damaged"),
        (text.replace('"scale"', '"scaled"'), "scale is missing"),
        (
            text.replace('"nodes": {', '"nodes": {"blocks.7.attn.hook_in": [0]' + (", " if circuit.n_nodes else "")),
            "nodes that its model does not have",
        ),
    ):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=message):
            Circuit.load(path)
    path.write_text(text)
    Circuit.load(path.parent)
    means_file = path.with_name("circuit.safetensors")
    means_file.write_bytes(means_file.read_bytes()[:-4] + b"xxxx")
    with pytest.raises(ValueError, match="sha256 differs"):
        Circuit.load(path)
    with pytest.raises(FileNotFoundError, match="no circuit at"):
        Circuit.load(tmp_path / "nowhere")


def test_a_task_that_makes_no_pairs_with_the_tokenizer_is_a_status(model, means, tokenizer, tmp_path: Path):
    entry = find_once(model, "for_while", tokenizer, means, replace(CONFIG, max_tokens=2), tmp_path)
    assert entry.status == "unsuitable" and "pairs rejected (too_long: " in (entry.note or "")
    assert not entry.circuits and entry.gate.loss.value is None and entry.example.answer_positive
    assert describe_task(entry).startswith("for_while: does not suit this tokenizer; ")
    again = find_once(model, "for_while", tokenizer, means, replace(CONFIG, max_tokens=2), tmp_path)
    assert again == entry and solved([entry]) == []
    assert size_ratios([entry], seed=0, n_boot=10)[0].tasks == ()


def test_prompts_longer_than_the_model_reads_do_not_suit(make_model, tokenizer, tmp_path: Path):
    short = (
        make_model(d_vocab=tokenizer.d_vocab, d_model=16, d_head=4, n_ctx=12, positions="learned")
        .eval()
        .requires_grad_(False)
    )
    means = measure_means(short, torch.zeros(2, 8, dtype=torch.int64), source="noise", weights_sha256="f" * 64)
    entry = find_once(short, "for_while", tokenizer, means, CONFIG, tmp_path)
    assert entry.status == "unsuitable" and "set circuits.find.max_tokens=12" in (entry.note or "")


def test_without_words_for_a_nonsense_twin_the_task_is_searched_and_says_so(model, means, tokenizer, monkeypatch):
    monkeypatch.setattr("circuits.tasks.pairs._TWIN_WORDS", " Слово другое")
    subject = TaskSearch.of(model, "for_while", tokenizer, means, CONFIG)
    assert subject.twin is None
    note = examined(subject).note or ""
    assert note.startswith("no nonsense twin of task 'for_while': fewer than two of its 2 words")
    found = find_task(subject)
    assert found.nonsense_twin is None and found.note == f"{note}; {GATE_OFF_NOTE}" and found.circuits


def test_the_gate_tells_of_the_second_wording_with_the_calibration_of_the_first(model, means, tokenizer):
    subject = TaskSearch.of(model, "for_while", tokenizer, means, CONFIG)
    again = build_pairs("for_while", tokenizer, "paraphrased", CONFIG.n_heldout, CONFIG.pair_seed, max_tokens=80)
    raw = pair_answers(model, again)
    shift = fit_shifts(pair_answers(model, subject.pairs.fit))
    gate = examined(subject).gate
    assert gate.paraphrased is not None
    assert gate.paraphrased.loss.value == pytest.approx(float(task_loss(shift.apply(raw.double()))), abs=1e-6)
    assert gate.paraphrased.raw_accuracy.value == float(pair_accuracy(raw).mean())
    assert gate.paraphrased.loss.n == again.n_distinct and gate.paraphrased.loss.value != gate.loss.value
    for target in (gate.paraphrased.loss.value - 1e-6, gate.paraphrased.loss.value + 1e-6):
        other = examined(replace(subject, config=replace(CONFIG, target_loss=target))).gate.paraphrased
        assert other is not None and other.passed == (target > gate.paraphrased.loss.value)


def test_a_task_that_begins_to_suit_or_ceases_to_takes_its_entrys_place(model, means, tokenizer, tmp_path: Path):
    good = find_once(model, "for_while", tokenizer, means, CONFIG, tmp_path / "good")
    bad = find_once(model, "for_while", tokenizer, means, replace(CONFIG, max_tokens=2), tmp_path / "bad")

    def section(task: TaskEntry) -> CircuitsSection:
        return section_of(means, CONFIG, (task,))

    for old, new in ((good, bad), (bad, good)):
        assert merge_tasks(section(old), section(new)).tasks == (new,)


def test_only_the_tasks_that_the_model_does_best_are_searched(model, means, tokenizer, monkeypatch):
    def passing(subject: TaskSearch) -> TaskEntry:
        entry = examined(subject)
        return replace(entry, status="failed_by_model", gate=replace(entry.gate, passed=subject.task != "for_while"))

    monkeypatch.setattr("circuits.find.examined", passing)
    names = ("var_if", "for_while", "bracket_counting", "with_as")
    over = passed_over(model, [TASKS[name] for name in names], tokenizer, means, CONFIG, most=1)

    def loss(name: str) -> float:
        pairs = TaskSearch.of(model, name, tokenizer, means, CONFIG).pairs
        shift = fit_shifts(pair_answers(model, pairs.fit))
        return float(task_loss(shift.apply(pair_answers(model, pairs.val).double())))

    best = min(("var_if", "bracket_counting", "with_as"), key=loss)
    assert set(over) == {"var_if", "bracket_counting", "with_as"} - {
        best
    }  # for_while goes the way of all that fail the gate
    assert {entry.status for entry in over.values()} == {"not_searched"}
    assert passed_over(model, [TASKS[name] for name in names], tokenizer, means, CONFIG, most=3) == {}
