"""Agents against a gateway, on real devices; the test carries offers and maps in place of the stream lane.

    10.1.0.10, fd00:1::10 ─ site-a ── 192.0.2.0/24 ─────┐
                                                       hub ─ 10.0.0.10, fd00::10
    10.2.0.10, fd00:2::10 ─ site-b ── 198.51.100.0/24 ──┘    (dialled at 203.0.113.1)

A pod here is an address of its machine; NAT and pods of their own are in tests/e2e.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

from agent.network import AgentNetwork
from raven.control.messages import MapNode, NetworkMap, PacketOffer, encode
from raven.errors import ConfigError
from raven.keys import PrivateKey, PublicKey
from raven.net.end import EndOptions
from tests.lab import uapi, wires
from tests.lab.machine import Machine
from tests.lab.waiting import wait_until
from tests.net.hosts import dump, host
from tests.net.lanes import WIREGUARD_GO, fake_key
from tests.net.networks import CallError, Network

HUB = "203.0.113.1"


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Machine]:
    (tmp_path / "hub").mkdir()
    with host(tmp_path / "hub") as machine:
        for address in (f"{HUB}/32", "10.0.0.10/32", "fd00::10/128"):
            machine.run("ip", "addr", "add", address, "dev", "lo")
        yield machine


@contextlib.contextmanager
def site(hub: Machine, directory: Path, number: int, network: str) -> Iterator[Machine]:
    """Site `number` with its cable to the hub."""
    directory.mkdir()
    with host(directory) as machine:
        wires.plug(machine, "eth0", hub, f"to-{number}")
        hub.run("ip", "addr", "add", f"{network}.1/24", "dev", f"to-{number}")
        for command in (
            f"addr add {network}.11/24 dev eth0",
            f"route add default via {network}.1",
            f"addr add 10.{number}.0.10/32 dev lo",
            f"addr add fd00:{number}::10/128 dev lo",
        ):
            machine.run("ip", *command.split())
        yield machine


@pytest.fixture
def site_a(hub: Machine, tmp_path: Path) -> Iterator[Machine]:
    with site(hub, tmp_path / "a", 1, "192.0.2") as machine:
        yield machine


@pytest.fixture
def site_b(hub: Machine, tmp_path: Path) -> Iterator[Machine]:
    with site(hub, tmp_path / "b", 2, "198.51.100") as machine:
        yield machine


def gateway(hub: Machine, program: list[str] | None) -> Network:
    return Network(
        hub,
        "cloud",
        pod_cidrs=["10.0.0.0/24", "fd00::/64"],
        endpoint=f"{HUB}:4500",
        listen_port=4500,
        program=program,
    )


def agent(machine: Machine, number: int, program: list[str] | None) -> Network:
    return Network(
        machine, f"site-{number}", pod_cidrs=[f"10.{number}.0.0/24", f"fd00:{number}::/64"], program=program
    )


def introduce(cloud: Network, *agents: Network) -> None:
    """Carries every offer to the gateway and, once its device knows the nodes, every map back."""
    for one in agents:
        packets, reason = one.call("offer")
        assert reason == ""
        assert cloud.call("offer", node=one.name, packets=msgspec.convert(packets, PacketOffer)) == ""
    shown = ("wg", "show", cloud.machine.interface, "peers")
    wait_until(
        lambda: all(one.public_key in cloud.machine.run(*shown).out for one in agents),
        what="the hub's peers",
        seconds=5,
    )
    for one in agents:
        one.call("take_map", map=msgspec.convert(_told(cloud, one), NetworkMap))


def _told(cloud: Network, one: Network) -> object:
    return {key: value for key, value in cloud.call("map", node=one.name).items() if key != "type"}


def pings(source: Machine, from_: str, to: str) -> bool:
    return source.run("ping", "-c1", "-W1", "-I", from_, to, check=False).code == 0


def wait_ping(source: Machine, from_: str, to: str) -> None:
    wait_until(lambda: pings(source, from_, to), what=f"a ping from {from_} to {to}", seconds=20)


def seals_superframes(one: Network) -> bool:
    """Whether each of its device's peers is to get superframes; both ends are `raven-wg`."""
    return all(peer.superframes != "off" for peer in uapi.status(one.machine.interface).peers.values())


def shook_hands(one: Network, lane: Mapping[str, str]) -> bool:
    """Whether what it says of that lane has a handshake in it."""
    return one.call(**lane)["handshake_age_s"] is not None


