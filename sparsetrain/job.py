"""How a run was asked for: its command line without secrets, what sets it apart from others, the sweep that it belongs to.

1. `Job` stands in every run folder as `job.json`; whoever names or groups runs reads it there, also when the run is gone on with.
2. `redacted` and `redact` blank secrets; everything that is kept of a command line or a config passes through one of them.
3. `Trials`, `trials.json` of a sweep whose values are chosen from what its jobs have reached.
4. `is_main_process`: of several processes that train together, the one that writes.

Knows neither Hydra nor Lightning, so that every room may use it.
"""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sparsetrain.store import write_atomic
from sparsetrain.typed import from_dict, to_dict

BLANK = "<secret>"
TRIALS = "trials.json"
RETURNED = "returned"
"""The objective that is no number of a report: what the command returns."""
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK")
MAX_TITLE, MAX_VALUE = 100, 24  # ours: W&B takes 128 characters for a run's name
ELSEWHERE = {
    "hydra", "cache_dir", "logger", "ckpt_path", "stop_at_step", "overwrite", "experiment", "name", "trainer.progress", "trainer.n_threads", "trainer.device",
}  # fmt: skip
"""Keys and groups that say nothing of what is trained, or that the experiment's name says already."""

_SECRET = r"(?:api_?key|access_?key|private_?key|secret(?:_?key)?|(?:auth_?|access_?)?token|passw(?:or)?d|passphrase|credentials?)"
_SECRET_NAME = re.compile(rf"(?i)(?:^|[^a-z0-9]){_SECRET}$")
_PAIR = re.compile(rf"""(?i)((?:^|[^a-z0-9]){_SECRET}['"]?\s*[=:]\s*)(?!\$\{{)("[^"]*"|'[^']*'|[^\s,}}\]&]+)""")
_FORMS = re.compile(
    r"hf_[A-Za-z0-9]{16,}|wandb_v\d_\w{16,}|sk-[\w-]{16,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}|AKIA[0-9A-Z]{16}"
    r"|AIza[\w-]{30,}|xox[a-z]-[\w-]{10,}|eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]*|(?<=:/)[^\s/@]+:[^\s/@]+(?=@)|(?<=://)[^\s/@]+:[^\s/@]+(?=@)"
)
"""What tokens of well-known services look like, and `user:password` in an address, also where a path was made of it (`https:/...`)."""


def is_main_process() -> bool:
    """Whether this process is the one that writes: the only one, or the first of those that train together."""
    names = (*RANKS, "SLURM_PROCID") if _n_tasks() > 1 else RANKS
    return all(os.environ.get(name, "0") in ("", "0") for name in names)


def n_launched() -> int:
    """How many processes torchrun, or srun, has started together, this one included."""
    return int(os.environ.get("WORLD_SIZE") or 1) if "TORCHELASTIC_RUN_ID" in os.environ else _n_tasks()


def _n_tasks() -> int:
    # SLURM sets a rank in every shell that it opens; it means something where one step has several tasks.
    return int(os.environ.get("SLURM_STEP_NUM_TASKS") or 1)


def is_secret(name: str) -> bool:
    """Whether what stands under a key, or in an environment variable, of this name is to be kept secret."""
    return _SECRET_NAME.search(name) is not None


def redacted(text: str) -> str:
    """The text with `<secret>` in the place of secrets.

    These are what is given to a key with a telling name (`token=...`, `password: ...`), what looks like a token of a well-known
    service, and the values of environment variables with telling names. An interpolation (`${oc.env:...}`) is no secret.
    """
    for name, value in os.environ.items():
        if len(value) >= 8 and is_secret(name):
            text = text.replace(value, BLANK)
    return _PAIR.sub(rf"\1{BLANK}", _FORMS.sub(BLANK, text))


def redact(tree: Any, secret: bool = False) -> Any:
    """Plain data with `<secret>` in the place of secrets, in all texts and under keys with a telling name."""
    if isinstance(tree, Mapping):
        return {key: redact(value, secret or is_secret(str(key))) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [redact(value, secret) for value in tree]
    if not isinstance(tree, str):
        return tree
    return BLANK if secret and tree and not tree.startswith("${") else redacted(tree)


def command_line() -> str:
    """What this process was called with, without secrets, as a person would type it again."""
    program, *arguments = sys.argv
    path = short_path(Path(program).absolute())
    return shlex.join(["python", Path(path).name if os.path.isabs(path) else path, *map(redacted, arguments)])


def short_path(path: Path) -> str:
    """A path from the current folder where it lies in there, else as it is."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


@dataclass(frozen=True, kw_only=True)
class Job:
    """How a run was asked for, without secrets."""

    command: str
    overrides: tuple[str, ...] = ()
    """Those that the command line gave, or the sweep gave to this job."""
    varying: tuple[str, ...] = ()
    """Overrides in which the jobs of the sweep differ."""
    sweep: str | None = None
    """Folder of the sweep; None: a run of its own."""
    number: int | None = None
    """Of the job in its sweep, from 0 on."""

    def title(self, name: str) -> str:
        """A short name that tells the run from others: what varies in its sweep, or else the experiment and what was changed of it."""
        if self.sweep is not None and self.varying:
            return shortened(self.varying)
        number = "" if self.number is None else str(self.number)
        return f"{name} {number} {shortened(self.overrides)}".replace("  ", " ").strip()[:MAX_TITLE]

    def save(self, run_dir: Path) -> None:
        """Writes `job.json`; that of a run that is gone on with stays as it is."""
        if not (path := run_dir / "job.json").is_file():
            write_atomic(path, json.dumps(to_dict(self), indent=1) + "\n")

    @classmethod
    def load(cls, run_dir: Path) -> "Job":
        """How the run in a folder was asked for; a run that was started from Python has no command."""
        path = run_dir / "job.json"
        return from_dict(cls, json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else cls(command="")


TrialState = Literal["complete", "pruned", "fail", "running"]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A job of a search. pruned: given up, as its validation loss was behind."""

    number: int
    """Also the name of its folder in the sweep's."""
    state: TrialState
    overrides: dict[str, str]
    values: tuple[float, ...] | None
    """Of the objectives, in their order; None where it has not reached its end."""
    rungs: dict[str, float]
    """Share of the steps -> validation loss there."""


@dataclass(frozen=True, kw_only=True)
class Trials:
    """What a search has tried."""

    objectives: tuple[str, ...]
    """What is minimised: places of numbers in a job's report.json, or `RETURNED`."""
    is_whole: bool
    """Whether it has had all its trials."""
    trials: tuple[Trial, ...]

    def save(self, folder: Path) -> None:
        """Writes `trials.json` into the sweep's folder."""
        write_atomic(folder / TRIALS, json.dumps(to_dict(self), indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Trials":
        """Reads it."""
        return from_dict(cls, json.loads((folder / TRIALS).read_text(encoding="utf-8")))


def shortened(overrides: Iterable[str]) -> str:
    """Overrides for a title: the last part of each key and the value; those that only say where a run goes are left out."""
    parts: list[str] = []
    for override in overrides:
        key, sign, value = override.lstrip("+").partition("=")
        if key.split(".")[0] not in ELSEWHERE and key not in ELSEWHERE:
            value = value if len(value) <= MAX_VALUE else value[: MAX_VALUE - 3] + "..."
            parts.append(key.split(".")[-1] + sign + value)
    return " ".join(parts)[:MAX_TITLE]
