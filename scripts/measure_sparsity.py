"""How sparse are a model's activations on texts of your own? One evaluation, with intervals and a Gaussian reference.

    python scripts/measure_sparsity.py model=hf:<folder or hub name> data=<file.jsonl>
    python scripts/measure_sparsity.py model=runs/quickstart/<stamp> data='[near.jsonl,far.txt]' measure.positions=last

docs/measure_sparsity.md says what is measured and how to read it.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sparsetrain.adapters import LanguageModel, Precision, at_initialisation, load_language_model
from sparsetrain.data.reading import Skip, listed
from sparsetrain.data.texts import Texts, TextsConfig, TextSplit, read_texts
from sparsetrain.entry import entry, require
from sparsetrain.hooks import select_points
from sparsetrain.job import command_line
from sparsetrain.progress import progress_bar
from sparsetrain.report import Report, RunFacts, WeightsFacts
from sparsetrain.report.sections import KINDS
from sparsetrain.report.stages import Stages
from sparsetrain.representation.section import FilesEntry, MeasuredModel, MeasurementSection, RepresentationSection
from sparsetrain.representation.survey import Survey, SurveyConfig, survey, write_examples
from sparsetrain.representation.table import append_rows
from sparsetrain.representation.trends import compare_seeds, survey_section

MAX_NAMED = 1000
"""Rows that were left out which the report names; the first few are also said at once. ours"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MeasureSparsityRun:
    """A model, texts, and what is measured."""

    model: str = ""
    """hf:<folder or hub name>, gguf:<file>, or the folder of a finished run."""
    data: str | list[str] = ""
    """Files, folders or patterns: one, several as a,b or as a list."""
    seeds: str | list[str] = ""
    """Further models that differ from it in the seed alone: correlations are then also given over models."""
    texts: TextsConfig = field(default_factory=TextsConfig)
    measure: SurveyConfig = field(default_factory=SurveyConfig)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "float32"
    """Of an hf: model's weights; measures are computed in float32 or better."""
    trust_remote_code: bool = False
    """Run the code that comes with an hf: model; read it first. Without it such a model is refused."""
    overwrite: bool = False
    """Remove the report that the folder holds, which is refused otherwise."""
    progress: bool = True


def prepare(name: str, paths: list[str], config: MeasureSparsityRun, device: str) -> tuple[LanguageModel, Texts]:
    """A model, and the examples as its tokenizer reads them; a hook point that it has not is refused before."""
    model = load_language_model(
        name, device=device, precision=config.precision, trust_remote_code=config.trust_remote_code
    )
    select_points(model.module, config.measure.points)
    texts = read_texts(paths, model.tokenizer, config.texts.fit(model.n_ctx))
    drawn = (split.draw(config.measure.n_examples, config.measure.seed) for split in texts)
    return model, Texts(drawn, texts.skipped)


def say(skipped: Sequence[Skip]) -> None:
    """Names the first rows that were left out; the report has more of them."""
    for skip in skipped[:5]:
        log.warning("left out: %s: %s", skip.name, skip.reason)
    if len(skipped) > 5:
        log.warning("... and %d more", len(skipped) - 5)


def look(
    model: LanguageModel, splits: Sequence[TextSplit], config: MeasureSparsityRun, on_batch: Callable[[int], None]
) -> Survey:
    """One model under all controls."""
    initial = partial(at_initialisation, model, config.measure.seed)
    return survey(model.module, splits, config.measure, initial=initial, on_batch=on_batch)


@entry(MeasureSparsityRun, "measure_sparsity", folder="texts", new_run=True, literal=("model", "data", "seeds"))
def main(config: MeasureSparsityRun, run_dir: Path) -> None:
    """Measures, writes the tables and the report."""
    started = time.perf_counter()
    names = [require("model", config.model), *listed(config.seeds)]
    paths = listed(config.data)
    require("data", ",".join(paths))
    device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch sees no CUDA device; use device=cpu or auto")
    if len(set(names)) < len(names):
        raise ValueError(f"seeds={config.seeds} names a model twice; give others than model={names[0]}")
    model, splits = prepare(names[0], paths, config, device)
    say(splits.skipped)
    stages = Stages(run_dir, KINDS, ("seeds",) if len(names) > 1 else ())
    with progress_bar(config.progress) as bar:
        n_examples = sum(len(split.tokens) for split in splits) * config.measure.n_passes
        task = bar.add_task("examples", total=n_examples * len(names))
        measured = look(model, splits, config, partial(bar.advance, task))
        sections = [survey_section(measured, model.module, characters_of(splits))]
        append_rows(run_dir / "sparsity.csv", model.step or 0, measured.plain.rows)
        write_examples(run_dir / "examples.csv", measured, {split.name: split.places for split in splits})
        section = measurement(model, sections[0], splits)
        facts = RunFacts.now(name="measure_sparsity", seed=config.measure.seed, command=command_line(), device=device)
        weights = WeightsFacts(sha256=model.weights_sha256, step=model.step)
        stages.begin(Report(run=facts, weights=weights, sections={"measurement": section}))
        if len(names) > 1:
            with stages.part("seeds"):
                for other in names[1:]:
                    of_seed, same = prepare(other, paths, config, device)
                    seen = look(of_seed, same, config, partial(bar.advance, task))
                    sections.append(survey_section(seen, of_seed.module, characters_of(same)))
                seeds = compare_seeds(names, sections, config.measure.confidence)
                stages.add(measurement=replace(section, seeds=seeds))
    stages.seconds["measure_sparsity"] = time.perf_counter() - started
    print(f"report: {stages.write()['html']}")


def characters_of(splits: Sequence[TextSplit]) -> dict[str, NDArray[np.int64]]:
    """Characters of each token, of the splits where they are known."""
    return {split.name: split.characters for split in splits if split.characters is not None}


def measurement(model: LanguageModel, section: RepresentationSection, splits: Texts) -> MeasurementSection:
    """The report's section: what was measured, of which model, on which texts."""
    described = MeasuredModel(
        name=model.name,
        architecture=model.architecture,
        n_params=model.n_params,
        n_ctx=model.n_ctx,
        left_out=model.left_out,
    )
    counted = tuple(replace(entry, **split.counts()) for entry, split in zip(section.splits, splits, strict=True))
    shared = {field.name: getattr(section, field.name) for field in fields(section)}
    shared |= {"splits": counted, "files": FilesEntry(table="sparsity.csv", examples="examples.csv")}
    skipped = {skip.name: skip.reason for skip in islice(splits.skipped, MAX_NAMED)}
    shared |= {"n_skipped": len(splits.skipped), "skipped": skipped}
    return MeasurementSection(model=described, **shared)


if __name__ == "__main__":
    main()
