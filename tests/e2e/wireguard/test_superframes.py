"""Superframes between two devices, over real TUN devices, GSO and GRO, told of each other by the socket.

left                                        right
wg 10.9.0.1, fd09::1                        wg 10.9.0.2, fd09::2
 │                                           │
eth0 192.0.2.1, fd01::1 ──────────────────  eth0 192.0.2.2, fd01::2
port 51820                                  port 51820
"""

import base64
import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from raven.wg.configuration import PeerStatus, SuperframeCipher
from raven.wg.stepdown import TRIAL_FRAMES
from raven.wg.uapi_answers import parse_errno_untrusted
from tests.e2e.wireguard.network import (
    LEFT4,
    LEFT6,
    RIGHT4,
    RIGHT6,
    Interface,
    peer_lines,
    pings,
    rule,
    two_hosts,
)
from tests.lab import uapi
from tests.lab.machine import Machine
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.netns

AES, CHACHA = SuperframeCipher.AES256GCM, SuperframeCipher.CHACHA20POLY1305
UDP_SEGMENT = 103
OFF = "off"


@pytest.fixture(scope="module")
def network() -> Iterator[tuple[Interface, Interface]]:
    with two_hosts() as both:
        yield both


@pytest.fixture
def left(network: tuple[Interface, Interface]) -> Interface:
    """Peers anew, that send each other plain packets."""
    left, right = network
    meet(left, right, "192.0.2.1", "192.0.2.2")
    return left


@pytest.fixture
def right(network: tuple[Interface, Interface], left: Interface) -> Interface:
    return network[1]


def meet(left: Interface, right: Interface, left_host: str, right_host: str) -> None:
    left.configure(*peer_lines(right, f"{RIGHT4}/32,{RIGHT6}/128", endpoint=f"{right_host}:51820"))
    right.configure(*peer_lines(left, f"{LEFT4}/32,{LEFT6}/128", endpoint=f"{left_host}:51820"))


def switch(device: Interface, peer: Interface, superframes: str) -> None:
    key = base64.b64decode(peer.public_key).hex()
    answer = uapi.ask(
        device.name, "set=1", f"public_key={key}", "update_only=true", f"raven_superframes={superframes}"
    )
    parse_errno_untrusted(answer)


def status(device: Interface) -> PeerStatus:
    (peer,) = uapi.status(device.name).peers.values()
    return peer


def tell(left: Interface, right: Interface, cipher: str = AES) -> None:
    switch(left, right, cipher)
    switch(right, left, cipher)


def harm(device: Interface) -> dict[str, int]:
    """Drops, but for the host's own packets that belong to nobody, such as router solicitations."""
    return {reason: count for reason, count in device.drops().items() if reason != "no-peer"}


