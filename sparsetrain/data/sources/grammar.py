r"""A small language of templates: text with slots, drawn in the order in which they stand.

A grammar is a text file of sections (`[words]`, `[parts]`, ...). In it a name at the left edge begins a list of words or a
rule, and what is indented below belongs to it. A rule may take arguments (`block low high`), or a weight in its section
(`swap 5`). Its text is written line by line; a line indents all that its slots write, and a line of slots that write
nothing is left out.

    {many}              one of a list of words, another rule, or a method of the writer; `{path INPUTS}` hands arguments on
    {NOUNS.upper}       ... changed by a method of `str`
    {name=holder}       kept under a name for the rest of the rule: `{name}` writes it again
    {:name=holder}      drawn here, but not written
    {2-5}               a number
    {a|b{var}}          all alternatives are drawn, one of them is written
    {60% a|30% b}       one is chosen and drawn; nothing in what is left of 100%
    {"a {var}"}         in single or double quotes
    {1-3, {word}}       one to three times, between commas
    {1-3 * {line}}      one to three times, a line each
    {x in names, f{x}}  for every x of a list that was kept, or that a call gives (`x in some NOUNS 1 3`); or with ` * `
    \{ \} \n            what these signs mean in a literal

Lines that begin with a share (`60% text`, or `60%` alone with its lines below) are alternatives for the rest of a rule.
"""

import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from random import Random
from typing import Any

Names = dict[str, Any]
Part = Callable[["RuleWriter", Names], Any]  # gives a text, or a list of words

_TOKEN = re.compile(r"\\.|[{}|]|[^\\{}|]+")
_EACH = re.compile(r"(\w+) in ([\w ]+)( \*|,) (.*)")
_TIMES = re.compile(r"(\w+)(?:-(\w+))?( \*|,) (.*)")
_CALL = re.compile(r"(\w+)((?: \w+)*)(?:\.(\w+))?")


class RuleWriter:
    """Draws and writes the rules of a grammar; a subclass adds words and methods that rules can name.

    Args:
        grammar: the rules.
        rng: source of every draw.

    Attributes:
        words: lists by name; those of the grammar, to which a subclass may add its own.
    """

    def __init__(self, grammar: "Grammar", rng: Random) -> None:
        self.random = rng.random
        self.grammar = grammar
        self.words: dict[str, Sequence[str]] = {**grammar.words}

    def chance(self, p: float) -> bool:
        return self.random() < p

    def integer(self, low: int, high: int) -> int:
        return low + int(self.random() * (high - low + 1))

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.random() * len(options))]

    def some(self, options: Sequence[str], low: int, high: int | None = None) -> list[str]:
        """Up to `low`, or `low` to `high`, distinct options."""
        n = low if high is None else self.integer(low, high)
        return list(dict.fromkeys(self.pick(options) for _ in range(n)))

    def first(self, words: Sequence[str]) -> str:
        return words[0]

    def last(self, words: Sequence[str]) -> str:
        return words[-1]

    def but_last(self, words: Sequence[str]) -> Sequence[str]:
        return words[:-1]

    def quoted(self, text: str) -> str:
        return f"'{text}'" if self.random() < 0.5 else f'"{text}"'

    def write(self, rule: str, *arguments: Any) -> str:
        """What a rule writes."""
        return self.grammar.rules[rule](self, arguments)


