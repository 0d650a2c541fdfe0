"""A model that is known to do a task, and by which nodes: a mechanism in a host, in one of five forms.

| form | what it adds |
|---|---|
| plain | nothing |
| shared | a second behaviour, with answers of its own, reads what the first one reads |
| superposed | every feature shares its two channels with another that words carry |
| compensating | a neuron writes what every other last token carries into the answer, a later one takes it out again |
| dormant | a second readout does the same, and neurons behind it take what it wrote out again |

Which nodes are true? Those of the mechanism; of a compensating one with the pair that cancels, as the answer stays right only
while both are there or neither is. `check` holds the model against that: it does the task as it stands, at scale 1, and not
without these nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import Literal, get_args

import torch
from torch import Tensor

from circuits.answers import Ablated, pair_answers
from circuits.calibrate import fit_shifts
from circuits.means import Means, measure_means
from circuits.search.task import Pairs
from circuits.tasks.loss import pair_task_loss, task_loss
from circuits.tasks.pairs import PairSet
from circuits.truth.graft import CARRIED, Feature, Graft, blocks_of
from circuits.truth.hosts import EOT, Host, leak_
from circuits.truth.mechanisms import FAMILIES, Mechanism
from circuits.truth.pairs import N_PAIRS, pair_set
from sparsetrain.data.pools import Split
from sparsetrain.hooks import record
from sparsetrain.model import Transformer
from sparsetrain.store import fingerprint

Form = Literal["plain", "shared", "superposed", "compensating", "dormant"]
FORMS: tuple[Form, ...] = get_args(Form)


def forms_of(family: str) -> tuple[Form, ...]:
    """The forms that a family can take."""
    return FORMS if FAMILIES[family].reads_by_head else FORMS[:-1]


TARGET = 0.15
"""Task loss that model and true nodes must meet, nats (paper, section 2.2)."""
MODEL_LOSS = 0.03
"""Task loss of a sure model at scale 1, nats. ours"""
_MARK_SHARE = 0.05  # ours: of the text's tokens
_CLUTTER = 0.7  # ours: strength of what words carry in a shared channel
_CARRIED = 2.5  # ours: strength, at the ends of prompts, of what a compensating pair writes and takes out again
_N_TEXT = 128  # ours: lines of text for the means
_N_ENDS = 256  # ours: prompts of a split in which a compensating pair looks for the tokens that end them
_N_MARGIN = 64  # ours: pairs on which the margin is set


@dataclass(frozen=True, kw_only=True)
class Plant:
    """A model that does a task by known nodes.

    Args:
        answers: of the task.
        others: of the second behaviour, where there is one.
    """

    host: Host
    mechanism: Mechanism
    form: Form
    seed: int
    answers: tuple[int, int]
    others: tuple[int, int] | None

    @property
    def model(self) -> Transformer:
        """In eval mode, without gradients."""
        return self.host.model

    @cached_property
    def true(self) -> Tensor:
        """The nodes that do it, bool `[n_nodes]`."""
        return self.mechanism.graft.keep("stages", "readout", "pair")

    @property
    def pair_neurons(self) -> list[Tensor]:
        """The two neurons that cancel, bool `[n_nodes]` each; of a compensating one."""
        pair = self.mechanism.graft.nodes["pair"]
        names = [f"blocks.{layer}.mlp.hook_neuron" for layer in self.host.plot.layers]
        return [self.means.space.mask({name: sorted(pair[name])}) for name in names]

    def pairs(self, n: int, split: Split, seed: int) -> PairSet:
        """Pairs of the task."""
        made = self.mechanism
        tokens = made.prompts(n, split, seed)
        last = torch.full((n, 2), made.length - 1)
        shown = ("first side", "A"), ("second side", "B")
        return pair_set(f"planted_{made.family}", seed, tokens, last, self.answers, *shown, split=split)

    @cached_property
    def all_pairs(self) -> Pairs:
        """Train, fit, validation and held-out pairs, whose words differ."""
        both = self.pairs(N_PAIRS["fit"] + N_PAIRS["val"], "val", self.seed)
        return Pairs(
            train=self.pairs(N_PAIRS["train"], "train", self.seed),
            fit=both.batch(slice(0, N_PAIRS["fit"])),
            val=both.batch(slice(N_PAIRS["fit"], None)),
            heldout=self.pairs(N_PAIRS["heldout"], "heldout", self.seed),
        )

    def windows(self, n: int, seed: int) -> Tensor:
        """Stands for pretraining text: words, now and then a mark; int64 `[n, pos]`."""
        lines = self.host.text.lines(n, 2 * self.mechanism.length, None, seed)
        return self.mechanism.scatter(lines, _MARK_SHARE, seed)

    @cached_property
    def means(self) -> Means:
        """Mean activations of the model over its text."""
        return self.means_of(self.model)

    def means_of(self, model: Transformer) -> Means:
        """Those of another model over the same text."""
        sha256 = fingerprint([p.tolist() for p in model.parameters() if p.ndim == 1])
        return measure_means(model, self.windows(_N_TEXT, 5), source="planted text", weights_sha256=sha256)

    def unrelated(self, n: int) -> list[tuple[int, int]]:
        """Answers that have nothing to do with the task: pairs of words of the text, drawn by lot."""
        words = torch.unique(self.host.text.lines(256, 12, None, 7)).tolist()
        taken = {EOT, *self.mechanism.marks}
        drawn = Random(f"unrelated/{self.seed}").sample([word for word in words if word not in taken], 2 * n)
        return list(zip(drawn[::2], drawn[1::2], strict=True))


def plant(host: Host, family: str, form: Form, seed: int, leak: float = 0.0, model_loss: float = MODEL_LOSS) -> Plant:
    """Writes a mechanism into a host, which is changed in place.

    Args:
        family: of `FAMILIES`; a dormant one must be read by a head (`forms_of`).
        leak: scale of random weights between the host's own nodes and the graft's channels, see `leak_`.
        model_loss: task loss that the full model is to have, nats; real models are seldom as sure as `MODEL_LOSS`.

    Raises:
        ValueError: the model does not do the task, or does it without the nodes that should.
    """
    leak_(host, leak, 0.1, seed)
    graft = Graft(model=host.model, plot=host.plot, seed=seed, superposed=form == "superposed")
    mechanism = FAMILIES[family](graft, host.text)
    graft.part = "readout"
    first, answers = graft.feature(alone=True), (graft.token(), graft.token())
    mechanism.readout(first)
    graft.answer(first, answers)
    others = None
    if form == "shared":
        graft.part, second, others = "second", graft.feature(alone=True), (graft.token(), graft.token())
        mechanism.readout(second)
        graft.answer(second, others)
    words = sorted(set(range(1, host.model.config.d_vocab)) - set(host.plot.tokens))
    if form == "compensating":
        graft.part, carried = "pair", graft.feature(alone=True)
        splits: tuple[Split, ...] = ("train", "val", "heldout")
        prompts = torch.cat([mechanism.prompts(_N_ENDS, split, 97) for split in splits])
        ends = prompts[:, 0, -1].unique().tolist()
        graft.embed(carried, dict.fromkeys(ends[::2], 1.0))
        for layer, sign in zip(host.plot.layers, (1.0, -1.0), strict=True):
            graft.neuron(layer, {carried: 1.0}, 0.0, {first: sign})
    if form == "dormant":
        graft.part, echo = "echo", graft.feature(alone=True)
        mechanism.readout(echo)
        graft.answer(echo, answers)
        graft.part = "silencer"
        for sign in (1.0, -1.0):
            graft.neuron(host.plot.layers[1], {echo: sign}, 0.0, {echo: -sign})
    for clutter in graft.clutter:
        signs = Random(f"clutter/{seed}/{clutter.channels}")
        graft.embed(clutter, {token: _CLUTTER * signs.choice((1.0, -1.0)) for token in words + mechanism.marks})
    made = Plant(host=host, mechanism=mechanism, form=form, seed=seed, answers=answers, others=others)
    if form == "compensating":
        set_pair_(made, carried)
    for asked in filter(None, (answers, others)):
        set_margin_(made, asked, model_loss)
    check(made)
    return made


@torch.no_grad()
def set_pair_(made: Plant, carried: Feature) -> None:
    """Scales what the two neurons of a compensating pair write until each writes `_CARRIED` at the ends of the prompts that carry
    it, the later one against the earlier one: there they cancel, and either alone spoils the answer."""
    model, graft = made.model, made.mechanism.graft
    tokens = made.mechanism.prompts(_N_MARGIN, "train", 98).flatten(0, 1)
    tokens = tokens[model.embed.weight[tokens[:, -1], carried.channels[0]] > 0]
    for layer in made.host.plot.layers:
        (neuron,) = graft.nodes["pair"][f"blocks.{layer}.mlp.hook_neuron"]
        point = f"blocks.{layer}.mlp.hook_neuron"
        _, seen = record(model, tokens, [point])
        written = float(seen[point][:, -1, neuron].mean()) / CARRIED
        blocks_of(model)[layer].mlp.W_out.weight[:, neuron] *= _CARRIED / written


@torch.no_grad()
def set_margin_(made: Plant, answers: tuple[int, int], model_loss: float) -> None:
    """Scales what the unembedding reads of the mechanism, and shifts its biases, until the loss at scale 1 is `model_loss`.

    Raises:
        ValueError: no scale does.
    """
    model, pairs = made.model, made.pairs(_N_MARGIN, "train", 99)
    asked = pair_set(pairs.task, 99, pairs.tokens, pairs.last, answers, ("a", "A"), ("b", "B"))
    free = list(made.host.plot.channels)
    read = model.unembed.weight[list(answers)][:, free].clone()
    for power in range(-16, 32):
        model.unembed.weight[torch.tensor(answers)[:, None], torch.tensor(free)] = read * 1.12**power
        logits = pair_answers(model, asked)
        calibration = fit_shifts(logits)
        if float(task_loss(calibration.apply(logits))) <= model_loss:
            assert model.unembed.bias is not None
            model.unembed.bias[list(answers)] += float(calibration.shift) / 2 * torch.tensor([1.0, -1.0])
            return
    raise ValueError(f"planted {made.mechanism.family}, {made.form}, seed {made.seed}: the model cannot be made sure")


def check(made: Plant) -> None:
    """Does the model do the task as it stands, the true nodes alone too, and not without them?

    Raises:
        ValueError: one of these does not hold.
    """
    full, own, without = losses_of(made, torch.stack([torch.ones_like(made.true), made.true, ~made.true]))
    if made.form == "compensating":
        alone = losses_of(made, torch.stack([made.true & ~neuron for neuron in made.pair_neurons]))
        if min(alone) < 2 * TARGET:
            raise ValueError(
                f"planted {made.mechanism.family}, {made.form}, seed {made.seed}: task loss {min(alone):.3f} without one of the two "
                f"that cancel; at least {2 * TARGET} is wanted"
            )
    if full > TARGET or own > TARGET or without < 2 * TARGET:
        raise ValueError(
            f"planted {made.mechanism.family}, {made.form}, seed {made.seed}: task loss {full:.3f} of the model, {own:.3f} of "
            f"the true nodes, {without:.3f} without them; at most {TARGET} is wanted of the first two, twice that of the third"
        )


def losses_of(made: Plant, keep: Tensor) -> Sequence[float]:
    """Raw task losses of node circuits `[n_runs, n_nodes]` on held-out pairs, nats."""
    ablated = Ablated(model=made.model, means=made.means.values)
    answers = ablated.answers(keep, made.all_pairs.heldout).double()
    return pair_task_loss(answers).mean(-1).tolist()
