"""Claims about adaptive sparsification that several studies make, each of its own familiar and shifted input.

What a study reads of a place has the methods that the claims ask for; each gives a number in a seed, or an estimate over items:

| method                       | effect, above 0 for the claim                                                             |
|------------------------------|-------------------------------------------------------------------------------------------|
| `natural()`                  | octaves fewer channels that shifted input uses untouched                                  |
| `best(how=, outcome=)`       | octaves fewer channels that shifted input is answered best with                           |
| `enough()`                   | octaves fewer channels that are enough for shifted input                                  |
| `cost(side, by)`             | accuracy of a side at its own density minus that at the other side's                      |
| `cost_in_loss()`             | loss of shifted input at the other side's number of channels minus that at its own        |
| `gain()`                     | accuracy of shifted input at its own best k minus that at the other side's                |
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from sparsetrain.hooks import hook_points
from sparsetrain.stats.intervals import Estimate, Floats
from sparsetrain.studies.readings import RHO_MARGIN
from sparsetrain.studies.study import Hypothesis, Ruling
from sparsetrain.studies.surfaces import level_grid

FINAL_PLACE, ALL_LAYERS = "final norm", "all layers"
SHIFTED = "shifted"
ENOUGH = 0.95
"""Share of the best accuracy that counts as enough. ours"""
N_SPLITS = 200
"""Random halvings behind `gain`. ours"""
MARGINS = {"octaves": 0.5, "fraction": 0.02, "nats": 0.05, "rho": RHO_MARGIN}
"""Smallest effects of interest, by unit: of a best number of channels (log2), of accuracy, of loss. ours"""
NATURAL_MARGIN = 0.1
"""The same of the number of channels used untouched, octaves. ours"""

By = Literal["topk", "temperature"]
Effect = float | Estimate


@dataclass(frozen=True, kw_only=True)
class AdaptationClaims:
    """The claims about every place.

    Args:
        known: what input of the side that is not shifted is called: "ID".
        its: the same as an owner: "ID's".
        side: its key.
        margins: smallest effects of interest, by unit.
    """

    known: str
    its: str
    side: str
    margins: Mapping[str, float]

    def asked(self, key: str, claim: str, unit: str, effect: Callable[[Any], Effect]) -> Hypothesis:
        """An effect that is expected."""
        margin = self.margins[unit]
        return Hypothesis(key=key, claim=claim, expected="positive", effect=effect, unit=unit, margin=margin)

    def absent(self, key: str, claim: str, unit: str, effect: Callable[[Any], Effect]) -> Hypothesis:
        """A control: no effect is expected."""
        return replace(self.asked(key, f"control: {claim}", unit, effect), expected="none")

    def natural(self) -> Hypothesis:
        """What is seen untouched."""
        claim = "untouched, shifted input uses fewer channels"
        return replace(self.asked("natural", claim, "octaves", lambda r: r.natural()), margin=NATURAL_MARGIN)

    def main(self) -> tuple[Hypothesis, ...]:
        """Accuracy by the number of channels, and held."""
        known, its = self.known, self.its
        return (
            self.asked("best k", f"shifted input is answered best with fewer channels (log2 of best k, {known} minus shifted)", "octaves", lambda r: r.best()),
            self.asked("enough k", f"fewer channels are enough for shifted input ({ENOUGH:.0%} of its best accuracy from there up to the best k)", "octaves", lambda r: r.enough()),
            self.asked("held", f"shifted input is answered worse with {its} number of channels than with its own (AbsTopK)", "fraction", lambda r: r.cost(SHIFTED)),
            self.asked("held, temperature", f"shifted input is answered worse at {its} density than at its own (temperature)", "fraction", lambda r: r.cost(SHIFTED, "temperature")),
            self.asked("gain", f"shifted input is answered better with its best k than with {its} (chosen on other items)", "fraction", lambda r: r.gain()),
        )  # fmt: skip

    def beside(self) -> tuple[Hypothesis, ...]:
        """The same in loss, and the converse."""
        known, its, side = self.known, self.its, self.side
        return (
            self.asked("best k, loss", "the loss of shifted input is smallest with fewer channels", "octaves", lambda r: r.best(outcome="loss")),
            self.asked("held, loss", f"the loss of shifted input is higher with {its} number of channels than with its own (AbsTopK)", "nats", lambda r: r.cost_in_loss()),
            self.asked("converse", f"control: {known} input is answered worse with shifted input's number of channels than with its own (AbsTopK)", "fraction", lambda r: r.cost(side)),
            self.asked("converse, temperature", f"control: {known} input is answered worse at shifted input's density than at its own (temperature)", "fraction", lambda r: r.cost(side, "temperature")),
        )  # fmt: skip

    def random(self) -> Hypothesis:
        """The control in which channels are drawn."""
        claim = "with channels kept at random, both are answered best with as many channels"
        return self.absent("random best k", claim, "octaves", lambda r: r.best(how="random"))

    def ruling(self) -> Ruling:
        """Adaptive or not."""
        return Ruling(
            name="adaptive",
            statement=f"shifted input does best with fewer channels, and worse when held at the density of {self.known} input",
            needs=("best k", "held", "held, temperature"),
        )


def levels_at(model: nn.Module, points: tuple[str, ...], per_octave: int) -> Floats:
    """Numbers of channels tried at hook points of one width."""
    return level_grid(hook_points(model)[points[0]].width, per_octave)
