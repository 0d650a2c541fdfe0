"""Who may import whom. The tables below are the house's plan (docs/house.md explains it); the source of every module is held against them.

1. Every file belongs to a room, the one with the longest name that its module's name begins with; a room imports only those of its row.
2. Libraries that shape a program (Lightning, Hydra, ...) are known to few files.
3. No circles, neither between rooms nor between modules, lazy imports counted.
4. Every module can be the first that is imported.
"""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(p for package in ("sparsetrain", "circuits") for p in (ROOT / package).rglob("*.py"))
ENTRY_POINTS = [ROOT / "train.py", *sorted((ROOT / "scripts").glob("*.py"))]

FLOOR = {
    "version",
    "interrupt",
    "store",
    "typed",
    "folder",
    "job",
    "progress",
    "stats",
    "kernels",
    "hooks",
    "packed",
    "shipped",
}
"""Rooms that import nothing of ours, or each other as their rows say: any room above may use them."""
MODEL = FLOOR | {"linear", "model"}
MIDDLE = MODEL | {"sparsity", "optim", "export", "generate", "data", "representation", "adapters"}
REPORT = MIDDLE | {"report"}
TRAINING = REPORT | {"training"}

SPARSETRAIN = {
    "version": set(),
    "interrupt": set(),
    "store": set(),
    "typed": set(),
    "folder": set(),
    "job": {"store", "typed"},
    "progress": set(),
    "stats": {"typed"},
    "kernels": {"store"},
    "hooks": set(),
    "packed": set(),
    "shipped": set(),
    "linear": {"kernels"},
    "model": {"kernels", "hooks", "linear"},
    "sparsity": MODEL - {"model"} | {"optim"},
    "optim": FLOOR,
    "export": MODEL,
    "data": FLOOR - {"kernels", "hooks"},
    "generate": MODEL | {"data"},
    "representation": FLOOR,
    "adapters": MODEL | {"export", "data"},
    "interop": REPORT,
    "report": MIDDLE - {"adapters"} | {"curriculum"},
    "training": REPORT - {"adapters"},
    "curriculum": MIDDLE,
    "studies": TRAINING | {"run", "adapters", "curriculum"},
    "run": TRAINING,
    "entry": {"interrupt", "store", "typed", "folder", "job", "shipped"},
    "__main__": {"entry"},
}
"""Room of `sparsetrain` -> the rooms that it may import; itself is always allowed."""

THING = {
    "ablate",
    "answers",
    "calibrate",
    "circuit",
    "compact",
    "edges",
    "intervals",
    "masks",
    "means",
    "partial",
    "tasks",
}
CIRCUITS = {
    "intervals": set(),
    "tasks": set(),
    "masks": set(),
    "means": {"masks"},
    "ablate": {"masks", "means"},
    "edges": {"masks"},
    "calibrate": {"tasks"},
    "partial": set(),
    "answers": {"masks", "edges", "tasks"},
    "compact": {"masks", "edges", "tasks"},
    "circuit": {"masks", "means", "edges", "answers", "compact", "calibrate", "tasks"},
    "section": set(),
    "search": THING | {"section"},
    "evidence": THING | {"section", "search"},
    "explain": THING | {"section"},
    "exports": THING | {"section", "explain"},
    "side_by_side": {"circuit", "section"},
    "views": {"section", "explain", "side_by_side"},
    "find": THING | {"section", "search", "evidence", "explain"},
    "truth": THING | {"section", "search", "evidence"},
    "formation": {"circuit", "tasks", "section", "evidence"},
    "verify": THING | {"section", "search", "evidence", "explain", "find", "run"},
    "bridges": THING | {"section", "search"},
    "prior": THING | {"section"},
    "context_prior": THING | {"section", "prior", "search"},
    "fracture": THING | {"section", "search"},
    "hub": THING | {"section", "search", "find", "run", "merged"},
    "comparison": THING | {"section"},
    "methods": {"section", "comparison"},
    "recipe": THING | {"section", "search", "find", "views"},
    "doctor": {"circuit", "means"},
    "brief": {"section"},
    "merged": {"section", "search", "tasks"},
    "zoo": {"section", "views", "run", "verify"},
    "run": THING | {"section", "brief", "merged", "search", "evidence", "explain", "views", "find", "formation", "comparison", "methods", "bridges", "context_prior", "fracture", "recipe"},
}  # fmt: skip
"""The same of `circuits`."""

BELOW = {
    "intervals": {"stats"},
    "tasks": {"data", "store"},
    "section": {"stats", "typed", "report"},
    "views": {"report", "stats", "typed"},
    "doctor": TRAINING,
    "formation": TRAINING | {"run"},
    "comparison": TRAINING | {"run", "studies"},
    "methods": TRAINING | {"run", "studies"},
    "bridges": TRAINING | {"run", "studies"},
    "context_prior": TRAINING | {"run", "studies", "adapters", "curriculum"},
    "fracture": TRAINING | {"run", "studies"},
    "side_by_side": TRAINING | {"studies"},
    "run": TRAINING | {"run", "studies"},
    "zoo": TRAINING | {"run"},
    "exports": MODEL | {"export"},
}
"""Room of `circuits` -> the rooms of `sparsetrain` that it may import; the others: `REPORT`."""

