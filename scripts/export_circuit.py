"""Writes a circuit of a finished run for other tools, beside its circuit.json.

python scripts/export_circuit.py run=runs/quickstart/<stamp> task=with_as format=graphml
python scripts/export_circuit.py run=... task=with_as format=node_link
python scripts/export_circuit.py run=... task=with_as format=neuronpedia pair=0 side=positive    # one prompt
python scripts/export_circuit.py run=... task=with_as format=mib
"""

from dataclasses import dataclass
from pathlib import Path

from circuits.circuit import Circuit
from circuits.exports.formats import FORMATS, Sample
from circuits.search.task import heldout_pairs
from circuits.section import SIDES
from circuits.tasks import get_task
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.entry import entry, require
from sparsetrain.export import latest_export, load_model
from sparsetrain.store import write_atomic


@dataclass(frozen=True, kw_only=True)
class ExportCircuitRun:
    """Which circuit, and how it is written."""

    run: str = ""
    """Folder of a finished run."""
    task: str = ""
    """Name of a task whose circuit was found, or file:<pairs.jsonl> as it was searched."""
    format: str = "graphml"
    """graphml, node_link, neuronpedia (one prompt) or mib."""
    pair: int = 0
    """Which held-out pair; for neuronpedia."""
    side: str = "positive"
    """Which prompt of the pair, positive or negative; for neuronpedia."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format={self.format!r} is unknown; allowed: {', '.join(FORMATS)}")
        if self.side not in SIDES:
            raise ValueError(f"side={self.side!r} is unknown; allowed: {', '.join(SIDES)}")


@entry(ExportCircuitRun, "export_circuit", literal=("run", "task"))
def main(config: ExportCircuitRun, run_dir: Path) -> None:
    """Writes the file and prints its path."""
    run = Path(require("run", config.run))
    export = latest_export(run)
    model, tokenizer = load_model(export), Tokenizer.load(export / "tokenizer.json")
    tasks = run / "circuits"
    folder = tasks / get_task(require("task", config.task), tasks).name
    circuit = Circuit.load(folder)
    circuit.hooks(model)  # refuses another model's circuit
    pairs, side = heldout_pairs(circuit, tokenizer, tasks), SIDES.index(config.side)
    sample = Sample(pairs=pairs, pair=config.pair, side=side, token=tokenizer.token)
    chosen = FORMATS[config.format]
    path = folder / chosen.file_name(sample)
    write_atomic(path, chosen.write(model, circuit, sample))
    print(f"{circuit.n_nodes} nodes, {circuit.n_edges} edges: {path}")


if __name__ == "__main__":
    main()
