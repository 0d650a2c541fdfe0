"""Nothing is called because a config says so.

Hydra itself calls what a composed config names, before any of it is handed on: `hydra.callbacks.*._target_`, classes and factories of its
logging, and it sets the environment variables of `hydra.job.env_set`, of which some name programs (`CXX`). An experiment file can hold all
that. So every config is looked at where Hydra loads it, which is the only place before it acts.

Launchers and sweepers stay free, as far as they are plugins of Hydra.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from omegaconf import DictConfig, OmegaConf

PLUGINS = {f"hydra.{kind}._target_" for kind in ("launcher", "sweeper")}
OF_HYDRA = ("hydra._internal.core_plugins.", "hydra_plugins.")
LOGGING = ("hydra.job_logging", "hydra.hydra_logging")
CLASSES = ("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", "logging.Formatter")
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
ENVIRONMENT = "hydra.job.env_set"
PLACES = re.compile(r"\$\{hydra\.(runtime\.output_dir|job\.name)\}")
"""Interpolations that logging uses; others could fetch a whole section from elsewhere."""


def calls(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """What Hydra or its logging would call, import or set because of a config: (dotted key, value)."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            place = f"{path}.{key}" if path else str(key)
            if key == "_target_":
                if place not in PLUGINS or not str(value).startswith(OF_HYDRA):
                    yield place, value
            elif (
                key == "()"
                or (key == "class" and path.startswith(LOGGING) and value not in CLASSES)
                or path == ENVIRONMENT
            ):
                yield place, value
            else:
                yield from calls(value, place)
    elif isinstance(tree, list):
        for i, value in enumerate(tree):
            yield from calls(value, f"{path}.{i}")
    elif isinstance(tree, str) and path.startswith(LOGGING):
        rest = PLACES.sub("", tree)
        elsewhere = path.endswith(".filename") and (".." in tree or not tree.startswith("${hydra.runtime.output_dir}/"))
        if elsewhere or "${" in rest or ("://" in rest and tree not in STREAMS):
            yield path, tree
    elif isinstance(tree, str) and path in ("hydra", "hydra.job", "hydra.callbacks", ENVIRONMENT):
        yield path, tree


def refuse(config: DictConfig, known: Mapping[str, Any]) -> None:
    """Refuses a composed config that would call something.

    Args:
        config: as Hydra loaded it.
        known: the command's own config; what it calls is allowed.

    Raises:
        ValueError: names key and value.
    """
    own = dict(calls(known))
    for key, value in calls(OmegaConf.to_container(config, resolve=False)):
        if own.get(key) != value:
            fix = "set it before the command" if key.startswith(ENVIRONMENT) else "remove it"
            raise ValueError(
                f"{key}={value!r} is not taken from a config: nothing is called or set because a file says so; {fix}"
            )


@contextmanager
def guarded(known: Mapping[str, Any]) -> Iterator[None]:
    """Inside the block Hydra loads no config that would call anything but what `known`, the command's own, calls."""
    load: Callable[..., DictConfig] = ConfigLoaderImpl.load_configuration

    def checked(self: ConfigLoaderImpl, *args: Any, **kwargs: Any) -> DictConfig:
        config = load(self, *args, **kwargs)
        refuse(config, known)
        return config

    ConfigLoaderImpl.load_configuration = checked
    try:
        yield
    finally:
        ConfigLoaderImpl.load_configuration = load
