"""The one room that knows Hydra: from a command line to a typed config and a run folder.

`entry(schema, config_name)` turns `main(config, run_dir)` into a command: Hydra composes `conf/<config_name>.yaml` over the
dataclass defaults, the result is checked strictly and saved as `config.yaml`, and whatever goes wrong ends as one line on
stderr with exit code 1 (the whole traceback with HYDRA_FULL_ERROR=1).

1. `arguments.py`: what a person types and what Hydra's grammar reads; `agent.py`: what a W&B sweep agent passes.
2. `failures.py`: the line, and its record in the run folder; `sweeps.py`: how the jobs of a sweep end; `tune.py`: their values chosen by Optuna.
3. `saved.py`: the config of a run that is there, read back.
4. `targets.py`: nothing is called because a config says so.
5. A new run owns its folder before anything in it is touched (`sparsetrain/folder.py`).
"""

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import typing
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, Literal, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from sparsetrain.entry.agent import translated
from sparsetrain.entry.arguments import drop_defaults_, read_literally, replacing
from sparsetrain.entry.failures import RECORD, JobError, ending, lasting_streams
from sparsetrain.entry.saved import load_run, load_settings, read_config, take_from_run_
from sparsetrain.entry.sweeps import Jobs, go_on_, in_sweep, job_of, searches, unfinished
from sparsetrain.entry.targets import guarded
from sparsetrain.entry.tune import register
from sparsetrain.folder import begin, own
from sparsetrain.interrupt import Interrupted, asking_to_requeue, in_submitit, raising, requeue
from sparsetrain.job import command_line, is_main_process, n_launched, redact
from sparsetrain.shipped import is_shipped, working_copy
from sparsetrain.store import remove_temporary, write_atomic
from sparsetrain.typed import from_dict, key_paths, to_dict

__all__ = [
    "conf_dir",
    "drop_defaults_",
    "entry",
    "load_run",
    "load_settings",
    "read_config",
    "replacing",
    "require",
    "stamp",
    "take_from_run_",
]

T = TypeVar("T")
GO_ON = "continue with ckpt_path=last and the same hydra.run.dir"
AGAIN = "run the same command again"


def quieten() -> None:
    """Silences what libraries tell their own authors; warnings of this project still show."""
    for module in ("lightning", "wandb", "torch", "pydantic", "datasets"):
        warnings.filterwarnings("ignore", module=module)
    for name in ("lightning.pytorch", "lightning.fabric", "wandb"):
        logging.getLogger(name).setLevel(logging.ERROR)


def conf_dir() -> Path:
    """The folder of yaml files: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside, beside = package / "conf", package.parent / "conf"
    return inside if inside.is_dir() else beside


RUNS = ("run", "a", "b")
"""Keys of commands that name a run's folder to work in."""
STAMP = "SPARSETRAIN_STAMP"
"""Tells the processes that this one starts the name of their common folder."""


def stamp() -> str:
    """Name of a new run's folder: when it was started, and four signs that tell runs of one second apart.

    Raises:
        ValueError: one of several processes that a launcher has started: each would choose another name.
    """
    if is_main_process() and n_launched() == 1:
        os.environ[STAMP] = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{secrets.token_hex(2)}"
    elif n_launched() > 1 or STAMP not in os.environ:
        raise ValueError("processes started by torchrun or srun share one folder: give hydra.run.dir=<folder>")
    return os.environ[STAMP]


OmegaConf.register_new_resolver("stamp", stamp, use_cache=True, replace=True)


def help_text(description: str) -> str:
    """What `--help` prints, as Hydra's template: the description of the command (its file's docstring) and all keys with their defaults."""
    return description.strip().replace("$", "$$") + "\n\n== Keys (override with key=value) ==\n$CONFIG\n"


