"""Do networks of the same picture differ inside? Pictures composed by hand, imitations by gradient descent, and known falsehoods.

1. Of every picture there is a network composed by hand, padded with dead units; imitations have its architecture. `arms` says which there are.
2. What is read of each is the same: contributions of units to the colours, variation of their maps, symmetry kept under perturbations of equal effect.
3. Every imitation is compared with the composed network, and those that are trained otherwise with the dense imitation of the same seed.

Settings are tuned on seeds from 100 on, which are reported nowhere; `conf/experiment/fracture_images.yaml` says what was tried.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from math import log
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from circuits.fracture.images.equals import duplicated, padded, permuted, rotated, split
from circuits.fracture.images.gallery import GALLERY
from circuits.fracture.images.imitation import ImitationConfig, Penalty, imitate, variation
from circuits.fracture.images.layered import layered
from circuits.fracture.images.network import Network, stack
from circuits.fracture.images.readings import NetworkReadings, ReadingConfig, difference, ratio, read_networks
from circuits.fracture.images.sheets import drawn
from circuits.fracture.images.stored import NetworksResult, loaded, stored
from circuits.fracture.images.symmetries import images
from circuits.fracture.images.tables import tables_of
from circuits.fracture.images.units import pixels, rgb
from sparsetrain.progress import progress_bar
from sparsetrain.sparsity import ScheduleConfig
from sparsetrain.stats.number import number
from sparsetrain.store import replacing
from sparsetrain.studies.engine import Stage, StageResult
from sparsetrain.studies.section import ResultTable, StudySection
from sparsetrain.studies.study import Gates, Hypothesis, Ruling, Study, Subject, gate
from sparsetrain.typed import Above0, Count, Index

COMPOSED, DENSE, OTHERS = "composed", "dense", "dense_again"
SPARSE, TOPK, SMOOTH = "weight_sparse", "abs_topk", "smooth"
PRUNED, PRUNED_LESS = "pruned", "pruned_less"
ROTATED, PERMUTED, SPLIT, DUPLICATED = "rotated", "permuted", "split", "duplicated"
TRAINED = (DENSE, OTHERS, SPARSE, TOPK, SMOOTH, PRUNED, PRUNED_LESS)
EQUAL = (ROTATED, SPLIT, DUPLICATED, PERMUTED)
"""The composed network's function, known to be fractured or not."""
APART = 1000
"""Between the seeds of the two sets of dense imitations."""
WEIGHTS = "weights.safetensors"
N_COPIES = 4
"""Of every unit of the network that is duplicated."""
MARGINS = {"units": log(1.25), "symmetry": 0.1, "variation": log(1.1)}
"""Smallest differences of interest. ours"""


@dataclass(frozen=True, kw_only=True)
class ImageStudyConfig:
    """Pictures, how they are learnt, and how networks are read. ours"""

    pictures: tuple[str, ...] = ("rosette", "butterfly", "owl")
    size: Count = 64
    """Side of a picture."""
    measured_size: Count = 32
    """Side of the grid on which contributions and perturbations are read."""
    n_dead: Index = 32
    """Units that are added to each layer of a composed network."""
    n_steps: Count = 10000
    lr: dict[str, Above0] = field(default_factory=lambda: dict.fromkeys(TRAINED, 0.02))
    """Of every arm that is trained."""
    warmup: float = 0.02
    stride: Count = 4
    """Between the pixels that a step sees."""
    gain: float = 3.0
    pull: float = 0.1
    schedule: ScheduleConfig = field(default_factory=lambda: ScheduleConfig(shape="exponential", end=0.4))
    """Of sparse and pruned weights."""
    multiple: Count = 32
    """Nonzeros of a sparse network's and of a less pruned one's matrices, per nonzero of the composed network's."""
    k: Count = 32
    """Activations that AbsTopK keeps in a layer."""
    variation: Above0 = 1e-3
    """Weight of the penalty on the total variation of maps."""
    n_perturbed: Count = 24
    effect: Above0 = 1e-3
    """Mean squared change of colours by perturbations."""
    bound: Above0 = 1e-3
    """Largest mean squared error of an imitation."""

    def __post_init__(self) -> None:
        if not self.pictures or len(set(self.pictures)) < len(self.pictures) or set(self.pictures) - set(GALLERY):
            raise ValueError(f"pictures={list(self.pictures)} must be some of {', '.join(GALLERY)}, each once")
        if set(self.lr) != set(TRAINED):
            raise ValueError(f"lr={dict(self.lr)} must have one learning rate for each of {', '.join(TRAINED)}")
        if self.size % self.stride:
            raise ValueError(f"stride={self.stride} must divide size={self.size}")
        if min(self.size, self.measured_size) < 2:
            raise ValueError(f"size={self.size} and measured_size={self.measured_size} must be at least 2")
        narrowest = (
            min(layer.width for name in self.pictures for layer in layered(GALLERY[name]).layers[:-1]) + self.n_dead
        )
        if self.k > narrowest:
            raise ValueError(f"k={self.k} must be at most {narrowest}, the units of the narrowest layer")
        self.learning(DENSE)

    def learning(self, arm: str, counts: Sequence[int] = (), widths: Sequence[int] = ()) -> ImitationConfig:
        """How an arm is trained.

        Args:
            arm: of `TRAINED`.
            counts: nonzeros of the composed network's matrices.
            widths: entries of the matrices.
        """
        times = {SPARSE: self.multiple, PRUNED_LESS: self.multiple, PRUNED: 1}.get(arm)
        fewest = () if times is None else tuple(min(times * n, of) for n, of in zip(counts, widths, strict=True))
        return ImitationConfig(
            n_steps=self.n_steps,
            lr=self.lr[arm],
            warmup=self.warmup,
            stride=self.stride,
            gain=self.gain,
            pull=self.pull,
            n_nonzero=fewest,
            schedule=self.schedule,
            k=self.k if arm == TOPK else None,
        )

    @property
    def reading(self) -> ReadingConfig:
        return ReadingConfig(
            size=self.size, measured_size=self.measured_size, n_perturbed=self.n_perturbed, effect=self.effect
        )


