"""The models that ship with the package (`sparsetrain.shipped`): what they are, what they do, what their circuits say; and how a run becomes one.

1. `member.py`: a `ZooModel`, as its report has it or with its circuits' numbers computed again.
2. `tables.py`: the tables of docs/circuits.md.
3. `card.py`: a model's card; `shipping.py` makes a finished run one of them.
"""

from circuits.zoo.member import ZooModel
from circuits.zoo.shipping import MAX_EXPORT, ship
from circuits.zoo.tables import row_differences, tables

__all__ = ["MAX_EXPORT", "ZooModel", "row_differences", "ship", "tables"]
