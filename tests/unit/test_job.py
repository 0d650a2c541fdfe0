"""How a run was asked for: no secret is kept, and its title says what sets it apart."""

import os

import pytest

from sparsetrain.job import RANKS, Job, command_line, is_main_process, redact, redacted


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("token=abc123", "token=<secret>"),
        ("data.sources={m: {api_key: 'a b', n: 1}}", "data.sources={m: {api_key: <secret>, n: 1}}"),
        ("+x.secret_key=a", "+x.secret_key=<secret>"),
        ("--logger.password=a", "--logger.password=<secret>"),
        ("name=hf_abcdefghijklmnopqrst", "name=<secret>"),
        ("a=ghp_0123456789abcdefghij b=1", "a=<secret> b=1"),
        ("https://me:hunter2@host/file?token=abc&page=2", "https://<secret>@host/file?token=<secret>&page=2"),
    ],
)
def test_secrets_are_blanked(text, kept):
    assert redacted(text) == kept
    assert redacted(kept) == kept, "nothing is left to blank"


@pytest.mark.parametrize(
    "text",
    [
        "n_tokens=5",
        "tokenizer=bpe",
        "positions=token",
        "token=${oc.env:HF_TOKEN}",
        "lr=0.1",
        "revision=" + "0123456789" * 4,
    ],
)
def test_what_is_no_secret_stays(text):
    assert redacted(text) == text


def test_values_of_secret_variables_are_blanked_wherever_they_stand(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "sesame-open")
    monkeypatch.setenv("DB_PASSWORD", "short")
    monkeypatch.setenv("HOME_PAGE", "not-a-secret")
    assert redacted("x=sesame-open short not-a-secret") == "x=<secret> short not-a-secret"


def test_a_tree_is_blanked_under_telling_keys_and_in_all_texts():
    tree = {
        "token": "x",
        "n": 3,
        "deep": [{"password": ["a", 5]}],
        "t": "api_key=a",
        "credentials": "${oc.env:A}",
        "empty": {"token": ""},
    }
    assert redact(tree) == {
        "token": "<secret>", "n": 3, "deep": [{"password": ["<secret>", 5]}], "t": "api_key=<secret>",
        "credentials": "${oc.env:A}", "empty": {"token": ""},
    }  # fmt: skip


def test_the_command_line_can_be_typed_again(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(tmp_path / "scripts" / "x.py"), "a=b c", "token=abc"])
    assert command_line() == f"python {os.path.join('scripts', 'x.py')} 'a=b c' 'token=<secret>'"
    monkeypatch.setattr("sys.argv", ["/somewhere/else/train.py"])
    assert command_line() == "python train.py"


def test_titles_say_what_differs():
    overrides = (
        "+experiment=quickstart",
        "cache_dir=/x",
        "sparsity.density=0.25",
        "data.paths=[" + "a" * 50 + "]",
        "~ood",
    )
    alone = Job(command="", overrides=overrides)
    assert alone.title("quickstart") == "quickstart density=0.25 paths=[" + "a" * 20 + "... ~ood"
    assert Job(command="").title("quickstart") == "quickstart"
    swept = Job(command="", overrides=overrides, varying=("seed=2", "sparsity.density=0.25"), sweep="runs/s", number=3)
    assert swept.title("quickstart") == "seed=2 density=0.25"
    assert Job(command="", sweep="runs/s", number=0).title("quickstart") == "quickstart 0"
    assert len(Job(command="", overrides=tuple(f"a.k{i}={i}" for i in range(99))).title("x")) <= 100


def test_a_job_is_kept_as_it_was_first_asked_for(tmp_path):
    first = Job(command="python train.py", overrides=("seed=1",), varying=("seed=1",), sweep="s", number=1)
    assert Job.load(tmp_path) == Job(command="")
    first.save(tmp_path)
    Job(command="again").save(tmp_path)
    assert Job.load(tmp_path) == first


@pytest.mark.parametrize(
    ("environment", "main"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, True),
        ({"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "4"}, False),
        ({"SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"SLURM_NTASKS": "4"}, True),
        ({"RANK": ""}, True),
    ],
)
def test_the_first_of_several_processes_is_the_main_one(monkeypatch, environment, main):
    for name in (*RANKS, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_main_process() is main
