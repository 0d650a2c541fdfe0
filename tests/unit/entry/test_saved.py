"""What a command takes over from the run that it works in."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from sparsetrain.entry import take_from_run_

HERE = {
    "run": "",
    "circuits": {
        "most": 0,
        "find": {"gate": True, "seeds": [0, 1], "prune": {"n_steps": 100}, "margin": 0.8, "note": ""},
    },
}
NOTE = {"note": "${oc.env:NOBODY_HAS_SET_THIS}"}  # no secret is read
RUN = """
circuits:
  most: 6
  find:
    gate: false
    seeds: [3]
    note: ${oc.env:NOBODY_HAS_SET_THIS}
    prune: {n_steps: 5}
    a_key_of_another_version: 1
    margin: ${half}
half: 0.5
"""


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ([], {"gate": False, "seeds": [3], "prune": {"n_steps": 5}, "margin": 0.5, **NOTE}),
        (
            ["circuits.find.gate=true", "circuits.find.prune.n_steps=7", "other=1"],
            {"gate": True, "seeds": [3], "prune": {"n_steps": 7}, "margin": 0.5, **NOTE},
        ),
        (
            ["circuits={find:{margin:0.1},most:3}", "~circuits.find.gate"],
            {"gate": False, "seeds": [3], "prune": {"n_steps": 5}, "margin": 0.1, **NOTE},
        ),
        (
            ["circuits.find.seeds=[1,2]"],
            {"gate": False, "seeds": [1, 2], "prune": {"n_steps": 5}, "margin": 0.5, **NOTE},
        ),
    ],
)
def test_the_run_s_values_hold_but_for_what_was_typed(tmp_path: Path, typed: list[str], expected: object) -> None:
    (tmp_path / "config.yaml").write_text(RUN)
    config = OmegaConf.create(HERE)
    OmegaConf.set_struct(config, True)
    take_from_run_(config, ["circuits.find", "circuits.n_windows"], tmp_path, typed)
    assert OmegaConf.to_container(config.circuits) == {"most": 0, "find": expected}


def test_a_folder_without_a_config_has_nothing_to_give(tmp_path: Path) -> None:
    config = OmegaConf.create(HERE)
    take_from_run_(config, ["circuits.find"], tmp_path, [])
    (tmp_path / "config.yaml").write_text("name: of another kind")
    take_from_run_(config, ["circuits.find"], tmp_path, [])
    assert config == HERE
