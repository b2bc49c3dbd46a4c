"""Targets as they are spelled, and the way to them."""

import pytest
import trio

from raven.config import Address
from raven.diagnosis import target
from raven.errors import RefusedError
from raven.oam.target import Target
from tests.gateway.oam.site import site
from tests.gateway.oam.site import target as served


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("shop-1:9100", Target("shop-1", "", 9100)),
        ("node:9100", Target("shop-1", "", 9100)),
        ("192.0.2.5:502", Target("shop-1", "192.0.2.5", 502)),
        ("[fd00::5]:502", Target("shop-1", "fd00::5", 502)),
        ("printer.lan:80", Target("shop-1", "printer.lan", 80)),
        ("printer.lan.via.shop-1:80", Target("shop-1", "printer.lan", 80)),
    ],
)
def test_targets_on_a_node(text: str, found: Target) -> None:
    assert target.parse(text, "shop-1") == found


def test_targets_from_a_gateway() -> None:
    assert target.parse("shop-1:9100") == Target("shop-1", "", 9100)
    assert target.parse("192.0.2.5.via.shop-1:502") == Target("shop-1", "192.0.2.5", 502)


@pytest.mark.parametrize("text", ["shop-1", "shop-1:0", "", "printer.lan.via.shop-2:80"])
def test_what_is_no_target_here(text: str) -> None:
    with pytest.raises(RefusedError):
        target.parse(text, "shop-1")


async def test_without_an_agent_the_list_is_not_known() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    async with served(serve) as port:
        allow, found = await target.on_node(Target("shop-1", "", port), None)
    assert (allow.hop, allow.result) == ("allow", "unknown")
    assert (found.hop, found.result) == ("target", "ok")


async def test_a_service_beside_loopback() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.2")
        nursery.start_soon(trio.serve_listeners, serve, [listener])
        asked = Target("shop-1", "", listener.socket.getsockname()[1])
        *_, told = await target.on_node(asked, ["node:*"], own=["127.0.0.2"])
        *_, closed = await target.on_node(asked, ["node:*"], own=["127.0.0.3"])
        nursery.cancel_scope.cancel()
    assert (told.result, "--node-address 127.0.0.2" in told.next) == ("unknown", True)
    assert closed.result == "broken"


def test_the_nodes_own_address() -> None:
    """Rules for node cover what --node-address names, which only the agent knows."""
    asked = Target("shop-1", "192.0.2.5", 9100)

    def judged(rule: str, own: str) -> str:
        return target.judged(asked, "192.0.2.5:9100", ["192.0.2.5"], [rule], [own]).result

    assert judged("node:9100", "192.0.2.5") == "unknown"
    assert judged("node:9100", "192.0.2.6") == "broken"
    assert judged("node:9101", "192.0.2.5") == "broken"
    assert judged("192.0.2.0/24:9100", "192.0.2.6") == "ok"


async def test_requests_through_a_gateway() -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    async with site(allow=["node:*"]) as s, served(serve) as port:
        entry = Address.parse(s.address)
        good = await target.through(entry, Target("edge1", "", port))
        refused = await target.through(entry, Target("edge1", "192.0.2.5", 502))
        unknown = await target.through(entry, Target("edge2", "", 80))
    gone = await target.through(entry, Target("edge1", "", port))
    assert good.result == "ok"
    assert (refused.hop, refused.about) == ("allow", "192.0.2.5.via.edge1:502")
    assert (unknown.hop, unknown.said.startswith("502 unknown-node: ")) == ("node", True)
    assert (gone.result, gone.hop) == ("broken", "node")
