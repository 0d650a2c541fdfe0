"""Prompts to the letter, and what a budget leaves of them; one token is one character."""

import pytest
from planted_reader import LetterTokenizer

from sparsetrain.curriculum.prompts import NO_ANSWER, TOO_LONG, Example, WordingConfig, Written, write

SHORT = WordingConfig(example="{question}={answer};")
SHOWN = [Example(question=q, answer=a) for q, a in (("ab", "1"), ("cd", "2"), ("ef", "3"))]
ASKED = Example(question="xy", answer="7")


class LastLettersTokenizer(LetterTokenizer):
    """Writes `=7` as one token, so that an answer 7 has none of its own."""

    def encode(self, text: str) -> list[int]:
        return super().encode(text.replace("=7", "@"))


def written(n_tokens: int | None = None, shown=SHOWN, wording=SHORT, asked=ASKED) -> tuple[str, int, int]:
    found = write(LetterTokenizer(), wording, shown, asked, n_tokens)
    assert isinstance(found, Written), found
    assert found.item.tokens[0] == 0
    return LetterTokenizer().decode(found.item.tokens[1:]), found.item.n_answer, found.n_dropped


def test_demonstrations_stand_in_their_order_and_the_question_ends_in_front_of_its_answer():
    assert written() == ("ab=1;cd=2;ef=3;xy=7", 1, 0)
    assert written(shown=()) == ("xy=7", 1, 0)
    prompt = WordingConfig(instruction="Add.\n").prompt(SHOWN[:1], ASKED)
    assert prompt.before == "Add.\nQuestion: ab\nAnswer: 1\n\nQuestion: xy\nAnswer:" and prompt.answer == " 7"


@pytest.mark.parametrize(
    ("n_tokens", "left", "n_dropped"),
    [
        (20, "ab=1;cd=2;ef=3;", 0),  # one in front, three times five, xy=7
        (19, "cd=2;ef=3;", 1),
        (15, "cd=2;ef=3;", 1),
        (14, "ef=3;", 2),
        (10, "ef=3;", 2),
        (9, "", 3),
        (5, "", 3),
    ],
)
def test_a_budget_drops_whole_demonstrations_from_the_front(n_tokens, left, n_dropped):
    assert written(n_tokens) == (f"{left}xy=7", 1, n_dropped)


def test_a_question_longer_than_the_budget_has_no_prompt():
    assert write(LetterTokenizer(), SHORT, SHOWN, ASKED, 4) == TOO_LONG
    assert write(LastLettersTokenizer(), SHORT, SHOWN, ASKED, None) == NO_ANSWER


def test_braces_in_a_question_or_an_answer_stay_as_they_are():
    odd = Example(question="{answer} of {question}{0}", answer="{question}")
    assert SHORT.demonstration(odd) == "{answer} of {question}{0}={question};"
    assert (
        written(shown=(odd,), asked=odd)[0]
        == "{answer} of {question}{0}={question};{answer} of {question}{0}={question}"
    )


def test_every_answer_is_written_in_a_prompt_as_in_a_demonstration():
    for wording in (SHORT, WordingConfig(), WordingConfig(example="Q {question}\nA\n{answer}\n")):
        prompt = wording.prompt(SHOWN, ASKED)
        assert "".join(map(wording.demonstration, [*SHOWN, ASKED])).startswith(prompt.before + prompt.answer)


@pytest.mark.parametrize(
    "example", ["{question}", "{answer} {question}", "{question} {question} {answer}", "{question} {answer} {answer}", "no"]
)  # fmt: skip
def test_a_wording_without_a_place_for_both_is_refused(example):
    with pytest.raises(ValueError, match=r"must have \{question\} and then \{answer\}, once each, as in 'Question: "):
        WordingConfig(example=example)
