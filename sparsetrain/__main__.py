"""`python -m sparsetrain <command> key=value ...`: the entry points, from a checkout or from an installed wheel.

`train` is train.py; every other command is a file of `scripts/`. `sparsetrain-train ...` is short for
`python -m sparsetrain train ...`.
"""

import runpy
import sys
from pathlib import Path

from sparsetrain.entry import conf_dir


def commands() -> dict[str, Path]:
    """Name -> file of every entry point."""
    root = conf_dir().parent
    files = [root / "train.py", *sorted((root / "scripts").glob("[a-z]*.py"))]
    return {file.stem: file for file in files}


def run(name: str, arguments: list[str]) -> None:
    """Runs an entry point as if it had been called by its path."""
    file = commands()[name]
    sys.argv = [str(file), *arguments]
    runpy.run_path(str(file), run_name="__main__")


def train() -> None:
    """The console script `sparsetrain-train`."""
    run("train", sys.argv[1:])


def main() -> None:
    """The console script `sparsetrain`."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in commands():
        run(name, sys.argv[2:])
        return
    print(f"usage: sparsetrain <command> [key=value ...]\ncommands: {', '.join(commands())}")
    if name not in ("-h", "--help"):
        sys.exit(f"error: unknown command {name!r}")


if __name__ == "__main__":
    main()