def _claims(of: str, words: str, sign: int) -> tuple[Hypothesis[NetworkReadings], ...]:
    """The three claims of a network beside another."""
    up, down = ("positive", "negative") if sign > 0 else ("negative", "positive")
    end = "" if of == COMPOSED else f", beside {of}"
    more, less = ("more", "less") if sign > 0 else ("fewer", "more")
    return (
        Hypothesis(key=f"units{end}", claim=f"{more} effective units per input than {words}: log ratio of N_eff", expected=up, effect=ratio(lambda r: r.units, of), unit="log ratio", margin=MARGINS["units"]),
        Hypothesis(key=f"symmetry{end}", claim=f"{less} of a change keeps the symmetry than in {words}: single nonzero weights, equal effect", expected=down, effect=difference(lambda r: r.symmetry("weights"), of), unit="fraction", margin=MARGINS["symmetry"]),
        Hypothesis(key=f"variation{end}", claim=f"{'rougher' if sign > 0 else 'smoother'} feature maps than {words}: log ratio of relative total variation, units weighted by contribution", expected=up, effect=ratio(lambda r: r.weighted_relative, of), unit="log ratio", margin=MARGINS["variation"]),
    )  # fmt: skip


def _more(key: str, claim: str, **settings: object) -> Hypothesis[NetworkReadings]:
    return Hypothesis(key=key, claim=claim, **settings)  # pyright: ignore[reportArgumentType]


FROM_COMPOSED = _claims(COMPOSED, "the composed network", 1)
VARIANTS = (
    *(
        _more(f"symmetry, {kind.replace('_', ' ')}", f"less of a change keeps the symmetry than in the composed network: {words}, equal effect", expected="negative", effect=difference(partial(NetworkReadings.symmetry, kind=kind), COMPOSED), unit="fraction", margin=MARGINS["symmetry"])
        for kind, words in (("largest", "the largest weights, equally many"), ("any_weight", "single weights, zeros too"), ("directions", "random directions of all that a unit could read"))
    ),
    _more("variation, alike", "rougher feature maps than the composed network: living units counting alike", expected="positive", effect=ratio(lambda r: r.plain_relative, COMPOSED), unit="log ratio", margin=MARGINS["variation"]),
)  # fmt: skip
FROM_DENSE = _claims(DENSE, "the dense imitation of the same seed", -1)
RULED = (
    Ruling(name="separates by units", statement="more units share the work on a pixel than in the composed network", needs=("units",)),
    Ruling(name="separates by symmetry", statement="changes of single weights that are not 0 break the picture's symmetry more than in the composed network", needs=("symmetry",)),
    Ruling(name="separates by variation", statement="feature maps are rougher than in the composed network", needs=("variation",)),
    Ruling(name="separates by all three", statement="units, symmetry and variation all tell it from the composed network", needs=("units", "symmetry", "variation")),
)  # fmt: skip
RULED_DENSE = (
    Ruling(name="less fractured than dense", statement="fewer effective units, more symmetry kept and smoother maps than the dense imitation", needs=tuple(h.key for h in FROM_DENSE)),
)  # fmt: skip
SAME = (
    Ruling(name="nothing differs", statement="units in another order: no measure notices", needs=("units", "symmetry", "variation")),
)  # fmt: skip
NULL = (
    Ruling(name="as other dense ones", statement="dense imitations of other seeds do not differ on average", needs=tuple(h.key for h in FROM_DENSE)),
)  # fmt: skip


