"""Networks as pictures: what they show, the map of every living unit, sweeps of weights and of random directions.

Source: Kumar et al. 2025, whose evidence these sheets are.
"""

import base64
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from circuits.fracture.images.gallery import GALLERY
from circuits.fracture.images.imitation import apart
from circuits.fracture.images.network import Network
from circuits.fracture.images.perturbed import Direction, Perturbed, directions, size_of
from circuits.fracture.images.readings import DEAD, ReadingConfig, single
from circuits.fracture.images.units import n_hues, pixels, rgb
from circuits.fracture.measures import contributions
from circuits.section import DrawnPicture, DrawnSheet, ImageNetworksSection
from sparsetrain.store import write_atomic

Bytes = NDArray[np.uint8]
SIDE = 48
"""Of a map and of a picture in a sweep, in pixels."""
COLUMNS = 20
"""Maps beside each other."""
GAP = 2
"""Pixels between cells."""
SWEPT = (-1.0, -0.5, 0.0, 0.5, 1.0)
N_WEIGHTS, N_DIRECTIONS = 6, 3
"""Rows of a sweep."""
N_COLOURS = 64
"""Of a palette."""
N_FOREMOST = 12
"""Units of a network beside its picture."""
LABEL = 96
"""Width of a row's name, in pixels."""


def drawn(
    networks: Mapping[str, Mapping[str, Network]], config: ReadingConfig, *, seed: int, folder: Path
) -> ImageNetworksSection:
    """Every sheet, also as a file in `pictures/`.

    Args:
        networks: picture -> kind -> networks of all seeds, of which the first is drawn.
        config: as networks were read.
        seed: of that network's perturbations.
        folder: of the run.
    """
    return ImageNetworksSection(
        seed=seed, pictures=tuple(_drawn(name, kinds, config, seed, folder) for name, kinds in networks.items())
    )


def _drawn(name: str, kinds: Mapping[str, Network], config: ReadingConfig, seed: int, folder: Path) -> DrawnPicture:
    outputs, maps, sweeps = [], [], []
    for kind, batch in kinds.items():
        network = apart(batch)[0]
        shown = colours(network, config.size)

        def sheet(image: Image.Image, of: str, alt: str, times: int = 1, kind: str = kind) -> DrawnSheet:
            return _sheet(image, kind, alt, folder, f"pictures/{name}_{kind}_{of}.png", times)

        outputs.append(sheet(palette(shown), "output", f"the {name} by the {kind} network", 2))
        cells = unit_maps(network, config.measured_size)
        n_units = sum(len(layer) for layer in cells)
        if cells:
            maps.append(
                sheet(
                    grey(_rows(cells, COLUMNS)),
                    "maps",
                    f"{n_units} living units of the {kind} network in {len(cells)} layers",
                )
            )
        rows = sweep(network, config, seed)
        if rows:
            sweeps.append(
                sheet(
                    palette(_rows(rows, len(SWEPT))),
                    "sweeps",
                    f"{len(rows)} perturbations of the {kind} network at {len(SWEPT)} strengths",
                )
            )
    graph = GALLERY[name]
    rows = {kind: foremost(apart(batch)[0], config) for kind, batch in kinds.items()}
    beside = _sheet(
        named_rows(rows), "by all networks", f"the {name} by {len(rows)} networks, and the units of each that work most on it",
        folder, f"pictures/{name}_units.png", 1,
    )  # fmt: skip
    return DrawnPicture(
        name=name,
        about=graph.about,
        symmetry=graph.symmetry,
        n_hues=n_hues(graph.picture(config.size)),
        beside=beside,
        outputs=tuple(outputs),
        maps=tuple(maps),
        sweeps=tuple(sweeps),
    )


def colours(network: Network, size: int) -> Bytes:
    """`[size, size, 3]`."""
    with torch.no_grad():
        return _bytes(rgb(network.outputs(pixels(size))).unflatten(0, (size, size)).numpy())


def unit_maps(network: Network, measured_size: int) -> list[list[Bytes]]:
    """Maps of living units in each layer, `[SIDE, SIDE]` each: from its least value, 0, to its largest, 255; those of largest contribution first."""
    layers = [[shown for _, shown in layer] for layer in _living(network, measured_size)]
    return [layer for layer in layers if layer]


