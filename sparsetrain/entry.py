"""The one file of the package that knows Hydra: from a command line to a typed config and a run folder.

`entry(schema, config_name)` turns `main(config, run_dir)` into a command: Hydra composes `conf/<config_name>.yaml` over the
dataclass defaults, the result is checked strictly and saved as `config.yaml`, and what a user got wrong ends as one
line on stderr with exit code 1 (the whole traceback with HYDRA_FULL_ERROR=1).
"""

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from sparsetrain.store import write_atomic
from sparsetrain.typed import from_dict, key_paths, to_dict, unknown_key

T = TypeVar("T")
USER_ERRORS = (ValueError, KeyError, OSError, FloatingPointError, HydraException, OmegaConfBaseException)
"""What a user's input or machine can cause. Anything else is a bug and keeps its traceback."""


def quieten() -> None:
    """Silences what libraries tell their own authors; warnings of this project still show."""
    for module in ("lightning", "wandb", "torch", "pydantic", "datasets"):
        warnings.filterwarnings("ignore", module=module)
    for name in ("lightning.pytorch", "lightning.fabric", "wandb"):
        logging.getLogger(name).setLevel(logging.ERROR)


def conf_dir() -> Path:
    """The folder of yaml files: inside the package in a wheel, beside it in a checkout."""
    here = Path(__file__).resolve().parent
    inside, beside = here / "conf", here.parent / "conf"
    return inside if inside.is_dir() else beside


def explain(error: BaseException, known: list[str]) -> str:
    """One line for a user's mistake."""
    if isinstance(error, KeyError):
        return str(error.args[0])
    if isinstance(error, OSError) and error.filename:
        return f"{error.strerror}: {error.filename}"
    text = str(error)
    for part in re.findall(r"Could not override '([^']+)'", text):
        if "No match in the defaults list" not in text:
            return unknown_key(part.lstrip("+~"), known)
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if line and not line.startswith(("full_key:", "object_type=", "reference_type="))]
    return " ".join(kept) or type(error).__name__


def replacing(arguments: Sequence[str], named: Sequence[str]) -> list[str]:
    """The command line for Hydra, which merges mappings: one given whole (`data.sources={...}`) takes the default's place."""
    found: list[str] = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        found += [f"~{key}", f"+{argument}"] if key in named and value.lstrip().startswith("{") else [argument]
    return found


def drop_defaults_(cfg: DictConfig, base: DictConfig, named: Sequence[str], overrides: Sequence[str]) -> None:
    """Where a yaml file names entries of a mapping that are not its default ones, these go; entries added by `+` are no reason."""
    for key in named:
        entries, default = OmegaConf.select(cfg, key), set(OmegaConf.select(base, key))
        added = {re.split(r"[.=]", o.removeprefix(f"+{key}."))[0] for o in overrides if o.startswith(f"+{key}.")}
        if f"~{key}" not in overrides and set(entries) - default - added:
            OmegaConf.set_struct(entries, False)
            for name in default & set(entries):
                del entries[name]


def help_text(description: str) -> str:
    """What `--help` prints, as Hydra's template: the description of the command (its file's docstring) and all keys with their defaults."""
    return description.strip().replace("$", "$$") + "\n\n== Keys (override with key=value) ==\n$CONFIG\n"


