"""Exactly the settings that differ are named, whatever wrote the configs."""

from pathlib import Path

import pytest
from commands import SMOKE
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import train
from circuits.run import TrainRun
from circuits.side_by_side.compare import same_start
from circuits.side_by_side.settings import Settings, compare_settings, setting_text
from sparsetrain.entry import conf_dir, load_settings

SCHEMAS = {"trainer": TrainRun}


def written(folder: Path, *overrides: str) -> Settings:
    """The settings of a run as train.py writes them."""
    assert train.main  # importing train.py registers the base config
    folder.mkdir(parents=True, exist_ok=True)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = compose("train", overrides=[*SMOKE, "logger=none", *overrides])
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(config, resolve=False))
    return read(folder)


def read(folder: Path) -> Settings:
    raw, with_defaults = load_settings(folder, SCHEMAS)
    return Settings(written=raw, read=with_defaults)


def differing(a: Settings, b: Settings) -> dict[str, tuple[str | None, str | None]]:
    return {entry.key: (entry.a, entry.b) for entry in compare_settings(a, b).differing}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Settings:
    return written(tmp_path_factory.mktemp("plain"), "cache_dir=here")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {}),
        (["seed=3"], {"seed": ("0", "3")}),
        (["seed=3", "optim.lr_peak=0.5"], {"seed": ("0", "3"), "optim.lr_peak": ("0.012", "0.5")}),
        (["ood.survey.positions=last"], {"ood.survey.positions": ("strided", "last")}),
        (
            ["circuits.tasks=[for_while]"],
            {"circuits.tasks": ('["single_double_quote", "for_while"]', '["for_while"]')},
        ),
        (["data.d_vocab=300"], {"data.d_vocab": ("512", "300")}),  # model.d_vocab: ${data.d_vocab} follows
        (["model.d_vocab=512"], {}),  # written otherwise, the same value
        (["ood.survey=null"], {"ood.survey": None}),
        (["+data.sources.mine={kind: files, paths: [a.py]}"], {"data.sources.mine": None}),
        (["name=other", "cache_dir=there", "ckpt_path=last", "logger.project=p"], {}),
    ],
    ids=lambda value: str(value)[:40],
)
def test_exactly_the_keys_that_differ_are_named(overrides, expected, plain, tmp_path):
    found = differing(plain, written(tmp_path, *overrides))
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert values is None or found[key] == values


def test_where_a_run_was_written_is_said_apart(plain, tmp_path):
    entries = compare_settings(plain, written(tmp_path, "cache_dir=there", "name=other")).elsewhere
    assert [(entry.key, entry.a, entry.b) for entry in entries] == [
        ("name", "quickstart", "other"),
        ("cache_dir", "here", "there"),
    ]


def older(settings: Settings, folder: Path, *keys: str) -> Settings:
    """The same config as a version without these keys would have written it."""
    tree = OmegaConf.create(dict(settings.written))
    for key in keys:
        parent, _, leaf = key.rpartition(".")
        section = OmegaConf.select(tree, parent) if parent else tree
        del section[leaf]
    folder.mkdir()
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(tree, resolve=False))
    return read(folder)


def test_defaults_that_an_older_config_lacks_are_said_and_are_no_difference(plain, tmp_path):
    before = older(plain, tmp_path / "older", "model.norm_eps", "study.comparison")
    compared = compare_settings(before, plain)
    assert not compared.differing
    assert {(entry.key, entry.run) for entry in compared.lacked} == {("model.norm_eps", "a"), ("study.comparison", "a")}
    assert compared.lacked[0].value == "1e-05"
    assert {entry.run for entry in compare_settings(plain, before).lacked} == {"b"}


def test_a_value_beside_an_older_default_is_a_difference_and_said(plain, tmp_path):
    before = older(plain, tmp_path / "older", "model.norm_eps")
    compared = compare_settings(before, written(tmp_path / "now", "model.norm_eps=0.5"))
    assert [(entry.key, entry.a, entry.b) for entry in compared.differing] == [("model.norm_eps", "1e-05", "0.5")]
    assert [(entry.key, entry.run, entry.value) for entry in compared.lacked] == [("model.norm_eps", "a", "1e-05")]


def test_a_section_of_another_version_is_compared_as_it_stands(plain, tmp_path):
    text = OmegaConf.to_yaml(OmegaConf.create(dict(plain.written)), resolve=False)
    (tmp_path / "config.yaml").write_text(text.replace("  norm_eps:", "  epsilon_of_old:"))
    assert differing(read(tmp_path), plain) == {
        "model.epsilon_of_old": ("1e-05", None),
        "model.norm_eps": (None, "1e-05"),
    }


def test_secrets_of_the_environment_stay_unread(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKEN_OF_MINE", "hunter2")
    (tmp_path / "config.yaml").write_text("x: ${oc.env:TOKEN_OF_MINE}\ny: ${nowhere.to.be.found}\nz: [1, '${x}']\n")
    raw, found = load_settings(tmp_path, SCHEMAS)
    assert raw["x"] == found["x"] == "${oc.env:TOKEN_OF_MINE}" and found["y"] == "${nowhere.to.be.found}"
    assert found["z"][0] == 1 and "hunter2" not in str(found)


@pytest.mark.parametrize("content", ["a: [1, 2\nb: }", "- 1\n- 2\n", "\x00\x01\x02", "{a: 1"])
def test_a_file_that_is_no_config_is_one_line(content, tmp_path):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"config\.yaml") as error:
        load_settings(tmp_path, SCHEMAS)
    assert "\n" not in str(error.value)


def test_without_a_config_nobody_claims_that_nothing_differs(plain):
    compared = compare_settings(None, plain)
    assert not compared.differing and compared.notes == (
        "No config of a, so that nobody can say which settings differ.",
    )


@pytest.mark.parametrize(
    ("overrides", "same"),
    [
        (["sparsity.density=0.5"], True),
        (["seed=1"], False),
        (["model.d_model=96"], False),
        (["data.d_vocab=300"], False),
    ],
)
def test_which_trainings_begin_with_the_same_weights(overrides, same, plain, tmp_path):
    assert same_start(compare_settings(plain, written(tmp_path, *overrides))) is same


def test_given_weights_are_the_same_whatever_the_seed(plain, tmp_path):
    given = written(tmp_path / "a", "init_from=runs/x")
    again = compare_settings(given, written(tmp_path / "b", "init_from=runs/x", "seed=1"))
    assert same_start(again, given.read["init_from"]) is True
    assert same_start(compare_settings(plain, given)) is None, "drawn here, given there: nobody can say"


def test_values_are_written_as_a_user_would_type_them():
    typed = {"topk": "topk", "": '""', "1": '"1"', "true": '"true"', None: "null", True: "true", 0.5: "0.5"}
    assert {value: setting_text(value) for value in typed} == typed
    assert setting_text(["é", 1]) == '["é", 1]'
