"""Countries: capitals, continents, currencies, languages. Source: the package countryinfo.

1. A country is known by one name, written as English prose mostly has it: without accents. Names with a comma or a bracket are left out, and
   so is what is no country of its own any more or is there under another name too.
2. A capital that can be copied out of the country's name (Kuwait: Kuwait City) is no fact that has to be known; one that moved, was renamed, is
   shared or disputed has no one answer. Both are left out.
3. A currency is a word (dollar), not a code; a country whose currencies are several words is left out.
4. A language is an English word (Spanish); a country with several, or one whose name begins alike (Albania: Albanian), is left out.
"""

import re
from math import log10
from typing import Any
from unicodedata import normalize

from sparsetrain.data.knowledge import Fact, needed, relation

POPULATION = "log10 of the country's population"
N_SHARED_LETTERS = 4
"""A word of an answer that long may not stand in the subject: it could be copied. ours"""
_NOT_COUNTED = frozenset({"Burma", "Serbia and Montenegro", "Scotland", "Wales", "Holy See (Vatican City State)"})
"""Former states, second names, parts of others."""
_NO_ONE_CAPITAL = frozenset({
    "Kazakhstan", "Burundi", "Hong Kong", "Montserrat",  # the source is behind: renamed, moved, gone, destroyed
    "South Africa", "Bolivia", "Benin", "Ivory Coast", "Sri Lanka", "Swaziland", "Malaysia",  # two or more cities may be named
    "Israel", "Palestine", "Western Sahara", "British Indian Ocean Territory", "Tokelau", "South Georgia",  # disputed, or there is none
})  # fmt: skip
_NAMES = {"Washington D.C.": "Washington"}
_SOUTH_AMERICA = frozenset({
    "Argentina", "Bolivia", "Brazil", "Chile", "Colombia", "Ecuador", "Falkland Islands", "French Guiana", "Guyana", "Paraguay", "Peru", "Suriname",
    "Uruguay", "Venezuela",
})  # fmt: skip
"""The source has one region of both Americas."""
_CURRENCIES = {
    word: codes.split()
    for word, codes in {
        "dollar": "USD AUD CAD NZD SGD HKD TWD JMD BSD BBD BZD GYD SRD TTD FJD SBD LRD NAD XCD BND BMD KYD", "euro": "EUR",
        "pound": "GBP EGP SDG SSP SYP LBP GIP FKP SHP", "peso": "MXN ARS CLP COP PHP DOP CUP UYU", "franc": "CHF CDF XOF XAF XPF RWF GNF BIF DJF KMF",
        "dinar": "RSD DZD TND LYD IQD JOD KWD BHD", "rupee": "INR PKR LKR NPR MUR SCR", "shilling": "KES TZS UGX SOS", "krone": "NOK DKK", "krona": "SEK ISK",
        "rial": "IRR OMR YER", "riyal": "SAR QAR", "won": "KRW KPW", "ruble": "RUB BYN BYR", "real": "BRL", "yen": "JPY", "yuan": "CNY", "lira": "TRY", "zloty": "PLN",
        "baht": "THB", "dong": "VND", "rupiah": "IDR", "hryvnia": "UAH", "rand": "ZAR", "naira": "NGN", "koruna": "CZK", "forint": "HUF", "shekel": "ILS", "taka": "BDT",
        "sol": "PEN", "birr": "ETB", "cedi": "GHS", "dirham": "MAD AED", "lev": "BGN", "leu": "RON MDL", "tenge": "KZT", "lari": "GEL", "dram": "AMD", "tugrik": "MNT",
        "kyat": "MMK", "riel": "KHR", "kip": "LAK", "ringgit": "MYR", "som": "UZS KGS", "bolivar": "VEF VES", "afghani": "AFN", "metical": "MZN", "kwanza": "AOA",
        "ariary": "MGA", "quetzal": "GTQ", "kwacha": "MWK ZMK ZMW", "gourde": "HTG", "boliviano": "BOB", "manat": "AZN TMT", "lempira": "HNL", "somoni": "TJS",
        "kina": "PGK", "guarani": "PYG", "nakfa": "ERN", "leone": "SLL SLE", "cordoba": "NIO", "colon": "CRC SVC", "balboa": "PAB", "ouguiya": "MRO MRU", "lek": "ALL",
        "loti": "LSL", "denar": "MKD", "pula": "BWP", "dalasi": "GMD", "lilangeni": "SZL", "ngultrum": "BTN", "pataca": "MOP", "escudo": "CVE", "rufiyaa": "MVR",
        "vatu": "VUV", "tala": "WST", "dobra": "STD STN", "paanga": "TOP", "florin": "AWG", "mark": "BAM",
    }.items()
}  # fmt: skip
"""Word -> codes of ISO 4217; units that nobody pays with (Chile's CLF) and currencies that are gone have none."""
_LANGUAGES = {
    "am": "Amharic", "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "da": "Danish", "de": "German", "dv": "Dhivehi", "dz": "Dzongkha", "el": "Greek", "en": "English",
    "es": "Spanish", "et": "Estonian", "fa": "Persian", "fo": "Faroese", "fr": "French", "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian", "is": "Icelandic", "it": "Italian",
    "ja": "Japanese", "ka": "Georgian", "kl": "Greenlandic", "km": "Khmer", "ko": "Korean", "lo": "Lao", "lt": "Lithuanian", "lv": "Latvian", "mk": "Macedonian", "mn": "Mongolian",
    "ms": "Malay", "my": "Burmese", "ne": "Nepali", "nl": "Dutch", "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak",
    "sl": "Slovenian", "sq": "Albanian", "sv": "Swedish", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
"""Codes of ISO 639-1, as far as a country has that language alone."""
N_ALIKE = 3
"""First letters that a language may not share with its country: Thai in Thailand. ours"""
_WORDS = {code: word for word, codes in _CURRENCIES.items() for code in codes}


def plain(text: str) -> str:
    """Without accents: `Brasília -> Brasilia`."""
    return normalize("NFKD", text).encode("ascii", "ignore").decode()


def _countries() -> list[tuple[str, float, Any]]:
    """Name, log10 of population, record; countries without people are left out."""
    found: dict[str, tuple[str, float, Any]] = {}
    for record in needed("countryinfo").all_countries():
        name, people = record.name(), record.population()
        if people and people > 0 and name not in _NOT_COUNTED and not re.search(r"[(),]", name):
            found[name] = (plain(name), log10(people), record)
    return list(found.values())


def _can_be_copied(answer: str, subject: str) -> bool:
    """Whether a word of the answer stands in the subject: Tunis in Tunisia."""
    words = [word for word in re.findall(r"\w+", answer.lower()) if len(word) >= N_SHARED_LETTERS]
    return any(word in subject.lower() for word in words)


@relation("Country", "Capital", POPULATION, ["countryinfo"])
def capital() -> list[Fact]:
    """France: Paris"""
    found: list[Fact] = []
    for name, fame, record in _countries():
        city = record.capital()
        if not isinstance(city, str) or not city or name in _NO_ONE_CAPITAL:  # a list: several forms
            continue
        answer = plain(_NAMES.get(city, city))
        if not _can_be_copied(answer, name):
            found.append(Fact(relation="capital", subject=name, answer=answer, fame=fame))
    return found


@relation("Country", "Continent", POPULATION, ["countryinfo"])
def continent() -> list[Fact]:
    """France: Europe"""
    return [
        Fact(relation="continent", subject=name, answer=_continent(name, record.region()), fame=fame)
        for name, fame, record in _countries()
        if record.region()
    ]


def _continent(name: str, region: str) -> str:
    if region != "Americas":
        return region
    return "South America" if name in _SOUTH_AMERICA else "North America"


@relation("Country", "Currency", POPULATION, ["countryinfo"])
def currency() -> list[Fact]:
    """Japan: yen"""
    found: list[Fact] = []
    for name, fame, record in _countries():
        words = {_WORDS[code] for code in record.currencies() or () if code in _WORDS}
        if len(words) == 1:
            found.append(Fact(relation="currency", subject=name, answer=words.pop(), fame=fame))
    return found


@relation("Country", "Language", POPULATION, ["countryinfo"])
def language() -> list[Fact]:
    """Brazil: Portuguese"""
    found: list[Fact] = []
    for name, fame, record in _countries():
        codes = record.languages() or ()
        answer = _LANGUAGES.get(codes[0], "") if len(codes) == 1 else ""
        if answer and answer[:N_ALIKE].lower() not in name.lower():
            found.append(Fact(relation="language", subject=name, answer=answer, fame=fame))
    return found
