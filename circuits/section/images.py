"""Image networks, drawn: what they show, what their units show, and what perturbations do."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DrawnSheet:
    """A PNG of the run's folder, and of the report."""

    label: str
    alt: str
    png: str
    """Base64."""
    width: int
    """Pixels on the page."""
    height: int
    file: str


@dataclass(frozen=True, kw_only=True)
class DrawnPicture:
    """One picture, by several networks."""

    name: str
    about: str
    symmetry: str
    n_hues: int
    """Of twelve, with at least 2% of the coloured pixels each."""
    beside: DrawnSheet
    """A row per network: its picture, and the units that work most on it."""
    outputs: tuple[DrawnSheet, ...]
    """The picture by each network."""
    maps: tuple[DrawnSheet, ...]
    """Every living unit's map, layer by layer."""
    sweeps: tuple[DrawnSheet, ...]
    """Pictures under perturbations of growing size: a row per direction."""


@dataclass(frozen=True, kw_only=True)
class ImageNetworksSection:
    """Networks of the first seed."""

    seed: int
    pictures: tuple[DrawnPicture, ...]
