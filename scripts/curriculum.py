"""Which of your demonstrations are easy for a model, which are hard, and does their order in a prompt help? Ranked by sparsity, without labels.

    python scripts/curriculum.py model=hf:<folder or hub name> pool=<file.jsonl>
    python scripts/curriculum.py model=gguf:<file> pool=pool.jsonl test=test.jsonl

docs/curriculum.md says what is done and how to read it.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.progress import Progress

from sparsetrain.adapters import LanguageModel, Precision, load_language_model
from sparsetrain.curriculum.arms import ChoiceConfig
from sparsetrain.curriculum.compare import detectable_share
from sparsetrain.curriculum.examples import (
    Examples,
    FieldsConfig,
    read_examples,
    rows_left_out,
    write_rows,
)
from sparsetrain.curriculum.prompting import ORDERING, answer, prepare, write_answers, write_ordering
from sparsetrain.curriculum.prompts import WordingConfig
from sparsetrain.curriculum.scoring import ScoreConfig, Scores, score
from sparsetrain.curriculum.section import (
    CurriculumSection,
    IntervalConfig,
    compared_arms,
    comparison_entry,
    curriculum_section,
    rule_of,
)
from sparsetrain.data.reading import Skip, listed
from sparsetrain.entry import entry, require
from sparsetrain.hooks import select_points
from sparsetrain.job import command_line
from sparsetrain.progress import progress_bar
from sparsetrain.report import Report, RunFacts, WeightsFacts
from sparsetrain.report.sections import KINDS
from sparsetrain.report.stages import Stages
from sparsetrain.representation.section import MeasuredModel
from sparsetrain.store import below_home
from sparsetrain.typed import Count

MAX_NAMED = 1000
"""Rows that were left out which the report names; the first few are also said at once. ours"""
LITERAL = (
    "model",
    "pool",
    "test",
    "wording.example",
    "wording.instruction",
    "fields.question",
    "fields.answer",
    "fields.difficulty",
)
ROWS, ANSWERS = "ordering.jsonl", "answers.csv"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class CurriculumRun:
    """A model, a pool of demonstrations, and questions if there are any."""

    model: str = ""
    """hf:<folder or hub name>, gguf:<file>, zoo:<name>, or the folder of a finished run (with run: in front or without)."""
    pool: str | list[str] = ""
    """Demonstrations. Files, folders or patterns: one, several as a,b or as a list."""
    test: str | list[str] = ""
    """Questions, to compare all arms on; none: the pool is ranked, and nothing is asked."""
    fields: FieldsConfig = field(default_factory=FieldsConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    choice: ChoiceConfig = field(default_factory=ChoiceConfig)
    wording: WordingConfig = field(default_factory=WordingConfig)
    r"""\n stands for a line break."""
    interval: IntervalConfig = field(default_factory=IntervalConfig)
    n_tokens: int | None = None
    """Budget of a prompt with its answer. None: what the model reads."""
    batch_size: Count = 8
    """Changes the speed alone."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Precision = "float32"
    """Of the weights of an hf: or gguf: model; measures are computed in float32 or better."""
    trust_remote_code: bool = False
    """Run the code that comes with an hf: model, or of score.similarity; read it first. Without it such a model is refused."""
    cache_dir: str = "~/.cache/sparsetrain"
    """Scores and answers, by content and model hash: what was read once is not read again, also after an interruption."""
    overwrite: bool = False
    """Remove the report that the folder holds, which is refused otherwise."""
    progress: bool = True


def budget_of(config: CurriculumRun, model: LanguageModel) -> int | None:
    """Tokens of a prompt with its answer.

    Raises:
        ValueError: more than the model reads, or too few for a question and its answer.
    """
    if config.n_tokens is None:
        return model.n_ctx
    if model.n_ctx is not None and config.n_tokens > model.n_ctx:
        raise ValueError(
            f"n_tokens={config.n_tokens}, but the model reads {model.n_ctx} positions; give n_tokens={model.n_ctx} or less"
        )
    if config.n_tokens < 2:
        raise ValueError(f"n_tokens={config.n_tokens} must be at least 2: a question and its answer")
    return config.n_tokens


def spelled(wording: WordingConfig) -> WordingConfig:
    r"""The wording with line breaks and tabs where \n and \t were typed."""
    return WordingConfig(**{key: text.replace("\\n", "\n").replace("\\t", "\t") for key, text in vars(wording).items()})


def check_size(choice: ChoiceConfig, pool: Examples, test: Examples | None) -> None:
    """Refuses a pool that is smaller than what is asked of it, before anything is read.

    Raises:
        ValueError: fewer examples than levels, or than demonstrations of a prompt; a single question.
    """
    n = len(pool)
    for key, least in (("n_shown", choice.n_shown), ("n_levels", choice.n_levels)):
        if n < least:
            raise ValueError(
                f"choice.{key}={least}, but the pool has {n} usable example{'s' if n > 1 else ''}; lower it or give a larger pool"
            )
    if test is None:
        return
    if len(test) < 2:
        raise ValueError("test= has one usable question, which has no interval; give at least 2, better 100")
    own = Counter(example.question.strip() for example in pool.examples)
    n_same, place = max((own[example.question.strip()], example.place) for example in test.examples)
    if n - n_same < choice.n_shown:
        raise ValueError(
            f"choice.n_shown={choice.n_shown}, but of the pool's {n} examples {n_same} have the question of {place} and are not shown to it; "
            f"lower it or give a larger pool"
        )


