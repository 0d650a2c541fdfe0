"""Run where neither sparsetrain nor einops can be imported: Hub repositories compute what the exports compute.

python check_hub.py <folder of write_models.py>
"""

import importlib.util
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

TOLERANCE = 1e-6


def check_models(folder: Path) -> tuple[int, int, float]:
    """Models, hook points, and the largest difference of anything."""
    n_points, largest = 0, 0.0
    paths = sorted((folder / "hub").iterdir())
    for path in paths:
        expected = load_file(folder / "exports" / path.name / "expected.safetensors")
        model = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True)
        config = json.loads((path / "config.json").read_text())
        assert model.config.abs_topk == config["abs_topk"], path.name
        points = [name for name in expected if name not in ("tokens", "logits", "changed")]
        seen: dict[str, torch.Tensor] = {}
        for name in points:
            module = model.get_submodule(f"model.{name}")
            module.register_forward_hook(keeping(seen, name))
        tokens = expected["tokens"]
        with torch.no_grad():
            out = model(tokens, labels=tokens, output_hidden_states=True, output_attentions=True)
        largest = max(largest, difference(path.name, "logits", out.logits, expected["logits"]))
        for name in points:
            largest = max(largest, difference(path.name, name, seen[name], expected[name]))
        for i, stream in enumerate(out.hidden_states):
            point = "final_norm.hook_resid" if i == config["n_layer"] else f"blocks.{i}.attn.norm.hook_resid"
            assert torch.equal(stream, seen[point]), point
        rows = out.attentions[0].sum(-1)
        assert bool((rows < 1).all()) if config["sink"] else torch.allclose(rows, torch.ones_like(rows)), path.name
        loss = torch.nn.functional.cross_entropy(expected["logits"][:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        assert abs(out.loss - loss) < 1e-5
        model(tokens).logits.square().mean().backward()  # it can be trained on
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters()), path.name
        n_points += len(points)
    return len(paths), n_points, largest


def keeping(seen: dict[str, torch.Tensor], name: str):
    """A forward hook that keeps what a module gives."""
    return lambda module, args, output: seen.update({name: output})


def difference(model: str, name: str, found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference; refuses one above the tolerance."""
    assert found.shape == expected.shape, f"{model} {name}: {found.shape}, not {expected.shape}"
    far = float((found - expected).abs().max())
    assert far <= TOLERANCE, f"{model} {name} differs by {far}"
    return far


def check_text(folder: Path) -> None:
    """Tokenizer, generation, and a round trip through save_pretrained."""
    text = json.loads((folder / "text.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(folder / "text", trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(folder / "text", trust_remote_code=True)
    inputs = tokenizer(text["prompt"], return_tensors="pt")
    assert inputs.input_ids[0].tolist() == text["ids"]
    assert tokenizer("a <|endoftext|> b").input_ids == text["odd"], "a text that spells the separator is a text"
    assert tokenizer.decode(text["ids"], skip_special_tokens=True) == text["prompt"]
    with torch.no_grad():
        assert float((model(**inputs).logits[0, -1] - torch.tensor(text["logits"])).abs().max()) <= TOLERANCE
    ids = model.generate(**inputs, max_new_tokens=text["n_new"], do_sample=False)[0, len(text["ids"]) :]
    assert tokenizer.decode(ids) == text["greedy"], (tokenizer.decode(ids), text["greedy"])
    long = model.generate(
        inputs.input_ids, max_new_tokens=model.config.n_ctx + 5, min_new_tokens=model.config.n_ctx + 5
    )
    assert long.shape[1] == len(text["ids"]) + model.config.n_ctx + 5  # goes on behind its context
    tokenizer.padding_side = "left"
    padded = tokenizer(["a", "a b c d"], return_tensors="pt", padding=True)
    for refused in (model, model.generate):
        try:
            refused(**padded)
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            raise AssertionError("padding in front was read as text")
    model.save_pretrained(folder / "saved")
    again = AutoModelForCausalLM.from_pretrained(folder / "saved", trust_remote_code=True)
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def main() -> None:
    torch.set_num_threads(1)
    assert importlib.util.find_spec("sparsetrain") is None, "this check is for an environment without sparsetrain"
    sys.modules["einops"] = None  # other packages of this environment need it; the repository's file must not
    folder = Path(sys.argv[1])
    n_models, n_points, largest = check_models(folder)
    check_text(folder)
    print(f"Hub: {n_models} models without sparsetrain, {n_points} hook points, largest difference {largest:.1e}; tokenizer, generation, save_pretrained")  # fmt: skip


if __name__ == "__main__":
    main()
