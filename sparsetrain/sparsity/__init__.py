"""Weight sparsity: the density schedule, the interface of a method, and one file per method."""

from sparsetrain.sparsity.attached import AttachedMethod, SparseTensor, require_attached
from sparsetrain.sparsity.catalogue import METHODS, build_sparsity
from sparsetrain.sparsity.compute import ComputeConfig
from sparsetrain.sparsity.config import Method, SparsityConfig
from sparsetrain.sparsity.dead import DeadUnits, dead_units
from sparsetrain.sparsity.method import SparsityMethod, SparsitySection, TensorAudit
from sparsetrain.sparsity.projection import TopKProjection
from sparsetrain.sparsity.reinit import ReinitConfig
from sparsetrain.sparsity.schedule import DENSE, DensitySchedule, InitialDensity, ScheduleConfig, initial_density

__all__ = [
    "DENSE",
    "METHODS",
    "AttachedMethod",
    "ComputeConfig",
    "DeadUnits",
    "DensitySchedule",
    "InitialDensity",
    "Method",
    "ReinitConfig",
    "ScheduleConfig",
    "SparseTensor",
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
