"""Is sparsification adaptive? The number of active channels is set by hand, for familiar and for shifted inputs.

Inputs are the triples of the knowledge graph: deducible training triples, and deducible triples that were left out (`medium` and
`hard`). The claim holds at a place if shifted inputs are answered best with fewer channels than training triples are, and are
answered worse when held at the density of training triples. Everything is done through hooks, at the token that answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparsetrain.data.worlds.knowledge_graph import SPLITS, draw_graph
from sparsetrain.hooks import hook_points, record
from sparsetrain.model import Transformer
from sparsetrain.report import number
from sparsetrain.representation.active import (
    Setting,
    answer,
    keep_largest,
    keep_random,
    n_active,
    set_participation,
)
from sparsetrain.representation.controls import read_items
from sparsetrain.representation.measures import participation_ratio
from sparsetrain.representation.watch import evaluating
from sparsetrain.run import RunConfig
from sparsetrain.stats.correlation import spearman
from sparsetrain.stats.decisions import DecisionRule
from sparsetrain.stats.intervals import percentiles
from sparsetrain.studies.arm import ArmRun, as_rows
from sparsetrain.studies.engine import AdaptiveConfig, Claim, Gate, Plan, Rule, Stage, StudyConfig, conclude
from sparsetrain.studies.knowledge_graph import WORDS, is_gold_first, training_rows
from sparsetrain.studies.readings import FINAL, RHO_MARGIN, curve, seeds_number
from sparsetrain.studies.surfaces import Surface, best_level, enough_level, gain_of_own_best, level_grid, resampled_best

READ = SPLITS[1:]
"""Splits whose triples are the items: deducible all of them, so that they differ in whether they were trained on."""
COMPARED = {"id": ("id deducible",), "shifted": ("medium", "hard")}
"""The two sides of every comparison."""
FINAL_PLACE, ALL_LAYERS = "final norm", "all layers"
NODE_PATHS = {
    "attn_in": "attn.hook_in",
    "attn_q": "attn.hook_q",
    "attn_k": "attn.hook_k",
    "attn_v": "attn.hook_v",
    "attn_out": "attn.hook_out",
    "mlp_in": "mlp.hook_in",
    "mlp_neuron": "mlp.hook_neuron",
    "mlp_out": "mlp.hook_out",
}
ENOUGH = 0.95
"""Share of the best accuracy that counts as enough. ours"""
N_SPLITS = 200
"""Random halvings behind `gain`. ours"""
MARGINS = {"octaves": 0.5, "natural": 0.1, "fraction": 0.02, "nats": 0.05, "rho": RHO_MARGIN}
"""Smallest effects of interest: of a best number of channels and of the natural one (log2), of accuracy, of loss. ours"""


def places(n_layer: int, kind: str) -> dict[str, tuple[str, ...]]:
    """Where channels are set: the kind in each layer, in all layers at once, and what the unembedding reads."""
    points = [f"blocks.{i}.{NODE_PATHS[kind]}" for i in range(n_layer)]
    layers = {f"layer {i}": (point,) for i, point in enumerate(points)}
    return {**layers, **({ALL_LAYERS: tuple(points)} if n_layer > 1 else {}), FINAL_PLACE: (FINAL,)}


def items_of(splits: Sequence[str], n_eval: int) -> slice:
    """Where neighbouring splits stand among the items."""
    first, last = READ.index(splits[0]), READ.index(splits[-1])
    return slice(first * n_eval, (last + 1) * n_eval)


@dataclass(frozen=True)
class AdaptiveStudy:
    """The study of one config; see `sparsetrain.studies.run.Study`.

    Raises:
        ValueError: study.adaptive.arms names an arm that does not exist.
    """

    config: RunConfig

    def __post_init__(self) -> None:
        unknown = [name for name in self.adaptive.arms if name not in self.study.arms]
        if unknown:
            raise ValueError(
                f"study.adaptive.arms has {', '.join(unknown)}; study.arms are {', '.join(self.study.arms)}"
            )

    @property
    def study(self) -> StudyConfig:
        return self.config.study

    @property
    def adaptive(self) -> AdaptiveConfig:
        return self.study.adaptive

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(self.config.seed + i for i in range(self.study.n_seeds))

    @property
    def places(self) -> dict[str, tuple[str, ...]]:
        return places(self.config.model.n_layer, self.adaptive.kind)

    def plan(self) -> Plan:
        sizes, agree = self.study.knowledge_graph, self.study.n_agreeing
        claims: list[Claim] = []
        rules: list[Rule] = []
        first = self.adaptive.arms[0]
        # (key, claim, whether an effect is expected, which margin, unit)
        rows = [
            ("natural", "untouched, shifted input uses fewer channels", True, "natural", "octaves"),
            ("best k", "shifted input is answered best with fewer channels (log2 of best k, ID minus shifted)", True, "octaves", "octaves"),
            ("enough k", f"fewer channels are enough for shifted input ({ENOUGH:.0%} of its best accuracy from there up to the best k)", True, "octaves", "octaves"),
            ("held", "shifted input is answered worse with ID's number of channels than with its own (AbsTopK)", True, "fraction", "fraction"),
            ("held, temperature", "shifted input is answered worse at ID's density than at its own (temperature)", True, "fraction", "fraction"),
            ("gain", "shifted input is answered better with its best k than with ID's (chosen on other items)", True, "fraction", "fraction"),
            ("per item", "the farther an item, the lower the k of its smallest loss (Spearman)", True, "rho", "rho"),
            ("per item, matched", "the same given the item's loss, entropy and logit norm (partial Spearman)", True, "rho", "rho"),
            ("best k, loss", "the loss of shifted input is smallest with fewer channels", True, "octaves", "octaves"),
            ("held, loss", "the loss of shifted input is higher with ID's number of channels than with its own (AbsTopK)", True, "nats", "nats"),
            ("converse", "control: ID input is answered worse with shifted input's number of channels than with its own (AbsTopK)", True, "fraction", "fraction"),
            ("converse, temperature", "control: ID input is answered worse at shifted input's density than at its own (temperature)", True, "fraction", "fraction"),
            ("natural at init", "control: at initialisation, both use as many channels", False, "natural", "octaves"),
            ("best k at init", "control: at initialisation, both are answered best with as many channels", False, "octaves", "octaves"),
            ("held at init", "control: at initialisation, holding shifted input at ID's number of channels costs nothing", False, "fraction", "fraction"),
            ("random best k", "control: with channels kept at random, both are answered best with as many channels", False, "octaves", "octaves"),
        ]  # fmt: skip
        for arm in self.adaptive.arms:
            for place in self.places:
                key = f"{arm}, {place}"
                extra = [("as first arm", f"the difference of best k is that of arm {first}", False, "octaves", "octaves")]  # fmt: skip
                claims += [
                    Claim(
                        key=f"{key}: {name}",
                        arm=arm,
                        criterion=DecisionRule(
                            claim=f"{place}: {claim}",
                            expected="positive" if expected else "none",
                            margin=MARGINS[margin],
                            n_agreeing=agree if expected else None,
                        ),
                        unit=unit,
                    )
                    for name, claim, expected, margin, unit in rows + (extra if arm != first else [])
                ]
                rules.append(
                    Rule(
                        name=f"adaptive, {place}",
                        arm=arm,
                        statement="shifted input does best with fewer channels, and worse when held at the density of ID input",
                        needs=tuple(f"{key}: {name}" for name in ("best k", "held", "held, temperature")),
                    )
                )
        return Plan(
            question="Is sparsification adaptive: does shifted input do better with fewer active channels?",
            method=(
                f"The triples of the knowledge-graph study: ID are deducible training triples, shifted are deducible triples that were left "
                f"out (medium and hard together), {sizes.n_eval} of each split, with the same relations equally often. All prompts are "
                f"[subject, relation, ask]. Accuracy: gold against {sizes.n_choices - 1} random entities that are no answer.",
                f"At the last token the number of active channels is set by hooks at {self.adaptive.kind} of each layer, of all layers at once, and at "
                f"{FINAL}. Response: AbsTopK with {self.adaptive.levels_per_octave} values of k per factor of two, up to the full width. "
                f"Best k: the k of the highest accuracy, mean of log2 k over {self.adaptive.n_bootstrap} resamples of {sizes.n_eval} items, ties "
                f"shared. An octave is a factor of two.",
                f"Held: a split's own number of channels is the geometric mean over its items of the smallest number that carries "
                f"{self.adaptive.energy:g} of the energy untouched; its own density that of the participation ratio. AbsTopK imposes the "
                f"one, a temperature on |h| per item the other. The cost of holding is accuracy at one's own value minus accuracy at the "
                f"other's, so that what the operation itself costs cancels.",
                "One number per seed and claim; every seed has a graph of its own. Intervals are Student's t over seeds; the bootstrap over "
                "items is in a table. Every effect above 0 speaks for the claim.",
            ),
            seeds=self.seeds,
            arms=self.adaptive.arms,
            gates=(
                Gate(key="recall", words=f"{sizes.n_choices}-way accuracy on training triples", rule="at least", bound=0.9, unit="fraction"),
                Gate(key="shifted", words=f"{sizes.n_choices}-way accuracy on shifted triples, twice chance", rule="at least", bound=2 / sizes.n_choices, unit="fraction"),
            ),
            claims=tuple(claims),
            rules=tuple(rules),
        )  # fmt: skip

    def stages(self) -> list[Stage]:
        stages = []
        for name in self.adaptive.arms:
            for seed in self.seeds:
                run = self._arm(name, seed)
                measured = {key: value for key, value in asdict(self.adaptive).items() if key in ("kind", "levels_per_octave", "energy")}  # fmt: skip
                inputs = {**run.inputs(), "graph": asdict(self.study.knowledge_graph), "adaptive": measured}
                stages.append(Stage(name=f"{name}/seed_{seed}", inputs=inputs, run=_Training(self, run)))
        return stages

    def conclude(self, plan: Plan, results: Mapping[str, Mapping[str, Any]], run_dir: Path) -> dict[str, Any]:
        surfaces = {
            arm: [Surface.load(run_dir / f"{arm}/seed_{seed}/surface.npz") for seed in self.seeds]
            for arm in self.adaptive.arms
        }
        effects: dict[str, list[float]] = {}
        for arm, seeds in surfaces.items():
            for place in self.places:
                for surface in seeds:
                    for key, value in self.effects(surface, place).items():
                        effects.setdefault(f"{arm}, {place}: {key}", []).append(value)
        first, *others = self.adaptive.arms
        for arm in others:
            for place in self.places:
                pairs = zip(effects[f"{arm}, {place}: best k"], effects[f"{first}, {place}: best k"], strict=True)
                effects[f"{arm}, {place}: as first arm"] = [a - b for a, b in pairs]
        every = [surface for seeds in surfaces.values() for surface in seeds]
        gates = {
            "recall": [result["recall"] for result in results.values()],
            "shifted": [float(s.covariates["correct"][self._side("shifted")].mean()) for s in every],
        }
        study = conclude(plan, gates=gates, effects=effects)
        study["figures"] = self._figures(surfaces)
        study["tables"] = [
            self._splits_table(surfaces),
            self._held_table(surfaces),
            self._bootstrap_table(surfaces),
        ]
        study["models"] = {name: result["weights_sha256"] for name, result in results.items()}
        return {"study": study}

    def _arm(self, name: str, seed: int) -> ArmRun:
        return ArmRun(
            config=self.config,
            arm=self.study.arms[name],
            seed=seed,
            d_vocab=self.study.knowledge_graph.d_vocab,
            n_steps=self.config.trainer.n_steps,
        )

    def _items(self, *splits: str) -> slice:
        return items_of(splits, self.study.knowledge_graph.n_eval)

    def _side(self, target: str) -> slice:
        return self._items(*COMPARED[target])

    def best(self, surface: Surface, place: str, *, when: str, how: str, outcome: str) -> np.ndarray:
        """log2 of best k of ID minus that of shifted items in each bootstrap resample, `[n_bootstrap]`.

        Args:
            outcome: `correct`, or `loss` (whose smallest value is the best).
        """
        values = surface.correct[when, place, how] if outcome == "correct" else -surface.loss[when, place, how]
        rng = np.random.default_rng(0)
        of = {
            target: resampled_best(
                values[:, self._side(target)],
                np.log2(surface.levels[place]),
                n_items=self.study.knowledge_graph.n_eval,
                n_bootstrap=self.adaptive.n_bootstrap,
                rng=rng,
            )
            for target in COMPARED
        }
        return of["id"] - of["shifted"]

    def effects(self, surface: Surface, place: str) -> dict[str, float]:
        """The number of each claim at a place in one seed."""

        def best(when: str = "end", how: str = "largest", outcome: str = "correct") -> float:
            return float(self.best(surface, place, when=when, how=how, outcome=outcome).mean())

        def enough() -> float:
            values, levels = surface.correct["end", place, "largest"], np.log2(surface.levels[place])
            k = {t: enough_level(values[:, self._side(t)].mean(1), levels, share=ENOUGH) for t in COMPARED}
            return k["id"] - k["shifted"]

        def held(side: str, by: str, when: str = "end") -> float:
            """Accuracy of a side at its own density minus that at the other's."""
            other = "id" if side == "shifted" else "shifted"
            own, foreign = (surface.held_correct[when, place, by, target][self._side(side)] for target in (side, other))
            return float(own.mean() - foreign.mean())

        def natural(when: str) -> float:
            values = surface.natural[when, place]
            return float(values[self._side("id")].mean() - values[self._side("shifted")].mean())

        shifted, reference = (surface.correct["end", place, "largest"][:, self._side(t)] for t in ("shifted", "id"))
        losses = {t: surface.held_loss["end", place, "topk", t][self._side("shifted")].mean() for t in COMPARED}
        n = self.study.knowledge_graph.n_eval
        items = self._items("id deducible", "medium", "hard")
        level = np.repeat(np.arange(3), n)
        sparser = -best_level(-surface.loss["end", place, "largest"][:, items], np.log2(surface.levels[place]))
        covariates = [surface.covariates[name][items] for name in ("loss", "entropy", "logit_norm")]
        return {
            "natural": natural("end"),
            "best k": best(),
            "enough k": enough(),
            "held": held("shifted", "topk"),
            "held, temperature": held("shifted", "temperature"),
            "gain": gain_of_own_best(shifted, reference, n_splits=N_SPLITS, rng=np.random.default_rng(0)),
            # Where no item's best k differs from another's, none goes with distance.
            "per item": spearman(level, sparser, n_bootstrap=0, seed=0).value if np.ptp(sparser) else 0.0,
            "per item, matched": spearman(level, sparser, given=covariates, n_bootstrap=0, seed=0).value
            if np.ptp(sparser)
            else 0.0,
            "best k, loss": best(outcome="loss"),
            "held, loss": float(losses["id"] - losses["shifted"]),
            "converse": held("id", "topk"),
            "converse, temperature": held("id", "temperature"),
            "natural at init": natural("init"),
            "best k at init": best("init"),
            "held at init": held("shifted", "topk", "init"),
            "random best k": best(how="random"),
        }

    def _figures(self, surfaces: Mapping[str, Sequence[Surface]]) -> list[dict[str, Any]]:
        figures = []
        for arm, seeds in surfaces.items():
            for place in self.places:
                x = np.log2(seeds[0].levels[place]).tolist()
                for outcome, label in (("correct", "accuracy"), ("loss", "loss, nats")):
                    values = [getattr(s, outcome)["end", place, "largest"] for s in seeds]
                    curves = [
                        curve(name, x, np.array([v[:, self._items(name)].mean(1) for v in values])) for name in READ
                    ]
                    figures.append(
                        {
                            "key": f"{arm}_{place.replace(' ', '_')}_{outcome}",
                            "title": f"{label.partition(',')[0].capitalize()} by active channels, {place}, arm {arm}",
                            "x_label": "log2 k, channels kept at the last token",
                            "y_label": label,
                            "curves": curves,
                            "references": [{"label": "chance", "value": 1 / self.study.knowledge_graph.n_choices}]
                            if outcome == "correct"
                            else [],
                            "note": f"mean over {len(seeds)} seeds, band: 95% t interval over seeds",
                        }
                    )
        return figures

    def _splits_table(self, surfaces: Mapping[str, Sequence[Surface]]) -> dict[str, Any]:
        rows = [
            [
                arm,
                name,
                *(seeds_number([float(s.covariates[key][self._items(name)].mean()) for s in seeds], unit) for key, unit in (("correct", "fraction"), ("loss", "nats"), ("entropy", "nats"))),
                *(seeds_number([float(s.natural["end", place][self._items(name)].mean()) for s in seeds], "log2 channels") for place in self.places),
            ]
            for arm, seeds in surfaces.items()
            for name in READ
        ]  # fmt: skip
        return {
            "title": "Untouched: how splits are answered, and with how many channels",
            "columns": ["arm", "split", "accuracy", "loss", "entropy", *(f"log2 channels, {place}" for place in self.places)],
            "rows": rows,
            "note": f"channels that carry {self.adaptive.energy:g} of the energy; "
            + "; ".join(f"{name}: {words}" for name, words in WORDS.items()),
        }  # fmt: skip

    def _held_table(self, surfaces: Mapping[str, Sequence[Surface]]) -> dict[str, Any]:
        def cells(seeds: Sequence[Surface], place: str, by: str, side: str) -> list[dict[str, Any]]:
            return [
                seeds_number([float(s.held_correct["end", place, by, target][self._side(side)].mean()) for s in seeds], "fraction")
                for target in COMPARED
            ]  # fmt: skip

        rows = [
            [arm, place, by, side, *cells(seeds, place, by, side)]
            for arm, seeds in surfaces.items()
            for place in self.places
            for by in ("topk", "temperature")
            for side in COMPARED
        ]
        return {
            "title": "Accuracy of each side held at the density of either",
            "columns": ["arm", "place", "by", "side", "at ID's density", "at shifted input's"],
            "rows": rows,
            "note": "id: deducible training triples; shifted: medium and hard",
        }

    def _bootstrap_table(self, surfaces: Mapping[str, Sequence[Surface]]) -> dict[str, Any]:
        rows = []
        for arm, seeds in surfaces.items():
            for place in self.places:
                cells = []
                for surface in seeds:
                    differences = self.best(surface, place, when="end", how="largest", outcome="correct")
                    lo, hi = (float(q) for q in percentiles(differences))
                    cells.append(number(float(differences.mean()), "octaves", lo=lo, hi=hi, n=len(differences)))
                rows.append([arm, place, *cells])
        return {
            "title": "Best k, ID minus shifted in octaves, in each seed with its bootstrap interval over items",
            "columns": ["arm", "place", *(f"seed {seed}" for seed in self.seeds)],
            "rows": rows,
            "note": f"{self.adaptive.n_bootstrap} resamples; above 0: shifted input is answered best with fewer channels",
        }


