"""One run: compose -> data -> train -> export -> circuits -> report; or one study (`study.kind`).

python train.py +experiment=quickstart
python train.py --help
"""

from pathlib import Path

from circuits.recipe.frontier import write_frontier
from circuits.run import KINDS, TrainRun, studies, train_and_read, val_loss
from sparsetrain.entry import entry, load_run
from sparsetrain.job import command_line
from sparsetrain.run import check_resume
from sparsetrain.studies.catalogue import build_study
from sparsetrain.studies.run import run_study


def frontier(sweep: Path) -> None:
    """Writes the page of a search."""
    write_frontier(sweep, KINDS, lambda trial: load_run(TrainRun, trial).selection, command_line())
    print(f"frontier: {sweep / 'report.html'}")


@entry(TrainRun, "train", new_run=True, named=("data.sources", "study.arms"), check=check_resume, searched=frontier)
def main(config: TrainRun, run_dir: Path) -> float | None:
    """Runs every stage; returns the validation loss (nats/token) of a single model, for sweeps."""
    command = command_line()
    if config.study.kind != "none":
        run_study(build_study(studies(command), config, config.study), run_dir, KINDS, command)
        return None
    report = train_and_read(config, run_dir, command)
    return None if report is None else val_loss(report)


if __name__ == "__main__":
    main()
