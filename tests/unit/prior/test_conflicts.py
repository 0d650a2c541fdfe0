"""Conflicts of users: what a row becomes, what is wrong with a row, and prompts of texts and tokens by the same code."""

import json

import pytest

from circuits.prior.cases import AGREEING, IRRELEVANT, NOTHING, STATED, Case, Form, Pieces, case_of
from circuits.prior.conflicts import (
    NEUTRAL,
    Conflict,
    WordingConfig,
    cases_of,
    halves,
    neutral_texts,
    pieces_of,
    read_conflicts,
)
from sparsetrain.data.reading import Skip

ROW = {
    "context": "In this story the capital of France is Rome.",
    "question": "The capital of France is",
    "prior": "Paris",
    "answer": "Rome",
}


class Letters:
    """A token is a character; the separator stands in front."""

    unknown_id = None

    def encode(self, text):
        return [0, *(ord(letter) for letter in text)]


class Joining(Letters):
    """Joins a blank with the letter behind it, also at the end of a prompt."""

    def encode(self, text):
        return [0, *(hash(word) % 10000 + 5 for word in text.split(" "))]


def text_of(tokens):
    return "".join(map(chr, tokens[1:]))


def read(tmp_path, *rows):
    path = tmp_path / "conflicts.jsonl"
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
    return read_conflicts([str(path)])


def test_prompts_of_text_and_of_tokens_are_made_alike():
    words = Pieces[str](stated=("S.", "T."), question="Q", agreeing=("A.",), trust=("!",), filler=("x.", "y.", "z."))
    ids = Pieces[tuple[int, ...]](
        stated=((1,), (2,)), question=(9,), agreeing=((3,),), trust=((7,),), filler=((4,), (5,), (6,))
    )
    for form, text, tokens in (
        (STATED, "S.Q", (1, 9)),
        (NOTHING, "Q", (9,)),
        (AGREEING, "A.Q", (3, 9)),
        (Form(n=3, wording=1), "T.T.T.Q", (2, 2, 2, 9)),
        (Form(trust=0, n=2), "!S.S.Q", (7, 1, 1, 9)),
        (Form(before=2), "x.y.S.Q", (4, 5, 1, 9)),
        (Form(behind=4), "S.x.y.z.x.Q", (1, 4, 5, 6, 4, 9)),
    ):
        assert words.prompt(form) == text and ids.prompt(form) == tokens
    assert all(
        pieces.prompt(form) is None
        for pieces in (words, ids)
        for form in (IRRELEVANT, Form(wording=2), Form(trust=1), Form(distrust=0))
    )


def test_a_row_becomes_prompts(tmp_path):
    found = read(
        tmp_path,
        ROW,
        {
            **ROW,
            "context": "Bread is made of flour.",
            "question": "Bread is made of",
            "prior": "wheat",
            "answer": "flour",
            "relation": "food",
            "fact": "bread",
        },
    )
    forms = [AGREEING, IRRELEVANT, Form(wording=1), Form(trust=0)]
    (first, second), skipped = cases_of(found.rows, Letters(), WordingConfig(), forms, None)
    assert not skipped and (second.fact, second.group, first.fact) == ("bread", "food", "The capital of France is")
    assert text_of(first.prompts[STATED]) == "In this story the capital of France is Rome.\nThe capital of France is"
    assert text_of(first.prompts[NOTHING]) == "The capital of France is"
    assert text_of(first.prompts[AGREEING]) == "In this story the capital of France is Paris.\nThe capital of France is"
    assert text_of(first.prompts[IRRELEVANT]) == "Bread is made of flour.\nThe capital of France is"
    assert text_of(first.prompts[Form(wording=1)]).startswith("It is known that: In this story")
    assert "".join(map(chr, first.context)) == " Rome" and "".join(map(chr, first.prior)) == " Paris"


