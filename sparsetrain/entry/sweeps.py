"""Jobs of a sweep (`-m`): what they differ in, and how each of them ended.

One mechanism for all launchers, whether they run jobs in this process, in others or on other machines: each job notes in a file how it
ended, and none of them ends the sweep. Afterwards the command reads the files, names what failed and exits with 1.
"""

import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import OmegaConf

from sparsetrain.job import TRIALS, Job, is_main_process, redact, redacted, short_path, shortened
from sparsetrain.store import write_atomic


def in_sweep() -> bool:
    """Whether the job that is under way is one of a sweep."""
    return HydraConfig.get().mode == RunMode.MULTIRUN


def go_on_(config: Any) -> None:
    """A job that a cluster has started again goes on with what it has left in its folder, or starts anew where its command cannot."""
    if in_sweep() and Jobs.is_again:
        can = "ckpt_path" in config
        config.overwrite = not can
        if can:
            config.ckpt_path = "last"


def varying(arguments: Sequence[str], overrides: Sequence[str]) -> tuple[str, ...]:
    """The overrides of a job that are not those of all jobs.

    Args:
        arguments: of the whole sweep.
        overrides: of the job.
    """
    common = {_parsed(argument) for argument in arguments if not argument.startswith("-")}
    return tuple(override for override in overrides if _parsed(override) not in common)


def _parsed(override: str) -> tuple[str, str]:
    try:
        found = OverridesParser.create().parse_override(override)
        return found.get_key_element(), found.get_value_element_as_str()
    except HydraException:
        return override, ""


def job_of(command: str, arguments: Sequence[str]) -> Job:
    """How the job that is under way was asked for.

    Args:
        command: the whole command line, without secrets.
        arguments: as Hydra has read them.
    """
    hydra = HydraConfig.get()
    overrides = list(hydra.overrides.task)
    if not in_sweep():
        return Job(command=command, overrides=tuple(redact(overrides)))
    return Job(
        command=command,
        overrides=tuple(redact(overrides)),
        varying=tuple(redact(varying(arguments, overrides))),
        sweep=str(hydra.sweep.dir),
        number=int(hydra.job.num),
    )


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended."""

    number: int
    folder: str
    varying: str
    status: Literal["running", "done", "failed"]
    """running: it has not said how it ended; then it was killed."""
    message: str = ""

    def line(self) -> str:
        """For the terminal."""
        return f"job {self.number} ({self.varying or 'no override varies'}) in {self.folder}: {self.message}"


class Jobs(Callback):
    """Notes in `<sweep>/jobs/<number>.json` how every job ends; a failed one becomes a result that is no number.

    Hydra makes one in the process that launches; jobs in other processes get a copy.
    """

    launched: ClassVar[list[Path]] = []
    """Where the jobs of the sweeps that this process has launched note how they end."""
    is_again: ClassVar[bool] = False
    """Whether the job that is under way has been started before: a cluster has queued it again."""

    def __init__(self) -> None:
        self.folder = Path()
        self.arguments: list[str] = []

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        self.folder = Path(config.hydra.sweep.dir).absolute() / "jobs"
        self.arguments = list(config.hydra.overrides.task)
        shutil.rmtree(self.folder, ignore_errors=True)
        Jobs.launched.append(self.folder)

    def on_job_start(self, config: Any, **kwargs: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            # Of several processes the first one alone makes notes, at no known time; these are jobs of SLURM, which counts.
            path = self._path(config)
            Jobs.is_again = path.is_file() if is_main_process() else "SLURM_RESTART_COUNT" in os.environ
            self._note(config, "running", "ended without a word; it was killed, for want of memory or by somebody")

    def on_job_end(self, config: Any, job_return: JobReturn, **kwargs: Any) -> None:
        if config.hydra.mode != RunMode.MULTIRUN:
            return
        if job_return.status == JobStatus.FAILED:
            self._note(config, "failed", str(job_return._return_value))
            # A launcher would raise the first failure, and lose the other jobs' results.
            job_return.status, job_return.return_value = JobStatus.COMPLETED, math.nan
        else:
            self._note(config, "done", "")

    def _path(self, config: Any) -> Path:
        return self.folder / f"{config.hydra.job.num}.json"

    def _note(self, config: Any, status: Literal["running", "done", "failed"], message: str) -> None:
        if not is_main_process():
            return
        number, differs = config.hydra.job.num, varying(self.arguments, list(config.hydra.overrides.task))
        outcome = Outcome(
            number=number,
            folder=short_path(Path(config.hydra.runtime.output_dir)),
            varying=shortened(redact(differs)),
            status=status,
            message=redacted(message),
        )
        write_atomic(self._path(config), json.dumps(asdict(outcome), indent=1) + "\n")


def searches() -> list[Path]:
    """Folders of the last sweeps whose values were chosen from what their jobs have reached."""
    return [folder.parent for folder in Jobs.launched if (folder.parent / TRIALS).is_file()]


def unfinished() -> Iterator[str]:
    """A line for every job of the last sweeps that did not end well, and one before them; forgets these sweeps."""
    for folder in Jobs.launched:
        outcomes = [Outcome(**json.loads(path.read_text(encoding="utf-8"))) for path in folder.glob("*.json")]
        bad = [outcome for outcome in sorted(outcomes, key=lambda o: o.number) if outcome.status != "done"]
        if bad:
            yield f"{len(bad)} of {len(outcomes)} jobs failed"
            yield from (outcome.line() for outcome in bad)
        hide_secrets_(folder.parent / "multirun.yaml")
    Jobs.launched.clear()


def hide_secrets_(path: Path) -> None:
    """Blanks the secrets in what Hydra has written of the sweep's arguments."""
    if path.is_file():
        tree = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        write_atomic(path, OmegaConf.to_yaml(OmegaConf.create(redact(tree))))
