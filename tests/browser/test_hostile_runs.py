"""Runs on hostile texts, with hostile names: nothing in any of their pages runs, and none asks anybody for anything."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import SMOKE, Forks
from drawing import show_all
from payloads import PAYLOADS
from report_example import KINDS, example_report, hostile

from sparsetrain.data import IdiomsSource
from sparsetrain.data.sources import Document
from sparsetrain.report.render import render

pytestmark = [pytest.mark.browser, pytest.mark.slow]

FOREIGN = "iframe, object, embed, base, form, a[href^='javascript'], main svg script, [onload], [onerror], [ontoggle], [onfocus]"
NAME = "<script>window.pwned=101</script>"


def check(open_page: Callable[..., Any], path: Path) -> None:
    """Draws everything of a page and asserts that it stayed quiet."""
    watched = open_page(path)
    show_all(watched.page)
    assert watched.page.evaluate("[window.pwned, document.title === 'pwned']") == [None, False]
    assert watched.requests == [path.as_uri()]
    assert watched.complaints == []
    assert watched.page.locator(FOREIGN).count() == 0
    policy = watched.page.locator("meta[http-equiv='Content-Security-Policy']").get_attribute("content")
    assert policy.startswith("default-src 'none'") and "unsafe-eval" not in policy and "http" not in policy


def test_there_are_fifty_and_they_would_run(open_page: Callable[..., Any], tmp_path: Path) -> None:
    assert len(set(PAYLOADS)) == len(PAYLOADS) >= 50
    (tmp_path / "careless.html").write_text("<!doctype html><body>" + "\n".join(PAYLOADS[:19]).replace("{}", "1"))
    watched = open_page(tmp_path / "careless.html")
    assert watched.page.evaluate("window.pwned") == 1


@pytest.mark.parametrize("turn", range(3))
def test_in_every_text_of_a_report(turn: int, open_page: Callable[..., Any], tmp_path: Path) -> None:
    turned = PAYLOADS[turn * 19 :] + PAYLOADS[: turn * 19]
    check(open_page, render(hostile(example_report(), turned), KINDS, tmp_path)["html"])


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of code with payloads among the lines, in a file whose name is one too."""
    folder = tmp_path_factory.mktemp("texts")
    rows = []
    for i, document in enumerate(IdiomsSource(n_chars=400_000).read()):
        assert isinstance(document, Document)
        lines = [
            f"{payload.format(i)}\n" for payload in (PAYLOADS[i % len(PAYLOADS)], PAYLOADS[(7 * i) % len(PAYLOADS)])
        ]
        rows.append({"text": lines[0] + document.text + lines[1] * 3})
    (folder / "<img src=x onerror=window.pwned=102>.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def quoted(text: object) -> str:
    """A value as Hydra takes it, whatever it holds."""
    return "'" + str(text).replace("\\", "\\\\").replace("'", "\\'") + "'"


@pytest.fixture(scope="module")
def run(python: Forks, texts: Path, corpus_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A smoke run with circuits on these texts alone."""
    run_dir = tmp_path_factory.mktemp("runs") / "<svg onload=window.pwned=103>"
    sources = f"data.sources={{mine: {{kind: files, paths: [{quoted(texts)}]}}}}"
    done = python(
        "train.py", *SMOKE, "logger=none", f"name={quoted(NAME)}", sources, f"cache_dir={corpus_cache}", f"hydra.run.dir={quoted(run_dir)}"
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return run_dir


def test_in_corpus_tokens_and_names_of_a_run(run: Path, open_page: Callable[..., Any]) -> None:
    page = (run / "report.html").read_text()
    assert "window.pwned" in page and NAME not in page
    check(open_page, run / "report.html")


def test_in_texts_and_names_of_a_measurement(
    run: Path, texts: Path, python: Forks, open_page: Callable[..., Any], tmp_path: Path
) -> None:
    (data,) = texts.iterdir()
    few = tmp_path / data.name
    few.write_text("".join(data.read_text().splitlines(keepends=True)[:40]))
    done = python(
        "scripts/measure_sparsity.py", f"model={run}", f"data={few}", "progress=false", "measure.n_examples=8", "measure.n_bootstrap=20",
        f"hydra.run.dir={tmp_path}/out",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    check(open_page, tmp_path / "out" / "report.html")


def test_in_a_comparison_of_runs(run: Path, python: Forks, open_page: Callable[..., Any], tmp_path: Path) -> None:
    done = python("scripts/compare.py", f"a={run}", f"b={run}", f"hydra.run.dir={tmp_path}/out")
    assert done.returncode == 0, done.stderr[-2000:]
    check(open_page, tmp_path / "out" / "report.html")
