"""Does what a report says of circuits follow from the files of its run? All of it is computed again, and compared leaf by leaf.

1. Trusted are the model's weights (whose hash is checked), means and texts in the run's folder, the settings of the searches, and which nodes a
   saved circuit keeps. Not trusted is what can be had from these: pairs, calibrations, edges and their weights, losses, controls,
   statuses, cards, drawings, definitions.
2. `rebuilt`: a saved circuit anew from its nodes; its file must say the same.
3. `recompute`: a task's whole entry of report.json from rebuilt circuits; `differences` names every leaf that differs.
4. What only a search itself can know (how long it took, how many candidates it had, the loss of a twin that missed the target) stands in
   report.json as in the search's own record, `result.json`.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file  # pyright: ignore[reportUnknownVariableType]

from circuits.answers import pair_answers
from circuits.calibrate import calibrated_loss
from circuits.circuit import Circuit
from circuits.edges import find_edges
from circuits.evidence.gather import RunFiles, card_of
from circuits.evidence.thresholds import PRESETS, CardConfig
from circuits.explain.activity import MAX_NODES, activity
from circuits.find import examined, judged, section_of, subject_of, unsuitable
from circuits.means import Means
from circuits.run import TEXT_WINDOWS
from circuits.search.comparison import METHODS, folder_of, ranked_entry, size_ratios
from circuits.search.learn import MaskRun
from circuits.search.places import disjoint_place
from circuits.search.search import Pruned, Search
from circuits.search.task import TWIN, FindConfig, Found, Pairs, TaskSearch, aim, circuit_of, ranked
from circuits.section import TaskEntry
from circuits.tasks import get_task
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.export import latest_export, load_model, read_meta
from sparsetrain.model import Transformer
from sparsetrain.store import sha256
from sparsetrain.typed import from_dict, from_json, one_line, plain, to_dict

ABSENT = "absent"
"""Stands for a leaf that one side has not."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A leaf of a file that does not follow from the others.

    Args:
        file: relative to the run's folder.
        place: of the leaf, e.g. `with_as.circuits[0].task_loss.value`.
        stored: what the file says.
        recomputed: what it should say.
    """

    file: str
    place: str
    stored: str
    recomputed: str

    def __str__(self) -> str:
        return f"{self.file}: {self.place} is {self.stored}, recomputed {self.recomputed}"


def leaves(tree: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Place and value of everything in plain data that is no (filled) list or mapping."""
    if isinstance(tree, dict) and tree:
        for key, branch in tree.items():
            yield from leaves(branch, f"{place}.{key}" if place else str(key))
    elif isinstance(tree, list) and tree:
        for i, branch in enumerate(tree):
            yield from leaves(branch, f"{place}[{i}]")
    else:
        yield place, tree


def differences(file: str, place: str, stored: Any, recomputed: Any) -> list[Difference]:
    """Where two trees of plain data differ, in the order of the first; 1 and 1.0 are the same, 1 and True are not."""
    own, other = (dict(leaves(json.loads(json.dumps(plain(tree))), place)) for tree in (stored, recomputed))

    def words(found: Mapping[str, Any], at: str) -> str:
        return json.dumps(found[at], ensure_ascii=False) if at in found else ABSENT

    def same(at: str) -> bool:
        if at not in own or at not in other:
            return False
        a, b = own[at], other[at]
        return a == b and isinstance(a, bool) == isinstance(b, bool)

    return [
        Difference(file=file, place=at, stored=words(own, at), recomputed=words(other, at))
        for at in {**own, **other}
        if not same(at)
    ]


