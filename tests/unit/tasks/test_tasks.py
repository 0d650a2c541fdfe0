"""Pairs keep the rules of the task table for every task, split, twin and kind of tokenizer."""

import ast
import keyword
import re
import sysconfig
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import islice, product
from pathlib import Path
from random import Random

import pytest
import tokenizers
import torch
from tokenizers import Regex, models, pre_tokenizers, trainers

from circuits.tasks import (
    ENGLISH_TASKS,
    PAIR_SPLITS,
    PYTHON_TASKS,
    TASKS,
    GeneratedTask,
    PairSet,
    PairSplit,
    PairText,
    Side,
    build_pairs,
    get_task,
)
from sparsetrain.data import IdiomsSource
from sparsetrain.data.pools import SPLITS, pool
from sparsetrain.data.reading import Document

N = 64
BIGRAM = {"else_elif"}  # its two prompts end in different tokens, as in the paper's table

# The project's cut of Python (newline and indentation alone, words, single digits, runs of punctuation) and GPT-2's.
PIECES = r"\n|(?<=\n)[^\S\n]+|\A[^\S\n]+| ?[\p{L}_]+| ?\p{N}| ?[^\s\p{L}\p{N}_]+|[^\S\n]+(?!\S)|[^\S\n]+"
GPT2_PIECES = r"'s|'t|'re| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class SmallTokenizer:
    """Byte-level BPE over a given cut, with the separator as id 0."""

    eot_id = 0

    def __init__(self, pieces: str, d_vocab: int) -> None:
        self.bpe = tokenizers.Tokenizer(models.BPE())
        cut = pre_tokenizers.Split(Regex(pieces), behavior="isolated")
        self.bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        trainer = trainers.BpeTrainer(
            vocab_size=d_vocab,
            special_tokens=["<|endoftext|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[:60]
        self.bpe.train_from_iterator((file.read_text("utf-8") for file in files), trainer)

    def encode(self, text: str) -> list[int]:
        return self.bpe.encode(text).ids


class Characters:
    """One token per character: no token ever joins prompt and answer, and answers often begin alike."""

    eot_id = 0

    def encode(self, text: str) -> list[int]:
        return [ord(char) for char in text]


class Words:
    """One new id per piece that a pattern cuts: a vocabulary without merges, built as it reads."""

    eot_id = 0

    def __init__(self, pieces: str = r" ?\w+| ?[^\w\s]+|\n| +") -> None:
        self.pieces = pieces
        self.ids: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        return [self.ids.setdefault(piece, len(self.ids) + 1) for piece in re.findall(self.pieces, text)]


@pytest.fixture(scope="module")
def tokenizer() -> SmallTokenizer:
    return SmallTokenizer(PIECES, 1024)


@pytest.fixture(scope="module")
def gpt2_like() -> SmallTokenizer:
    return SmallTokenizer(GPT2_PIECES, 1500)


@pytest.fixture(scope="module")
def pairs_of(tokenizer) -> Callable[..., PairSet]:
    """The pairs of a task, split and twin, built once for all tests of this file."""
    return cache(lambda name, split, twin=None: build_pairs(name, tokenizer, split, N, seed=0, twin=twin))


def check_rules(pairs: PairSet, tokenizer) -> None:
    """The table's rules, recomputed from the texts."""
    task = TASKS[pairs.task]
    for i, text in enumerate(pairs.texts):
        next_tokens = []
        for s, side in enumerate((text.positive, text.negative)):
            assert not side.prompt.endswith(" ") and side.hinge == ""
            prompt = [tokenizer.eot_id, *tokenizer.encode(side.prompt)]
            full = [tokenizer.eot_id, *tokenizer.encode(side.prompt + side.answer + side.continuation)]
            last = int(pairs.last[i, s])
            assert full[: len(prompt)] == prompt and len(prompt) == last + 1
            assert pairs.tokens[i, s].tolist() == prompt + [tokenizer.eot_id] * (pairs.tokens.shape[2] - len(prompt))
            next_tokens.append(full[len(prompt)])
        assert next_tokens[0] != next_tokens[1]
        expected = [next_tokens[0], -1 if text.rest else next_tokens[1]]
        assert pairs.answers[i].tolist() == expected
        assert text.rest == (pairs.task in {"else_elif", "fstring_brace", "while_return_true"})
    prompts = [(text.positive.prompt, text.negative.prompt) for text in pairs.texts]
    assert len(set(prompts)) == len(pairs) and task.name == pairs.task


def parses(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def last_tokens(pairs: PairSet) -> torch.Tensor:
    return pairs.tokens.gather(2, pairs.last[..., None])[..., 0]


def test_the_table_is_complete():
    assert len(PYTHON_TASKS) == 20 and len(ENGLISH_TASKS) == 3
    assert all(task.name == name and task.description for name, task in TASKS.items())


@pytest.mark.parametrize("name", TASKS)
def test_every_split_follows_the_rules(name, tokenizer, pairs_of):
    for split in PAIR_SPLITS:
        pairs = pairs_of(name, split)
        assert pairs.tokens.shape[:2] == (N, 2) and pairs.tokens.shape[2] <= 48
        assert pairs.tokens.dtype == pairs.last.dtype == pairs.answers.dtype == torch.int64
        check_rules(pairs.batch(slice(24)), tokenizer)
        n_rejected = sum(pairs.rejected.values())
        assert n_rejected / (n_rejected + len(pairs)) < 0.35
        assert set(pairs.rejected) <= {"duplicate", "same_answer_token", "too_long", "prompt_not_a_prefix"}


@pytest.mark.parametrize("name", PYTHON_TASKS)
def test_short_prompts(name, tokenizer):
    for split in ("train", "val", "heldout"):
        assert build_pairs(name, tokenizer, split, 16, seed=0, max_tokens=28).tokens.shape[2] <= 28


@pytest.mark.parametrize("name", TASKS)
def test_last_token_says_nothing(name, pairs_of):
    """A model that sees the last token alone gives both sides the same logits, so that its loss is at least ln 2."""
    for split in ("heldout", "paraphrased"):
        ends = last_tokens(pairs_of(name, split))
        same = ends[:, 0] == ends[:, 1]
        assert not same.any() if name in BIGRAM else same.all()


@pytest.mark.parametrize("name", PYTHON_TASKS)
def test_answers_are_names_in_two_tasks_only(name, pairs_of):
    n_answers = [len(pairs_of(name, "train").answers[:, side].unique()) for side in (0, 1)]
    assert min(n_answers) > 5 if name in {"var_swap", "class_init"} else n_answers == [1, 1]


def test_class_init_answers_are_first_and_second_parameter_alike(tokenizer):
    """Or else copying the first parameter would look like half of the task."""
    texts = build_pairs("class_init", tokenizer, "train", 200, seed=0).texts
    first = [text.positive.prompt.split("(self, ")[1].split(",")[0] == text.positive.answer.strip() for text in texts]
    assert 70 < sum(first) < 130


def test_gpt2_like_tokenizer(gpt2_like):
    """A cut that joins blanks with what follows, several digits, and newlines with newlines."""
    for name in PYTHON_TASKS:
        check_rules(build_pairs(name, gpt2_like, "train", 16, seed=0), gpt2_like)


def test_tokenizer_without_merges():
    tokenizer = Words()
    for name in TASKS:
        check_rules(build_pairs(name, tokenizer, "val", 16, seed=0), tokenizer)


def test_tokenizer_of_characters_rejects_what_it_cannot_ask():
    """`" enumerate"` and `" range"` begin with the same character, as do all other answers with a space in front."""
    tokenizer = Characters()
    check_rules(build_pairs("bracket_counting", tokenizer, "val", 8, seed=0, max_tokens=100), tokenizer)
    with pytest.raises(ValueError, match=r"enumerate_range.*200 of 200 pairs rejected \(same_answer_token: 200\)"):
        build_pairs("enumerate_range", tokenizer, "val", 8, seed=0, max_tokens=100)


def test_hinge_moves_to_the_answer_where_the_tokenizer_joins_them():
    kept = build_pairs("bracket_brace", Words(r" ?\w+| ?[^\w\s]|\n| +"), "train", 4, seed=0).texts[0]
    assert kept.positive.prompt.endswith('"') and (kept.positive.answer, kept.negative.answer) == (":", ",")
    moved = build_pairs("bracket_brace", Words(), "train", 4, seed=0).texts[0]
    assert not moved.positive.prompt.endswith('"') and (moved.positive.answer, moved.negative.answer) == ('":', '",')


def test_splits_are_disjoint():
    names = {split: pool(split).names for split in SPLITS}
    everything = [name for split in SPLITS for name in names[split]]
    assert max(Counter(everything).values()) == 1
    assert pool("shifted").shifted and not pool("heldout").shifted


@pytest.mark.parametrize("name", TASKS)
def test_prompts_use_only_names_of_their_split(name, pairs_of):
    """Across splits the texts share the words of the template and nothing else."""
    words = {
        split: {
            word
            for text in pairs_of(name, split).texts
            for side in (text.positive, text.negative)
            for word in re.findall(r"[A-Za-z_]+", side.prompt + side.answer + side.continuation)
        }
        for split in SPLITS
    }
    for split in SPLITS:
        foreign = {name for other in SPLITS if other != split for name in pool(other).names}
        # an f-string's prefix and the opening modes are names of some split as well
        assert not words[split] & foreign - {"f", "r", "w"}


def shape(code: str) -> str:
    """Code without its names, words and numbers."""
    kept = {*keyword.kwlist, "self", "__init__", "open", "set", "range", "enumerate", "print"}
    names = re.compile(r"""f(?=['"])|[A-Za-z_]\w*""")
    return re.sub(r"\d+", "0", names.sub(lambda match: match[0] if match[0] in {*kept, "f"} else "x", code))


@pytest.fixture(scope="module")
def idioms() -> str:
    """What a model reads of generated code, without names: a document behind a separator."""
    return "\n".join(
        shape(document.text) for document in IdiomsSource(n_chars=1_000_000).read() if isinstance(document, Document)
    )


def test_training_texts_have_the_templates_of_most_tasks_and_no_paraphrase(idioms):
    """Otherwise a paraphrase would ask for what was learned and not for what was understood."""

    def read(name: str, split: PairSplit) -> int:
        texts = islice(TASKS[name].texts(split, Random(0)), 200)
        return sum(shape("\n" + side.prompt + side.hinge) in idioms for text in texts for side in text.sides)

    assert sum(read(name, "heldout") > 0 for name in PYTHON_TASKS) >= 15
    assert {name for name in PYTHON_TASKS if read(name, "paraphrased")} == set()


@pytest.mark.parametrize("name", TASKS)
def test_a_paraphrase_has_the_answers_of_its_task_and_another_surface(name, pairs_of):
    known, again = (pairs_of(name, split) for split in ("heldout", "paraphrased"))
    if len(known.answers.unique(dim=0)) == 1:  # no names
        assert torch.equal(again.answers[:1], known.answers[:1]) and len(again.answers.unique(dim=0)) == 1
    names = re.compile(r"\b(" + "|".join(sorted(pool("heldout").names, key=len, reverse=True)) + r"|\d)\b")
    surfaces = [
        {
            names.sub("x", side.prompt)
            for text in islice(TASKS[name].texts(split, Random(0)), 200)
            for side in text.sides
        }
        for split in ("heldout", "paraphrased")
    ]
    assert (
        surfaces[0].isdisjoint(surfaces[1]) and max(map(len, surfaces)) < 100
    )  # templates, and not texts, are compared


def test_shifted_prompts_are_longer(tokenizer):
    for name in TASKS:
        train, shifted = (
            sum(len(TASKS[name].generate(Random(0), pool(split)).positive.prompt) for _ in range(8))
            for split in ("train", "shifted")
        )
        assert shifted > train


def test_deterministic_by_task_split_and_seed(tokenizer):
    again = [build_pairs("class_init", tokenizer, "train", 32, seed=3) for _ in range(2)]
    assert again[0].texts == again[1].texts and torch.equal(again[0].tokens, again[1].tokens)
    assert torch.equal(again[0].answers, again[1].answers) and again[0].rejected == again[1].rejected
    assert build_pairs("class_init", tokenizer, "train", 32, seed=4).texts != again[0].texts
    longer = build_pairs("class_init", tokenizer, "train", 48, seed=3)
    assert longer.texts[:32] == again[0].texts


@pytest.mark.parametrize("name", TASKS)
def test_nonsense_twin(name, tokenizer, pairs_of):
    twins = {split: build_pairs(name, tokenizer, split, 8, seed=0, twin="nonsense") for split in SPLITS}
    answers = torch.cat([twin.answers for twin in twins.values()])
    assert len(answers.unique(dim=0)) == 1  # the same two words everywhere
    a, b = answers[0].tolist()
    assert a != b and min(a, b) >= 0
    for split in SPLITS:
        real = pairs_of(name, split)
        assert torch.equal(real.batch(slice(8)).last, twins[split].last)
        for i, twin in enumerate(twins[split].texts):
            assert twin.positive.prompt == real.texts[i].positive.prompt
            assert twin.negative.prompt == real.texts[i].negative.prompt
        assert not {a, b} & set(real.answers.flatten().tolist())
        text = twins[split].texts[0]
        start = len(tokenizer.encode("x"))
        assert tokenizer.encode(f"x{text.positive.answer}")[start:] == [a]
        assert tokenizer.encode(f"x{text.negative.answer}")[start:] == [b]
        assert not text.rest


def test_nonsense_words_depend_on_the_twin_seed_alone(tokenizer):
    words = {
        tuple(build_pairs("for_while", tokenizer, "val", 2, 0, "nonsense", twin_seed=seed).answers[0].tolist())
        for seed in range(8)
    }
    assert len(words) > 1
    a, b = (build_pairs("for_while", tokenizer, "val", 2, seed, "nonsense").answers[0] for seed in (0, 1))
    assert torch.equal(a, b)


def test_nonsense_twin_needs_words():
    with pytest.raises(ValueError, match="no nonsense twin of task 'var_if'"):
        build_pairs("var_if", Characters(), "val", 4, seed=0, max_tokens=100, twin="nonsense")


@pytest.mark.parametrize("name", TASKS)
def test_label_twin_swaps_half_of_the_prompts(name, pairs_of):
    real, twin = pairs_of(name, "train"), pairs_of(name, "train", "labels")
    swapped = (real.tokens.flip(1) == twin.tokens).all(dim=(1, 2))
    kept = (real.tokens == twin.tokens).all(dim=(1, 2))
    assert (swapped ^ kept).all() and int(swapped.sum()) == N // 2
    assert torch.equal(real.answers, twin.answers)
    assert torch.equal(torch.where(swapped[:, None], real.last.flip(1), real.last), twin.last)
    i = int(swapped.nonzero()[0])
    assert twin.texts[i].positive.prompt == real.texts[i].negative.prompt
    assert twin.texts[i].positive.answer == real.texts[i].positive.answer


def test_batch_picks_pairs(tokenizer):
    pairs = build_pairs("with_as", tokenizer, "train", 16, seed=0)
    picked = pairs.batch(torch.tensor([5, 2]))
    assert len(picked) == 2 and torch.equal(picked.tokens, pairs.tokens[[5, 2]])
    assert picked.texts == (pairs.texts[5], pairs.texts[2]) and torch.equal(picked.last, pairs.last[[5, 2]])
    assert torch.equal(pairs.batch(slice(4, 8)).answers, pairs.answers[4:8])
    assert torch.equal(pairs.batch([1]).tokens, pairs.tokens[1:2])


def test_pairs_are_counted_without_their_neutral_lines(tokenizer):
    pairs = build_pairs("for_while", tokenizer, "heldout", N, seed=0)
    cores = [(text.positive.prompt.rsplit("\n")[-1], text.negative.prompt.rsplit("\n")[-1]) for text in pairs.texts]
    expected = [cores.index(core) for core in cores]
    assert [pairs.groups.tolist().index(group) for group in pairs.groups.tolist()] == expected
    assert pairs.n_distinct == len(set(cores)) < len(pairs)
    some = pairs.batch([expected.index(0), 1, 2])
    assert torch.equal(some.groups, pairs.groups[[0, 1, 2]]) and some.n_distinct == 3
    uses = Counter(cores).values()
    assert max(uses) <= min(uses) + 1  # none comes again before all have come
    for twin in ("nonsense", "labels"):
        made = build_pairs("for_while", tokenizer, "heldout", N, 0, twin)
        assert torch.equal(made.groups, pairs.groups)
    by_hand = PairSet(
        task="", split="val", seed=0, twin=None, tokens=pairs.tokens[[0, 1, 0]], last=pairs.last[[0, 1, 0]],
        answers=pairs.answers[[0, 1, 0]], texts=tuple(pairs.texts[i] for i in (0, 1, 0)),
    )  # fmt: skip
    assert by_hand.n_distinct == 2 and by_hand.groups[0] == by_hand.groups[2] != by_hand.groups[1]


def side_told_by(values: torch.Tensor) -> float:
    """Share of sides that a reader of one number tells apart: `[n, 2]` integers, learned on half of the pairs and judged on the other.

    It knows how often every number, or its neighbours, came on each side.
    """
    values = values - values.min()
    right = []
    for learned, judged in (values.tensor_split(2), values.tensor_split(2)[::-1]):
        counts = torch.stack([learned[:, side].bincount(minlength=int(values.max()) + 1).float() for side in (0, 1)])
        smooth = torch.nn.functional.conv1d(counts[:, None], torch.tensor([[[0.25, 0.5, 0.25]]]), padding=1)[:, 0]
        says_negative = (smooth[1][judged] > smooth[0][judged]).float()
        right += [(1 - says_negative[:, 0]).mean(), says_negative[:, 1].mean()]
    return float(torch.stack(right).mean())


FEATURES: dict[str, Callable[[str], int]] = {
    "characters": len,
    "lines": lambda text: text.count("\n"),
    "digits": lambda text: sum(map(str.isdigit, text)),
    "words": lambda text: len(text.split()),
    "calls": lambda text: text.count("("),
}


def texts_before(pairs: PairSet) -> list[tuple[str, str]]:
    """What stands before the prompts that the task's generator wrote, on both sides of every pair."""
    texts = TASKS[pairs.task].texts(pairs.split, Random(f"{pairs.task}/{pairs.split}/{pairs.seed}"))
    cores = {
        (text.positive.prompt + hinge, text.negative.prompt + hinge)
        for text in islice(texts, 8000)
        for hinge in {"", text.positive.hinge}
    }
    found = []
    for text in pairs.texts:
        sides = [side.prompt for side in text.sides]
        starts = ([0, *(match.end() for match in re.finditer("\n", side))] for side in sides)
        places = [(i, j) for i, j in product(*starts) if (sides[0][i:], sides[1][j:]) in cores]
        found.append(tuple(side[:at] for side, at in zip(sides, min(places), strict=True)))
    return found


@pytest.mark.parametrize("name", TASKS)
def test_what_stands_before_the_prompts_tells_nothing(name, tokenizer):
    pairs = build_pairs(name, tokenizer, "heldout", 400, seed=0, max_tokens=32)
    before = texts_before(pairs)
    assert all(positive == negative for positive, negative in before)
    for feature in FEATURES.values():
        assert side_told_by(torch.tensor([[feature(side) for side in pair] for pair in before])) == 0.5
    assert len({len(positive) for positive, _ in before}) > 1  # there is something to read
    assert side_told_by(pairs.last) < 0.8  # positions vary more than the prompts' own lengths differ


def test_the_reader_finds_padding_that_tells():
    """Numbers that are longer on one side by as many digits as the other prompt has more tokens."""
    rng = Random(0)
    digits = [(rng.randint(1, 3), rng.randint(3, 5)) for _ in range(400)]
    before = [tuple("size = " + "3" * n + "\n" for n in pair) for pair in digits]
    told = {
        name: side_told_by(torch.tensor([[f(side) for side in pair] for pair in before]))
        for name, f in FEATURES.items()
    }
    assert told["digits"] > 0.75 and told["characters"] > 0.75 and told["lines"] == 0.5


@pytest.mark.parametrize("name", PYTHON_TASKS)
def test_most_pairs_are_distinct(name, pairs_of):
    for split in PAIR_SPLITS:
        assert pairs_of(name, split).n_distinct >= N // 3


@pytest.mark.parametrize("name", PYTHON_TASKS)
def test_python_prompts_are_the_beginning_of_python(name):
    """Prompt, answer and continuation parse, with a body after an open header and a condition before a lone elif."""
    bodies = [" " * indent + "pass\n" for indent in (4, 8, 12)]
    bodies = ["", *bodies, *(body + "finally:\n    pass\n" for body in ("", *bodies))]
    for split in PAIR_SPLITS:
        for text in islice(TASKS[name].texts(split, Random(0)), 8):
            for side in (text.positive, text.negative):
                full = side.prompt + side.hinge + side.answer + side.continuation
                assert any(parses(full + body) for body in bodies), full


def test_bad_requests_name_the_value_and_what_is_allowed(tokenizer):
    with pytest.raises(ValueError, match=r"unknown task 'for_whle': did you mean for_while.*tasks are .*class_init"):
        get_task("for_whle")
    with pytest.raises(
        ValueError, match="unknown split 'test': choose one of train, val, heldout, shifted, paraphrased"
    ):
        build_pairs("for_while", tokenizer, "test", 4, 0)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="unknown split 'test'"):
        pool("test")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="unknown twin 'random': choose None or one of nonsense, labels"):
        build_pairs("for_while", tokenizer, "val", 4, 0, "random")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="n=0"):
        build_pairs("for_while", tokenizer, "val", 0, 0)
    with pytest.raises(ValueError, match="max_tokens=1"):
        build_pairs("for_while", tokenizer, "val", 4, 0, max_tokens=1)
    with pytest.raises(ValueError, match=r"'indent_for' \(split 'val', max_tokens=6\): 200 of 200 .*too_long: 200"):
        build_pairs("indent_for", tokenizer, "val", 4, 0, max_tokens=6)


def test_a_task_with_few_pairs_runs_out_and_says_so(tokenizer):
    def generate(rng, names):
        side = Side(prompt="for x", answer=" in", continuation=" y")
        return PairText(positive=side, negative=Side(prompt="while x", answer=":", continuation="\n"))

    one = GeneratedTask(name="one", description="always the same pair", generate=generate)
    with pytest.raises(ValueError, match="duplicate: "):
        build_pairs(one, tokenizer, "val", 10**6, 0, max_tokens=4)


def test_texts_refuse_what_cannot_be_asked():
    with pytest.raises(ValueError, match="not end in a space"):
        Side(prompt="for x in ", answer="y", continuation="")
    with pytest.raises(ValueError, match="answer to 'x' is empty"):
        Side(prompt="x", answer="", continuation="")
    with pytest.raises(ValueError, match="different hinges"):
        PairText(
            positive=Side(prompt="x", hinge='"', answer=":", continuation=""),
            negative=Side(prompt="x", answer=",", continuation=""),
        )
