"""Models that are trained on rows of demonstrations: how their attention starts, and how they are read.

Two circuits have to meet before a query can be matched with a demonstration: the symbols of a pair must be gathered at its last token, then
like must find like. From a random start a short training ends up counting answers instead. So attention starts with both in reach, for all arms alike:
1. Positions are read, never written: one channel per pair and one per place in a pair.
2. In the first layer queries and keys start equal, on the channels of pairs: a token looks at its own pair. In later layers they start equal on
   content: a token looks at those that resemble it.
3. Values and outputs start as each other's transposes, the unembedding as the embedding: what is looked at is copied.
All of it is trained on.

Source: 2 and 3 after Trockman and Kolter 2023, Mimetic Initialization of Self-Attention Layers; which channels they act on is ours.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from sparsetrain.curriculum.arms import ARMS, Asked, ChoiceConfig, Pool, arms_of, chosen
from sparsetrain.curriculum.scoring import FINAL, Scores, directions
from sparsetrain.data.worlds.functions import FAMILIES, LENGTH, Function, FunctionsConfig, Ints, prompt
from sparsetrain.hooks import HookPoint, hooked
from sparsetrain.model import Block, ModelConfig, Transformer
from sparsetrain.representation.evaluate import evaluating
from sparsetrain.representation.measures import HEADLINE, MEASURES
from sparsetrain.studies.readings import rank_correlation

Floats = NDArray[np.float64]
GUIDED = ("sparsity", "published", "matched")
"""Ways that sparsity guides; each is also asked with the entropy of the prediction in the place of sparsity."""
BY_ENTROPY = ", by entropy"
GRADED = ("conditional",)
"""Families whose items differ in difficulty within a function."""
SIZE = 256
"""Rows of one forward pass."""
CONTENT = 0.3
"""Share of a random start that content keeps in the first layer's queries and keys, and positions (a fifth of it) in later ones. ours"""


def model_for(config: FunctionsConfig, model: ModelConfig) -> ModelConfig:
    """The model that reads rows: vocabulary, context and channels of positions follow from them."""
    return replace(
        model,
        d_vocab=config.d_vocab,
        n_ctx=config.n_tokens - 1,
        positions="concat",
        d_pos=config.n_pairs + LENGTH,
    )