class Grammar:
    """The rules of a text.

    Args:
        text: in the language of this module.
        methods: names of words and of methods that a writer adds.

    Attributes:
        words: the lists of the section `words`.
        rules: all other entries; a rule takes a writer and the rule's arguments.
        weights: section -> rule -> weight, of the rules that have one.

    Raises:
        ValueError: a slot that cannot be read, or names what there is not; shares of more than 100%.
    """

    def __init__(self, text: str, methods: Sequence[str]) -> None:
        self.words: dict[str, tuple[str, ...]] = {}
        self.rules: dict[str, Callable[[RuleWriter, Sequence[Any]], str]] = {}
        self.weights: dict[str, dict[str, int]] = {}
        self._methods = set(methods)
        bodies: dict[str, tuple[list[str], list[str]]] = {}
        for section, entries in re.findall(r"^\[(\w+)\]\n(.*?)(?=^\[|\Z)", text, flags=re.S | re.M):
            for head, body in re.findall(r"^(\w.*)\n((?:\n|    .*\n)*)", entries, flags=re.M):
                name, *rest = head.split()
                if section == "words":
                    self.words[name] = tuple(body.split())
                    continue
                if rest and rest[0].isdigit():
                    self.weights.setdefault(section, {})[name] = int(rest.pop())
                bodies[name] = rest, [line[4:] for line in body.rstrip().split("\n")]
        self._known = {*self.words, *bodies, *self._methods}
        self.rules.update({name: self._rule(name, *each) for name, each in bodies.items()})

    def _rule(self, name: str, parameters: list[str], lines: list[str]) -> Callable[[RuleWriter, Sequence[Any]], str]:
        bound = set(parameters)
        try:
            body = self._lines(lines, bound)
        except ValueError as error:
            raise ValueError(f"rule {name!r}: {error}") from None
        return lambda g, arguments: body(g, dict(zip(parameters, arguments, strict=True)))

    def _lines(self, lines: list[str], bound: set[str]) -> Part:
        shares = [i for i, line in enumerate(lines) if re.match(r" *\d+%", line)]
        parts: list[tuple[str, Part | None]] = []
        for line in lines[: shares[0] if shares else None]:
            text = line.lstrip()
            parts.append((line[: len(line) - len(text)], self._text(text, bound) if text else None))
        if shares:
            alternatives: list[tuple[int, Part]] = []
            for start, end in zip(shares, [*shares[1:], len(lines)], strict=True):
                percent, text = lines[start].split("%", 1)
                own = [*([text[1:]] if text else []), *lines[start + 1 : end]]
                alternatives.append((int(percent), self._lines(own, {*bound})))
            parts.append(("", _chosen(alternatives)))

        def write(g: RuleWriter, names: Names) -> str:
            written = []
            for indent, part in parts:
                text = _written(part(g, names)) if part else ""
                if text or not part:
                    written += [indent + line if line else line for line in text.split("\n")]
            return "\n".join(written)

        return write

    def _text(self, text: str, bound: set[str]) -> Part:
        parts: list[str | Part] = []
        for i, piece in enumerate(_cut(text, "{}")):
            if i % 2:
                parts.append(self._slot(piece, bound))
            elif piece:
                parts.append(re.sub(r"\\(.)", lambda match: "\n" if match[1] == "n" else match[1], piece))
        if len(parts) == 1 and not isinstance(parts[0], str):
            return parts[0]
        return lambda g, names: "".join([part if isinstance(part, str) else _written(part(g, names)) for part in parts])

    def _slot(self, slot: str, bound: set[str]) -> Part:
        if slot.startswith(":"):
            return _silent(self._slot(slot[1:], bound))
        if match := re.fullmatch(r"(\w+)=(.*)", slot):
            part = self._slot(match[2], bound)
            bound.add(match[1])
            return _kept(match[1], part)
        options = _cut(slot, "|")
        if re.match(r"\d+% ", slot):
            shares = [option.split("% ", 1) for option in options]
            return _chosen([(int(percent), self._text(text, {*bound})) for percent, text in shares])
        if len(options) > 1:
            parts = [self._text(option, {*bound}) for option in options]
            return lambda g, names: g.pick([_written(part(g, names)) for part in parts])
        if slot.startswith('"') and slot.endswith('"'):
            text = self._text(slot[1:-1], bound)
            return lambda g, names: g.quoted(_written(text(g, names)))
        if match := _EACH.fullmatch(slot):
            return self._each(match[1], self._slot(match[2], bound), match[3], match[4], bound)
        if match := _TIMES.fullmatch(slot):
            times = self._integer(match[1], match[2], bound)
            return self._each("", lambda g, names: range(int(times(g, names))), match[3], match[4], bound)
        if match := re.fullmatch(r"(\w+)-(\w+)", slot):
            return self._integer(match[1], match[2], bound)
        if match := _CALL.fullmatch(slot):
            return self._call(match[1], match[2].split(), match[3], bound)
        if "{" in slot:
            return self._text(slot, bound)
        raise ValueError(f"cannot read {{{slot}}}")

    def _each(self, name: str, values: Part, between: str, text: str, bound: set[str]) -> Part:
        part = self._text(text, {*bound, name})
        separator = "\n" if between == " *" else ", "

        def write(g: RuleWriter, names: Names) -> str:
            return separator.join([_written(part(g, {**names, name: value})) for value in values(g, names)])

        return write

    def _integer(self, low: str, high: str | None, bound: set[str]) -> Part:
        first, last = self._argument(low, bound), self._argument(high or low, bound)
        if high is None:
            return first
        return lambda g, names: str(g.integer(int(first(g, names)), int(last(g, names))))

    def _argument(self, name: str, bound: set[str]) -> Part:
        if name.isdigit():
            return lambda g, names: int(name)
        if name in bound:
            return lambda g, names: names[name]
        if name in self._known:
            return lambda g, names: g.words[name]
        raise ValueError(f"there is no {name!r}")

    def _call(self, name: str, arguments: list[str], change: str | None, bound: set[str]) -> Part:
        values = [self._argument(argument, bound) for argument in arguments]
        if name not in bound | self._known:
            raise ValueError(f"there is no {name!r}")
        kept = name in bound

        def call(g: RuleWriter, names: Names) -> Any:
            if kept:
                value = names[name]
            elif name in g.words:
                value = g.pick(g.words[name])
            elif name in self.rules:
                value = self.rules[name](g, [value(g, names) for value in values])
            else:
                value = getattr(g, name)(*[value(g, names) for value in values])
            return value if change is None else getattr(_written(value), change)()

        return call


def _cut(text: str, signs: str) -> list[str]:
    """The text cut at "|" outside of slots, or at "{}", the edges of slots: literals and slots in turn."""
    parts, depth = [""], 0
    for token in _TOKEN.findall(text):
        depth -= token == "}"
        if depth < 0:
            break
        if token in signs and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
        depth += token == "{"
    if depth:
        raise ValueError(f"braces do not match in {text!r}")
    return parts


def _silent(part: Part) -> Part:
    def draw(g: RuleWriter, names: Names) -> str:
        part(g, names)
        return ""

    return draw


def _kept(name: str, part: Part) -> Part:
    def keep(g: RuleWriter, names: Names) -> Any:
        names[name] = part(g, names)
        return names[name]

    return keep


def _chosen(alternatives: list[tuple[int, Part]]) -> Part:
    ends = list(accumulate(percent for percent, _ in alternatives))
    if ends[-1] > 100:
        raise ValueError(f"shares of {ends[-1]}%")

    def write(g: RuleWriter, names: Names) -> Any:
        u = g.random()
        for end, (_, part) in zip(ends, alternatives, strict=True):
            if u < end / 100:
                return part(g, names)
        return ""

    return write


def _written(value: str | Sequence[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)
