"""Image networks on the page: each picture by every network, feature maps and sweeps beside each other."""

from circuits.section import DrawnPicture, DrawnSheet, ImageNetworksSection
from sparsetrain.report.blocks import Block, Choice, Details, Panel, Picture, Pictures, Text

MAPS = "A row or more per layer, inputs first; units of largest contribution first. Black is a unit's least value, white its largest."
FOREMOST = "What each network draws, and its units of largest mean contribution, of all layers together; maps that look the same are shown once."
SWEEPS = "Five strengths from -1 to 1 of the size that changes colours alike in every network. First those of some drawn weights that change most, then random directions of all that a unit could read."


def image_networks(section: ImageNetworksSection) -> list[Block]:
    """The pictures, and what is behind them."""
    blocks: list[Block] = [
        Text(text=f"Networks of seed {section.seed}. All show nearly the same; look at what their units show.")
    ]
    for shown in section.pictures:
        title = f"{shown.name}: {shown.about} {shown.n_hues} hues of twelve."
        blocks.append(Pictures(title=title, items=_items((shown.beside,)), note=FOREMOST))
        panels = tuple(
            Panel(keys=(network,), blocks=_inside(shown, network))
            for network in (sheet.label for sheet in shown.outputs)
        )
        blocks.append(
            Details(
                summary=f"{shown.name}: maps of every unit, and sweeps",
                blocks=(Choice(labels=("Network",), panels=panels),),
            )
        )
    return blocks


def _inside(shown: DrawnPicture, network: str) -> tuple[Block, ...]:
    maps = tuple(sheet for sheet in shown.maps if sheet.label == network)
    sweeps = tuple(sheet for sheet in shown.sweeps if sheet.label == network)
    return (
        Pictures(
            title="What it draws", items=_items(tuple(sheet for sheet in shown.outputs if sheet.label == network))
        ),
        Pictures(title="Maps of living units", items=_items(maps), note=MAPS if maps else "no unit contributes"),
        Pictures(
            title="Sweeps", items=_items(sweeps), note=SWEEPS if sweeps else "no perturbation changes colours so much"
        ),
    )


def _items(sheets: tuple[DrawnSheet, ...]) -> tuple[Picture, ...]:
    return tuple(Picture(**vars(sheet)) for sheet in sheets)
