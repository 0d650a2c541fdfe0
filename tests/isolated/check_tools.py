"""Run where `sparsetrain[interop]` is installed: TransformerLens and nnsight compute what the exports compute, at every hook point.

python check_tools.py <folder of write_models.py>
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from nnsight import NNsight
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from sparsetrain.export import load_model
from sparsetrain.interop.transformer_lens import hook_names, load_bridge

TOLERANCE = 1e-6
CHANGED = {"blocks.0.attn.hook_q": 0.0, "blocks.1.mlp.hook_neuron": 0.5}
OTHERS = ("tokens", "logits", "changed")


class Largest:
    """Differences, none of which may be above the tolerance."""

    def __init__(self) -> None:
        self.value, self.n = 0.0, 0

    def see(self, name: str, found: Tensor, expected: Tensor) -> None:
        assert found.numel() == expected.numel(), f"{name}: {tuple(found.shape)}, not {tuple(expected.shape)}"
        far = float((found.detach().reshape(expected.shape) - expected).abs().max())
        assert far <= TOLERANCE, f"{name} differs by {far}"
        self.value, self.n = max(self.value, far), self.n + 1


def check_transformer_lens(folder: Path, names: list[str]) -> Largest:
    """Every hook point of ours under its name there, and two changed at once."""
    largest = Largest()
    for model in names:
        expected = load_file(folder / "exports" / model / "expected.safetensors")
        bridge = load_bridge(str(folder / "hub" / model))
        theirs = hook_names(bridge.cfg.n_layers)
        assert set(theirs) == expected.keys() - set(OTHERS), model
        with torch.no_grad():
            logits, cache = bridge.run_with_cache(expected["tokens"])
            largest.see(f"{model} logits", logits, expected["logits"])
            for ours, name in theirs.items():
                largest.see(f"{model} {name}", cache[name], expected[ours])
            # What is known elsewhere under names of old.
            for i in range(bridge.cfg.n_layers):
                largest.see(
                    f"{model} pre", cache[f"blocks.{i}.hook_resid_pre"], expected[f"blocks.{i}.attn.norm.hook_resid"]
                )
                largest.see(
                    f"{model} mid", cache[f"blocks.{i}.hook_resid_mid"], expected[f"blocks.{i}.mlp.norm.hook_resid"]
                )
                largest.see(
                    f"{model} attn_out", cache[f"blocks.{i}.hook_attn_out"], expected[f"blocks.{i}.attn.hook_out"]
                )
                largest.see(
                    f"{model} post", cache[f"blocks.{i}.mlp.hook_post"], expected[f"blocks.{i}.mlp.hook_neuron"]
                )
                assert cache[f"blocks.{i}.attn.hook_z"].shape[2:] == (bridge.cfg.n_heads, bridge.cfg.d_head)
            hooks = [(theirs[ours], lambda x, hook, s=s: x * s) for ours, s in CHANGED.items()]
            largest.see(
                f"{model} changed", bridge.run_with_hooks(expected["tokens"], fwd_hooks=hooks), expected["changed"]
            )
    text = json.loads((folder / "text.json").read_text())
    bridge = load_bridge(str(folder / "text"))
    assert bridge.to_tokens(text["prompt"])[0].tolist() == text["ids"]
    return largest


def check_nnsight(folder: Path, names: list[str]) -> Largest:
    """Our own module and the Hub's, by the names of their modules."""
    largest = Largest()
    for model in names:
        expected = load_file(folder / "exports" / model / "expected.safetensors")
        tokens = expected["tokens"]
        hub = AutoModelForCausalLM.from_pretrained(folder / "hub" / model, trust_remote_code=True)
        for prefix, module in (("", load_model(folder / "exports" / model)), ("model.", hub)):
            # in forward order, which nnsight asks for, and in which modules stand
            points = [
                name.removeprefix(prefix) for name, _ in module.named_modules() if name.removeprefix(prefix) in expected
            ]
            assert set(points) == expected.keys() - set(OTHERS), model
            traced = NNsight(module)
            seen = {}
            with torch.no_grad(), traced.trace(tokens):
                for name in points:
                    seen[name] = traced.get(prefix + name).output.save()
                out = traced.output.save()
            largest.see(f"{model} logits", out if prefix == "" else out.logits, expected["logits"])
            for name in points:
                largest.see(f"{model} {prefix}{name}", seen[name], expected[name])
            with torch.no_grad(), traced.trace(tokens):
                for name, s in CHANGED.items():
                    traced.get(prefix + name).output = traced.get(prefix + name).output * s
                out = traced.output.save()
            largest.see(f"{model} changed", out if prefix == "" else out.logits, expected["changed"])
    return largest


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    names = sorted(path.name for path in (folder / "hub").iterdir())
    for package, check in (("transformer-lens", check_transformer_lens), ("nnsight", check_nnsight)):
        found = check(folder, names)
        print(f"{package} {version(package)}: {len(names)} models, {found.n} values equal, largest difference {found.value:.1e}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
