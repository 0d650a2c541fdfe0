"""Writes what the isolated environments are held against: small models of every form as exports and as Hub repositories, with what they compute here.

python tests/isolated/write_models.py <folder>

1. Every combination of sink, bigram table, positions and sets of places with AbsTopK, every weight drawn, nothing at zero.
2. Beside each `expected.safetensors`: tokens, logits, the value at every hook point, and logits with two hook points changed.
3. `text/`: a shipped model with its tokenizer, and in `text.json` ids and a greedy continuation.
"""

import json
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sparsetrain.adapters import load_language_model
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.export import export_model, latest_export
from sparsetrain.generate import GenerateConfig, generate
from sparsetrain.hooks import NODE_KINDS, hook_points, hooked, record
from sparsetrain.interop.hub_folder import write_hub_folder
from sparsetrain.model import ModelConfig, Transformer

PLACES = {
    "none": (),
    "all": NODE_KINDS,
    "reads": ("attn_in", "mlp_in"),
    "heads": ("attn_q", "attn_k", "attn_v"),
    "neurons": ("mlp_neuron",),
    "writes": ("attn_out", "mlp_out"),
}
CHANGED = {"blocks.0.attn.hook_q": 0.0, "blocks.1.mlp.hook_neuron": 0.5}
"""Hook point -> what its value is multiplied by."""
PROMPT, N_NEW = "for i in range(10):\n    print(", 12


def configs() -> Iterator[tuple[str, ModelConfig]]:
    """Name and architecture of every form."""
    for sink, bigram, positions, (name, places) in product((True, False), (True, False), ("none", "learned", "concat"), PLACES.items()):  # fmt: skip
        yield f"sink{sink:d}_bigram{bigram:d}_{positions}_{name}", ModelConfig(
            d_vocab=61, n_layer=2, d_model=32, d_head=8, n_ctx=24, d_pos=8, sink=sink, bigram=bigram, positions=positions,
            abs_topk=dict.fromkeys(places, 0.25), biases=sink,
        )  # fmt: skip


def drawn(config: ModelConfig, seed: int = 0) -> Transformer:
    """A model with nothing left at zero."""
    torch.manual_seed(seed)
    model = Transformer(config)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model.eval().requires_grad_(False)


def computed(model: Transformer, tokens: Tensor) -> dict[str, Tensor]:
    """What a model computes: logits, hook points, and logits with `CHANGED`."""
    logits, seen = record(model, tokens, hook_points(model))
    with hooked(model, {name: lambda x, point, s=s: x * s for name, s in CHANGED.items()}):
        changed = model(tokens)
    return {"tokens": tokens, "logits": logits, "changed": changed, **seen}


def write(folder: Path) -> None:
    """All of it."""
    for name, config in configs():
        model = drawn(config)
        export = export_model(model, folder / "exports" / name, None, {"step": 1})
        write_hub_folder(export, folder / "hub" / name, f"# {name}\n")
        tokens = torch.randint(61, (2, 20), generator=torch.Generator().manual_seed(1))
        expected = {key: x.contiguous() for key, x in computed(model, tokens).items()}
        save_file(expected, folder / "exports" / name / "expected.safetensors")
    export = latest_export("zoo:python-abstopk")
    write_hub_folder(export, folder / "text", "# text\n")
    model = load_language_model("zoo:python-abstopk", device="cpu")
    text = {"prompt": PROMPT, "ids": model.tokenizer.encode(PROMPT), "odd": model.tokenizer.encode("a <|endoftext|> b"), "n_new": N_NEW}  # fmt: skip
    text["greedy"] = generate(model.module, Tokenizer.load(export / "tokenizer.json"), PROMPT, GenerateConfig(n_tokens=N_NEW))  # pyright: ignore[reportArgumentType]  # fmt: skip
    text["logits"] = model.logits(torch.tensor([text["ids"]]))[0, -1].tolist()
    (folder / "text.json").write_text(json.dumps(text))


if __name__ == "__main__":
    torch.set_num_threads(1)
    write(Path(sys.argv[1]))
