"""ECN across the tunnel, with scapy to judge what a marked packet is."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from raven.wg.packet import mark_congestion, outer_tos
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
