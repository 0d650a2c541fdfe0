"""The models that ship with the package: what they are and do, what their circuits are, and whether the docs say what they say.

    python scripts/zoo.py                                       a table of the models, their tasks, their circuits
    python scripts/zoo.py only=python-hour                      one of them
    python scripts/zoo.py recompute=true                        the same with the circuits' numbers computed again from the shipped files
    python scripts/zoo.py page=docs/circuits.md check=true      recomputed and held against the tables of that page; what differs is named
    python scripts/zoo.py page=docs/circuits.md                 the tables written into that page
    python scripts/zoo.py add=<run> name=<name> about=<words>   a finished run into the zoo, with its card

Losses on ordinary text are those of the model's training: they need a corpus, which another machine has not. Everything of circuits follows from the
shipped files. Exit code 1 where a table differs.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from circuits.zoo import ZooModel, row_differences, ship, tables
from sparsetrain.entry import entry, require
from sparsetrain.progress import progress_bar
from sparsetrain.report.markdown import between, replaced_between
from sparsetrain.shipped import PREFIX, shipped, shipped_folder
from sparsetrain.store import write_atomic

END = "<!-- end of what it made -->"


def begin(table: str) -> str:
    """The line of a page under which a table stands."""
    return f"<!-- made by scripts/zoo.py: {table} -->"


@dataclass(frozen=True, kw_only=True)
class ZooRun:
    """Which models, and what is done with them."""

    only: str = ""
    """A model's name; empty: all of them."""
    recompute: bool = False
    """Compute the numbers of circuits again, minutes a model; otherwise they are read from the shipped reports."""
    page: str = ""
    """A page of the docs with the tables between markers; they are recomputed, and written there."""
    check: bool = False
    """With `page`: nothing is written, and rows that differ are named."""
    add: str = ""
    """Folder of a finished run that is to ship."""
    name: str = ""
    """Its name in the zoo."""
    about: str = ""
    """What it is there for, for its card."""
    progress: bool = True


@entry(ZooRun, "zoo", literal=("only", "page", "add", "name", "about"))
def main(config: ZooRun, run_dir: Path) -> None:
    """Prints, compares, writes or adds."""
    if config.add:
        folder = ship(Path(config.add), require("name", config.name), require("about", config.about))
        print(f"model: {folder}")
        return
    if config.check and not config.page:
        raise ValueError("check=true compares with the tables of a page; give page=docs/circuits.md")
    names = [config.only.removeprefix(PREFIX)] if config.only else list(shipped())
    models = [ZooModel.load(name, shipped_folder(f"{PREFIX}{name}", "only")) for name in names]
    path, page = Path(config.page), ""
    if config.page:
        page = path.read_text(encoding="utf-8")
        for name in tables(models):  # a page without their lines is refused before minutes of work
            between(begin(name), END, page)
    if config.recompute or config.page:
        with progress_bar(config.progress) as bar:
            task = bar.add_task("tasks", total=sum(len(member.tasks) for member in models))
            models = [member.recomputed(partial(bar.advance, task)) for member in models]
    made = tables(models)
    if not config.page:
        print("\n\n".join(f"## {name.capitalize()}\n\n{table}" for name, table in made.items()))
        return
    n_wrong = 0
    for name, table in made.items():
        for stored, now in row_differences(between(begin(name), END, page), table):
            print(f"{name}: the page has {stored or 'nothing'}\n{' ' * len(name)}  now       {now or 'nothing'}")
            n_wrong += 1
        page = replaced_between(begin(name), END, table, page)
    n_rows = sum(len(table.splitlines()) - 2 for table in made.values())
    if not config.check:
        write_atomic(path, page.encode())
        print(f"{path}: {n_rows} rows written, {n_wrong} of them changed")
        return
    print(f"{path}: {n_rows} rows recomputed, {n_wrong} differ")
    if n_wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
