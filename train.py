"""One run: compose -> data -> train -> export -> circuits -> report.

python train.py +experiment=quickstart
python train.py --help
"""

import shlex
import sys
from pathlib import Path

from circuits.sections import VIEWS as CIRCUIT_VIEWS
from circuits.stage import N_TEXT_WINDOWS, TEXT_SOURCE, TrainRun, describe_task, run_circuits
from sparsetrain.entry import entry
from sparsetrain.report import save_report
from sparsetrain.report.render import render
from sparsetrain.report.sections import VIEWS
from sparsetrain.run import MEANS_SOURCE, log_to_wandb, text_windows, train


@entry(TrainRun, "train", new_run=True)
def main(config: TrainRun, run_dir: Path) -> float | None:
    """Runs every stage; returns the validation loss (nats/token), for sweeps."""
    done = train(config, run_dir, command=shlex.join(["python", "train.py", *sys.argv[1:]]))
    if not done.complete:
        print(f"stopped at step {config.stop_at_step}; continue with ckpt_path=last hydra.run.dir={run_dir}")
        return None
    report = done.report
    if config.circuits.tasks:
        with done.stages("circuits"):
            report["circuits"] = run_circuits(
                done.export,
                run_dir,
                config.circuits,
                lambda: text_windows(done.corpus, config, "means", config.circuits.n_means_windows),
                windows_source=MEANS_SOURCE,
                text=lambda: text_windows(done.corpus, config, "heldout", N_TEXT_WINDOWS),
                text_source=TEXT_SOURCE,
                on_task=lambda name, result: print(describe_task(name, result)),
                progress=config.trainer.progress,
            )
    report["stages"] = done.stages.section()
    save_report(report, run_dir / "report.json")
    views = {**VIEWS, **CIRCUIT_VIEWS}
    paths = render(report, views, run_dir)
    log_to_wandb(done.loggers, report, views, run_dir)
    print(f"report: {paths['html']}")
    return report["training"]["val_loss"]["mixed"]["value"]


if __name__ == "__main__":
    main()
