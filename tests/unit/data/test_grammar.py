"""Each construct of the template language, and what it refuses."""

import random
from collections import Counter

import pytest

from sparsetrain.data.sources.grammar import Grammar, RuleWriter

WORDS = """
# A comment.
[words]
FRUIT
    apple pear
    plum

[parts]
fruit
    {FRUIT}
two low high
    {low-high * {fruit}}
"""
FRUIT = ("apple", "pear", "plum")


def written(rule: str, n: int = 200) -> Counter[str]:
    """What a rule of these lines writes, and how often."""
    lines = "\n".join(f"    {line}" if line else "" for line in rule.split("\n"))
    grammar = Grammar(f"{WORDS}\n[families]\nrule 3\n{lines}\n", dir(RuleWriter))
    assert grammar.weights == {"families": {"rule": 3}}
    return Counter(RuleWriter(grammar, random.Random(i)).write("rule") for i in range(n))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("{FRUIT}", {"apple", "pear", "plum"}),
        ("{FRUIT.upper}", {"APPLE", "PEAR", "PLUM"}),
        ("{fruit}s", {"apples", "pears", "plums"}),
        ("{x=a|b}{x}", {"aa", "bb"}),
        ("{:x=a|b}<{x}>", {"<a>", "<b>"}),
        ("{3-5}", {"3", "4", "5"}),
        ("{a|b{1-2}|}.", {"a.", "b1.", "b2.", "."}),
        ("{60% a|30% {b|c}}.", {"a.", "b.", "c.", "."}),
        ('{"a"}', {"'a'", '"a"'}),
        ("{1-2, x}", {"x", "x, x"}),
        ("{1-2 * x\\n  y}", {"x\n  y", "x\n  y\nx\n  y"}),
        ("{x in some FRUIT 1, f({x})}", {"f(apple)", "f(pear)", "f(plum)"}),
        ("{:x=some FRUIT 1}{y in x * {y}{y}}", {"appleapple", "pearpear", "plumplum"}),
        ("if:\n    {50% {a|b}}\nend", {"if:\nend", "if:\n    a\nend", "if:\n    b\nend"}),
        ("if:\n    {two 2 2}\n\n{:FRUIT}end", {f"if:\n    {a}\n    {b}\n\nend" for a in FRUIT for b in FRUIT}),
        ("a\n50%\n\n  b\n25% c", {"a\n\n  b", "a\nc", "a"}),
        (r"{a=1|1}\{\}", {"1{}"}),
    ],
)
def test_slots(rule: str, expected: set[str]) -> None:
    assert set(written(rule)) == expected


def test_shares_are_kept() -> None:
    counts = written("{20% a|70% b}.", n=4000)
    assert abs(counts["a."] / 4000 - 0.2) < 0.03 and abs(counts["b."] / 4000 - 0.7) < 0.03
    counts = written("{a|b|b|b}", n=4000)
    assert abs(counts["a"] / 4000 - 0.25) < 0.03


def test_all_alternatives_are_drawn_but_only_the_chosen_share() -> None:
    def position(rule: str) -> float:
        grammar = Grammar(f"[parts]\nrule\n    {rule}\n", dir(RuleWriter))
        g = RuleWriter(grammar, random.Random(1))
        g.write("rule")
        return g.random()

    draws = random.Random(1)
    following = [draws.random() for _ in range(6)]
    assert position("{{1-2}|{3-4}|{5-6}}") == following[4]
    assert position("{50% {1-2}|50% {3-4}}") == following[2]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("{nothing}", "rule 'rule': there is no 'nothing'"),
        ("{two nothing 1}", "there is no 'nothing'"),
        ("{a b", "braces do not match"),
        ("a}", "braces do not match"),
        ("{what?}", "cannot read {what\\?}"),
        ("{60% a|50% b}", "shares of 110%"),
        ("50% {x=a|b}\n50% {x}", "there is no 'x'"),
    ],
)
def test_what_cannot_be_read_is_named(rule: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        written(rule)
