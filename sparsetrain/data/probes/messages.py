"""The same messages in many languages: Django's translations.

Message ids are read from the English `.po` files of Django's core and of its applications, translations from the `.mo` files beside them. A
message counts if it is of at least four words, in one line, without places to fill in or markup, and translated in every language asked.
"""

import ast
import gettext
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from sparsetrain.data.knowledge import needed
from sparsetrain.data.probes.texts import generator

ENGLISH = "en"
N_WORDS = 4
"""Of a message, at least. ours"""
_FORBIDDEN = re.compile(r"[%{}<>\n]")
_MSGID = re.compile(r'^msgid ((?:".*"\s*)+)', re.MULTILINE)


def messages(languages: Sequence[str]) -> list[dict[str, str]]:
    """Every message that all languages have, in the order of its English text.

    Args:
        languages: as Django names them.

    Returns:
        Language -> text, for each message.

    Raises:
        ValueError: Django is not installed, or has no such language.
    """
    django = Path(str(needed("django").__file__)).parent
    folders = _folders(django / "conf" / "locale")
    if unknown := [language for language in languages if language not in folders]:
        raise ValueError(f"languages={list(languages)}: Django has no {unknown[0]!r}; choose of {', '.join(folders)}")
    others = [language for language in languages if language != ENGLISH]
    found: dict[str, dict[str, str]] = {}
    for po in sorted(django.glob("conf/locale/en/LC_MESSAGES/*.po")) + sorted(
        django.glob("contrib/*/locale/en/LC_MESSAGES/*.po")
    ):
        files = {name: po.parents[2] / folders[name] / "LC_MESSAGES" / f"{po.stem}.mo" for name in others}
        if not all(path.is_file() for path in files.values()):
            continue
        catalogues = {name: _translations(path) for name, path in files.items()}
        for message in _message_ids(po.read_text(encoding="utf-8")):
            translated = {name: catalogue.gettext(message) for name, catalogue in catalogues.items()}
            texts = {name: translated.get(name, message) for name in languages}
            if message not in translated.values() and not any(map(_FORBIDDEN.search, texts.values())):
                found.setdefault(message, texts)
    return [found[message] for message in sorted(found)]


def deal(n: int, is_enough: Callable[[Sequence[int]], bool], seed: int) -> Iterator[list[int]]:
    """Hands of different numbers below n, each as large as it must be, in which all numbers come equally often up to one.

    Numbers are dealt from a shuffled deck, and from another one when it is used up. Ends where all n together are not enough.
    """
    deck: list[int] = []
    n_decks = 0
    while True:
        hand: list[int] = []
        while not is_enough(hand):
            place = next((i for i, number in enumerate(deck) if number not in hand), None)
            if place is not None:
                hand.append(deck.pop(place))
            elif len(hand) == n:
                return
            else:
                deck += generator(seed, "deck", n_decks).permutation(n).tolist()
                n_decks += 1
        yield hand


def _folders(root: Path) -> dict[str, str]:
    """Language as Django names it -> its folder: pt-br, pt_BR."""
    names = sorted(path.name for path in root.iterdir() if (path / "LC_MESSAGES").is_dir())
    return {name.lower().replace("_", "-"): name for name in names}


def _translations(path: Path) -> gettext.GNUTranslations:
    with path.open("rb") as file:
        return gettext.GNUTranslations(file)


def _message_ids(po: str) -> Iterator[str]:
    for entry in po.split("\n\n"):
        match = _MSGID.search(entry)
        if match is None or "msgctxt " in entry or "msgid_plural " in entry:
            continue
        # Quoted as in C, of which these strings use what Python shares.
        message = "".join(ast.literal_eval(line) for line in match[1].splitlines() if line.strip())
        if len(message.split()) >= N_WORDS:
            yield message
