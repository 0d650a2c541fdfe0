"""Circuits in a Hugging Face causal model: the same pairs, gate, search, twin and controls, as far as they need no edges.

1. Nodes are the neurons of every MLP and the channels that every head hands to its output projection; a model that does not
   show all of them (`LanguageModel.left_out`) is refused, since what cannot be deleted would help every circuit.
2. Deleted nodes emit their mean over text that the user names, or over the prompts of the task's own training pairs.
3. Edges, and all that rests on them, are absent (`circuits.edges.NO_EDGES`): edge circuits, flow, compact form.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from circuits.find import find_once, section_of
from circuits.masks import NodeSpace
from circuits.means import Means, measure_means
from circuits.merged import merge_tasks, under_one_rule
from circuits.run import with_bars
from circuits.search.comparison import ranked_circuits
from circuits.search.task import FindConfig, Pairs, TaskSearch
from circuits.section import CircuitsSection, RankedCircuit, TaskEntry
from circuits.tasks import Task, UnsuitableTask
from sparsetrain.adapters import LanguageModel, is_of_others, load_language_model
from sparsetrain.adapters.hub_files import HubTokenizer
from sparsetrain.data.texts import PADDING, TextsConfig, read_texts
from sparsetrain.store import once
from sparsetrain.typed import to_dict

PAIRS_SOURCE = "prompts of the task's own training pairs"


@dataclass(frozen=True, kw_only=True)
class PromptTokenizer:
    """A hub tokenizer as pairs ask for one: texts alone, and what a prompt begins with."""

    backend: HubTokenizer
    eot_id: int
    """What a prompt begins with."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text without anything around it."""
        return self.backend.inside(text)

    def token(self, id: int) -> str:
        """One token as a person reads it."""
        return self.backend.token(id)


@dataclass(frozen=True, kw_only=True)
class HubSearch:
    """A model of somebody else, and what its deleted nodes emit.

    Args:
        model: as loaded.
        tokenizer: for pairs.
        means: over the user's text; None: over the prompts of each task's training pairs.
    """

    model: LanguageModel
    tokenizer: PromptTokenizer
    means: Means | None

    @classmethod
    def load(cls, name: str, text: Sequence[str], n_windows: int, *, trust_remote_code: bool = False) -> "HubSearch":
        """The model, and the means over the user's files.

        Args:
            name: `hf:<folder or hub name>`.
            text: files, folders or patterns; none: means are taken over training pairs.
            n_windows: pieces of text at most, of each file.
            trust_remote_code: whether code that comes with the model may run.

        Raises:
            ValueError: not an `hf:` model, hook points that its circuits need are absent, or nothing to read in the files.
        """
        if not is_of_others(name):
            raise ValueError(
                f"model={name} must be hf:<folder or hub name> or gguf:<file>; a run of ours is given as run=<folder>"
            )
        model = load_language_model(name, device="cpu", trust_remote_code=trust_remote_code)
        assert isinstance(model.tokenizer, HubTokenizer)
        tokenizer = PromptTokenizer(backend=model.tokenizer, eot_id=model.tokenizer.eot_id)
        missing = {point: why for point, why in model.left_out.items() if point.endswith((".hook_z", ".hook_neuron"))}
        missing |= {part: why for part, why in model.left_out.items() if part.endswith((".attn", ".mlp"))}
        if missing:
            point, why = next(iter(missing.items()))
            raise ValueError(
                f"model={name}: {model.architecture} shows no {point} ({why}), and its circuits would hold that part whole; "
                f"give a model whose every block has one attention and one MLP"
            )
        return cls(
            model=model,
            tokenizer=tokenizer,
            means=text_means(model, text, n_windows) if text else None,
        )

    def means_of(self, task: Task, find: FindConfig) -> Means:
        """What deleted nodes emit in the circuits of a task; a task without pairs has means of nothing."""
        if self.means is not None:
            return self.means
        model, sha256 = self.model.module, self.model.weights_sha256
        try:
            tokens, last = Pairs.build(task, self.tokenizer, find).train.prompts()
        except UnsuitableTask:
            space = NodeSpace.of(model)
            none = torch.zeros(space.n_nodes)
            return Means(
                space=space, values=none, active=none.clone(), n_tokens=0, source=PAIRS_SOURCE, weights_sha256=sha256
            )
        return measure_means(model, tokens, last=last, source=PAIRS_SOURCE, weights_sha256=sha256)


def text_means(model: LanguageModel, paths: Sequence[str], n_windows: int) -> Means:
    """Means over at most `n_windows` pieces of each of the user's texts, as the model's tokenizer reads them.

    Raises:
        ValueError: no file, or no text in them.
    """
    texts = read_texts(paths, model.tokenizer, TextsConfig().fit(model.n_ctx))
    drawn = [split.draw(n_windows, seed=0) for split in texts]
    rows = [torch.from_numpy(row) for split in drawn for row in split.tokens]
    tokens = pad_sequence(rows, batch_first=True, padding_value=PADDING)
    return measure_means(
        model.module,
        tokens.clamp(min=0),
        last=(tokens != PADDING).sum(1) - 1,
        source=f"texts named by the user: {', '.join(paths)}",
        weights_sha256=model.weights_sha256,
    )


def hub_circuits(
    searched: HubSearch,
    run_dir: Path,
    tasks: Mapping[str, Task],
    find: FindConfig,
    *,
    baselines: bool = False,
    known: CircuitsSection | None = None,
    on_task: Callable[[TaskEntry], object] = lambda task: None,
    on_section: Callable[[CircuitsSection], object] = lambda section: None,
    progress: bool = True,
) -> CircuitsSection:
    """Finds the circuits of tasks; what lies in `run_dir`, found with the same settings, is not searched again.

    Args:
        run_dir: gets `circuits/<task>/`, the means in it.
        tasks: to search, by name.
        find: the search's settings.
        baselines: whether circuits are also found by rankings of the nodes.
        known: what the report says of these weights, to which the tasks are added.
        on_task: called with the entry of each task as its search is done.
        on_section: called with the section so far after each task.
        progress: draw a progress bar on stderr.
    """
    out_dir, module, tokenizer = run_dir / "circuits", searched.model.module, searched.tokenizer
    section = under_one_rule(known, find, tasks, out_dir)
    for name, report in with_bars("circuits", list(tasks), progress):
        means = searched.means_of(tasks[name], find)
        task = find_once(module, tasks[name], tokenizer, means, find, out_dir, report)
        means.save(out_dir / task.task / "means.safetensors")
        if baselines and (task.has_circuit or task.status == "no_circuit"):
            subject = TaskSearch.of(module, tasks[name], tokenizer, means, replace(find, nonsense_twin=False), report)
            key = {"find": to_dict(find), "weights_sha256": means.weights_sha256, "means": means.sha256}
            path, schema = out_dir / task.task / "baselines.json", tuple[RankedCircuit, ...]
            task = replace(task, baselines=once(path, key, lambda s=subject: ranked_circuits(s, out_dir), schema))
        on_task(task)
        section = merge_tasks(section, section_of(means, find, [task], linked=False))
        on_section(section)
    assert section is not None, "there is at least one task"
    return section
