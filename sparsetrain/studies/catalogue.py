"""The studies of sparsetrain by name, and the config that chooses one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sparsetrain.curriculum.arms import ChoiceConfig
from sparsetrain.curriculum.scoring import ScoreConfig
from sparsetrain.data.worlds.facts import FactsConfig
from sparsetrain.data.worlds.graded import GradedConfig
from sparsetrain.data.worlds.knowledge_graph import GraphConfig
from sparsetrain.run import RunConfig
from sparsetrain.studies.adaptive import AdaptiveConfig, AdaptiveStudy
from sparsetrain.studies.adaptive_real import AdaptiveRealConfig, AdaptiveRealStudy
from sparsetrain.studies.curriculum import CurriculumStudy, DemonstrationsConfig
from sparsetrain.studies.curriculum_real import CurriculumRealStudy
from sparsetrain.studies.engine import StudyRules
from sparsetrain.studies.familiarity import FamiliarityStudy
from sparsetrain.studies.familiarity_real import FamiliarityRealStudy
from sparsetrain.studies.frozen import FrozenConfig
from sparsetrain.studies.knowledge_graph import KnowledgeGraphStudy
from sparsetrain.studies.shifts import ShiftsStudy
from sparsetrain.studies.shifts_real import ShiftsRealStudy
from sparsetrain.studies.study import Study


@dataclass(frozen=True, kw_only=True)
class StudyConfig(StudyRules):
    """Which study is run instead of a single training, by which rules, and the settings of each. ours"""

    kind: str = "none"
    """Name in the catalogue; none: a single training."""
    adaptive: AdaptiveConfig = field(default_factory=AdaptiveConfig)
    adaptive_real: AdaptiveRealConfig = field(default_factory=AdaptiveRealConfig)
    choice: ChoiceConfig = field(default_factory=ChoiceConfig)
    """Of demonstrations, in the studies of curricula."""
    score: ScoreConfig = field(default_factory=ScoreConfig)
    """Of examples, there."""
    demonstrations: DemonstrationsConfig = field(default_factory=DemonstrationsConfig)
    familiarity: FactsConfig = field(default_factory=FactsConfig)
    frozen: FrozenConfig = field(default_factory=FrozenConfig)
    """Of the studies that train nothing."""
    knowledge_graph: GraphConfig = field(default_factory=GraphConfig)
    shifts: GradedConfig = field(default_factory=GradedConfig)


Catalogue = Mapping[str, Callable[[Any, Any], Study]]
"""Name -> study of a run's config (what arms differ from) and a study's config."""

STUDIES: Catalogue = {
    "adaptive_real": lambda run, study: AdaptiveRealStudy(
        config=run, rules=study, frozen=study.frozen, adaptive=study.adaptive_real
    ),
    "adaptive_sparsity": lambda run, study: AdaptiveStudy(
        config=run, rules=study, adaptive=study.adaptive, graph=study.knowledge_graph
    ),
    "curriculum": lambda run, study: CurriculumStudy(config=run, rules=study, demonstrations=study.demonstrations),
    "curriculum_real": lambda run, study: CurriculumRealStudy(
        config=run, rules=study, frozen=study.frozen, score=study.score, choice=study.choice
    ),
    "familiarity": lambda run, study: FamiliarityStudy(config=run, rules=study, facts=study.familiarity),
    "familiarity_real": lambda run, study: FamiliarityRealStudy(config=run, rules=study, frozen=study.frozen),
    "knowledge_graph": lambda run, study: KnowledgeGraphStudy(config=run, rules=study, graph=study.knowledge_graph),
    "shifts": lambda run, study: ShiftsStudy(config=run, rules=study, shifts=study.shifts, graph=study.knowledge_graph),
    "shifts_real": lambda run, study: ShiftsRealStudy(config=run, rules=study, frozen=study.frozen),
}


def build_study(catalogue: Catalogue, run: RunConfig, study: StudyConfig) -> Study:
    """The study that a config names.

    Raises:
        ValueError: an unknown one; lists them all.
    """
    if study.kind not in catalogue:
        raise ValueError(f"study.kind={study.kind!r} is unknown; allowed: none, {', '.join(catalogue)}")
    return catalogue[study.kind](run, study)
