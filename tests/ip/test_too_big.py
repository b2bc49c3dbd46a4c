"""ICMP "too big" as an independent reader sees it, and fragments that scapy joins to the same packet."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP, defragment
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6,
    IPv6ExtHdrFragment,
    defragment6,
)

from raven.ip.too_big import fragments, must_be_cut, too_big


def udp4(size: int, *, flags: str = "", frag: int = 0) -> bytes:
    payload = Random(size).randbytes(size - 28)
    return bytes(IP(src="10.0.0.1", dst="10.0.0.2", id=77, flags=flags, frag=frag) / UDP() / payload)


def udp6(size: int) -> bytes:
    return bytes(IPv6(src="fd00::1", dst="fd00::2") / UDP() / Random(size).randbytes(size - 48))


def view(packet: bytes) -> memoryview:
    return memoryview(bytearray(packet))


def test_ipv4_is_told_from_the_address_it_wrote_to() -> None:
    packet = udp4(1400, flags="DF")
    assert not must_be_cut(view(packet))
    message = too_big(view(packet), 1064)
    assert message is not None
    told = IP(bytes(message))
    assert (told.src, told.dst, len(message)) == ("10.0.0.2", "10.0.0.1", 576)
    assert (told[ICMP].type, told[ICMP].code, told[ICMP].nexthopmtu) == (3, 4, 1064)
    assert bytes(message)[28:] == packet[:548]
    sums = told.chksum, told[ICMP].chksum
    del told.chksum, told[ICMP].chksum
    again = IP(bytes(told))
    assert (again.chksum, again[ICMP].chksum) == sums


def test_ipv6_is_told_never_to_go_below_1280() -> None:
    packet = udp6(1400)
    assert not must_be_cut(view(packet))
    for mtu, wanted in ((1300, 1300), (1064, 1280)):
        message = too_big(view(packet), mtu)
        assert message is not None
        told = IPv6(bytes(message))
        assert (told.src, told.dst, told[ICMPv6PacketTooBig].mtu) == ("fd00::2", "fd00::1", wanted)
        assert len(message) == 1280
        found = told[ICMPv6PacketTooBig].cksum
        del told[ICMPv6PacketTooBig].cksum
        assert IPv6(bytes(told))[ICMPv6PacketTooBig].cksum == found


def test_nobody_is_told_of_an_error_a_later_fragment_or_a_group() -> None:
    error4 = bytes(IP(src="10.0.0.1", dst="10.0.0.2", flags="DF") / ICMP(type=3, code=4) / bytes(1300))
    error6 = bytes(IPv6(src="fd00::1", dst="fd00::2") / ICMPv6PacketTooBig() / bytes(1300))
    later6 = bytes(IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrFragment(offset=9) / bytes(1300))
    group4 = bytes(IP(src="10.0.0.1", dst="224.0.0.9", flags="DF") / UDP() / bytes(1300))
    group6 = bytes(IPv6(src="fd00::1", dst="ff02::9") / UDP() / bytes(1300))
    nobody = bytes(IP(src="0.0.0.0", dst="10.0.0.2", flags="DF") / UDP() / bytes(1300))
    for packet in (error4, error6, later6, group4, group6, nobody, udp4(1400, flags="DF", frag=9)):
        assert too_big(view(packet), 1064) is None
    echo = bytes(IPv6(src="fd00::1", dst="fd00::2") / ICMPv6EchoRequest() / bytes(1300))
    assert too_big(view(echo), 1064) is not None


@given(size=st.integers(1000, 9000), mtu=st.integers(100, 999))
def test_ipv4_fragments_join_to_the_packet(size: int, mtu: int) -> None:
    packet = udp4(size)
    assert must_be_cut(view(packet))
    pieces = fragments(view(packet), mtu, 0)
    assert all(len(piece) <= mtu for piece in pieces)
    assert len({len(piece) for piece in pieces[:-1]}) <= 1
    (joined,) = defragment([IP(bytes(piece)) for piece in pieces])  # type: ignore[no-untyped-call]
    assert bytes(joined)[28:] == packet[28:]
    # A piece is cut again on a smaller path, and all still belong together.
    again = [one for piece in pieces for one in (fragments(piece, 90, 0) if len(piece) > 90 else [piece])]
    (joined,) = defragment([IP(bytes(piece)) for piece in again])  # type: ignore[no-untyped-call]
    assert bytes(joined)[28:] == packet[28:]


@given(size=st.integers(700, 1280), mtu=st.integers(200, 699))
def test_ipv6_fragments_join_to_the_packet(size: int, mtu: int) -> None:
    packet = udp6(size)
    assert must_be_cut(view(packet))
    pieces = fragments(view(packet), mtu, 0xCAFE)
    assert all(len(piece) <= mtu for piece in pieces)
    again = [one for piece in pieces for one in (fragments(piece, 150, 1) if len(piece) > 150 else [piece])]
    for some in (pieces, again):
        parsed = [IPv6(bytes(piece)) for piece in some]
        assert {one[IPv6ExtHdrFragment].id for one in parsed} == {0xCAFE}
        assert bytes(defragment6(parsed))[40:] == packet[40:]  # type: ignore[no-untyped-call]


@given(st.binary(min_size=40, max_size=1500), st.sampled_from([0x45, 0x46, 0x60]), st.integers(20, 1300))
def test_random_headers_never_raise(data: bytes, first: int, mtu: int) -> None:
    packet = view(bytes([first]) + data[1:])
    too_big(packet, mtu)
    for piece in fragments(packet, mtu, 1):
        assert len(piece) <= mtu
