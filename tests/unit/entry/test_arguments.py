"""What a person types arrives as it was typed: prompts and paths of any characters, and what Hydra refuses with the form that works."""

import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import OverrideParseException
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from sparsetrain.entry.arguments import in_quotes, quoted_form, read_literally
from sparsetrain.entry.failures import explain

BASE = {"prompt": "", "data": "", "cache_dir": "~/.cache", "ckpt_path": None, "seed": 0, "optim": {"lr_peak": 0.1}}
ODD = [
    "~/x",
    "lr=0.1",
    "my [draft] data=v2 (copy)/x.txt",
    "папка/текст",
    "a#b;c!d&e<f>",
    "it's",
    'say "x"',
    "a\\b\\",
    "[a",
    "{",
    ")",
]


def composed(*typed: str, literal: tuple[str, ...] = ("prompt", "data"), lists: tuple[str, ...] = ("data",)) -> dict:
    """What a command gets of its arguments: read by Hydra's grammar, resolved by OmegaConf."""
    config = OmegaConf.create(BASE)
    for override in OverridesParser.create().parse_overrides(list(read_literally(typed, literal, lists, BASE))):
        OmegaConf.update(config, override.key_or_group, override.value())
    return OmegaConf.to_container(config, resolve=True)  # pyright: ignore[reportReturnType]


@given(
    st.text(alphabet=st.sampled_from(list("ab\\\\'\"${}[]=,:#~() \n\tжa")) | st.characters(exclude_categories=["Cs"]))
)
def test_any_prompt_arrives_as_it_was_typed(text):
    if len(text) < 2 or text.strip()[:1] not in ("'", '"'):
        assert composed(f"prompt={text}")["prompt"] == text


@pytest.mark.parametrize("text", ['print("${x}")', "${seed}", "\\${x}", "$\\{x}", "null", "1e5", "true", "[1, 2]", "a,b", "${oc.env:HOME}", "# x"])  # fmt: skip
def test_nothing_in_a_prompt_has_a_meaning(text):
    assert composed(f"prompt={text}")["prompt"] == text


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (r'"print(\"red fox"', 'print("red fox'),
        ("'a b'", "a b"),
        ('"say ${x}"', "say ${x}"),
        (r'"say \${x}"', "say ${x}"),
    ],
)
def test_a_prompt_may_stand_in_quotes(typed, text):
    assert composed(f"prompt={typed}")["prompt"] == text


def test_a_list_of_paths_is_a_list_unless_it_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert composed("data=[a.txt,b.txt]")["data"] == ["a.txt", "b.txt"]
    Path("[draft]").mkdir()
    assert composed("data=[draft]")["data"] == "[draft]"
    assert composed("data=a,b=c.txt")["data"] == "a,b=c.txt"


@pytest.mark.parametrize("text", ODD)
def test_text_that_the_grammar_refuses_is_text_where_the_key_takes_text(text):
    assert composed(f"cache_dir={text}", f"ckpt_path={text}") == {**BASE, "cache_dir": text, "ckpt_path": text}


def test_what_the_grammar_reads_keeps_its_meaning():
    assert composed("ckpt_path=null", "cache_dir=${seed}", "seed=3")["cache_dir"] == 3
    typed = ["-m", "prompt=a,b", "seed=1,2", "data=x.txt", "--cfg=job"]
    assert list(read_literally(typed, ("prompt", "data"), ("data",), BASE)) == typed


@pytest.mark.parametrize("text", ["[1", "a=b", "print('x", 'say "x', "(", "it's"])
def test_the_form_that_the_error_shows_works(text):
    typed = f"optim.lr_peak={text}"
    assert list(read_literally([typed], (), (), BASE)) == [typed], "a number's value is not made text"
    with pytest.raises(OverrideParseException) as refused:
        OverridesParser.create().parse_overrides([typed])
    line = explain(refused.value, [])
    assert "\n" not in line and line.endswith(quoted_form(typed))
    (word,) = shlex.split(line.partition("write it as ")[2])
    assert OverridesParser.create().parse_override(word).value() == text


@pytest.mark.parametrize("text", ODD)
def test_quoting_keeps_interpolations_where_they_mean_something(text):
    key = f"hydra.run.dir={text}/${{name}}"
    (read,) = read_literally([key], (), (), BASE)
    assert read in (key, f"hydra.run.dir={in_quotes(f'{text}/${{name}}')}")
    assert OmegaConf.create({"name": "n", "x": OverridesParser.create().parse_override(read).value()}).x == f"{text}/n"
