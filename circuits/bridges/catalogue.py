"""The study of this room by name."""

from circuits.bridges.study import BridgeStudy
from sparsetrain.studies.catalogue import Catalogue

BRIDGES: Catalogue = {"bridge": lambda run, study: BridgeStudy(config=run, rules=study, settings=study.bridge)}
