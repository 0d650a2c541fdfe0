"""Claims of the study of image networks, on networks whose insides are known: what differs is said to, what does not is not."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch

from circuits.fracture.images.gallery import GALLERY
from circuits.fracture.images.imitation import apart
from circuits.fracture.images.perturbed import KINDS
from circuits.fracture.images.readings import NetworkReadings, ReadingConfig, read_networks
from circuits.fracture.images.sheets import COLUMNS, GAP, LABEL, N_FOREMOST, SIDE, drawn, foremost, named_rows
from circuits.fracture.images.stored import loaded, stored
from circuits.fracture.images.study import (
    COMPOSED,
    DENSE,
    DUPLICATED,
    N_COPIES,
    OTHERS,
    PERMUTED,
    PRUNED,
    ROTATED,
    SPARSE,
    SPLIT,
    FractureImagesStudy,
    ImageStudyConfig,
    composed,
    equal,
)
from circuits.fracture.images.symmetries import images
from circuits.fracture.images.units import n_hues, pixels, rgb
from circuits.run import TrainRun, TrainStudy
from sparsetrain.report.blocks import PNG
from sparsetrain.studies.engine import conclude
from sparsetrain.studies.study import Subject

SEEDS = (0, 1, 2)
READING = ReadingConfig(size=16, measured_size=12, n_perturbed=24)
SMALL = ImageStudyConfig(pictures=("rosette",), size=16, measured_size=12, n_dead=3, k=6)


def study_of(config=SMALL):
    return FractureImagesStudy(config=TrainRun(), rules=TrainStudy(n_seeds=len(SEEDS), n_agreeing=3), images=config)


def read(kind, folder):
    """The composed rosette or one of its equals, read as the study reads."""
    network = equal(kind, composed("rosette", 0), 3, SEEDS)
    picture = rgb(GALLERY["rosette"].outputs(pixels(16)))
    arrays = read_networks(network, picture, images("square", 12), SEEDS, READING)
    np.savez(folder / f"{kind}.npz", **arrays)
    said = stored(network, folder / f"{kind}.safetensors")
    return NetworkReadings.load(folder / f"{kind}.npz", said.n_nonzero, said.n_weights)


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    folder = tmp_path_factory.mktemp("known")
    found = {kind: read(kind, folder) for kind in (COMPOSED, ROTATED, SPLIT, DUPLICATED, PERMUTED)}
    return {kind: [r.beside(c, None) for r, c in zip(rs, found[COMPOSED], strict=True)] for kind, rs in found.items()}


def words(kind, readings):
    """What the study says of an arm: claim -> word."""
    study, subject = study_of(), Subject(arm=f"{kind}, rosette")
    effects = [study.effects(r, subject) for r in readings]
    rules = {rule.key: rule for rule in study.claims()}
    return {
        key: rules[f"{subject.key}: {key}"].decide([effect[key] for effect in effects]).verdict for key in effects[0]
    }


def test_all_have_the_picture(known):
    assert all(r.error < 1e-12 for rs in known.values() for r in rs)


def test_units_in_another_order_are_the_same(known):
    for r in known[PERMUTED]:
        assert r.composed is not None
        for name in ("units", "effective_share", "gini", "gini_alive", "rank", "weighted_relative", "plain_relative"):
            assert getattr(r, name) == pytest.approx(getattr(r.composed, name), rel=1e-6), name
        assert r.symmetry("largest") == pytest.approx(r.composed.symmetry("largest"), abs=1e-3)
    assert words(PERMUTED, known[PERMUTED]) == dict.fromkeys(("units", "symmetry", "variation"), "supported"), (
        "no difference was expected, and there is none"
    )


def test_the_composed_network_does_not_differ_from_itself(known):
    said = words(DENSE, known[COMPOSED])
    assert set(said.values()) == {"not supported"}


def test_copies_are_seen_by_units_alone(known):
    for r in known[DUPLICATED]:
        assert r.composed is not None
        assert log(r.units / r.composed.units) == pytest.approx(log(N_COPIES), abs=0.25)
        assert r.weighted_relative == pytest.approx(r.composed.weighted_relative, rel=0.08)
        assert r.effective_share == pytest.approx(r.composed.effective_share, rel=0.15)
    said = words(DUPLICATED, known[DUPLICATED])
    assert said["units"] == "supported" and said["variation"] == said["symmetry"] == "not supported"


def test_split_units_are_seen_by_units_alone(known):
    assert all(r.units > 1.25 * r.composed.units for r in known[SPLIT] if r.composed)
    said = words(SPLIT, known[SPLIT])
    assert said["units"] == "supported" and said["symmetry"] == "not supported"


def test_a_basis_of_no_axes_is_seen(known):
    said = words(ROTATED, known[ROTATED])
    assert said["units"] == said["variation"] == "supported"
    assert said["symmetry"] != "not supported", "some of it is lost; how much, a basis decides"


def test_an_imitation_that_misses_the_picture_is_not_interpreted(known):
    study = study_of()
    missed = [replace(r, error=2e-3, composed=r, dense=r) for r in known[COMPOSED]]
    read = {
        Subject(arm=arm): missed if arm == "pruned, rosette" else [replace(r, error=0.0) for r in missed]
        for arm in study.arms
    }
    effects = {
        f"{s.key}: {key}": [study.effects(r, s)[key] for r in rs]
        for s, rs in read.items()
        for key in study.effects(rs[0], s)
    }
    gates = {g.key: [value(r) for s, rs in read.items() if s.arm == g.arm for r in rs] for g, value in study.gates()}
    section = conclude(study.plan(), study.claims(), gates=gates, effects=effects)
    assert [gate.key for gate in section.gates if not gate.passed] == ["imitates: pruned, rosette"]
    assert {v.reason for v in section.verdicts if v.arm == "pruned, rosette"} == {
        "not interpretable, these gates failed: imitates: pruned, rosette"
    }


def test_what_is_asked_of_which_arm():
    study = study_of()
    asked = {
        kind: [h.key for h in study.asked(Subject(arm=f"{kind}, rosette"))]
        for kind in (DENSE, OTHERS, SPARSE, PERMUTED)
    }
    assert "units, beside dense" not in asked[DENSE] and "units, beside dense" in asked[SPARSE]
    assert asked[PERMUTED] == ["units", "symmetry", "variation"]
    expected = {h.key: h.expected for h in study.asked(Subject(arm=f"{OTHERS}, rosette"))}
    assert expected["units"] == "positive" and expected["units, beside dense"] == "none", "the null"


def test_pruned_networks_have_as_many_weights_as_the_composed_one():
    learning = study_of().learning(PRUNED, "rosette")
    assert learning.n_nonzero == tuple(int(layer.weight.count_nonzero()) for layer in composed("rosette", 3).layers)
    assert sum(learning.n_nonzero) == sum(
        map(int, [layer.weight.count_nonzero() for layer in composed("rosette", 0).layers])
    )


def test_a_network_without_effect_has_no_numbers_and_says_so(known):
    r = known[COMPOSED][0]
    empty = {kind: np.full((2, 4), np.nan) for kind in KINDS}
    dead = replace(
        r, contributions=np.zeros((4, 3)), relative=np.zeros(3), variation=np.zeros(3), kept=empty, share=empty
    )
    assert (
        np.isnan([dead.symmetry("weights"), dead.weighted_relative, dead.plain_relative, dead.gini]).all()
        and dead.units == 0
    )
    study, subject = study_of(), Subject(arm="dense, rosette")
    values = study.effects(replace(dead, composed=r), subject)
    assert np.isnan(list(values.values())).all()
    assert set(words(DENSE, [replace(dead, composed=r)] * 3).values()) == {"undecided"}


def test_networks_come_back_from_their_file(tmp_path):
    for kind in (COMPOSED, ROTATED):
        network = equal(kind, composed("rosette", 0), 2, (0, 1))
        again = loaded(stored(network, tmp_path / "x.safetensors"), tmp_path / "x.safetensors")
        assert torch.equal(network.outputs(pixels(4)), again.outputs(pixels(4)))


def test_sheets_show_every_living_unit(tmp_path):
    network = equal(COMPOSED, composed("rosette", 0), 3, (0,))
    section = drawn({"rosette": {COMPOSED: network}}, READING, seed=0, folder=tmp_path)
    (shown,) = section.pictures
    assert shown.maps[0].alt.startswith("12 living units") and shown.n_hues >= 3
    assert shown.maps[0].width <= COLUMNS * (SIDE + 2)
    for sheet in (*shown.outputs, *shown.maps, *shown.sweeps):
        assert PNG.match(sheet.png) and (tmp_path / sheet.file).is_file()


def test_the_foremost_units_stand_beside_the_picture_and_copies_once():
    network, four = (equal(kind, composed("rosette", 0), 3, SEEDS) for kind in (COMPOSED, DUPLICATED))
    rows = {kind: foremost(apart(one)[0], READING) for kind, one in (("composed", network), ("duplicated", four))}
    assert np.array_equal(rows["composed"][0], rows["duplicated"][0])  # what they draw
    assert 2 < len(rows["composed"]) == len(rows["duplicated"]) <= 1 + N_FOREMOST
    seen = {kind: {(cell // 16).tobytes() for cell in cells[1:]} for kind, cells in rows.items()}
    assert seen["composed"] == seen["duplicated"]  # a unit's copies have its map, and are shown as one
    assert len(seen["composed"]) == len(rows["composed"]) - 1
    sheet = named_rows(rows)
    assert sheet.size == (LABEL + len(rows["composed"]) * (SIDE + GAP) - GAP, 2 * (SIDE + GAP) - GAP)


def test_hues_are_counted():
    red, green, grey = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), torch.tensor([0.5, 0.5, 0.5])
    assert n_hues(grey.expand(9, 3)) == 0 and n_hues(red.expand(9, 3)) == 1
    assert n_hues(torch.stack([red, green, green, grey])) == 2
    assert n_hues(torch.stack([red] * 99 + [green])) == 1, "one pixel in a hundred is no hue"
    assert all(n_hues(graph.picture(32)) >= 3 for graph in GALLERY.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"pictures": ("rosette", "moon")},
            "pictures=.* must be some of rosette, snowflake, butterfly, owl, each once",
        ),
        ({"pictures": ()}, "must be some of"),
        ({"lr": {"dense": 0.1}}, "must have one learning rate for each of dense, dense_again"),
        ({"stride": 5}, "stride=5 must divide size=64"),
        ({"k": 37}, "k=37 must be at most 36, the units of the narrowest layer"),
        ({"measured_size": 1}, "must be at least 2"),
        ({"warmup": 1.0}, "warmup: 1, expected at least 0 and below 1"),
    ],
)
def test_bad_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        ImageStudyConfig(**settings)
