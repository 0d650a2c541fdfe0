"""Is density learned through familiarity? Facts that differ in nothing but how often their binding was shown.

Read is the last token of every prompt, where the object is predicted. A difference below 0 of the Gini index means denser.
Two verdicts, each per arm: *relative*: at the end facts that were shown are denser than facts that were not, and
switching on moves the switched facts against those left unseen; *absolute*: shown facts are denser than in the same model at
initialisation while unseen ones stay. Both must hold with and without the gain of the norm.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsetrain.data.worlds.facts import Facts, draw_facts, write_exposures
from sparsetrain.report import number
from sparsetrain.representation.controls import CONTROLS
from sparsetrain.representation.measures import HEADLINE, gaussian_reference
from sparsetrain.run import RunConfig
from sparsetrain.stats.correlation import permutation_p, spearman
from sparsetrain.stats.decisions import DecisionRule
from sparsetrain.stats.mixed_model import mixed_model
from sparsetrain.studies.arm import ArmRun, as_rows
from sparsetrain.studies.engine import Claim, Gate, Plan, Rule, Stage, StudyConfig, conclude, log_spaced_steps
from sparsetrain.studies.readings import (
    FINAL,
    RHO_MARGIN,
    Readings,
    Recorder,
    curve,
    read_points,
    seeds_number,
)


@dataclass(frozen=True)
class FamiliarityStudy:
    """The study of one config; see `sparsetrain.studies.run.Study`."""

    config: RunConfig

    @property
    def study(self) -> StudyConfig:
        return self.config.study

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.config.seed + i for i in range(self.study.n_seeds))

    @property
    def n_seen(self) -> int:
        """Facts shown at least so often count as seen: the three largest levels where there are so many."""
        return self.study.familiarity.levels[max(-3, 1 - len(self.study.familiarity.levels))]

    def plan(self) -> Plan:
        facts, margin, agree = self.study.familiarity, self.study.margin, self.study.n_agreeing
        claims: list[Claim] = []
        rules: list[Rule] = []
        for arm in self.study.arms:
            negative, positive, none = "negative", "positive", "none"
            rows: list[tuple[str, str, Any, float, str]] = [
                ("seen", "seen facts are denser than unseen ones (without gain)", negative, margin, HEADLINE),
                ("seen, gain", "seen facts are denser than unseen ones (with gain)", negative, margin, HEADLINE),
                ("switched on", "switched-on facts get denser, against facts left unseen (without gain)", negative, margin, HEADLINE),
                ("switched on, gain", "switched-on facts get denser, against facts left unseen (with gain)", negative, margin, HEADLINE),
                ("switched off", "switched-off facts get sparser, against facts still shown", positive, margin, HEADLINE),
                ("seen since init", "seen facts are denser than at initialisation (without gain)", negative, margin, HEADLINE),
                ("seen since init, gain", "seen facts are denser than at initialisation (with gain)", negative, margin, HEADLINE),
                ("unseen since init", "unseen facts stay as at initialisation (without gain)", none, margin, HEADLINE),
                ("unlearnable", "exposure alone makes denser: unlearnable facts against unseen ones", negative, margin, HEADLINE),
                ("equal exposure", "at equal exposure learnable facts are denser than unlearnable ones", negative, margin, HEADLINE),
                ("exposure given loss", "more exposures, denser, given the loss (partial Spearman)", negative, RHO_MARGIN, "rho"),
                ("loss given exposure", "more loss, sparser, given the exposures (partial Spearman)", positive, RHO_MARGIN, "rho"),
                ("at init", "control: no difference at initialisation", none, margin, HEADLINE),
                ("rotated", "control: no difference in a random basis", none, margin, HEADLINE),
                ("trimmed", "control: the difference survives without the strongest 1% of channels", negative, margin, HEADLINE),
            ]  # fmt: skip
            if arm != next(iter(self.study.arms)):
                claim = f"the difference between seen and unseen facts is that of arm {next(iter(self.study.arms))}"
                rows.append(("as first arm", claim, none, margin, HEADLINE))
            claims += [
                Claim(
                    key=f"{arm}: {key}",
                    arm=arm,
                    criterion=DecisionRule(
                        claim=claim, expected=expected, margin=bound, n_agreeing=None if expected == none else agree
                    ),
                    unit=unit,
                )
                for key, claim, expected, bound, unit in rows
            ]
            rules += [
                Rule(
                    name="relative",
                    arm=arm,
                    statement="seen facts are denser than unseen ones, and switching moves only the switched half",
                    needs=tuple(f"{arm}: {key}" for key in ("seen", "seen, gain", "switched on", "switched on, gain")),
                ),
                Rule(
                    name="absolute",
                    arm=arm,
                    statement="seen facts are denser than in the same model at initialisation, unseen ones stay",
                    needs=tuple(
                        f"{arm}: {key}" for key in ("seen since init", "seen since init, gain", "unseen since init")
                    ),
                ),
            ]
        most = facts.levels[-1]
        return Plan(
            question="Is density learned through familiarity?",
            method=(
                f"{facts.n_subjects * len(facts.roles)} facts (subject, relation) -> object. Each of {facts.n_subjects} subjects has one "
                f"fact of each role: shown {', '.join(map(str, facts.levels))} times; switched on or off midway; shown "
                f"{' or '.join(map(str, facts.unlearnable))} times with an object drawn anew each time. Every subject, relation and "
                f"object is shown equally often (counted before training). All prompts are [subject, relation, ask].",
                f"Read at the last token, at {FINAL}, before and after its gain; the {HEADLINE} of a Gaussian vector is "
                f".414, a negative difference means denser. Seen: shown at least {self.n_seen} times. All comparisons are within one "
                f"checkpoint or of the same facts between checkpoints.",
                "One number per seed and claim; intervals are Student's t over seeds. Arms differ in the schedule of the learning "
                "rate and in the density of the weights.",
            ),
            seeds=self.seeds,
            arms=tuple(self.study.arms),
            gates=(
                Gate(
                    key="recall",
                    words=f"recall of facts shown {most} times at the end",
                    rule="at least",
                    bound=0.9,
                    unit="fraction",
                ),
                Gate(
                    key="rising",
                    words="rank correlation of exposures and recall over levels",
                    rule="at least",
                    bound=0.8,
                    unit="rho",
                ),
                Gate(
                    key="unlearnable",
                    words=f"recall of the last object shown of unlearnable facts shown {most} times",
                    rule="at most",
                    bound=0.15,
                    unit="fraction",
                ),
            ),
            claims=tuple(claims),
            rules=tuple(rules),
        )

    def stages(self) -> list[Stage]:
        stages = []
        for name, arm in self.study.arms.items():
            for seed in self.seeds:
                n_rows = len(self._facts(seed).rows)
                n_steps = math.ceil(n_rows / self.config.trainer.batch_size)
                run = ArmRun(
                    config=self.config, arm=arm, seed=seed, d_vocab=self.study.familiarity.d_vocab, n_steps=n_steps
                )
                inputs = {
                    **run.inputs(),
                    "facts": asdict(self.study.familiarity),
                    "n_checkpoints": self.study.n_checkpoints,
                }
                stages.append(Stage(name=f"{name}/seed_{seed}", inputs=inputs, run=_Training(self, run)))
        return stages

    def _facts(self, seed: int) -> Facts:
        return draw_facts(self.study.familiarity, seed)

    def steps(self, facts: Facts, n_steps: int) -> tuple[int, ...]:
        """Steps that are read: log-spaced, and the last one before the switch."""
        return tuple(sorted({*log_spaced_steps(n_steps, self.study.n_checkpoints), self.switch_step(facts)}))

    def switch_step(self, facts: Facts) -> int:
        """Optimizer steps whose exposures all lie before the switch."""
        return facts.n_first_half // self.config.trainer.batch_size

    def conclude(self, plan: Plan, results: Mapping[str, Mapping[str, Any]], run_dir: Path) -> dict[str, Any]:
        read = {
            arm: [
                FactReadings.load(run_dir / f"{arm}/seed_{seed}/items.npz", facts=self._facts(seed))
                for seed in self.seeds
            ]
            for arm in self.study.arms
        }
        effects: dict[str, list[float]] = {}
        gates: dict[str, list[float]] = {"recall": [], "rising": [], "unlearnable": []}
        most = self.study.familiarity.levels[-1]
        for arm, seeds in read.items():
            for r in seeds:
                for key, value in self.effects(r).items():
                    effects.setdefault(f"{arm}: {key}", []).append(value)
                recall = [
                    float(r.correct[-1][r.facts.of_kind("shown", n)].mean()) for n in self.study.familiarity.levels
                ]
                gates["recall"].append(recall[-1])
                gates["rising"].append(spearman(self.study.familiarity.levels, recall, n_bootstrap=0, seed=0).value)
                gates["unlearnable"].append(float(r.correct[-1][r.facts.of_kind("unlearnable", most)].mean()))
        first = next(iter(self.study.arms))
        for arm in list(self.study.arms)[1:]:
            pairs = zip(effects[f"{arm}: seen"], effects[f"{first}: seen"], strict=True)
            effects[f"{arm}: as first arm"] = [a - b for a, b in pairs]
        study = conclude(plan, gates=gates, effects=effects)
        study["figures"] = self._figures(read)
        study["tables"] = [self._points_table(read), self._models_table(read), self._roles_table(read)]
        study["models"] = {name: result["weights_sha256"] for name, result in results.items()}
        return {"study": study}

    def effects(self, r: "FactReadings") -> dict[str, float]:
        """The number of each claim in one seed."""
        shown, f = r.facts.of_kind("shown"), r.facts
        n = r.n
        seen, unseen, most = shown & (n >= self.n_seen), f.of_kind("shown", 0), self.study.familiarity.levels[-1]
        middle = r.steps.index(self.switch_step(f))
        on, off, unlearnable = f.of_kind("on"), f.of_kind("off"), f.of_kind("unlearnable", most)
        still = f.of_kind("shown", most)
        plain, gain = r.of("none"), r.of("gain")

        def gap(values: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
            return float(values[a].mean() - values[b].mean())

        def moved(values: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
            return gap(values[-1] - values[middle], a, b)

        y, loss, exposures = plain[-1][shown], r.loss[-1][shown], np.log2(1 + n[shown])
        return {
            "seen": gap(plain[-1], seen, unseen),
            "seen, gain": gap(gain[-1], seen, unseen),
            "switched on": moved(plain, on, unseen),
            "switched on, gain": moved(gain, on, unseen),
            "switched off": moved(plain, off, still),
            "seen since init": float((plain[-1] - plain[0])[seen].mean()),
            "seen since init, gain": float((gain[-1] - gain[0])[seen].mean()),
            "unseen since init": float((plain[-1] - plain[0])[unseen].mean()),
            "unlearnable": gap(plain[-1], unlearnable, unseen),
            "equal exposure": gap(plain[-1], still, unlearnable),
            "exposure given loss": spearman(exposures, y, given=[loss], n_bootstrap=0, seed=0).value,
            "loss given exposure": spearman(loss, y, given=[exposures], n_bootstrap=0, seed=0).value,
            "at init": gap(plain[0], seen, unseen),
            "rotated": gap(r.of("rotated")[-1], seen, unseen),
            "trimmed": gap(r.of("trimmed")[-1], seen, unseen),
        }

    def _figures(self, read: Mapping[str, Sequence["FactReadings"]]) -> list[dict[str, Any]]:
        first = next(iter(read))
        runs, levels = read[first], self.study.familiarity.levels
        most = levels[-1]
        drawn = [levels[i] for i in sorted({0, *range(len(levels) - 1, 0, -2)})]
        groups = [(f"shown {n}", "shown", n) for n in drawn]
        extra = [
            ("switched on", "on", None),
            ("switched off", "off", None),
            (f"unlearnable {most}", "unlearnable", most),
        ]
        reference = gaussian_reference(self.config.model.d_model)[HEADLINE]

        def over_training(key: str, title: str, y_label: str, array: str, chosen: list[Any]) -> dict[str, Any]:
            curves = []
            for name, kind, n in chosen:
                per_seed = np.array([r.series(array)[:, r.facts.of_kind(kind, n)].mean(1) for r in runs])
                curves.append(curve(name, [math.log2(1 + step) for step in runs[0].steps], per_seed))
            return {
                "key": key, "title": title, "x_label": "log2(1 + step)", "y_label": y_label, "curves": curves,
                "references": [] if array != "none" else [{"label": "Gaussian", "value": reference}],
                "note": f"arm {first}, mean over {len(runs)} seeds, band: 95% t interval over seeds",
            }  # fmt: skip

        at_end = []
        for arm, seeds in read.items():
            per_seed = np.array([[r.of("none")[-1][r.facts.of_kind("shown", n)].mean() for n in levels] for r in seeds])
            at_end.append(curve(arm, [math.log2(1 + n) for n in levels], per_seed))
        per_seed = np.array([[r.of("none")[0][r.facts.of_kind("shown", n)].mean() for n in levels] for r in runs])
        at_end.append(curve("at initialisation", [math.log2(1 + n) for n in levels], per_seed))
        return [
            over_training("recall", "Recall by exposures", "recall", "correct", groups + extra),
            over_training("gini", f"{HEADLINE} at the last token by exposures", HEADLINE, "none", groups + extra),
            over_training("loss", "Loss of the answer by exposures", "loss, nats", "loss", groups + extra),
            {
                "key": "exposures", "title": f"{HEADLINE} at the end against exposures", "x_label": "log2(1 + exposures)",
                "y_label": HEADLINE, "curves": at_end, "references": [{"label": "Gaussian", "value": reference}],
                "note": "mean over seeds, band: 95% t interval over seeds",
            },
        ]  # fmt: skip

    def _points_table(self, read: Mapping[str, Sequence["FactReadings"]]) -> dict[str, Any]:
        """Seen minus unseen at every hook point, control and arm: what else could have been asked."""
        rows = []
        for arm, seeds in read.items():
            for point, control, measure in seeds[0].values:
                gaps = []
                for r in seeds:
                    n = r.n
                    values, shown = r.values[point, control, measure][-1], r.facts.of_kind("shown")
                    gaps.append(float(values[shown & (n >= self.n_seen)].mean() - values[shown & (n == 0)].mean()))
                rows.append([arm, point, control, measure, seeds_number(gaps, measure)])
        return {
            "title": "Seen minus unseen facts at the end, everywhere (exploratory: no verdict rests on it)",
            "columns": ["arm", "hook point", "control", "measure", "difference"],
            "rows": rows,
            "note": f"controls: {', '.join(CONTROLS)}; see docs/familiarity.md",
        }

    def _models_table(self, read: Mapping[str, Sequence["FactReadings"]]) -> dict[str, Any]:
        rows = []
        for arm, seeds in read.items():
            y, exposures, loss, groups = [], [], [], []
            shuffled = []
            for i, r in enumerate(seeds):
                shown = r.facts.of_kind("shown")
                n = r.n[shown]
                y.append(r.of("none")[-1][shown])
                exposures.append(np.log2(1 + n))
                loss.append(r.loss[-1][shown])
                groups.append(r.facts.subject[shown] + i * 10**6)
                shuffled.append(permutation_p(exposures[-1], y[-1], n_permutations=200, seed=self.seeds[i]))
            effects = {"a doubling of 1 + exposures": np.concatenate(exposures), "a nat of loss": np.concatenate(loss)}
            slopes = mixed_model(np.concatenate(y), effects, np.concatenate(groups))
            rows += [[arm, name, seeds_number(slope, HEADLINE)] for name, slope in slopes.items()]
            rows.append(
                [arm, "largest p of shuffled exposures over seeds", number(max(shuffled), "p", n=len(shuffled))]
            )
        return {
            "title": f"Mixed model of the {HEADLINE} of shown facts at the end, random intercepts of subjects within seeds",
            "columns": ["arm", "effect of", "slope"],
            "rows": rows,
            "note": "p: share of 200 shuffles of the exposures with a rank correlation as far from 0",
        }

    def _roles_table(self, read: Mapping[str, Sequence["FactReadings"]]) -> dict[str, Any]:
        rows = []
        for arm, seeds in read.items():
            for i, role in enumerate(seeds[0].facts.roles):
                numbers = []
                for array, unit in (("correct", "fraction"), ("loss", "nats"), ("entropy", "nats"), ("logit_norm", "l2"), ("none", HEADLINE), ("gain", HEADLINE)):  # fmt: skip
                    values = [
                        float(r.series(array)[-1][r.facts.role == i].mean()) for r in seeds if (r.facts.role == i).any()
                    ]
                    numbers.append(seeds_number(values, unit))
                rows.append([arm, role.name, *numbers])
        return {
            "title": "Every role at the end",
            "columns": ["arm", "role", "recall", "loss", "entropy", "logit norm", f"{HEADLINE}, without gain", f"{HEADLINE}, with gain"],
            "rows": rows,
            "note": "means over seeds; unlearnable: recall and loss are of the object shown last; new subject: tokens never shown",
        }  # fmt: skip


@dataclass(frozen=True)
class _Training:
    """The work of a stage: train one arm, read all facts at every checkpoint."""

    study: FamiliarityStudy
    run: ArmRun

    def __call__(self, folder: Path) -> dict[str, Any]:
        facts = self.study._facts(self.run.seed)
        write_exposures(facts, self.run.config.trainer.batch_size, folder / "exposures.csv")
        prompts = as_rows(facts.prompts)
        recorder = Recorder(
            prompts,
            read_points(self.run.config.model.n_layer),
            lambda logits: logits.argmax(-1) == prompts[:, -1],
        )
        steps = self.study.steps(facts, self.run.n_steps)
        _, meta = self.run.train(as_rows(facts.rows), folder, steps, recorder)
        recorder.save(folder / "items.npz")
        return {"weights_sha256": meta["weights_sha256"], "n_steps": self.run.n_steps}


@dataclass(frozen=True, kw_only=True)
class FactReadings(Readings):
    """Readings of facts."""

    facts: Facts

    @property
    def n(self) -> np.ndarray:
        """Planned exposures of each fact, `[n_facts]`."""
        return np.array([role.n for role in self.facts.roles])[self.facts.role]
