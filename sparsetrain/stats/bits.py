"""Loss per character, which models of different vocabularies can be compared by: a token of a larger vocabulary says more.

    bits/char = nats/token / ln 2 / (characters per token)

Both means are over exactly the tokens that are predicted. Characters are Unicode code points, not bytes. One that several tokens share
is counted in the first of them; the separator before a document has none, but is predicted and its loss counts.
"""

from math import log, nan

UNIT = "bits/char"
CONVENTION = "bits/char: nats/token over ln 2 and the characters (code points, not bytes) of the predicted tokens; separators have none"


def bits_per_char(nats_per_token: float, chars_per_token: float) -> float:
    """Loss in bits/char; NaN where the predicted tokens have no characters.

    Args:
        nats_per_token: mean loss of the predicted tokens.
        chars_per_token: mean of their characters, over the same tokens with the same weights.
    """
    return nats_per_token / log(2) / chars_per_token if chars_per_token else nan
