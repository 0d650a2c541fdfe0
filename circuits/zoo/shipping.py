"""A finished run becomes a model of the zoo: what others need of its folder, and its card."""

import json
import os
import re
import shutil
from pathlib import Path

from circuits.zoo.card import card
from circuits.zoo.member import ZooModel
from sparsetrain.export import latest_export
from sparsetrain.shipped import zoo_dir
from sparsetrain.store import write_atomic

MAX_EXPORT = 6_000_000
"""Bytes of an export that ships: a wheel is to stay below 40 MB. ours"""
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_KEPT = ("config.yaml", "job.json", "metrics.csv")


def ship(run: Path, name: str, about: str) -> Path:
    """Makes a finished run a model of the zoo.

    Args:
        run: its folder; it was trained with `callbacks.export_packed=true`, so that what was read is what ships.
        name: in the zoo.
        about: what it is there for, a sentence or two for the card.

    Returns:
        Its folder.

    Raises:
        ValueError: an export that is too large, a name that is taken or is none, or what `ZooModel.load` refuses.
    """
    if not NAME.fullmatch(name):
        raise ValueError(f"name={name}: a name is made of small letters, digits and hyphens, for instance python-hour")
    member, folder = ZooModel.load(name, run), zoo_dir() / name
    if folder.exists():
        raise ValueError(f"name={name}: {folder} is there already; remove it first")
    if member.n_bytes > MAX_EXPORT:
        raise ValueError(
            f"add={run}: its export has {member.n_bytes / 1e6:.1f} MB, at most {MAX_EXPORT / 1e6:.0f} ship; train with callbacks.export_packed=true"
        )
    export, part = latest_export(run), folder.parent / f".{name}.{os.getpid()}"
    try:
        shutil.copytree(export, part / export.relative_to(run))
        shutil.copytree(run / "circuits", part / "circuits")
        for file in _KEPT:
            if (run / file).is_file():
                shutil.copy2(run / file, part / file)
        report = json.loads((run / "report.json").read_bytes())
        write_atomic(part / "report.json", json.dumps(report, ensure_ascii=False, separators=(",", ":")) + "\n")
        write_atomic(part / "README.md", card(member, about).encode())
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder
