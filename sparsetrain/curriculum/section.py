"""The section `curriculum` of report.json: a user's pool as a model ranks it, and how every arm is answered where questions are given.

Every example stands in ordering.csv, every question in answers.csv; the section has what a page shows of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sparsetrain.curriculum.arms import ARMS, ChoiceConfig
from sparsetrain.curriculum.compare import APART, POWER, Answers, detectable_share
from sparsetrain.curriculum.prompting import Prepared, pool_of
from sparsetrain.curriculum.prompts import Example, WordingConfig
from sparsetrain.curriculum.ranking import levels_of, ranks
from sparsetrain.curriculum.scoring import ScoreConfig, Scores
from sparsetrain.representation.measures import MEASURES
from sparsetrain.representation.section import MeasuredModel
from sparsetrain.stats.correlation import spearman
from sparsetrain.stats.decisions import DecisionRule, Word, decide
from sparsetrain.stats.intervals import Estimate, Floats, over_items, share
from sparsetrain.stats.number import Number, number

N_ROWS = 100
"""Examples of each end of the ranking that the section has; of at most twice as many all. ours"""
N_POINTS = 400
"""Examples that the picture has, evenly chosen by rank. ours"""


@dataclass(frozen=True, kw_only=True)
class IntervalConfig:
    """How intervals and words are made; written down before anything is read. ours"""

    margin: float = 0.05
    """Smallest difference of accuracy of interest."""
    confidence: float = 0.95
    """Of an interval; those that a word rests on are widened so that all of them hold together (Bonferroni)."""
    n_bootstrap: int = 1000
    """Resamples of the examples."""
    seed: int = 0
    """Of the resamples."""

    def __post_init__(self) -> None:
        if not 0 < self.margin < 1:
            raise ValueError(f"margin={self.margin} must lie between 0 and 1: without one, no data could say no")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"confidence={self.confidence} must lie in [0.5, 1); the usual one is 0.95")
        if self.n_bootstrap < 1:
            raise ValueError(f"n_bootstrap={self.n_bootstrap} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class RankedExample:
    """An example of the pool in its place."""

    rank: int
    """0: the densest, taken for the easiest."""
    level: int
    measured: float
    """The measure of sparsity."""
    loss: float
    """Of its answer, nats/token."""
    answered: bool
    """Whether every token of the answer is the likeliest one, without demonstrations."""
    n_tokens: int
    difficulty: float | None
    question: str
    answer: str
    place: str
    """File and line."""


@dataclass(frozen=True, kw_only=True)
class LevelEntry:
    """The examples of one level."""

    level: int
    n: int
    lowest: float
    highest: float
    """Of the measure."""
    loss: Number
    answered: Number
    difficulty: Number | None
    """Mean of what is known from elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Points:
    """Examples as points, evenly chosen by rank."""

    measured: tuple[float, ...]
    loss: tuple[float, ...]
    answered: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class ArmEntry:
    """How the questions are answered in one arm."""

    name: str
    words: str
    control: str
    """Empty: it is none that is claimed to help."""
    accuracy: Number
    loss: Number
    gain: Number | None
    """Accuracy minus that of the control, of the same questions."""
    fall: Number | None
    """Loss in the control minus loss here."""
    word: Word | None
    reason: str
    n_dropped: int
    """Demonstrations that the budget had no room for, over all its prompts."""


@dataclass(frozen=True, kw_only=True)
class ComparisonEntry:
    """All arms on the same questions."""

    n_asked: int
    n_prompts: int
    """Each counted once, however many arms come to it."""
    n_tokens: int
    n_same: int
    """Examples that were kept from a question because they have the same one."""
    n_skipped: int
    skipped: Mapping[str, str]
    """Place -> why a row is no question."""
    rule: str
    """By which a word is given; written down before anything is answered."""
    detectable: Number
    """The smallest difference of accuracy that is seen with a chance of .8."""
    intervals: str
    arms: tuple[ArmEntry, ...]


