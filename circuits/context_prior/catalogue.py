"""The studies of this room by name."""

from circuits.context_prior.real import ContextPriorRealStudy
from circuits.context_prior.trained import TrainedConflictStudy
from sparsetrain.studies.catalogue import Catalogue

CONTEXT_PRIOR: Catalogue = {
    "context_prior": lambda run, study: TrainedConflictStudy(config=run, rules=study, conflicts=study.conflict_world),
    "context_prior_real": lambda run, study: ContextPriorRealStudy(
        config=run, rules=study, frozen=study.frozen, conflicts=study.conflicts
    ),
}
