"""The kernel's messages: what is set comes back, large changes come in pieces, hostile answers are errors.

`tests/kernel/test_netlink.py` holds the same codec against a real kernel.
"""

import contextlib
import errno
import struct
from ipaddress import IPv4Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.keys import PresharedKey, PrivateKey, PublicKey
from raven.wg import netlink
from raven.wg.configuration import DeviceChange, DeviceState, PeerChange, PeerState, UapiError
from raven.wg.endpoint import Endpoint

FAMILY = 27
KEY, OTHER = PublicKey(bytes([7]) * 32), PublicKey(bytes([8]) * 32)
DONE = struct.pack("=IHHIIi", 20, 3, 0, 1, 0, 0)


def as_answer(messages: list[bytes]) -> bytes:
    """What a kernel would answer that shows just what it was told: attributes have the same numbers."""
    return b"".join(messages) + DONE


def read(answer: bytes) -> DeviceState:
    return netlink.parse_device_untrusted(FAMILY, list(netlink.read_untrusted(answer)))


def test_what_is_set_comes_back() -> None:
    change = DeviceChange(
        private_key=PrivateKey(bytes([1]) * 32),
        listen_port=51820,
        fwmark=7,
        peers=[
            PeerChange(
                public_key=KEY,
                preshared_key=PresharedKey(bytes([2]) * 32),
                endpoint=Endpoint("192.0.2.1", 4500),
                keepalive=25,
                allowed_ips=[ip_network("10.1.0.0/16"), ip_network("fd00::/64")],
            ),
            PeerChange(public_key=OTHER, endpoint=Endpoint("fe80::1", 4501, 3)),
        ],
    )
    messages = netlink.set_device(FAMILY, "wg0", change, 5)
    assert len(messages) == 1
    assert read(as_answer(messages)) == DeviceState(
        private_key=PrivateKey(bytes([1]) * 32),
        listen_port=51820,
        fwmark=7,
        peers=[
            PeerState(
                public_key=KEY,
                preshared_key=PresharedKey(bytes([2]) * 32),
                endpoint=Endpoint("192.0.2.1", 4500),
                keepalive=25,
                allowed_ips=[ip_network("10.1.0.0/16"), ip_network("fd00::/64")],
            ),
            PeerState(public_key=OTHER, endpoint=Endpoint("fe80::1", 4501, 3), allowed_ips=[]),
        ],
    )


@given(counts=st.lists(st.integers(0, 2500), min_size=1, max_size=12))
def test_a_large_change_comes_in_messages_that_fit(counts: list[int]) -> None:
    peers, start = [], 10 << 24
    for number, count in enumerate(counts):
        networks = [IPv4Network((start + at, 32)) for at in range(count)]
        start += count
        peers.append(PeerChange(public_key=PublicKey(bytes([number]) * 32), allowed_ips=networks))
    messages = netlink.set_device(FAMILY, "wg0", DeviceChange(listen_port=1, peers=peers), 1)
    assert all(len(message) < 1 << 16 for message in messages)
    state = read(as_answer(messages))
    assert [(peer.public_key, list(peer.allowed_ips)) for peer in state.peers] == [
        (peer.public_key, list(peer.allowed_ips)) for peer in peers
    ]
    assert [b"\x06\0\x06\0\x01\0" in message for message in messages] == [True] + [False] * (
        len(messages) - 1
    )


def test_a_thousand_peers_come_in_messages_that_fit() -> None:
    peers = [PeerChange(public_key=PublicKey(number.to_bytes(32, "big"))) for number in range(1000)]
    messages = netlink.set_device(FAMILY, "wg0", DeviceChange(peers=peers), 1)
    assert [len(message) < 1 << 16 for message in messages] == [True] * 5
    assert len(read(as_answer(messages)).peers) == 1000


def test_the_kernels_refusal_is_its_errno() -> None:
    refusal = struct.pack("=IHHIIi", 20, 2, 0, 1, 0, -errno.EADDRINUSE)
    with pytest.raises(UapiError) as caught:
        list(netlink.read_untrusted(refusal))
    assert caught.value.errno == errno.EADDRINUSE


def test_a_kernel_without_wireguard_has_no_family() -> None:
    with pytest.raises(UapiError) as caught:
        netlink.parse_family_untrusted([])
    assert caught.value.errno == errno.ENOENT


@given(data=st.binary(max_size=300))
def test_hostile_answers_raise_nothing_else(data: bytes) -> None:
    for kind in (FAMILY, 0x10):
        wrapped = struct.pack("=IHHII", 16 + 4 + len(data), kind, 0, 1, 0) + bytes(4) + data
        for answer in (data, wrapped, wrapped[:-1]):
            try:
                replies = list(netlink.read_untrusted(answer))
                netlink.parse_device_untrusted(FAMILY, replies)
                netlink.parse_family_untrusted(replies)
            except UapiError:
                pass


@given(cut=st.integers(0, 400), at=st.integers(0, 400), value=st.integers(0, 255))
def test_a_real_answer_cut_off_or_flipped_raises_nothing_else(cut: int, at: int, value: int) -> None:
    peer = PeerChange(
        public_key=KEY, endpoint=Endpoint("192.0.2.1", 1), allowed_ips=[ip_network("10.0.0.0/8")]
    )
    answer = bytearray(as_answer(netlink.set_device(FAMILY, "wg0", DeviceChange(fwmark=1, peers=[peer]), 1)))
    answer[at % len(answer)] = value
    for text in (bytes(answer), bytes(answer[:cut])):
        with contextlib.suppress(UapiError):
            read(text)
