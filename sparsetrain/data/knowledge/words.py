"""English words and their forms. Sources: the packages wordfreq and lemminflect; spelling needs none but the words themselves.

Words are lower case throughout, as wordfreq has them, names of people and places among them. Coarse and hateful ones are left out.
"""

from collections.abc import Callable

from sparsetrain.data.knowledge import Fact, needed, relation

FREQUENCY = "Zipf frequency of the word"
N_WORDS = 20_000
"""Of the most frequent ones."""
RARER = 1.75
"""Zipf steps by which a form may be rarer than its word; beyond, it is a form that grammar allows and nobody writes ("equipments"). ours"""
_NO_NOUNS = frozenset({"that", "other", "your", "their", "her", "our", "someone", "nobody"})
"""What lemminflect has as nouns alone, and is none."""
_COARSE = frozenset({
    "arse", "ass", "asses", "bastard", "bastards", "blowjob", "chink", "cock", "cocks", "coon", "crap", "crappy", "cum", "damn", "damned", "dick", "dicks", "dyke", "fag", "fags", "negro", "paki",
    "penis", "pussy", "rape", "raped", "rapes", "rapist", "rapists", "retard", "retarded", "tit", "tits", "tranny", "vagina", "vaginal",
})  # fmt: skip
_COARSE_STEMS = (
    "asshole",
    "bitch",
    "bullshit",
    "cunt",
    "faggot",
    "fuck",
    "goddam",
    "jackass",
    "motherfuck",
    "nigg",
    "piss",
    "porn",
    "shit",
    "slut",
    "whore",
)
_FORMS = ["wordfreq", "lemminflect"]


def is_coarse(word: str) -> bool:
    """Whether it is, or begins with, one of two short lists of coarse and hateful words."""
    return word in _COARSE or word.startswith(_COARSE_STEMS)


def frequent(keep: Callable[[str], bool] = str.isalpha) -> list[tuple[str, float]]:
    """The most frequent words of at least three letters that pass, with their frequencies."""
    package = needed("wordfreq")
    words = (word for word in package.top_n_list("en", N_WORDS) if word.isascii() and word.isalpha() and len(word) > 2)
    return [(word, package.zipf_frequency(word, "en")) for word in words if not is_coarse(word) and keep(word)]


def _inflected(name: str, part: str, tag: str) -> list[Fact]:
    """Words that are lemmas of a part of speech, and their form; those that do not change are left out."""
    package, frequency = needed("lemminflect"), needed("wordfreq").zipf_frequency

    def is_lemma(word: str) -> bool:
        lemmas = package.getAllLemmas(word)
        return list(lemmas) == [part] and lemmas[part][0] == word and not (part == "NOUN" and word in _NO_NOUNS)

    return [
        Fact(relation=name, subject=word, answer=forms[0], fame=fame)
        for word, fame in frequent(is_lemma)
        if (forms := package.getInflection(word, tag)) and forms[0] != word and frequency(forms[0], "en") > fame - RARER
    ]


@relation("Singular", "Plural", FREQUENCY, _FORMS)
def plural() -> list[Fact]:
    """house: houses"""
    return _inflected("plural", "NOUN", "NNS")


@relation("Present", "Past", FREQUENCY, _FORMS)
def past_tense() -> list[Fact]:
    """go: went"""
    return _inflected("past_tense", "VERB", "VBD")


@relation("Word", "Capitals", FREQUENCY, ["wordfreq"])
def upper_case() -> list[Fact]:
    """house: HOUSE"""
    return [Fact(relation="upper_case", subject=word, answer=word.upper(), fame=fame) for word, fame in frequent()]


@relation("Word", "First letter", FREQUENCY, ["wordfreq"])
def first_letter() -> list[Fact]:
    """house: h"""
    return [Fact(relation="first_letter", subject=word, answer=word[0], fame=fame) for word, fame in frequent()]