def start_matching_(model: Transformer, config: FunctionsConfig) -> None:
    """Sets positions and attention as the module's docstring says; draws from torch's global generator."""
    assert model.positions is not None
    d, n_pairs = model.config.d_model, config.n_pairs
    place = torch.arange(len(model.positions))
    with torch.no_grad():
        model.positions.zero_()
        model.positions[place, place // LENGTH] = 1
        model.positions[place, n_pairs + place % LENGTH] = 1
        for layer, block in enumerate(model.blocks):
            assert isinstance(block, Block)
            query, key = block.attn.W_q.weight, block.attn.W_k.weight
            if layer:
                key.copy_(query)
                query[:, d:] *= CONTENT / 5
                key[:, d:] *= CONTENT / 5
            else:
                query[:, :d] *= CONTENT
                key[:, :d] *= CONTENT
                query[:, d:] = 0
                query[:, d : d + n_pairs].normal_()
                key[:, d:] = query[:, d:]
            block.attn.W_o.weight.copy_(block.attn.W_v.weight[:, :d].T)
            block.mlp.W_out.weight.mul_(0.5)
        model.unembed.weight.copy_(model.embed.weight)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a model says at the asks of rows."""

    sparsity: Floats
    """The headline at the last norm, `[n_rows, n_asks]`."""
    logits: Floats
    """`[n_rows, n_asks, d_vocab]`."""
    vectors: Floats
    """At the last norm, `[n_rows, n_asks, d_model]`."""

    def correct(self, answers: Ints) -> Floats:
        """Whether each answer is the likeliest token, 0 or 1."""
        return (self.logits.argmax(-1) == answers).astype(np.float64)

    def loss(self, answers: Ints) -> Floats:
        """Of each answer, nats."""
        logits = rearrange(torch.from_numpy(self.logits), "rows asks v -> rows v asks")
        return F.cross_entropy(logits, torch.from_numpy(answers), reduction="none").numpy()


def look(model: Transformer, tokens: Ints, *, last: bool = False) -> Seen:
    """Reads rows that end in an `ask`.

    Args:
        model: of whole rows.
        tokens: `[n_rows, length]`.
        last: the last ask of each row alone.
    """
    found: list[tuple[Tensor, ...]] = []
    asks = slice(tokens.shape[1] - 1, None) if last else slice(LENGTH - 2, None, LENGTH)
    seen: list[Tensor] = []

    def watch(x: Tensor, point: HookPoint) -> Tensor:
        seen.append(x[:, asks])
        return x

    with evaluating(model), hooked(model, {FINAL: watch}):
        for start in range(0, len(tokens), SIZE):
            logits = model(torch.from_numpy(tokens[start : start + SIZE]))[:, asks]
            vectors = seen.pop()
            found.append((MEASURES[HEADLINE].fn(vectors), logits, vectors))
    sparsity, logits, vectors = (torch.cat(parts).double().numpy() for parts in zip(*found, strict=True))
    return Seen(sparsity=sparsity, logits=logits, vectors=vectors)


def row_sparsity(model: Transformer, tokens: Ints) -> Floats:
    """Mean headline over the asks of each row: a score of training rows. `[n_rows, length] -> [n_rows]`"""
    parts = (tokens[start : start + 16 * SIZE, :-1] for start in range(0, len(tokens), 16 * SIZE))
    return np.concatenate([look(model, part).sparsity.mean(1) for part in parts])


@dataclass(frozen=True, kw_only=True)
class Demonstrated:
    """What one trained model says of its world."""

    n_shown: int
    family: Mapping[str, Ints]
    """Part -> index in `FAMILIES` of each row, `[n_rows]`."""
    correct: Mapping[str, Floats]
    """Part -> `[n_rows, n_pairs]`: of the answer behind so many demonstrations. `misled`: unseen functions, demonstrations of shuffled answers."""
    loss: Mapping[str, Floats]
    """Nats, as `correct`."""
    sparsity: Floats
    """Of rows of unseen functions, higher is sparser, `[n_rows, n_pairs]`."""
    operations: Ints
    """`[n_rows, n_pairs]`."""
    answers: Ints
    """Of the same rows, `[n_rows, n_pairs]`."""
    asked: Ints
    """Index in `FAMILIES` of each question, `[n_asked]`."""
    right: Mapping[str, Floats]
    """Way of prompting -> share of its draws that are right, `[n_asked]`."""
    answer_loss: Mapping[str, Floats]
    """Nats, `[n_asked]`."""
    random_order: "Demonstrated | None" = None
    """Of an ordered arm: the model of the same rows in random order."""
    shuffled: "Demonstrated | None" = None
    """The model of shuffled answers."""

    @classmethod
    def load(
        cls,
        path: Path,
        n_shown: int,
        *,
        random_order: "Demonstrated | None" = None,
        shuffled: "Demonstrated | None" = None,
    ) -> "Demonstrated":
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}

        def under(head: str) -> dict[str, Floats]:
            return {name.split("|")[1]: values for name, values in arrays.items() if name.startswith(f"{head}|")}

        parts = ("family", "correct", "loss", "right", "answer_loss")
        whole = ("sparsity", "operations", "answers", "asked")
        return cls(
            n_shown=n_shown,
            **{name: under(name) for name in parts},  # pyright: ignore[reportArgumentType]
            **{name: arrays[name] for name in whole},
            random_order=random_order,
            shuffled=shuffled,
        )

    def families(self, part: str) -> list[str]:
        return [name for i, name in enumerate(FAMILIES) if (self.family[part] == i).any()]

    def curve(self, part: str, family: str | None = None, *, of: str = "correct") -> Floats:
        """Mean over families (each alike) behind 0, 1, ... demonstrations, `[n_pairs]`."""
        values = self.correct if of == "correct" else self.loss
        numbers = [list(FAMILIES).index(name) for name in ([family] if family else self.families(part))]
        return np.mean([values[part][self.family[part] == i].mean(0) for i in numbers], 0)

    def gain(self, part: str, family: str | None = None) -> float:
        """Accuracy with the demonstrations of a prompt minus that with none."""
        curve = self.curve(part, family)
        return float(curve[self.n_shown] - curve[0])

    def by_answer(self) -> float:
        """Accuracy on unseen functions with the demonstrations of a prompt, mean over answers: chance for whoever always says the same.

        A mean over families is not: a small one may have a single unseen constant.
        """
        right, answers = self.correct["unseen"][:, self.n_shown], self.answers[:, self.n_shown]
        return float(np.mean([right[answers == answer].mean() for answer in np.unique(answers)]))

    def differences(self, way: str, control: str = "") -> Floats:
        """Accuracy of a way of prompting minus its control (or another way), by question; of known difficulty only where it is graded."""
        entry = ARMS[way.partition(",")[0]]
        d = self.right[way] - self.right[control or entry.control]
        return d[np.isin(self.asked, [list(FAMILIES).index(name) for name in GRADED])] if entry.needs_difficulty else d

    def rho(self, x: str, y: str, *given: str, family: str | None = None) -> float:
        """Rank correlation over rows of unseen functions, behind as many demonstrations as are shown."""
        keep = np.full(len(self.sparsity), True)
        if family is not None:
            keep = self.family["unseen"] == list(FAMILIES).index(family)
        of = {"sparsity": self.sparsity, "operations": self.operations, "loss": self.loss["unseen"]}
        columns = (of[name][keep, self.n_shown] for name in (x, y, *given))
        return rank_correlation(*columns)

    def ahead(self, of: str) -> float:
        """How much better than in random order on validation functions at the end, mean over all numbers of demonstrations."""
        assert self.random_order is not None
        gap = (self.curve("val", of=of) - self.random_order.curve("val", of=of))[1:].mean()
        return float(gap if of == "correct" else -gap)


@dataclass(frozen=True, kw_only=True)
class Dealt:
    """The inputs of one function: a pool of demonstrations, and questions that are not in it."""

    function: Function
    pool: Ints
    """`[n, 2]`."""
    asked: Ints
    """`[m, 2]`."""

    def pairs(self, rows: Sequence[int]) -> list[tuple[int, int, int]]:
        """Demonstrations of the pool."""
        return [(a, b, int(self.function.answers[a, b])) for a, b in self.pool[list(rows)].tolist()]

    def answers(self, inputs: Ints) -> Ints:
        return self.function.answers[inputs[:, 0], inputs[:, 1]]

    def operations(self, inputs: Ints) -> Ints:
        return self.function.operations[inputs[:, 0], inputs[:, 1]]


def deal(config: FunctionsConfig, function: Function, n_pool: int, rng: np.random.Generator) -> Dealt:
    """Every input once: the first `n_pool` of a random order are the pool, all others are asked."""
    inputs = np.stack(np.divmod(rng.permutation(config.n_symbols**2), config.n_symbols), 1)
    return Dealt(function=function, pool=inputs[:n_pool], asked=inputs[n_pool:])


def score_in_context(
    model: Transformer, config: FunctionsConfig, dealt: Dealt, n_context: int, n_draws: int, rng: np.random.Generator
) -> tuple[Scores, Scores]:
    """Scores of the pool and of the questions: a pair alone does not say what its function is, so each is read behind demonstrations.

    Args:
        model: that reads.
        config: of the rows.
        dealt: of one function.
        n_context: demonstrations, drawn from the pool, never the pair itself.
        n_draws: of them; scores are means.
        rng: of the draws.
    """
    n_pool, inputs = len(dealt.pool), np.concatenate([dealt.pool, dealt.asked])
    rows: list[Ints] = []
    for i, query in enumerate(inputs.tolist()):
        others = [j for j in range(n_pool) if j != i]
        draws = (rng.permutation(others)[:n_context].tolist() for _ in range(n_draws))
        rows += [prompt(config, dealt.pairs(draw), (query[0], query[1])) for draw in draws]
    seen = look(model, np.stack(rows), last=True)
    answers = np.repeat(dealt.answers(inputs), n_draws)[:, None]
    log_p = torch.from_numpy(seen.logits[:, 0]).log_softmax(-1)

    def mean(values: Floats) -> Floats:
        return rearrange(values, "(n draws) ... -> n draws ...", draws=n_draws).mean(1)

    sparsity = mean(seen.sparsity[:, 0])
    scores = Scores(
        sparsity=sparsity if MEASURES[HEADLINE].direction == "higher" else -sparsity,
        measured=sparsity,
        loss=mean(seen.loss(answers)[:, 0]),
        entropy=mean(-(log_p.exp() * log_p).sum(-1).numpy()),
        logit_norm=mean(np.linalg.norm(seen.logits[:, 0], axis=-1)),
        correct=mean(seen.correct(answers)[:, 0]),
        length=np.full(len(inputs), float(LENGTH)),
        vectors=directions(mean(seen.vectors[:, 0])),
    )
    return scores[np.arange(n_pool)], scores[np.arange(n_pool, len(inputs))]


def put(
    model: Transformer, config: FunctionsConfig, dealt: Dealt, choice: ChoiceConfig, of: tuple[Scores, Scores], number: int, rng: np.random.Generator
) -> Mapping[str, tuple[Floats, Floats]]:  # fmt: skip
    """Asks every question of a function in every arm.

    Args:
        model: that answers.
        config: of the rows.
        dealt: of the function.
        choice: of all arms.
        of: scores of the pool and of the questions.
        number: of the first question.
        rng: breaks ties of known difficulty: among pairs of as many operations the order is random.

    Returns:
        Arm -> share of its prompts that are right, and mean loss of the answer in nats, `[n_asked]` each.
    """
    of_pool, of_asked = of
    n_pool, n_asked = len(dealt.pool), len(dealt.asked)
    graded = dealt.operations(dealt.pool) + 0.5 * rng.random(n_pool)
    pool = Pool(sparsity=of_pool.sparsity, loss=of_pool.loss, length=of_pool.length, difficulty=graded)
    similarity, answers = of_pool.similarity(of_asked), dealt.answers(dealt.asked)

    def ask(name: str, pool: Pool, sparsity: Floats) -> tuple[Floats, Floats]:
        prompts: list[Ints] = []
        for i, query in enumerate(dealt.asked.tolist()):
            asked = Asked(sparsity=float(sparsity[i]), similarity=similarity[i], allowed=np.ones(n_pool, np.bool_))
            orders = chosen(pool, asked, choice, name, number + i)
            prompts += [prompt(config, dealt.pairs(order), (query[0], query[1])) for order in orders]
        n_draws = len(prompts) // n_asked
        seen, true = look(model, np.stack(prompts), last=True), np.repeat(answers, n_draws)[:, None]
        right, loss = (
            rearrange(values, "(n draws) 1 -> n draws", draws=n_draws).mean(1)
            for values in (seen.correct(true), seen.loss(true))
        )
        return right, loss

    elsewhere = replace(pool, sparsity=of_pool.entropy)
    return {
        **{name: ask(name, pool, of_asked.sparsity) for name in arms_of(pool)},
        **{name + BY_ENTROPY: ask(name, elsewhere, of_asked.entropy) for name in GUIDED},
    }