@dataclass(frozen=True, kw_only=True)
class VerifiedRun:
    """What a report is held against: the files of its run.

    Args:
        folder: of the run.
        means: of the model's nodes.
    """

    folder: Path
    export: Path
    model: Transformer
    tokenizer: Tokenizer
    means: Means

    @classmethod
    def load(cls, folder: Path) -> "VerifiedRun":
        """The run's weights and means.

        Raises:
            FileNotFoundError: no export, or no means.
            ValueError: weights that do not match their hash, or means of other weights.
        """
        export = latest_export(folder)
        means = Means.load(folder / "circuits" / "means.safetensors")
        if means.weights_sha256 != read_meta(export)["weights_sha256"]:
            raise ValueError(f"{folder}/circuits/means.safetensors was measured on other weights than {export}")
        tokenizer = Tokenizer.load(export / "tokenizer.json")
        return cls(folder=folder, export=export, model=load_model(export), tokenizer=tokenizer, means=means)

    def saved(self, task: str, *place: str) -> Path:
        """A file below a task's folder."""
        return self.folder.joinpath("circuits", task, *place)

    def record(self, task: str, name: str, *keys: str) -> dict[str, Any] | None:
        """Key and result of what a stage has saved of a task; None: it has not run.

        Raises:
            ValueError: the file does not say all of `keys`.
        """
        path = self.saved(task, name)
        if not path.is_file():
            return None
        found = from_json(dict[str, Any], path)
        key = found.get("key")
        if not isinstance(key, dict) or not set(keys) <= set(key) or "result" not in found:
            raise ValueError(f"{path} is damaged: it does not say what it rests on ({', '.join(keys)})")
        return found

    def config(self, task: str) -> FindConfig:
        """The settings of a task's search.

        Of one that was not searched those of a task that was: they are of one run.

        Raises:
            FileNotFoundError: there is no record of any search.
        """
        paths = [self.saved(task, "result.json"), *sorted((self.folder / "circuits").glob("*/result.json"))]
        record = next((self.record(path.parent.name, path.name, "config") for path in paths if path.is_file()), None)
        if record is None:
            raise FileNotFoundError(f"{self.folder}/circuits holds no result.json: no search has left a record")
        return from_dict(FindConfig, record["key"]["config"])


@dataclass(frozen=True, kw_only=True)
class Rebuilt:
    """A saved circuit, made anew from the nodes that it keeps."""

    circuit: Circuit
    pruned: Pruned
    differences: list[Difference]
    """Where its file says anything else."""


def rebuilt(
    run: VerifiedRun, subject: TaskSearch, pairs: Pairs, path: Path, config: FindConfig | None = None
) -> Rebuilt:
    """A circuit from its nodes: edges from the model's weights, calibration and losses from the pairs.

    Args:
        subject: the task's.
        pairs: the task's own, or its twin's.
        path: of the saved circuit.json.
        config: the settings of its search, where they are not the task's.
    """
    saved = Circuit.load(path)
    subject = subject if config is None else replace(subject, config=config)
    seed = saved.provenance.seed
    mask_run = MaskRun(seed=seed, train=pairs.train, val=pairs.val, calibration=subject.kept_calibration(pairs))
    pruned = Search(aim(subject), [mask_run]).pruned(0, saved.keep, reached=True)  # only such circuits are saved
    circuit = circuit_of(subject, seed, pruned)
    file = path.relative_to(run.folder).as_posix()
    found = differences(file, "", from_json(dict[str, Any], path), circuit.content)
    return Rebuilt(circuit=circuit, pruned=pruned, differences=found)


