"""Do two checkouts give the same numbers? For changes that should change none.

    python tests/equivalence.py record OUT [--checkout DIR] [--only NAME ...]     runs everything below, some minutes
    python tests/equivalence.py compare BEFORE AFTER                              prints what differs, exit code 1 if anything does

`record` runs every file of `conf/experiment/` under `+debug=smoke`, and on the quickstart's run the commands that read a finished
run (report cards, baselines, edge circuits, further tasks), and `measure_sparsity`. `compare` looks at the bytes of every saved tensor file, at
every row of the tables and at every leaf of every `report.json`; times, dates and command lines are left out.

This is a program, not a test of the suite: it needs another checkout to compare with.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SMALL = (
    "n_train=16",
    "n_fit=8",
    "n_val=8",
    "n_heldout=8",
    "n_random=5",
    "n_boot=20",
    "prune.n_steps=5",
    "prune.clean_rounds=1",
)
FIND = ("gate=false", *SMALL)
AFTER_QUICKSTART = {
    "find_edges": ["scripts/find_circuits.py", "task=var_if", "circuits.find.prune_edges=true"],
    "find_cards": ["scripts/find_circuits.py", "task=single_double_quote", "card=quick", "baselines=true"],
}
"""Commands on a copy of the smoke-sized quickstart's run."""
VOLATILE = re.compile(
    r"^(run\.(created|command|version|torch)|stages\[\d+\]\.seconds\..*|.*\.seconds\.value|.*tokens_per_s.*)$"
)


def run(checkout: Path, arguments: list[str], log: Path) -> int:
    """One command in a checkout, on one thread, without an account; returns its exit code."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONPATH": str(checkout)}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        return subprocess.run([sys.executable, *arguments], cwd=checkout, env=env, stdout=out, stderr=out).returncode


def record(out: Path, checkout: Path, only: list[str]) -> None:
    """Runs everything and leaves one run folder each below `out`."""
    out = out.resolve()
    failed = []

    def one(name: str, arguments: list[str]) -> None:
        if only and name not in only:
            return
        code = run(checkout, arguments, out / "logs" / f"{name}.log")
        print(f"{name}: exit code {code}", flush=True)
        failed.extend([name] if code else [])

    for experiment in sorted(path.stem for path in (checkout / "conf" / "experiment").glob("*.yaml")):
        settings = [
            "+debug=smoke",
            "trainer.progress=false",
            "trainer.n_threads=1",
            "logger=none",
            f"cache_dir={out}/cache",
        ]
        one(experiment, ["train.py", f"+experiment={experiment}", *settings, f"hydra.run.dir={out}/runs/{experiment}"])
    quickstart = out / "runs" / "quickstart"
    for name, (script, *settings) in AFTER_QUICKSTART.items():
        if only and name not in only:
            continue
        copy = out / "runs" / name
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(quickstart, copy)
        small = [f"circuits.find.{setting}" for setting in FIND]
        one(name, [script, f"run={copy}", *settings, *small, "wandb=disabled", "progress=false"])
    texts = out / "texts.jsonl"
    rows = [
        {
            "text": f"for i in range({i}):\n    print('{'ab' * (i % 7)}')\n" * (2 + i % 3),
            "label": "ab"[i % 2],
            "level": i % 2,
        }
        for i in range(24)
    ]
    texts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [
        f"model={quickstart}",
        f"data={texts}",
        "measure.n_examples=8",
        "measure.n_bootstrap=20",
        "progress=false",
    ]
    one("measure_sparsity", ["scripts/measure_sparsity.py", *settings, f"hydra.run.dir={out}/runs/measure_sparsity"])
    if failed:
        sys.exit(f"these ended with an error: {', '.join(failed)}; see {out}/logs")


def leaves(tree: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar below a tree of JSON, with its place."""
    if isinstance(tree, dict):
        for key, branch in tree.items():
            yield from leaves(branch, f"{place}.{key}" if place else key)
    elif isinstance(tree, list):
        for i, branch in enumerate(tree):
            yield from leaves(branch, f"{place}[{i}]")
    else:
        yield place, tree


def contents(folder: Path) -> dict[str, Any]:
    """What two runs must have alike: file -> its content, as leaves or as a hash."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.suffix == ".safetensors":
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.name == "report.json":
            found |= {
                f"{name}: {place}": value
                for place, value in leaves(json.loads(path.read_text().replace(str(folder.parents[1]), "")))
                if not VOLATILE.match(place)
            }
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                rows = [row for row in csv.reader(file) if "tokens_per_s" not in row and "ood/seconds" not in row]
            # a run's name may hold the path of the recording
            found[name] = hashlib.sha256(repr(rows).replace(str(folder.parents[1]), "").encode()).hexdigest()
    return found


def compare(before: Path, after: Path) -> int:
    """Prints every difference; returns how many there are."""
    n = 0
    for folder in sorted((before / "runs").iterdir()):
        a, b = contents(folder), contents(after / "runs" / folder.name)
        differences = [
            (name, a.get(name, "absent"), b.get(name, "absent"))
            for name in sorted(a.keys() | b.keys())
            if a.get(name, "absent") != b.get(name, "absent")
        ]
        n_tensors = sum(name.endswith(".safetensors") for name in a)
        print(f"{folder.name}: {n_tensors} tensor files, {len(a)} entries compared, {len(differences)} differ")
        for name, old, new in differences:
            print(f"  {name}: {old!s:.90} -> {new!s:.90}")
        n += len(differences)
    return n


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="run everything in a checkout")
    recording.add_argument("out", type=Path)
    recording.add_argument("--checkout", type=Path, default=ROOT)
    recording.add_argument("--only", nargs="*", default=[], help="names of experiments or commands")
    comparing = commands.add_parser("compare", help="compare two recordings")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "record":
        record(arguments.out, arguments.checkout.resolve(), arguments.only)
    elif compare(arguments.before, arguments.after):
        sys.exit(1)


if __name__ == "__main__":
    main()
