"""Which gateways an agent dials: those configured, told and kept; and one tunnel for each."""

from pathlib import Path
from typing import cast

import msgspec
import pytest
import trio

from agent.claims import Claims, Elsewhere
from agent.gateways import LIST_FILE, STRANDED, Gateways
from agent.uplink import Uplink
from raven.config import Address
from raven.control.messages import GatewayList, KnownGateway
from raven.net.tunnel import Tunnel
from tests.daemons import until

LB = Address("lb", 443)


class Idle(Uplink):
    """An uplink that dials nobody."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.expected = ""
        self.up = False
        self.running = False
        self.drained = ""

    @property
    def tunnel(self) -> Tunnel | None:
        return cast("Tunnel", self) if self.up else None

    async def run(self) -> None:
        self.running = True
        try:
            await trio.sleep_forever()
        finally:
            self.running = False

    async def drain(self, why: str) -> None:
        self.drained = why


def told(revision: int, **gateways: str) -> GatewayList:
    known = [KnownGateway(name=name, address=address) for name, address in gateways.items()]
    return GatewayList(revision=revision, gateways=known)


def gateways(
    directory: Path, *configured: Address, joined: tuple[Address, ...] = (), cluster: str = "lab"
) -> Gateways:
    return Gateways(
        configured, joined=joined, cluster=cluster, state_dir=directory, make=Idle, drain_seconds=1.0
    )


def dialled(of: Gateways) -> list[tuple[str, str]]:
    return [(str(uplink.address), uplink.expected) for uplink in of.uplinks]


async def kept(directory: Path) -> None:
    """Returns once a list is on the disk."""

    async def exists() -> bool:
        return (directory / LIST_FILE).exists()

    await until(exists, bool, "the list to be kept")


def test_what_was_joined_counts_until_a_gateway_tells(tmp_path: Path) -> None:
    of = gateways(tmp_path, joined=(Address("old", 1),))
    assert dialled(of) == [("old:1", "")]
    of.learn(GatewayList(revision=1, gateways=[]))  # none at all is no list
    assert dialled(of) == [("old:1", "")]
    of.learn(told(5, a="a:1", b="b:1"))
    assert dialled(of) == [("a:1", "a"), ("b:1", "b")]


def test_the_newest_list_counts_and_what_is_configured_stays(tmp_path: Path) -> None:
    of = gateways(tmp_path, LB)
    of.learn(told(5, a="a:1", b="b:1"))
    assert dialled(of) == [("lb:443", ""), ("a:1", "a"), ("b:1", "b")]
    stays = of.uplinks[1]
    of.learn(told(7, a="a:1", c="c:1"))
    of.learn(told(6, d="d:1"))  # by a gateway that was cut off meanwhile
    assert dialled(of) == [("lb:443", ""), ("a:1", "a"), ("c:1", "c")]
    assert of.uplinks[1] is stays


def test_behind_one_address_stand_several(tmp_path: Path) -> None:
    of = gateways(tmp_path, LB)
    of.learn(told(1, a="lb:443", b="lb:443", c="c:1"))
    assert dialled(of) == [("lb:443", ""), ("lb:443", ""), ("c:1", "c")]


def test_an_address_that_is_none_is_left_out(tmp_path: Path) -> None:
    of = gateways(tmp_path)
    of.learn(told(1, a="a", b="b:1", c="*:443", d="d:0"))
    assert dialled(of) == [("b:1", "b")]


async def test_uplinks_run_and_end_with_the_list(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    of = gateways(tmp_path, joined=(Address("a", 1),))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(of.run)
        await trio.testing.wait_all_tasks_blocked()
        (first,) = of.uplinks
        assert isinstance(first, Idle)
        assert first.running
        of.learn(told(1, b="b:1"))
        await trio.testing.wait_all_tasks_blocked()
        (second,) = of.uplinks
        assert isinstance(second, Idle)
        assert (first.running, second.running) == (False, True)
        assert "list" in first.drained
        nursery.cancel_scope.cancel()


async def test_a_list_that_nobody_answers_does_not_strand_the_node(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    of = gateways(tmp_path, joined=(Address("old", 1),))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(of.run)
        of.learn(told(1, a="a:1"))
        (listed,) = of.uplinks
        assert isinstance(listed, Idle)
        listed.up = True
        await trio.sleep(3 * STRANDED)
        assert dialled(of) == [("a:1", "a")]  # reached: there is no need
        listed.up = False
        await trio.sleep(STRANDED / 2)
        assert dialled(of) == [("a:1", "a")]  # a restart is no reason
        await trio.sleep(STRANDED)
        assert dialled(of) == [("a:1", "a"), ("old:1", "")]
        assert listed.running
        back = of.uplinks[1]
        assert isinstance(back, Idle)
        back.up = True
        of.learn(told(1, a="a:1"))  # as the one it has reached says, and that is no news
        await trio.sleep(3 * STRANDED)
        assert dialled(of) == [("a:1", "a"), ("old:1", "")]
        of.learn(told(2, b="b:1"))
        assert dialled(of) == [("b:1", "b")]
        nursery.cancel_scope.cancel()


async def test_a_made_up_revision_counts_no_longer_than_its_list_leads_somewhere(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    of = gateways(tmp_path, joined=(Address("old", 1),))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(of.run)
        of.learn(told(2**60, thief="thief:1"))
        of.learn(told(5, a="a:1"))
        assert dialled(of) == [("thief:1", "thief")]
        await trio.sleep(2 * STRANDED)  # its certificate was revoked
        of.learn(told(5, a="a:1"))
        assert dialled(of) == [("a:1", "a")]
        nursery.cancel_scope.cancel()


async def test_a_restart_knows_the_list(tmp_path: Path) -> None:
    of = gateways(tmp_path, joined=(Address("old", 1),))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(of.run)
        of.learn(told(3, a="a:1", b="b:1"))
        await kept(tmp_path)
        nursery.cancel_scope.cancel()
    again = gateways(tmp_path, joined=(Address("old", 1),))
    assert dialled(again) == [("a:1", "a"), ("b:1", "b")]
    again.learn(told(2, c="c:1"))
    assert dialled(again) == [("a:1", "a"), ("b:1", "b")]
    # A directory that has joined another cluster since does not dial the gateways of the one before.
    other = gateways(tmp_path, joined=(Address("new", 1),), cluster="other")
    assert dialled(other) == [("new:1", "")]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[" * 100_000, b'{"cluster":"lab","told":{"type":"gateway-list"}}']
)
def test_a_kept_list_that_is_damaged_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LIST_FILE).write_bytes(content)
    (tmp_path / LIST_FILE).chmod(0o600)
    assert dialled(gateways(tmp_path, joined=(Address("old", 1),))) == [("old:1", "")]


def test_a_list_is_bounded() -> None:
    data = msgspec.json.encode(told(1, **{f"g{number}": "g:1" for number in range(33)}))
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(data, type=GatewayList)


def test_one_uplink_leads_to_a_gateway() -> None:
    claims, one, other = Claims(), Idle(LB), Idle(Address("a", 1))
    claims.take("a", one)
    claims.take("a", one)  # its next connection, before the last has gone
    with pytest.raises(Elsewhere, match="gateway a is reached at lb:443 already"):
        claims.take("a", other)
    claims.take("b", other)
    freed = claims.given_up
    claims.give_up(one)
    assert freed.is_set()
    claims.take("a", other)
