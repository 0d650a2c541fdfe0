"""Trainings that start from given weights: which these are, what may differ, where the data go on.

1. `init_from` is a run, whose latest export is meant, or an export. Settings that shape the weights must be those of now; where others
   differ (AbsTopK), the report says so.
2. Weights that are sparse stay so: every tensor goes from its own density to its target, under the schedule of the new training.
3. The optimizer starts afresh, and so does the learning rate's schedule: with the paper's betas its moments remember some twenty steps, and
   the last twenty of a finished schedule were taken at a learning rate of almost 0.
4. Where corpus and seed are those of an ancestor, the stream goes on behind its last batch: no batch comes twice.
5. All this stands in the checkpoints: an interrupted training goes on as it began, whatever has become of the folder it came from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsetrain.export import Ancestor, latest_export, load_model, read_meta
from sparsetrain.model import ModelConfig, Transformer
from sparsetrain.sparsity import InitialDensity, initial_density
from sparsetrain.training.resume import differences, record_of
from sparsetrain.typed import from_dict, to_dict


@dataclass(frozen=True, kw_only=True)
class Start:
    """The given weights that a training starts from."""

    init_from: str
    """As it was asked for."""
    export: str
    """Their folder."""
    ancestors: tuple[Ancestor, ...]
    """The trainings behind the weights, the first one first."""
    density: InitialDensity
    changed: tuple[str, ...] = ()
    """Settings of the model that differ from the last ancestor's, in words."""

    def first_batch(self, corpus_hash: str, seed: int) -> int:
        """Where the stream of that corpus and seed goes on: behind the last batch that an ancestor took of it."""
        same = [one for one in self.ancestors if (one.corpus_hash, one.seed) == (corpus_hash, seed)]
        return max((one.next_batch for one in same), default=0)


def read_start(init_from: str, wanted: ModelConfig) -> Start:
    """What `init_from` gives a model of these settings.

    Raises:
        FileNotFoundError: no such folder, or no export in it.
        ValueError: weights of a model of another shape, whose settings are named; a damaged export.
    """
    export = latest_export(init_from, "init_from")
    given = load_model(export)
    then, now = given.config.shaping, wanted.shaping
    settings = differences(to_dict(given.config), to_dict(wanted))

    def words(keys: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(f"model.{key}={a} there, {b} here" for key, (a, b) in keys.items())

    if then != now:
        named = {key: pair for key, pair in settings.items() if then.get(key) != now.get(key)}
        raise ValueError(
            f"init_from={init_from} is of another model: {', '.join(words(named))}; its weights fit a model of its own shape alone"
        )
    return Start(
        init_from=init_from,
        export=str(export),
        ancestors=lineage(read_meta(export)),
        density=initial_density(given.named_parameters()),
        changed=words(settings),
    )


def lineage(meta: Mapping[str, Any]) -> tuple[Ancestor, ...]:
    """The trainings behind an export, its own last."""
    before = from_dict(tuple[Ancestor, ...], meta.get("lineage", ()))
    return (*before, Ancestor.of(meta))


def start_of(init_from: str | None, wanted: ModelConfig, checkpoint: Path | None) -> Start | None:
    """The start of a training that begins, or of one that goes on from a checkpoint.

    Raises:
        FileNotFoundError: no such folder, or no export in it.
        ValueError: as `read_start`; a checkpoint of a training that started from elsewhere.
    """
    if checkpoint is None:
        return None if init_from is None else read_start(init_from, wanted)
    found = record_of(checkpoint)["recipe"].get("start")
    start = None if found is None else from_dict(Start, found)
    then = None if start is None else start.init_from
    if then != init_from:
        raise ValueError(
            f"the checkpoint is of a training with init_from={then}, here it is {init_from}; resume with init_from={then}"
        )
    return start


def load_weights_(model: Transformer, start: Start, tokenizer: str) -> None:
    """Gives the model the weights that a training starts from.

    Raises:
        ValueError: another tokenizer; weights that are not those that were found before.
    """
    export = Path(start.export)
    given = load_model(export)
    if (export / "tokenizer.json").read_text(encoding="utf-8") != tokenizer:
        raise ValueError(
            f"init_from={start.init_from} reads another tokenizer's tokens than this run; give it the data settings of that run"
        )
    if read_meta(export)["weights_sha256"] != start.ancestors[-1].weights_sha256:
        raise ValueError(f"{export} was written anew while this run began; start it again")
    model.load_state_dict(given.state_dict())
