"""One run: compose -> data -> train -> export -> circuits -> report.

python train.py +experiment=quickstart
python train.py --help
"""

import shlex
import sys
from pathlib import Path

from circuits.run import TrainRun, run
from sparsetrain.entry import entry


@entry(TrainRun, "train", new_run=True)
def main(config: TrainRun, run_dir: Path) -> float | None:
    """Runs every stage; returns the validation loss (nats/token) of a single model, for sweeps."""
    report = run(config, run_dir, command=shlex.join(["python", "train.py", *sys.argv[1:]]))
    return None if report is None or "training" not in report else report["training"]["val_loss"]["mixed"]["value"]


if __name__ == "__main__":
    main()
