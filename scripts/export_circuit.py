"""Writes a circuit of a finished run for other graph tools, beside its circuit.json.

python scripts/export_circuit.py run=runs/quickstart/<stamp> task=with_as format=graphml
python scripts/export_circuit.py run=... task=with_as format=node_link
"""

from dataclasses import dataclass
from pathlib import Path

from circuits.circuit import Circuit
from circuits.exports import FORMATS
from sparsetrain.checkpoint import latest_export, load_model, write_atomic
from sparsetrain.entry import entry, require


@dataclass(frozen=True, kw_only=True)
class ExportCircuitRun:
    """Which circuit, and how it is written."""

    run: str = ""
    """Folder of a finished run."""
    task: str = ""
    """Name of a task whose circuit was found."""
    format: str = "graphml"
    """graphml or node_link."""

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format={self.format!r} is unknown; allowed: {', '.join(FORMATS)}")


@entry(ExportCircuitRun, "export_circuit")
def main(config: ExportCircuitRun, run_dir: Path) -> None:
    """Writes the file and prints its path."""
    run = Path(require("run", config.run))
    model = load_model(latest_export(run))
    folder = run / "circuits" / require("task", config.task)
    circuit = Circuit.load(folder)
    circuit.hooks(model)  # refuses another model's circuit
    ending, text = FORMATS[config.format]
    path = folder / f"circuit.{ending}"
    write_atomic(path, text(model, circuit).encode())
    print(f"{circuit.n_nodes} nodes, {circuit.n_edges} edges: {path}")


if __name__ == "__main__":
    main()
