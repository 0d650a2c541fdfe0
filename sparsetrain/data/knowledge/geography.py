"""Countries: capitals, regions, currencies. Source: the package countryinfo."""

from math import log10
from typing import Any

from sparsetrain.data.knowledge import Fact, needed, relation

POPULATION = "log10 of the country's population"
_CURRENCIES = {
    "USD": "dollar", "EUR": "euro", "GBP": "pound", "JPY": "yen", "CNY": "yuan", "INR": "rupee", "RUB": "ruble", "BRL": "real", "KRW": "won", "TRY": "lira",
    "MXN": "peso", "PLN": "zloty", "SEK": "krona", "NOK": "krone", "DKK": "krone", "CHF": "franc", "THB": "baht", "VND": "dong", "IDR": "rupiah", "UAH": "hryvnia",
    "ZAR": "rand", "NGN": "naira", "PHP": "peso", "CZK": "koruna", "HUF": "forint", "ILS": "shekel", "BDT": "taka", "SAR": "riyal", "IRR": "rial", "IQD": "dinar",
    "ARS": "peso", "CLP": "peso", "COP": "peso", "PEN": "sol", "KES": "shilling", "ETB": "birr", "GHS": "cedi", "MAD": "dirham", "AUD": "dollar", "CAD": "dollar",
    "NZD": "dollar", "SGD": "dollar", "PKR": "rupee", "LKR": "rupee", "NPR": "rupee", "BGN": "lev", "RON": "leu", "RSD": "dinar", "KZT": "tenge", "GEL": "lari",
    "AMD": "dram", "MNT": "tugrik", "MMK": "kyat", "KHR": "riel", "LAK": "kip", "MYR": "ringgit", "AED": "dirham", "EGP": "pound", "TND": "dinar", "DZD": "dinar",
}  # fmt: skip
"""Words for the codes of ISO 4217."""


def _countries() -> list[tuple[str, float, Any]]:
    """Name, log10 of population, record; countries without people are left out."""
    found: dict[str, tuple[str, float, Any]] = {}
    for record in needed("countryinfo").all_countries():
        people = record.population()
        if people and people > 0:
            found[record.name()] = (record.name(), log10(people), record)
    return list(found.values())


@relation("Country", "Capital", POPULATION, ["countryinfo"])
def capital() -> list[Fact]:
    """France: Paris"""
    return [
        Fact(relation="capital", subject=name, answer=record.capital(), fame=fame)
        for name, fame, record in _countries()
        if record.capital()
    ]


@relation("Country", "Continent", POPULATION, ["countryinfo"])
def continent() -> list[Fact]:
    """France: Europe"""
    return [
        Fact(relation="continent", subject=name, answer=record.region(), fame=fame)
        for name, fame, record in _countries()
        if record.region()
    ]


@relation("Country", "Currency", POPULATION, ["countryinfo"])
def currency() -> list[Fact]:
    """Japan: yen"""
    return [
        Fact(relation="currency", subject=name, answer=_CURRENCIES[codes[0]], fame=fame)
        for name, fame, record in _countries()
        if (codes := record.currencies()) and codes[0] in _CURRENCIES
    ]
