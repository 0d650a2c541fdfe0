"""The planted models as one table: model, pairs, text, and the circuits of smallest size that each holds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import bracket_depth
import string_closing
import two_hop
from behind_sink import EDGES as SINK_EDGES
from behind_sink import NODES as SINK_NODES
from behind_sink import sink_model, sink_pairs
from redundant_heads import MINIMAL, edges_of, redundant_model
from shared_detector import SECOND_ANSWERS, SECOND_EDGES_OF_LAYER_1, SECOND_NODES, two_task_model
from torch import Tensor

from circuits.means import Means, measure_means
from circuits.search.learn import PruneConfig
from circuits.search.task import Pairs
from circuits.tasks.pairs import PairSet
from sparsetrain.model import Transformer

Nodes = dict[str, tuple[int, ...]]
TARGET = 0.15
PRUNE = PruneConfig(n_steps=40, candidate_share=0.5)  # the budget of every search, for circuits, twins and nulls alike
LAYER_0_EDGES = {edge for edge in string_closing.EDGES if edge[0].startswith("blocks.0")}


@dataclass(frozen=True, kw_only=True)
class Planted:
    """One planted model and one of its tasks.

    Args:
        model: makes the model.
        pairs: (n, seed) -> pairs of the task.
        windows: (n, seed) -> token windows that stand for pretraining text.
        minimal: nodes and edges of every minimal circuit; one where the circuit is unique.
        unrelated: pairs of tokens that answer other questions or none; their logits read the random background.
    """

    model: Callable[[], Transformer]
    pairs: Callable[[int, int], PairSet]
    windows: Callable[[int, int], Tensor]
    minimal: Sequence[tuple[Nodes, set[tuple[str, str]]]]
    unrelated: Sequence[tuple[int, int]]

    def means(self, model: Transformer) -> Means:
        """Mean activations of a model over the case's text."""
        return measure_means(model, self.windows(256, 5), source="planted text", weights_sha256="0" * 64)

    def pair_sets(self, change: Callable[[PairSet], PairSet] = lambda pairs: pairs) -> Pairs:
        """Train, fit, val and held-out pairs, each changed in the same way (into those of a twin)."""
        sizes = {"train": 128, "fit": 32, "val": 32, "heldout": 32}
        return Pairs(**{name: change(self.pairs(n, seed)) for seed, (name, n) in enumerate(sizes.items())})


_WORDS = ((8, 15), (11, 20))
PLANTED = {
    "string_closing": Planted(
        model=string_closing.string_closing_model,
        pairs=string_closing.string_pairs,
        windows=string_closing.text_windows,
        minimal=((string_closing.NODES, string_closing.EDGES),),
        unrelated=_WORDS,
    ),
    "bracket_depth": Planted(
        model=bracket_depth.bracket_model,
        pairs=bracket_depth.bracket_pairs,
        windows=bracket_depth.bracket_windows,
        minimal=((bracket_depth.NODES, bracket_depth.EDGES),),
        unrelated=((bracket_depth.ROUND_ONE_MORE, bracket_depth.ROUND_END), (14, 21)),
    ),
    "two_hop": Planted(
        model=two_hop.two_hop_model,
        pairs=two_hop.two_hop_pairs,
        windows=two_hop.two_hop_windows,
        minimal=((two_hop.NODES, two_hop.EDGES),),
        unrelated=((14, 21), (11, 19)),
    ),
    "shared_detector": Planted(
        model=two_task_model,
        pairs=string_closing.string_pairs,
        windows=string_closing.text_windows,
        minimal=((string_closing.NODES, string_closing.EDGES),),
        unrelated=_WORDS,
    ),
    "shared_detector_second": Planted(
        model=two_task_model,
        pairs=lambda n, seed: string_closing.string_pairs(n, seed, answers=SECOND_ANSWERS),
        windows=string_closing.text_windows,
        minimal=((SECOND_NODES, LAYER_0_EDGES | SECOND_EDGES_OF_LAYER_1),),
        unrelated=_WORDS,
    ),
    "behind_sink": Planted(
        model=sink_model,
        pairs=sink_pairs,
        windows=string_closing.text_windows,
        minimal=((SINK_NODES, SINK_EDGES),),
        unrelated=_WORDS,
    ),
    "redundant_heads": Planted(
        model=redundant_model,
        pairs=string_closing.string_pairs,
        windows=string_closing.text_windows,
        minimal=tuple((nodes, LAYER_0_EDGES | edges_of(head)) for head, nodes in enumerate(MINIMAL)),
        unrelated=_WORDS,
    ),
}
UNIQUE = tuple(name for name, planted in PLANTED.items() if len(planted.minimal) == 1)
