"""What strangers are refused again and again is counted; everything else has its line."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from gateway.oam.audit_repeats import DAY_MAX, EACH_MAX, KIND_LINES, KINDS_MAX, MEMORY, WINDOW, Repeats
from gateway.tunnels import Offline
from raven.oam.audit import OPEN, AuditLine
from raven.oam.permits import Policy
from raven.registry.audit_log import AUDIT_MAX
from tests.gateway.oam.site import site

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
    known=True,
)
DAY = 86_400.0  # seconds


def test_one_line_stands_for_those_like_it_for_a_while() -> None:
    repeats = Repeats()
    assert not repeats.is_told(REFUSED, 0.0)
    assert [repeats.is_told(replace(REFUSED, id=str(number)), 5.0) for number in range(5)] == [True] * 5
    assert repeats.over(WINDOW - 0.1) == []
    assert repeats.over(WINDOW) == [replace(REFUSED, id="4", detail="and 5 more like it in 5 s: no")]
    assert repeats.is_told(REFUSED, WINDOW + 1), "known for longer than its first window"
    assert repeats.over(5 * WINDOW) == [replace(REFUSED, detail="and 1 more like it in 1 s: no")]
    assert repeats.over(MEMORY) == [], "none came since"
    assert not repeats.is_told(REFUSED, MEMORY)


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


def lines_of(ask: Callable[[int], AuditLine], seconds: float, *, every: float) -> int:
    """The lines that are written of one refusal every so many seconds."""
    repeats = Repeats()
    lines = 0
    for number in range(int(seconds / every)):
        lines += not repeats.is_told(ask(number), number * every)
        lines += len(repeats.over(number * every))
    return lines


def from_network(number: int) -> str:
    return f"anonymous at 10.{number >> 8 & 255}.{number & 255}.1:1"


@pytest.mark.parametrize("verdict", ["not-permitted", "unknown-node", "no-identity"])
def test_names_that_are_no_nodes_are_of_one_kind_however_many_are_made_up(verdict: str) -> None:
    repeats = Repeats()
    made_up = [replace(REFUSED, node=f"n{number}", verdict=verdict, known=False) for number in range(100)]
    assert [repeats.is_told(line, 0.0) for line in made_up] == [False] + [True] * 99


@pytest.mark.parametrize("nodes", [1, 100, 1000])
@pytest.mark.parametrize("every", [1.0, 11.0, 61.0])
def test_one_network_has_few_lines_a_day_however_many_nodes_there_are(nodes: int, every: float) -> None:
    lines = lines_of(lambda number: replace(REFUSED, node=f"n{number % nodes}"), DAY, every=every)
    assert lines <= (EACH_MAX + 1) * KIND_LINES * 24 < AUDIT_MAX / 30


@pytest.mark.parametrize("every", [0.5, 11.0])
def test_all_networks_together_have_few_lines_a_day(every: float) -> None:
    lines = lines_of(lambda number: replace(REFUSED, asker=from_network(number)), DAY, every=every)
    assert lines <= DAY_MAX < AUDIT_MAX / 9


def test_one_network_leaves_room_for_others() -> None:
    repeats = Repeats()
    flood = [repeats.is_told(replace(REFUSED, node=f"n{number}"), 0.0) for number in range(1000)]
    assert flood.count(False) == EACH_MAX + 1
    assert not repeats.is_told(replace(REFUSED, asker="anonymous at 198.51.100.1:1"), 0.0)
    (rest,) = repeats.over(WINDOW)
    assert rest.detail == f"and {1000 - EACH_MAX - 1} more of many kinds in 1 s: no"


def test_many_networks_are_a_bounded_number_of_kinds() -> None:
    repeats = Repeats()
    flood = [repeats.is_told(replace(REFUSED, asker=from_network(number)), 0.0) for number in range(10_000)]
    assert flood.count(False) == KINDS_MAX + 1
    assert len(repeats.over(WINDOW)) == 1


async def test_what_the_policy_refuses_is_known_where_its_node_is() -> None:
    """Its sentence is the same for names that are made up."""
    async with site() as made:
        made.offline["away"] = Offline(None)
        made.addresses["192.0.2.7"] = ["away"]
        made.policy = Policy(())
        for name in ("edge1", "away", "192.0.2.7", "made-up", "192.0.2.8"):
            await made.ask(b"CONNECT %s:9100 HTTP/1.1\r\nHost: x\r\n\r\n" % name.encode())
        lines = await made.lines(5)
        assert {line.verdict for line in lines} == {"not-permitted"}
        assert [line.node for line in lines if line.known] == ["edge1", "away", "away"]
        assert [line.node for line in lines if not line.known] == ["made-up", "192.0.2.8"]
