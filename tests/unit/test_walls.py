"""Who may know whom: imports read from the source, and every module imported alone in one fresh interpreter each."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(p for package in ("sparsetrain", "circuits") for p in (ROOT / package).rglob("*.py"))
ALLOWED = {
    "lightning": {
        "sparsetrain/training/fit.py", "sparsetrain/training/callbacks.py", "sparsetrain/run.py", "sparsetrain/data/datamodule.py",
        "sparsetrain/representation/tracker.py", "circuits/callback.py",
    },
    "hydra": {"sparsetrain/entry.py"},
    "omegaconf": {"sparsetrain/entry.py"},
    "transformers": {"sparsetrain/adapters/hub_files.py"},
    "wandb": {"sparsetrain/report/wandb_log.py"},
}  # fmt: skip


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_walls(path):
    name, found = str(path.relative_to(ROOT)), imports(path)
    for library, allowed in ALLOWED.items():
        assert name in allowed or not any(i.split(".")[0] == library for i in found), f"{name} imports {library}"
    if name.startswith("sparsetrain"):
        assert not any(i.split(".")[0] == "circuits" for i in found), f"{name} imports circuits"
    inside = {i for i in found if i.startswith("sparsetrain.")}
    if name.startswith("sparsetrain/kernels") or name == "sparsetrain/hooks.py":
        assert all(i.startswith("sparsetrain.kernels") for i in inside), f"{name} knows more than tensors: {inside}"
    if name == "sparsetrain/model.py":
        assert {i.split(".")[1] for i in inside} <= {"kernels", "hooks"}


def test_no_utils():
    assert not [p for p in FILES if p.stem in ("utils", "common", "helpers", "misc")]


def test_every_module_imports_in_a_fresh_interpreter():
    # One process for all, with sparsetrain and circuits forgotten between modules: heavy libraries are loaded once.
    names = [module_name(p) for p in FILES if p.name != "__main__.py"]
    code = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    for loaded in [m for m in sys.modules if m.split('.')[0] in ('circuits',)]: del sys.modules[loaded]\n"
        "    importlib.import_module(name)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, cwd=ROOT)
