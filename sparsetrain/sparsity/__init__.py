"""Weight sparsity: the density schedule, the interface of a method, and one file per method."""

from sparsetrain.sparsity.compute import ComputeConfig
from sparsetrain.sparsity.dead import DeadUnits, dead_units
from sparsetrain.sparsity.method import SparsityMethod, SparsitySection, TensorAudit
from sparsetrain.sparsity.projection import SparsityConfig, TopKProjection, build_sparsity, require_attached
from sparsetrain.sparsity.reinit import ReinitConfig
from sparsetrain.sparsity.schedule import DENSE, DensitySchedule, InitialDensity, ScheduleConfig, initial_density

__all__ = [
    "DENSE",
    "ComputeConfig",
    "DeadUnits",
    "DensitySchedule",
    "InitialDensity",
    "ReinitConfig",
    "ScheduleConfig",
    "SparsityConfig",
    "SparsityMethod",
    "SparsitySection",
    "TensorAudit",
    "TopKProjection",
    "build_sparsity",
    "dead_units",
    "initial_density",
    "require_attached",
]