def test_what_is_irrelevant_is_about_another_fact(tmp_path):
    """Not the same question contradicted in another way; and answers count where they are words, not letters of others."""
    berlin = {**ROW, "context": "In this story the capital of France is Berlin.", "answer": "Berlin"}
    letters = {
        "context": "According to the key, the answer is A.",
        "question": "The answer is",
        "prior": "B",
        "answer": "A",
    }
    found = read(tmp_path, ROW, berlin, letters, ROW)
    made, skipped = cases_of(found.rows, Letters(), WordingConfig(), [AGREEING, IRRELEVANT], None)
    assert [one.reason for one in skipped] == [f"the same as {found.rows[0].place}"]
    for case in made[:2]:
        assert text_of(case.prompts[IRRELEVANT]).startswith("According to the key")
    assert text_of(made[2].prompts[AGREEING]).startswith("According to the key, the answer is B.")
    assert text_of(made[2].prompts[IRRELEVANT]).startswith("In this story the capital of France is Rome.")
    years = {"context": "In 1975 it had 7 moons.", "question": "It had", "prior": "5", "answer": "7"}
    (case,), _ = cases_of(read(tmp_path, years).rows, Letters(), WordingConfig(), [AGREEING], None)
    assert text_of(case.prompts[AGREEING]).startswith("In 1975 it had 5 moons.")


@pytest.mark.parametrize(
    ("context", "prior", "answer", "agreeing"),
    [
        ("日本的首都是大阪。", "东京", "大阪", "日本的首都是东京。"),  # a script without blanks
        ("서울은 수도다.", "부산", "서울", "부산은 수도다."),
        ("It weighs 5kg of 15kg.", "7", "5", "It weighs 7kg of 15kg."),
        ("B7 and v7b, CO7: 7!", "5", "7", "B7 and v7b, CO7: 5!"),
        ("Рим не римский: Рим.", "Париж", "Рим", "Париж не римский: Париж."),
    ],
)
def test_answers_are_found_in_every_script(tmp_path, context, prior, answer, agreeing):
    row = {"context": context, "question": "Q:", "prior": prior, "answer": answer}
    other = {"context": f"{answer}, {prior}", "question": "R:", "prior": "x", "answer": "y"}
    made, _ = cases_of(read(tmp_path, row, other).rows, Letters(), WordingConfig(), [AGREEING, IRRELEVANT], None)
    assert text_of(made[0].prompts[AGREEING]).startswith(agreeing)
    assert IRRELEVANT not in made[0].prompts, "it holds both answers"


def test_what_a_row_gives_is_taken(tmp_path):
    row = {
        **ROW,
        "paraphrases": ["Rome, capital of France."],
        "agreeing": "Paris it is.",
        "irrelevant": "Cats sleep.",
        "others": ["Lyon"],
        "strength": 3,
    }
    found = read(tmp_path, row)
    (case,), _ = cases_of(
        found.rows, Letters(), WordingConfig(), [AGREEING, IRRELEVANT, Form(wording=1), Form(wording=5)], None
    )
    assert text_of(case.prompts[AGREEING]).startswith("Paris it is.") and text_of(case.prompts[IRRELEVANT]).startswith(
        "Cats sleep."
    )
    assert text_of(case.prompts[Form(wording=1)]).startswith("Rome, capital") and Form(wording=5) in case.prompts
    assert len(case.answers) == 3 and case.strength == 3 and found.strength == "field `strength` of the rows"
    assert read(tmp_path, {**ROW, "exposures": 4}).exposures and read(tmp_path, ROW).strength == ""