@pytest.mark.netns
@pytest.mark.interop
@pytest.mark.parametrize("program", [None, WIREGUARD_GO], ids=["raven-wg", "wireguard-go"])
def test_two_sites_and_a_cloud_reach_each_other_and_leave_their_hosts_as_they_were(
    hub: Machine, site_a: Machine, site_b: Machine, program: list[str] | None
) -> None:
    before = {machine.namespace: dump(machine) for machine in (hub, site_a, site_b)}
    cloud, a, b = gateway(hub, program), agent(site_a, 1, program), agent(site_b, 2, program)
    for one in (cloud, a, b):
        one.start()
    introduce(cloud, a, b)
    wait_ping(hub, "10.0.0.10", "10.1.0.10")
    wait_ping(site_a, "10.1.0.10", "10.0.0.10")
    wait_ping(site_a, "10.1.0.10", "10.2.0.10")
    wait_ping(site_b, "fd00:2::10", "fd00:1::10")
    if program is None:
        for one in (cloud, a, b):
            wait_until(partial(seals_superframes, one), what=f"superframes of {one.name}", seconds=15)
    assert 0 < cloud.call("ping", node="site-1") < 1
    assert 0 < a.call("ping") < 1
    for one, lane in ((a, {"what": "lane"}), (cloud, {"what": "node_lane", "node": "site-1"})):
        wait_until(partial(shook_hands, one, lane), what="a handshake", seconds=5)
    shown = cloud.call("node_lane", node="site-1")
    assert (shown["state"], shown["detail"]) == ("up", "")
    assert shown["evidence_age_s"] < 5
    assert shown["handshake_age_s"] < 60
    assert shown["bytes_in"] > 0
    assert cloud.call("lane")["state"] == "up"
    assert a.call("lane")["state"] == "up"
    assert a.call("report")["problem"] == cloud.call("lane")["detail"] == ""
    assert cloud.call("problems") == a.call("problems") == []
    for one in (a, b, cloud):
        assert one.stop() == 0
    assert {machine.namespace: dump(machine) for machine in (hub, site_a, site_b)} == before
    assert list(cloud.state.iterdir()) == []
    assert [path.name for path in a.state.iterdir()] == ["network.json"]


@pytest.mark.netns
@pytest.mark.interop
def test_packets_resume_after_a_restart_of_both_ends_without_the_stream_lane(
    hub: Machine, site_a: Machine
) -> None:
    cloud, a = gateway(hub, WIREGUARD_GO), agent(site_a, 1, WIREGUARD_GO)
    for one in (cloud, a):
        one.start()
    introduce(cloud, a)
    wait_ping(site_a, "10.1.0.10", "10.0.0.10")
    wait_until((a.state / "network.json").exists, what="the map to be kept", seconds=5)
    assert (a.stop(), cloud.stop()) == (0, 0)
    # What the registry would tell.
    cloud.orders = msgspec.structs.replace(
        cloud.orders, load=[("site-1", a.public_key, ["10.1.0.0/24", "fd00:1::/64"])]
    )
    for one in (cloud, a):
        one.start()
    wait_ping(site_a, "10.1.0.10", "10.0.0.10")


@pytest.mark.netns
@pytest.mark.interop
def test_a_node_that_goes_silent_is_shown_with_the_age_of_its_last_answer(
    hub: Machine, site_a: Machine
) -> None:
    cloud, a = gateway(hub, WIREGUARD_GO), agent(site_a, 1, WIREGUARD_GO)
    for one in (cloud, a):
        one.start()
    introduce(cloud, a)
    wait_until(lambda: cloud.call("node_lane", node="site-1")["rtt_ms"], what="an answered probe", seconds=20)
    site_a.run("ip", "link", "set", "eth0", "down")
    with pytest.raises(CallError, match="no answer to 2 probes"):
        cloud.call("ping", node="site-1")
    shown = cloud.call("node_lane", node="site-1")
    assert shown["evidence_age_s"] > 5
    assert "the last WireGuard handshake was" in shown["detail"]
    site_a.run("ip", "link", "set", "eth0", "up")
    site_a.run("ip", "route", "add", "default", "via", "192.0.2.1")
    wait_ping(site_a, "10.1.0.10", "10.0.0.10")


