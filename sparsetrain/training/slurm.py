"""What SLURM says of a process, and what of it Lightning may believe."""

import os

from lightning.fabric.plugins import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from sparsetrain.job import is_main_process


def own_processes() -> list[ClusterEnvironment]:
    """For Lightning's plugins: a training starts its processes itself, unless a SLURM step has several tasks.

    SLURM_NTASKS and its like are set in every shell of an allocation; Lightning takes each for one task of several.
    """
    if not SLURMEnvironment.detect() or os.environ.get("SLURM_STEP_NUM_TASKS", "1") not in ("", "1"):
        return []
    environment = LightningEnvironment()
    if is_main_process():
        environment.set_global_rank(0)  # Lightning has read SLURM_PROCID as it was imported
    return [environment]
