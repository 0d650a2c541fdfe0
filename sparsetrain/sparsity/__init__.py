"""Weight sparsity: the density schedule, the interface of a method, and one file per method."""

from sparsetrain.sparsity.method import SparsityMethod, SparsitySection, TensorAudit
from sparsetrain.sparsity.projection import SparsityConfig, TopKProjection, build_sparsity, require_attached
from sparsetrain.sparsity.schedule import DensitySchedule, ScheduleConfig

__all__ = [
    "DensitySchedule",
    "ScheduleConfig",
    "SparsityConfig",
    "SparsityMethod",
    "SparsitySection",
    "TensorAudit",
    "TopKProjection",
    "build_sparsity",
    "require_attached",
]
