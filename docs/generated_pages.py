"""What the docs site has besides the pages of this folder: README as its first page, the changelog, the shipped models, and an API page per room.

mkdocs calls `on_config` and `on_files` (see `hooks` in mkdocs.yml); nothing is written into the repository.
"""

import re
from itertools import groupby
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sparsetrain", "circuits")
INTERNAL = {"__main__", "data/sources/idioms"}
"""Not part of what others import."""


def rooms() -> dict[str, list[str]]:
    """Room (`sparsetrain.data`) -> its public modules."""
    names = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if "/".join(parts[1:]) not in INTERNAL and len(parts[1:]) > 0:
                names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    names = sorted(name for name in names if "." in name)
    return {room: list(group) for room, group in groupby(names, key=lambda name: ".".join(name.split(".")[:2]))}


def api_page(room: str, modules: list[str]) -> str:
    """Markdown that mkdocstrings turns into the reference of the modules."""
    return "\n".join([f"# {room}", "", *(f"::: {module}\n" for module in modules)])


def as_index(readme: str) -> str:
    """README.md with its links as they are from within docs/."""
    return re.sub(r"\]\(docs/", "](", readme)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the API pages at the end of the navigation."""
    assert isinstance(config.nav, list)
    api = [
        {package: [{room: f"api/{room}.md"} for room in rooms() if room.startswith(f"{package}.")]}
        for package in PACKAGES
    ]
    config.nav = [*config.nav, {"API": api}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    generated = {
        "index.md": as_index((ROOT / "README.md").read_text()),
        "CHANGELOG.md": (ROOT / "CHANGELOG.md").read_text(),
        "CITATION.cff": (ROOT / "CITATION.cff").read_text(),
        **{
            f"zoo/{page.parent.name}/README.md": page.read_text() for page in sorted((ROOT / "zoo").glob("*/README.md"))
        },
        **{f"api/{room}.md": api_page(room, modules) for room, modules in rooms().items()},
    }
    for path, content in generated.items():
        files.append(File.generated(config, path, content=content))
    return files
