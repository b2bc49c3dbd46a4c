"""The window beside a naive model that remembers every counter."""

from hypothesis import example, given
from hypothesis import strategies as st

from raven.wg.constants import REJECT_AFTER_MESSAGES, REPLAY_WINDOW
from raven.wg.replay import ReplayWindow


class NaiveWindow:
    """Accepts what is new and less than REPLAY_WINDOW behind the newest."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.newest = -1

    def accept(self, counter: int) -> bool:
        if counter in self.seen or counter <= self.newest - REPLAY_WINDOW:
            return False
        self.seen.add(counter)
        self.newest = max(self.newest, counter)
        return True


def accept(window: ReplayWindow, counter: int) -> bool:
    if not window.is_new(counter):
        return False
    window.mark(counter)
    return True


# Steps relative to the newest counter: mostly near, sometimes around the window's edge, sometimes far ahead.
steps = st.one_of(
    st.integers(-70, 70),
    st.integers(-REPLAY_WINDOW - 3, -REPLAY_WINDOW + 3),
    st.integers(REPLAY_WINDOW - 3, REPLAY_WINDOW + 3),
    st.integers(-3 * REPLAY_WINDOW, 3 * REPLAY_WINDOW),
    st.integers(1 << 40, 1 << 60),
)


@given(st.lists(steps, max_size=80))
def test_equals_the_naive_model(moves: list[int]) -> None:
    window, naive = ReplayWindow(), NaiveWindow()
    for move in moves:
        counter = min(max(0, naive.newest + move), REJECT_AFTER_MESSAGES)
        assert window.is_ahead(counter) == (counter > naive.newest)
        assert accept(window, counter) == naive.accept(counter)


@given(st.lists(st.tuples(steps, st.integers(1, 64)), max_size=40))
@example([(1, 64), (REPLAY_WINDOW, 64), (-REPLAY_WINDOW, 64)])
def test_runs_equal_single_marks(moves: list[tuple[int, int]]) -> None:
    window, naive = ReplayWindow(), NaiveWindow()
    for move, count in moves:
        first = max(0, naive.newest + move)
        counters = range(first, first + count)
        if all(window.is_new(counter) for counter in counters):
            window.mark(first, count)
            # Within a run that starts at the window's very edge the later ones move the edge past the first.
            assert [naive.accept(counter) for counter in counters].count(True) == count
        else:
            assert [accept(window, c) for c in counters] == [naive.accept(c) for c in counters]
        for counter in counters:
            assert not window.is_new(counter)


def test_a_run_longer_than_the_window() -> None:
    window = ReplayWindow()
    window.mark(5, 3 * REPLAY_WINDOW)
    assert window.is_ahead(5 + 3 * REPLAY_WINDOW)
    assert not window.is_new(5 + 3 * REPLAY_WINDOW - 1)
    assert not window.is_new(4)
    assert window.is_new(5 + 3 * REPLAY_WINDOW)


def test_the_window_is_at_least_the_kernels() -> None:
    """COMPAT: 8128 counters of reordering are not loss."""
    window = ReplayWindow()
    window.mark(8128)
    assert window.is_new(1)
    assert window.is_new(0)
    assert accept(window, 1)
    assert not accept(window, 1)


def test_in_order_traffic_and_jumps_hold_no_large_integers() -> None:
    window = ReplayWindow()
    for counter in range(0, 100_000, 50):
        window.mark(counter, 50)
    assert window._seen == 0
    window.mark(1 << 60)
    assert window._seen.bit_length() <= REPLAY_WINDOW
    window.mark((1 << 60) - 1)
    assert window._seen.bit_length() <= REPLAY_WINDOW
