"""Where the circuits of a task are saved, below its folder: the best in it, other seeds', disjoint ones and the nonsense twin's beside it."""

from pathlib import Path

from circuits.circuit import Circuit
from circuits.search.task import TWIN, Found, TaskSearch, circuit_of


def save(subject: TaskSearch, found: Found, out_dir: Path) -> None:
    """Writes what was found under `out_dir/<task>/`: the places that `judged` names. What an earlier search left there goes."""
    folder = out_dir / subject.task
    forget(folder)
    for i, (circuit, _) in enumerate(found.circuits):
        circuit.save(folder.joinpath(*place(i, circuit)))
    if found.edges is not None:
        found.edges[0].save(folder / "edges")
    for i, circuit in enumerate(found.disjoint or ()):
        circuit.save(folder / disjoint_place(i))
    if found.twin is not None and found.twin.reached:
        circuit_of(subject, subject.config.seeds[0], found.twin).save(folder / TWIN)


def forget(folder: Path) -> None:
    """Removes what a search of a task with other settings or weights has left: its entry, then its circuits."""
    (folder / "result.json").unlink(missing_ok=True)
    for stale in [*folder.rglob("circuit.*")]:
        stale.unlink()


def place(i: int, circuit: Circuit) -> tuple[str, ...]:
    """Folder of the i-th circuit below its task's: the best lies in that itself."""
    return () if i == 0 else (f"seed_{circuit.provenance.seed}",)


def disjoint_place(i: int) -> str:
    """Folder of the i-th further circuit below its task's."""
    return f"disjoint_{i + 1}"
