"""When does a model answer from memory although the prompt says otherwise, and what turns it: a better prompt, or an intervention?

    python scripts/context_prior.py model=hf:<folder or hub name> data=<conflicts.jsonl>
    python scripts/context_prior.py model=gguf:<file.gguf> data=<conflicts.jsonl>
    python scripts/context_prior.py model=run:runs/quickstart/<stamp> data=<conflicts.jsonl> nodes='[blocks.0.mlp.hook_neuron:17]'
    python scripts/context_prior.py model=... data=... hydra.run.dir=<folder> ckpt_path=last        go on with what was interrupted

data: rows (.jsonl .ndjson .json .csv .tsv .parquet, each also as .gz) with the texts

    context    states the answer that contradicts memory:      "In this story the capital of France is Rome."
    question   ends the prompt; the answer follows:            "The capital of France is"
    prior      memory's answer:                                "Paris"
    answer     the one that the context states:                "Rome"

and, where you like, paraphrases (texts that state the same), agreeing and irrelevant (contexts; made of the rows otherwise), others (further
answers), fact (rows of one fact are never split between fitting and evaluation), relation, strength (a number) or exposures (a count). A row
that makes no case is named, and the others are kept.

Every arm (prompts: repeated, near and far, behind a sentence about trust, paraphrased; interventions: contrastive decoding, heads scaled, dual
run, one direction, activation patching, the recall circuit in `nodes`) is tried in four settings on the same fitting cases, and reported on other
facts, beside random controls. Report: runs/context_prior/<stamp>/report.html.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch

from circuits.ablate import parse_nodes
from circuits.masks import NodeSpace
from circuits.means import MEANS, Means, measure_means
from circuits.prior.asking import SIZE, Asks, Subject
from circuits.prior.cases import NOTHING, Case, Dealt, complete, deal
from circuits.prior.conflicts import NEUTRAL, WordingConfig, cases_of, halves, neutral_texts, read_conflicts
from circuits.prior.interventions import interventions
from circuits.prior.page import section_of
from circuits.prior.prompts import PROMPT_ARMS
from circuits.prior.study import ExamineConfig, examine, forms_for, n_asked
from circuits.run import KINDS
from sparsetrain.adapters import LanguageModel, Precision, is_of_others, load_language_model
from sparsetrain.data.reading import Fields, Skip, find_files, listed, read_found
from sparsetrain.entry import entry, require
from sparsetrain.job import command_line
from sparsetrain.progress import progress_bar
from sparsetrain.report import Report, RunFacts, WeightsFacts
from sparsetrain.report.stages import Stages
from sparsetrain.typed import Count

RUN_PREFIX = "run:"
READINGS = "checkpoints"
"""In the run's folder: what an interruption left, by content."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ContextPriorRun:
    """A model, conflicts, and how they are put to it."""

    model: str = ""
    """hf:<folder or hub name>, gguf:<file>, zoo:<name>, or the folder of a finished run (run:<folder> or <folder>)."""
    data: str | list[str] = ""
    """Files, folders or patterns of conflicts: one, several as a,b or as a list."""
    neutral: str | list[str] = ""
    """Texts on which damage is measured; empty: a few English sentences."""
    nodes: list[str] = field(default_factory=list[str])
    """Nodes of the circuit that recalls, as scripts/ablate.py names them; empty: it is not edited."""
    wording: WordingConfig = field(default_factory=WordingConfig)
    examine: ExamineConfig = field(default_factory=ExamineConfig)
    batch_size: Count = SIZE
    """Cases of one forward pass; changes the speed, and which cases' donors the control of activation patching exchanges."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "float32"
    """Of an hf: or gguf: model's weights."""
    trust_remote_code: bool = False
    """Run the code that comes with an hf: model; read it first. Without it such a model is refused."""
    ckpt_path: str | None = None
    """last: go on with what the folder holds."""
    overwrite: bool = False
    """Remove the report that the folder holds, which is refused otherwise."""
    progress: bool = True


