"""Does sparsity order demonstrations, and training rows? On small transformers that learn functions from demonstrations.

1. Every arm trains on rows of demonstrations of seen functions (`data/worlds/functions.py`). That it learns in context is a gate: accuracy on
   unseen functions must rise with demonstrations, and must not in an arm that was trained on shuffled answers.
2. Every unseen function has a pool and questions. They are scored by the model itself, then asked in every way of choosing and ordering
   demonstrations (`curriculum/arms.py`), as many for each.
3. Two arms train on the rows of the first in the order of their sparsity in the finished first model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from sparsetrain.curriculum import arms as prompting
from sparsetrain.curriculum.arms import DEALT, DRAWN, RANDOM_ORDER, ZERO_SHOT, ChoiceConfig
from sparsetrain.curriculum.compare import detectable_share
from sparsetrain.curriculum.scoring import FINAL
from sparsetrain.data.stream import Order
from sparsetrain.data.worlds.functions import (
    FAMILIES,
    LENGTH,
    FunctionsConfig,
    Ints,
    World,
    draw_rows,
    draw_world,
    even_rows,
    shuffle_answers,
)
from sparsetrain.model import Transformer
from sparsetrain.representation.measures import HEADLINE, MEASURES
from sparsetrain.run import RunConfig
from sparsetrain.stats.intervals import Floats, nested
from sparsetrain.stats.number import number
from sparsetrain.studies.arm import WorldStudy, of_arm, train_arm
from sparsetrain.studies.demonstrated import (
    BY_ENTROPY,
    GRADED,
    GUIDED,
    Demonstrated,
    deal,
    look,
    model_for,
    put,
    row_sparsity,
    score_in_context,
    start_matching_,
)
from sparsetrain.studies.engine import Arm, Stage, StageResult
from sparsetrain.studies.readings import correlation, over_seeds_figure, seeds_number
from sparsetrain.studies.section import Figure, ResultTable, TableCell
from sparsetrain.studies.study import Gates, Hypothesis, Ruling, Subject, gate
from sparsetrain.training.objectives import answers_loss
from sparsetrain.typed import Count

DENSE, SPARSE, SHUFFLED, EASY, HARD = "dense", "weight_sparse", "shuffled", "easy_first", "hard_first"
TRAINED = {
    DENSE: Arm(density=1),
    SPARSE: Arm(density=0.25),
    SHUFFLED: Arm(density=1),
    EASY: Arm(density=1),
    HARD: Arm(density=1),
}  # ours
GAIN = 0.3
"""Accuracy that demonstrations must add on unseen functions."""
CHANCE = 0.05
"""How far above chance the arm of shuffled answers may be. ours"""
MARGIN, NATS, ITEMS = 0.03, 0.02, 200
"""Smallest differences of interest: accuracy, nats of validation loss; and questions that every arm must have. ours"""
COMPARED = tuple(name for name, arm in prompting.ARMS.items() if arm.control and name != "length")
"""Ways to choose or order demonstrations; all pairs have one length, so that an order by length is none."""


@dataclass(frozen=True, kw_only=True)
class DemonstrationsConfig(FunctionsConfig):
    """The world, and how it is asked about. ours"""

    n_pool: Count = 24
    """Inputs of a function that may be shown; all others are asked."""
    n_context: Count = 4
    """Demonstrations behind which pairs are scored."""
    n_contexts: Count = 4
    """Draws of them."""
    n_rows: Count = 40
    """Rows of a function for curves."""
    choice: ChoiceConfig = field(default_factory=lambda: ChoiceConfig(n_shown=8, n_retrieved=16))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not max(self.choice.n_retrieved, self.n_context + 1) <= self.n_pool < self.n_symbols**2:
            raise ValueError(
                f"n_pool={self.n_pool} must have the n_retrieved={self.choice.n_retrieved} examples and the n_context={self.n_context} and "
                f"one more, and leave some of the {self.n_symbols**2} inputs to be asked"
            )
        if self.choice.n_shown > self.n_shots:
            raise ValueError(
                f"choice.n_shown={self.choice.n_shown} must be at most n_shots={self.n_shots}: longer rows are not trained on"
            )


def _way(name: str) -> Hypothesis[Demonstrated]:
    entry = prompting.ARMS[name]
    graded = ", where items of a function are graded" if entry.needs_difficulty else ""
    return Hypothesis(
        key=name,
        claim=f"{entry.words}: answered more often than {prompting.ARMS[entry.control].words}{graded}",
        expected="positive",
        effect=lambda r: float(r.differences(name).mean()),
        unit="fraction",
        margin=MARGIN,
    )


def _above_entropy(name: str) -> Hypothesis[Demonstrated]:
    return Hypothesis(
        key=f"{name}, above entropy",
        claim=f"{prompting.ARMS[name].words}: answered more often than by the same rule on the entropy of the prediction",
        expected="positive",
        effect=lambda r: float(r.differences(name, name + BY_ENTROPY).mean()),
        unit="fraction",
        margin=MARGIN,
    )


def _ahead(key: str, claim: str, of: str, unit: str, margin: float) -> Hypothesis[Demonstrated]:
    return Hypothesis(key=key, claim=claim, expected="positive", effect=lambda r: r.ahead(of), unit=unit, margin=margin)


PROMPTED: tuple[Hypothesis[Demonstrated], ...] = (
    *(_way(name) for name in COMPARED),
    *(_above_entropy(name) for name in GUIDED),
    correlation("difficulty", "positive", "sparser, more operations (Spearman)", lambda r: r.rho("operations", "sparsity")),
    correlation("difficulty given loss", "positive", "sparser, more operations, given the loss (partial Spearman)", lambda r: r.rho("operations", "sparsity", "loss")),
    correlation("own loss", "positive", "sparser, predicted worse (Spearman)", lambda r: r.rho("loss", "sparsity")),
    correlation("loss given difficulty", "positive", "sparser, predicted worse, given the operations (partial Spearman)", lambda r: r.rho("loss", "sparsity", "operations")),
    correlation("felt", "positive", "more operations, predicted worse (Spearman)", lambda r: r.rho("operations", "loss")),
    correlation("within a function", "positive", "within conditional functions: sparser, more operations (Spearman)", lambda r: r.rho("operations", "sparsity", family=GRADED[0])),
)  # fmt: skip
TRAINING: tuple[Hypothesis[Demonstrated], ...] = (
    _ahead("validation loss", "a lower loss on validation functions than in random order", "loss", "nats", NATS),
    _ahead("validation accuracy", "more right on validation functions than in random order", "correct", "fraction", MARGIN),
)  # fmt: skip
OF_PROMPTS = (
    Ruling(name="order", statement="ordering the same demonstrations by sparsity helps, against random order", needs=("sparsity",)),
    Ruling(name="as published", statement="choosing demonstrations by sparsity as published helps, against the same rule without knowing sparsity", needs=("published",)),
    Ruling(name="ours", statement="choosing demonstrations as sparse as the question helps, against random draws", needs=("matched",)),
    Ruling(name="marks difficulty", statement="sparser items are harder, also given the model's own loss", needs=("difficulty", "difficulty given loss")),
)  # fmt: skip
OF_TRAINING = (
    Ruling(name="training order", statement="training in the order of sparsity helps at equal tokens, against random order", needs=("validation loss",)),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CurriculumStudy(WorldStudy[Demonstrated]):
    """Arms are trainings; claims about prompts are made of the two that learn in context, claims about training of the two ordered ones.

    Raises:
        ValueError: arms without one of the study's own.
    """

    question = "Does sparsity order demonstrations and training rows, in transformers that learn functions in context?"
    hypotheses = (*PROMPTED, *TRAINING)
    rulings = (*OF_PROMPTS, *OF_TRAINING)

    demonstrations: DemonstrationsConfig

    def __post_init__(self) -> None:
        if set(self.given) != set(TRAINED):
            raise ValueError(
                f"arms={list(self.given)} must be {', '.join(TRAINED)}; change their settings, not their names"
            )

    @property
    def given(self) -> Mapping[str, Arm]:
        return self.rules.arms or TRAINED

    def asked(self, subject: Subject) -> Sequence[Hypothesis[Demonstrated]]:
        return {DENSE: PROMPTED, SPARSE: PROMPTED, EASY: TRAINING, HARD: TRAINING}.get(subject.arm, ())

    def ruled(self, subject: Subject) -> Sequence[Ruling]:
        return {DENSE: OF_PROMPTS, SPARSE: OF_PROMPTS, EASY: OF_TRAINING, HARD: OF_TRAINING}.get(subject.arm, ())

    def world(self, seed: int) -> World:
        return draw_world(self.demonstrations, seed)

    def method(self) -> tuple[str, ...]:
        d, world = self.demonstrations, self.world(self.config.seed)
        choice, unseen = d.choice, world.of("unseen")
        n_asked = len(unseen) * (d.n_symbols**2 - d.n_pool)
        graded = len(world.of("unseen", *GRADED)) * (d.n_symbols**2 - d.n_pool)
        families = "; ".join(
            f"{name} ({family.words}): {len(world.of('seen', name))} seen, {len(world.of('unseen', name))} unseen"
            for name, family in FAMILIES.items()
        )
        ways = "; ".join(
            f"{name}: {prompting.ARMS[name].words}" for name in (ZERO_SHOT, RANDOM_ORDER, DRAWN, DEALT, *COMPARED)
        )
        return (
            f"Functions of two of {d.n_symbols} symbols, modulo {d.n_symbols}: {families}. A row shows one function {d.n_pairs} times, a pair is [a, b, ask, answer], and each answer is trained on. "
            f"Operations of an answer (read, compare, look up, add) are counted beforehand: its difficulty. Settings are chosen on validation functions, which are neither.",
            f"Arm {SHUFFLED}: the answers of all rows are permuted among rows, place by place: what symbols are answers, and how often, stays; a permutation "
            f"within a row would leave a constant function learnable. {EASY} and {HARD} train on the rows of {DENSE}, at equal tokens, from the densest to the sparsest in the "
            f"finished model of that arm and seed, and the other way round.",
            f"Every unseen function has {d.n_pool} inputs in its pool; all others are asked: {n_asked} questions a seed and arm. A pair is scored behind {d.n_context} demonstrations drawn from "
            f"the pool, mean of {d.n_contexts} draws: {HEADLINE} at {FINAL} at its ask. Similarity: cosine of that activation, centred.",
            f"Ways of prompting: {ways}. {choice.n_shown} demonstrations, those that choose out of the {choice.n_retrieved} most similar; {choice.n_levels} levels; {choice.n_draws} draws "
            f"where it is random. Known difficulty is asked about in {' and '.join(GRADED)} alone, where items of one function differ in it. All pairs have one length: there is no order by length.",
            "What sparsity guides is also asked with the entropy of the prediction in the place of sparsity: is it sparsity that helps, or how unsure the model is?",
            f"Smallest difference of accuracy seen in one seed with a chance of .8, if a fifth of the questions are right in one of two ways alone: "
            f"{detectable_share(n_asked):.3f} ({detectable_share(graded):.3f} of graded ones); verdicts rest on Student's t over seeds. Differences below {MARGIN:g} are of no interest.",
        )

    def gates(self) -> Gates[Demonstrated]:
        n, chance = self.demonstrations.choice.n_shown, 1 / self.demonstrations.n_symbols
        learned = f"accuracy with {n} demonstrations minus that with none, unseen functions, mean over families"
        fooled = f"accuracy with {n} demonstrations, unseen functions, mean over answers, trained on shuffled answers"
        bound, least = number(chance + CHANCE, "fraction"), number(ITEMS, "questions")

        def gain(r: Demonstrated) -> float:
            return (r.random_order or r).gain("unseen")

        def of_shuffled(r: Demonstrated) -> float:
            assert r.shuffled is not None
            return r.shuffled.by_answer()

        def n_asked(r: Demonstrated) -> float:
            return float(len(r.asked))

        return tuple(
            of_arm
            for arm in (DENSE, SPARSE, EASY, HARD)
            for of_arm in (
                gate(f"learned, {arm}", f"{learned}, {DENSE if arm in (EASY, HARD) else arm}", number(GAIN, "fraction"), gain, arm=arm),
                gate(f"shuffled, {arm}", fooled, bound, of_shuffled, rule="at most", arm=arm),
                gate(f"questions, {arm}", f"questions, {arm}", least, n_asked, arm=arm),
            )
        )  # fmt: skip

    def config_of(self, arm: str, seed: int) -> RunConfig:
        config = of_arm(self.config, self.given[arm], seed)
        return replace(config, model=model_for(self.demonstrations, config.model))

    def inputs(self, config: RunConfig) -> Mapping[str, object]:
        return {**config.recipe.key(), "demonstrations": self.demonstrations}

    def stages(self) -> Sequence[Stage]:
        """Of each seed the dense training first: the ordered ones need its scores of the rows."""
        return [
            Stage(
                name=self.folder(arm, seed),
                inputs={
                    **self.inputs(config := self.config_of(arm, seed)),
                    "labels": "shuffled" if arm == SHUFFLED else "true",
                    "order": {"of": self.inputs(self.config_of(DENSE, seed)), "by": arm} if arm in (EASY, HARD) else None,
                },
                run=partial(self._train, arm, config),
            )
            for seed in self.seeds
            for arm in self.arms
        ]  # fmt: skip

    def work(self, config: RunConfig, folder: Path) -> StageResult:
        return self._train(folder.parent.name, config, folder)

    def _train(self, arm: str, config: RunConfig, folder: Path) -> StageResult:
        d, world = self.demonstrations, self.world(config.seed)
        n_rows = config.trainer.n_steps * config.trainer.batch_size
        rows = draw_rows(d, world.of("seen"), n_rows, np.random.default_rng([config.seed, 2])).tokens
        order = None
        if arm == SHUFFLED:
            rows = shuffle_answers(rows, np.random.default_rng([config.seed, 3]))
        elif arm in (EASY, HARD):
            with np.load(folder.parent.parent / self.folder(DENSE, config.seed) / "rows.npz") as file:
                order = Order.by(file["sparsity"] if arm == EASY else -file["sparsity"])
        model, weights = train_arm(
            config, rows, folder, (), {},
            order=order, objective=answers_loss(LENGTH), start=lambda model: start_matching_(model, d),
        )  # fmt: skip
        if arm == DENSE:
            sign = 1 if MEASURES[HEADLINE].direction == "higher" else -1
            np.savez(folder / "rows.npz", sparsity=sign * row_sparsity(model, rows))
        np.savez(folder / "read.npz", **self._read(model, world, config.seed))  # pyright: ignore[reportArgumentType]
        return StageResult(weights_sha256=weights)

    def _read(self, model: Transformer, world: World, seed: int) -> Mapping[str, Floats | Ints]:
        d, rng, names = self.demonstrations, np.random.default_rng([seed, 4]), list(FAMILIES)
        found: dict[str, Floats | Ints] = {}
        for part in ("seen", "val", "unseen"):
            functions = [f for name in world.families(part) for f in world.of(part, name)[: d.n_held]]
            rows = even_rows(d, functions, d.n_rows, rng)
            seen, answers = look(model, rows.tokens[:, :-1]), rows.tokens[:, LENGTH - 1 :: LENGTH]
            found |= {f"correct|{part}": seen.correct(answers), f"loss|{part}": seen.loss(answers)}
            found[f"family|{part}"] = np.array([names.index(functions[i].family) for i in rows.function])
            if part == "unseen":
                sign = 1 if MEASURES[HEADLINE].direction == "higher" else -1
                found |= {"sparsity": sign * seen.sparsity, "operations": rows.operations, "answers": answers}
                misled = look(model, shuffle_answers(rows.tokens, rng)[:, :-1])
                found |= {"correct|misled": misled.correct(answers), "loss|misled": misled.loss(answers)}
                found["family|misled"] = found["family|unseen"]
        parts: dict[str, list[Floats]] = {}
        families: list[int] = []
        for function in world.of("unseen"):
            dealt = deal(d, function, d.n_pool, rng)
            scores = score_in_context(model, d, dealt, d.n_context, d.n_contexts, rng)
            answered = put(model, d, dealt, replace(d.choice, seed=seed), scores, len(families), rng)
            for way, (right, loss) in answered.items():
                for name, values in ((f"right|{way}", right), (f"answer_loss|{way}", loss)):
                    parts.setdefault(name, []).append(values)
            families += [names.index(function.family)] * len(dealt.asked)
        return {
            **found,
            "asked": np.array(families),
            **{name: np.concatenate(values) for name, values in parts.items()},
        }

    def read(self, run_dir: Path, results: Mapping[str, StageResult]) -> Mapping[Subject, Sequence[Demonstrated]]:
        def loaded(arm: str, seed: int, **others: Demonstrated) -> Demonstrated:
            path = run_dir / self.folder(arm, seed) / "read.npz"
            return Demonstrated.load(path, self.demonstrations.choice.n_shown, **others)

        found: dict[Subject, list[Demonstrated]] = {subject: [] for subject in self.subjects}
        for seed in self.seeds:
            shuffled, dense = loaded(SHUFFLED, seed), loaded(DENSE, seed)
            for subject, readings in found.items():
                others = {"random_order": dense} if subject.arm in (EASY, HARD) else {}
                readings.append(loaded(subject.arm, seed, shuffled=shuffled, **others))
        return found

    def figures(self, read: Mapping[Subject, Sequence[Demonstrated]]) -> Sequence[Figure]:
        x = list(range(self.demonstrations.n_pairs))
        by_arm = {subject.arm: seeds for subject, seeds in read.items()}
        dense = by_arm[DENSE]
        groups = {
            "learned": {
                **{arm: [r.curve("unseen") for r in by_arm[arm]] for arm in (DENSE, SPARSE, SHUFFLED)},
                f"{DENSE}, seen functions": [r.curve("seen") for r in dense],
                f"{DENSE}, demonstrations of shuffled answers": [r.curve("misled") for r in dense],
            },
            "families": {name: [r.curve("unseen", name) for r in dense] for name in dense[0].families("unseen")},
            "training_order": {arm: [r.curve("val") for r in by_arm[arm]] for arm in (DENSE, EASY, HARD)},
        }
        titles = {
            "learned": "Accuracy against demonstrations, unseen functions",
            "families": f"The same by family, arm {DENSE}",
            "training_order": "Accuracy on validation functions, by the order of training",
        }
        return [
            over_seeds_figure(key, titles[key], x, curves, x_label="demonstrations", y_label="accuracy")
            for key, curves in groups.items()
        ]

    def tables(
        self, read: Mapping[Subject, Sequence[Demonstrated]], results: Mapping[str, StageResult]
    ) -> Sequence[ResultTable]:
        return (self._learned(read), self._prompted(read), self._ordered(read, results))

    def _learned(self, read: Mapping[Subject, Sequence[Demonstrated]]) -> ResultTable:
        n, rows = self.demonstrations.choice.n_shown, list[tuple[TableCell, ...]]()
        for subject, seeds in read.items():
            for part in ("seen", "unseen"):
                for name in (None, *seeds[0].families(part)):
                    curves = [r.curve(part, name) for r in seeds]
                    shots = (seeds_number([float(c[k]) for c in curves], "fraction") for k in (0, n))
                    gain = seeds_number([float(c[n] - c[0]) for c in curves], "fraction")
                    rows.append((subject.arm, part, name or "mean over families", *shots, gain))
        return ResultTable(
            title="Accuracy without and with demonstrations",
            columns=("arm", "functions", "family", "none", f"{n}", "gain"),
            rows=tuple(rows),
            note="t intervals over seeds",
        )

    def _prompted(self, read: Mapping[Subject, Sequence[Demonstrated]]) -> ResultTable:
        rows: list[tuple[TableCell, ...]] = []
        for subject, seeds in read.items():
            if subject.arm in (DENSE, SPARSE):
                others = [name + BY_ENTROPY for name in GUIDED]
                for way in (ZERO_SHOT, RANDOM_ORDER, DRAWN, DEALT, *COMPARED, *others):
                    control = prompting.ARMS[way.partition(",")[0]].control
                    accuracy = seeds_number([float(r.right[way].mean()) for r in seeds], "fraction")
                    loss = seeds_number([float(r.answer_loss[way].mean()) for r in seeds], "nats")
                    d = np.stack([r.differences(way) for r in seeds]) if control else None
                    apart = None if d is None else nested(d, seed=self.config.seed).number("fraction")
                    rows.append((subject.arm, way, control or "-", accuracy, apart, loss))
        return ResultTable(
            title="Ways of prompting",
            columns=("arm", "way", "control", "accuracy", "minus its control", "loss of the answer"),
            rows=tuple(rows),
            note="accuracy and loss: t intervals over seeds; difference: questions paired, bootstrap of seeds and of questions within them",
        )

    def _ordered(
        self, read: Mapping[Subject, Sequence[Demonstrated]], results: Mapping[str, StageResult]
    ) -> ResultTable:
        rows: list[tuple[TableCell, ...]] = []
        for subject, seeds in read.items():
            numbers = (
                seeds_number([float(r.curve("val", of=of)[1:].mean()) for r in seeds], unit)
                for of, unit in (("loss", "nats"), ("correct", "fraction"))
            )
            seconds = [results[self.folder(subject.arm, seed)].seconds for seed in self.seeds]
            rows.append((subject.arm, *numbers, number(float(np.mean(seconds)), "s", "measured", n=len(seconds))))
        return ResultTable(
            title="Validation functions at the end",
            columns=("arm", "loss", "accuracy", "time of a stage"),
            rows=tuple(rows),
            note="mean over 1 and more demonstrations and over families, t intervals over seeds; time with reading",
        )
