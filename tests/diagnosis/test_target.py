"""Targets as they are spelled, and the way to them."""

import pytest
import trio

from raven.config import Address
from raven.diagnosis import target
from raven.diagnosis.finding import decide
from raven.errors import RefusedError
from raven.oam.permits import Policy
from raven.oam.refusal import STATUS
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


@pytest.mark.parametrize(
    ("rules", "result", "said"),
    [
        (["node:22"], "ok", "the agent's allow list permits it"),
        (["node:22", "node:22 for token:a"], "ok", "the agent's allow list permits it"),
        (["node:22 for token:a"], "note", "the agent's allow list permits it to token:a only"),
        (
            ["node:22 for operator:alice,group:ops", "*:22 for from:10.0.0.0/8"],
            "note",
            "the agent's allow list permits it to operator:alice, group:ops, from:10.0.0.0/8 only",
        ),
        (["node:23 for token:a"], "broken", "the node's allow list does not permit node:22"),
    ],
)
def test_rules_for_some_askers_are_no_fault(rules: list[str], result: str, said: str) -> None:
    found = target.judged(Target("shop-1", "", 22), "node:22", ["127.0.0.1"], rules, [])
    assert (found.hop, found.result) == ("allow", result)
    assert found.said.startswith(said)
    assert bool(found.next) == (result != "ok")
    assert decide([found]).well == (result != "broken")


def test_rules_for_some_askers_and_the_nodes_own_address() -> None:
    asked = Target("shop-1", "192.0.2.5", 22)
    found = target.judged(asked, "192.0.2.5:22", ["192.0.2.5"], ["node:22 for token:a"], ["192.0.2.5"])
    assert (found.result, found.said) == (
        "unknown",
        "the rules for node permit it to token:a only if the agent runs with --node-address 192.0.2.5",
    )


@pytest.mark.parametrize(
    ("reason", "hop", "result"),
    [
        ("not-permitted", "target", "unknown"),
        ("no-identity", "target", "unknown"),
        ("too-many", "target", "unknown"),
        ("not-allowed", "allow", "broken"),
        ("unknown-node", "node", "broken"),
        ("ambiguous-node", "node", "broken"),
        ("offline-node", "node", "broken"),
        ("reconnecting", "node", "broken"),
        ("tunnel-lost", "node", "broken"),
        ("draining", "node", "broken"),
        ("registry", "node", "broken"),
        ("busy", "node", "broken"),
        ("agent-error", "target", "broken"),
        ("unreachable", "target", "broken"),
        ("dial-timeout", "target", "broken"),
    ],
)
def test_each_reason_has_its_hop_and_what_to_do(reason: str, hop: str, result: str) -> None:
    found = target.refused(reason, "shop-1:22", f"{STATUS[reason]} {reason}: no")
    assert (found.hop, found.result) == (hop, result)
    assert found.said.endswith(f"{reason}: no")
    assert found.next == target.STEPS[reason]


def test_a_reason_of_a_later_gateway_leads_to_the_table() -> None:
    found = target.refused("new-word", "shop-1:22", "502 new-word: no")
    assert (found.hop, found.result, "docs/oam.md" in found.next) == ("target", "broken", True)


async def test_who_asks_from_here_may_be_refused_where_others_are_not() -> None:
    async with site() as s:
        s.policy = Policy.parse("[[permit]]\nwho = ['token:ops']\ntargets = ['node:22']\n")
        entry = Address.parse(s.address)
        named = await target.through(entry, Target("edge1", "", 22))
        nobody = await target.through(entry, Target("edge1", "", 23))
    assert (named.result, "407 no-identity: " in named.said) == ("unknown", True)
    assert (nobody.result, "403 not-permitted: " in nobody.said) == ("unknown", True)


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