def with_fewer_edges(
    run: VerifiedRun, subject: TaskSearch, path: Path
) -> tuple[tuple[Circuit, float, bool], list[Difference]]:
    """A saved edge circuit from its nodes and the ends of its edges; its loss on the validation pairs, and whether that meets the aim."""
    saved, config = Circuit.load(path), subject.config
    ends = {(edge.source, edge.target) for edge in saved.edges}
    edges = [e for e in find_edges(subject.model, subject.space, saved.keep) if (e.source, e.target) in ends]
    unfitted = replace(saved, edges=tuple(edges), means=subject.means.values)
    with unfitted.attached(subject.model, "edge"):
        answers = pair_answers(subject.model, subject.pairs.val, max(1, config.prune.max_rows // 2))
    loss, calibration = calibrated_loss(answers[None], subject.kept_calibration(subject.pairs))
    circuit = replace(unfitted, calibration=calibration.first)
    file = path.relative_to(run.folder).as_posix()
    found = differences(file, "", from_json(dict[str, Any], path), circuit.content)
    return (circuit, float(loss), float(loss) <= aim(subject).target), found


def recompute(run: VerifiedRun, task: str) -> tuple[TaskEntry, list[Difference]]:
    """A task's entry of report.json as it should be, and where files of its circuits say anything else.

    Raises:
        OSError: a file that it rests on is not there.
        ValueError: a file that is damaged.
    """
    config, record = run.config(task), run.record(task, "result.json", "config")
    known = get_task(task, run.folder / "circuits")
    if record is None:
        subject = subject_of(run.model, known, run.tokenizer, run.means, replace(config, nonsense_twin=False))
        if isinstance(subject, str):
            return unsuitable(known, subject), []
        entry = examined(subject)
        may_be_searched = entry.is_solved
        return (replace(entry, status="not_searched") if may_be_searched else entry), []
    subject = subject_of(run.model, known, run.tokenizer, run.means, config)
    if isinstance(subject, str):
        return unsuitable(known, subject), []
    from_dict(TaskEntry, record["result"])  # refuses one that is damaged
    entry, wrong = examined(subject), list[Difference]()
    if entry.status != "bigram" and (entry.gate.passed or not config.gate):
        paths = [
            path
            for path in [run.saved(task, "circuit.json"), *run.saved(task).glob("seed_*/circuit.json")]
            if path.is_file()
        ]
        circuits = [rebuilt(run, subject, subject.pairs, path) for path in paths]
        circuits.sort(key=lambda made: config.seeds.index(made.circuit.provenance.seed))
        wrong += [found for made in circuits for found in made.differences]
        edges = twin = None
        if (path := run.saved(task, "edges", "circuit.json")).is_file():
            edges, found = with_fewer_edges(run, subject, path)
            wrong += found
        if subject.twin is not None and (path := run.saved(task, TWIN, "circuit.json")).is_file():
            made = rebuilt(run, subject, subject.twin, path)
            twin, wrong = made.pruned, wrong + made.differences
        places = (run.saved(task, disjoint_place(i), "circuit.json") for i in range(config.exclude))
        disjoint = [rebuilt(run, subject, subject.pairs, path) for path in places if path.is_file()]
        wrong += [found for made in disjoint for found in made.differences]
        found = Found(
            circuits=ranked(subject, [(made.circuit, made.pruned) for made in circuits]),
            edges=edges,
            twin=twin,
            disjoint=[made.circuit for made in disjoint] if config.exclude and circuits else None,
            exhausted=len(disjoint) < config.exclude,
        )
        entry = judged(subject, entry, found)
    entry = from_dict(TaskEntry, with_record(plain(entry), record["result"]))
    entry, found = with_baselines(run, subject, entry)
    wrong += found
    entry = with_viewer(run, subject, entry)
    entry, found = with_card(run, entry)
    return entry, wrong + found


def with_record(entry: Any, record: Any) -> Any:
    """A recomputed entry with what only the search could measure, from the search's own record."""
    if isinstance(entry, dict) and isinstance(record, dict):
        if entry.get("status") == "measured" and "unit" in entry:
            return record
        merged = {key: with_record(branch, record.get(key)) for key, branch in entry.items()}
        if "gate" in entry and "seconds" in record:
            merged["seconds"] = record["seconds"]
        twin = record.get("nonsense_twin")
        if "gate" in entry and merged.get("nonsense_twin") is None and twin is not None and not twin["reached"]:
            merged["nonsense_twin"] = twin
        return merged
    if isinstance(entry, list) and isinstance(record, list) and len(entry) == len(record):
        return [with_record(*pair) for pair in zip(entry, record, strict=True)]
    return entry


def with_baselines(run: VerifiedRun, subject: TaskSearch, entry: TaskEntry) -> tuple[TaskEntry, list[Difference]]:
    """The entry with the circuits of other rankings, where they were found with the search's settings."""
    record = run.record(subject.task, "baselines.json", "find")
    if record is None or record["key"]["find"] != to_dict(subject.config):
        return entry, []
    config, entries, wrong = replace(subject.config, nonsense_twin=False), [], list[Difference]()
    for method in METHODS:
        path, circuit, loss = run.saved(subject.task, "baselines", folder_of(method), "circuit.json"), None, 0.0
        if path.is_file():
            made = rebuilt(run, subject, subject.pairs, path, config)
            circuit, loss = made.circuit, made.pruned.loss
            wrong += made.differences
        entries.append(ranked_entry(subject, method, circuit, loss))
    return replace(entry, baselines=tuple(entries)), wrong


def with_viewer(run: VerifiedRun, subject: TaskSearch, entry: TaskEntry) -> TaskEntry:
    """The entry with the data of its best circuit's page, where pages were made."""
    record = run.record(subject.task, "viewer.json", "text")
    if record is None or not entry.circuits or (entry.circuits[0].n_nodes.value or 0) > MAX_NODES:
        return entry
    windows = load_file(run.folder / "circuits" / TEXT_WINDOWS)["windows"]
    best, *others = entry.circuits
    circuit = Circuit.load(run.folder / best.path)
    viewer = activity(run.model, circuit, subject.pairs.heldout, windows, record["key"]["text"], run.tokenizer.token)
    return replace(entry, circuits=(replace(best, viewer=viewer), *others))


def with_card(run: VerifiedRun, entry: TaskEntry) -> tuple[TaskEntry, list[Difference]]:
    """The entry with the report card of its best circuit, where the saved card is of that circuit."""
    record = run.record(entry.task, "card.json", "circuit", "card", "find", "solved")
    if record is None or not entry.circuits or record["key"]["circuit"] != sha256(run.folder / entry.circuits[0].path):
        return entry, []
    key, wrong = record["key"], list[Difference]()
    config = from_dict(CardConfig, key["card"])
    if config not in PRESETS.values():
        known = " or ".join(PRESETS)
        wrong.append(
            Difference(
                file=f"circuits/{entry.task}/card.json",
                place="key.card",
                stored="others",
                recomputed=f"those of card={known}",
            )
        )
    files = RunFiles.load(run.export, run.folder, from_dict(FindConfig, key["find"]))
    best, *others = entry.circuits
    card = card_of(files, entry, key["solved"], config)
    return replace(entry, circuits=(replace(best, card=card), *others)), wrong


def verify(run: VerifiedRun, stored: Any) -> Iterator[tuple[str, list[Difference]]]:
    """Holds the section `circuits` of a report against the run's files, task by task; last what is said of all of them.

    Args:
        stored: the section as report.json holds it, plain.

    Yields:
        What was compared, and how it differs. A file that is missing or damaged is a difference too.
    """
    named = [task["task"] for task in stored["tasks"]]
    searched = sorted(path.parent.name for path in (run.folder / "circuits").glob("*/result.json"))
    entries: list[TaskEntry] = []
    for i, name in enumerate([*named, *(name for name in searched if name not in named)]):
        own = stored["tasks"][i] if i < len(named) else None
        try:
            entry, found = recompute(run, name)
        except (OSError, ValueError) as error:
            yield (
                name,
                [Difference(file="circuits", place=name, stored="not to be had again", recomputed=one_line(error))],
            )
            continue
        entries.append(entry)
        yield name, differences("report.json", name, own, entry) + found
    yield "all of them", of_section(run, stored, entries)


def of_section(run: VerifiedRun, stored: Any, entries: Sequence[TaskEntry]) -> list[Difference]:
    """What the section says of all its tasks: by the settings of one of their searches, the last."""
    known = {**stored, "tasks": []}
    configs = {json.dumps(to_dict(config)): config for config in (run.config(entry.task) for entry in entries)}
    found: list[list[Difference]] = []
    for config in configs.values():
        section = section_of(run.means, config, ())
        if any(entry.baselines for entry in entries):
            section = replace(section, baselines=size_ratios(entries, seed=0, n_boot=config.n_boot))
        found.append(differences("report.json", "circuits", known, section))
    return min(found, key=len, default=[])