@pytest.mark.netns
@pytest.mark.interop
def test_a_hub_that_does_not_answer_or_has_no_address_is_told(hub: Machine, site_a: Machine) -> None:
    a = agent(site_a, 1, WIREGUARD_GO)
    a.start()
    nowhere = MapNode(name="g", public_key=fake_key(9), endpoint=f"{HUB}:9", pod_cidrs=[], hub=True)
    me = MapNode(name="site-1", public_key=a.public_key, endpoint="", pod_cidrs=[], hub=False)
    a.call("take_map", map=NetworkMap(revision=1, nodes=[nowhere, me]))
    wait_until(
        lambda: f"do UDP packets reach {HUB}:9" in a.call("lane")["detail"], what="the sentence", seconds=15
    )
    unknown = msgspec.structs.replace(nowhere, endpoint="a..b:4500")  # no server need be asked
    a.call("take_map", map=NetworkMap(revision=2, nodes=[unknown, me]))
    wait_until(
        lambda: "name a..b cannot be resolved" in a.call("report")["problem"],
        what="the sentence",
        seconds=15,
    )
    assert any("a..b" in problem for problem in a.call("problems"))


@pytest.mark.netns
def test_a_host_that_cannot_have_packets_offers_none_and_says_why(hub: Machine) -> None:
    one = agent(hub, 1, None)
    one.start("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    packets, reason = one.call("offer")
    assert packets is None
    assert reason.startswith("no CAP_NET_ADMIN")
    assert one.call("lane")["state"] == "down"
    with pytest.raises(CallError):
        one.call("ping")
    assert one.stop() == 0


# Without a device -------------------------------------------------------------------------------------------


def made(state_dir: Path, *, off: str = "", pod_cidrs: list[str] | None = None) -> AgentNetwork:
    return AgentNetwork(
        EndOptions(
            private_key=PrivateKey(bytes([1]) * 32),
            public_key=PublicKey(bytes([2]) * 32),
            listen_port=0,
            pod_cidrs=["10.1.0.0/24"] if pod_cidrs is None else pod_cidrs,
            interface="rvn-none",
            state_dir=state_dir,
            off=off,
        ),
        node="site-1",
    )


def test_a_pod_network_nobody_may_carry_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pod_cidr: pod network 0\.0\.0\.0/0 cannot be used"):
        made(tmp_path, pod_cidrs=["0.0.0.0/0"])


async def test_switched_off_it_offers_nothing_and_keeps_no_map(tmp_path: Path) -> None:
    network = made(tmp_path, off="switched off by --no-packets")
    assert network.offer() == (None, "switched off by --no-packets")
    assert network.lane().state == "off"
    assert network.problems() == []
    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        network.take_map(NetworkMap(revision=1, nodes=[]))
        nursery.cancel_scope.cancel()
    assert not (tmp_path / "network.json").exists()


async def test_before_the_first_attempt_the_offer_stands(tmp_path: Path) -> None:
    network = made(tmp_path)
    packets, reason = network.offer()
    assert packets == PacketOffer(
        public_key=PublicKey(bytes([2]) * 32).to_base64(), listen_port=0, pod_cidrs=["10.1.0.0/24"]
    )
    assert reason == ""
    assert network.lane().state == "starting"


async def test_the_gateways_problem_is_shown(tmp_path: Path) -> None:
    network = made(tmp_path)
    network.take_map(NetworkMap(revision=1, nodes=[], problem="pod network 10.1.0.0/24 is taken"))
    assert network.lane().state == "down"
    assert network.lane().detail == "pod network 10.1.0.0/24 is taken"
    assert network.problems() == ["packets: pod network 10.1.0.0/24 is taken"]


async def test_a_hub_whose_device_was_started_anew_is_asked_whether_it_has_our_keys(tmp_path: Path) -> None:
    network = made(tmp_path)
    hub = MapNode(name="g", public_key=fake_key(9), endpoint=f"{HUB}:9", pod_cidrs=[], hub=True)
    asked = []
    for revision, starts in enumerate((0, 0, 1, 1)):
        greeting = network._greeting
        known = msgspec.structs.replace(hub, starts=starts, pod_cidrs=[f"10.{revision}.0.0/16"])
        network.take_map(NetworkMap(revision=revision, nodes=[known]))
        asked.append(greeting.is_set())
    assert asked == [False, False, True, False]


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"type":"packet-report","problem":""}', json.dumps([1]).encode(), b"\xff" * 99]
)
async def test_a_corrupt_map_is_ignored(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "network.json").write_bytes(content)
    assert made(tmp_path).lane().detail == "no gateway has told the network map yet"
    assert (tmp_path / "network.json").read_bytes() == content


async def test_a_kept_map_is_followed_at_once(tmp_path: Path) -> None:
    kept = NetworkMap(revision=7, nodes=[], problem="as it was told")
    (tmp_path / "network.json").write_bytes(encode(kept))
    assert made(tmp_path).lane().detail == "as it was told"
