"""Prompts harder by degrees: one form on both sides, answers that are right, and a control that differs in one respect. The facts are stand-ins."""

from collections.abc import Sequence
from itertools import product

import pytest
from probe_machine import PieceTokenizer

from sparsetrain.data.knowledge import Fact
from sparsetrain.data.probes import SIDES, Probe, Probes, ProbesConfig
from sparsetrain.data.probes import prompts as module
from sparsetrain.data.probes.prompts import PROMPTS
from sparsetrain.data.probes.texts import Piece

CONFIG = ProbesConfig(
    n_prompts=10, n_demonstrations=3, context=(0, 8, 40), choices=(2, 4, 6), rules=("upper_case", "plural")
)
TOKENIZER = PieceTokenizer()


@pytest.fixture(autouse=True)
def facts(monkeypatch: pytest.MonkeyPatch) -> None:
    def of(relation: str) -> Sequence[Fact]:
        names = [f"{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(120)]
        return [
            Fact(relation=relation, subject=f"sub{n}", answer=f"ans{n}", fame=9 - i / 20) for i, n in enumerate(names)
        ]

    monkeypatch.setattr(module, "facts_of", of)
    monkeypatch.setattr(module, "versions", lambda relations: {"stand-in": "1.0"})
    pieces = [Piece(package="prose", text=f"some words of prose number {i} that go on") for i in range(60)]
    monkeypatch.setattr(module, "pieces_of", lambda kind, seed, n_tokens: iter(pieces))
    monkeypatch.setattr(module, "version_of", lambda package: "2.0")


def texts_of(probes: Probes, row: int = 0) -> dict[tuple[str, int], tuple[str, str]]:
    """(side, level) -> prompt and answer of a row, as words."""
    decode = TOKENIZER.decode

    def words(probe: Probe) -> tuple[str, str]:
        n = len(probe.tokens) - probe.n_answer
        return decode(probe.tokens[1:n]), decode(probe.tokens[n:])

    return {(p.side, p.level): words(p) for p in probes.probes if p.row == row}


@pytest.mark.parametrize("name", PROMPTS)
def test_rows_end_alike_on_both_sides_and_ask_for_one_answer(name):
    probes = PROMPTS[name](CONFIG, TOKENIZER)
    n_sides, n_levels, n_rows = probes.shape
    assert n_sides == 2 and n_levels == len(probes.levels) and n_rows >= CONFIG.n_prompts
    for row in range(n_rows):
        found = texts_of(probes, row)
        for level in range(n_levels):
            (prompt, answer), (other, same) = (found[side, level] for side in SIDES)
            assert answer == same and answer.strip()
            assert prompt.rsplit("\n", 1)[-1] == other.rsplit("\n", 1)[-1]
    again, other_seed = (PROMPTS[name](ProbesConfig(**{**vars(CONFIG), "seed": s}), TOKENIZER) for s in (0, 1))
    assert again.sha256 == probes.sha256 and (other_seed.sha256 != probes.sha256)


@pytest.mark.parametrize("name", ["digits", "steps"])
def test_sums_are_right_and_the_control_has_the_question_in_front(name):
    probes = PROMPTS[name](CONFIG, TOKENIZER)
    for row, (side, level) in product(range(10), product(SIDES, range(len(probes.levels)))):
        prompt, answer = texts_of(probes, row)[side, level]
        *shown, asked = prompt.split("\n")
        for line in [*shown, asked + answer]:
            question, _, total = line.partition("=")
            numbers = [int(n) for n in question.split("+")]
            assert sum(numbers) == int(total)
            size = CONFIG.digits[level] if name == "digits" else 1
            assert {len(str(n)) for n in numbers} == {size} and len(numbers) == (
                2 if name == "digits" else CONFIG.steps[level]
            )
        assert len(shown) == CONFIG.n_demonstrations
        assert (asked + answer in shown) == (side == "control")
        assert sum(line.startswith(asked) for line in shown) == (side == "control")


def test_rules_are_followed_and_copied_in_the_control_alone():
    probes = PROMPTS["rules"](CONFIG, TOKENIZER)
    assert probes.levels == CONFIG.rules and probes.sources == {"stand-in": "1.0"}
    for row in range(10):
        for (side, _), (prompt, answer) in texts_of(probes, row).items():
            *shown, asked = prompt.split("\n")
            assert (asked + answer in shown) == (side == "control")
            assert answer.strip() == asked.split(" ")[0].replace("sub", "ans")


def test_options_are_the_same_names_on_both_sides_and_two_are_options_in_the_control():
    probes = PROMPTS["choices"](CONFIG, TOKENIZER)
    for row, (level, n) in product(range(10), enumerate(CONFIG.choices)):
        (shift, answer), (control, _) = (texts_of(probes, row)[side, level] for side in SIDES)
        lines = [
            [line for line in text.split("\n") if line.startswith(("Option", "Note"))] for text in (shift, control)
        ]
        names = [[line.partition(": ")[2] for line in of_side] for of_side in lines]
        assert names[0] == names[1] and len(set(names[0])) == n and answer.strip() in names[0]
        assert all(line.startswith("Option") for line in lines[0])
        options = [line.partition(": ")[2] for line in lines[1] if line.startswith("Option")]
        assert len(options) == 2 and answer.strip() in options
    assert texts_of(probes)["shift", 0] == texts_of(probes)["control", 0]


@pytest.mark.parametrize("name", ["context_irrelevant", "context_relevant"])
def test_context_has_the_length_asked_for_in_front_of_the_question_or_behind_it(name):
    probes = PROMPTS[name](CONFIG, TOKENIZER)
    lengths = {(p.side, p.level, p.row): len(p.tokens) for p in probes.probes}
    for row in range(10):
        found = texts_of(probes, row)
        question = found["shift", 0][0].split("\n")[0]
        assert found["shift", 0] == found["control", 0]
        for level, n in list(enumerate(CONFIG.context))[1:]:
            assert lengths["shift", level, row] == lengths["control", level, row] == lengths["shift", 0, row] + n + 1
            assert question in found["shift", level][0] and not found["shift", level][0].startswith(question)
            assert found["control", level][0].startswith(question)
        answer = found["shift", 0][1].strip()
        assert answer not in found["shift", 2][0]  # the fact that is asked for does not stand in the context


def test_statements_are_false_in_the_shift_and_true_in_the_control():
    probes = PROMPTS["conflict"](CONFIG, TOKENIZER)
    assert probes.shape[2] == module.N_KNOWN * CONFIG.n_prompts
    for row in range(probes.shape[2]):
        found = texts_of(probes, row)
        for level, n in enumerate(CONFIG.conflict):
            (false, answer), (true, _) = (found[side, level] for side in SIDES)
            assert true.count(answer.strip()) == n and answer.strip() not in false
            assert false.count("\n") == true.count("\n") == n + 1


def test_a_row_whose_answer_melts_into_the_prompt_is_left_out_and_counted():
    class Melting(PieceTokenizer):
        def encode(self, text: str) -> list[int]:
            return super().encode(text.replace("is anscd", "isanscd"))

    probes = PROMPTS["choices"](ProbesConfig(**{**vars(CONFIG), "n_prompts": 60}), Melting())
    assert probes.rejected == {"the answer does not begin with a token of its own": 1} and probes.shape[2] == 60


def test_too_little_material_is_said():
    with pytest.raises(ValueError, match=r"only 0 rows of 'tokens of prose in front of the question' can be made"):
        PROMPTS["context_irrelevant"](ProbesConfig(**{**vars(CONFIG), "context": (0, 4000)}), TOKENIZER)