def digest_of_a_stream(client: Machine, server: Machine, address: str, content: bytes) -> str:
    """What `server` received at `address` when `client` had sent `content` by TCP."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    def listen() -> socket.socket:
        listener = socket.create_server((address, 0), family=family)
        listener.settimeout(20)
        return listener

    def send() -> None:
        with client.inside(lambda: socket.create_connection((address, port), timeout=20)) as sender:
            sender.sendall(content)

    received = hashlib.sha256()
    with server.inside(listen) as listener:
        port = listener.getsockname()[1]
        sending = threading.Thread(target=send)
        sending.start()
        taken, _ = listener.accept()
        with taken:
            taken.settimeout(20)
            while piece := taken.recv(1 << 20):
                received.update(piece)
        sending.join()
    return received.hexdigest()


CONTENT = Random(5).randbytes(24 << 20)


@pytest.mark.parametrize("cipher", list(SuperframeCipher))
@pytest.mark.parametrize(
    ("hosts", "addresses"),
    [(("192.0.2.1", "192.0.2.2"), (LEFT4, RIGHT4)), (("[fd01::1]", "[fd01::2]"), (LEFT6, RIGHT6))],
    ids=["ipv4", "ipv6"],
)
def test_tcp_arrives_unharmed_in_both_directions(
    left: Interface,
    right: Interface,
    hosts: tuple[str, str],
    addresses: tuple[str, str],
    cipher: SuperframeCipher,
) -> None:
    meet(left, right, *hosts)
    tell(left, right, cipher)
    before = {device.name: harm(device) for device in (left, right)}
    pings(left.machine, addresses[1])
    wanted = hashlib.sha256(CONTENT).hexdigest()

    def both_ways() -> bool:
        """Whether frames went beyond the trial; what is short may be over before its report."""
        assert digest_of_a_stream(left.machine, right.machine, addresses[1], CONTENT) == wanted
        assert digest_of_a_stream(right.machine, left.machine, addresses[0], CONTENT) == wanted
        return all(
            min(status(device).tx_superframes, status(device).rx_superframes) > 2 * TRIAL_FRAMES
            for device in (left, right)
        )

    wait_until(both_ways, what="superframes in both directions", seconds=20)
    for device in (left, right):
        assert harm(device) == before[device.name]


def test_udp_superpackets_arrive_as_their_datagrams(left: Interface, right: Interface) -> None:
    tell(left, right)
    pings(left.machine, RIGHT4)

    def receiver() -> socket.socket:
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.bind((RIGHT4, 9000))
        one.settimeout(5)
        return one

    with (
        right.machine.inside(receiver) as inner,
        left.machine.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as outer,
    ):
        outer.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1000)
        outer.sendto(CONTENT[:20_500], (RIGHT4, 9000))
        datagrams = [inner.recv(2000) for _ in range(21)]
    assert b"".join(datagrams) == CONTENT[:20_500]
    assert [len(one) for one in datagrams] == [1000] * 20 + [500]
    assert status(right).rx_superframes in (0, 1), "none where the kernel has no USO"


def test_wg_neither_shows_nor_ends_them_unless_it_makes_the_peer_anew(
    left: Interface, right: Interface
) -> None:
    tell(left, right)
    shown = (
        left.machine.run("wg", "show", left.name).out + left.machine.run("wg", "show", left.name, "dump").out
    )
    assert right.public_key in shown
    assert "superframe" not in shown
    kept = left.machine.run("wg", "showconf", left.name).out
    left.machine.run("wg", "syncconf", left.name, "/dev/stdin", text=kept)
    assert status(left).superframes == AES
    left.machine.run("wg", "setconf", left.name, "/dev/stdin", text=kept)
    assert status(left).superframes == OFF


def test_an_end_that_is_not_told_gets_plain_packets(left: Interface, right: Interface) -> None:
    """TCP goes on, a little later, while one end knows nothing."""
    switch(left, right, AES)
    pings(left.machine, RIGHT4)
    wanted = hashlib.sha256(CONTENT).hexdigest()
    assert digest_of_a_stream(left.machine, right.machine, RIGHT4, CONTENT) == wanted
    assert status(right).rx_superframes == 0
    assert right.drops()["superframe-off"] > 0


def test_a_transfer_goes_on_while_they_are_switched_on_and_off(left: Interface, right: Interface) -> None:
    pings(left.machine, RIGHT4)
    tell(left, right)
    results: list[str] = []
    content = CONTENT * 8
    transfer = threading.Thread(
        target=lambda: results.append(digest_of_a_stream(left.machine, right.machine, RIGHT4, content))
    )
    transfer.start()
    turns = 0
    while transfer.is_alive():
        tell(left, right, (OFF, CHACHA, AES)[turns % 3])
        turns += 1
        transfer.join(0.05)
    assert results == [hashlib.sha256(content).hexdigest()]
    assert turns > 2


def test_a_path_that_loses_datagrams_is_no_slower_than_with_plain_packets(
    left: Interface, right: Interface
) -> None:
    """One datagram in 300 is dropped: of frames of 45, one in seven."""
    pings(left.machine, RIGHT4)
    # Or the whole run of UDP_SEGMENT would reach the rule in one piece.
    left.ip("link set eth0 gso_max_segs 1")
    server = right.machine.start("iperf3", "-s", name="iperf3-losing").ready(5201)
    received = {OFF: 0, str(AES): 0}
    try:
        with rule(right.machine, "iifname eth0 udp dport 51820 numgen random mod 300 == 0 drop"):
            for _ in range(2):
                for mode in received:
                    tell(left, right, mode)
                    received[mode] += iperf(left.machine, RIGHT4)

            # How many pass until reports judge them is a matter of luck: a trial may lose none.
            def given_up() -> bool:
                before = status(left).tx_superframes
                assert iperf(left.machine, RIGHT4, seconds=1) > 0
                return status(left).tx_superframes == before

            wait_until(given_up, what="a second of transfer without a superframe", seconds=40)
    finally:
        server.stop()
        left.ip("link set eth0 gso_max_segs 65535")
    # On a machine at work, two such transfers of one kind differ by a third.
    assert received[AES] > 0.5 * received[OFF], received
    assert status(right).rx_superframes > 0, "they were tried"

    # And back up, once the path is good again.
    def goes_up() -> bool:
        before = status(left).tx_superframes
        assert digest_of_a_stream(left.machine, right.machine, RIGHT4, CONTENT)
        return status(left).tx_superframes - before > 200

    wait_until(goes_up, what="superframes on a path that is good again", seconds=40)


def iperf(client: Machine, address: str, seconds: int = 3) -> int:
    """Bytes received in so long."""
    command = ("iperf3", "-c", address, "-t", str(seconds), "-C", "cubic", "-J")
    report: Any = json.loads(client.run(*command, seconds=20).out)
    return int(report["end"]["sum_received"]["bytes"])