def named(skipped: tuple[Skip, ...]) -> Mapping[str, str]:
    """Place -> why it was left out, as many as a report names."""
    return {skip.name: skip.reason for skip in islice(skipped, MAX_NAMED)}


def counting(bar: Progress, words: str, total: int) -> Callable[[int], None]:
    """A new line of the bar, as what moves it."""
    return partial(bar.advance, bar.add_task(words, total=total))


def read_all(config: CurriculumRun, model: LanguageModel, pool: Examples, test: Examples | None, bar: Progress) -> Scores:  # fmt: skip
    """Scores of the pool, and behind them those of the questions: they are read together, as similarity is between all of them."""
    parts = [pool] if test is None else [pool, test]
    items = [item for part in parts for item in part.items]
    return score(
        model,
        items,
        config.score,
        below_home(config.cache_dir) / "curriculum" / "scores",
        texts=[example.question for part in parts for example in part.examples],
        batch_size=config.batch_size,
        trust_remote_code=config.trust_remote_code,
        on_items=counting(bar, "examples read", len(items)),
    )


@entry(CurriculumRun, "curriculum", folder="texts", new_run=True, literal=LITERAL)
def main(config: CurriculumRun, run_dir: Path) -> None:
    """Ranks the pool, writes the ordering and the report; asks every question in every arm."""
    started = time.perf_counter()
    name, pools, tests = require("model", config.model), listed(config.pool), listed(config.test)
    require("pool", ",".join(pools))
    device = config.device if config.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda, but torch sees no CUDA device; use device=cpu or auto")
    wording = spelled(config.wording)
    model = load_language_model(
        name, device=device, precision=config.precision, trust_remote_code=config.trust_remote_code
    )
    select_points(model.module, (config.score.hook_point,))
    budget = budget_of(config, model)
    read = partial(read_examples, fields=config.fields, tokenizer=model.tokenizer, wording=wording, n_tokens=budget)
    pool = read(pools, "pool")
    test = read(tests, "test") if tests else None
    for line in rows_left_out(pool.skipped + (test.skipped if test else ())):
        log.warning("%s", line)
    check_size(config.choice, pool, test)
    if test is not None:
        announce(config, pool, test)
    stages = Stages(run_dir, KINDS, ("comparison",) if test else ())
    with progress_bar(config.progress) as bar:
        scores = read_all(config, model, pool, test, bar)
        of_pool = scores[np.arange(len(pool))]
        write_ordering(run_dir / ORDERING, pool.examples, of_pool, config.choice.n_levels)
        write_rows(run_dir / ROWS, pool.examples, of_pool, config.choice.n_levels, config.fields)
        section = curriculum_section(
            model=MeasuredModel(
                name=model.name,
                architecture=model.architecture,
                n_params=model.n_params,
                n_ctx=model.n_ctx,
                left_out=model.left_out,
            ),
            examples=pool.examples,
            scores=of_pool,
            score=config.score,
            choice=config.choice,
            wording=wording,
            n_tokens=budget,
            skipped=named(pool.skipped),
            n_skipped=len(pool.skipped),
            config=config.interval,
            files=(ORDERING, ROWS, *([ANSWERS] if test else [])),
        )
        facts = RunFacts.now(name="curriculum", seed=config.choice.seed, command=command_line(), device=device)
        weights = WeightsFacts(sha256=model.weights_sha256, step=model.step)
        stages.begin(Report(run=facts, weights=weights, sections={"curriculum": section}))
        if test is not None:
            with stages.part("comparison"):
                stages.add(curriculum=compared(config, model, pool, test, scores, section, run_dir, bar))
    stages.seconds["curriculum"] = time.perf_counter() - started
    print(f"report: {stages.write()['html']}")


def announce(config: CurriculumRun, pool: Examples, test: Examples) -> None:
    """Says by which rule words will be given, and what can be seen, before anything is answered."""
    n_compared = len(compared_arms(all(example.difficulty is not None for example in pool.examples)))
    rule, confidence = rule_of(config.interval, n_compared)
    least = detectable_share(len(test), confidence=confidence)
    log.info("%d questions, %d arms with a control; supported: %s", len(test), n_compared, rule.describe())
    log.info("smallest difference of accuracy that is seen with a chance of .8: %.3f", least)


def compared(
    config: CurriculumRun,
    model: LanguageModel,
    pool: Examples,
    test: Examples,
    scores: Scores,
    section: CurriculumSection,
    run_dir: Path,
    bar: Progress,
) -> CurriculumSection:
    """The section with every question asked in every arm."""
    prepared = prepare(
        model.tokenizer,
        spelled(config.wording),
        config.choice,
        pool=pool.examples,
        of_pool=scores[np.arange(len(pool))],
        asked=test.examples,
        of_asked=scores[np.arange(len(pool), len(scores.loss))],
        n_tokens=section.n_tokens,
        on_asked=counting(bar, "questions: prompts written", len(test)),
    )
    answers = answer(
        model,
        prepared,
        below_home(config.cache_dir) / "curriculum" / "answers",
        batch_size=config.batch_size,
        on_items=counting(bar, "prompts answered", len(prepared.items)),
    )
    write_answers(run_dir / ANSWERS, test.examples, answers)
    entry = comparison_entry(
        answers, prepared, config.interval, skipped=named(test.skipped), n_skipped=len(test.skipped)
    )
    return replace(section, comparison=entry)


if __name__ == "__main__":
    main()
