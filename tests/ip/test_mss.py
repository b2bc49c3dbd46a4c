"""A SYN's MSS is lowered, its checksum stays right, and hostile options touch nothing."""

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6

from raven.ip.mss import clamp_mss

OPTIONS = [
    [("MSS", 1460), ("NOP", None), ("WScale", 7)],
    [("NOP", None), ("MSS", 1460), ("SAckOK", b""), ("EOL", None)],  # the value at an odd offset
    [("Timestamp", (1, 2)), ("NOP", None), ("NOP", None), ("MSS", 1460)],
]


def syn(version: int, options: object, flags: str = "S") -> bytes:
    ip = IP(src="10.0.0.1", dst="10.0.0.2") if version == 4 else IPv6(src="fd00::1", dst="fd00::2")
    return bytes(ip / TCP(sport=1, dport=2, flags=flags, options=options))


def checked(packet: bytes) -> object:
    """The packet as scapy reads it, once its checksum was recomputed and found the same."""
    parsed = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
    found = parsed[TCP].chksum
    del parsed[TCP].chksum
    again = type(parsed)(bytes(parsed))
    assert again[TCP].chksum == found
    return again[TCP]


@given(
    version=st.sampled_from([4, 6]),
    options=st.sampled_from(OPTIONS),
    flags=st.sampled_from(["S", "SA", "SEC"]),
    mtu=st.integers(200, 1600),
)
def test_the_mss_fits_the_mtu_and_the_checksum_follows(
    version: int, options: list[tuple[str, object]], flags: str, mtu: int
) -> None:
    packet = bytearray(syn(version, options, flags))
    wanted = min(1460, mtu - (40 if version == 4 else 60))
    assert clamp_mss(memoryview(packet), mtu) == (wanted < 1460)
    tcp = checked(bytes(packet))
    assert dict(tcp.options)["MSS"] == wanted  # type: ignore[attr-defined]
    assert [o for o in tcp.options if o[0] != "MSS"] == [o for o in options if o[0] != "MSS"]  # type: ignore[attr-defined]


def test_what_is_no_syn_stays_as_it_is() -> None:
    others = [
        syn(4, OPTIONS[0], "A"),
        syn(6, [("NOP", None)], "S"),
        bytes(IP(src="10.0.0.1", dst="10.0.0.2", frag=3) / syn(4, OPTIONS[0])[20:]),
        bytes(IP(src="10.0.0.1", dst="10.0.0.2", proto=17) / syn(4, OPTIONS[0])[20:]),
    ]
    for packet in others:
        same = bytearray(packet)
        assert not clamp_mss(memoryview(same), 500)
        assert same == packet


@given(
    version=st.sampled_from([4, 6]),
    options=st.binary(max_size=40),
    offset=st.integers(0, 15),
    length=st.integers(20, 120),
    mtu=st.integers(0, 1500),
)
def test_hostile_options_change_at_most_the_value_and_the_checksum(
    version: int, options: bytes, offset: int, length: int, mtu: int
) -> None:
    packet = bytearray(syn(version, []) + options)
    start = 20 if version == 4 else 40
    packet[start + 12] = offset << 4
    packet = packet[:length]
    before = bytes(packet)
    clamp_mss(memoryview(packet), mtu)
    changed = [at for at in range(len(packet)) if packet[at] != before[at]]
    assert len(changed) <= 4
    assert all(at >= start + 20 or at in (start + 16, start + 17) for at in changed)


@given(st.binary(max_size=200))
def test_random_bytes_never_raise(data: bytes) -> None:
    for first in (0x45, 0x4F, 0x60):
        packet = bytearray(bytes([first]) + data)
        clamp_mss(memoryview(packet), 576)
