"""Do students of one teacher with the same outputs differ inside, and are those of sparse weights less fractured and less entangled?

1. A teacher learns a closed rule language; both are those of the run's seed. Students of every seed are distilled from it: two dense ones, one of sparse weights, one with AbsTopK.
2. The matching gate compares every student with the dense one of its seed, on all inputs of training and on all that are held out. A pair that misses it is not compared.
3. All students of a seed are read together: perturbations at the same places, of the same effect on the outputs. Each is taught another rule in some contexts.
4. A claim is a difference to the dense student of the seed. The arm `dense_again` is the null, under the same rules; beside it stands how many of all pairs of dense students would be
   called different by bounds that were set on other seeds.

Source: the question is Kumar et al. 2025 (arXiv 2505.11581); the design for transformers is ours.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from shutil import copytree
from typing import ClassVar

import numpy as np

from circuits.fracture import tables
from circuits.fracture.distil import STUDENTS, distil, student_config
from circuits.fracture.gates import MAX_KL, MIN_AGREEMENT, match_pair
from circuits.fracture.measured import ReadConfig, n_parts, read_models
from circuits.fracture.pairs import DAMAGE, MEASURES, MULTIPLE, STUDY_LANGUAGE, TRANSFER
from circuits.fracture.questions import Language, of_language
from circuits.fracture.readings import NullResult, SeedResult, StudentReadings, StudentResult
from circuits.fracture.transfer import SHOWN, Transfer, TransferConfig, transfer
from sparsetrain.data.worlds.rules import LENGTH, RulesConfig, RuleWorld, draw_rules, training_rows
from sparsetrain.export import latest_export, load_model
from sparsetrain.model import Transformer
from sparsetrain.progress import progress_bar
from sparsetrain.run import RunConfig
from sparsetrain.stats.number import number
from sparsetrain.studies.arm import of_arm, train_arm
from sparsetrain.studies.engine import Stage, StageResult, section_of
from sparsetrain.studies.section import Figure, Gate, ResultTable
from sparsetrain.studies.study import Gates, Hypothesis, Ruling, Study, Subject, gate
from sparsetrain.typed import Count

log = logging.getLogger(__name__)
TEACHER, READ, NULL = "teacher", "read", "null"
DENSE, AGAIN = tables.DENSE, tables.AGAIN
ARMS = tuple(name for name in STUDENTS if name != DENSE)
MAX_NULL = 0.1
"""Share of pairs of dense students that may be called different."""
ANOTHER = 2**24
"""Between the seeds of tries: beyond those of all students."""
LESS_FRACTURED, LESS_ENTANGLED = ("fracture", "union"), ("modularity", "entanglement", "gradients")


@dataclass(frozen=True, kw_only=True)
class FractureConfig:
    """The language, and how students are read. ours"""

    language: RulesConfig = STUDY_LANGUAGE
    read: ReadConfig = field(default_factory=ReadConfig)
    transfer: TransferConfig = field(default_factory=TransferConfig)
    n_tries: Count = 6
    """Students that miss the gate against the teacher are distilled again from other weights, so often in all; the last one stays whatever it does."""


def _students() -> list[str]:
    """In words."""
    found: list[str] = []
    for student in STUDENTS.values():
        density, share = student.arm.density or 1.0, student.arm.abs_topk or 1.0
        words = [f"{density:g} of the weights of every matrix"] * (density < 1) + [f"{share:g} of the activations"] * (share < 1)  # fmt: skip
        found.append(", ".join(words) or "all weights and activations")
    return found


def _hypotheses() -> tuple[Hypothesis[StudentReadings], ...]:
    return tuple(
        Hypothesis(
            key=key,
            claim=f"{measure.words}: student less dense",
            expected=measure.expected,
            effect=partial(StudentReadings.apart, key=key),
            unit=measure.unit,
            margin=measure.spread,
        )
        for key, measure in MEASURES.items()
    )


@dataclass(frozen=True, kw_only=True)
class FractureStudy(Study[StudentReadings]):
    """Claims are about every student but the dense one that it is compared with."""

    question = (
        "Do models with the same outputs differ inside, and are weight-sparse ones less fractured and less entangled?"
    )
    hypotheses = _hypotheses()
    rulings = (
        Ruling(name="less fractured", statement="a rule is computed by the same units in all its contexts, more than in a dense student", needs=LESS_FRACTURED),
        Ruling(name="less entangled", statement="a perturbation moves one behaviour without the others, and their gradients differ, more than in a dense student", needs=LESS_ENTANGLED),
        Ruling(name="less redundant", statement="fewer of its living units work on an input, and they stand in for each other less", needs=("share", "redundancy")),
        Ruling(name="more coherent", statement="a perturbation acts alike on relabelled inputs, more than in a dense student", needs=("coherence",)),
        Ruling(name="transfers better", statement="a rule that is changed in some contexts has changed in the others too, more than in a dense student at equal success after as many steps", needs=(TRANSFER,)),
        Ruling(name="less damage", statement="at equal success after as many steps other rules lose less than in a dense student", needs=(DAMAGE,)),
    )  # fmt: skip
    overviews: ClassVar[Mapping[str, tuple[str, tuple[str, ...]]]] = {
        "fractured": ("Student less dense: fracture, and union of circuits", LESS_FRACTURED),
        "entangled": ("Student less dense: modularity, entanglement, gradients", LESS_ENTANGLED),
        "transfer": ("Student less dense: transfer to other contexts, damage to other rules", (TRANSFER, DAMAGE)),
    }  # fmt: skip

    settings: FractureConfig

    def __post_init__(self) -> None:
        if self.rules.arms:
            raise ValueError(f"study.arms={list(self.rules.arms)}: this study has the arms {', '.join(STUDENTS)} of its own; leave it empty")  # fmt: skip

    @property
    def arms(self) -> tuple[str, ...]:
        return ARMS

    @property
    def run(self) -> RunConfig:
        """The teacher's."""
        language, config = self.settings.language, self.config
        if config.model.n_ctx < LENGTH - 1:
            raise ValueError(f"model.n_ctx={config.model.n_ctx} is shorter than a prompt of the language; give {LENGTH - 1} or more")  # fmt: skip
        return replace(config, model=replace(config.model, d_vocab=language.d_vocab))

    def world(self) -> RuleWorld:
        """The language of the study; a ValueError names the config's section."""
        with section_of("study.fracture.language"):
            return draw_rules(self.settings.language, self.config.seed)

    def method(self) -> tuple[str, ...]:
        language, read, taught = self.settings.language, self.settings.read, self.settings.transfer
        world = self.world()
        return (
            f"A language of the rules {', '.join(language.rules)} over {language.n_symbols} symbols, each in {language.n_contexts} contexts that differ in words and order: {language.n_inputs} inputs, of which {len(world.heldout.tokens)} are held out of "
            f"training. A teacher learns it, and students are distilled from its logits, each from weights of its own: {', '.join(f'{name} ({words})' for name, words in zip(STUDENTS, _students(), strict=True))}. Language and teacher are those of seed {self.config.seed}; seeds are those of students.",
            f"Matching gate, against the dense student of the seed: KL below {MAX_KL:g} nats an answer (the larger of both directions) and the same answer for more than {MIN_AGREEMENT:.1%} of the inputs, of training and held out. A student that misses it is not compared. One that misses it against the teacher, on either split, is distilled again from other weights, {self.settings.n_tries - 1} times at most: outputs are chosen by, insides are not.",
            f"Perturbations: {read.n_perturbations} random directions in the input weights of single units, at the same places in all students of a seed, in as many weights as the sparsest has there and at most {read.most:g} of a unit's; their size gives a mean output KL of {read.target_kl:g} nats in each student. "
            "Raw numbers (each student in all its nonzero weights), all weights, single weights and singular directions stand beside.",
            f"Attributions: every node deleted alone (mean over inputs of training), effect on the margin; the {read.n_largest} largest of each context are compared. Circuits: by the search of this project, of every rule in every context, target {read.circuits.target_loss:g} nats.",
            f"Transfer: {taught.rule} becomes {taught.to} in contexts {', '.join(map(str, taught.contexts))} of {language.n_contexts}, {taught.n_steps} steps on these alone, learning rates {', '.join(f'{rate:g}' for rate in taught.rates)}, all tried for every student. Transfer: accuracy of the new rule in "
            f"the other contexts, damage: accuracy that other rules have lost, both where {taught.success:.0%} of what is taught is right and after {taught.equal_steps:g} steps, on the line between the two learning rates that came to it before and after; a student that learns slower is given larger rates, not more time. "
            "Numbers of every learning rate stand beside; curves are those of the rate that came nearest.",
            f"A claim is about the mean difference over seeds (Student's t), a student less the dense one of its seed. Its smallest size of interest is what two dense students differ by (root mean square, 14 of other seeds). The arm dense_again is the null. One pair of models is called different from {MULTIPLE:g} times that on, so that one pair in twenty of new dense students is by any measure; all dense "
            f"students of all seeds are also read together, and if more than {MAX_NULL:.0%} of their pairs are called different nothing is concluded.",
        )  # fmt: skip

    def gates(self) -> Gates[StudentReadings]:
        words = "pairs of dense students that would be called different"
        found: list[tuple[Gate, Callable[[StudentReadings], float]]] = [
            gate("null", words, number(MAX_NULL, "fraction"), lambda r: r.null_rate, rule="at most")
        ]
        for arm in self.arms:
            for split in ("train", "heldout"):
                words = "training" if split == "train" else "held-out"
                kl, agreement = number(MAX_KL, "nats/token"), number(MIN_AGREEMENT, "fraction")
                found.append(
                    gate(
                        f"KL, {split}, {arm}",
                        f"{arm} against dense: KL on {words} inputs",
                        kl,
                        partial(StudentReadings.kl, split=split),
                        rule="at most",
                        arm=arm,
                    )
                )
                found.append(
                    gate(
                        f"agreement, {split}, {arm}",
                        f"{arm} against dense: same answers on {words} inputs",
                        agreement,
                        partial(StudentReadings.agreement, split=split),
                        arm=arm,
                    )
                )
        return found  # fmt: skip

    def stages(self) -> Sequence[Stage]:
        """The teacher, all students, and what is read of those of a seed."""
        settings, teacher = self.settings, {**self.run.recipe.key(), "language": self.settings.language}
        found = [Stage(name=TEACHER, inputs=teacher, run=self._teach)]
        students = {(name, seed): self.student(name, seed) for seed in self.seeds for name in STUDENTS}
        for (name, seed), config in students.items():
            kept = {"teacher": teacher, "student": config.recipe.key()}
            inputs = {**kept, "n_tries": settings.n_tries}
            found.append(
                Stage(
                    name=f"{name}/seed_{seed}",
                    inputs=inputs,
                    run=partial(self._distil, name, seed),
                    schema=StudentResult,
                    kept_under=kept,
                )
            )
        for seed in self.seeds:
            inputs = {
                "teacher": teacher,
                "students": {n: students[n, seed].recipe.key() for n in STUDENTS},
                "n_tries": settings.n_tries,
            }
            more = {"read": settings.read, "transfer": settings.transfer}
            found.append(Stage(name=f"{READ}/seed_{seed}", inputs={**inputs, **more}, run=partial(self._read, seed), schema=SeedResult))  # fmt: skip
        inputs = {
            "teacher": teacher,
            "students": [students[name, seed].recipe.key() for name, seed in self._null()],
            "n_tries": settings.n_tries,
        }
        return [
            *found,
            Stage(name=NULL, inputs={**inputs, "read": settings.read}, run=self._read_null, schema=NullResult),
        ]

    def _null(self) -> list[tuple[str, int]]:
        return [(name, seed) for seed in self.seeds for name in (DENSE, AGAIN)]

    def student(self, name: str, seed: int) -> RunConfig:
        """The run of a student."""
        return student_config(replace(self.run, seed=seed), STUDENTS[name])

    def _rows(self, seed: int):
        trainer = self.config.trainer
        return training_rows(self.world(), trainer.n_steps * trainer.batch_size, seed)

    def _teach(self, folder: Path) -> StageResult:
        config = of_arm(self.run, STUDENTS[DENSE].arm, self.config.seed)
        _, weights = train_arm(config, self._rows(config.seed), folder, (), {})
        Language(config=self.settings.language, seed=self.config.seed).save(folder)
        return StageResult(weights_sha256=weights)

    def _distil(self, name: str, seed: int, folder: Path) -> StageResult:
        teacher, questions = load_model(latest_export(folder.parents[1] / TEACHER)), of_language(self.world())
        train, heldout = (questions.asked(held=held).tokens for held in (False, True))
        for attempt in range(self.settings.n_tries):
            config, place = replace(self.run, seed=seed + attempt * ANOTHER), folder / f"try_{attempt}"
            rows = self._rows(student_config(config, STUDENTS[name]).seed)
            student, weights = distil(config, STUDENTS[name], teacher, rows, place)
            matching = match_pair((TEACHER, name), teacher, student, train, heldout)
            if matching.passes or attempt + 1 == self.settings.n_tries:
                copytree(place / "export", folder / "export", dirs_exist_ok=True)
                break
            log.info("%s, seed %d: %s; distilled again", name, seed, matching)
        Language(config=self.settings.language, seed=self.config.seed).save(folder)
        return StudentResult(weights_sha256=weights, matching=matching, n_tries=attempt + 1)

    def _read(self, seed: int, folder: Path) -> SeedResult:
        settings, world = self.settings, self.world()
        questions = of_language(world)
        train, heldout = (questions.asked(held=held).tokens for held in (False, True))
        models: dict[str, Transformer] = {}
        for name in STUDENTS:
            models[name] = load_model(latest_export(folder.parents[1] / name / f"seed_{seed}"))
        matching = {name: match_pair((DENSE, name), models[DENSE], models[name], train, heldout) for name in ARMS}
        transferred: dict[str, Transfer] = {}
        with progress_bar(self.config.trainer.progress) as bar:
            task = bar.add_task("readings", total=n_parts(len(models)))
            read = read_models(models, questions, settings.read.seeded(seed), partial(bar.advance, task))
        with section_of("study.fracture.transfer"):
            for name, model in models.items():
                run = replace(self.student(name, seed), trainer=replace(self.config.trainer, progress=False))
                transferred[name] = transfer(
                    model, run, world, replace(settings.transfer, seed=seed), folder / "transfer" / name
                )
        arrays = {f"{name}|{which}": r for name, one in read.items() for which, r in one.responses.items()}
        arrays |= {f"{name}|{key}": items for name, one in read.items() for key, items in one.items.items()}
        np.savez(folder / "read.npz", **arrays)  # pyright: ignore[reportArgumentType]
        numbers = {name: {**one.numbers(), **transferred[name].numbers()} for name, one in read.items()}
        return SeedResult(
            weights_sha256="",
            matching=matching,
            numbers={name: defined(of) for name, of in numbers.items()},
            kl={name: one.kl[""] for name, one in read.items()},
            rho={name: one.rho[""] for name, one in read.items()},
            n_nonzero={name: sum(int((p != 0).sum()) for p in model.parameters()) for name, model in models.items()},
            lr={name: one.nearest for name, one in transferred.items()},
            steps=tuple(transferred[DENSE].tried[transferred[DENSE].nearest].steps.tolist()),
            curves={name: {key: tuple(getattr(one.tried[one.nearest], key).tolist()) for key in SHOWN} for name, one in transferred.items()},
        )  # fmt: skip

    def _read_null(self, folder: Path) -> NullResult:
        """All dense students at once: the gates of all pairs, and responses to the same perturbations."""
        questions = of_language(self.world())
        train, heldout = (questions.asked(held=held).tokens for held in (False, True))
        models = {f"{name}/seed_{seed}": load_model(latest_export(folder.parent / name / f"seed_{seed}")) for name, seed in self._null()}  # fmt: skip
        with progress_bar(self.config.trainer.progress) as bar:
            task = bar.add_task("null", total=n_parts(len(models), sets=("",), nodes=False))
            read = read_models(models, questions, self.settings.read.seeded(self.config.seed), partial(bar.advance, task), sets=("",), nodes=False)  # fmt: skip
        return NullResult(
            weights_sha256="",
            matching=tuple(
                match_pair((a, b), models[a], models[b], train, heldout) for a, b in combinations(models, 2)
            ),
            numbers={name: defined(one.numbers()) for name, one in read.items()},
        )

    def read(self, run_dir: Path, results: Mapping[str, StageResult]) -> Mapping[Subject, Sequence[StudentReadings]]:
        seeds, null = self._seeds_of(results)
        rate = tables.null_rate(null, seeds)
        return {
            subject: [StudentReadings(result=one, name=subject.arm, reference=DENSE, null_rate=rate) for one in seeds.values()]
            for subject in self.subjects
        }  # fmt: skip

    def _seeds_of(self, results: Mapping[str, StageResult]) -> tuple[dict[int, SeedResult], NullResult]:
        found: dict[int, SeedResult] = {}
        for seed in self.seeds:
            result = results[f"{READ}/seed_{seed}"]
            assert isinstance(result, SeedResult)
            found[seed] = result
        null = results[NULL]
        assert isinstance(null, NullResult)
        return found, null

    def figures(self, read: Mapping[Subject, Sequence[StudentReadings]]) -> Sequence[Figure]:
        seeds = dict(zip(self.seeds, (one.result for one in next(iter(read.values()))), strict=True))
        return tables.transfer_figures(seeds)

    def tables(
        self, read: Mapping[Subject, Sequence[StudentReadings]], results: Mapping[str, StageResult]
    ) -> Sequence[ResultTable]:
        seeds, null = self._seeds_of(results)
        return (
            tables.null_table(null, seeds),
            *tables.every_measure(seeds),
            tables.matching_table(seeds),
            tables.tries_table({name: [results[f"{name}/seed_{seed}"] for seed in self.seeds] for name in STUDENTS}),
        )


def defined(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """None in the place of what is not a number."""
    return {key: value if np.isfinite(value) else None for key, value in numbers.items()}
