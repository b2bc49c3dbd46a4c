"""The same requests to raven-wg and Debian's wireguard-go: the same errno, and the same state after success.

What differs on purpose is not asked: a request that fails changes nothing here, where wireguard-go keeps the
lines before; `allowed_ip=-NETWORK` is newer than Debian's; a request that is neither get nor set is answered
with an errno, where wireguard-go hangs up.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.pair import GO, RAVEN, missing, pair
from tests.lab import uapi

pytestmark = [pytest.mark.netns, pytest.mark.interop]

PEER = "public_key=" + "11" * 32
RESET = ("set=1", "private_key=" + "0" * 64, "fwmark=0", "replace_peers=true")
DEVICE_LINES = [
    "unknown=1",
    "no equals",
    "=",
    "listen_port=65536",
    "listen_port=-1",
    "listen_port=+1",
    "listen_port=0x10",
    "listen_port=",
    "fwmark=010",
    "fwmark=0x10",
    "fwmark=4294967295",
    "fwmark=4294967296",
    "private_key=00",
    "private_key=" + "AB" * 32,
    "public_key=00",
    "replace_peers=false",
    "allowed_ip=10.0.0.0/8",
    "protocol_version=1",
    "tx_bytes=1",
]
PEER_LINES = [
    "unknown=1",
    "no equals",
    "private_key=" + "22" * 32,
    "listen_port=1",
    "tx_bytes=1",
    "preshared_key=00",
    "preshared_key=" + "0" * 64,
    "protocol_version=1",
    "protocol_version=2",
    "persistent_keepalive_interval=65535",
    "persistent_keepalive_interval=65536",
    "persistent_keepalive_interval=off",
    "replace_allowed_ips=false",
    "update_only=yes",
    "endpoint=192.0.2.1:0",
    "endpoint=192.0.2.1",
    "endpoint=localhost:1",
    "endpoint=[2001:DB8:0:0::1]:5",
    "endpoint=2001:db8::1:5",
    "endpoint=[fe80::1%no-such]:5",
    "allowed_ip=10.1.2.3/8",
    "allowed_ip=10.1.2.3",
    "allowed_ip=10.0.0.0/255.0.0.0",
    "allowed_ip=10.0.0.0/33",
    "allowed_ip=2001:DB8:0:0::1/64",
    "allowed_ip=2001:db8::1",
    "allowed_ip=fe80::1%lo/64",
    "allowed_ip=0.0.0.0/0",
]
SECTIONS = [("set=1", line) for line in DEVICE_LINES] + [("set=1", PEER, line) for line in PEER_LINES]
REQUESTS = [*SECTIONS, ("set=1",), ("set=1", PEER, "remove=true", "allowed_ip=10.0.0.0/8"), ("get=1", "x")]
SAID_BY_NAME = ("set=1", PEER, "endpoint=[fe80::1%lo]:5")  # what each makes of it is spelt differently


@pytest.fixture(scope="module")
def interfaces(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    if reason := missing(GO):
        pytest.skip(reason)
    directory: Path = tmp_path_factory.mktemp("uapi")
    with pair(directory) as hosts:
        for host, implementation in zip(hosts, (RAVEN, GO), strict=True):
            host.start(implementation)
        yield hosts[0].interface, hosts[1].interface


def answer_and_state(interface: str, request: tuple[str, ...]) -> tuple[str, list[str]]:
    assert uapi.ask(interface, *RESET) == "errno=0\n\n"
    answer = uapi.ask(interface, *request)
    state = uapi.ask(interface, "get=1").splitlines()
    return answer, [line for line in state if not line.startswith("listen_port=")]


@pytest.mark.parametrize("request_lines", REQUESTS, ids=lambda lines: lines[-1][:40])
def test_both_answer_alike(interfaces: tuple[str, str], request_lines: tuple[str, ...]) -> None:
    ours, theirs = (answer_and_state(interface, request_lines) for interface in interfaces)
    assert ours[0] == theirs[0]
    if ours[0] == "errno=0\n\n":
        assert ours[1] == theirs[1]


def test_both_know_an_interface_by_its_name(interfaces: tuple[str, str]) -> None:
    for interface in interfaces:
        assert answer_and_state(interface, SAID_BY_NAME)[0] == "errno=0\n\n"
