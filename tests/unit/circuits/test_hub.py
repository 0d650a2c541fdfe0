"""Circuits in models of other people: masks delete what they name and nothing else, and a search finds what does the task."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from circuits.answers import Ablated, pair_answers
from circuits.circuit import Circuit
from circuits.edges import NO_EDGES, count_edges, degrees, has_edges, on_path, size_of
from circuits.find import find_task, section_of
from circuits.hub import PAIRS_SOURCE, HubSearch
from circuits.masks import NodeMasks, NodeSpace
from circuits.means import measure_means
from circuits.merged import under_one_rule
from circuits.search.comparison import ranked_circuits, size_ratios
from circuits.search.learn import PruneConfig, attribution
from circuits.search.task import FindConfig, Pairs, TaskSearch
from circuits.section import TaskEntry
from circuits.tasks import get_task, get_tasks
from circuits.tasks.pairs import PairSet
from circuits.tasks.task import PairText, Side
from circuits.views import KINDS as KINDS_OF_PAGE
from sparsetrain.adapters.hugging_face import HookedHubModel
from sparsetrain.hooks import hooked, record
from sparsetrain.typed import plain

pytest.importorskip("transformers", reason="other people's models need transformers (extra: hub)")
from commands import ROOT
from hub_example import (
    WORDS,
    answering_model,
    hub_model,
    key_prompts,
    save_answering_model,
    save_hub_model,
    save_tokenizer,
)

KINDS = ("gpt2", "llama")


def pair_set(n: int, seed: int = 0, padding: int = 0) -> PairSet:
    """Pairs for `answering_model`, of two lengths, with so many more columns of padding."""
    tokens = torch.zeros(n, 2, 6 + padding, dtype=torch.int64)
    last = torch.full((n, 2), 5)
    texts = []
    for i, prompts in enumerate(key_prompts(n, seed)):
        for side, prompt in enumerate(prompts):
            ids = [0, *(WORDS.index(word) for word in prompt.split()[i % 2 :])]
            tokens[i, side, : len(ids)] = torch.tensor(ids)
            last[i, side] = len(ids) - 1
        sides = (
            Side(prompt=prompt, answer=f" {word}", continuation="")
            for prompt, word in zip(prompts, ("w9", "w10"), strict=True)
        )
        texts.append(PairText(**dict(zip(("positive", "negative"), sides, strict=True))))
    return PairSet(
        task="key", split="train", seed=seed, twin=None, tokens=tokens, last=last,
        answers=torch.tensor([[10, 11]] * n), texts=tuple(texts),
    )  # fmt: skip


@pytest.fixture(params=KINDS, scope="module")
def model(request) -> HookedHubModel:
    return HookedHubModel(hub_model(request.param))


def means_of(model: HookedHubModel) -> torch.Tensor:
    return torch.randn(NodeSpace.of(model).n_nodes, generator=torch.Generator().manual_seed(0))


def test_a_mask_of_everything_is_the_plain_model_to_the_last_bit(model):
    pairs, space = pair_set(6), NodeSpace.of(model)
    keep = torch.ones(2, space.n_nodes, dtype=torch.bool)
    ablated = Ablated(model=model, means=means_of(model))
    groups = [pairs.batch(order) for order in pairs.last.amax(1).argsort(stable=True).chunk(4)]
    plain = torch.cat([pair_answers(model, group) for group in groups])
    order = pairs.last.amax(1).argsort(stable=True)
    answers = ablated.answers(keep, pairs)
    assert torch.equal(answers[0], answers[1])
    torch.testing.assert_close(answers[0][order], plain, rtol=0, atol=1e-6)
    with hooked(model, NodeMasks(space, torch.ones(1, space.n_nodes), 0.5).hooks(means_of(model))):
        assert torch.equal(pair_answers(model, pairs), pair_answers_of_plain(model, pairs))


def pair_answers_of_plain(model: HookedHubModel, pairs: PairSet) -> torch.Tensor:
    """Without any hook: the model's own logits, picked by hand."""
    tokens, last = pairs.prompts()
    with torch.no_grad():
        logits = model.hub(input_ids=tokens, attention_mask=torch.ones_like(tokens), use_cache=False).logits
    picked = logits[torch.arange(len(tokens)), last].unflatten(0, (-1, 2))
    return picked[..., [10, 11]]


