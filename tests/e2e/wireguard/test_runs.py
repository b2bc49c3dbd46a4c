"""A path that loses every run, as of a broken network card, and passes single datagrams.

left                                        right
wg 10.9.0.1                                 wg 10.9.0.2
 │ (its clock runs ten times as fast)        │
eth0 192.0.2.1 ──── rule: no run ─────────  eth0 192.0.2.2
"""

import base64
import shutil
import socket

import pytest

from raven.wg.uapi_answers import parse_errno_untrusted
from tests.e2e.wireguard.network import LEFT4, RIGHT4, Interface, Network, carry_tcp, peer_lines, pings, rule
from tests.lab import uapi
from tests.lab.waiting import wait_until
from tests.lab.wires import plug

pytestmark = pytest.mark.netns

UDP_SEGMENT = 103


def probe(device: Interface, peer: Interface) -> None:
    key = base64.b64decode(peer.public_key).hex()
    answer = uapi.ask(device.name, "set=1", f"public_key={key}", "update_only=true", "raven_probes=true")
    parse_errno_untrusted(answer)


def runs_toward_the_peer(device: Interface) -> str:
    return uapi.status(device.name).offloads["udp_send"]


@pytest.mark.skipif(shutil.which("faketime") is None, reason="faketime is not installed")
def test_runs_that_are_lost_are_noticed_and_single_datagrams_go_in_their_place() -> None:
    with Network("left", "right") as network:
        (right,) = network.devices(("right", "r"))
        left = Interface(network["left"], f"{network.prefix}l", "faketime", "-f", "+0 x10")
        wait_until(left.answers, what=left.name, seconds=20)
        plug(left.machine, "eth0", right.machine, "eth0")
        left.ip("addr add 192.0.2.1/24 dev eth0", f"addr add {LEFT4}/24 dev {{}}", "link set {} up")
        right.ip("addr add 192.0.2.2/24 dev eth0", f"addr add {RIGHT4}/24 dev {{}}", "link set {} up")
        left.configure(*peer_lines(right, f"{RIGHT4}/32", endpoint="192.0.2.2:51820"))
        right.configure(*peer_lines(left, f"{LEFT4}/32"))
        probe(left, right)
        probe(right, left)
        pings(left.machine, RIGHT4)
        with left.machine.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 1300)

            def noticed() -> bool:
                """Sends ten runs."""
                for _ in range(10):
                    sender.sendto(bytes(13_000), (RIGHT4, 9000))
                return bool(runs_toward_the_peer(left))

            # Before the kernel has cut it, a run is one long packet.
            with rule(left.machine, "udp dport 51820 meta length > 1600 drop", hook="output"):
                wait_until(noticed, what="runs to go off", seconds=30)
                said = "toward 192.0.2.2: single datagrams arrive, runs do not"
                assert runs_toward_the_peer(left) == said
                carry_tcp(left.machine, right.machine, RIGHT4)
            assert runs_toward_the_peer(right) == ""
