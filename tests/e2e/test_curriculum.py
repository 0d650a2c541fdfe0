"""scripts/curriculum.py on tiny models built on the spot and on one that ships: what it leaves, what it leaves out, and every mistake as one line."""

import csv
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from sparsetrain.adapters import load_language_model
from sparsetrain.curriculum import prompting, scoring
from sparsetrain.report import parse_report
from sparsetrain.report.sections import KINDS
from sparsetrain.representation.measures import MEASURES

pytest.importorskip("transformers", reason="other people's models need transformers (extra: hub)")
from commands import in_process
from gguf_example import write_gguf
from hub_example import WORDS, hub_model, save_answering_model, save_hub_model, save_tokenizer

SCRIPT = "scripts/curriculum.py"
SMALL = ["interval.n_bootstrap=50", "choice.n_draws=2", "choice.n_retrieved=8", "device=cpu", "progress=false"]
WORDING = "wording.example=w1 {question} w2 {answer} "
LETTERS = "wording.example= a {question} b {answer} "
FILES = {"report.json", "report.md", "report.html", "ordering.csv", "ordering.jsonl", "config.yaml"}


def rows(n: int, seed: int, word=lambda i: f"w{i}") -> list[dict[str, object]]:
    """Questions of one to five words, each another, with a difficulty that is their number."""
    rng = random.Random(seed)
    made: dict[str, dict[str, object]] = {}
    while len(made) < n:
        size = rng.randint(1, 5)
        question = " ".join(word(rng.randrange(20)) for _ in range(size))
        made[question] = {"question": question, "answer": word(rng.randrange(20)), "difficulty": size}
    return list(made.values())


def write(path: Path, found: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    return save_hub_model(tmp_path_factory.mktemp("hub") / "model", "llama")


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("pool") / "pool.jsonl", rows(24, 0))


@pytest.fixture(scope="module")
def test(tmp_path_factory) -> Path:
    """Questions, the first two of which stand in the pool."""
    return write(tmp_path_factory.mktemp("test") / "test.jsonl", [*rows(24, 0)[:2], *rows(8, 5)])


@pytest.fixture
def rank(tmp_path, capsys):
    """Runs the script in this process; returns the run's folder, or the one line of an error."""

    def run(*arguments: str, out: str = "run") -> Path | str:
        settings = [f"cache_dir={tmp_path}/cache", f"hydra.run.dir={tmp_path}/{out}", WORDING, *SMALL]
        given = [argument.split("=")[0] for argument in arguments]
        capsys.readouterr()
        try:
            in_process(SCRIPT, *arguments, *(s for s in settings if s.split("=")[0] not in given))
        except SystemExit as stop:
            assert stop.code == 1
            said = [
                line for line in capsys.readouterr().err.splitlines() if not line.startswith(("left out", "... and"))
            ]
            assert len(said) == 1 and said[0].startswith("error: "), said
            return said[0]
        return tmp_path / out

    return run


def section_of(out: Path) -> dict:
    report = json.loads((out / "report.json").read_text())
    assert parse_report(report, KINDS).plain() == report
    return report["curriculum"]


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def gguf(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / "tiny.gguf")
    return folder / "tiny.gguf"


def letter(i: int) -> str:
    return chr(ord("c") + i)


def sizes(arms: list[dict]) -> dict[str, float]:
    return {arm["name"]: arm["accuracy"]["value"] for arm in arms}


