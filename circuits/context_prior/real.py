"""When does a pretrained language model answer from memory although the prompt says otherwise, and what turns it?

1. Conflicts come from facts of packages (`facts`): capitals, currencies, symbols, languages, continents, each with an answer of another subject. Some are
   for fitting; all others are evaluated. Nothing is trained.
2. Every prompt arm and every intervention has the same number of settings, tried on the same fitting cases of all relations together
   (`circuits.prior`); what is reported is of other facts, beside random controls, the opposite intent and neutral text.
3. Claims are made of each relation, and of all together (`shared`): of the cases that the model answers rightly without a context. The
   others are the end n = 0 of the strength of the prior; they are read and shown.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from circuits.context_prior.facts import SAID, ConflictsConfig, conflicts, names_of, packages_of
from circuits.context_prior.shared import AGREEING as AGREES
from circuits.context_prior.shared import (
    CONFLICT,
    MARGIN,
    N_FACTS,
    OVERVIEWS,
    SPARSER,
    Part,
    hypotheses,
    rulings,
)
from circuits.context_prior.shared import IRRELEVANT as IS_IRRELEVANT
from circuits.context_prior.tables import figure_of, tables_of
from circuits.prior.arm import Arm
from circuits.prior.asking import Asks, plain
from circuits.prior.asking import Subject as Asked
from circuits.prior.cases import AGREEING, IRRELEVANT, STATED, Case, Dealt, Form, Neutral, complete, deal
from circuits.prior.conflicts import NEUTRAL, cases_of, neutral_texts
from circuits.prior.interventions import interventions
from circuits.prior.page import section_of as page_of
from circuits.prior.prompts import DISTRUST, PROMPT_ARMS, REFERENCES
from circuits.prior.sparsity import FINAL, sparsity
from circuits.prior.study import Outcome, examine, forms_for, n_asked
from circuits.section.prior import ContextPriorSection
from sparsetrain.adapters import LanguageModel
from sparsetrain.curriculum.compare import detectable_correlation, detectable_share
from sparsetrain.data.reading import Skip
from sparsetrain.hooks import select_points
from sparsetrain.progress import progress_bar
from sparsetrain.representation.measures import HEADLINE
from sparsetrain.stats.number import number
from sparsetrain.store import recall
from sparsetrain.studies.engine import Stage, StageResult, section_of
from sparsetrain.studies.frozen import (
    FAMILY,
    FrozenConfig,
    ReadResult,
    label_of,
    loaded,
    require_model,
)
from sparsetrain.studies.section import Figure, ResultTable, StudySection
from sparsetrain.studies.study import Gates, Study, Subject, gate
from sparsetrain.typed import plain as plain_data

ALL = "all relations"
N_KNOWN = 120
"""Evaluated cases that the model must answer from memory, over all relations. ours"""
N_WINS = 30
"""Cases in which the prior wins that headroom needs, of a relation and over all. ours"""
N_FIT_EACH = 4
"""Fitting cases of each relation, at least. ours"""
ANSWERS, SPARSITY = "answers", "sparsity"
"""Stages."""
READ = {CONFLICT: STATED, AGREES: AGREEING, IS_IRRELEVANT: IRRELEVANT}
"""Reference -> the form whose sparsity is read."""


def itself(part: Part) -> Part:
    """What is read of a subject is its part."""
    return part


@dataclass(frozen=True, kw_only=True)
class Put:
    """All that is put to the model."""

    subject: Asked
    arms: tuple[Arm, ...]
    left_out: Mapping[str, str]
    """Arm -> why the model cannot be given it."""
    dealt: Dealt
    neutral: tuple[Neutral, ...] = field(repr=False)
    skipped: tuple[Skip, ...]
    """Rows that make no case."""


@dataclass(frozen=True, kw_only=True)
class ContextPriorRealStudy(Study[Part]):
    """Claims are made about each relation, and about all of them together.

    Raises:
        ValueError: no model, settings of other studies, a relation that needs packages where none are to be used; later, before anything is
            read, too few conflicts.
        KeyError: then too, a model that does not show what the unembedding reads.
    """

    question = "When does a pretrained language model answer from memory although the prompt says otherwise, and does it take more than a prompt to turn it?"
    hypotheses = hypotheses(itself, per_seed=False, strength="fame")
    rulings = rulings(strength=True)
    overviews = OVERVIEWS

    frozen: FrozenConfig
    conflicts: ConflictsConfig

    def __post_init__(self) -> None:
        require_model(self.frozen)
        for key in ("second", "probes_of", "second_probes_of"):
            if given := getattr(self.frozen, key):
                raise ValueError(
                    f"study.frozen.{key}={given} reads nothing in this study; leave it empty, relations are study.conflicts.relations"
                )
        wanted = N_FIT_EACH * len(self.relations)
        if (n_fit := self.conflicts.examine.n_fit) is not None and n_fit < wanted:
            raise ValueError(
                f"study.conflicts.examine.n_fit={n_fit}: {len(self.relations)} relations need at least {wanted} fitting cases, {N_FIT_EACH} each"
            )

    @property
    def seeds(self) -> tuple[int, ...]:
        return (self.conflicts.examine.seed,)

    @cached_property
    def relations(self) -> tuple[str, ...]:
        """In their order."""
        return names_of(self.conflicts, self.frozen.plain_only)

    @property
    def arms(self) -> tuple[str, ...]:
        return (ALL, *self.relations)

    @property
    def confidence(self) -> float:
        """Of every interval that a verdict rests on."""
        return 1 - FAMILY / len(self.subjects)

    @property
    def model(self) -> LanguageModel:
        return loaded(self.frozen.model, self.config.trainer.torch_device, self.frozen.trust_remote_code)

    @cached_property
    def put(self) -> Put:
        """Cases, dealt, and the arms that they are put through."""
        model, config = self.model, self.conflicts
        select_points(model.module, (FINAL,))
        subject = Asked(module=model.module, weights_sha256=model.weights_sha256, batch_size=self.frozen.batch_size)
        given, left_out = interventions(subject)
        arms = (*PROMPT_ARMS, *given)
        forms = forms_for(arms)
        rows = conflicts(self.relations, config.n, config.seed)
        cases, skipped = cases_of(rows, model.tokenizer, config.wording, forms, model.n_ctx)
        cases, incomplete = complete(cases, [form for arm in arms for form in arm.forms()])
        skipped = (*skipped, *incomplete)
        per_relation = Counter(case.group for case in cases)
        for name in self.relations:
            if per_relation[name] < 2 * N_FIT_EACH:
                first = next(
                    (f"; {skip.name}: {skip.reason}" for skip in skipped if skip.name.startswith(f"{name}:")), ""
                )
                raise ValueError(
                    f"study.conflicts: relation {name} makes {per_relation[name]} conflicts for this model, and {2 * N_FIT_EACH} are needed; raise "
                    f"study.conflicts.n={config.n} or leave it out of study.conflicts.relations{first}"
                )
        with section_of("study.conflicts"):
            dealt = deal(cases, config.examine.fitting(len(cases)), config.examine.seed)
        neutral = neutral_texts(NEUTRAL, model.tokenizer, config.wording, forms, model.n_ctx)
        return Put(
            subject=subject, arms=arms, left_out=left_out, dealt=dealt, neutral=tuple(neutral), skipped=skipped
        )  # fmt: skip

    def method(self) -> tuple[str, ...]:
        put, config, model = self.put, self.conflicts, self.model
        n_fit, n_asked = (Counter(case.group for case in part) for part in (put.dealt.fit, put.dealt.evaluated))
        of_relations = "; ".join(
            f"{name} (fame: {SAID[name].fame}): {n_asked[name]} evaluated, {n_fit[name]} for fitting, {SAID[name].statement!r}, {SAID[name].question!r}"
            for name in self.relations
        )
        reasons = Counter(skip.reason for skip in put.skipped)
        packages = ", ".join(f"{name} {version}" for name, version in packages_of(self.relations).items())
        settings = {kind: [arm.name for arm in put.arms if arm.kind == kind] for kind in ("prompt", "intervention")}
        n_settings = len(put.arms[0].settings)
        return (
            f"Model, as it is given: {label_of(self.frozen.model)}: {model.architecture}, {model.n_params:,} parameters, weights sha256 {model.weights_sha256[:12]}. It is read in float32; "
            "one that comes from a quantised file is the quantised one.",
            f"Conflicts: {of_relations}. The contradicting answer is that of another subject of the relation, drawn by a hash so that each stands there about "
            f"equally often. Statement {config.wording.statement!r}, question {config.wording.question!r}. Packages: {packages or 'none'}. Rows left out: "
            f"{'; '.join(f'{n} {reason}' for reason, n in reasons.items()) or 'none'}. sha256 of the cases and their parts {put.dealt.sha256[:12]}.",
            f"Prompt arms: {', '.join(settings['prompt'])}; interventions: {', '.join(settings['intervention'])}. Each is tried in {n_settings} settings on the same {len(put.dealt.fit)} fitting "
            f"cases of all relations together, by {config.examine.measure}; so are the best prompt and the best intervention chosen. Not tried: "
            f"{'; '.join(f'{name}: {reason}' for name, reason in put.left_out.items()) or 'none'}. {config.examine.n_random} random controls of each intervention.",
            f"Claims are of the evaluated cases that the model answers rightly where nothing is stated (known), {N_KNOWN} at least over all relations; the others are the end n = 0 of the prior. No claim is made of fewer than {N_FACTS} facts. "
            f"Headroom and what rests on it is undefined where the prior wins (memory's answer although the opposite is stated once) in fewer than {N_WINS} cases. Over all relations rank "
            "correlations are of ranks within each. Headroom over the cases in which the prior wins is shown, and decides nothing: they are selected on one noisy reading, equally for both sides.",
            f"Sparsity: {HEADLINE} at {FINAL}, at the token that predicts the answer, higher is sparser; the conflicting statement less the agreeing one, case by case; differences below {SPARSER:g} are of no interest.",
            f"Smallest difference of the measure that is seen with a chance of .8, if a fifth of the cases turn in one of two arms alone: {detectable_share(N_KNOWN, confidence=self.confidence):.3f} with "
            f"{N_KNOWN} known cases, {detectable_share(N_WINS, confidence=self.confidence):.3f} with {N_WINS}; of rank correlations {detectable_correlation(N_KNOWN, confidence=self.confidence):.3f} and "
            f"{detectable_correlation(N_WINS, confidence=self.confidence):.3f}. Differences below {MARGIN:g} are of no interest; where the interval does not leave them out the word is undecided.",
            f"One model and one seed: intervals are of facts resampled ({self.frozen.n_bootstrap} resamples), and widened for {len(self.subjects)} parts (Bonferroni: {self.confidence:.4f} each, so "
            "that all hold together at .95).",
        )  # fmt: skip

    def gates(self) -> Gates[Part]:
        words = "evaluated cases over all relations that the model answers from memory where nothing is stated"
        return [gate("known", words, number(N_KNOWN, "cases"), lambda part: float(part.outcome.known.sum()))]

    def stages(self) -> Sequence[Stage]:
        put, examined = self.put, plain_data(self.conflicts.examine)
        inputs = {
            "weights": put.subject.weights_sha256,
            "cases": put.dealt.sha256,
            "neutral": [[text.place, list(text.text)] for text in put.neutral],
            "arms": [[arm.name, [dict(setting) for setting in arm.settings]] for arm in put.arms],
            "examine": examined,
        }
        forms = {"forms": [repr(form) for form in READ.values()], "point": FINAL}
        return [
            Stage(name=ANSWERS, inputs=inputs, run=self.answer, schema=ReadResult),
            Stage(name=SPARSITY, inputs={**inputs, **forms}, run=self.look, schema=ReadResult),
        ]

    def answer(self, folder: Path) -> ReadResult:
        """Tunes every arm and puts all evaluated cases through it."""
        put = self.put
        with progress_bar(self.config.trainer.progress) as bar:
            task = bar.add_task(ANSWERS, total=n_asked(put.dealt, put.arms, self.conflicts.examine))
            self._outcomes[folder] = self._examine(folder, partial(bar.advance, task))
        return ReadResult(
            weights_sha256=put.subject.weights_sha256, n_items=len(put.dealt.evaluated), n_tokens=self.most_tokens()
        )

    def look(self, folder: Path) -> ReadResult:
        """Reads the sparsity of every evaluated case."""
        put = self.put
        with progress_bar(self.config.trainer.progress) as bar:
            task = bar.add_task(SPARSITY, total=len(READ) * len(put.dealt.evaluated))
            for form in READ.values():
                sparsity(put.subject, put.dealt.evaluated, form, folder, partial(bar.advance, task))
        read = [case.prompts[form] for form in READ.values() for case in put.dealt.evaluated if form in case.prompts]
        return ReadResult(weights_sha256=put.subject.weights_sha256, n_items=len(read), n_tokens=sum(map(len, read)))

    def _examine(self, folder: Path, on_cases=lambda n: None) -> Outcome:  # pyright: ignore[reportMissingParameterType]
        put = self.put
        return examine(put.subject, put.dealt, put.arms, put.neutral, self.conflicts.examine, folder, on_cases)

    @cached_property
    def _outcomes(self) -> dict[Path, Outcome]:
        return {}

    def outcome(self, run_dir: Path) -> Outcome:
        """Everything that was answered, from the disk."""
        folder = run_dir / ANSWERS
        if folder not in self._outcomes:
            self._outcomes[folder] = self._examine(folder)
        return self._outcomes[folder]

    def read(self, run_dir: Path, results: Mapping[str, StageResult]) -> Mapping[Subject, Sequence[Part]]:
        put, outcome = self.put, self.outcome(run_dir)
        sparse = {
            name: sparsity(put.subject, put.dealt.evaluated, form, run_dir / SPARSITY) for name, form in READ.items()
        }
        return {subject: [part] for subject, part in self.parts(outcome, sparse).items()}

    def parts(self, outcome: Outcome, sparse: Mapping[str, np.ndarray]) -> dict[Subject, Part]:
        """All cases together, and those of each relation."""
        groups = np.array([case.group for case in outcome.cases])
        return {
            subject: Part(
                outcome=outcome,
                rows=np.ones(len(groups), dtype=bool) if subject.arm == ALL else groups == subject.arm,
                sparsity=sparse,
                min_wins=N_WINS,
                n_bootstrap=self.frozen.n_bootstrap,
                confidence=self.confidence,
            )
            for subject in self.subjects
        }

    def announce(self, run_dir: Path) -> str:
        """How much is still to be read, and how long that takes here."""
        if recall(run_dir / ANSWERS / "result.json", ReadResult) is not None:
            return "everything is answered; what follows is computed from it"
        put, n_tokens = self.put, self.most_tokens()
        some = put.dealt.fit[: self.frozen.batch_size]
        asks = Asks(some)
        apply = plain(put.subject, STATED)
        spent = 0.0
        for _ in range(2):  # the first one warms up
            started = time.perf_counter()
            apply(asks)
            spent = time.perf_counter() - started
        rate = spent / n_tokens_of(some, STATED)
        return (
            f"{len(put.dealt.evaluated)} conflicts to evaluate and {len(put.dealt.fit)} to fit, {len(put.skipped)} left out; at most {n_tokens:,} tokens to read, about "
            f"{max(1, round(rate * n_tokens / 60))} minutes on this machine"
        )

    def most_tokens(self) -> int:
        """Tokens of all that is read, if every arm reads all of its forms in the longest of its settings."""
        put, n_random = self.put, self.conflicts.examine.n_random
        of_fit, of_asked = (partial(n_tokens_of, part) for part in (put.dealt.fit, put.dealt.evaluated))
        total = sum(of_asked(form) for form in (*REFERENCES.values(), DISTRUST, *READ.values()))
        for arm in put.arms:
            total += sum(of_fit(form) for setting in arm.settings for form in arm.forms(setting))
            total += arm.n_learning * of_fit(STATED)
            longest = max(sum(of_asked(form) for form in arm.forms(setting)) for setting in arm.settings)
            n_more = 0 if arm.kind == "prompt" else 1 + (1 if arm.control_forms else n_random)
            total += (1 + n_more) * longest
        return total

    def figures(self, read: Mapping[Subject, Sequence[Part]]) -> Sequence[Figure]:
        return [figure_of(read[Subject(arm=ALL)][0])]

    def tables(
        self, read: Mapping[Subject, Sequence[Part]], results: Mapping[str, StageResult]
    ) -> Sequence[ResultTable]:
        return tables_of({subject.arm: part for subject, (part,) in read.items()})

    def sections(
        self, run_dir: Path, results: Mapping[str, StageResult], section: StudySection
    ) -> Mapping[str, ContextPriorSection]:
        put = self.put
        page = page_of(
            self.outcome(run_dir),
            model=label_of(self.frozen.model),
            skipped=put.skipped,
            left_out=put.left_out,
            min_wins=N_WINS,
        )
        return {"context_prior": page}


def n_tokens_of(cases: Sequence[Case], form: Form) -> int:
    """Tokens of the rows of cases in a form; 0 of those that lack it."""
    total = 0
    for case in cases:
        if form in case.prompts:
            stems = {answer[:-1] for answer in case.answers}
            total += sum(len(case.prompts[form]) + len(stem) for stem in stems)
    return total