def test_the_blank_in_front_of_an_answer():
    def blank(question):
        pieces, found = pieces_of(
            Conflict(place="", context="c", question=question, prior="a", answer="b"), WordingConfig(), ""
        )
        return pieces.question, found

    assert (
        blank("It is") == ("It is", " ")
        and blank("It is ") == ("It is", " ")
        and blank("Answer:\n") == ("Answer:\n", "")
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**ROW, "prior": None}, "no field 'prior'"),
        ({"context": "x", "question": "y"}, "no field 'prior'"),
        ({**ROW, "answer": 3}, "'answer' is no text"),
        ({**ROW, "question": "  "}, "'question' is empty"),
        ({**ROW, "answer": "Paris"}, "both answers are the same"),
        ({**ROW, "paraphrases": [3]}, "'paraphrases' is no list of texts"),
        ({**ROW, "others": {"a": 1}}, "'others' is no list of texts"),
        ({**ROW, "relation": 7}, "'relation' is no text"),
        ({**ROW, "strength": "far"}, "'strength' is no number"),
        ({**ROW, "strength": True}, "'strength' is no number"),
        ({**ROW, "exposures": -1}, "exposures=-1 is below 0"),
        ('{"context": "torn\n', "not JSON"),
        ("[1, 2]\n", "no text in field 'context'"),
        ({**ROW, "prior": "a\ud800"}, "lone surrogate"),
    ],
)
def test_a_row_that_is_no_conflict_is_named_and_the_others_kept(tmp_path, row, reason):
    found = read(tmp_path, ROW, row, ROW)
    assert len(found.rows) == 2
    (skip,) = found.skipped
    assert skip.name.endswith("conflicts.jsonl:2") and reason in skip.reason, skip


def test_files_without_a_conflict(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"no conflict in data=.*conflicts.jsonl:1: no field 'prior'; a row needs context, question, prior, answer",
    ):
        read(tmp_path, {"context": "x", "question": "y"})
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="no conflict in data="):
        read_conflicts([str(tmp_path / "empty.jsonl")])
    with pytest.raises(FileNotFoundError):
        read_conflicts([str(tmp_path / "nowhere.jsonl")])


def test_tables_are_read_too(tmp_path):
    path = tmp_path / "conflicts.csv"
    path.write_text("context,question,prior,answer,exposures\nA is b.,A is,c,b,4\n")
    found = read_conflicts([str(path)])
    assert found.rows[0].strength == 4 and found.exposures


def test_cases_that_a_tokenizer_cannot_write(tmp_path):
    found = read(tmp_path, ROW, {**ROW, "answer": "Pari"}, {**ROW, "context": "y" * 200})
    cases, skipped = cases_of(found.rows, Letters(), WordingConfig(), [Form(n=8)], 150)
    assert len(cases) == 1 and Form(n=8) not in cases[0].prompts, "a form that is too long is left out, not the case"
    assert [skip.reason for skip in skipped] == [
        "the answers are the same, or one is the beginning of another, to this tokenizer",
        "longer than the 150 tokens that the model reads",
    ]

    class Eager(Letters):
        def encode(self, text):
            return [0, *([ord(letter) for letter in text] if len(text) % 2 else [1] * len(text))]

    made = case_of(
        Pieces[str](stated=("s ",), question="q"),
        [],
        lambda t: tuple(Eager().encode(t)),
        prior="aa",
        context="b",
        place="p",
        fact="f",
    )
    assert isinstance(made, Skip) and "joins the end of the question" in made.reason


def test_neutral_texts_follow_what_is_not_about_a_conflict():
    made = neutral_texts(NEUTRAL, Letters(), WordingConfig(), [Form(n=2), IRRELEVANT], None)
    assert len(made) == len(NEUTRAL)
    assert text_of(made[0].prompts[STATED]).startswith("The shop at the corner sells") and "".join(
        map(chr, made[0].text)
    ).startswith(" opens")
    assert halves("a b c d e") == ("a b", "c d e")


@pytest.mark.parametrize("wrong", [{"statement": "no place"}, {"question": "{context}"}, {"rewordings": ("x",)}])
def test_templates_need_their_place(wrong):
    with pytest.raises(ValueError, match=r"must have \{(context|question)\} once"):
        WordingConfig(**wrong)


def test_cases_are_cases(tmp_path):
    (case,), _ = cases_of(read(tmp_path, ROW).rows, Joining(), WordingConfig(), [], None)
    assert isinstance(case, Case)
