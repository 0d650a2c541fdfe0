"""Is density learned through familiarity? Facts that differ in nothing but how often their binding was shown.

Read is the last token of every prompt, where the object is predicted. A difference below 0 of the Gini index means denser.
Two verdicts, each per arm: *relative*: at the end facts that were shown are denser than facts that were not, and
switching on moves the switched facts against those left unseen; *absolute*: shown facts are denser than in the same model at
initialisation while unseen ones stay. Both must hold with and without the gain of the norm.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from sparsetrain.data.worlds.facts import Facts, FactsConfig, draw_facts, write_exposures
from sparsetrain.representation.controls import CONTROLS
from sparsetrain.representation.measures import HEADLINE
from sparsetrain.run import RunConfig
from sparsetrain.stats.correlation import permutation_p
from sparsetrain.stats.intervals import Floats
from sparsetrain.stats.mixed_model import mixed_model
from sparsetrain.stats.number import number
from sparsetrain.studies.arm import WorldStudy, train_arm
from sparsetrain.studies.engine import StageResult, log_spaced_steps
from sparsetrain.studies.readings import (
    FINAL,
    Group,
    Readings,
    both_gains,
    correlation,
    gap,
    gaussian,
    groups_table,
    item_reader,
    over_seeds_figure,
    over_training,
    points_table,
    rank_correlation,
    sparsity,
)
from sparsetrain.studies.section import Figure, ResultTable, TableCell
from sparsetrain.studies.study import Gates, Ruling, Subject, gate


@dataclass(frozen=True, kw_only=True)
class FactReadings(Readings):
    """Readings of facts; groups are their roles, `seen` and `unseen`, and those of the largest level: `still` and `unlearnable`."""

    facts: Facts
    switch_step: int
    """Last step before facts are switched."""

    @property
    def exposures(self) -> Floats:
        """log2(1 + planned exposures) of shown facts."""
        return np.log2(1 + self.facts.n[self.groups["shown"]])

    def shown(self, series: str) -> Floats:
        """A series of shown facts at the end."""
        return self.series(series)[-1][self.groups["shown"]]

    def moved(self, control: str, a: str, b: str) -> float:
        """How far one group moved against another since facts were switched."""
        y = self.series(control)
        return gap(y[-1] - y[self.steps.index(self.switch_step)], self.groups[a], self.groups[b])

    def since_init(self, control: str, group: str) -> float:
        """How far a group moved since initialisation."""
        y = self.series(control)
        return float((y[-1] - y[0])[self.groups[group]].mean())


def groups_of(facts: Facts) -> dict[str, Group]:
    """Names of groups of facts."""
    levels = [role.n for role in facts.roles if role.kind == "shown"]
    shown, most = facts.of_kind("shown"), levels[-1]
    return {
        **{role.name: facts.role == i for i, role in enumerate(facts.roles)},
        "shown": shown,
        "seen": shown & (facts.n >= n_seen(levels)),
        "unseen": facts.of_kind("shown", 0),
        "still": facts.of_kind("shown", most),
        "unlearnable": facts.of_kind("unlearnable", most),
    }


def n_seen(levels: Sequence[int]) -> int:
    """Facts shown at least so often count as seen: the three largest levels where there are so many."""
    return levels[max(-3, 1 - len(levels))]


@dataclass(frozen=True, kw_only=True)
class FamiliarityStudy(WorldStudy[FactReadings]):
    """Facts of known exposure."""

    question = "Is density learned through familiarity?"
    hypotheses = (
        *both_gains("seen", "negative", "seen facts are denser than unseen ones", lambda r, c: r.gap(c, "seen", "unseen")),
        *both_gains("switched on", "negative", "switched-on facts get denser, against facts left unseen", lambda r, c: r.moved(c, "switched on", "unseen")),
        sparsity("switched off", "positive", "switched-off facts get sparser, against facts still shown", lambda r: r.moved("none", "switched off", "still")),
        *both_gains("seen since init", "negative", "seen facts are denser than at initialisation", lambda r, c: r.since_init(c, "seen")),
        sparsity("unseen since init", "none", "unseen facts stay as at initialisation (without gain)", lambda r: r.since_init("none", "unseen")),
        sparsity("unlearnable", "negative", "exposure alone makes denser: unlearnable facts against unseen ones", lambda r: r.gap("none", "unlearnable", "unseen")),
        sparsity("equal exposure", "negative", "at equal exposure learnable facts are denser than unlearnable ones", lambda r: r.gap("none", "still", "unlearnable")),
        correlation("exposure given loss", "negative", "more exposures, denser, given the loss (partial Spearman)", lambda r: rank_correlation(r.exposures, r.shown("none"), r.shown("loss"))),
        correlation("loss given exposure", "positive", "more loss, sparser, given the exposures (partial Spearman)", lambda r: rank_correlation(r.shown("loss"), r.shown("none"), r.exposures)),
        sparsity("at init", "none", "control: no difference at initialisation", lambda r: r.gap("none", "seen", "unseen", when=0)),
        sparsity("rotated", "none", "control: no difference in a random basis", lambda r: r.gap("rotated", "seen", "unseen")),
        sparsity("trimmed", "negative", "control: the difference survives without the strongest 1% of channels", lambda r: r.gap("trimmed", "seen", "unseen")),
    )  # fmt: skip
    rulings = (
        Ruling(
            name="relative",
            statement="seen facts are denser than unseen ones, and switching moves only the switched half",
            needs=("seen", "seen, gain", "switched on", "switched on, gain"),
        ),
        Ruling(
            name="absolute",
            statement="seen facts are denser than in the same model at initialisation, unseen ones stay",
            needs=("seen since init", "seen since init, gain", "unseen since init"),
        ),
    )
    as_first = ("seen", "between seen and unseen facts")

    facts: FactsConfig

    def method(self) -> tuple[str, ...]:
        facts = self.facts
        return (
            f"{facts.n_subjects * len(facts.roles)} facts (subject, relation) -> object. Each of {facts.n_subjects} subjects has one "
            f"fact of each role: shown {', '.join(map(str, facts.levels))} times; switched on or off midway; shown "
            f"{' or '.join(map(str, facts.unlearnable))} times with an object drawn anew each time. Every subject, relation and "
            f"object is shown equally often (counted before training). All prompts are [subject, relation, ask].",
            f"Read at the last token, at {FINAL}, before and after its gain; the {HEADLINE} of a Gaussian vector is "
            f".414, a negative difference means denser. Seen: shown at least {n_seen(facts.levels)} times. All comparisons are within one "
            f"checkpoint or of the same facts between checkpoints.",
            "One number per seed and claim; intervals are Student's t over seeds. Arms differ in the schedule of the learning "
            "rate and in the density of the weights.",
        )

    def gates(self) -> Gates[FactReadings]:
        levels = self.facts.levels
        most = levels[-1]

        def rising(r: FactReadings) -> float:
            recall = [r.mean("correct", f"shown {n}") for n in levels]
            return rank_correlation(np.array(levels), np.array(recall))

        recall, last = "recall of facts shown", "recall of the last object shown of unlearnable facts shown"
        known, unknown = number(0.9, "fraction"), number(0.15, "fraction")
        return (
            gate("recall", f"{recall} {most} times at the end", known, lambda r: r.mean("correct", "still")),
            gate("rising", "rank correlation of exposures and recall over levels", number(0.8, "rho"), rising),
            gate(
                "unlearnable",
                f"{last} {most} times",
                unknown,
                lambda r: r.mean("correct", "unlearnable"),
                rule="at most",
            ),
        )

    def config_of(self, arm: str, seed: int) -> RunConfig:
        n_rows = len(draw_facts(self.facts, seed).rows)
        n_steps = math.ceil(n_rows / self.config.trainer.batch_size)
        return self.sized(arm, seed, d_vocab=self.facts.d_vocab, n_steps=n_steps)

    def inputs(self, config: RunConfig) -> Mapping[str, object]:
        return {**config.recipe.key(), "facts": self.facts, "n_checkpoints": self.rules.n_checkpoints}

    def switch_step(self, facts: Facts) -> int:
        """Optimizer steps whose exposures all lie before the switch."""
        return facts.n_first_half // self.config.trainer.batch_size

    def work(self, config: RunConfig, folder: Path) -> StageResult:
        facts = draw_facts(self.facts, config.seed)
        write_exposures(facts, config.trainer.batch_size, folder / "exposures.csv")
        prompts = torch.from_numpy(facts.prompts)
        reader = item_reader(prompts, config.model.n_layer, lambda logits: logits.argmax(-1) == prompts[:, -1])
        steps = {*log_spaced_steps(config.trainer.n_steps, self.rules.n_checkpoints), self.switch_step(facts)}
        _, weights = train_arm(config, facts.rows, folder, steps, {"items": reader})
        reader.save(folder / "items.npz")
        return StageResult(weights_sha256=weights)

    def load(self, folder: Path, subject: Subject, seed: int) -> FactReadings:
        facts = draw_facts(self.facts, seed)
        more = {"facts": facts, "groups": groups_of(facts), "switch_step": self.switch_step(facts)}
        return FactReadings.load(folder / "items.npz", **more)

    def figures(self, read: Mapping[Subject, Sequence[FactReadings]]) -> Sequence[Figure]:
        (first, runs), levels = next(iter(read.items())), self.facts.levels
        drawn = [levels[i] for i in sorted({0, *range(len(levels) - 1, 0, -2)})]
        groups = [*(f"shown {n}" for n in drawn), "switched on", "switched off", f"unlearnable {levels[-1]}"]

        def by_exposures(seeds: Sequence[FactReadings], when: int = -1) -> list[Floats]:
            return [np.array([r.mean("none", f"shown {n}", when) for n in levels]) for r in seeds]

        width = self.config.model.d_model
        return (
            *(
                over_training(key, title, label, series, groups, runs, width, note=f"arm {first.arm}, ")
                for key, title, label, series in (
                    ("recall", "Recall by exposures", "recall", "correct"),
                    ("gini", f"{HEADLINE} at the last token by exposures", HEADLINE, "none"),
                    ("loss", "Loss of the answer by exposures", "loss, nats", "loss"),
                )
            ),
            over_seeds_figure(
                "exposures",
                f"{HEADLINE} at the end against exposures",
                [math.log2(1 + n) for n in levels],
                {
                    **{subject.arm: by_exposures(seeds) for subject, seeds in read.items()},
                    "at initialisation": by_exposures(runs, when=0),
                },
                x_label="log2(1 + exposures)",
                y_label=HEADLINE,
                references=gaussian(width),
            ),
        )

    def tables(
        self, read: Mapping[Subject, Sequence[FactReadings]], results: Mapping[str, StageResult]
    ) -> Sequence[ResultTable]:
        roles = [role.name for role in next(iter(read.values()))[0].facts.roles]
        controls = f"controls: {', '.join(CONTROLS)}; see docs/familiarity.md"
        note = "means over seeds; unlearnable: recall and loss are of the object shown last; new subject: tokens never shown"
        return (
            points_table("Seen minus unseen facts", "seen", "unseen", read, controls),
            self._models_table(read),
            groups_table("Every role at the end", "role", "recall", roles, read, note),
        )

    def _models_table(self, read: Mapping[Subject, Sequence[FactReadings]]) -> ResultTable:
        rows: list[tuple[TableCell, ...]] = []
        for subject, seeds in read.items():
            y, loss = (np.concatenate([r.shown(series) for r in seeds]) for series in ("none", "loss"))
            effects = {
                "a doubling of 1 + exposures": np.concatenate([r.exposures for r in seeds]),
                "a nat of loss": loss,
            }
            subjects = [r.facts.subject[r.groups["shown"]] + i * 10**6 for i, r in enumerate(seeds)]
            for name, slope in mixed_model(y, effects, np.concatenate(subjects)).items():
                rows.append((subject.arm, name, slope.number(HEADLINE)))
            p = max(
                permutation_p(r.exposures, r.shown("none"), n_permutations=200, seed=seed)
                for seed, r in zip(self.seeds, seeds, strict=True)
            )
            rows.append((subject.arm, "largest p of shuffled exposures over seeds", number(p, "p", n=len(seeds))))
        return ResultTable(
            title=f"Mixed model of the {HEADLINE} of shown facts at the end, random intercepts of subjects within seeds",
            columns=("arm", "effect of", "slope"),
            rows=tuple(rows),
            note="p: share of 200 shuffles of the exposures with a rank correlation as far from 0",
        )
