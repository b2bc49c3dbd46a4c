"""What counts as growth, and what is noise."""

from collections.abc import Callable

import pytest

from tests.soak.growth import Look, grown


def _looks(count: int, of: Callable[[int], Look]) -> list[Look]:
    return [of(number) for number in range(count)]


def _look(*, resident: int = 50_000_000, descriptors: int = 20, tasks: int = 30, streams: int = 0) -> Look:
    return Look(resident=resident, descriptors=descriptors, tasks=tasks, streams=streams)


def test_a_daemon_that_holds_the_same_has_not_grown() -> None:
    assert list(grown("gw", _looks(12, lambda _: _look()))) == []


def test_noise_and_warm_up_do_not_count() -> None:
    def noisy(number: int) -> Look:
        resident = 40_000_000 + 10_000_000 * min(number, 4) + (number % 2) * 1_000_000
        return _look(resident=resident, descriptors=20 + number % 3, tasks=30 + number % 2)

    assert list(grown("gw", _looks(12, noisy))) == []


@pytest.mark.parametrize(
    ("what", "of"),
    [
        ("memory", lambda number: _look(resident=50_000_000 + number * 1_500_000)),
        ("descriptors", lambda number: _look(descriptors=20 + number)),
        ("tasks", lambda number: _look(tasks=30 + number // 2)),
    ],
)
def test_what_grows_from_look_to_look_is_named(what: str, of: Callable[[int], Look]) -> None:
    (problem,) = grown("gw", _looks(12, of))
    assert problem.startswith(f"gw: {what} grew from ")


def test_a_stream_that_stays_is_a_leak() -> None:
    looks = [*_looks(11, lambda _: _look()), _look(streams=2)]
    assert list(grown("gw", looks)) == ["gw: 2 streams are open though nobody asks"]


def test_too_few_looks_say_nothing() -> None:
    with pytest.raises(ValueError, match="too few"):
        list(grown("gw", _looks(5, lambda _: _look())))
