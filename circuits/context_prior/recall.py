from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class RecallConfig:
    n_steps: int = 1


@dataclass(frozen=True, kw_only=True)
class Recall:
    nodes: tuple = ()
    means: object = None
    n_edges: int = 0
    loss: float = 0.0
    reason: str = "stub"


def recall_circuit(model, world, weights, config, seed):
    return Recall()
