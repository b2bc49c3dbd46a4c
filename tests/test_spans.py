"""Spans as people read them."""

import pytest

from raven.spans import age


@pytest.mark.parametrize(
    ("seconds", "read"),
    [
        (-1, "0 s"),
        (0, "0 s"),
        (3, "3 s"),
        (119, "119 s"),
        (150, "2 min"),
        (7200, "2 h"),
        (86400, "24 h"),
        (9 * 86400, "9 d"),
    ],
)
def test_in_their_largest_sensible_unit(seconds: float, read: str) -> None:
    assert age(seconds) == read
