"""Facts and words of packages: what is made of them. The packages are stand-ins: no test needs the extra `probes`."""

from types import SimpleNamespace
from typing import Any

import pytest

from sparsetrain.data import knowledge
from sparsetrain.data.knowledge import RELATIONS, elements, facts_of, geography, needed, versions, words


def country(
    name: str, people: int | None, city: Any = "", region: str = "", codes: tuple[str, ...] = (), tongues: str = ""
) -> Any:
    """A record as countryinfo gives it."""
    return SimpleNamespace(
        name=lambda: name,
        population=lambda: people,
        capital=lambda: city,
        region=lambda: region,
        currencies=lambda: list(codes) or None,
        languages=lambda: tongues.split() or None,
    )


COUNTRIES = [
    country("Chile", 18_000, "Santiago", "Americas", ("CLF", "CLP"), "es"),
    country("Brazil", 200_000, "Brasília", "Americas", ("BRL",), "pt"),
    country("Réunion", 800, "Saint-Denis", "Africa", ("EUR",)),
    country("United States", 330_000, "Washington D.C.", "Americas", ("USD", "USN", "USS")),
    country("Kuwait", 4_000, "Kuwait City", "Asia", ("KWD",)),  # can be copied
    country("Tunisia", 11_000, "Tunis", "Africa", ("TND",), "ar fr"),
    country("Vatican City State", 1, ["Vatican City"], "Europe", ("EUR",)),
    country("South Africa", 50_000, "Pretoria", "Africa", ("ZAR",)),  # has several
    country("Panama", 4_100, "Panama City", "Americas", ("PAB", "USD"), "xx"),  # two words
    country("Nowhere", 5, "", "", ("XXX",)),
    country("Antarctica", None, "None", "Polar"),
    country("Heard Island", 0, "None", "Oceania", ("AUD",)),
    country("Virgin Islands, U.S.", 100, "Charlotte Amalie", "Americas", ("USD",)),
    country("Cocos (Keeling) Islands", 600, "West Island", "Oceania", ("AUD",)),
    country("Burma", 50_000, "Naypyidaw", "Asia", ("MMK",)),  # there under another name
]
ZIPF = {
    "house": 5.0, "houses": 4.5, "that": 7.0, "thats": 5.5, "sheep": 4.0, "equipment": 4.5, "equipments": 2.0, "go": 6.0, "run": 5.5, "choose": 5.1, "chose": 4.6,
    "shit": 5.0, "ass": 5.0, "assess": 4.1, "dogs": 4.9, "naïve": 4.0, "don't": 6.0, "cut": 5.2, "iron": 4.7, "gold": 5.2, "tennessine": 0.0,
}  # fmt: skip
LEMMAS = {
    "house": {"NOUN": ("house",)}, "that": {"NOUN": ("that",)}, "sheep": {"NOUN": ("sheep",)}, "equipment": {"NOUN": ("equipment",)}, "choose": {"VERB": ("choose",)},
    "run": {"NOUN": ("run",), "VERB": ("run",)}, "cut": {"VERB": ("cut",)}, "dogs": {"NOUN": ("dog",)}, "iron": {"VERB": ("iron",), "NOUN": ("iron",)},
}  # fmt: skip
FORMS = {
    ("house", "NNS"): ("houses",), ("that", "NNS"): ("thats",), ("sheep", "NNS"): ("sheep", "sheeps"), ("equipment", "NNS"): ("equipments",),
    ("choose", "VBD"): ("chose",), ("cut", "VBD"): ("cut",),
}  # fmt: skip
PACKAGES = {
    "countryinfo": SimpleNamespace(all_countries=lambda: COUNTRIES),
    "periodictable": SimpleNamespace(
        elements=[
            SimpleNamespace(name=name, symbol=symbol, number=number)
            for name, symbol, number in (("neutron", "n", 0), ("iron", "Fe", 26), ("gold", "Au", 79), ("tennessine", "Ts", 117))
        ]
    ),
    "wordfreq": SimpleNamespace(
        top_n_list=lambda language, n: sorted(ZIPF, key=lambda word: -ZIPF[word])[:n],
        zipf_frequency=lambda word, language: ZIPF.get(word, 0.0),
    ),
    "lemminflect": SimpleNamespace(
        getAllLemmas=lambda word: LEMMAS.get(word, {}), getInflection=lambda word, tag: FORMS.get((word, tag), ())
    ),
}  # fmt: skip