def test_ranking_and_comparison_of_a_hub_model(hub, pool, test, rank):
    out = rank(f"model=hf:{hub}", f"pool={pool}", f"test={test}")
    assert {path.name for path in out.iterdir()} >= FILES | {"answers.csv"}
    section, ordering = section_of(out), table(out / "ordering.csv")
    assert section["n_pool"] == 24 == len(ordering) and section["n_skipped"] == 0 and section["n_tokens"] == 64
    measured = [float(row["sparsity"]) for row in ordering]
    assert measured == sorted(measured) and [int(row["rank"]) for row in ordering] == list(range(24))
    assert [int(row["level"]) for row in ordering] == [rank * 5 // 24 for rank in range(24)]
    assert [entry["n"] for entry in section["levels"]] == [5, 5, 5, 5, 4]
    comparison = section["comparison"]
    assert comparison["n_asked"] == 10 and comparison["n_same"] == 2, "two questions stand in the pool"
    answers = table(out / "answers.csv")
    assert len(answers) == 10 * len(comparison["arms"]) and len(comparison["arms"]) == 12
    for arm in comparison["arms"]:
        right = [float(row["right"]) for row in answers if row["arm"] == arm["name"]]
        assert arm["accuracy"]["value"] == pytest.approx(np.mean(right)) and arm["accuracy"]["n"] == 10
        assert 0 <= arm["accuracy"]["lo"] <= arm["accuracy"]["value"] <= arm["accuracy"]["hi"] <= 1
        assert (arm["gain"] is not None) == bool(arm["control"]) == (arm["word"] is not None)
    by_name = {arm["name"]: arm for arm in comparison["arms"]}
    for name, arm in by_name.items():
        if arm["control"]:
            gain = arm["accuracy"]["value"] - by_name[arm["control"]]["accuracy"]["value"]
            assert arm["gain"]["value"] == pytest.approx(gain), name
    page = (out / "report.html").read_text()
    assert "Does the order help?" in page and "The ranked pool" in page and rows(24, 0)[0]["question"] in page


def test_what_a_model_knows_is_answered_and_without_a_known_difficulty_no_arm_is_sorted_by_it(
    tmp_path, pool, test, rank
):
    save_answering_model(tmp_path / "hub", "gpt2")
    found = [{"question": f"w{20 + i} w{i % 2} w{25 + i} w{30 + i}", "answer": f"w{9 + i % 2}"} for i in range(12)]
    write(tmp_path / "pool.jsonl", found)
    more = [{"question": f"w{40 + i} w{i % 2} w{41 + i} w{42 + i}", "answer": f"w{9 + i % 2}"} for i in range(12)]
    write(tmp_path / "test.jsonl", more)
    out = rank(
        f"model=hf:{tmp_path}/hub",
        f"pool={tmp_path}/pool.jsonl",
        f"test={tmp_path}/test.jsonl",
        "wording.example={question} w4 {answer} ",
    )
    answered = {row["question"]: row["correct"] for row in table(out / "ordering.csv")}
    assert set(answered.values()) == {"1"}, "it answers every example of the pool without demonstrations"
    arms = sizes(section_of(out)["comparison"]["arms"])
    assert arms["zero_shot"] == 1 and len(arms) == 10, "no difficulty is known, so that no arm is sorted by it"


def test_ranking_alone_can_be_read_as_a_pool_again(hub, pool, rank):
    out = rank(f"model=hf:{hub}", f"pool={pool}")
    assert {path.name for path in out.iterdir()} >= FILES and not (out / "answers.csv").exists()
    section = section_of(out)
    assert section.get("comparison") is None and {"difficulty", "difficulty given loss"} <= set(section["correlations"])
    first = [json.loads(line) for line in (out / "ordering.jsonl").read_text().splitlines()]
    assert {frozenset(row) for row in first} == {
        frozenset({"question", "answer", "difficulty", "rank", "level", "sparsity", "loss"})
    }
    again = rank(f"model=hf:{hub}", f"pool={out}/ordering.jsonl", out="again")
    second = [json.loads(line) for line in (again / "ordering.jsonl").read_text().splitlines()]
    assert [row["question"] for row in first] == [row["question"] for row in second]


def test_a_gguf_file(gguf, tmp_path, rank, monkeypatch):
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(tmp_path / "converted"))
    write(tmp_path / "pool.jsonl", rows(16, 1, letter))
    write(tmp_path / "test.jsonl", rows(5, 2, letter))
    out = rank(f"model=gguf:{gguf}", f"pool={tmp_path}/pool.jsonl", f"test={tmp_path}/test.jsonl", LETTERS)
    section = section_of(out)
    assert section["model"]["architecture"] == "LlamaForCausalLM" and section["comparison"]["n_asked"] == 5
    assert len(table(out / "ordering.csv")) == section["n_pool"] == 16


