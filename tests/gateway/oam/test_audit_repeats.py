"""What strangers are refused again and again is counted; everything else has its line."""

from dataclasses import replace

import pytest

from gateway.oam.audit_repeats import KINDS_MAX, WINDOW, Repeats
from raven.oam.audit import OPEN, AuditLine

REFUSED = AuditLine(
    id="1",
    time=1.0,
    asker="anonymous at 192.0.2.1:1",
    method="GET",
    node="shop-1",
    host="",
    port=9100,
    verdict="not-permitted",
    status=403,
    bytes_to_target=0,
    bytes_from_target=0,
    duration=0.0,
    detail="no",
)


def test_one_line_stands_for_those_like_it_for_a_while() -> None:
    repeats = Repeats()
    assert not repeats.is_told(REFUSED, 0.0)
    assert [repeats.is_told(replace(REFUSED, id=str(number)), 1.0) for number in range(5)] == [True] * 5
    assert repeats.over(WINDOW - 0.1) == []
    assert repeats.over(WINDOW) == [replace(REFUSED, id="4", detail="and 5 more like it in 10 s: no")]
    assert not repeats.is_told(REFUSED, WINDOW)
    assert repeats.over(3 * WINDOW) == [], "one alone was told"


@pytest.mark.parametrize(
    "other",
    [
        {"asker": "anonymous at 198.51.100.1:1"},
        {"verdict": "offline-node"},
        {"node": "shop-2"},
        {"asker": "operator:alice at 192.0.2.1:1"},
        {"verdict": "allowed"},
        {"verdict": "withdrawn"},
        {"verdict": OPEN},
    ],
)
def test_what_is_not_like_it_has_its_own_line(other: dict[str, str]) -> None:
    repeats = Repeats()
    repeats.is_told(REFUSED, 0.0)
    assert not repeats.is_told(replace(REFUSED, **other), 0.0)  # type: ignore[arg-type]


def test_nobody_who_is_known_is_ever_counted() -> None:
    repeats = Repeats()
    alice = replace(REFUSED, asker="operator:alice at 192.0.2.1:1")
    for line in (alice, replace(REFUSED, verdict="allowed")):
        assert [repeats.is_told(line, 0.0) for _ in range(3)] == [False] * 3


def test_made_up_names_and_many_networks_are_a_bounded_number_of_lines() -> None:
    repeats = Repeats()
    lines = 0
    for number in range(10_000):
        asker = f"anonymous at 10.{number >> 8 & 255}.{number & 255}.1:1"
        lines += not repeats.is_told(replace(REFUSED, asker=asker), 0.0)
    assert lines == KINDS_MAX + 1
    assert len(repeats.over(WINDOW)) == 1
    made_up = [replace(REFUSED, node=f"n{number}", verdict="unknown-node") for number in range(100)]
    assert [repeats.is_told(line, 0.0) for line in made_up] == [False] + [True] * 99
