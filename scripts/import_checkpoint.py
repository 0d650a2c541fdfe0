"""Other people's checkpoints as models of ours: the same logits, every setting honoured or refused by name.

    python scripts/import_checkpoint.py format=gao src=<folder> dst=<new folder>                the authors' release: beeg_config.json, final_model.pt
    python scripts/import_checkpoint.py format=sparse_pretrain src=<folder> dst=<new folder>    the public reproduction: config.json, pytorch_model.bin
    python scripts/import_checkpoint.py format=huggingface src=<folder or hub name> dst=...     GPT-2 and OPT of transformers

`dst` is an export (config.json, model.safetensors, meta.json) and, for every command with run=, a run of no training: find_circuits, ablate,
report, export_circuit, measure_sparsity and the rest take it as it is. Text for means comes from data.sources. docs/checkpoints.md says more.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

import sparsetrain
from circuits.run import KINDS
from sparsetrain.adapters.checkpoints import FORMATS, Imported, Source
from sparsetrain.data import DataConfig
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.entry import entry, require
from sparsetrain.export import export_model, n_params
from sparsetrain.folder import own
from sparsetrain.job import command_line
from sparsetrain.report import Report, RunFacts, WeightsFacts, save_report
from sparsetrain.report.render import render
from sparsetrain.store import sha256, write_atomic
from sparsetrain.typed import to_dict

NO_TOKENIZER = "none"


@dataclass(frozen=True, kw_only=True)
class ImportCheckpointRun:
    """What is read, and where it goes."""

    format: str = ""
    """gao, sparse_pretrain or huggingface."""
    src: str = ""
    """The folder; for huggingface also a hub name."""
    dst: str = ""
    """A new folder, or an empty one."""
    tokenizer: str = ""
    """A tokenizer.json; empty: the one in src, if there is one; none: leave it out, the model then works with token ids alone."""
    places: str = ""
    """Of AbsTopK, comma-separated, where a sparse_pretrain checkpoint does not say."""
    trust_remote_code: bool = False
    """Run the code that comes with a huggingface model; read it first."""
    data: DataConfig = field(default_factory=DataConfig)
    """Text that later commands read for means and windows; by default Python: the standard library and idioms."""
    cache_dir: str = "~/.cache/sparsetrain"
    """Of that text's tokens."""

    def __post_init__(self) -> None:
        if self.format and self.format not in FORMATS:
            raise ValueError(f"format={self.format!r} is unknown; allowed: {', '.join(FORMATS)}")
        if self.data.tokenizer is not None:
            raise ValueError(f"data.tokenizer={self.data.tokenizer} is given as tokenizer=<file> here")


def tokenizer_of(config: ImportCheckpointRun, imported: Imported) -> str | None:
    """The tokenizer that goes into the export, as text; None: there is none.

    Raises:
        ValueError: no such file, one that our tokenizer cannot read, or one with more tokens than the model.
    """
    if config.tokenizer == NO_TOKENIZER:
        return None
    if config.tokenizer:
        path = Path(config.tokenizer).expanduser()
        if not path.is_file():
            raise ValueError(
                f"tokenizer={config.tokenizer}: no such file; give a tokenizer.json, or tokenizer={NO_TOKENIZER}"
            )
        text = path.read_text(encoding="utf-8", errors="replace")
    elif imported.tokenizer_json is None:
        return None
    else:
        text = imported.tokenizer_json
    tokenizer = Tokenizer.parse(text, f"tokenizer={config.tokenizer or 'the one in src'}", f"tokenizer={NO_TOKENIZER}")
    if tokenizer.d_vocab > imported.config.d_vocab:
        raise ValueError(
            f"tokenizer={config.tokenizer or 'the one in src'} has {tokenizer.d_vocab} tokens, the model {imported.config.d_vocab}; they do not "
            f"belong together; give another, or tokenizer={NO_TOKENIZER}"
        )
    return text


@entry(ImportCheckpointRun, "import_checkpoint", named=("data.sources",), literal=("src", "dst", "tokenizer", "places"))
def main(config: ImportCheckpointRun, run_dir: Path) -> None:
    """Reads, checks, writes; prints what was made."""
    source = Source(place=require("src", config.src), places=config.places, trust_remote_code=config.trust_remote_code)
    read, dst = FORMATS[require("format", config.format)], Path(require("dst", config.dst)).expanduser()
    if dst.exists() and (not dst.is_dir() or any(dst.iterdir())):
        raise ValueError(f"dst={config.dst} is there already and not an empty folder; choose another")
    imported = read(source)
    tokenizer, model = tokenizer_of(config, imported), imported.model()
    facts = {
        "format": config.format,
        "source": config.src,
        "tokenizer_name": imported.tokenizer_name,
        **imported.facts,
    }
    meta = {"step": None, "seed": None, "version": sparsetrain.__version__, "name": Path(config.src).name, "imported": facts, "next_batch": 0}  # fmt: skip
    with own(dst):
        # A tokenizer that is added later stands where the text's settings look for it.
        data = replace(config.data, d_vocab=imported.config.d_vocab, tokenizer=str(dst.resolve() / "tokenizer.json"))
        settings = {
            "name": "imported",
            "cache_dir": config.cache_dir,
            "model": to_dict(imported.config),
            "data": to_dict(data),
            "logger": {"kind": "none"},
        }
        write_atomic(dst / "config.yaml", yaml.safe_dump(settings, sort_keys=False))
        export_model(model, dst, tokenizer, meta)
        run = RunFacts.now(name="import_checkpoint", command=command_line(), device="cpu")
        report = Report(run=run, weights=WeightsFacts(sha256=sha256(dst / "model.safetensors")))
        save_report(report, dst / "report.json")
        render(report, KINDS, dst)
    shape = imported.config
    print(
        f"{shape.n_layer} layers of width {shape.d_model}, {n_params(model):,} parameters, vocabulary {shape.d_vocab:,}, positions {shape.positions}, "
        f"sinks {'on' if shape.sink else 'off'}, bigram table {'on' if shape.bigram else 'off'}, AbsTopK at {', '.join(shape.abs_topk) or 'no place'}"
    )
    if tokenizer is None:
        named = f" ({imported.tokenizer_name})" if imported.tokenizer_name else ""
        print(f"no tokenizer: commands that read text need {dst / 'tokenizer.json'}{named}")
    print(f"export: {dst}")


if __name__ == "__main__":
    main()