@pytest.mark.parametrize("name", ["zoo:python-hour", "run:{copy}", "{copy}"])
def test_models_of_ours(name, tmp_path, rank):
    from sparsetrain.shipped import shipped_folder

    found = [{"question": f"for {a} in", "answer": "range"} for a in ("x", "i", "item", "key")]
    found += [{"question": f"print({a}", "answer": ")"} for a in ("x", "i", "item")]
    path = write(tmp_path / "pool.jsonl", found)
    model = name.format(copy=shipped_folder("zoo:python-hour"))
    out = rank(f"model={model}", f"pool={path}", r"wording.example={question} {answer}\n")
    section = section_of(out)
    assert section["model"]["name"] == model and section["n_pool"] == 7 and section["example"].endswith("{answer}\n")


@pytest.mark.parametrize("kind", ["hub", "gguf"])
def test_scores_do_not_depend_on_batches_or_on_the_side_of_padding(kind, hub, gguf, tmp_path, rank, monkeypatch):
    monkeypatch.setenv("SPARSETRAIN_CACHE", str(tmp_path / "converted"))
    if kind == "hub":
        name, found, wording, front, between = f"hf:{hub}", rows(13, 3), WORDING, "w1", "w2"
    else:
        name, found, wording, front, between = f"gguf:{gguf}", rows(13, 3, letter), LETTERS, " a", "b"
    path = write(tmp_path / "pool.jsonl", found)
    scored: list[dict[str, tuple[float, float]]] = []
    for size in (1, 3, 8):
        out = rank(f"model={name}", f"pool={path}", wording, f"batch_size={size}", f"cache_dir={tmp_path}/cache_{size}", out=f"run_{size}")  # fmt: skip
        scored.append(
            {row["question"]: (float(row["sparsity"]), float(row["loss"])) for row in table(out / "ordering.csv")}
        )
    for other in scored[1:]:
        assert other.keys() == scored[0].keys()
        assert all(other[key] == pytest.approx(scored[0][key], abs=1e-5) for key in other)

    model = load_language_model(name, device="cpu")
    llama, tokenizer = model.module.hub, model.tokenizer
    asked = [tokenizer.encode(f"{front} {row['question']} {between}") for row in found]
    whole = [tokenizer.encode(f"{front} {row['question']} {between} {row['answer']}") for row in found]
    longest = max(map(len, whole))
    tokens, seen = torch.zeros(13, longest, dtype=torch.int64), torch.zeros(13, longest, dtype=torch.int64)
    for i, ids in enumerate(whole):  # filled up on the left
        tokens[i, longest - len(ids) :], seen[i, longest - len(ids) :] = torch.tensor(ids), 1
    kept: list[torch.Tensor] = []
    handle = llama.model.norm.register_forward_pre_hook(lambda module, args: kept.append(args[0]))
    with torch.no_grad():
        logits = llama(input_ids=tokens, attention_mask=seen, position_ids=(seen.cumsum(-1) - 1).clamp_min(0)).logits
    handle.remove()
    for i, (row, question, ids) in enumerate(zip(found, asked, whole, strict=True)):
        at = longest - len(ids) + len(question) - 1
        h = kept[0][i, at]
        h = h * torch.rsqrt(h.square().mean() + llama.model.norm.variance_epsilon)
        n_answer = len(ids) - len(question)
        predicted = logits[i, at : at + n_answer].log_softmax(-1)
        loss = -predicted[torch.arange(n_answer), torch.tensor(ids[-n_answer:])].mean()
        expected = (float(MEASURES["gini"].fn(h[None])[0]), float(loss))
        assert scored[0][row["question"]] == pytest.approx(expected, abs=1e-5), row


class Killed(RuntimeError):
    """Stands for a process that ends in the middle."""


