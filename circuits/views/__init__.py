"""What circuits contribute to the report: the task table, a drawing of each circuit, each small one in words, circuits as
they form, several models beside each other, two runs side by side, image networks drawn, what turns a model's answer where prompt and memory differ, and two models of
the same outputs.

The entry point hands `KINDS` to the report beside those of `sparsetrain.report.sections`.
"""

from circuits.section import (
    ArmsSection,
    CircuitsSection,
    ContextPriorSection,
    FormationSection,
    FrontierSection,
    ImageNetworksSection,
    SelectionSection,
)
from circuits.section.fracture import FractureSection
from circuits.side_by_side.section import SideBySideSection
from circuits.views.arms import arms
from circuits.views.formation import formation
from circuits.views.fracture import fracture
from circuits.views.image_networks import image_networks
from circuits.views.prior import context_prior
from circuits.views.recipe import frontier, selection
from circuits.views.side_by_side import side_by_side
from circuits.views.tasks import circuits
from sparsetrain.report import Kinds, SectionKind

KINDS: Kinds = {
    "frontier": SectionKind(schema=FrontierSection, view=frontier),
    "side_by_side": SectionKind(schema=SideBySideSection, view=side_by_side),
    "arms": SectionKind(schema=ArmsSection, view=arms),
    "circuits": SectionKind(schema=CircuitsSection, view=circuits),
    "formation": SectionKind(schema=FormationSection, view=formation),
    "context_prior": SectionKind(schema=ContextPriorSection, view=context_prior),
    "fracture": SectionKind(schema=FractureSection, view=fracture),
    "image_networks": SectionKind(schema=ImageNetworksSection, view=image_networks),
    "selection": SectionKind(schema=SelectionSection, view=selection),
}

__all__ = [
    "KINDS",
    "arms",
    "circuits",
    "context_prior",
    "formation",
    "fracture",
    "frontier",
    "image_networks",
    "selection",
    "side_by_side",
]
