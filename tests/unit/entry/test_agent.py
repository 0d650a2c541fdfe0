"""The exact argument lists that a W&B agent passes become overrides that Hydra composes; Hydra's own options stay as they are."""

import json

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from omegaconf import OmegaConf
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

import train
from circuits.run import TrainRun
from sparsetrain.entry import conf_dir
from sparsetrain.entry.agent import FLAGS, VALUES, translated
from sparsetrain.entry.arguments import replacing
from sparsetrain.typed import from_dict

NAMED = ("data.sources", "study.arms")
PARAMETERS = {
    "seed": 3,
    "optim.lr_peak": 1e-05,
    "trainer.compile": True,
    "model.bigram": False,
    "stop_at_step": None,
    "name": "my run, the first",
    "ood.tracker.points": ["final_norm.hook_norm", "blocks.0.mlp.hook_neurons"],
    "sparsity": {"density": 0.25, "floor": 2},
    "data.sources": {"mine": {"kind": "files", "weight": 1.0, "paths": ["corpus/**/*.py"]}},
}
LISTS = create_sweep_command_args({"args": {key: {"value": value} for key, value in PARAMETERS.items()}})
"""Macro -> arguments, by W&B itself."""


def test_what_wandb_passes():
    """The lists are W&B's; a change there should be seen here first."""
    assert LISTS["args"] == [
        "--seed=3", "--optim.lr_peak=1e-05", "--trainer.compile=True", "--model.bigram=False", "--stop_at_step=None",
        "--name=my run, the first", "--ood.tracker.points=['final_norm.hook_norm', 'blocks.0.mlp.hook_neurons']",
        "--sparsity={'density': 0.25, 'floor': 2}",
        "--data.sources={'mine': {'kind': 'files', 'weight': 1.0, 'paths': ['corpus/**/*.py']}}",
    ]  # fmt: skip
    assert LISTS["args_no_equals"][:6] == ["--seed", "3", "--optim.lr_peak", "1e-05", "--trainer.compile", "True"]
    assert LISTS["args_no_boolean_flags"][:4] == [
        "--seed=3",
        "--optim.lr_peak=1e-05",
        "--trainer.compile",
        "--stop_at_step=None",
    ]
    assert LISTS["args_no_hyphens"][:3] == ["seed=3", "optim.lr_peak=1e-05", "trainer.compile=True"]
    assert LISTS["args_override_hydra"][0] == "++seed=3" and LISTS["args_append_hydra"][0] == "+seed=3"
    assert json.loads(LISTS["args_json"][0]) == PARAMETERS


def composed(arguments: list[str], *, by_agent: bool = True) -> TrainRun:
    assert train.main  # importing train.py registers the base config
    overrides = replacing(translated(arguments, NAMED, by_agent=by_agent), NAMED)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", overrides=overrides)
    return from_dict(TrainRun, OmegaConf.to_container(cfg, resolve=True))


@pytest.mark.parametrize(
    "macro",
    [
        "args",
        "args_no_equals",
        "args_no_boolean_flags",
        "args_no_hyphens",
        "args_override_hydra",
        "args_json",
        "args_json_file",
    ],
)
def test_every_form_composes_to_the_same(macro, tmp_path):
    path = tmp_path / "config-a=b.json"
    path.write_text(LISTS["args_json"][0])
    arguments = [str(path)] if macro == "args_json_file" else LISTS[macro]
    if macro == "args_override_hydra":  # `data.sources` given whole is no matter of ++
        arguments = [argument for argument in arguments if not argument.startswith("++data.sources")]
        arguments.append(LISTS["args"][-1])
    config = composed(["+experiment=quickstart", *arguments])
    assert config.seed == 3 and config.optim.lr_peak == 1e-05 and config.trainer.compile and config.stop_at_step is None
    assert config.model.bigram is (macro == "args_no_boolean_flags"), (
        "a false flag is left out there: the default stays"
    )
    assert config.name == "my run, the first"
    assert config.ood.tracker.points == ("final_norm.hook_norm", "blocks.0.mlp.hook_neurons")
    assert config.sparsity.density == 0.25 and config.sparsity.floor == 2
    assert list(config.data.sources) == ["mine"] and config.data.sources["mine"].paths == ("corpus/**/*.py",)


@pytest.mark.parametrize(
    "arguments",
    [
        ["-m", "seed=1,2", "sparsity.density=choice(0.1,0.2)"],
        ["--multirun", "+experiment=quickstart", "hydra/launcher=joblib"],
        ["--cfg", "job"],
        ["--cfg=job", "--resolve", "--package", "model"],
        ["--help"],
        ["--hydra-help"],
        ["--info", "plugins"],
        ["--config-dir=/some/where", "-cn", "other"],
        ["--config-name", "other", "--version"],
        ["--experimental-rerun", "runs/x/job.pickle"],
        ["prompt=print({'a': 1})", "a.b=None", "~ood", "+data.sources.x={kind: files}", "x='{a}'"],
        ["missing.json", "-r"],
    ],
)
def test_what_a_person_types_stays(arguments):
    assert translated(arguments, NAMED, by_agent=False) == arguments


def test_hydras_long_options_are_all_known():
    actions = [action for action in get_args_parser()._actions if action.option_strings]
    alone = {action.option_strings[0] for action in actions if action.nargs in (0, "?")}
    valued = {action.option_strings[0] for action in actions if action.nargs != 0}
    assert (alone, valued) == (FLAGS, VALUES)


@pytest.mark.parametrize(
    ("arguments", "overrides"),
    [
        (["--x=-1"], ["x=-1"]),
        (["--x", "-1"], ["x=-1"]),
        (["--flag", "+experiment=a"], ["flag=true", "+experiment=a"]),
        (["--flag", "--other", "text"], ["flag=true", "other=text"]),
        (["--run=runs/a", "--+experiment=a"], ["run=runs/a", "+experiment=a"]),
        (["--x=a b"], ['x="a b"']),
        (["--x='a b'"], ["x='a b'"]),
        (["-m", "--x=1,2"], ["-m", "x=1,2"]),
        (["--x=${oc.env:HOME}"], ["x=${oc.env:HOME}"]),
        (["--x={}"], ["x={}"]),
        (["--x=['no', 'a-b', '1', None, 0.5]"], ['x=["no",a-b,"1",null,0.5]']),
        (['{"a": {"b": "x"}, "c": "true", "d": "5"}'], ["a.b=x", 'c="true"', 'd="5"']),
    ],
)
def test_values(arguments, overrides):
    assert translated(arguments, (), by_agent=False) == overrides


@pytest.mark.parametrize(("text", "message"), [("{broken", "cannot be read"), ("[1]", "holds a list")])
def test_a_file_that_is_no_object_is_one_line(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        translated([str(tmp_path / "a.json")], (), by_agent=True)