LIBRARIES = {
    "PIL": {"circuits/fracture/images/", "sparsetrain/report/wandb_log.py"},
    "annotated_types": {"sparsetrain/typed.py"},
    "datasets": {"sparsetrain/data/sources/hub.py"},
    "hydra": {"sparsetrain/entry/"},
    "jinja2": {"sparsetrain/report/"},
    "lightning": {
        "sparsetrain/training/", "sparsetrain/run.py", "sparsetrain/data/datamodule.py", "sparsetrain/representation/tracker.py",
    },
    "markupsafe": {"sparsetrain/report/"},
    "networkx": {"circuits/exports/"},
    "omegaconf": {"sparsetrain/entry/"},
    "optuna": {"circuits/search/", "sparsetrain/entry/tune.py"},
    "plotly": {"sparsetrain/report/"},
    "pyarrow": {"sparsetrain/data/reading/formats.py"},
    "pydantic": {"circuits/exports/", "sparsetrain/typed.py", "sparsetrain/store.py", "sparsetrain/data/sources/__init__.py", "sparsetrain/report/"},
    "tokenizers": {"sparsetrain/data/"},
    "huggingface_hub": {"sparsetrain/interop/hub_push.py"},
    "nnsight": set(),
    "transformer_lens": {"sparsetrain/interop/transformer_lens.py"},
    "transformers": {"sparsetrain/adapters/", "sparsetrain/interop/hub_model.py", "sparsetrain/interop/transformer_lens.py"},
    "triton": {"sparsetrain/kernels/"},
    "wandb": {"sparsetrain/report/wandb_log.py"},
}  # fmt: skip
"""Library -> the files and folders that may import it. Those that are not listed (torch, numpy, einops, rich, ...) are free."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}


@cache
def imports(path: Path) -> frozenset[str]:
    """Modules that a file imports, wherever in it the line stands; `from package import module` is the module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= whole & MODULES.keys() or {node.module}
    return frozenset(found)


def room(module: str) -> str:
    """`circuits.search.learn` -> `circuits.search`; the two packages' own `__init__` hold the version and nothing else."""
    package, *rest = module.split(".")
    return f"{package}.{rest[0] if rest else 'version'}"


def allowed() -> dict[str, set[str]]:
    """Room -> all rooms that it may import, with the names of their packages."""
    rows = {f"sparsetrain.{name}": {f"sparsetrain.{other}" for other in row} for name, row in SPARSETRAIN.items()}
    for name, row in CIRCUITS.items():
        inside = {f"circuits.{other}" for other in row}
        rows[f"circuits.{name}"] = inside | {f"sparsetrain.{other}" for other in BELOW.get(name, REPORT)}
    return {**rows, "circuits.version": set()}


def rooms_of(path: Path) -> set[str]:
    return {room(module) for module in imports(path) if module in MODULES}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_a_room_imports_only_those_of_its_row(path):
    here = room(module_name(path))
    rows = allowed()
    assert here in rows, f"{here} is a new room: give it a row in this file and in docs/house.md"
    wrong = rooms_of(path) - rows[here] - {here}
    assert not wrong, (
        f"{path.relative_to(ROOT)} imports {sorted(wrong)}; a file of {here} may import {sorted(rows[here])}"
    )


def test_the_plan_has_no_empty_rooms():
    assert set(allowed()) == {room(module) for module in MODULES} | {"circuits.version"}


def test_the_page_of_the_house_names_every_room():
    page = (ROOT / "docs" / "house.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    rooms = {name.split(".")[1] for name in allowed()} - {"version", "__main__"}
    assert not rooms - named, f"docs/house.md does not say what these hold: {sorted(rooms - named)}"


def test_the_plan_has_no_circles():
    list(TopologicalSorter(allowed()).static_order())


@pytest.mark.parametrize("library", LIBRARIES)
def test_libraries_are_known_to_few(library):
    users = {
        str(path.relative_to(ROOT))
        for path in FILES
        if any(module.split(".")[0] == library for module in imports(path))
    }  # fmt: skip
    wrong = {user for user in users if not user.startswith(tuple(LIBRARIES[library]))}
    assert not wrong, f"{library} is imported by {sorted(wrong)}; it may be by {sorted(LIBRARIES[library])}"


def test_entry_points_are_imported_by_nobody():
    names = {path.stem for path in ENTRY_POINTS} | {"scripts"}
    assert not [path for path in FILES if {module.split(".")[0] for module in imports(path)} & names]


def test_modules_import_each_other_without_circles():
    arrows = {name: {m for m in imports(path) if m in MODULES and m != name} for name, path in MODULES.items()}
    try:
        list(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        pytest.fail("a circle: " + " <- ".join(error.args[1]))


def test_no_rooms_for_what_has_no_place():
    assert not [name for name in MODULES if re.search(r"\b(utils?|common|helpers?|misc|manager)\b", name)]


def test_every_module_can_be_the_first_to_be_imported():
    # Libraries are loaded once; then each module in a process of its own, forked from there, in which nothing of ours is loaded.
    names = [
        name
        for name, path in MODULES.items()
        if path.name not in ("__main__.py", "triton_kernels.py", "transformer_lens.py")
    ]
    code = (
        "import gc, importlib, os, sys, traceback, warnings\n"
        "warnings.simplefilter('ignore')\n"
        "import datasets, einops, hydra, lightning, plotly.graph_objects, pydantic.type_adapter, rich.progress, scipy.stats, tokenizers\n"
        "import torch, torchmetrics, wandb\n"
        "gc.freeze()  # a child need not copy what it never changes\n"
        "gc.disable()\n"
        f"for name in {names!r}:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        code = 1\n"
        "        try:\n"
        "            importlib.import_module(name)\n"
        "            here = name.split('.')[0]\n"
        "            code = 2 if here == 'sparsetrain' and any(m.split('.')[0] == 'circuits' for m in sys.modules) else 0\n"
        "        except BaseException:\n"
        "            traceback.print_exc()\n"
        "        os._exit(code)\n"
        "    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n"
        "    if code:\n"
        "        print(name, 'loads circuits' if code == 2 else 'cannot be imported first')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stdout + done.stderr[-3000:]