def entry(
    schema: type[T],
    config_name: str,
    *,
    folder: str = "",
    shares: Sequence[str] = (),
    new_run: bool = False,
    run: Literal["untouched", "read", "changed"] = "untouched",
    named: Sequence[str] = (),
    literal: Sequence[str] = (),
    as_run: Sequence[str] = (),
    check: Callable[[T, Path], object] = lambda config, run_dir: None,
    searched: Callable[[Path], object] = lambda sweep: None,
) -> Callable[[Callable[[T, Path], Any]], Callable[[], None]]:
    """Decorator: `main(config: schema, run_dir) -> float | None` becomes a Hydra command without arguments.

    Args:
        schema: frozen dataclass with a default for every field but those that yaml must choose.
        config_name: file in `conf/` without its ending; its defaults list must begin with `base_<config_name>`.
        folder: of `conf/` that holds the file, for a command with a key that is a group of `conf/` itself: Hydra takes any
            `key=value` whose key is a group for the choice of a file.
        shares: files of `conf/` that the defaults list of a command in a folder of its own names as `shared/<name>@<package>`.
        new_run: whether the command makes a run folder, which then is its own; what was composed is saved there as `config.yaml`,
            with interpolations, hence secrets from the environment, left unresolved. The schema has `overwrite`, and `ckpt_path` if
            the command can go on with what a folder holds.
        run: what the command does to the folder of its key `run`: the folder is held meanwhile.
        named: mappings in which whoever names entries replaces the default ones, in a file as on the command line;
            `+<mapping>.<name>=...` adds one, `<mapping>.<name>.<key>=...` changes a default one.
        literal: keys whose values on the command line are text as they stand: prompts, paths, names.
        as_run: keys whose values are those of the run of the key `run`, where it has them and the command line gives no other.
        check: called once the folder is owned and before anything in it is touched; raises where the run cannot work.
        searched: called with the folder of a sweep whose values Optuna has chosen, when it ends or is interrupted.
    """
    base = to_dict(schema())
    lists = [name for name, hint in typing.get_type_hints(schema).items() if hint is not str]

    def claim(held: ExitStack, config: Any, run_dir: Path) -> bool:
        """Owns the folders that the command works in; whether `run_dir` is this process's."""
        if run != "untouched" and config.run and Path(config.run).is_dir():
            held.enter_context(own(Path(config.run), shared=run == "read"))
        if not new_run or not is_main_process():
            return False
        held.enter_context(own(run_dir))
        check(config, run_dir)
        checkpoint = getattr(config, "ckpt_path", None)
        begin(
            run_dir,
            is_mine=lambda path: is_config_of(path, base.keys()),
            go_on=goes_on(checkpoint, run_dir) if "ckpt_path" in base else None,
            overwrite=config.overwrite,
        )
        remove_temporary(run_dir)
        (run_dir / RECORD).unlink(missing_ok=True)
        return True

    def decorate(main: Callable[[T, Path], Any]) -> Callable[[], None]:
        hydras = {
            "help": {"template": help_text(main.__globals__["__doc__"] or "")},
            "callbacks": {"jobs": {"_target_": f"{Jobs.__module__}.{Jobs.__name__}"}},
        }
        node = {**base, "hydra": hydras}
        ConfigStore.instance().store(name=f"base_{config_name}", node=node)
        for name in shares:
            shared = OmegaConf.load(conf_dir() / f"{name}.yaml")
            ConfigStore.instance().store(group="shared", name=Path(name).name, node=shared)
        # Read before Hydra is told to let errors through; jobs that another process runs have it set and raise.
        whole_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
        failures: list[str] = []
        arguments: list[str] = []
        read_arguments: list[str] = []
        # This closure travels to jobs in other processes and on other machines, which thus know that they are not it.
        launcher = this_process()

        def fail(error: Exception, folder: Path | None = None) -> None:
            failures.append(ending(error, key_paths(base), folder))
            print(f"error: {failures[-1]}", file=sys.stderr)

        def task(cfg: Any) -> Any:
            sys.argv = list(arguments)
            if not is_main_process():
                logging.disable(logging.WARNING)  # what the first process says as well, and into the same train.log
            run_dir, is_own = Path(HydraConfig.get().runtime.output_dir), False
            with ExitStack() as held:
                if this_process() != launcher:
                    lasting_streams()
                    quieten()
                    held.enter_context(raising())
                try:
                    if new_run and not in_sweep() and not HydraConfig.get().run.dir:
                        raise ValueError("hydra.run.dir= is empty; give a folder, or leave it out")
                    overrides = HydraConfig.get().overrides.task
                    drop_defaults_(cfg, OmegaConf.create(base), named, overrides)
                    of_run = None
                    if as_run and cfg.run:
                        of_run = Path(working_copy(cfg.run, "run") if is_shipped(cfg.run) else cfg.run)
                        take_from_run_(cfg, as_run, of_run, overrides)
                    if new_run:
                        go_on_(cfg)
                    try:
                        config = with_copies(from_dict(schema, OmegaConf.to_container(cfg, resolve=True)))
                    except ValueError as error:
                        if of_run is None or not any(key in str(error) for key in as_run):
                            raise
                        raise ValueError(f"{error}; what was not typed is of {of_run / 'config.yaml'}: give the key another value") from None  # fmt: skip
                    is_own = claim(held, config, run_dir)
                    if is_own:
                        composed = redact(OmegaConf.to_container(cfg, resolve=False))
                        write_atomic(
                            run_dir / "config.yaml",
                            OmegaConf.to_yaml(OmegaConf.create(composed)).encode(errors="surrogateescape"),
                        )
                        job_of(command_line(), read_arguments).save(run_dir)
                    return main(config, run_dir)
                except Exception as error:
                    if whole_traceback:
                        raise
                    fail(error, run_dir if is_own else None)
                    if in_sweep():
                        raise JobError(failures[-1]) from None
                    return None
                except BaseException as stop:
                    # A sweep stops where it was launched; a job that is stopped elsewhere is one of several.
                    if this_process() == launcher:
                        raise
                    stopped = stop
            # Here the folder is free, and signals are handled as before.
            if isinstance(stopped, SystemExit) and not stopped.code:
                return None
            raise JobError(leave_job(stopped))

        task.__module__ = main.__module__

        @wraps(main)
        def command() -> None:
            failures.clear()
            program, *typed = arguments[:] = sys.argv
            lasting_streams()
            quieten()
            hydra_main = hydra.main(config_path=str(conf_dir() / folder), config_name=config_name, version_base="1.3")
            # Hydra prints errors in its own several lines unless told to let them through.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            try:
                typed = translated(typed, named, by_agent="WANDB_SWEEP_ID" in os.environ)
                read_arguments[:] = replacing(list(read_literally(typed, literal, lists, base)), named)
                sys.argv = [program, *read_arguments]
                register()
                with raising(), guarded(node):
                    hydra_main(task)()
            except Interrupted as stopped:
                sys.exit(leave(stopped, GO_ON if "ckpt_path" in base else AGAIN))
            except SystemExit as ended:
                if not ended.code and not is_main_process():
                    # In the usual way gloo's threads can abort a rank that ends.
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(0)
                raise
            except Exception as error:
                if whole_traceback:
                    raise
                fail(error)
            finally:
                sys.argv = list(arguments)
                os.environ["HYDRA_FULL_ERROR"] = "1" if whole_traceback else "0"
                for sweep in searches():
                    try:
                        searched(sweep)
                    except Exception as error:
                        if whole_traceback:
                            raise
                        fail(error)
                for line in unfinished():
                    failures.append(line)
                    print(line, file=sys.stderr)
            if failures:
                sys.exit(1)

        return command

    return decorate


