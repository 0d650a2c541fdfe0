"""Naming entries of a mapping replaces the default ones, in a file as on the command line; `+` adds, a key alone changes."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import train
from circuits.run import TrainRun
from sparsetrain.data import DataConfig
from sparsetrain.entry import conf_dir, drop_defaults_, replacing
from sparsetrain.typed import from_dict, to_dict

NAMED = ("data.sources", "study.arms")
MINE = '{kind: files, weight: 1.0, paths: ["corpus/**/*.py"]}'


def config(*arguments: str, searchpath: Path | None = None) -> TrainRun:
    """As `train.py` composes it."""
    assert train.main  # importing train.py registers the base config
    overrides = replacing(arguments, NAMED)
    more = [] if searchpath is None else [f"hydra.searchpath=[file://{searchpath}]"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", overrides=[*overrides, *more])
    drop_defaults_(cfg, OmegaConf.create(to_dict(TrainRun())), NAMED, overrides)
    return from_dict(TrainRun, OmegaConf.to_container(cfg, resolve=True))


@pytest.mark.parametrize("more", [[], ["+experiment=quickstart"], ["+experiment=quickstart", "+debug=smoke"]])
def test_sources_named_on_the_command_line_replace_the_default_ones(more: list[str]) -> None:
    sources = config(*more, f"data.sources={{mine: {MINE}}}").data.sources
    assert list(sources) == ["mine"] and sources["mine"].paths == ("corpus/**/*.py",)


def test_a_default_source_may_be_named_with_others() -> None:
    sources = config(f"data.sources={{stdlib: {{kind: stdlib, max_chars: 1000}}, mine: {MINE}}}").data.sources
    assert list(sources) == ["stdlib", "mine"] and sources["stdlib"].max_chars == 1000


@pytest.mark.parametrize("more", [[], ["+debug=smoke"]])
def test_sources_named_in_an_experiment_replace_the_default_ones(tmp_path: Path, more: list[str]) -> None:
    (tmp_path / "experiment").mkdir()
    text = f"# @package _global_\ndata:\n  sources:\n    mine: {MINE}\n"
    (tmp_path / "experiment" / "own.yaml").write_text(text)
    assert list(config("+experiment=own", *more, searchpath=tmp_path).data.sources) == ["mine"]
    added = config("+experiment=own", *more, f"+data.sources.web={MINE}", searchpath=tmp_path)
    assert list(added.data.sources) == ["mine", "web"]


def test_plus_adds_a_source_and_a_key_changes_one() -> None:
    default = list(DataConfig().sources)
    assert list(config(f"+data.sources.web={MINE}").data.sources) == [*default, "web"]
    changed = config("data.sources.stdlib.max_chars=1000").data.sources
    assert list(changed) == default and changed["stdlib"].max_chars == 1000


def test_arms_of_a_study_are_named_the_same_way() -> None:
    arms = config("+experiment=familiarity", "study.arms={wide: {density: 0.5}}").study.arms
    assert list(arms) == ["wide"] and arms["wide"].density == 0.5


def test_other_settings_are_left_as_they_are() -> None:
    arguments = ["seed=1", "+data.sources.web={}", "data.sources.stdlib.weight=2", "ood.survey={n_examples: 3}"]
    assert replacing(arguments, NAMED) == arguments
