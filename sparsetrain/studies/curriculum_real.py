"""Does sparsity order the demonstrations of a prompt? On a pretrained language model, over tasks whose difficulty is known.

1. A task is a relation (country: capital; verb: past tense) or sums (`curriculum/tasks.py`). Its questions and its pool are scored once, each example alone.
2. Every question is asked in every arm (`curriculum/arms.py`), in one wording and with as many demonstrations, and answered once a prompt.
3. Verdicts rest on accuracy minus that of the arm's control, over the questions of all tasks, and of each; and on the rank correlation of
   sparsity with known difficulty and with the model's own loss, alone and given the other.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from sparsetrain.curriculum.arms import ARMS, DEALT, DRAWN, RANDOM_ORDER, ZERO_SHOT, ChoiceConfig, check_pool
from sparsetrain.curriculum.compare import Answers, detectable_correlation, detectable_share
from sparsetrain.curriculum.prompting import ORDERING, Prepared, answer, pool_of, prepare, write_ordering
from sparsetrain.curriculum.prompts import Example, Written, write
from sparsetrain.curriculum.scoring import ScoreConfig, Scores, score
from sparsetrain.curriculum.tasks import SUMS, TASKS, Dealt, Task, deal
from sparsetrain.data.probes import Probe, Probes, ProbesConfig, ProbeTokenizer
from sparsetrain.hooks import select_points
from sparsetrain.progress import progress_bar
from sparsetrain.representation.active import Prompts
from sparsetrain.stats.correlation import mean_ranks, spearman
from sparsetrain.stats.intervals import Estimate, Floats, over_items
from sparsetrain.stats.number import number
from sparsetrain.store import recall
from sparsetrain.studies.engine import StageResult, section_of
from sparsetrain.studies.frozen import FrozenStudy, Put, ReadResult, item_of
from sparsetrain.studies.readings import correlation
from sparsetrain.studies.section import ResultTable, TableCell
from sparsetrain.studies.study import Gates, Hypothesis, Ruling, Subject, gate

ALL = "all tasks"
MARGIN = 0.05
"""Smallest difference of accuracy of interest. ours"""
NATS = 0.05
"""Smallest difference of loss of interest, nats/token. ours"""
N_ASKED = 100
"""Questions of a task that a verdict needs. ours"""
LEARNED = 0.1
"""Accuracy that demonstrations must add for their order to be worth anything. ours"""
GUIDED = ("sparsity", "published", "matched")
"""Arms that sparsity guides."""
COMPARED = tuple(name for name, arm in ARMS.items() if arm.control)
PREDICTION = "loss", "entropy", "logit_norm"
"""What a prediction says of an example."""


@dataclass(frozen=True, kw_only=True)
class TaskReadings:
    """One task, or all of them one behind the other."""

    answers: Answers
    scores: Scores
    """Of all examples, those that are asked and the pool, each alone; in ranks within each task where there are several."""
    difficulty: Floats
    n_bootstrap: int
    confidence: float

    def gain(self, arm: str) -> Estimate:
        """Accuracy of an arm minus that of its control."""
        return self.answers.gain(arm, self.confidence)

    def fall(self, arm: str) -> Estimate:
        """Loss in the control minus loss in the arm, nats/token."""
        return over_items(self.answers.falls(arm), n_bootstrap=self.n_bootstrap, confidence=self.confidence, seed=0)

    def correlation(self, x: str, y: str, *given: str) -> Estimate:
        """Rank correlation of two of `difficulty` and the scores, over all examples, given others."""
        of = {"difficulty": self.difficulty, **vars(self.scores)}
        covariates = [of[name] for name in given]
        return spearman(
            of[x], of[y], given=covariates, n_bootstrap=self.n_bootstrap, confidence=self.confidence, seed=0
        )


def together(tasks: Sequence[TaskReadings]) -> TaskReadings:
    """All tasks as one: questions one behind the other, scores in ranks from 0 to 1 within each task, ties at their mean."""

    def ranked(values: Floats) -> Floats:
        return (mean_ranks(values) - 0.5) / len(values)

    scores: dict[str, Floats] = {}
    for name in vars(tasks[0].scores):
        if name != "vectors":
            scores[name] = np.concatenate([ranked(getattr(r.scores, name)) for r in tasks])
    first = tasks[0].answers
    return replace(
        tasks[0],
        answers=Answers(
            right={arm: np.concatenate([r.answers.right[arm] for r in tasks]) for arm in first.right},
            loss={arm: np.concatenate([r.answers.loss[arm] for r in tasks]) for arm in first.loss},
            n_dropped={arm: sum(r.answers.n_dropped[arm] for r in tasks) for arm in first.n_dropped},
        ),
        scores=Scores(**scores, vectors=np.zeros((0, 0))),
        difficulty=np.concatenate([ranked(r.difficulty) for r in tasks]),
    )


def dealt_of(task: Task, config: ProbesConfig, tokenizer: ProbeTokenizer) -> Dealt:
    """The examples of a task that take part: `n_prompts` questions, and as many in the pool."""

    def usable(example: Example) -> bool:
        return isinstance(write(tokenizer, task.wording, (), example, None), Written)

    return deal(task, usable, n_asked=config.n_prompts, n_pool=config.n_prompts, seed=config.seed)


def questions(name: str, config: ProbesConfig, tokenizer: ProbeTokenizer) -> Probes:
    """Every example of a task that takes part, alone."""
    task = TASKS[name]()
    dealt = dealt_of(task, config, tokenizer)
    probes: list[Probe] = []
    for row, example in enumerate(dealt.examples):
        written = write(tokenizer, task.wording, (), example, None)
        assert isinstance(written, Written) and example.difficulty is not None
        item, known = written.item, -example.difficulty
        probes.append(Probe(tokens=item.tokens, n_answer=item.n_answer, level=0, row=row, frequency=known))
    return Probes(
        shift=f"difficulty: {task.difficulty}",
        levels=("alone",),
        matched=False,
        probes=tuple(probes),
        sources=task.sources,
    )


def compared(arm: str) -> tuple[Hypothesis, ...]:
    """That an arm is answered more often than its control, and that its answers are likelier."""
    words, control = ARMS[arm].words, ARMS[ARMS[arm].control].words

    def claimed(
        key: str, claim: str, effect: Callable[[TaskReadings], Estimate], unit: str, margin: float
    ) -> Hypothesis:
        return Hypothesis(
            key=key, claim=f"{words}: {claim} than {control}", expected="positive", effect=effect, unit=unit, margin=margin, per_seed=False
        )  # fmt: skip

    return (
        claimed(arm, "answered more often", lambda r: r.gain(arm), "fraction", MARGIN),
        claimed(f"{arm}, loss", "a lower loss of the answer", lambda r: r.fall(arm), "nats/token", NATS),
    )


def correlated(key: str, words: str, x: str, y: str, *given: str) -> Hypothesis:
    """That two of an example's properties rise together."""
    return replace(correlation(key, "positive", words, lambda r: r.correlation(x, y, *given)), per_seed=False)