def none_expected(hypotheses: Sequence[Hypothesis[NetworkReadings]]) -> tuple[Hypothesis[NetworkReadings], ...]:
    """The same numbers where no difference is expected."""
    return tuple(replace(h, expected="none", claim=f"no difference: {h.claim}") for h in hypotheses)


@dataclass(frozen=True, kw_only=True)
class FractureImagesStudy(Study[NetworkReadings]):
    """Claims are made about every arm of every picture."""

    question = "Do networks that draw the same picture differ inside: composed by hand, imitated by gradient descent, sparse, smooth, pruned?"
    hypotheses = (*FROM_COMPOSED, *VARIANTS, *FROM_DENSE)
    rulings = (*RULED, *RULED_DENSE, *SAME, *NULL)
    overviews: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "units": ("Effective units per input, over those of the composed network (log)", ("units",)),
        "symmetry": (
            "Symmetry kept under single-weight perturbations, less that of the composed network",
            ("symmetry",),
        ),
        "variation": (
            "Relative total variation of feature maps, over that of the composed network (log)",
            ("variation",),
        ),
    }

    images: ImageStudyConfig

    def __post_init__(self) -> None:
        if self.rules.arms:
            raise ValueError(f"study.arms={list(self.rules.arms)}: this study has the arms {', '.join((*TRAINED, *EQUAL))} of its own; leave it empty")  # fmt: skip

    @cached_property
    def _kinds(self) -> Mapping[str, tuple[str, str]]:
        """Arm -> kind of network and picture."""
        return {f"{kind}, {name}": (kind, name) for name in self.images.pictures for kind in (*TRAINED, *EQUAL)}

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(self._kinds)

    def asked(self, subject: Subject) -> Sequence[Hypothesis[NetworkReadings]]:
        kind, _ = self._kinds[subject.arm]
        if kind == PERMUTED:
            return none_expected(FROM_COMPOSED)
        beside = () if kind == DENSE or kind in EQUAL else none_expected(FROM_DENSE) if kind == OTHERS else FROM_DENSE
        return (*FROM_COMPOSED, *VARIANTS, *beside)

    def ruled(self, subject: Subject) -> Sequence[Ruling]:
        kind, _ = self._kinds[subject.arm]
        if kind == PERMUTED:
            return SAME
        more = () if kind == DENSE or kind in EQUAL else NULL if kind == OTHERS else RULED_DENSE
        return (*RULED, *more)

    def method(self) -> tuple[str, ...]:
        config = self.images
        shapes = "; ".join(
            f"{name}: {GALLERY[name].n_weights} connections, symmetry {GALLERY[name].symmetry}"
            for name in config.pictures
        )
        densities = ", ".join(
            f"{name} {100 * sum(self.learning(SPARSE, name).n_nonzero) / n:.0f}% (composed {100 * sum(_counts(name)) / n:.1f}%)"
            for name in config.pictures
            for n in [sum(_entries(composed(name, config.n_dead)))]
        )
        return (
            f"Pictures of {config.size} x {config.size} pixels, each composed by hand as a graph of few units ({shapes}). As a layered network with {config.n_dead} dead units in every layer the graph has room to spare, as an evolved "
            f"network has; every imitation has that architecture. It learns for {config.n_steps:,} steps of Adam on the gradient divided by its norm, on a lattice of every {config.stride}th pixel in either direction.",
            f"Arms: {DENSE}; {OTHERS}, the same from other seeds, the null; {SPARSE}, each matrix cut by the project's projection to {config.multiple} times the composed network's nonzeros (density {densities}); {TOPK}, {config.k} units of each layer; {SMOOTH}, "
            f"dense with a penalty of {config.variation:g} on the mean total variation of units' maps; {PRUNED}, the dense imitation cut to exactly the composed network's nonzeros in every matrix and trained as long again; {PRUNED_LESS}, "
            f"the same at the nonzeros of {SPARSE}. Of the composed network itself, with no training: {ROTATED}, every layer read in a random basis; {SPLIT}, one unit per reader; {DUPLICATED}, every unit {N_COPIES} times; {PERMUTED}, units in another order.",
            f"Contributions are of red, green and blue: |f - f with a unit at its mean|, on {config.measured_size} x {config.measured_size} pixels. Perturbations: {config.n_perturbed} of each kind at strengths -1, -1/2, 1/2, 1 of a size found by bisection for "
            f"each network, at which the mean squared change of colours is {config.effect:g}. Symmetry kept: the share of all change that the picture's own symmetry leaves alone. Relative variation: total variation of a unit's map over its range.",
            f"Margins: N_eff 25%, symmetry {MARGINS['symmetry']:g}, variation 10%. An imitation that misses the picture by {config.bound:g} or more (mean squared error of colours, any seed) is not interpreted.",
        )

    def learning(self, kind: str, name: str) -> ImitationConfig:
        """How an arm learns a picture."""
        return self.images.learning(kind, _counts(name), _entries(composed(name, self.images.n_dead)))

    def gates(self) -> Gates[NetworkReadings]:
        bound = number(self.images.bound, "mean squared error")
        return [gate(f"imitates: {arm}", f"{arm}: mean squared error of colours", bound, lambda r: r.error, rule="at most", arm=arm) for arm in self.arms]  # fmt: skip

    def folder(self, kind: str, name: str) -> str:
        return f"{name}/{kind}"

    def stages(self) -> Sequence[Stage]:
        config, found = self.images, []
        for name in config.pictures:
            for kind in (COMPOSED, *TRAINED, *EQUAL):
                graph = GALLERY[name]
                inputs: dict[str, object] = {
                    "picture": {"units": graph.units, "symmetry": graph.symmetry, "name": name},
                    "kind": kind,
                    "size": config.size,
                    "n_dead": config.n_dead,
                    "seeds": self.seeds,
                }
                if kind in TRAINED:
                    penalty = config.variation if kind == SMOOTH else None
                    inputs |= {"learning": self.learning(kind, name), "variation": penalty}
                if kind in (PRUNED, PRUNED_LESS):
                    inputs["pruned"] = self.learning(DENSE, name)
                found.append(
                    Stage(
                        name=self.folder(kind, name),
                        inputs={**inputs, "reading": config.reading},
                        run=partial(self._work, kind, name),
                        schema=NetworksResult,
                        kept_under=inputs,
                    )
                )
        return found

    def _work(self, kind: str, name: str, folder: Path) -> StageResult:
        config, n_threads = self.images, self.config.trainer.n_threads
        if n_threads is not None:
            torch.set_num_threads(n_threads)
        picture = rgb(GALLERY[name].outputs(pixels(config.size)))
        group = images(GALLERY[name].symmetry, config.measured_size)
        with progress_bar(self.config.trainer.progress) as bar:
            weights = folder / WEIGHTS
            if kind in TRAINED and not weights.is_file():
                learning = bar.add_task(f"{kind}, {name}: steps", total=config.n_steps)
                stored(
                    self._trained(kind, name, picture, folder, lambda step: bar.update(learning, completed=step)),
                    weights,
                )
            networks = (
                _imitations(weights, composed(name, config.n_dead), self.learning(kind, name).k)
                if kind in TRAINED
                else equal(kind, composed(name, 0), config.n_dead, self.seeds)
            )
            reading = bar.add_task(f"{kind}, {name}: networks read", total=len(self.seeds))
            arrays = read_networks(networks, picture, group, self.seeds, config.reading, lambda: bar.advance(reading))
        with replacing(folder / "read.npz") as file:
            np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
        return stored(networks, weights)

    def _trained(
        self, kind: str, name: str, picture: torch.Tensor, folder: Path, on_step: Callable[[int], object]
    ) -> Network:
        config, like = self.images, composed(name, self.images.n_dead)
        start, seeds = None, self.seeds
        if kind in (PRUNED, PRUNED_LESS):
            start = _imitations(folder.parent / DENSE / WEIGHTS, like, None)
        if kind == OTHERS:
            seeds = tuple(seed + APART for seed in seeds)
        penalty: Penalty | None = (lambda network, maps: config.variation * variation(maps)) if kind == SMOOTH else None
        learning = self.learning(kind, name)
        return imitate(like, pixels(config.size), picture, seeds, learning, penalty, on_step, start).network

    def read(self, run_dir: Path, results: Mapping[str, StageResult]) -> Mapping[Subject, Sequence[NetworkReadings]]:
        found: dict[Subject, Sequence[NetworkReadings]] = {}
        for arm, (kind, name) in self._kinds.items():
            own, first, dense = (self._load(run_dir, results, k, name) for k in (kind, COMPOSED, DENSE))
            found[Subject(arm=arm)] = [r.beside(c, d) for r, c, d in zip(own, first, dense, strict=True)]
        return found

    def _load(self, run_dir: Path, results: Mapping[str, StageResult], kind: str, name: str) -> list[NetworkReadings]:
        folder = self.folder(kind, name)
        result = results[folder]
        assert isinstance(result, NetworksResult)
        return NetworkReadings.load(run_dir / folder / "read.npz", result.n_nonzero, result.n_weights)

    def tables(
        self, read: Mapping[Subject, Sequence[NetworkReadings]], results: Mapping[str, StageResult]
    ) -> Sequence[ResultTable]:
        by_kind = {self._kinds[subject.arm]: seeds for subject, seeds in read.items()}
        return tables_of(by_kind, self.images.pictures, {COMPOSED: COMPOSED, "null": OTHERS, DENSE: DENSE}, MARGINS)

    def sections(
        self, run_dir: Path, results: Mapping[str, StageResult], section: StudySection
    ) -> Mapping[str, object]:
        """Pictures of every network of the first seed."""

        def network(kind: str, name: str) -> Network:
            folder = self.folder(kind, name)
            result = results[folder]
            assert isinstance(result, NetworksResult)
            return loaded(result, run_dir / folder / WEIGHTS)

        shown = (COMPOSED, ROTATED, DENSE, SPARSE, TOPK, SMOOTH, PRUNED, PRUNED_LESS)
        found = drawn(
            {name: {kind: network(kind, name) for kind in shown} for name in self.images.pictures},
            self.images.reading,
            seed=self.seeds[0],
            folder=run_dir,
        )
        return {"image_networks": found}


