"""Continues a prompt with the model of a finished run.

python scripts/generate.py run=runs/quickstart/<stamp> 'prompt="def add(a, b):"'
python scripts/generate.py run=... prompt=@file.py generate.temperature=0.7
"""

from dataclasses import dataclass, field
from pathlib import Path

from sparsetrain.data.reading import prompt_text
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.entry import entry, require
from sparsetrain.export import latest_export, load_model
from sparsetrain.generate import GenerateConfig, generate


@dataclass(frozen=True, kw_only=True)
class GenerateRun:
    """A run and a prompt."""

    run: str = ""
    """Folder of a finished run, or of an export."""
    prompt: str = ""
    r"""Text; \n is a line break. @path reads a file."""
    generate: GenerateConfig = field(default_factory=GenerateConfig)


@entry(GenerateRun, "generate", literal=("run", "prompt"))
def main(config: GenerateRun, run_dir: Path) -> None:
    """Prints prompt and continuation."""
    folder = latest_export(require("run", config.run))
    prompt = prompt_text(require("prompt", config.prompt))
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    print(prompt + generate(load_model(folder), tokenizer, prompt, config.generate))


if __name__ == "__main__":
    main()
