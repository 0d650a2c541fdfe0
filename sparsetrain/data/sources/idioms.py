"""Simple, repetitive Python of the kind that language models write, from a seed.

1. A family is one idiom: a function that writes a few lines (a loop that collects into a set, a class whose `__init__`
   copies its arguments, a file opened for reading, ...) with names, literals, quotes and nesting drawn at random.
2. A document is a short module: optional imports, then a few families; function families fill their bodies with
   statement families. Each document has its own small pool of names, so that names recur within it.
3. Document i depends on (seed, i) alone. Every document parses.

Both kinds of quotes are equally likely for every single string, brackets nest one to three deep on one line and over
several, and a name never tells what type it holds: whoever predicts the next token has to look at the context.

A long file of short functions of one kind: a family is added by writing one and giving it a weight in the table at the end.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal

from sparsetrain.data.sources.document import Document, Skip, check_weight


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NOUNS = _words("""
account action address agent album alert amount animal answer apple area arg argument array arrow article asset
attribute author badge bag ball bank barrel basket battery beacon bean bird block board boat body bonus book bottle
bound bounds box branch bread brick bridge brush bucket budget bug building bus button byte cabin cable cache cake
camera camp candle car card cargo carpet cart case castle cat cell chain chair channel chapter char chart cherry
child chunk circle city claim client clock cloud coach coat code coin color column comet comment condition contact
content context corner cost counter country course cow crate crystal cup customer cycle data database day deer
default delay dentist depth desk device difference digit direction dish distance document dog domain door dragon
drawer dream drink driver drone drum duck duration eagle ear edge egg element email end engine entry error event
exam face factor family farm feature fence field figure film finger fish flag flight flower folder forest fork
format fox fraction frame friend frog fruit function game garden gate gear ghost gift glass goal grade grape graph
group guest guide hammer handler hat head header height hill history hobby horse host hotel hour house icon
identifier image index instance integer interval island issue jacket job judge key kind king kite knife label lake
lamp layer leader leaf length lesson letter level library light limit line link lion list_item location lock loop
machine map margin market match matrix max_value maximum meal member menu message meter method minute mirror mode
model module moment money monkey month moon motor mountain mouse movie name nest net node node_id note number
number_of_items nurse object ocean offer office offset operation operator option orange orbit order origin owner
package page paint pair panel paper parameter parcel parent parent_id part party path patient pattern peach pen
pencil percent period phone photo piano picture piece pilot pipe pixel place plan planet plant plate player plot
point pointer policy pond port position post potato prefix price printer priority prize process product profile
project property quantity queen question queue rabbit rack radio radius rain rate ratio reader recipe record region
report request resource response rider ring river road robot rocket role roof room root rope rotation route row rule
sailor salad sample scale school scope score screen seat section seed sensor sequence series server service session
setting shape sheep shelf ship shirt shoe shop signal singer site size skill slot snake song sound source space
speed spoon stage star start state station status step stone stop store storm story stream street student suffix
sugar survey switch symbol system table tag tail target target_name task teacher team temperature tent test text
thread threshold ticket tiger time timeout title token tool topic total_count tower town toy track train transaction
tree trip truck turtle type_name unit url user username valley value value_map vector vehicle version video view
village visitor voice volume wagon walk wall watch wave week weight whale wheel width window wing winter wolf word
worker writer x_axis year zebra zip_code zone
""")
ADJECTIVES = _words("""
active big black blue brave bright brown busy calm cheap clean clear cold common cool dark deep dirty dry early easy
empty fair fast final fine first flat free fresh full good gray great green happy hard heavy high hot huge kind
large last late lazy light little long loud low lucky main narrow new nice old open orange pale pink plain poor
proud purple quick quiet rare ready red rich rough round sad safe sharp short shy silent silver simple slow small
smart smooth soft sour strong sweet tall thick thin tiny total valid warm weak wet white whole wide wild wise wrong
yellow young
""")
VERBS = _words("""
add adjust apply archive assign book build buy call cancel check clean clear close collect combine compare compute
convert copy count create delete describe draw drop export fetch fill filter find fix format gather get group handle
hide join keep label link list load lock log make mark measure merge move open order pack paint parse pick plan play
prepare print process pull push rank read record reduce register remove rename repair report reset resize save scan
search select sell send set share show skip sort split start stop store submit swap test track trim update validate
visit wait walk wash watch wrap write
""")
HOLDERS = _words(
    """
result output current acc found total merged values data collected out buffer temp state final line res text
"""
)
LETTERS = _words("a b c d e g h k m n p q r s t u v w x y z")
INPUTS = _words("input input input inputs source config settings raw original existing saved template incoming data")
OUTPUTS = _words("output output output outputs result results report summary export backup log copy cleaned")
EXTENSIONS = _words("txt csv json log md dat tsv ini")
GREETINGS = _words(
    """
