"""What the packet lane stands on, on this very host and with made-up peers."""

import os
import time
from pathlib import Path

import pytest

from raven.diagnosis import packet_host
from raven.keys import PublicKey
from raven.wg.configuration import DeviceState, PeerState, PeerStatus, Status
from raven.wg.endpoint import Endpoint

HUB = Endpoint("192.0.2.1", 4500)


def peer(age: float | None, *, endpoint: Endpoint | None = HUB) -> PeerState:
    last = 0.0 if age is None else time.time() - age
    return PeerState(public_key=PublicKey(bytes(32)), endpoint=endpoint, last_handshake=last, tx_bytes=148)


@pytest.mark.parametrize(
    ("age", "result", "said"),
    [
        (5.0, "ok", "last handshake 5 s ago"),
        (600.0, "broken", "no handshake for 10 min; sent 148 bytes, received 0"),
        (None, "broken", "no handshake yet; sent 148 bytes, received 0"),
    ],
)
def test_udp_by_the_age_of_the_handshake(age: float | None, result: str, said: str) -> None:
    state = DeviceState(peers=[peer(age), peer(None, endpoint=None)])
    (found,) = packet_host.handshakes(state, "broken", hub=False)
    assert (found.result, found.about, found.said) == (result, "192.0.2.1:4500", said)


def test_a_hub_counts_its_peers() -> None:
    state = DeviceState(peers=[peer(5.0), peer(600.0)])
    (found,) = packet_host.handshakes(state, "broken", hub=True)
    assert found.said == "1 of 2 peers had a handshake in the last 180 s"


def test_capabilities_are_the_daemons() -> None:
    here = packet_host.rights(os.getpid(), "broken")
    assert here.result == ("ok" if os.geteuid() == 0 else "broken")
    assert packet_host.rights(2**22 + 1, "broken").result == "unknown"


def test_mtu_of_device_and_path() -> None:
    path = packet_host.route_mtu("127.0.0.1", 4500)
    assert path is not None
    local = peer(5.0, endpoint=Endpoint("127.0.0.1", 4500))
    (found,) = packet_host.mtu("lo", [local])
    assert found.result == "note"
    assert found.said.startswith(f"the path takes {path} bytes, so {path - 60} inside; lo has ")
    assert f"ip link set lo mtu {path - 60}" in found.next
    assert packet_host.mtu("absent0", [local]) == []
    proven = Status(peers={local.public_key: PeerStatus(mtu=1064, proven_mtu=1064, probes=True)})
    (found,) = packet_host.mtu("lo", [local], proven)
    assert (found.result, found.said) == (
        "ok",
        "packets of 1064 bytes arrive; lo has 65536, and senders of larger ones are told",
    )


def test_offloads_that_are_off_are_noted() -> None:
    assert packet_host.offloads("raven0", None) == []
    (found,) = packet_host.offloads("raven0", Status(offloads={"udp_send": "", "tun_tcp": "no"}))
    assert (found.result, found.said) == ("note", "off: tun_tcp: no")
    (found,) = packet_host.offloads("raven0", Status(offloads={"udp_send": ""}))
    assert (found.result, found.said) == ("ok", "all on")


async def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    found, state = await packet_host.find_device("rvd-absent", "broken")
    assert (found.hop, found.result, state) == ("device", "broken", None)
    assert await packet_host.own_interface(tmp_path, "raven0") == "raven0"
    assert await packet_host.own_interface(None, "raven0") == "raven0"
