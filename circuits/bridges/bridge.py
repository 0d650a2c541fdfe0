"""The bridge: at every site an encoder from the dense model's residual stream to the sparse one's, and a decoder back.

encode_i(h) = AbsTopK(W_i h + b_i), decode_i(h) = V_i h + c_i. In other words sparse autoencoders of the dense stream whose latent space is the
residual stream of the sparse model. Both are dense and no sparsity method sees them (the source cuts the student's weights alone); the bias is ours.

Source: Gao et al. 2025, section 2.3, footnote 6.
"""

from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from circuits.bridges.sites import Site
from sparsetrain.kernels import abs_topk
from sparsetrain.store import write_atomic

FILE = "bridge.safetensors"
"""Beside the model.safetensors of the student's export."""


@dataclass(frozen=True, kw_only=True)
class Between:
    """Which two models a bridge joins."""

    dense_sha256: str
    sparse_sha256: str
    """Hashes of their weights."""


class Bridge(nn.Module):
    """Encoders and decoders of all sites.

    Args:
        n_sites: of both models.
        d_dense: width of the dense residual stream.
        d_sparse: width of the sparse one.
        k: channels that AbsTopK keeps of what an encoder gives; `d_sparse`: all.
        seed: of the first weights, N(0, 1 / fan_in); biases are 0.

    Raises:
        ValueError: k out of range.
    """

    def __init__(self, *, n_sites: int, d_dense: int, d_sparse: int, k: int, seed: int = 0) -> None:
        super().__init__()
        if not 1 <= k <= d_sparse:
            raise ValueError(f"k={k} must lie in 1..{d_sparse}, the channels of the sparse residual stream")
        self.k = k
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws weights that nobody uses
            self.encoders = nn.ModuleList(nn.Linear(d_dense, d_sparse) for _ in range(n_sites))
            self.decoders = nn.ModuleList(nn.Linear(d_sparse, d_dense) for _ in range(n_sites))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for linear in self._linears():
                linear.weight.normal_(std=1 / sqrt(linear.in_features), generator=generator)
                linear.bias.zero_()

    def _linears(self) -> list[nn.Linear]:
        return [linear for linear in (*self.encoders, *self.decoders) if isinstance(linear, nn.Linear)]

    @classmethod
    def between(cls, dense: tuple[Site, ...], sparse: tuple[Site, ...], *, share: float, seed: int) -> "Bridge":
        """A bridge for the sites of two models, that keeps a share of the sparse channels.

        Raises:
            ValueError: models of different depths, or a share that keeps no channel.
        """
        if len(dense) != len(sparse):
            raise ValueError(f"the dense model has {len(dense) // 2} layers, the sparse one {len(sparse) // 2}; a bridge joins models of the same depth")  # fmt: skip
        d_dense, d_sparse = dense[0].width, sparse[0].width
        return cls(n_sites=len(dense), d_dense=d_dense, d_sparse=d_sparse, k=int(share * d_sparse), seed=seed)

    @property
    def n_sites(self) -> int:
        return len(self.encoders)

    def encode(self, site: int, dense: Tensor) -> Tensor:
        """`[..., d_dense] -> [..., d_sparse]`."""
        return abs_topk(self.encoders[site](dense), self.k)

    def decode(self, site: int, sparse: Tensor) -> Tensor:
        """`[..., d_sparse] -> [..., d_dense]`."""
        return self.decoders[site](sparse)

    def direction(self, site: int, channel: int) -> Tensor:
        """What the decoder makes of one unit of a sparse channel, `[d_dense]`."""
        weight = self.decoders[site].weight
        assert isinstance(weight, Tensor)
        return weight[:, channel]

    def make_identity_(self) -> None:
        """Encoders and decoders that change nothing, for models of one width without AbsTopK."""
        with torch.no_grad():
            for linear in self._linears():
                nn.init.eye_(linear.weight)
                linear.bias.zero_()

    def save(self, folder: Path, between: Between) -> Path:
        """Writes `bridge.safetensors` into the student's export."""
        state = {name: p.detach().contiguous().cpu() for name, p in self.state_dict().items()}
        metadata = {"k": str(self.k), **vars(between)}
        path = folder / FILE
        write_atomic(path, save(state, metadata))
        return path

    @classmethod
    def load(cls, folder: Path, between: Between | None = None) -> "Bridge":
        """The bridge of a student's export, without gradients.

        Args:
            folder: of the export.
            between: the models that it is loaded for; None: not looked at.

        Raises:
            FileNotFoundError: the folder has none.
            ValueError: a damaged file, or one for other models.
        """
        path = folder / FILE
        if not path.is_file():
            raise FileNotFoundError(
                f"{folder} holds no bridge ({FILE}); give the export of a student of +experiment=bridge"
            )
        try:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            n_sites = sum(name.startswith("encoders.") and name.endswith("weight") for name in state)
            d_sparse, d_dense = state["encoders.0.weight"].shape
            bridge = cls(n_sites=n_sites, d_dense=d_dense, d_sparse=d_sparse, k=int(metadata["k"]))
            bridge.load_state_dict(state, strict=True)
            found = Between(dense_sha256=metadata["dense_sha256"], sparse_sha256=metadata["sparse_sha256"])
        except (SafetensorError, KeyError, RuntimeError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
        if between is not None and found != between:
            raise ValueError(f"{path} joins other models: {found}, not {between}")
        return bridge.eval().requires_grad_(False)