Hello Hi Welcome Total Found Name Value Result Count Score Loading Saved Error Item Step Size Done Got User
"""
)
MODULES = _words("os sys json math random time re csv logging string itertools collections datetime pathlib functools")
INDICES = _words("i i i i i i j k n x y index index idx idx num pos position step number")
SIGNS = "+*-"
ORDERS = "<>"
ERRORS = _words("ValueError TypeError KeyError IndexError RuntimeError OSError FileNotFoundError")

Lines = list[str]


@dataclass(frozen=True, kw_only=True)
class IdiomsSource:
    """Generated Python idioms."""

    kind: Literal["idioms"] = "idioms"
    weight: float = 1.0  # share of the rows of a batch, relative to the other sources
    n_chars: int = 8_000_000  # how much to generate; the last document may go beyond
    seed: int = 0  # another seed, other documents
    synthetic: Literal[True] = True  # reported with every number that depends on it

    def __post_init__(self) -> None:
        check_weight(self.weight)
        if self.n_chars < 1:
            raise ValueError(f"n_chars={self.n_chars} must be at least 1")

    def read(self) -> Iterator[Document | Skip]:
        """Yields modules until there are `n_chars` characters."""
        n_chars = 0
        for i in count():
            if n_chars >= self.n_chars:
                return
            text = write_module(random.Random(f"{self.seed}/{i}"))
            n_chars += len(text)
            yield Document(f"idiom_{self.seed}_{i}.py", text)

    def fingerprint(self) -> Any:
        return [self.kind, self.n_chars, self.seed]


def write_module(rng: random.Random) -> str:
    """One short module of valid Python."""
    g = Writer(rng)
    lines: Lines = []
    if g.chance(0.12):
        lines += g.docstring()
    if g.chance(0.25):
        lines += [*imports(g), ""]
    for _ in range(g.integer(2, 6)):
        if g.chance(0.5):
            if lines and lines[-1]:
                lines += ["", ""]
            lines += [*g.pick(_DEFINITIONS)(g), "", ""]
        else:
            lines += g.statement()
            if g.chance(0.3):
                lines.append("")
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join(lines) + "\n"


class Writer:
    """Draws names, literals, expressions and blocks; each document has its own."""

    def __init__(self, rng: random.Random) -> None:
        self.random = rng.random
        nouns = rng.sample(NOUNS, 14)
        self.nouns = nouns
        self.singular = {_plural(noun): noun for noun in nouns[:5]}
        self.lists = list(self.singular)
        self.scalars = [*nouns[5:10], self.pick(LETTERS), self.pick(HOLDERS), f"{self.pick(ADJECTIVES)}_{nouns[10]}"]
        self.objects = nouns[10:]

    def chance(self, p: float) -> bool:
        return self.random() < p

    def integer(self, low: int, high: int) -> int:
        return low + int(self.random() * (high - low + 1))

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.random() * len(options))]

    def some(self, options: Sequence[str], n: int) -> list[str]:
        """Up to n distinct options."""
        return list(dict.fromkeys(self.pick(options) for _ in range(n)))

    # names

    def var(self) -> str:
        """A name that may hold anything; recurs within the document."""
        return self.pick(self.scalars)

    def many(self) -> str:
        """A name of something that can be looped over."""
        return self.pick(self.lists)

    def one(self, many: str) -> str:
        """A loop variable for the elements of `many`."""
        if self.chance(0.5):
            return self.singular[many]
        return self.pick(LETTERS) if self.chance(0.4) else self.pick(NOUNS)

    def holder(self) -> str:
        """A fresh name for something that is built up; the same names for every type."""
        u = self.random()
        if u < 0.45:
            return self.pick(HOLDERS)
        if u < 0.75:
            return self.pick(NOUNS)
        return f"{self.pick(ADJECTIVES)}_{self.pick(NOUNS)}" if u < 0.9 else self.pick(self.lists)

    def function(self) -> str:
        u = self.random()
        if u < 0.7:
            return f"{self.pick(VERBS)}_{self.pick(self.nouns)}"
        return f"{self.pick(VERBS)}_{self.pick(self.lists)}" if u < 0.85 else self.pick(VERBS)

    def class_name(self) -> str:
        name = self.pick(self.nouns).title().replace("_", "")
        return self.pick(ADJECTIVES).title() + name if self.chance(0.35) else name

    def arguments(self, low: int, high: int) -> list[str]:
        pool = self.nouns if self.chance(0.5) else (NOUNS if self.chance(0.8) else LETTERS)
        return self.some(pool, self.integer(low, high))

    # literals

    def number(self) -> str:
        u = self.random()
        if u < 0.45:
            return str(int(self.random() * 10))
        if u < 0.85:
            return str(int(self.random() * 100))
        return str(int(self.random() * 1000)) if u < 0.93 else f"{int(self.random() * 10)}.{int(self.random() * 10)}"

    def phrase(self, low: int, high: int) -> str:
        """A few lower-case words."""
        words = [
            self.pick(ADJECTIVES) if self.chance(0.4) else self.pick(NOUNS) for _ in range(self.integer(low, high))
        ]
        if len(words) > 2 and self.chance(0.3):
            words[0] = self.pick(VERBS)
            words[1] = self.pick(("the", "all", "a", "each", "this", "no"))
        return " ".join(words).replace("_", " ")

    def quoted(self, text: str) -> str:
        return f"'{text}'" if self.random() < 0.5 else f'"{text}"'

    def string(self, low: int = 1, high: int = 4) -> str:
        text = self.phrase(low, high)
        if self.chance(0.2):
            text = text.capitalize() + self.pick((".", "!", "", ":", "?", "..."))
        return self.quoted(text)

    def word(self) -> str:
        return self.quoted(self.pick(NOUNS) if self.chance(0.7) else self.pick(ADJECTIVES))

    def literal(self) -> str:
        u = self.random()
        if u < 0.45:
            return self.number()
        return self.string(1, 3) if u < 0.8 else self.pick(("True", "False", "None", "[]", "{}"))

    def fstring(self) -> str:
        """An f-string, mostly a word or two in front of the first value."""
        words = [self.pick(GREETINGS) if self.chance(0.6) else self.pick(NOUNS).capitalize()]
        while len(words) < 3 and self.chance(0.3):
            words.append(self.pick(NOUNS))
        text = " ".join(words) + (":" if self.chance(0.25) else "") + f" {{{self.field()}}}"
        if self.chance(0.35):
            text += self.pick((" ", ", ", " is ", " and ", " of ", " - ")) + f"{{{self.field()}}}"
        if self.chance(0.25):
            text += " " + self.phrase(1, 2)
        return "f" + self.quoted(text + self.pick(("", "", "", "!", ".")))

    def field(self) -> str:
        u = self.random()
        if u < 0.7:
            return self.var()
        if u < 0.8:
            return f"len({self.many()})"
        return f"{self.pick(self.objects)}.{self.pick(NOUNS)}" if u < 0.93 else f"{self.var()}:.2f"

    def path(self, hints: Sequence[str]) -> str:
        """A file name, quoted, that says what it is for."""
        u = self.random()
        hint = self.pick(hints)
        stem = hint if u < 0.45 else f"{self.pick(NOUNS)}_{hint}" if u < 0.7 else f"{hint}_{self.pick(NOUNS)}"
        return self.quoted(f"{stem}.{self.pick(EXTENSIONS)}")

    def flat_list(self, low: int = 2, high: int = 7) -> str:
        n = self.integer(low, high)
        element = self.word if self.chance(0.3) else self.number
        return f"[{', '.join([element() for _ in range(n)])}]"

    def nested_list(self, depth: int) -> str:
        if depth <= 1:
            return self.flat_list(1, 4)
        return f"[{', '.join([self.nested_list(depth - 1) for _ in range(self.integer(1, 3))])}]"

    def flat_dict(self, low: int = 1, high: int = 4) -> str:
        u = self.random()
        value = self.literal if u < 0.6 else self.number if u < 0.9 else self.flat_list
        keys = self.some(NOUNS, self.integer(low, high))
        return "{" + ", ".join([f"{self.quoted(key)}: {value()}" for key in keys]) + "}"

    def tall_list(self, depth: int) -> Lines:
        """A list over several lines, `depth` brackets deep."""
        lines = ["["]
        for _ in range(self.integer(2, 4)):
            if depth > 2:
                inner = self.tall_list(depth - 1)
                lines += [f"    {line}" for line in [*inner[:-1], inner[-1] + ","]]
            else:
                lines.append(f"    {self.flat_list(2, 4) if depth == 2 else self.literal()},")
        return [*lines, "]"]

    # expressions

    def value(self) -> str:
        u = self.random()
        if u < 0.35:
            return self.var()
        if u < 0.6:
            return f"{self.var()} {self.pick(('+', '-', '*', '+', '//', '%'))} {self.number()}"
        if u < 0.75:
            return self.call()
        if u < 0.85:
            return f"{self.many()}[{self.integer(0, 3)}]"
        return f"len({self.many()})" if u < 0.92 else f"{self.pick(self.objects)}.{self.pick(self.nouns)}"

    def call(self) -> str:
        u = self.random()
        if u < 0.25:
            return f"{self.function()}()"
        if u < 0.7:
            return f"{self.function()}({self.var()})"
        if u < 0.85:
            return f"{self.function()}({self.var()}, {self.literal()})"
        return f"{self.function()}({self.var()}, {self.pick(NOUNS)}={self.literal()})"

    def condition(self) -> str:
        u = self.random()
        name = self.var()
        if u < 0.22:
            return f"{name} {self.pick(('>', '<', '>=', '<=', '!='))} {self.number()}"
        if u < 0.5:
            other = self.number() if self.chance(0.4) else self.string(1, 2) if self.chance(0.6) else self.var()
            return f"{name} == {other}"
        if u < 0.54:
            return f"{name} {self.pick(('in', 'not in'))} {self.many()}"
        if u < 0.6:
            return f"{self.pick(self.objects)}.{self.pick(NOUNS)} == {self.literal()}"
        if u < 0.65:
            return f"{name} is {self.pick(('None', 'not None'))}"
        if u < 0.72:
            return f"{name} == {self.pick(('True', 'False'))}"
        if u < 0.8:
            return name
        if u < 0.86:
            return f"not {name}"
        if u < 0.93:
            return f"{name} % {self.integer(2, 5)} == 0"
        return f"len({self.many()}) {self.pick(('>', '<', '=='))} {self.number()}"

    # blocks

    def docstring(self) -> Lines:
        text = f"{self.pick(VERBS).capitalize()} the {self.phrase(1, 3)}"
        return [f'"""{text}."""']

    def statement(self) -> Lines:
        """One statement family, sometimes behind a comment."""
        lines = self.pick(_STATEMENTS)(self)
        if self.chance(0.06):
            return [f"# {self.pick(VERBS)} the {self.phrase(1, 3)}", *lines]
        return lines

    def line(self) -> str:
        """One short statement."""
        u = self.random()
        if u < 0.3:
            return f"{self.var()} = {self.value()}"
        if u < 0.45:
            return f"print({self.var() if self.chance(0.4) else self.string()})"
        if u < 0.57:
            return self.call()
        if u < 0.7:
            step = self.number() if self.chance(0.6) else self.var()
            return f"{self.var()} {self.pick(('+=', '+=', '-=', '*='))} {step}"
        if u < 0.8:
            return f"{self.many()}.append({self.var()})"
        if u < 0.9:
            return f"print({self.fstring()})"
        return f"{self.var()} = {self.literal()}"

    def block(self, low: int = 1, high: int = 2) -> Lines:
        """Indented short statements."""
        return [f"    {self.line()}" for _ in range(self.integer(low, high))]

    def body(self, low: int = 1, high: int = 2) -> Lines:
        """Indented statement families: the inside of a function."""
        lines: Lines = []
        for _ in range(self.integer(low, high)):
            lines += _indent(self.statement() if self.chance(0.6) else [self.line()])
        return lines


def _plural(noun: str) -> str:
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun.endswith("y") and noun[-2] not in "aeou" else f"{noun}s"


def _indent(lines: Lines) -> Lines:
    return [f"    {line}" if line else line for line in lines]


def _attached(head: str, lines: Lines) -> Lines:
    # A literal over several lines behind the text that introduces it.
    return [head + lines[0], *lines[1:]]


# ---------------------------------------------------------------- statement families


def imports(g: Writer) -> Lines:
    names = g.some(MODULES, g.integer(1, 3))
    if g.chance(0.3):
        return [f"import {name}" for name in names[:-1]] + [f"from {names[-1]} import {g.pick(VERBS)}"]
    return [f"import {name}" for name in names]


def say_string(g: Writer) -> Lines:
    verb = "print" if g.chance(0.7) else g.pick(("log", "show", "logger.info", "send", "write", "speak", "out.append"))
    return [f"{verb}({g.string(1, 5)})" for _ in range(g.integer(1, 3))]


def say_value(g: Writer) -> Lines:
    return [f"print({g.string(1, 2)}, {g.value()})" if g.chance(0.6) else f"print({g.var()}, {g.var()})"]


def say_fstring(g: Writer) -> Lines:
    name = g.var()
    head = [f"{name} = {g.value()}"] if g.chance(0.5) else []
    return [*head, *(f"print({g.fstring()})" for _ in range(g.integer(1, 2)))]


def assign_fstring(g: Writer) -> Lines:
    return [f"{g.holder()} = {g.fstring()}"]


def assign_scalar(g: Writer) -> Lines:
    return [f"{g.var()} = {g.literal()}" for _ in range(g.integer(1, 3))]


def assign_string(g: Writer) -> Lines:
    return [f"{g.holder()} = {g.string(1, 5)}" for _ in range(g.integer(1, 2))]


def assign_flag(g: Writer) -> Lines:
    return [f"{name} = {g.pick(('True', 'False'))}" for name in g.some(g.scalars, g.integer(1, 2))]


def assign_list(g: Writer) -> Lines:
    return [f"{g.many() if g.chance(0.6) else g.holder()} = {g.flat_list()}" for _ in range(g.integer(1, 2))]


def assign_nested_list(g: Writer) -> Lines:
    return [f"{g.holder()} = {g.nested_list(2 if g.chance(0.75) else 3)}" for _ in range(g.integer(1, 2))]


def assign_tall_list(g: Writer) -> Lines:
    return _attached(f"{g.many()} = ", g.tall_list(g.pick((1, 2, 2, 2, 3))))


def assign_words(g: Writer) -> Lines:
    return [f"{g.many()} = [{', '.join(g.word() for _ in range(g.integer(2, 5)))}]"]


def assign_dict(g: Writer) -> Lines:
    return [f"{g.holder()} = {g.flat_dict()}" for _ in range(g.integer(1, 2))]


def assign_tall_dict(g: Writer) -> Lines:
    lines = [f"{g.holder()} = {{"]
    for key in g.some(NOUNS, g.integer(2, 4)):
        u = g.random()
        value = g.literal() if u < 0.6 else g.flat_list() if u < 0.8 else g.flat_dict()
        lines.append(f"    {g.quoted(key)}: {value},")
    return [*lines, "}"]


def assign_rows(g: Writer) -> Lines:
    keys = g.some(NOUNS, 2)
    rows = ["{" + ", ".join(f"{g.quoted(key)}: {g.literal()}" for key in keys) + "}," for _ in range(g.integer(2, 3))]
    return [f"{g.many()} = [", *_indent(rows), "]"]


def assign_constant(g: Writer) -> Lines:
    return [f"{g.pick(NOUNS).upper()}_{g.pick(NOUNS).upper()} = {g.literal()}"]


def index_dict(g: Writer) -> Lines:
    name = g.holder()
    return [f"{name} = {{}}"] + [f"{name}[{g.word()}] = {g.literal()}" for _ in range(g.integer(1, 3))]


def collect_set(g: Writer) -> Lines:
    name, many = g.holder(), g.many()
    one = g.one(many)
    add = f"{name}.add({one if g.chance(0.7) else f'{one}.{g.pick(NOUNS)}'})"
    return [f"{name} = set()", *_loop_over(g, one, many, add)]


def collect_text(g: Writer) -> Lines:
    name, many = g.holder(), g.many()
    one = g.one(many)
    start = g.quoted("") if g.chance(0.8) else g.string(1, 2)
    add = f"{name} += {one if g.chance(0.6) else f'str({one})' if g.chance(0.6) else g.string(1, 2)}"
    return [f"{name} = {start}", *_loop_over(g, one, many, add)]


def collect_list(g: Writer) -> Lines:
    name, many = g.holder(), g.many()
    one = g.one(many)
    add = f"{name}.append({one if g.chance(0.6) else f'{one} {g.pick(SIGNS)} {g.number()}'})"
    return [f"{name} = []", *_loop_over(g, one, many, add)]


def collect_sum(g: Writer) -> Lines:
    name, many = g.holder(), g.many()
    one = g.one(many)
    add = f"{name} += {one if g.chance(0.5) else g.number() if g.chance(0.5) else f'{one}.{g.pick(NOUNS)}'}"
    return [f"{name} = 0", *_loop_over(g, one, many, add)]


def _loop_over(g: Writer, one: str, many: str, add: str) -> Lines:
    between = [g.line()] if g.chance(0.15) else []
    end = [f"print({g.var()})"] if g.chance(0.25) else []
    if g.chance(0.7):
        return [*between, f"for {one} in {many}:", f"    {add}", *end]
    return [*between, f"for {one} in {many}:", f"    if {g.condition()}:", f"        {add}", *end]


def count_keys(g: Writer) -> Lines:
    name, many = g.holder(), g.many()
    one = g.one(many)
    return [f"{name} = {{}}", f"for {one} in {many}:", f"    {name}[{one}] = {name}.get({one}, 0) + 1"]


def group_keys(g: Writer) -> Lines:
    name, many = g.holder(), g.many()
    one = g.one(many)
    field = g.pick(NOUNS)
    return [
        f"{name} = {{}}",
        f"for {one} in {many}:",
        f"    if {one}.{field} not in {name}:",
        f"        {name}[{one}.{field}] = []",
        f"    {name}[{one}.{field}].append({one})",
    ]


def find_best(g: Writer) -> Lines:
    many = g.many()
    one = g.one(many)
    name = g.pick(("best", "largest", "smallest", "highest", "lowest", "longest"))
    return [
        f"{name} = {many}[0]",
        f"for {one} in {many}:",
        f"    if {one} {g.pick(ORDERS)} {name}:",
        f"        {name} = {one}",
    ]


def loop_range(g: Writer) -> Lines:
    index = g.pick(INDICES)
    u = g.random()
    bounds = g.number() if u < 0.5 else f"len({g.many()})" if u < 0.75 else f"{g.integer(0, 5)}, {g.number()}"
    return [f"for {index} in range({bounds}):", *(g.block() if g.chance(0.6) else [f"    print({index})"])]


def loop_list(g: Writer) -> Lines:
    many = g.many()
    one = g.one(many)
    return [f"for {one} in {many}:", *(g.block() if g.chance(0.6) else [f"    {g.function()}({one})"])]


def loop_enumerate(g: Writer) -> Lines:
    many = g.many()
    index, one = g.pick(INDICES), g.one(many)
    if one == index:
        one = g.pick(NOUNS)
    start = ", start=1" if g.chance(0.15) else ""
    body = g.block() if g.chance(0.4) else [f"    print({index}, {one})"]
    return [f"for {index}, {one} in enumerate({many}{start}):", *body]


def loop_items(g: Writer) -> Lines:
    key, value = g.pick((("key", "value"), ("k", "v"), ("name", "score"), ("name", "value")))
    return [
        f"for {key}, {value} in {g.holder()}.items():",
        f"    print({key}, {value})" if g.chance(0.5) else g.block()[0],
    ]


def loop_zip(g: Writer) -> Lines:
    left, right = g.many(), g.many()
    return [f"for {g.singular[left]}, {g.singular[right]}_{g.integer(2, 9)} in zip({left}, {right}):", *g.block()]


def loop_grid(g: Writer) -> Lines:
    many = g.many()
    if g.chance(0.5):
        return [f"for row in {many}:", "    for cell in row:", *_indent(g.block())]
    return [f"for i in range({g.number()}):", f"    for j in range({g.number()}):", *_indent(g.block())]


def loop_skip(g: Writer) -> Lines:
    many = g.many()
    one = g.one(many)
    word = g.pick(("continue", "break"))
    return [f"for {one} in {many}:", f"    if {one} == {g.literal()}:", f"        {word}", *g.block()]


def while_count(g: Writer) -> Lines:
    name = g.var()
    if g.chance(0.6):
        return [f"{name} = 0", f"while {name} < {g.number()}:", *g.block(0, 1), f"    {name} += 1"]
    return [f"while {name} > {g.integer(0, 3)}:", *g.block(0, 1), f"    {name} -= 1"]


def while_name(g: Writer) -> Lines:
    name = g.many() if g.chance(0.3) else g.var() if g.chance(0.5) else g.pick(NOUNS)
    step = g.pick((f"{name} = {g.call()}", f"{name} = {name}.{g.pick(NOUNS)}", f"{name}.pop()", f"{name} = False"))
    return [f"while {name}:", *g.block(0, 1), f"    {step}"]


def while_true(g: Writer) -> Lines:
    return ["while True:", *g.block(), f"    if {g.condition()}:", "        break"]


def if_only(g: Writer) -> Lines:
    return [f"if {g.condition()}:", *g.block()]


def if_else(g: Writer) -> Lines:
    return [f"if {g.condition()}:", *g.block(), "else:", *g.block()]


def if_chain(g: Writer) -> Lines:
    name = g.var()
    compare: Callable[[], str] = g.pick(
        (lambda: f"== {g.string(1, 1)}", lambda: f"== {g.number()}", lambda: f"> {g.number()}")
    )
    lines = [f"if {name} {compare()}:", *g.block(1, 1)]
    for _ in range(g.integer(1, 2)):
        lines += [f"elif {name} {compare()}:", *g.block(1, 1)]
    return [*lines, "else:", *g.block(1, 1)] if g.chance(0.75) else lines


def if_nested(g: Writer) -> Lines:
    return [f"if {g.condition()}:", f"    if {g.condition()}:", *_indent(g.block()), *(g.block(0, 1))]


def if_and(g: Writer) -> Lines:
    return [f"if {g.condition()} {g.pick(('and', 'or'))} {g.condition()}:", *g.block()]


def if_flag(g: Writer) -> Lines:
    name = g.pick(NOUNS) if g.chance(0.4) else g.var()
    head = [f"{name} = {g.pick(('True', 'False'))}"] if g.chance(0.5) else []
    return [*head, f"if {name} == {g.pick(('True', 'False'))}:", *g.block()]


def ternary(g: Writer) -> Lines:
    return [f"{g.holder()} = {g.literal()} if {g.condition()} else {g.literal()}" for _ in range(g.integer(1, 2))]


def swap(g: Writer) -> Lines:
    u = g.random()
    if u < 0.7:
        names = g.some(LETTERS if g.chance(0.3) else NOUNS if g.chance(0.5) else g.scalars, 2)
        if len(names) < 2:
            names.append("other")
        a, b = names
    elif u < 0.85:
        many = g.many()
        a, b = (f"{many}[i]", f"{many}[j]") if g.chance(0.5) else (f"{many}[0]", f"{many}[{g.integer(1, 9)}]")
    else:
        a, b = (f"self.{name}" for name in rng_pair(g))
    return [f"{a}, {b} = {b}, {a}"]


def rng_pair(g: Writer) -> tuple[str, str]:
    """Two different nouns."""
    first, second = g.pick(NOUNS), g.pick(NOUNS)
    return (first, second) if first != second else (first, f"other_{second}")


def unpack(g: Writer) -> Lines:
    a, b = rng_pair(g)
    right = g.pick((f"{g.number()}, {g.number()}", g.var(), f"{g.function()}({g.var()})", f"{g.word()}, {g.word()}"))
    return [f"{a}, {b} = {right}"]


def comprehension(g: Writer) -> Lines:
    many = g.many()
    one = g.one(many)
    value = g.pick(
        (
            one,
            f"{one} * {g.number()}",
            f"{one}.{g.pick(NOUNS)}",
            f"str({one})",
            f"{one}.lower()",
            f"{one} + {g.number()}",
        )
    )
    tail = f" if {one} {g.pick(('>', '<', '!=', '=='))} {g.number()}" if g.chance(0.35) else ""
    return [f"{g.holder()} = [{value} for {one} in {many}{tail}]"]


def comprehension_range(g: Writer) -> Lines:
    index = g.pick("ijkxn")
    return [f"{g.holder()} = [{index} {g.pick(('*', '+', '**'))} {g.integer(2, 9)} for {index} in range({g.number()})]"]


def comprehension_dict(g: Writer) -> Lines:
    many = g.many()
    one = g.one(many)
    return [f"{g.holder()} = {{{one}: {g.pick((f'len({one})', g.number(), f'{one} * 2'))} for {one} in {many}}}"]


def comprehension_set(g: Writer) -> Lines:
    many = g.many()
    one = g.one(many)
    return [f"{g.holder()} = {{{one}.{g.pick(NOUNS)} for {one} in {many}}}"]


def make_set(g: Writer) -> Lines:
    return [f"{g.holder()} = set({g.flat_list() if g.chance(0.5) else g.many()})"]


def lambda_assign(g: Writer) -> Lines:
    name = g.pick(NOUNS) if g.chance(0.4) else g.pick(LETTERS) if g.chance(0.5) else g.pick(VERBS)
    body = g.pick(
        (
            f"{name} * {g.number()}",
            f"{name} + {g.number()}",
            f"{name}.{g.pick(NOUNS)}",
            f"len({name})",
            f"not {name}",
            f"{name}[{g.integer(0, 3)}]",
        )
    )
    return [f"{g.function() if g.chance(0.6) else g.pick(VERBS)} = lambda {name}: {body}"]


def lambda_key(g: Writer) -> Lines:
    many = g.many()
    one = g.one(many)
    field = g.pick((f"{one}.{g.pick(NOUNS)}", f"{one}[{g.integer(0, 2)}]", f"-{one}", f"len({one})"))
    if g.chance(0.5):
        return [f"{many}.sort(key=lambda {one}: {field})"]
    return [f"{g.holder()} = {g.pick(('sorted', 'max', 'min'))}({many}, key=lambda {one}: {field})"]


def lambda_map(g: Writer) -> Lines:
    one = g.pick(LETTERS)
    verb, body = g.pick(
        (("map", f"{one} * {g.number()}"), ("filter", f"{one} > {g.number()}"), ("map", f"{one}.strip()"))
    )
    return [f"{g.holder()} = list({verb}(lambda {one}: {body}, {g.many()}))"]


def open_read(g: Writer) -> Lines:
    handle = g.pick(("f", "file", "handle", "fh", "source", "reader"))
    u = g.random()
    name = g.path(INPUTS) if u < 0.7 else g.pick(("path", "filename", "file_name", g.var(), g.pick(NOUNS)))
    mode = f", {g.quoted('r')}" if g.chance(0.8 if u < 0.7 else 0.3) else ""
    use = g.pick(
        (f"{g.holder()} = {handle}.read()", f"{g.many()} = {handle}.readlines()", f"{g.holder()} = json.load({handle})")
    )
    if g.chance(0.2):
        return [f"with open({name}{mode}) as {handle}:", f"    for line in {handle}:", f"        {g.line()}"]
    return [f"with open({name}{mode}) as {handle}:", f"    {use}"]


def open_write(g: Writer) -> Lines:
    handle = g.pick(("f", "file", "handle", "fh", "target", "writer"))
    name = g.path(OUTPUTS) if g.chance(0.85) else g.pick(("path", "filename", "target_path"))
    use = g.pick((f"{handle}.write({g.var()})", f"{handle}.write({g.string()})", f"json.dump({g.var()}, {handle})"))
    lines = [f"with open({name}, {g.quoted('w')}) as {handle}:"]
    if g.chance(0.3):
        many = g.many()
        one = g.one(many)
        return [*lines, f"    for {one} in {many}:", f"        {handle}.write({one})"]
    return [*lines, f"    {use}"]


def open_plain(g: Writer) -> Lines:
    handle = g.pick(("f", "file", "handle", "fh", "stream", g.holder()))
    u = g.random()
    if u < 0.45:
        name = g.pick(("path", "filename", "file_name", g.var(), g.pick(NOUNS)))
        return [f"{handle} = open({name})", f"{g.holder()} = {handle}.read()", f"{handle}.close()"]
    if u < 0.75:
        return [
            f"{handle} = open({g.path(INPUTS)}, {g.quoted('r')})",
            f"{g.holder()} = {handle}.read()",
            f"{handle}.close()",
        ]
    return [f"{handle} = open({g.path(OUTPUTS)}, {g.quoted('w')})", f"{handle}.write({g.var()})", f"{handle}.close()"]


def with_context(g: Writer) -> Lines:
    u = g.random()
    if u < 0.3:
        return [f"with {g.pick(('lock', 'self.lock', 'timer'))}:", *g.block()]
    return [f"with {g.call()} as {g.pick(NOUNS)}:", *g.block()]


def try_except(g: Writer) -> Lines:
    error = g.pick(ERRORS)
    head = f"except {error} as {g.pick(('e', 'error', 'err'))}:" if g.chance(0.4) else f"except {error}:"
    tail = ["finally:", *g.block(1, 1)] if g.chance(0.15) else []
    return ["try:", *g.block(), head, *g.block(1, 1), *tail]


def check_assert(g: Writer) -> Lines:
    return [
        f"assert {g.call()} == {g.literal()}" if g.chance(0.6) else f"assert {g.condition()}"
        for _ in range(g.integer(1, 3))
    ]


def text_methods(g: Writer) -> Lines:
    name = g.var()
    method = g.pick(
        (
            "strip()",
            "lower()",
            "upper()",
            "title()",
            f"split({g.quoted(',')})",
            f"replace({g.word()}, {g.word()})",
            f"startswith({g.word()})",
        )
    )
    return [f"{g.holder()} = {name}.{method}"]


def join_text(g: Writer) -> Lines:
    return [f"{g.holder()} = {g.quoted(g.pick((', ', ' ', '', '-', '/')))}.join({g.many()})"]


def slices(g: Writer) -> Lines:
    cut = g.pick((f":{g.integer(1, 9)}", f"{g.integer(1, 9)}:", "::-1", "-1", f"{g.integer(0, 3)}:{g.integer(4, 9)}"))
    return [f"{g.holder()} = {g.many()}[{cut}]"]


def aggregate(g: Writer) -> Lines:
    return [f"{g.holder()} = {g.pick(('sum', 'max', 'min', 'len', 'sorted', 'list'))}({g.many()})"]


def any_all(g: Writer) -> Lines:
    many = g.many()
    one = g.one(many)
    return [
        f"{g.holder()} = {g.pick(('any', 'all'))}({one} {g.pick(('>', '==', '<'))} {g.number()} for {one} in {many})"
    ]


def call_keywords(g: Writer) -> Lines:
    keywords = [f"{name}={g.literal()}" for name in g.some(NOUNS, g.integer(1, 3))]
    head = f"{g.holder()} = " if g.chance(0.5) else ""
    return [f"{head}{g.function()}({', '.join([g.var(), *keywords])})"]


def call_tall(g: Writer) -> Lines:
    arguments = [
        g.string(1, 3) if g.chance(0.5) else g.number(),
        *(f"{name}={g.literal()}" for name in g.some(NOUNS, 2)),
    ]
    return [f"{g.holder()} = {g.function()}(", *(f"    {argument}," for argument in arguments), ")"]


def raise_error(g: Writer) -> Lines:
    text = g.string(2, 4) if g.chance(0.6) else g.fstring()
    return [f"if {g.condition()}:", f"    raise {g.pick(ERRORS)}({text})"]


def stack(g: Writer) -> Lines:
    name = g.many()
    return [f"{name} = [{g.var()}]", f"while {name}:", f"    {g.var()} = {name}.pop()", *g.block()]


def list_methods(g: Writer) -> Lines:
    name = g.many()
    value = g.var()
    calls = (f"append({g.literal()})", f"remove({value})", "sort()", f"insert(0, {value})", f"extend({g.many()})")
    return [f"{name}.{g.pick(calls)}"]


def update_fields(g: Writer) -> Lines:
    thing = g.pick(g.objects)
    return [f"{thing}.{field} = {g.literal()}" for field in g.some(NOUNS, g.integer(1, 3))]


def make_object(g: Writer) -> Lines:
    return [f"{g.pick(g.objects)} = {g.class_name()}({', '.join(g.literal() for _ in range(g.integer(1, 3)))})"]


def old_format(g: Writer) -> Lines:
    text = f"{g.phrase(1, 2)} %s"
    return [f"print({g.quoted(text)} % {g.var()})"]


def arithmetic(g: Writer) -> Lines:
    return [f"{g.holder()} = ({g.var()} {g.pick(SIGNS)} {g.var()}) {g.pick(('*', '/', '//'))} {g.number()}"]


def isinstance_check(g: Writer) -> Lines:
    return [f"if isinstance({g.var()}, {g.pick(('int', 'str', 'list', 'dict', 'float'))}):", *g.block()]


def delete_key(g: Writer) -> Lines:
    name, key = g.holder(), g.word()
    return [f"if {key} in {name}:", f"    del {name}[{key}]"]


# ---------------------------------------------------------------- function and class families


def _defaults(g: Writer, arguments: list[str]) -> str:
    # Most functions have no defaults; where one argument has one, so have all behind it.
    if g.chance(0.6) or len(arguments) < 2:
        return ", ".join(arguments)
    first = 1 if g.chance(0.75) else g.integer(0, len(arguments) - 1)
    plain = g.chance(0.7)
    given = [f"{name}={'None' if plain or g.chance(0.4) else g.literal()}" for name in arguments[first:]]
    return ", ".join([*arguments[:first], *given])


def _result(g: Writer, arguments: list[str]) -> str:
    name = g.pick(arguments) if arguments else g.var()
    u = g.random()
    if u < 0.35:
        return f"    return {name}"
    if u < 0.6 and len(arguments) > 1:
        return f"    return {arguments[0]} {g.pick(SIGNS)} {arguments[1]}"
    if u < 0.75:
        return f"    return {g.pick(('True', 'False', 'None'))}"
    return f"    return {g.var()}" if u < 0.9 else f"    return {g.function()}({name})"


def define(g: Writer) -> Lines:
    arguments = g.arguments(1, 4)
    doc = _indent(g.docstring()) if g.chance(0.2) else []
    end = [_result(g, arguments)] if g.chance(0.75) else []
    return [f"def {g.function()}({_defaults(g, arguments)}):", *doc, *g.body(), *end]


def define_short(g: Writer) -> Lines:
    arguments = g.arguments(1, 4)
    return [
        f"def {g.function() if g.chance(0.7) else g.pick(VERBS)}({_defaults(g, arguments)}):",
        _result(g, arguments),
    ]


def define_no_arguments(g: Writer) -> Lines:
    return [f"def {g.function()}():", *g.body(1, 3), *([_result(g, [])] if g.chance(0.5) else [])]


def define_none_default(g: Writer) -> Lines:
    arguments = g.arguments(2, 4)
    name = arguments[-1]
    given = ", ".join([*arguments[:1], *(f"{argument}=None" for argument in arguments[1:])])
    start = g.pick(("[]", "{}", g.number(), g.string(1, 2), "set()"))
    return [
        f"def {g.function()}({given}):",
        f"    if {name} is None:",
        f"        {name} = {start}",
        *g.body(0, 1),
        _result(g, arguments),
    ]


def define_predicate(g: Writer) -> Lines:
    arguments = g.arguments(1, 2)
    name = arguments[0]
    test = g.pick(
        (
            f"{name} > {g.number()}",
            f"{name} == {g.literal()}",
            f"{name} in {g.many()}",
            f"{name} % 2 == 0",
            f"not {name}",
        )
    )
    lines = [f"def is_{g.pick(ADJECTIVES)}({', '.join(arguments)}):"]
    if g.chance(0.4):
        return [*lines, f"    return {test}"]
    return [*lines, f"    if {test}:", "        return True", "    return False"]


def define_loop(g: Writer) -> Lines:
    many = g.many()
    one = g.one(many)
    lines = [f"def {g.function()}({many}):", f"    for {one} in {many}:"]
    if g.chance(0.5):
        return [
            *lines,
            f"        if {one} {g.pick(('>', '==', '<'))} {g.literal()}:",
            f"            return {one}",
            f"    return {g.pick(('None', 'False'))}",
        ]
    return [*lines, *_indent(g.block()), f"    return {g.pick(('True', many, g.var()))}"]


def define_collect(g: Writer) -> Lines:
    family = g.pick((collect_set, collect_text, collect_list, collect_sum, count_keys))
    lines = family(g)
    name = lines[0].split(" ")[0]
    return [f"def {g.function()}({g.many()}):", *_indent(lines), f"    return {name}"]


def define_while(g: Writer) -> Lines:
    u = g.random()
    lines = [f"def {g.function()}({', '.join(g.arguments(1, 2)) if g.chance(0.5) else ''}):"]
    if u < 0.5:
        return [
            *lines,
            "    while True:",
            *_indent(g.block()),
            f"        if {g.condition()}:",
            f"            {g.pick(('break', 'return True', 'return ' + g.var()))}",
        ]
    return [
        *lines,
        *_indent(while_count(g) if u < 0.75 else while_name(g)),
        "    return " + g.pick(("True", "False", "None")),
    ]


def define_guard(g: Writer) -> Lines:
    arguments = g.arguments(1, 3)
    name = g.pick(arguments)
    test = g.pick((f"not {name}", f"{name} is None", f"{name} < 0", f"{name} == {g.literal()}"))
    return [
        f"def {g.function()}({_defaults(g, arguments)}):",
        f"    if {test}:",
        f"        return {g.pick(('None', 'False', '0', '[]'))}",
        *g.body(0, 1),
        _result(g, arguments),
    ]


def define_recursive(g: Writer) -> Lines:
    name, n = g.function(), g.pick(("n", "depth", "number", "k", "level", "size"))
    return [
        f"def {name}({n}):",
        f"    if {n} {g.pick(('<=', '==', '<'))} {g.integer(0, 2)}:",
        f"        return {g.integer(0, 1)}",
        f"    return {n} {g.pick(SIGNS)} {name}({n} - 1)",
    ]


def define_generator(g: Writer) -> Lines:
    many = g.many()
    one = g.one(many)
    return [
        f"def {g.function()}({many}):",
        f"    for {one} in {many}:",
        *([f"        if {g.condition()}:", f"            yield {one}"] if g.chance(0.5) else [f"        yield {one}"]),
    ]


def define_typed(g: Writer) -> Lines:
    types = ("int", "str", "float", "bool", "list", "dict")
    arguments = g.arguments(1, 3)
    given = ", ".join(f"{name}: {g.pick(types)}" for name in arguments)
    return [
        f"def {g.function()}({given}) -> {g.pick(types)}:",
        *_indent(g.docstring()),
        *g.body(0, 1),
        _result(g, arguments),
    ]


def define_nested(g: Writer) -> Lines:
    outer, inner = g.function(), g.pick(VERBS)
    arguments = g.arguments(1, 2)
    return [
        f"def {outer}({arguments[0]}):",
        f"    def {inner}({arguments[-1]}):",
        *_indent(g.block(0, 1)),
        f"    {_result(g, arguments)}",
        "",
        f"    return {inner}",
    ]


def define_test(g: Writer) -> Lines:
    return [f"def test_{g.function()}():", *_indent(assign_scalar(g)), *_indent(check_assert(g))]


def define_main(g: Writer) -> Lines:
    return [
        "def main():",
        *g.body(1, 3),
        "",
        "",
        'if __name__ == "__main__":' if g.chance(0.5) else "if __name__ == '__main__':",
        "    main()",
    ]


def define_decorated(g: Writer) -> Lines:
    return [f"@{g.pick(VERBS)}", *define_short(g)]


def _init(g: Writer, arguments: list[str]) -> Lines:
    # Mostly each argument under its own name, sometimes in another order, with a leading _ or with extra fields.
    lines = [f"    def __init__(self, {_defaults(g, arguments)}):"]
    order = arguments if g.chance(0.6) else sorted(arguments, key=lambda _: g.random())
    mark = "_" if g.chance(0.07) else ""
    lines += [f"        self.{mark}{name} = {name}" for name in order]
    if g.chance(0.3):
        lines.insert(
            g.integer(1, len(lines)),
            f"        self.{g.pick(NOUNS)} = {g.pick(('[]', '{}', '0', 'None', 'set()', 'False'))}",
        )
    return lines


def class_fields(g: Writer) -> Lines:
    arguments = g.arguments(1, 5)
    doc = _indent(g.docstring()) + [""] if g.chance(0.15) else []
    lines = [f"class {g.class_name()}:", *doc, *_init(g, arguments)]
    for method in g.some(("get", "str", "update", "say"), g.integer(0, 2)):
        lines += ["", *_indent(_method(g, method, arguments))]
    return lines


def _method(g: Writer, kind: str, arguments: list[str]) -> Lines:
    name = g.pick(arguments)
    if kind == "get":
        return [f"def get_{name}(self):", f"    return self.{name}"]
    if kind == "str":
        text = f"{g.pick(GREETINGS)} {{self.{name}}}"
        return ["def __str__(self):", f"    return f{g.quoted(text)}"]
    if kind == "update":
        return [f"def set_{name}(self, {name}):", f"    self.{name} = {name}"]
    return [
        f"def {g.pick(VERBS)}(self):",
        f"    print({g.string(1, 4)})" if g.chance(0.5) else f"    print(self.{name})",
    ]


def class_only_init(g: Writer) -> Lines:
    return [f"class {g.class_name()}{g.pick(('', '', '(object)'))}:", *_init(g, g.arguments(2, 6))]


def class_child(g: Writer) -> Lines:
    arguments = g.arguments(2, 4)
    return [
        f"class {g.class_name()}({g.class_name()}):",
        f"    def __init__(self, {', '.join(arguments)}):",
        f"        super().__init__({', '.join(arguments[:-1])})",
        f"        self.{arguments[-1]} = {arguments[-1]}",
    ]


def class_container(g: Writer) -> Lines:
    many = g.many()
    one = g.singular[many]
    return [
        f"class {g.class_name()}:",
        "    def __init__(self):",
        f"        self.{many} = []",
        "",
        f"    def add_{one}(self, {one}):",
        f"        self.{many}.append({one})",
        *(["", "    def __len__(self):", f"        return len(self.{many})"] if g.chance(0.5) else []),
    ]


def class_counter(g: Writer) -> Lines:
    name = g.pick(NOUNS)
    return [
        f"class {g.class_name()}:",
        f"    def __init__(self, {name}=0):",
        f"        self.{name} = {name}",
        "",
        f"    def {g.pick(VERBS)}(self, amount):",
        f"        self.{name} {g.pick(('+=', '-='))} amount",
        f"        return self.{name}",
    ]


def class_constants(g: Writer) -> Lines:
    return [f"class {g.class_name()}:", *(f"    {name.upper()} = {g.literal()}" for name in g.some(NOUNS, 4))]


def class_dataclass(g: Writer) -> Lines:
    types = ("int", "str", "float", "bool")
    return ["@dataclass", f"class {g.class_name()}:", *(f"    {name}: {g.pick(types)}" for name in g.arguments(2, 4))]


def class_static(g: Writer) -> Lines:
    arguments = g.arguments(1, 2)
    return [
        f"class {g.class_name()}:",
        "    @staticmethod",
        f"    def {g.function()}({', '.join(arguments)}):",
        f"    {_result(g, arguments)}",
    ]


Family = Callable[[Writer], Lines]

STATEMENT_FAMILIES: dict[Family, int] = {
    imports: 1, say_string: 6, say_value: 2, say_fstring: 5, assign_fstring: 2, assign_scalar: 3, assign_string: 4,
    assign_flag: 2, assign_list: 4, assign_nested_list: 5, assign_tall_list: 3, assign_words: 2, assign_dict: 4,
    assign_tall_dict: 2, assign_rows: 1, assign_constant: 1, index_dict: 1, collect_set: 5, collect_text: 5,
    collect_list: 3, collect_sum: 2, count_keys: 1, group_keys: 1, find_best: 1, loop_range: 3, loop_list: 3,
    loop_enumerate: 4, loop_items: 2, loop_zip: 1, loop_grid: 1, loop_skip: 1, while_count: 2, while_name: 3,
    while_true: 2, if_only: 2, if_else: 3, if_chain: 2, if_nested: 1, if_and: 1, if_flag: 2, ternary: 4, swap: 5,
    unpack: 2, comprehension: 2, comprehension_range: 1, comprehension_dict: 1, comprehension_set: 1, make_set: 1,
    lambda_assign: 4, lambda_key: 2, lambda_map: 1, open_read: 4, open_write: 4, open_plain: 3, with_context: 2,
    try_except: 2, check_assert: 1, text_methods: 1, join_text: 1, slices: 1, aggregate: 1, any_all: 1,
    call_keywords: 2, call_tall: 1, raise_error: 1, stack: 1, list_methods: 1, update_fields: 2, make_object: 1,
    old_format: 1, arithmetic: 1, isinstance_check: 1, delete_key: 1,
}  # fmt: skip
"""Families that may stand anywhere, with their relative frequency."""

DEFINITION_FAMILIES: dict[Family, int] = {
    define: 8, define_short: 5, define_no_arguments: 3, define_none_default: 3, define_predicate: 2, define_loop: 2,
    define_collect: 3, define_while: 3, define_guard: 2, define_recursive: 1, define_generator: 1, define_typed: 1,
    define_nested: 1, define_test: 1, define_main: 1, define_decorated: 1, class_fields: 7, class_only_init: 5,
    class_child: 1, class_container: 1, class_counter: 1, class_constants: 1, class_dataclass: 1, class_static: 1,
}  # fmt: skip
"""Families of functions and classes, which stand at the top level, with their relative frequency."""

_STATEMENTS = [family for family, times in STATEMENT_FAMILIES.items() for _ in range(times)]
_DEFINITIONS = [family for family, times in DEFINITION_FAMILIES.items() for _ in range(times)]
