"""ECN across the tunnel, and hop limits of tunnels in tunnels; scapy makes and judges the packets."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP, IPOption
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment

from raven.wg.packet import (
    DESTINATION_V4,
    DESTINATION_V6,
    NESTING_HOPS,
    mark_congestion,
    may_be_nested,
    nested_hops,
    outer_tos,
)
from tests.wg.packets import packet


def test_outer_tos() -> None:
    """No DSCP leaks; ECN is copied, but congestion seen inside is not the tunnel's (RFC 6040)."""
    for a, b in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")]:
        for ecn, outer in [(0, 0), (1, 1), (2, 2), (3, 2), (0x88 | 1, 1)]:
            assert outer_tos(packet(a, b, ecn=ecn)) == outer
    assert outer_tos(b"") == 0


@given(tos=st.integers(0, 255), size=st.integers(28, 200), fill=st.integers(0, 0xFFFF))
def test_marking_ipv4_keeps_the_checksum_right(tos: int, size: int, fill: int) -> None:
    whole = bytearray(packet("10.0.0.1", "10.0.0.2", size, fill=fill, ecn=tos))
    before = bytes(whole)
    mark_congestion(memoryview(whole))
    if tos & 3 == 0:
        assert whole == before
        return
    seen = IP(bytes(whole))
    assert seen.tos == tos | 3
    checksum = seen.chksum
    del seen.chksum
    assert IP(bytes(seen)).chksum == checksum
    assert whole[20:] == before[20:]


@given(traffic_class=st.integers(0, 255))
def test_marking_ipv6(traffic_class: int) -> None:
    whole = bytearray(bytes(IPv6(src="fd00::1", dst="fd00::2", tc=traffic_class, fl=0xABCDE) / UDP()))
    mark_congestion(memoryview(whole))
    seen = IPv6(bytes(whole))
    assert seen.tc == (traffic_class | 3 if traffic_class & 3 else traffic_class)
    assert seen.fl == 0xABCDE


def test_only_what_may_be_a_tunnels_passes_its_hop_limit_on() -> None:
    ours = UDP() / b"\x04\0\0\0 and so on"
    for nested, plain in (
        (IP(ttl=64) / ours, IP(ttl=64) / UDP() / b"\x01\0\0\0"),
        (IP(ttl=64, flags="MF") / b"x", IP(ttl=64, flags="DF") / b"x"),
        (IP(ttl=64, frag=1) / b"x", IP(ttl=64) / ICMP()),
        (IP(ttl=64, options=[IPOption(b"\x01")]) / ours, IP(ttl=64) / UDP()),
        (IPv6(hlim=64) / ours, IPv6(hlim=64) / UDP() / b"\x04"),
        (IPv6(hlim=64) / IPv6ExtHdrFragment() / b"x", IPv6(hlim=64) / b"x"),
    ):
        assert nested_hops(bytes(nested)) == 64 - NESTING_HOPS
        assert nested_hops(bytes(plain)) == 0
        layout = DESTINATION_V4 if nested.version == 4 else DESTINATION_V6
        assert may_be_nested(nested.version, layout.unpack_from(bytes(nested))[1])


def test_a_hop_limit_that_is_used_up_is_a_loop() -> None:
    rounds, packet = 0, bytearray(bytes(IP(ttl=255) / UDP() / b"\x04\0\0\0"))
    while (hops := nested_hops(bytes(packet))) > 0:
        packet[8] = hops
        rounds += 1
    assert rounds < 64 / NESTING_HOPS
