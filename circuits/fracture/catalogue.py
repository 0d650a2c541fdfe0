"""The studies of this room by name."""

from circuits.fracture.images.study import FractureImagesStudy
from circuits.fracture.study import FractureStudy
from sparsetrain.studies.catalogue import Catalogue

FRACTURE: Catalogue = {
    "fracture": lambda run, study: FractureStudy(config=run, rules=study, settings=study.fracture),
    "fracture_images": lambda run, study: FractureImagesStudy(config=run, rules=study, images=study.fracture_images),
}