@pytest.fixture(autouse=True)
def packages(monkeypatch):
    for module in (geography, elements, words):
        monkeypatch.setattr(module, "needed", PACKAGES.__getitem__)


def pairs(relation: str) -> dict[str, str]:
    return {fact.subject: fact.answer for fact in facts_of(relation)}


def test_capitals_have_one_answer_that_cannot_be_copied():
    assert pairs("capital") == {
        "United States": "Washington",
        "Brazil": "Brasilia",
        "Chile": "Santiago",
        "Reunion": "Saint-Denis",
    }


def test_languages_are_those_of_countries_with_one_that_their_name_does_not_give_away(monkeypatch):
    thailand = country("Thailand", 69_000, "Bangkok", "Asia", ("THB",), "th")
    monkeypatch.setitem(PACKAGES, "countryinfo", SimpleNamespace(all_countries=lambda: [*COUNTRIES, thailand]))
    assert pairs("language") == {"Brazil": "Portuguese", "Chile": "Spanish"}


def test_the_best_known_come_first():
    facts = facts_of("capital")
    assert [fact.fame for fact in facts] == sorted((fact.fame for fact in facts), reverse=True)
    assert facts[0].fame == pytest.approx(5.5185139) and {fact.relation for fact in facts} == {"capital"}


def test_there_are_two_americas():
    assert pairs("continent") == {
        "United States": "North America", "Brazil": "South America", "Chile": "South America", "Reunion": "Africa", "Kuwait": "Asia", "Tunisia": "Africa",
        "Vatican City State": "Europe", "South Africa": "Africa", "Panama": "North America",
    }  # fmt: skip


def test_a_currency_is_one_word():
    assert pairs("currency") == {
        "United States": "dollar", "Brazil": "real", "Chile": "peso", "Reunion": "euro", "Kuwait": "dinar", "Tunisia": "dinar", "Vatican City State": "euro",
        "South Africa": "rand",
    }  # fmt: skip


def test_elements_begin_with_one_proton():
    assert [(fact.subject, fact.answer) for fact in facts_of("symbol")] == [("gold", "Au"), ("iron", "Fe"), ("tennessine", "Ts")]  # fmt: skip
    assert pairs("atomic_number") == {"gold": "79", "iron": "26", "tennessine": "117"}


def test_forms_are_of_words_of_one_part_of_speech_that_change_and_are_written():
    assert pairs("plural") == {"house": "houses"}
    assert pairs("past_tense") == {"choose": "chose"}


def test_spelling_takes_plain_words_that_are_not_coarse():
    assert pairs("upper_case")["house"] == "HOUSE" and pairs("first_letter")["house"] == "h"
    subjects = set(pairs("upper_case"))
    assert subjects == set(pairs("first_letter"))
    assert not subjects & {"shit", "ass", "go", "don't", "naïve"}, "coarse, short or not of letters alone"
    assert {"assess", "that", "dogs"} <= subjects


def test_no_subject_comes_twice():
    for name in RELATIONS:
        subjects = [fact.subject for fact in facts_of(name)]
        assert subjects and len(subjects) == len(set(subjects)), name


def test_what_is_missing_is_said_in_a_line(monkeypatch):
    with pytest.raises(
        ValueError, match=r"no relation 'capitals'; there are capital, continent, currency, language, symbol"
    ):
        facts_of("capitals")
    with pytest.raises(ValueError, match=r"no_such_package is not installed.*pip install 'sparsetrain\[probes\]'"):
        needed("no_such_package")


def test_versions_are_of_the_packages_that_are_used(monkeypatch):
    monkeypatch.setattr(knowledge, "version", lambda package: f"{package} 1")
    assert versions(["symbol", "capital", "atomic_number"]) == {
        package: f"{package} 1" for package in ("countryinfo", "periodictable", "wordfreq")
    }
