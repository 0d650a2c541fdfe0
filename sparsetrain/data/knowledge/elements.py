"""Chemical elements. Source: the package periodictable; fame by wordfreq."""

from sparsetrain.data.knowledge import Fact, needed, relation

FREQUENCY = "Zipf frequency of the element's name"


def _elements() -> list[tuple[str, str, int, float]]:
    """Name, symbol, number, Zipf frequency of the name."""
    frequency = needed("wordfreq").zipf_frequency
    table = needed("periodictable").elements
    return [(e.name, e.symbol, e.number, frequency(e.name, "en")) for e in table if e.number > 0]


@relation("Element", "Symbol", FREQUENCY, ["periodictable", "wordfreq"])
def symbol() -> list[Fact]:
    """iron: Fe"""
    return [Fact(relation="symbol", subject=name, answer=sign, fame=fame) for name, sign, _, fame in _elements()]


@relation("Element", "Number", FREQUENCY, ["periodictable", "wordfreq"])
def atomic_number() -> list[Fact]:
    """iron: 26"""
    return [Fact(relation="atomic_number", subject=name, answer=str(n), fame=fame) for name, _, n, fame in _elements()]