@entry(ContextPriorRun, "context_prior", folder="texts", new_run=True, literal=("model", "data", "neutral"))
def main(config: ContextPriorRun, run_dir: Path) -> None:
    """Reads, tunes, evaluates, writes the report."""
    started = time.perf_counter()
    name = require("model", config.model).removeprefix(RUN_PREFIX)
    paths = listed(config.data)
    require("data", ",".join(paths))
    if config.ckpt_path not in (None, "last"):
        raise ValueError(f"ckpt_path={config.ckpt_path} must be last: what this command left in its folder")
    device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch sees no CUDA device; use device=cpu or auto")
    conflicts = read_conflicts(paths)
    model = load_language_model(
        name, device=device, precision=config.precision, trust_remote_code=config.trust_remote_code
    )
    subject = Subject(module=model.module, weights_sha256=model.weights_sha256, batch_size=config.batch_size)
    arms, left_out = interventions(subject)
    forms = forms_for([*PROMPT_ARMS, *arms])
    cases, skipped = cases_of(conflicts.rows, model.tokenizer, config.wording, forms, model.n_ctx)
    cases, incomplete = complete(cases, [form for arm in (*PROMPT_ARMS, *arms) for form in arm.forms()])
    skipped = [*conflicts.skipped, *skipped, *incomplete]
    say(skipped)
    if not cases:
        raise ValueError(f"no row of data={','.join(paths)} makes a case; {skipped[0].name}: {skipped[0].reason}")
    dealt = deal(cases, config.examine.fitting(len(cases)), config.examine.seed)
    if config.nodes:
        arms, left_out = interventions(subject, *recall_circuit(config, model, name, dealt))
    texts = [halves(text) for text in neutral_of(config)] or NEUTRAL
    neutral = neutral_texts(texts, model.tokenizer, config.wording, forms, model.n_ctx)
    all_arms = [*PROMPT_ARMS, *arms]
    stages = Stages(run_dir, KINDS)
    with progress_bar(config.progress) as bar:
        task = bar.add_task("answers", total=n_asked(dealt, all_arms, config.examine))
        outcome = examine(
            subject, dealt, all_arms, neutral, config.examine, run_dir / READINGS, partial(bar.advance, task)
        )
    section = section_of(
        outcome,
        model=config.model,
        skipped=skipped,
        strength=conflicts.strength,
        exposures=conflicts.exposures,
        left_out=left_out,
    )
    facts = RunFacts.now(name="context_prior", seed=config.examine.seed, command=command_line(), device=device)
    weights = WeightsFacts(sha256=model.weights_sha256, step=model.step)
    stages.begin(Report(run=facts, weights=weights, sections={"context_prior": section}))
    stages.seconds["context_prior"] = time.perf_counter() - started
    print(
        f"of {section.n_cases} cases {section.n_known} are known from memory, in {section.n_prior_wins} memory wins against one statement; "
        f"best prompt: {section.best_prompt}; best intervention: {section.best_intervention or 'none'}"
    )
    print(f"report: {stages.write()['html']}")


def say(skipped: Sequence[Skip]) -> None:
    """Names the first rows that were left out; the report has more of them."""
    for skip in skipped[:5]:
        log.warning("left out: %s: %s", skip.name, skip.reason)
    if len(skipped) > 5:
        log.warning("... and %d more", len(skipped) - 5)


def neutral_of(config: ContextPriorRun) -> list[str]:
    """The user's neutral texts; none where none were given."""
    paths = listed(config.neutral)
    if not paths:
        return []
    rows = list(read_found(find_files(paths, "neutral"), Fields()))
    say([row for row in rows if isinstance(row, Skip)])
    texts = [row.text for row in rows if not isinstance(row, Skip) and len(row.text.split()) > 3]
    if not texts:
        raise ValueError(f"no text of four words in neutral={','.join(paths)}; give texts, or leave it out")
    return texts


def recall_circuit(config: ContextPriorRun, model: LanguageModel, name: str, dealt: Dealt) -> tuple[list[str], Means]:
    """Ids of the nodes that were named, and what deleted nodes emit: the run's own means, or those over the fitting cases without a context."""
    space = NodeSpace.of(model.module)
    nodes = [space.id(int(number)) for number in parse_nodes(space, config.nodes).nonzero()]
    kept = Path(name) / "circuits" / MEANS
    if not is_of_others(name) and kept.is_file():
        means = Means.load(kept)
        if means.weights_sha256 == model.weights_sha256:
            return nodes, means
    return nodes, prompt_means(model, dealt.fit)


def prompt_means(model: LanguageModel, cases: Sequence[Case]) -> Means:
    """Means over the prompts of some cases without a context."""
    rows = Asks(cases).rows(NOTHING)
    last = rows.places.int().cumsum(1).argmax(1)
    words = "prompts of the fitting cases without a context"
    return measure_means(model.module, rows.tokens, last=last, source=words, weights_sha256=model.weights_sha256)


if __name__ == "__main__":
    main()
