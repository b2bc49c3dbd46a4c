"""Medians, ratios and goals, and the three ways a row is shown."""

from io import StringIO

import pytest
from rich.console import Console

from bench.table import Row, as_json, interleaved, markdown, percentile, rendered

FAST = Row(what="a stream", unit="Gb/s", ours=3.0, peer="ssh -R", theirs=2.0, goal=1.0)
SLOW = Row(
    what="first byte", unit="ms", ours=4.0, peer="ssh -R", theirs=2.0, higher_is_better=False, goal=3.0
)


def test_a_ratio_is_above_one_where_we_are_better() -> None:
    assert FAST.ratio == 1.5
    assert SLOW.ratio == 0.5
    assert Row(what="alone", unit="MB", ours=1.0).ratio is None


def test_a_goal_knows_which_way_is_better() -> None:
    assert FAST.holds is True
    assert SLOW.holds is False
    assert Row(what="alone", unit="MB", ours=1.0).holds is None


def test_rounds_interleave_and_reverse() -> None:
    order: list[str] = []

    def contestant(name: str, figures: list[float]) -> float:
        order.append(name)
        return figures.pop(0)

    ours, theirs = [1.0, 9.0, 2.0], [5.0, 5.0, 5.0]
    medians = interleaved(
        3, {"ours": lambda: contestant("ours", ours), "theirs": lambda: contestant("theirs", theirs)}
    )
    assert medians == {"ours": 2.0, "theirs": 5.0}
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]


@pytest.mark.parametrize(("share", "value"), [(0.0, 1), (0.5, 50), (0.99, 99), (1.0, 100)])
def test_a_percentile_is_one_of_the_values(share: float, value: int) -> None:
    assert percentile(range(1, 101), share) == value


def test_all_three_spellings_carry_the_figures() -> None:
    screen = StringIO()
    Console(file=screen, width=120).print(rendered([FAST, SLOW], title="here"))
    for text in (screen.getvalue(), markdown([FAST, SLOW])):
        words = ("3.00 Gb/s", "1.50x", ">= 1 Gb/s met", "0.50x", "<= 3 ms MISSED")
        assert all(word in text for word in words)
    assert as_json([FAST])[0]["ratio"] == 1.5
