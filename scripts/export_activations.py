"""Writes activations at hook points to files, for dictionary learning (SAEs) and the like.

python scripts/export_activations.py model=runs/quickstart/<stamp> split=train points=['blocks.*.mlp.hook_out'] dst=activations
python scripts/export_activations.py model=hf:<folder or hub name> data=<file.jsonl> points=[blocks.0.attn.hook_out] dst=activations

The tokens are windows of a split of the run's own corpus (train, val, means, heldout), or texts of your own. A call that was interrupted goes on where
it stopped. sparsetrain.interop.activations.Activations reads the folder; docs/interop.md shows how.
"""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import numpy as np

from sparsetrain.adapters import LanguageModel, Precision, is_of_others, load_language_model
from sparsetrain.data import prepare_corpus
from sparsetrain.data.mix import SPLITS
from sparsetrain.data.reading import listed
from sparsetrain.data.texts import TextsConfig, read_texts
from sparsetrain.data.tokenizer import Tokenizer
from sparsetrain.entry import entry, load_run, require
from sparsetrain.export import latest_export
from sparsetrain.hooks import hook_points, select_points
from sparsetrain.interop.activations import Activations, Dtype, Source, export_activations
from sparsetrain.progress import progress_bar
from sparsetrain.run import RunConfig, cache_dir, text_windows
from sparsetrain.shipped import shipped_folder
from sparsetrain.typed import Count


@dataclass(frozen=True, kw_only=True)
class ExportActivationsRun:
    """A model, texts, hook points, and where the files go."""

    model: str = ""
    """Folder of a finished run, zoo:<name>, hf:<folder or hub name> or gguf:<file>."""
    points: str | list[str] = ""
    """Hook points by name, or by pattern (blocks.*.hook_out)."""
    dst: str = ""
    """Folder of the files."""
    data: str | list[str] = ""
    """Files, folders or patterns: one, several as a,b or as a list. Empty: the run's own corpus."""
    split: str = ""
    """Of the run's corpus (train, val, means, heldout); with data: of the texts, empty for all of them."""
    texts: TextsConfig = field(default_factory=TextsConfig)
    n_examples: Count = 1024
    """Windows or texts, drawn where there are more."""
    batch_size: Count = 8
    shard_examples: Count = 64
    """Examples of a file; a multiple of batch_size."""
    dtype: Dtype = "float32"
    """Of the vectors on disk; float32 is what the model computes."""
    device: Literal["cpu", "cuda"] = "cpu"
    precision: Precision = "float32"
    """Of an hf: model's weights."""
    cache_dir: str = ""
    """Where the run's corpus lies tokenised; empty: where the run's config says."""
    seed: int = 0
    """Of what is drawn."""
    progress: bool = True


def matching(model: LanguageModel, wanted: list[str]) -> list[str]:
    """Names of hook points; a pattern stands for all that match it.

    Raises:
        KeyError: a name or pattern of none; lists near names.
    """
    known = list(hook_points(model.module))
    names: list[str] = []
    for one in wanted:
        names += [name for name in known if fnmatchcase(name, one)] or list(select_points(model.module, [one]))
    return list(dict.fromkeys(names))


def source_of(config: ExportActivationsRun, model: LanguageModel) -> Source:
    """The tokens.

    Raises:
        ValueError: no such split, a model without a corpus of its own.
    """
    paths = listed(config.data)
    if paths:
        splits = read_texts(paths, model.tokenizer, config.texts.fit(model.n_ctx))
        if config.split and config.split not in [split.name for split in splits]:
            raise ValueError(f"split={config.split}: the texts have {', '.join(split.name for split in splits)}")
        chosen = [split for split in splits if not config.split or split.name == config.split]
        width = max(split.tokens.shape[1] for split in chosen)
        rows = np.concatenate([np.pad(split.tokens, ((0, 0), (0, width - split.tokens.shape[1])), constant_values=-1) for split in chosen])  # fmt: skip
        if len(rows) > config.n_examples:
            rows = rows[np.sort(np.random.default_rng(config.seed).choice(len(rows), config.n_examples, replace=False))]
        words = f"{', '.join(f'{split.name} ({split.description})' for split in chosen)}"
    else:
        if is_of_others(config.model):
            raise ValueError(f"model={config.model} has no corpus of its own; give data=<file.jsonl>")
        if config.split not in SPLITS:
            raise ValueError(f"split={config.split!r} of the run's corpus is none of {', '.join(SPLITS)}; or give data=<file.jsonl> for texts of your own")  # fmt: skip
        run = shipped_folder(config.model.removeprefix("run:"), "model")
        trained = load_run(RunConfig, run)
        folder = Path(config.cache_dir).expanduser() if config.cache_dir else cache_dir(trained)
        corpus = prepare_corpus(trained.data, folder, progress=config.progress)
        if corpus.tokenizer.to_json() != Tokenizer.load(latest_export(run, "model") / "tokenizer.json").to_json():
            raise ValueError(
                f"model={config.model}: the corpus that its config gives on this machine has another tokenizer, so it is not the text that it was "
                f"trained on (another Python has another standard library); give data=<file.jsonl>"
            )
        rows = text_windows(corpus, trained, config.split, config.n_examples).numpy()
        words = f"{config.split} of corpus {corpus.content_hash}"
    return Source(model=model.name, weights_sha256=model.weights_sha256, texts=words, tokens=rows.astype(np.int64))


@entry(ExportActivationsRun, "export_activations", folder="texts", literal=("model", "data", "points", "dst", "split", "cache_dir"))  # fmt: skip
def main(config: ExportActivationsRun, run_dir: Path) -> None:
    """Records, writes, and says how much there is."""
    model = load_language_model(require("model", config.model), device=config.device, precision=config.precision)
    wanted = listed(config.points)
    require("points", ",".join(wanted))
    folder = Path(require("dst", config.dst))
    names = matching(model, wanted)
    source = source_of(config, model)
    with progress_bar(config.progress) as bar:
        task = bar.add_task("examples", total=len(source.tokens))
        index = export_activations(
            model.module, source, names, folder, dtype=config.dtype, batch_size=config.batch_size, shard_examples=config.shard_examples, device=config.device,
            on_examples=lambda n: bar.advance(task, n),
        )  # fmt: skip
    n_bytes = sum((folder / shard.file).stat().st_size for shard in index.shards)
    print(f"{len(Activations(folder)):,} tokens at {len(index.points)} hook points, {len(index.shards)} shards, {n_bytes / 1e6:.1f} MB: {folder}/index.json")  # fmt: skip


if __name__ == "__main__":
    main()
