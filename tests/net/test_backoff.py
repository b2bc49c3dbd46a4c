"""The back-off between two attempts."""

from hypothesis import given
from hypothesis import strategies as st

from raven.net.backoff import FIRST, MOST, backoff


def test_the_bound_doubles_up_to_half_a_minute() -> None:
    assert [backoff(attempts, 1.0) for attempts in range(8)] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert backoff(10_000, 1.0) == MOST


@given(st.integers(0, 1000), st.floats(0, 1, exclude_max=True))
def test_full_jitter_spreads_from_nothing_to_the_bound(attempts: int, chance: float) -> None:
    assert 0 <= backoff(attempts, chance) <= min(MOST, FIRST * 2 ** min(attempts, 20))
    assert backoff(attempts, 0.0) == 0.0