def levels_at(model: nn.Module, points: Sequence[str], per_octave: int) -> np.ndarray:
    """Numbers of channels tried at hook points of one width."""
    return level_grid(hook_points(model)[points[0]].width, per_octave)


def measure_surface(
    model: nn.Module, prompts: Tensor, choices: Tensor, where: Mapping[str, tuple[str, ...]], config: AdaptiveConfig, *, ways: Sequence[str] = ("largest", "random"), n_eval: int, seed: int
) -> dict[str, dict[tuple[str, ...], np.ndarray]]:  # fmt: skip
    """Natural density, responses and held answers of one model; fields and keys of a `Surface` without `when`.

    Args:
        model: any with the hook points of `where`.
        prompts: `[n_items, length]`, the answer last; splits in the order of `READ`, `n_eval` items each.
        choices: `[n_items, n_choices]` tokens, the gold one first.
        where: place -> hook points.
        config: levels and energy.
        ways: of choosing the channels that stay.
        seed: of the channels kept at random.
    """
    found: dict[str, dict[tuple[str, ...], np.ndarray]] = {
        name: {} for name in ("correct", "loss", "natural", "held_correct", "held_loss")
    }

    def score(settings: Mapping[str, Setting]) -> tuple[np.ndarray, np.ndarray]:
        logits = answer(model, prompts, settings)
        loss = -logits.log_softmax(-1).gather(-1, prompts[:, -1:])[:, 0]
        return is_gold_first(logits, choices).double().numpy(), loss.double().numpy()

    points = sorted({point for names in where.values() for point in names})
    with evaluating(model):
        _, seen = record(model, prompts[:, :-1].to(next(model.parameters()).device), points)
    last = {point: x[:, -1].float().cpu() for point, x in seen.items()}
    sides = {target: items_of(splits, n_eval) for target, splits in COMPARED.items()}
    active = {point: n_active(h, config.energy).double().log2() for point, h in last.items()}
    spread = {point: participation_ratio(h).double().log2() for point, h in last.items()}
    for place, names in where.items():
        found["natural"][(place,)] = torch.stack([active[name] for name in names]).mean(0).numpy()
        levels = levels_at(model, names, config.levels_per_octave).astype(int).tolist()
        for how in ways:
            answers = [
                score({name: keep_largest(k) if how == "largest" else keep_random(k, seed) for name in names})
                for k in levels
            ]
            found["correct"][place, how] = np.stack([correct for correct, _ in answers])
            found["loss"][place, how] = np.stack([loss for _, loss in answers])
        for target, items in sides.items():
            held = {
                "topk": {name: keep_largest(round(2 ** active[name][items].mean().item())) for name in names},
                "temperature": {name: set_participation(2 ** spread[name][items].mean().item()) for name in names},
            }
            for by, settings in held.items():
                found["held_correct"][place, by, target], found["held_loss"][place, by, target] = score(settings)
    return found