def entry(
    schema: type[T], config_name: str, *, folder: str = "", new_run: bool = False, named: Sequence[str] = ()
) -> Callable[[Callable[[T, Path], Any]], Callable[[], None]]:
    """Decorator: `main(config: schema, run_dir) -> float | None` becomes a Hydra command without arguments.

    Args:
        schema: frozen dataclass with a default for every field but those that yaml must choose.
        config_name: file in `conf/` without its ending; its defaults list must begin with `base_<config_name>`.
        folder: of `conf/` that holds the file, for a command with a key that is a group of `conf/` itself: Hydra takes any
            `key=value` whose key is a group for the choice of a file.
        new_run: whether the command makes a run folder; then what was composed is saved there as `config.yaml`, with
            interpolations, hence secrets from the environment, left unresolved.
        named: mappings in which whoever names entries replaces the default ones, in a file as on the command line;
            `+<mapping>.<name>=...` adds one, `<mapping>.<name>.<key>=...` changes a default one.
    """
    base = to_dict(schema())

    def decorate(main: Callable[[T, Path], Any]) -> Callable[[], None]:
        helped = {"hydra": {"help": {"template": help_text(main.__globals__["__doc__"] or "")}}}
        ConfigStore.instance().store(name=f"base_{config_name}", node={**base, **helped})
        # Read before Hydra is told to let errors through; jobs that another process runs have it set and raise.
        whole_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
        failures: list[str] = []
        arguments: list[str] = []

        def fail(error: Exception) -> None:
            failures.append(explain(error, key_paths(base)))
            print(f"error: {failures[-1]}", file=sys.stderr)

        def task(cfg: DictConfig) -> Any:
            sys.argv = [sys.argv[0], *arguments]
            try:
                drop_defaults_(cfg, OmegaConf.create(base), named, HydraConfig.get().overrides.task)
                config = from_dict(schema, OmegaConf.to_container(cfg, resolve=True))  # pyright: ignore[reportArgumentType]
                run_dir = Path(HydraConfig.get().runtime.output_dir)
                if new_run:
                    write_atomic(run_dir / "config.yaml", OmegaConf.to_yaml(cfg, resolve=False).encode())
                return main(config, run_dir)
            except USER_ERRORS as error:
                # Jobs of a sweep in this process go on without the failed one. In another process the launcher has to know.
                if whole_traceback or "BasicLauncher" not in HydraConfig.get().launcher._target_:
                    raise
                fail(error)
                return None

        task.__module__ = main.__module__

        @wraps(main)
        def command() -> None:
            failures.clear()
            arguments[:] = sys.argv[1:]
            sys.argv = [sys.argv[0], *replacing(arguments, named)]
            quieten()
            run = hydra.main(config_path=str(conf_dir() / folder), config_name=config_name, version_base="1.3")(task)
            # Hydra prints errors in its own several lines unless told to let them through.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            try:
                run()
            except USER_ERRORS as error:
                if whole_traceback:
                    raise
                fail(error)
            except KeyboardInterrupt:
                print("interrupted; continue with ckpt_path=last and the same hydra.run.dir", file=sys.stderr)
                sys.exit(130)
            finally:
                sys.argv = [sys.argv[0], *arguments]
                os.environ["HYDRA_FULL_ERROR"] = "1" if whole_traceback else "0"
            if failures:
                sys.exit(1)

        return command

    return decorate


def load_run(schema: type[T], run_dir: Path) -> T:
    """The part of a run's `config.yaml` that `schema` describes; sections of other stages are left aside.

    Raises:
        FileNotFoundError: no config.yaml there.
        ValueError: a config of another version of the schema.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(2, "no config.yaml in this run; was it made by train.py?", str(run_dir))
    tree = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    assert isinstance(tree, dict)
    return from_dict(schema, {f.name: tree[f.name] for f in fields(schema) if f.name in tree})  # pyright: ignore[reportArgumentType]


def require(key: str, value: str) -> str:
    """A value that has no default.

    Raises:
        ValueError: it is empty.
    """
    if not value:
        raise ValueError(f"{key}= is missing; give {key}=<value> (see --help)")
    return value


def prompt_text(prompt: str) -> str:
    r"""The prompt a user typed: `@path` reads a file, otherwise \n and \t stand for line break and tab.

    Raises:
        ValueError: it is empty.
    """
    require("prompt", prompt)
    if prompt.startswith("@"):
        return Path(prompt[1:]).read_text(encoding="utf-8")
    return prompt.replace("\\n", "\n").replace("\\t", "\t")
