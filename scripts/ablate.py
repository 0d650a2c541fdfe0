r"""Try a hypothesis by hand: change named nodes on one prompt and see what happens to the next token.

python scripts/ablate.py run=runs/quickstart/<stamp> 'prompt="print(\"red fox"' 'nodes="blocks.1.attn.hook_v:17"' mode=mean
python scripts/ablate.py run=... prompt=... 'nodes=["blocks.0.mlp.hook_neuron:3-7", "blocks.1.attn.hook_out:all"]' mode=zero
python scripts/ablate.py run=... prompt=... nodes=... mode=patch 'patch="print(\"blue cat"'
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from circuits.ablate import Mode, ablate
from circuits.means import Means
from sparsetrain.data import prepare_corpus
from sparsetrain.data.reading import prompt_text
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.entry import entry, load_run, require
from sparsetrain.export import latest_export, load_model
from sparsetrain.run import RunConfig, cache_dir, text_windows


@dataclass(frozen=True, kw_only=True)
class AblateRun:
    """A run, a prompt, and what is done to which nodes."""

    run: str = ""
    """Folder of a finished run."""
    prompt: str = ""
    r"""Text; \n is a line break. @path reads a file."""
    nodes: str | list[str] = ""
    """Ids such as blocks.0.mlp.hook_neuron:17, ranges ...:3-7, whole hook points ...:all."""
    mode: Mode = "mean"
    """zero; mean over pretraining text; resample from it; patch from another prompt."""
    patch: str = ""
    """The other prompt, of the same number of tokens. Only with mode=patch."""
    n_windows: int = 64
    """Windows of text to resample from."""
    n_top: int = 10
    """Answers shown."""
    seed: int = 0


@entry(AblateRun, "ablate", literal=("run", "prompt", "patch", "nodes"))
def main(config: AblateRun, run_dir: Path) -> None:
    """Prints the likeliest next tokens before and after."""
    run = Path(require("run", config.run))
    export = latest_export(run)
    model, tokenizer = load_model(export), Tokenizer.load(export / "tokenizer.json")

    def encode(text: str) -> torch.Tensor:
        return torch.tensor([tokenizer.eot_id, *tokenizer.encode(prompt_text(text))])

    means = windows = patch = None
    if config.mode == "mean":
        path = run / "circuits" / "means.safetensors"
        if not path.is_file():
            raise FileNotFoundError(
                2, "mode=mean needs mean activations; scripts/find_circuits.py makes them", str(path)
            )
        means = Means.load(path)
    elif config.mode == "resample":
        trained = load_run(RunConfig, run)
        corpus = prepare_corpus(trained.data, cache_dir(trained))
        windows = text_windows(corpus, trained, "means", config.n_windows)
    elif config.mode == "patch":
        patch = encode(require("patch", config.patch))
    nodes = [config.nodes] if isinstance(config.nodes, str) else config.nodes
    result = ablate(
        model, encode(require("prompt", config.prompt)), [n for n in nodes if n], config.mode,
        means=means, windows=windows, patch_tokens=patch, seed=config.seed,
    )  # fmt: skip
    print(f"{len(result.nodes)} node(s), mode {config.mode}; probability of the next token")
    print(f"{'token':>16}  before   after  change")
    for token, before, after in result.top(config.n_top):
        print(f"{tokenizer.token(token)!r:>16}  {before:6.3f}  {after:6.3f}  {after - before:+.3f}")


if __name__ == "__main__":
    main()