@dataclass(frozen=True, kw_only=True)
class CurriculumSection:
    """A pool of demonstrations as a model ranks it, by `scripts/curriculum.py`."""

    model: MeasuredModel
    measure: str
    direction: str
    """higher: a higher measure is sparser; lower."""
    hook_point: str
    read_out: str
    similarity: str
    instruction: str
    example: str
    """How an example is written."""
    n_tokens: int | None
    """Budget of a prompt with its answer; None: none."""
    n_pool: int
    n_shown: int
    n_retrieved: int
    n_draws: int
    n_skipped: int
    skipped: Mapping[str, str]
    """Place -> why a row of the pool was left out; the first thousand."""
    n_known: int
    """Examples with a known difficulty; it is used where all have one."""
    correlations: Mapping[str, Number]
    """Rank correlation of sparsity over the pool with `loss`, `length`, `difficulty`, `<name> given <other>`."""
    levels: tuple[LevelEntry, ...]
    points: Points
    ranked: tuple[RankedExample, ...]
    """All, or both ends."""
    intervals: str
    comparison: ComparisonEntry | None = None
    files: tuple[str, ...] = field(default=())
    """Tables beside the report."""


def correlations_of(scores: Scores, difficulty: Floats | None, config: IntervalConfig) -> dict[str, Number]:
    """Rank correlations of sparsity over the pool, alone and given other scores; one that too few examples tell has no value."""
    known = {"loss": scores.loss, "length": scores.length, "entropy": scores.entropy, "logit norm": scores.logit_norm}
    wanted: list[tuple[str, tuple[str, ...]]] = [("loss", ()), ("loss", ("length",)), ("length", ())]
    if difficulty is not None:
        known["difficulty"] = difficulty
        wanted += [("difficulty", ()), ("difficulty", ("loss",)), ("difficulty", ("loss", "entropy", "logit norm", "length"))]  # fmt: skip
        wanted += [("loss", ("difficulty",))]
    found: dict[str, Number] = {}
    for name, given in wanted:
        least, n = 3 + len(given), len(scores.loss)
        label = f"{name} given {', '.join(given)}" if given else name
        if n < least:
            found[label] = number(None, "correlation", n=n, note=f"it takes {least} examples")
            continue
        estimate = spearman(
            known[name], scores.sparsity, given=[known[other] for other in given], n_bootstrap=config.n_bootstrap,
            confidence=config.confidence, seed=config.seed,
        )  # fmt: skip
        found[label] = estimate.number("correlation", seed=config.seed)
    return found


def curriculum_section(
    *,
    model: MeasuredModel,
    examples: Sequence[Example],
    scores: Scores,
    score: ScoreConfig,
    choice: ChoiceConfig,
    wording: WordingConfig,
    n_tokens: int | None,
    skipped: Mapping[str, str],
    n_skipped: int,
    config: IntervalConfig,
    files: Sequence[str],
) -> CurriculumSection:
    """The ranking of a pool.

    Args:
        model: that ranks.
        examples: of the pool.
        scores: of the pool.
        score: by what.
        choice: how demonstrations are chosen.
        wording: of the prompts.
        n_tokens: that a prompt may have.
        skipped: rows that were left out, the first ones with reasons.
        n_skipped: all of them.
        config: of the intervals.
        files: tables beside the report.

    Raises:
        ValueError: fewer examples than levels.
    """
    place, levels = ranks(scores.sparsity), levels_of(scores.sparsity, choice.n_levels)
    order = np.argsort(place)
    difficulty = pool_of(examples, scores).difficulty

    def mean(values: Floats, unit: str) -> Number:
        if len(values) < 2:
            return number(float(values.mean()), unit, n=len(values))
        estimate = over_items(values, n_bootstrap=config.n_bootstrap, confidence=config.confidence, seed=config.seed)
        return estimate.number(unit, seed=config.seed)

    entries: list[LevelEntry] = []
    for level in range(choice.n_levels):
        here = levels == level
        entries.append(
            LevelEntry(
                level=level,
                n=int(here.sum()),
                lowest=float(scores.measured[here].min()),
                highest=float(scores.measured[here].max()),
                loss=mean(scores.loss[here], "nats/token"),
                answered=share(scores.correct[here], confidence=config.confidence).number("fraction"),
                difficulty=None if difficulty is None else mean(difficulty[here], ""),
            )
        )
    picks = order[np.unique(np.linspace(0, len(order) - 1, min(N_POINTS, len(order))).round().astype(int))]
    named = order if len(order) <= 2 * N_ROWS else np.concatenate([order[:N_ROWS], order[-N_ROWS:]])
    return CurriculumSection(
        model=model,
        measure=score.measure,
        direction=MEASURES[score.measure].direction,
        hook_point=score.hook_point,
        read_out=score.read_out,
        similarity=score.similarity,
        instruction=wording.instruction,
        example=wording.example,
        n_tokens=n_tokens,
        n_pool=len(examples),
        n_shown=choice.n_shown,
        n_retrieved=choice.n_retrieved,
        n_draws=choice.n_draws,
        n_skipped=n_skipped,
        skipped=skipped,
        n_known=sum(example.difficulty is not None for example in examples),
        correlations=correlations_of(scores, difficulty, config),
        levels=tuple(entries),
        points=Points(
            measured=tuple(scores.measured[picks].tolist()),
            loss=tuple(scores.loss[picks].tolist()),
            answered=tuple((scores.correct[picks] == 1).tolist()),
        ),
        ranked=tuple(
            RankedExample(
                rank=int(place[i]),
                level=int(levels[i]),
                measured=float(scores.measured[i]),
                loss=float(scores.loss[i]),
                answered=bool(scores.correct[i] == 1),
                n_tokens=int(scores.length[i]),
                difficulty=examples[i].difficulty,
                question=examples[i].question,
                answer=examples[i].answer,
                place=examples[i].place,
            )
            for i in named
        ),
        intervals=f"{config.confidence:.0%}, percentile bootstrap over examples ({config.n_bootstrap} resamples, seed {config.seed}); of shares "
        f"Wilson's",
        files=tuple(files),
    )