QUESTIONS = {name: partial(questions, name) for name in TASKS}
OVERVIEWS = {
    "overview": ("Accuracy of arms that sparsity guides minus that of their controls", GUIDED),
    "others": ("The same of arms that it does not guide", tuple(arm for arm in COMPARED if arm not in GUIDED)),
    "difficulty": (
        "Rank correlation of sparsity with known difficulty, alone and given the loss",
        ("difficulty", "difficulty given loss"),
    ),
}


@dataclass(frozen=True, kw_only=True)
class CurriculumRealStudy(FrozenStudy[TaskReadings]):
    """Claims are made about each task, and about all of them together.

    Raises:
        ValueError: as `FrozenStudy`; a second model; later, before anything is read, a pool that is too small.
        KeyError: then too, a hook point that the model does not have.
    """

    question = "Does sparsity order the demonstrations of a prompt in a pretrained language model?"
    builders = QUESTIONS
    plain = frozenset({SUMS})
    hypotheses = (
        *(hypothesis for arm in COMPARED for hypothesis in compared(arm)),
        correlated("difficulty", "sparser examples are harder (Spearman with known difficulty)", "difficulty", "sparsity"),
        correlated("own loss", "sparser examples are predicted worse (Spearman with the loss of the answer)", "loss", "sparsity"),
        correlated("difficulty given loss", "sparser examples are harder, given the loss (partial Spearman)", "difficulty", "sparsity", "loss"),
        correlated("loss given difficulty", "sparser examples are predicted worse, given known difficulty (partial Spearman)", "loss", "sparsity", "difficulty"),
        correlated("felt", "harder examples are predicted worse (Spearman of known difficulty with the loss)", "difficulty", "loss"),
        correlated("difficulty given prediction", "sparser examples are harder, given loss, entropy, logit norm and length", "difficulty", "sparsity", *PREDICTION, "length"),
    )  # fmt: skip
    rulings = (
        Ruling(
            name="order",
            statement="ordering the same demonstrations by sparsity helps, against random order",
            needs=("sparsity",),
        ),
        Ruling(
            name="as published",
            statement="choosing demonstrations by sparsity as published helps, against the same rule without knowing sparsity",
            needs=("published",),
        ),
        Ruling(
            name="ours",
            statement="choosing demonstrations as sparse as the question helps, against random draws",
            needs=("matched",),
        ),
        Ruling(
            name="marks difficulty",
            statement="sparser examples are harder, also given the model's own loss",
            needs=("difficulty", "difficulty given loss"),
        ),
    )
    overviews = OVERVIEWS

    score: ScoreConfig
    choice: ChoiceConfig

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frozen.second:
            raise ValueError(f"study.frozen.second={self.frozen.second} reads nothing in this study; leave it empty")

    @property
    def tasks(self) -> tuple[str, ...]:
        """Tasks, in their order."""
        return super().arms

    @property
    def arms(self) -> tuple[str, ...]:
        return (ALL, *self.tasks)

    @property
    def budget(self) -> int | None:
        """Most tokens of a prompt with its answer, whose last one is predicted and never read."""
        n_ctx = self.model_of(self.puts[0]).n_ctx
        return None if n_ctx is None else n_ctx + 1

    @cached_property
    def dealt(self) -> Mapping[str, tuple[Task, Dealt]]:
        """Task -> its examples, and their parts."""
        model = self.model_of(self.puts[0])
        select_points(model.module, (self.score.hook_point,))
        tasks = {name: TASKS[name]() for name in self.tasks}
        dealt = {name: (task, dealt_of(task, self.frozen.probes, model.tokenizer)) for name, task in tasks.items()}
        with section_of("study.choice"):
            for _, one in dealt.values():
                check_pool(self.choice, len(one.pool), len(one.pool) - one.leaves_one_out)
        return dealt

    def inputs(self, put: Put) -> Mapping[str, object]:
        weights = self.model_of(put).weights_sha256
        return {"weights": weights, "probes": self.probes[put.arm].sha256, "score": self.score, "choice": self.choice}

    def method(self) -> tuple[str, ...]:
        n = {name: len(dealt.asked) for name, (_, dealt) in self.dealt.items()}
        parts = "; ".join(
            f"{name} ({task.difficulty} is harder): {len(dealt.asked)} questions, {len(dealt.pool)} in the pool{', each but the question itself' if dealt.leaves_one_out else ''}"
            for name, (task, dealt) in self.dealt.items()
        )
        arms = "; ".join(f"{name}: {arm.words}" for name, arm in ARMS.items())
        least = detectable_share(sum(n.values()), confidence=self.confidence)
        of_one = detectable_share(min(n.values()), confidence=self.confidence)
        n_examples = sum(len(dealt.examples) for _, dealt in self.dealt.values())
        of_ranks = detectable_correlation(n_examples, confidence=self.confidence)
        return (
            f"Tasks: {parts}. One wording a task for all arms: {'; '.join(f'{name} {task.wording.example!r}' for name, (task, _) in self.dealt.items())}. A question is "
            f"right if every token of its answer is the likeliest one, each given those before it; nothing is asked of what follows.",
            f"Every example is scored alone, in the same wording, before anything is asked: {self.score.measure} at {self.score.hook_point}, read at "
            f"{self.score.read_out} (last: the token that predicts the answer). Similarity: {self.score.similarity}. No arm sees an answer to the question.",
            f"Arms: {arms}. {self.choice.n_shown} demonstrations, those that choose out of the {self.choice.n_retrieved} most similar; {self.choice.n_levels} levels of the pool by rank; "
            f"{self.choice.n_draws} draws where an arm is random. Arms that order are compared with {RANDOM_ORDER}, arms that choose with {DRAWN} or, where the rule prefers similar ones "
            f"besides, with {DEALT}: the same material, the same number of demonstrations.",
            f"Smallest difference of accuracy that is seen with a chance of .8, if a fifth of the questions are right in one of two arms alone: {least:.3f} over all "
            f"tasks, {of_one:.3f} in a task. Differences below {MARGIN:g} are of no interest; where the interval does not leave them out the word is undecided.",
            f"Correlations are over all examples, those that are asked and those in the pool, each scored alone. Over all tasks questions stand one behind "
            f"the other, and correlations are of ranks within each task; the smallest that is seen with a chance of .8 is {of_ranks:.3f}.",
            *self.paragraphs(),
        )

    def gates(self) -> Gates[TaskReadings]:
        def n_asked(r: TaskReadings) -> float:
            return float(len(r.answers.right[ZERO_SHOT]))

        def learned(r: TaskReadings) -> float:
            return r.answers.learned

        found = []
        for arm in self.arms:
            least, added = number(N_ASKED, "questions"), number(LEARNED, "fraction")
            words = f"{arm}: accuracy that demonstrations in random order add to none"
            found.append(gate(f"{arm}: questions", f"{arm}: questions", least, n_asked, arm=arm))
            found.append(gate(f"{arm}: learned", words, added, learned, arm=arm))
        return found

    def announce(self, run_dir: Path) -> str:
        left = [put for put in self.puts if recall(run_dir / self.folder(put) / "result.json", ReadResult) is None]
        if not left:
            return "everything is answered; what follows is computed from it"
        n_tokens, seconds = sum(map(self.most_tokens, left)), sum(map(self.expected_s, left))
        return (
            f"at most {n_tokens:,} tokens to read in {len(left)} of {len(self.puts)} stages (arms that come to one prompt share it), about "
            f"{max(1, round(seconds / 60))} minutes on this machine"
        )

    def most_tokens(self, put: Put) -> int:
        """Tokens of all prompts of a task, if no two are the same."""
        probes, (_, dealt) = self.probes[put.arm], self.dealt[put.arm]
        n_prompts = sum(self.choice.n_draws if arm.is_random else 1 for arm in ARMS.values()) - 1
        of_one = probes.n_tokens / len(probes.probes)
        return round(len(dealt.asked) * of_one * (1 + n_prompts * (1 + self.choice.n_shown)))

    def expected_s(self, put: Put) -> float:
        """Of answering a task, by timing one batch of prompts as long as its own."""
        (task, dealt), model = self.dealt[put.arm], self.model_of(put)
        shown = [dealt.examples[i] for i in dealt.pool[: self.choice.n_shown]]
        written = [write(model.tokenizer, task.wording, shown, dealt.examples[i], self.budget) for i in dealt.asked]
        items = [one.item for one in written if isinstance(one, Written)][: self.frozen.batch_size]
        for _ in range(2):  # the first one warms up
            started = time.perf_counter()
            Prompts(model.module, items).answer({})
            spent = time.perf_counter() - started
        return spent / sum(len(item.tokens) for item in items) * self.most_tokens(put)

    def work(self, put: Put, folder: Path) -> StageResult:
        """Scores all examples of a task, then asks every question in every arm."""
        model = self.model_of(put)
        with progress_bar(self.config.trainer.progress) as bar:
            scoring = bar.add_task(f"{put.arm}: scores", total=len(self.probes[put.arm].probes))
            scores = self.scores_of(put, folder, partial(bar.advance, scoring))
            prepared = self.prepared(put, scores)
            asking = bar.add_task(f"{put.arm}: prompts", total=len(prepared.items))
            self.answers_of(put, folder, prepared, partial(bar.advance, asking))
        _, dealt = self.dealt[put.arm]
        pool = np.array(dealt.pool)
        examples = [dealt.examples[i] for i in dealt.pool]
        write_ordering(folder / ORDERING, examples, scores[pool], self.choice.n_levels)
        return ReadResult(weights_sha256=model.weights_sha256, n_items=len(prepared.items), n_tokens=prepared.n_tokens)

    def scores_of(self, put: Put, folder: Path, on_items: Callable[[int], object] = lambda n: None) -> Scores:
        """Of all examples of a task, read or found."""
        _, dealt = self.dealt[put.arm]
        return score(
            self.model_of(put),
            [item_of(probe) for probe in self.probes[put.arm].probes],
            self.score,
            folder / "scores",
            texts=[example.question for example in dealt.examples],
            batch_size=self.frozen.batch_size,
            trust_remote_code=self.frozen.trust_remote_code,
            on_items=on_items,
        )

    def prepared(self, put: Put, scores: Scores) -> Prepared:
        """The prompts of a task."""
        task, dealt = self.dealt[put.arm]
        pool, asked = np.array(dealt.pool), np.array(dealt.asked)
        return prepare(
            self.model_of(put).tokenizer,
            task.wording,
            self.choice,
            pool=[dealt.examples[i] for i in pool],
            of_pool=scores[pool],
            asked=[dealt.examples[i] for i in asked],
            of_asked=scores[asked],
            n_tokens=self.budget,
        )

    def answers_of(
        self, put: Put, folder: Path, prepared: Prepared, on_items: Callable[[int], object] = lambda n: None
    ) -> Answers:
        """How a task is answered, read or found."""
        kept = folder / "answers"
        return answer(self.model_of(put), prepared, kept, batch_size=self.frozen.batch_size, on_items=on_items)

    def read_of(self, run_dir: Path, subject: Subject) -> TaskReadings:
        if subject.arm == ALL:
            return together([self.read_of(run_dir, Subject(arm=name)) for name in self.tasks])
        put, (_, dealt) = self.put_of(subject.arm), self.dealt[subject.arm]
        folder = run_dir / self.folder(put)
        scores = self.scores_of(put, folder)
        known = pool_of(dealt.examples, scores).difficulty
        assert known is not None
        return TaskReadings(
            answers=self.answers_of(put, folder, self.prepared(put, scores)),
            scores=scores,
            difficulty=known,
            n_bootstrap=self.frozen.n_bootstrap,
            confidence=self.confidence,
        )

    def tables(
        self, read: Mapping[Subject, Sequence[TaskReadings]], results: Mapping[str, StageResult]
    ) -> Sequence[ResultTable]:
        rows: list[tuple[TableCell, ...]] = []
        for name, arm in ARMS.items():
            cells = (r.answers.accuracy(name).number("fraction") for (r,) in read.values())
            rows.append((name, arm.words, arm.control or "-", *cells))
        losses: list[tuple[TableCell, ...]] = []
        for name in ARMS:
            means = [number(float(r.answers.loss[name].mean()), "nats/token") for (r,) in read.values()]
            losses.append((name, *means, read[Subject(arm=ALL)][0].answers.n_dropped[name]))
        return (
            ResultTable(
                title="Accuracy of every arm",
                columns=("arm", "demonstrations", "control", *(subject.arm for subject in read)),
                rows=tuple(rows),
                note="intervals: 95%, items alone, not widened; draws of a random arm are averaged item by item",
            ),
            ResultTable(
                title="Loss of the answer in every arm, and demonstrations that the budget had no room for",
                columns=("arm", *(subject.arm for subject in read), "dropped"),
                rows=tuple(losses),
                note="nats/token, mean over questions",
            ),
        )
