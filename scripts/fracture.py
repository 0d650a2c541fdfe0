"""Two models say the same: are their insides the same too? How fractured and entangled each is, and whether they differ by more than models of one recipe do.

    python scripts/fracture.py a=<run> b=<run>                                         students of +experiment=fracture: what they are asked is found beside them
    python scripts/fracture.py a=<run> b=<run> questions=<questions.jsonl>             any two models of one vocabulary and one architecture
    python scripts/fracture.py a=<run> b=<run> questions=... 'null=[<run>,<run>,...]'     and how much seven models or more of one recipe differ, trained from other seeds

questions: rows (.jsonl .ndjson .json .csv .tsv .parquet, each also as .gz) with

    prompt     "def add(a, b):\\n    return a"        answer     " +"  (its first token counts)
    rule       which behaviour it is: "sum"
    context    in which surface the rule holds: "python"; none: all are of one
    split      train or heldout; none: three in ten are held out, by a hash of the row

A rule in a context needs four rows of training and one held out. A pair is compared only if its outputs are the same: KL below 1e-3 nats and the same most probable
token for more than 99.5% of the questions, of training and held out; else it is refused with both numbers. Students of +experiment=fracture are judged by the bounds of
that study (docs/fracture.md), all others by a null of yours; without one, or with a smaller one, differences are shown and not judged. Report: runs/fracture/<stamp>/report.html.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from circuits.fracture.measured import ReadConfig, n_parts, read_models
from circuits.fracture.pairs import BOUNDS, bounds_hold, compared, matchings
from circuits.fracture.questions import Language, Questions, read_questions
from circuits.run import KINDS
from circuits.section.fracture import FractureMatch, FractureSection
from sparsetrain.data.reading import listed
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.entry import entry, require
from sparsetrain.export import latest_export, load_model, read_meta
from sparsetrain.job import command_line
from sparsetrain.model import ModelConfig
from sparsetrain.progress import progress_bar
from sparsetrain.report import Report, RunFacts
from sparsetrain.report.stages import Stages
from sparsetrain.stats.number import number
from sparsetrain.typed import Index

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class FractureRun:
    """Which two models, and what they are asked."""

    a: str = ""
    """Folder of a finished run, or zoo:<name>."""
    b: str = ""
    """Another one of the same architecture and vocabulary."""
    null: list[str] = field(default_factory=list[str])
    """Runs of one recipe and different seeds; a and b count not among them. Seven or more are needed to judge, fewer are shown."""
    questions: str | list[str] = ""
    """Files, folders or patterns of questions; empty: those of the rule language that stands beside both runs."""
    read: ReadConfig = field(default_factory=ReadConfig)
    n_bootstrap: Index = 1000
    """Of the intervals of differences."""
    overwrite: bool = False
    """Remove the report that the folder holds, which is refused otherwise."""
    progress: bool = True


@entry(FractureRun, "fracture", new_run=True, literal=("a", "b", "questions"))
def main(config: FractureRun, run_dir: Path) -> None:
    """Matches, reads, compares, writes the page."""
    started = time.perf_counter()
    a, b = require("a", config.a), require("b", config.b)
    if Path(a) == Path(b):
        raise ValueError(f"a={a} and b={b} are the same run; give another one")
    if twice := sorted({name for name in config.null if config.null.count(name) > 1}):
        raise ValueError(f"null={config.null} has {', '.join(twice)} more than once; give each run once")
    exports = {name: latest_export(name, key) for key, name in (("a", a), ("b", b), *(("null", n) for n in config.null))}  # fmt: skip
    weights = {name: read_meta(export)["weights_sha256"] for name, export in exports.items()}
    if weights[a] == weights[b]:
        log.warning("a=%s and b=%s have the same weights: whatever differs is noise of the measuring", a, b)
    others = [weights[name] for name in config.null]
    if twice := [name for name, one in zip(config.null, others, strict=True) if others.count(one) > 1]:
        raise ValueError(f"null={config.null}: {', '.join(twice)} have the same weights; give each model once")
    own = [name for name in config.null if name not in (a, b) and weights[name] in (weights[a], weights[b])]
    if own:
        raise ValueError(f"null={config.null}: {', '.join(own)} has the weights of a or b, which would be judged by themselves; name it as in a or b, or leave it out")  # fmt: skip
    models = {name: load_model(export) for name, export in exports.items()}
    if len({repr(model.config.shaping) for model in models.values()}) > 1:
        raise ValueError(f"a={a}, b={b} and the null are not of one architecture; perturbations stand at the same places of all models: give models of one")  # fmt: skip
    questions = questions_of(config, list(exports.values()), next(iter(models.values())).config)
    of_study = questions.world is not None
    for skip in questions.skipped[:5]:
        log.warning("left out: %s: %s", skip.name, skip.reason)
    found = matchings(models, (a, b), config.null, questions)
    stages = Stages(run_dir, KINDS)
    with progress_bar(config.progress) as bar:
        task = bar.add_task("readings", total=n_parts(len(models)))
        read = read_models(models, questions, config.read, partial(bar.advance, task))
    hold = bounds_hold(questions, models[a].config, config.read) and not config.null
    bounds = BOUNDS if hold else None
    rows = compared(read, (a, b), config.null, bounds=bounds, n_bootstrap=config.n_bootstrap, seed=config.read.seed)
    section = FractureSection(
        a=a,
        b=b,
        weights_a=weights[a],
        weights_b=weights[b],
        inputs="all inputs of a rule language" if of_study else ",".join(listed(config.questions)),
        rules=questions.rules,
        contexts=questions.contexts,
        skipped=tuple(f"{skip.name}: {skip.reason}" for skip in questions.skipped),
        target_kl=number(config.read.target_kl, "nats"),
        matches=tuple(
            FractureMatch(
                pair=f"{one.a} and {one.b}",
                split=split,
                kl=number(match.kl, "nats/token", n=match.n),
                agreement=number(match.agreement, "fraction", n=match.n),
            )
            for one in found
            for split, match in one.splits
        ),
        rows=rows,
        null=tuple(name for name in config.null if name not in (a, b)),
        method=METHOD,
    )
    facts = RunFacts.now(name="fracture", seed=config.read.seed, command=command_line(), device="cpu")
    stages.begin(Report(run=facts, sections={"fracture": section}))
    stages.seconds["fracture"] = time.perf_counter() - started
    different = [row.words.split(":")[0] for row in rows if row.called == "different"]
    judged = [row for row in rows if row.called != "not judged"]
    said = (
        f"different in {', '.join(different)}"
        if different
        else f"alike in the {len(judged)} of {len(rows)} measures that can be judged"
        if judged
        else "not judged: give null=[...], runs of one recipe"
    )
    print(f"{found[0]}")
    print(f"inside: {said}")
    print(f"report: {stages.write()['html']}")


METHOD = (
    "Every number of both models, read together: perturbations at the same places and of the same mean output KL, nodes deleted one by one (mean over questions of training), circuits of every rule in every context.",
    "Intervals are of these two models: over perturbations, inputs, rules or behaviours that both were read on. How much models of one recipe differ is another question, and the null answers it: a difference counts from the bound on.",
)  # fmt: skip


def questions_of(config: FractureRun, exports: Sequence[Path], model: ModelConfig) -> Questions:
    """What models are asked: a file of the user's, or the rule language that stands beside all of them.

    Raises:
        ValueError: neither, or models of different tokenizers or languages.
    """
    if paths := listed(config.questions):
        files = [export / "tokenizer.json" for export in exports]
        if lacking := [str(path.parent) for path in files if not path.is_file()]:
            raise ValueError(f"{lacking[0]} has no tokenizer.json, so that texts cannot be put to it; leave questions empty for students of +experiment=fracture")  # fmt: skip
        if len({path.read_text(encoding="utf-8") for path in files}) > 1:
            raise ValueError("the models have different tokenizers: the same text is not the same tokens; give models of one tokenizer")  # fmt: skip
        return read_questions(paths, Tokenizer.load(files[0]), model.d_vocab, model.n_ctx)
    languages = [Language.beside(export) for export in exports]
    if None in languages:
        missing = exports[languages.index(None)]
        raise ValueError(f"{missing} answers no rule language (only students of +experiment=fracture do); give questions=<questions.jsonl>")  # fmt: skip
    if len({repr(language) for language in languages}) > 1:
        raise ValueError("the models answer different rule languages; give students of one run, or questions=<questions.jsonl>")  # fmt: skip
    assert languages[0] is not None
    return languages[0].questions()


if __name__ == "__main__":
    main()
