"""Long texts in pieces, without holding them: what ends a piece is said by those who cut."""

import re
from collections.abc import Iterable, Iterator, Sequence


def cut(blocks: Iterable[str], size: int, ends: Sequence[re.Pattern[str]], *, anywhere: bool = True) -> Iterator[str]:
    """Pieces of `size` to `2 size` characters that together are the text; only the last one may be shorter.

    Each ends behind the first match in its second half of the first pattern that has one there. How the text comes in blocks makes no
    difference.

    Args:
        blocks: the text.
        size: at least 1.
        ends: the best first.
        anywhere: without a match a piece ends where it has `2 size` characters; otherwise behind the next match, however far that is
            (`ends` then match a character each, and look at most one further).
    """
    text = ""
    for block in blocks:
        text += block
        start = 0
        while len(text) - start > 2 * size:
            half, whole = start + size, start + 2 * size
            found = [end.search(text, half, whole) for end in ends]
            stop = next((match.end() for match in found if match), whole if anywhere else None)
            if stop is None:
                later = [match.end() for end in ends if (match := end.search(text, whole - 1))]
                if not later:
                    break
                stop = min(later)
            yield text[start:stop]
            start = stop
        text = text[start:]
    yield text
