"""A shipped model as its report has it, and with every number of its circuits computed again from its files."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from circuits.run import KINDS
from circuits.section import CircuitsSection, TaskEntry
from circuits.verify import VerifiedRun, recompute
from sparsetrain.export import latest_export, load_model, read_meta
from sparsetrain.model import Transformer
from sparsetrain.report import Report, load_report

_BLOCKS = "blocks."


@dataclass(frozen=True, kw_only=True)
class ZooModel:
    """A shipped model.

    Args:
        name: without `zoo:`.
        folder: where it lies.
        model: its weights.
        report: of its run.
        weights_sha256: of the export, which the report is about.
    """

    name: str
    folder: Path
    model: Transformer
    report: Report
    weights_sha256: str

    @classmethod
    def load(cls, name: str, folder: Path) -> "ZooModel":
        """From a folder of the zoo, or of a run.

        Raises:
            FileNotFoundError: no export or no report there.
            ValueError: the report is about other weights, or says nothing of circuits.
        """
        report, export = load_report(folder / "report.json", KINDS), latest_export(folder)
        if not {"circuits", "training", "data"} <= set(report.sections):
            raise ValueError(f"{folder}: its report lacks training, data or circuits, so there is little to say of it")
        sha256 = read_meta(export)["weights_sha256"]
        if report.weights is None or report.weights.sha256 != sha256:
            raise ValueError(f"{folder}: its report is about other weights than {export.name}, whose hash is {sha256}")
        return cls(name=name, folder=folder, model=load_model(export), report=report, weights_sha256=sha256)

    @property
    def tasks(self) -> tuple[TaskEntry, ...]:
        """What is said of each task."""
        return self.report.section("circuits", CircuitsSection).tasks

    @property
    def target_loss(self) -> float:
        """Task loss that a circuit must reach, nats."""
        return self.report.section("circuits", CircuitsSection).target_loss

    @property
    def done(self) -> list[str]:
        """Tasks that the model does on held-out pairs, and not by the current token alone."""
        return [task.task for task in self.tasks if task.is_solved]

    @property
    def n_bytes(self) -> int:
        """Of the export's files."""
        return sum(path.stat().st_size for path in latest_export(self.folder).iterdir())

    @property
    def n_nonzeros(self) -> dict[str, int]:
        """Nonzero parameters: in the `blocks`, and in `all` but the bigram table."""
        counts = {name: int(p.count_nonzero()) for name, p in self.model.named_parameters() if "bigram" not in name}
        return {"blocks": sum(n for name, n in counts.items() if name.startswith(_BLOCKS)), "all": sum(counts.values())}

    @property
    def shape(self) -> str:
        """Depth, width, density and AbsTopK in words."""
        config = self.model.config
        weights = [p for name, p in self.model.named_parameters() if name.startswith(_BLOCKS) and p.ndim == 2]
        density = sum(int(p.count_nonzero()) for p in weights) / sum(p.numel() for p in weights)
        words = "dense weights" if density > 0.99 else f"weights 1/{1 / density:.0f}"
        shares = {share for share in config.abs_topk.values() if share < 1}
        topk = f", AbsTopK {' or '.join(f'1/{1 / share:.0f}' for share in sorted(shares))}" if shares else ""
        return f"{config.n_layer} layers of {config.d_model}, {words}{topk}"

    def recomputed(self, on_task: Callable[[], object] = lambda: None) -> "ZooModel":
        """The same with the whole section of circuits computed again: from weights, means, texts and the nodes of saved circuits.

        Args:
            on_task: called after each task.
        """
        torch.set_num_threads(self.report.run.n_threads)
        run = VerifiedRun.load(self.folder)
        section = self.report.section("circuits", CircuitsSection)
        tasks: list[TaskEntry] = []
        for task in section.tasks:
            tasks.append(recompute(run, task.task)[0])
            on_task()
        return replace(self, report=self.report.plus(circuits=replace(section, tasks=tuple(tasks))))