@cache
def composed(name: str, n_dead: int) -> Network:
    """The network of a picture as it was written, with room to spare."""
    return padded(layered(GALLERY[name]), n_dead)


def _counts(name: str) -> tuple[int, ...]:
    """Nonzeros of each matrix of a composed network."""
    return tuple(int(layer.weight.count_nonzero()) for layer in composed(name, 0).layers)


def _entries(network: Network) -> tuple[int, ...]:
    return tuple(layer.weight.numel() for layer in network.layers)


def equal(kind: str, network: Network, n_dead: int, seeds: Sequence[int]) -> Network:
    """Networks of the composed one's function, one per seed; rotations are drawn by the seed.

    Args:
        kind: `composed` or of `EQUAL`.
        network: composed, without dead units.
        n_dead: added to each layer, before a basis is drawn and after units are split or duplicated.
        seeds: one network each.
    """
    found = []
    for seed in seeds:
        generator, made = torch.Generator().manual_seed(seed), network
        hidden = range(len(network.layers) - 1)
        if kind == SPLIT:  # from the outputs down, so that copies count as readers
            for layer in reversed(hidden):
                for unit in range(network.layers[layer].width):
                    made = split(made, layer, unit)
        if kind == DUPLICATED:
            for layer in hidden:
                for unit in range(network.layers[layer].width):
                    made = duplicated(made, layer, unit, N_COPIES)
        made = padded(made, n_dead)
        if kind == ROTATED:
            made = rotated(made, generator)
        if kind == PERMUTED:
            generator.manual_seed(
                seeds[0]
            )  # one order for all: networks that run at once have the same activations in the same places
            for layer in hidden:
                made = permuted(made, layer, torch.randperm(made.layers[layer].width, generator=generator).tolist())
        found.append(made)
    return stack(found)


def _imitations(path: Path, like: Network, k: int | None) -> Network:
    """Imitations of a composed network's architecture from their file."""
    last = len(like.layers) - 1
    activations = tuple(
        layer.activations if i == last else tuple(sorted(layer.activations)) for i, layer in enumerate(like.layers)
    )
    return loaded(NetworksResult(weights_sha256="", activations=activations, k=k, n_nonzero=(), n_weights=0), path)