def _living(network: Network, measured_size: int) -> list[list[tuple[float, Bytes]]]:
    """Mean contribution and map of every living unit, layer by layer, the largest first."""
    coarse = pixels(measured_size)
    with torch.no_grad():
        without = torch.stack([rgb(outputs) for outputs in network.without(coarse)])
        size = contributions(rgb(network.outputs(coarse)).numpy(), without.numpy()).mean(0)
        layers = [h.unflatten(-1, (SIDE, SIDE)).numpy() for h in network.maps(pixels(SIDE))[:-1]]
    found, at = [], 0
    for layer in layers:
        sizes = size[at : at + len(layer)]
        at += len(layer)
        order = [i for i in np.argsort(-sizes, kind="stable") if sizes[i] > DEAD * size.max()]
        found.append(
            [(float(sizes[i]), _bytes((layer[i] - layer[i].min()) / max(np.ptp(layer[i]), 1e-12))) for i in order]
        )
    return found


def foremost(network: Network, config: ReadingConfig) -> list[Bytes]:
    """The picture, and the maps of the units that contribute most, of all layers together, `[SIDE, SIDE, 3]` each; maps that are the same to the eye count once."""
    units = sorted((one for layer in _living(network, config.measured_size) for one in layer), key=lambda one: -one[0])
    maps: dict[bytes, Bytes] = {}
    for _, shown in units:
        maps.setdefault((shown // 16).tobytes(), shown)
    return [
        colours(network, SIDE),
        *(np.repeat(shown[..., None], 3, axis=-1) for shown in list(maps.values())[:N_FOREMOST]),
    ]


def named_rows(rows: Mapping[str, Sequence[Bytes]]) -> Image.Image:
    """A row of cells per name, the name in front."""
    cells = _rows(list(rows.values()), max(map(len, rows.values())))
    sheet = Image.new("RGB", (LABEL + cells.shape[1], cells.shape[0]), "white")
    sheet.paste(Image.fromarray(cells), (LABEL, 0))
    draw = ImageDraw.Draw(sheet)
    for i, name in enumerate(rows):
        draw.text((0, i * (SIDE + GAP) + SIDE // 2), name.replace("_", " "), fill="black", anchor="lm", font_size=13)
    return sheet.quantize(128, dither=Image.Dither.NONE)


def sweep(network: Network, config: ReadingConfig, seed: int) -> list[list[Bytes]]:
    """Pictures under those of the drawn single weights that change most, and under random directions: a row per direction, a column per strength; none of a kind that has no such effect."""
    network, coarse, rows = single(network), pixels(config.measured_size).float(), []
    with torch.no_grad():
        measured, fine = Perturbed(network, coarse), Perturbed(network, pixels(SIDE).float())
        for kind, n in (("weights", N_WEIGHTS), ("directions", N_DIRECTIONS)):
            some = directions(network, kind, config.n_perturbed, torch.Generator().manual_seed(seed))
            size = size_of(measured, some, config.effect) if some else float("nan")
            if np.isnan(size):
                continue
            chosen: Sequence[Direction] = some[:n]
            if kind == "weights":
                effects = measured.changes(some, size).square().mean((1, 2, 3))
                chosen = [some[int(i)] for i in effects.argsort(descending=True)[:n]]
            for direction in chosen:
                shown = fine(direction, size * torch.tensor(SWEPT)).unflatten(1, (SIDE, SIDE)).numpy()
                rows.append([_bytes(one) for one in shown])
    return rows


def _bytes(values: NDArray[np.floating]) -> Bytes:
    return np.clip(np.rint(255 * values), 0, 255).astype(np.uint8)


def _rows(cells: Sequence[Sequence[Bytes]], n_columns: int) -> Bytes:
    """Cells in rows on white, each group from a row of its own on."""
    lines = [group[i : i + n_columns] for group in cells for i in range(0, len(group), n_columns)]
    depth = lines[0][0].shape[2:]
    width, step = max(map(len, lines)), SIDE + GAP
    sheet = np.full((len(lines) * step - GAP, width * step - GAP, *depth), 255, dtype=np.uint8)
    for y, line in enumerate(lines):
        for x, cell in enumerate(line):
            sheet[y * step : y * step + SIDE, x * step : x * step + SIDE] = cell
    return sheet


def grey(values: Bytes) -> Image.Image:
    """Thirty-two shades: what an eye tells apart, in few bytes."""
    return Image.fromarray(values // 8 * 8 + values // 32).quantize(32)


def palette(values: Bytes) -> Image.Image:
    """The colours that occur most."""
    return Image.fromarray(values).quantize(N_COLOURS, dither=Image.Dither.NONE)


def _sheet(image: Image.Image, label: str, alt: str, folder: Path, file: str, times: int) -> DrawnSheet:
    out = BytesIO()
    image.save(out, format="PNG", optimize=True)
    write_atomic(folder / file, out.getvalue())
    return DrawnSheet(
        label=label,
        alt=alt,
        png=base64.b64encode(out.getvalue()).decode(),
        width=times * image.width,
        height=times * image.height,
        file=file,
    )