def compared_arms(difficulty_known: bool) -> tuple[str, ...]:
    """Arms with a control, of those that a pool allows."""
    return tuple(name for name, arm in ARMS.items() if arm.control and (difficulty_known or not arm.needs_difficulty))


def rule_of(config: IntervalConfig, n_compared: int) -> tuple[DecisionRule, float]:
    """The rule of every word, and the confidence of the interval that it rests on."""
    rule = DecisionRule(claim="answered more often than its control", expected="positive", margin=config.margin)
    return rule, 1 - (1 - config.confidence) / n_compared


LEAST_RIGHT = 0.1
"""Share of the questions that the best arm must have right for a word about any. ours"""


def comparison_entry(
    answers: Answers,
    prepared: Prepared,
    config: IntervalConfig,
    *,
    skipped: Mapping[str, str],
    n_skipped: int,
) -> ComparisonEntry:
    """How every arm is answered.

    Args:
        answers: to all prompts.
        prepared: the prompts.
        config: margin and intervals.
        skipped: rows that are no questions, the first ones with reasons.
        n_skipped: all of them.

    Raises:
        ValueError: fewer than two questions.
    """
    n_asked = len(next(iter(answers.right.values())))
    compared = [name for name in answers.right if ARMS[name].control]
    rule, confidence = rule_of(config, len(compared))

    def over(values: Floats) -> Estimate:
        return over_items(values, n_bootstrap=config.n_bootstrap, confidence=confidence, seed=config.seed)

    entries: list[ArmEntry] = []
    most = max(float(right.mean()) for right in answers.right.values())
    for name in answers.right:
        arm, gain, fall, word, reason = ARMS[name], None, None, None, ""
        if arm.control:
            found = answers.gain(name, confidence)
            decision = decide(rule, found)
            gain, word, reason = found.number("fraction"), decision.word, decision.reason
            if most < LEAST_RIGHT:
                word, reason = (
                    "undecided",
                    f"no arm has more than {most:.0%} of the questions right: none can be told from another",
                )
            fall = over(answers.falls(name)).number("nats/token", seed=config.seed)
        loss = over_items(answers.loss[name], n_bootstrap=config.n_bootstrap, confidence=config.confidence, seed=config.seed)  # fmt: skip
        entries.append(
            ArmEntry(
                name=name,
                words=arm.words,
                control=arm.control,
                accuracy=answers.accuracy(name, config.confidence).number("fraction"),
                loss=loss.number("nats/token", seed=config.seed),
                gain=gain,
                fall=fall,
                word=word,
                reason=reason,
                n_dropped=answers.n_dropped[name],
            )
        )
    least = detectable_share(n_asked, confidence=confidence)
    note = f"seen with a chance of {POWER:g}, if {APART:.0%} of the questions are right in one of two arms alone"
    return ComparisonEntry(
        n_asked=n_asked,
        n_prompts=len(prepared.items),
        n_tokens=prepared.n_tokens,
        n_same=prepared.n_same,
        n_skipped=n_skipped,
        skipped=skipped,
        rule=rule.describe(),
        detectable=number(least, "fraction", n=n_asked, note=note),
        intervals=f"accuracies and losses {config.confidence:.0%}; differences {confidence:.2%}, so that all {len(compared)} hold together at "
        f"{config.confidence:.0%} (Bonferroni); over questions, draws of a random arm averaged question by question",
        arms=tuple(entries),
    )
