"""Loss per character, worked out by hand."""

from math import isnan, log

import pytest

from sparsetrain.stats.bits import bits_per_char


def test_bits_per_char_by_hand():
    assert bits_per_char(3 * log(2), 1.5) == pytest.approx(2)  # 3 bits a token of one and a half characters
    assert bits_per_char(3.442, 2.564) == pytest.approx(1.9367, abs=1e-4)
    assert isnan(bits_per_char(1.0, 0.0))