def this_process() -> tuple[str, int]:
    """Tells this process from those on other machines too."""
    return socket.gethostname(), os.getpid()


def leave(stopped: Interrupted, advice: str = GO_ON) -> int:
    """Says why a command stops and how to go on, and queues its job again where SLURM has asked for that; returns the exit code."""
    print(f"{stopped}; {advice}", file=sys.stderr)
    if stopped.signum == asking_to_requeue() and is_main_process() and not in_submitit():
        try:
            print(f"job {requeue()} is queued again", file=sys.stderr)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"error: the job is not queued again ({error}); submit it once more", file=sys.stderr)
    return stopped.exit_code


def leave_job(stopped: BaseException) -> str:
    """Says why a job of a sweep stops in a process of its own; returns the line, unless submitit queues the job again: it ends this process.

    Raises:
        SystemExit: by submitit, which has queued it again.
    """
    line = f"{stopped or type(stopped).__name__}; {GO_ON}"
    print(line, file=sys.stderr)
    if in_submitit() and isinstance(stopped, Interrupted) and stopped.signum == asking_to_requeue():
        own = signal.getsignal(stopped.signum)
        assert callable(own), "submitit has installed its handler"
        try:
            own(stopped.signum, None)
        except Exception as error:  # why it does not queue it again, for instance that time was up too often
            return f"{line} ({error})"
    return line


def goes_on(ckpt_path: str | None, run_dir: Path) -> bool:
    """Whether a training goes on with what its own folder holds."""
    return ckpt_path is not None and (
        ckpt_path == "last" or Path(ckpt_path).resolve().is_relative_to(run_dir.resolve())
    )


def is_config_of(path: Path, keys: typing.Collection[str]) -> bool:
    """Whether a config.yaml has keys of this command alone."""
    try:
        return set(read_config(path.parent)) <= set(keys)
    except (OSError, ValueError):
        return False


def with_copies(config: T) -> T:
    """The config with folders in place of models that ship with the package (`run=zoo:<name>`, see `sparsetrain.shipped`)."""
    named = {key: getattr(config, key, None) for key in RUNS}
    copies = {key: str(working_copy(value, key)) for key, value in named.items() if value and is_shipped(value)}
    return replace(config, **copies)  # pyright: ignore[reportArgumentType]


def require(key: str, value: str) -> str:
    """A value that has no default.

    Raises:
        ValueError: it is empty.
    """
    if not value:
        raise ValueError(f"{key}= is missing; give {key}=<value> (see --help)")
    return value