def stopping_after(n: int, through):
    """The function, n times; then never again."""
    calls: list[object] = []

    def call(*args, **kwargs):
        calls.append(args)
        if len(calls) > n:
            raise Killed("killed")
        return through(*args, **kwargs)

    return call, calls


def test_an_interrupted_run_goes_on_where_it_stopped(hub, pool, test, rank, monkeypatch, tmp_path):
    words = (f"model=hf:{hub}", f"pool={pool}", f"test={test}", "batch_size=4")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with monkeypatch.context() as patch:  # in the middle of the scores: 34 examples are 9 batches
        stop, _ = stopping_after(5, scoring.question_vectors)
        patch.setattr(scoring, "question_vectors", stop)
        with pytest.raises(Killed):
            rank(*words, out="first")
    with monkeypatch.context() as patch:
        count, read = stopping_after(99, scoring.question_vectors)
        patch.setattr(scoring, "question_vectors", count)
        stop, asked = stopping_after(3, prompting.Prompts)  # in the middle of the answers
        patch.setattr(prompting, "Prompts", stop)
        with pytest.raises(Killed):
            rank(*words, out="second")
        assert len(read) == 9 - 5 and len(asked) == 4
    report = json.loads((tmp_path / "second" / "report.json").read_text())
    assert report["curriculum"].get("comparison") is None and report["missing"][0]["stage"] == "comparison"
    count, asked = stopping_after(10**6, prompting.Prompts)
    with monkeypatch.context() as patch:
        patch.setattr(prompting, "Prompts", count)
        patch.setattr(scoring, "question_vectors", stopping_after(0, scoring.question_vectors)[0])
        out = rank(*words, out="third")
    n_batches = -(-section_of(out)["comparison"]["n_prompts"] // 4)
    assert len(asked) == n_batches - 3, "three batches were answered before"
    straight = rank(*words, f"cache_dir={tmp_path}/other", out="straight")
    for name in ("ordering.csv", "ordering.jsonl", "answers.csv"):
        assert (out / name).read_bytes() == (straight / name).read_bytes()


def test_rows_that_cannot_be_used_are_named_and_the_others_kept(hub, pool, test, rank, tmp_path, capsys):
    good = pool.read_text().splitlines()
    odd = [
        "torn {", "7", "[]", '"only text"', '{"question": "w3"}', '{"question": "w3", "answer": 4}', '{"question": null, "answer": "w4"}', '{"question": " ", "answer": "w4"}',
        '{"question": "w3", "answer": ""}', '{"question": "w3", "answer": "w4", "difficulty": "hard"}', '{"question": "w3", "answer": "w4", "difficulty": true}',
        '{"question": "w3", "answer": "w4", "difficulty": NaN}', '{"question": "w3", "answer": "nowhere"}', json.dumps({"question": "w3 " * 80, "answer": "w4"}), good[0],
    ]  # fmt: skip
    path = tmp_path / "odd.jsonl"
    path.write_text("\n".join([*good[:5], *odd, *good[5:]]) + "\n")
    rank(f"model=hf:{hub}", f"pool={path}", f"test={test}")
    section = section_of(tmp_path / "run")
    assert section["n_pool"] == 24 and section["n_skipped"] == len(odd) and section["n_known"] == 24
    reasons = {int(place.rpartition(":")[2]): reason for place, reason in section["skipped"].items()}
    assert sorted(reasons) == list(range(6, 6 + len(odd)))
    told = [
        "not JSON", "the row is a number", "the row is a list", "no text in field 'answer' (there is none)", "no text in field 'answer' (there is none)", "it is 4; put it into quotes",
        "no text in field 'question' (it is null)", "nothing in field 'question'", "nothing in field 'answer'", "difficulty='hard' is no number", "difficulty=True is no number",
        "difficulty=nan is no number", "the answer has a token that the tokenizer does not know", "the question alone is longer than the budget",
        f"the same question and answer as {path}:1",
    ]  # fmt: skip
    assert all(words in reasons[6 + i] for i, words in enumerate(told)), reasons
    err = capsys.readouterr().err
    said = [line for line in err.splitlines() if line.startswith(("left out", "... and"))]
    assert len(said) == 6 and f"{path}:6: not JSON" in said[0] and said[-1] == "... and 10 more"
    assert "15 rows of pool left out" in (tmp_path / "run" / "report.html").read_text()
    whole = rank(f"model=hf:{hub}", f"pool={pool}", f"test={test}", out="whole")
    assert [r["question"] for r in table(whole / "ordering.csv")] == [
        r["question"] for r in table(tmp_path / "run" / "ordering.csv")
    ]


def test_demonstrations_without_room_are_dropped_whole_and_counted(hub, pool, test, rank):
    short = rank(f"model=hf:{hub}", f"pool={pool}", f"test={test}", "n_tokens=18")
    arms = {arm["name"]: arm["n_dropped"] for arm in section_of(short)["comparison"]["arms"]}
    assert arms.pop("zero_shot") == 0 and all(n > 0 for n in arms.values()), arms
    page = (short / "report.md").read_text()
    assert f"demonstrations dropped: **{sum(arms.values())}**" in page


def test_some_difficulties_are_none_and_few_examples_tell_no_correlation(hub, tmp_path, rank):
    found = rows(4, 0)
    del found[0]["difficulty"]
    path = write(tmp_path / "pool.jsonl", found)
    section = section_of(rank(f"model=hf:{hub}", f"pool={path}", "choice.n_levels=2"))
    assert section["n_known"] == 3 and "difficulty" not in section["correlations"]
    write(tmp_path / "pool.jsonl", rows(2, 0))
    few = rank(f"model=hf:{hub}", f"pool={path}", "choice.n_levels=2", "choice.n_shown=1", out="few")
    assert section_of(few)["correlations"]["loss"]["note"] == "it takes 3 examples"
    assert "is not known (it takes 3 examples)" in (few / "report.md").read_text()


def test_a_csv_with_other_names(hub, tmp_path, rank):
    lines = ["prompt,label,steps", *(f"{r['question']},{r['answer']},{r['difficulty']}" for r in rows(8, 0))]
    (tmp_path / "pool.csv").write_text("\n".join(lines))
    names = ("fields.question=prompt", "fields.answer=label", "fields.difficulty=steps")
    out = rank(f"model=hf:{hub}", f"pool={tmp_path}/pool.csv", *names)
    first = json.loads((out / "ordering.jsonl").read_text().splitlines()[0])
    assert section_of(out)["n_known"] == 8 and {"prompt", "label", "steps"} <= set(first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "model= is missing"),
        (["model=hf:{hub}"], "pool= is missing"),
        (["model=hf:{hub}", "pool={tmp}/none.jsonl"], "no such text file: {tmp}/none.jsonl"),
        (["model=hf:{hub}", "pool={tmp}/empty.jsonl"], "no example in pool={tmp}/empty.jsonl: it has no row"),
        (["model=hf:{hub}", "pool={tmp}/torn.jsonl"], "all 2 rows are left out, the first {tmp}/torn.jsonl:1: not JSON"),
        (["model=hf:{hub}", "pool={pool}", "test={tmp}/torn.jsonl"], "no example in test={tmp}/torn.jsonl"),
        (["model=hf:{hub}", "pool={tmp}/three.jsonl"], "choice.n_shown=4, but the pool has 3 usable examples; lower it or give a larger pool"),
        (["model=hf:{hub}", "pool={tmp}/three.jsonl", "choice.n_shown=2"], "choice.n_levels=5, but the pool has 3 usable examples"),
        (["model=hf:{hub}", "pool={tmp}/three.jsonl", "test={tmp}/three.jsonl", "choice.n_shown=3", "choice.n_levels=2"], "choice.n_shown=3, but of the pool's 3 examples 1 have the question of {tmp}/three.jsonl:"),
        (["model=hf:{hub}", "pool={pool}", "test={tmp}/one.jsonl"], "one usable question, which has no interval"),
        (["model=hf:{hub}", "pool={pool}", "n_tokens=65"], "n_tokens=65, but the model reads 64 positions; give n_tokens=64 or less"),
        (["model=hf:{hub}", "pool={pool}", "n_tokens=1"], "n_tokens=1 must be at least 2"),
        (["model=hf:{hub}", "pool={pool}", "n_tokens=3"], "all 24 rows are left out, the first {pool}:1: the question alone is longer than the budget"),
        (["model=hf:{hub}", "pool={pool}", "score.measure=ginni"], "'ginni' is no measure"),
        (["model=hf:{hub}", "pool={pool}", "score.hook_point=final_norm.hook_nrom"], "no hook point named 'final_norm.hook_nrom'"),
        (["model=hf:{hub}", "pool={pool}", "score.similarity=cosine"], "similarity='cosine' must be model or hf:"),
        (["model=hf:{hub}", "pool={pool}", "score.similarity=hf:{tmp}/nowhere"], "similarity=hf:{tmp}/nowhere: no such folder"),
        (["model=hf:{hub}", "pool={pool}", "wording.example={{question}}"], "must have {{question}} and then {{answer}}"),
        (["model=hf:{hub}", "pool={pool}", "interval.margin=0"], "margin=0"),
        (["model=hf:{hub}", "pool={pool}", "fields.answer=question"], "three different fields"),
        (["model=hf:{hub}", "pool={pool}", "choice.n_shwon=3"], "did you mean choice.n_shown"),
        (["model=hf:{tmp}/untold", "pool={pool}"], "model=hf:{tmp}/untold could not be loaded: there is no tokenizer beside the model"),
        (["model={tmp}/silent", "pool={pool}"], "no tokenizer at {tmp}/silent/export/step_5/tokenizer.json"),
        (["model=run:{tmp}/nowhere", "pool={pool}"], "model={tmp}/nowhere: no such folder; give the folder of a finished run"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(arguments, message, hub, pool, tmp_path, make_model, rank):
    from sparsetrain.export import export_model

    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "torn.jsonl").write_text("torn {\n7\n")
    write(tmp_path / "three.jsonl", rows(3, 0))
    write(tmp_path / "one.jsonl", rows(1, 7))
    if "untold" in str(arguments):
        hub_model("llama").save_pretrained(tmp_path / "untold")
    if "silent" in str(arguments):
        export_model(make_model(), tmp_path / "silent" / "export" / "step_5", "{}", {"step": 5})
        (tmp_path / "silent" / "export" / "step_5" / "tokenizer.json").unlink()
    places = {"hub": hub, "pool": pool, "tmp": tmp_path}
    error = rank(*(argument.format(**places) for argument in arguments))
    assert isinstance(error, str) and message.format(**places) in error, error


def test_a_sentence_encoder_says_what_is_alike(hub, pool, test, tmp_path, rank):
    import transformers

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(vocab_size=len(WORDS), max_position_embeddings=32, **sizes)
    transformers.BertModel(config).save_pretrained(tmp_path / "encoder")
    save_tokenizer(tmp_path / "encoder", WORDS, pad_token="[UNK]")
    out = rank(f"model=hf:{hub}", f"pool={pool}", f"test={test}", f"score.similarity=hf:{tmp_path}/encoder")
    own = rank(f"model=hf:{hub}", f"pool={pool}", f"test={test}", out="own")
    assert section_of(out)["similarity"] == f"hf:{tmp_path}/encoder"
    assert (out / "ordering.csv").read_bytes() == (own / "ordering.csv").read_bytes(), "sparsity is the model's"
    assert (out / "answers.csv").read_bytes() != (own / "answers.csv").read_bytes(), "what is shown is not the same"


def test_help_tells_what_to_type(capsys):
    with pytest.raises(SystemExit) as stop:
        in_process(SCRIPT, "--help")
    assert not stop.value.code
    words = capsys.readouterr().out
    assert "model=hf:<folder or hub name> pool=<file.jsonl>" in words and "n_retrieved: 20" in words