@dataclass(frozen=True)
class _Training:
    """The work of a stage: draw the graph, train one arm, set channels at initialisation and at the end."""

    study: AdaptiveStudy
    run: ArmRun

    def __call__(self, folder: Path) -> dict[str, Any]:
        sizes, n_steps = self.study.study.knowledge_graph, self.run.n_steps
        where = self.study.places
        graph = draw_graph(sizes, self.run.seed)
        rows_of = {name: as_rows(graph.rows(graph.splits[name])) for name in SPLITS}
        choices_of = {name: 1 + as_rows(graph.choices[name]) for name in SPLITS}
        prompts, choices = (torch.cat([of[name] for name in READ]) for of in (rows_of, choices_of))
        fields: dict[str, dict[Any, np.ndarray]] = {}

        def look(model: Transformer, step: int) -> None:
            when, ways = ("init", ("largest",)) if step == 0 else ("end", ("largest", "random"))
            found = measure_surface(
                model,
                prompts,
                choices,
                where,
                self.study.adaptive,
                ways=ways,
                n_eval=sizes.n_eval,
                seed=self.run.seed,
            )
            for field, entries in found.items():
                fields.setdefault(field, {}).update({(when, *key): value for key, value in entries.items()})

        rows = training_rows(graph, self.run.n_steps * self.run.config.trainer.batch_size, self.run.seed)
        model, meta = self.run.train(rows, folder, (0, n_steps), look)
        untouched = read_items(model, prompts, ())
        covariates = {
            "correct": is_gold_first(untouched.logits, choices),
            "loss": untouched.loss,
            "entropy": untouched.entropy,
            "logit_norm": untouched.logit_norm,
        }
        levels = {
            place: levels_at(model, names, self.study.adaptive.levels_per_octave) for place, names in where.items()
        }
        surface = Surface(
            levels=levels, covariates={name: value.double().numpy() for name, value in covariates.items()}, **fields
        )
        surface.save(folder / "surface.npz")
        recall = [
            is_gold_first(answer(model, rows_of[name], {}), choices_of[name]).double().mean().item()
            for name in ("id atomic", "id deducible")
        ]
        return {"weights_sha256": meta["weights_sha256"], "recall": float(np.mean(recall))}