def test_batch_size_and_padding_change_nothing(model):
    space = NodeSpace.of(model)
    keep = torch.rand(5, space.n_nodes, generator=torch.Generator().manual_seed(1)) < 0.5
    results = [
        Ablated(model=model, means=means_of(model), max_rows=rows).answers(keep, pair_set(7, padding=padding))
        for rows in (2, 8, 256)
        for padding in (0, 9)
    ]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-5)
    means = [
        measure_means(model, tokens, last=last, source="", weights_sha256="").values
        for tokens, last in (
            pair_set(7).prompts(),
            (pair_set(7, padding=9).tokens.flatten(0, 1), pair_set(7).last.flatten()),
        )
    ]
    torch.testing.assert_close(means[1], means[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("part", ["hook_neuron", "hook_z"])
def test_a_deleted_node_emits_its_mean_and_no_other_is_touched(model, part):
    space, pairs, means = NodeSpace.of(model), pair_set(6), means_of(model)
    name = next(name for name in space.names if name.startswith("blocks.1") and name.endswith(part))
    keep = torch.ones(1, space.n_nodes, dtype=torch.bool)
    number = space.number(f"{name}:5")
    keep[0, number] = False
    block = (model.hub.transformer.h if hasattr(model.hub, "transformer") else model.hub.model.layers)[1]
    attn, mlp = (block.attn, block.mlp) if hasattr(block, "attn") else (block.self_attn, block.mlp)
    modules = {
        "hook_neuron": getattr(mlp, "c_proj", None) or getattr(mlp, "down_proj", None),
        "hook_z": getattr(attn, "c_proj", None) or getattr(attn, "o_proj", None),
    }

    def by_hand(module, args):
        x = args[0].clone()
        x[..., 5] = means[number]
        return (x,)

    handle = modules[part].register_forward_pre_hook(by_hand)
    expected = pair_answers_of_plain(model, pairs)
    handle.remove()
    answers = Ablated(model=model, means=means).answers(keep, pairs)[0]
    torch.testing.assert_close(answers, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(answers, pair_answers_of_plain(model, pairs), atol=1e-4)


def test_a_model_without_edges_has_none(model):
    space = NodeSpace.of(model)
    keep = torch.rand(space.n_nodes, generator=torch.Generator().manual_seed(1)) < 0.3
    assert not has_edges(model)
    assert (count_edges(model, space, keep), size_of(model, space, keep)) == (0, int(keep.sum()))
    assert torch.equal(on_path(model, space, keep), keep)
    assert not degrees(model, space)(keep[None]).any()


@pytest.mark.parametrize("name", KINDS)
def test_attribution_is_the_slope_of_the_logit_difference(name):
    model = HookedHubModel(answering_model(name))
    space, pairs = NodeSpace.of(model), pair_set(6)
    tokens, last = pairs.prompts()
    means = measure_means(model, tokens, last=last, source="", weights_sha256="").values
    whole = attribution(Ablated(model=model, means=means), pairs)
    torch.testing.assert_close(attribution(Ablated(model=model, means=means, max_rows=4), pairs), whole)
    # what deleting a node does to each prompt's logit difference, for the nodes of highest score
    best = whole.argsort(descending=True)[:10]
    keep = torch.ones(11, space.n_nodes, dtype=torch.bool)
    keep[torch.arange(1, 11), best] = False
    answers = Ablated(model=model, means=means).answers(keep, pairs)
    margin = (answers[..., 0] - answers[..., 1]) * torch.tensor([1.0, -1.0])
    moved = (margin[1:] - margin[0]).abs().mean((1, 2))
    assert torch.corrcoef(torch.stack([moved, whole[best]]))[0, 1] > 0.8


CONFIG = FindConfig(
    seeds=(0, 1), settle=(0.6,), n_train=32, n_fit=16, n_val=16, n_heldout=16, n_random=10, n_random_pairs=8, n_random_necessity=3,
    n_boot=50, prune=PruneConfig(n_steps=40, candidate_share=0.3),
)  # fmt: skip


def key_search(name: str) -> TaskSearch:
    """The task that a model was trained on, with a twin of unrelated answers."""
    model = HookedHubModel(answering_model(name))
    sets = {
        part: pair_set(n, seed)
        for seed, (part, n) in enumerate({"train": 32, "fit": 16, "val": 16, "heldout": 16}.items())
    }
    tokens, last = sets["train"].prompts()
    means = measure_means(model, tokens, last=last, source=PAIRS_SOURCE, weights_sha256="f" * 64)
    twins = {
        part: replace(pairs, answers=torch.full_like(pairs.answers, 30) + torch.arange(2))
        for part, pairs in sets.items()
    }
    return TaskSearch(
        model=model, task="key", description="the key is remembered", pairs=Pairs(**sets), twin=Pairs(**twins), means=means, config=CONFIG
    )  # fmt: skip


@pytest.fixture(params=KINDS, scope="module")
def found(request, tmp_path_factory) -> tuple[TaskSearch, TaskEntry, Path]:
    folder = tmp_path_factory.mktemp("found")
    subject = key_search(request.param)
    return subject, find_task(subject, folder), folder


def test_a_search_finds_a_circuit_of_nodes_with_its_controls(found):
    subject, task, folder = found
    best = task.circuits[0]
    assert task.gate.passed and best.task_loss.value <= CONFIG.target_loss
    assert 0 < best.n_nodes.value < subject.space.n_nodes / 4
    assert [x.value for x in (best.n_edges, best.edge_task_loss, best.biases)] == [None] * 3
    assert {x.note for x in (best.n_edges, best.edge_task_loss, best.biases)} == {NO_EDGES}
    assert best.size == best.n_nodes and best.size_words == f"{best.n_nodes.value} nodes"
    assert not any("edge" in row.name for row in best.ablations) and len(best.ablations) == 5
    assert task.nonsense_twin is not None and task.nonsense_twin.n_searches == task.seeds.n_searches
    saved = Circuit.load(folder / "key")
    assert saved.evaluate(subject.model, subject.pairs.heldout) == pytest.approx(best.task_loss.value, abs=1e-6)
    assert [node.id for node in best.graph.nodes] == saved.node_ids and not best.graph.edges
    ablated = {row.name: row.loss.value for row in best.ablations}
    assert ablated["full model"] < 0.1 and ablated["full model without the circuit"] > ablated["full model"]
    plain(task)


def test_the_page_shows_nodes_and_says_why_there_are_no_edges(found):
    subject, task, _ = found
    section = section_of(subject.means, CONFIG, [task], linked=False)
    shown = repr(KINDS_OF_PAGE["circuits"].view(section))
    assert NO_EDGES in shown and PAIRS_SOURCE in shown
    assert "MLP neuron" in shown or "head's channel" in shown
    assert "circuit-graph" not in shown and "as edge circuit" not in shown


def test_other_rules_have_a_page_of_their_own(found, tmp_path):
    subject, task, _ = found
    before = section_of(subject.means, CONFIG, [task], linked=False)
    (tmp_path / task.task / "pairs").mkdir(parents=True)
    (tmp_path / task.task / "pairs" / "key.jsonl").touch()
    stricter = replace(CONFIG, target_loss=0.05)
    now = get_tasks(["with_as", f"file:{ROOT / 'docs' / 'pairs.jsonl'}"])
    with pytest.raises(
        ValueError, match=r"circuits of key .*task=file:.*/key/pairs/key\.jsonl,with_as,file:.*docs/pairs\.jsonl; in"
    ):
        under_one_rule(before, stricter, now, tmp_path)
    assert under_one_rule(before, stricter, {"key": get_task("with_as")}, tmp_path) is None
    assert under_one_rule(before, CONFIG, now, tmp_path) == before


def test_rankings_end_in_circuits_too(found, tmp_path):
    subject, task, _ = found
    entries = {entry.method: entry for entry in ranked_circuits(subject, tmp_path)}
    assert set(entries) == {"gradient x activation", "integrated gradients", "random"}
    gradient = entries["gradient x activation"]
    assert gradient.reached and gradient.n_edges.value is None and gradient.task_loss.value <= CONFIG.target_loss
    (ratio, *_) = size_ratios([replace(task, baselines=tuple(entries.values()))], seed=0, n_boot=10)
    assert ratio.ratio.value is not None


def test_means_over_text_that_the_user_names(tmp_path):
    folder = save_answering_model(tmp_path / "model", "gpt2")
    (tmp_path / "a.txt").write_text("w1 w2 w3 w4 w5 w6")
    (tmp_path / "b.jsonl").write_text('{"text": "w7 w8"}\n{"text": "w9 w9 w9"}\n')
    searched = HubSearch.load(f"hf:{folder}", [str(tmp_path / "a.txt"), str(tmp_path / "b.jsonl")], n_windows=10)
    means = searched.means_of(get_task("for_while"), CONFIG)
    assert means.n_tokens == 6 + 2 + 3 and "a.txt" in means.source
    seen = []
    model = searched.model.module
    for ids in ([2, 3, 4, 5, 6, 7], [8, 9], [10, 10, 10]):
        _, of_row = record(model, torch.tensor([ids]), means.space.names)
        seen.append(torch.cat([of_row[name][0] for name in means.space.names], -1))
    torch.testing.assert_close(means.values, torch.cat(seen).mean(0), rtol=0, atol=1e-5)


def test_a_model_whose_nodes_cannot_all_be_deleted_is_refused(tmp_path):
    folder = save_hub_model(tmp_path / "mixtral", "mixtral")
    with pytest.raises(
        ValueError, match=r"MixtralForCausalLM shows no blocks\.0\.mlp\.hook_neuron \(the MLP has no one last"
    ):
        HubSearch.load(f"hf:{folder}", (), n_windows=1)
    with pytest.raises(ValueError, match="no token for the beginning or the end of a text"):
        folder = save_hub_model(tmp_path / "bare", "gpt2")
        save_tokenizer(folder, WORDS)
        HubSearch.load(f"hf:{folder}", (), n_windows=1)


@pytest.mark.slow
def test_the_command_from_a_file_of_pairs_to_the_page(tmp_path, python):
    save_answering_model(tmp_path / "model", "llama")
    rows = [
        {"prompt_a": a, "answer_a": " w9", "prompt_b": b, "answer_b": " w10"}
        for a, b in dict.fromkeys(key_prompts(100, 3))
    ]
    (tmp_path / "keys.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    small = ("n_random=5", "n_boot=20", "seeds=[0]", "prune.n_steps=40", "prune.candidate_share=0.3")
    command = (
        str(ROOT / "scripts" / "find_circuits.py"), "model=hf:model", "task=file:keys.jsonl", "run=out", "baselines=true", "progress=false",
        *(f"circuits.find.{setting}" for setting in small),
    )  # fmt: skip
    done = python(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (task,) = report["circuits"]["tasks"]
    assert (
        task["task"].startswith("keys-") and task["gate"]["passed"] and task["status"] in ("circuit", "like_nonsense")
    )
    best = task["circuits"][0]
    assert (
        best["n_edges"]["value"] is None and best["n_nodes"]["value"] > 0 and best["raw"]["loss"]["value"] is not None
    )
    assert len(best["ablations"]) == 5 and task["baselines"][0]["method"] == "gradient x activation"
    assert "no nonsense twin of task" in task["note"], "this vocabulary has none of its words"
    assert PAIRS_SOURCE in report["circuits"]["definitions"]["means"]["source"]
    assert "no edges" in (tmp_path / "out" / "report.html").read_text()
    again = python(*command, cwd=tmp_path)
    after = json.loads((tmp_path / "out" / "report.json").read_text())["circuits"]
    assert again.returncode == 0 and after == report["circuits"], "done already: read from the disk"
    other = python(*command[:2], "task=file:keys.jsonl", "card=full", cwd=tmp_path)
    assert other.returncode == 1 and other.stderr.count("\n") == 1 and "card=full is for runs of ours" in other.stderr
    checked = python(str(ROOT / "scripts" / "verify_report.py"), "run=out", cwd=tmp_path)
    assert checked.returncode == 1 and checked.stderr.count("\n") == 1
    assert "is of a model of somebody else" in checked.stderr
