"""Configs of finished runs: what a run's `config.yaml` says, read back as it was written or as this version understands it."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from sparsetrain.job import redact
from sparsetrain.typed import from_dict, one_line, with_defaults

T = TypeVar("T")


def load_run(schema: type[T], run_dir: Path) -> T:
    """The part of a run's `config.yaml` that `schema` describes; sections of other stages are left aside.

    Raises:
        FileNotFoundError: no config.yaml there.
        ValueError: a file that is no config, or one of another version of the schema.
    """
    tree = OmegaConf.to_container(read_config(run_dir), resolve=True)
    assert isinstance(tree, dict)
    known = {f.name: tree[f.name] for f in fields(schema) if f.name in tree}  # pyright: ignore[reportArgumentType]
    if not known:
        raise ValueError(f"{run_dir / 'config.yaml'} is no config of train.py: it has none of its keys")
    return from_dict(schema, known)


def read_config(run_dir: Path) -> DictConfig:
    """A run's `config.yaml` as it was written, interpolations unresolved.

    Raises:
        FileNotFoundError: no config.yaml there.
        ValueError: a file that is no config; one line.
    """
    path = run_dir / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(2, "no config.yaml in this run; was it made by train.py?", str(run_dir))
    try:
        config = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        raise ValueError(f"{path} cannot be read as a config: {one_line(error)}") from None
    if not isinstance(config, DictConfig):
        raise ValueError(f"{path} holds no keys; a run's config is a mapping of sections")
    return config


def load_settings(run_dir: Path, schemas: Mapping[str, type]) -> tuple[dict[str, Any], dict[str, Any]]:
    """All settings of a run of any kind, twice.

    Args:
        run_dir: its folder.
        schemas: key that only one kind of run has -> the config of that kind.

    Returns:
        As written; and as this version reads them: interpolations resolved, today's defaults for keys that the file lacks. What asks
        for the environment stays as written, so that no secret is shown, and so does what cannot be resolved here.

    Raises:
        FileNotFoundError, ValueError: as `read_config`.
    """
    config = read_config(run_dir)
    written = redact(OmegaConf.to_container(config, resolve=False))
    literal = OmegaConf.create(_without_environment(written))
    found = _resolved(written, literal)
    schema = next((schema for key, schema in schemas.items() if key in found), None)
    return written, found if schema is None else with_defaults(schema, found)  # pyright: ignore[reportReturnType]


def take_from_run_(config: DictConfig, keys: Sequence[str], run_dir: Path, overrides: Sequence[str]) -> None:
    """Sets keys of a command's config to what a run has there, but for what its command line says.

    Args:
        config: as composed.
        keys: dotted ones; those that the run has not stay, and so do keys below them that only another version of it knew.
        run_dir: the run's folder; one without config.yaml has nothing to give.
        overrides: the command line.

    Raises:
        ValueError: a file that is no config.
    """
    if not (run_dir / "config.yaml").is_file():
        return
    written = OmegaConf.to_container(read_config(run_dir), resolve=False)
    literal = OmegaConf.create(_without_environment(written))
    for key in keys:
        found = OmegaConf.select(literal, key)
        if found is not None:
            plain = OmegaConf.to_container(found, resolve=True) if OmegaConf.is_config(found) else found
            OmegaConf.update(config, key, _alike(OmegaConf.select(config, key), plain))
    for typed in OverridesParser.create().parse_overrides(list(overrides)):
        name, value = typed.key_or_group, typed.value()
        for key in () if typed.is_delete() else keys:
            if f"{name}.".startswith(f"{key}."):
                OmegaConf.update(config, name, value, merge=True)
            elif key.startswith(f"{name}.") and isinstance(value, dict):  # given in a mapping
                part = OmegaConf.select(OmegaConf.create(value), key.removeprefix(f"{name}."))
                if part is not None:
                    OmegaConf.update(config, key, part, merge=True)


def _alike(here: Any, there: Any) -> Any:
    """`there` without keys that `here` has not, completed by keys that `here` alone has."""
    if not isinstance(here, Mapping | DictConfig) or not isinstance(there, Mapping):
        return there
    return {key: _alike(here[key], there[key]) if key in there else here[key] for key in here}


def _without_environment(written: Any) -> Any:
    """The same tree, in which whatever asks for the environment is text."""
    if isinstance(written, dict):
        return {key: _without_environment(value) for key, value in written.items()}
    if isinstance(written, list):
        return [_without_environment(value) for value in written]
    return written.replace("${", r"\${") if isinstance(written, str) and "oc.env" in written else written


def _resolved(written: Any, config: Any) -> Any:
    """Plain data behind `written`, whose node in the config is `config`; an interpolation that cannot be resolved stays."""
    if not isinstance(written, dict | list) or not OmegaConf.is_config(config):
        return OmegaConf.to_container(config) if OmegaConf.is_config(config) else config
    found: dict[Any, Any] = {}
    for key in written if isinstance(written, dict) else range(len(written)):
        try:
            found[key] = _resolved(written[key], config[key])
        except OmegaConfBaseException:
            found[key] = written[key]
    return found if isinstance(written, dict) else list(found.values())
