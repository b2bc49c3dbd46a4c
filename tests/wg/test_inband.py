"""What two devices tell each other inside transport messages: round trips, and whatever else comes there."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raven.wg.configuration import PeerChange, SuperframeCipher
from raven.wg.inband import (
    PROBE_MIN,
    TYPE_ANSWER,
    TYPE_PROBE,
    TYPE_REPORT,
    Probe,
    Report,
    decode_untrusted,
    is_inband,
)
from tests.wg.packets import packet
from tests.wg.pair import Host, Net, pair
from tests.wg.superpackets import superpacket

A4, B4 = "10.0.0.1", "10.0.0.2"
u32, u64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
sizes = st.integers(PROBE_MIN, 9000)


@given(size=sizes, token=u64)
def test_a_probe_survives_its_bytes(size: int, token: int) -> None:
    probe = Probe(size, token)
    question, answer = memoryview(probe.encode()), memoryview(probe.encode_answer())
    assert len(question) == size
    assert is_inband(question)
    assert is_inband(answer)
    assert decode_untrusted(question) == (TYPE_PROBE, probe)
    assert decode_untrusted(answer) == (TYPE_ANSWER, probe)
    assert decode_untrusted(memoryview(bytes(answer) + bytes(16))) == (TYPE_ANSWER, probe), "padding"


@given(st.builds(Report, u32, u32, u32), st.binary(max_size=40))
def test_a_report_survives_its_bytes(report: Report, padding: bytes) -> None:
    message = memoryview(report.encode() + padding)
    assert is_inband(message)
    assert Report.decode_untrusted(message) == report


@given(sizes)
def test_a_probe_of_another_length_proves_nothing(size: int) -> None:
    question = Probe(size, 7).encode()
    for other in (question[:-1], question + b"\0"):
        assert len(other) < PROBE_MIN or decode_untrusted(memoryview(other)) is None


@pytest.mark.parametrize("message", [Probe(16, 7).encode_answer(), Report(1, 2, 3).encode()])
def test_what_is_cut_is_none_of_these(message: bytes) -> None:
    for length in range(1, len(message)):
        assert not is_inband(memoryview(message[:length]))


@given(st.binary(min_size=1, max_size=100))
def test_any_bytes(data: bytes) -> None:
    message = memoryview(data)
    if not is_inband(message):
        return
    if data[0] == TYPE_REPORT:
        assert max(Report.decode_untrusted(message)) < 1 << 32
        return
    found = decode_untrusted(message)
    assert (found is None) == (data[0] == TYPE_PROBE and struct.unpack_from("<I", data, 4)[0] != len(data))


def told() -> tuple[Net, Host, Host]:
    """A pair that probes and sends superframes, with keys."""
    net, a, b = pair()
    for one, other in ((a, b), (b, a)):
        one.configure(
            PeerChange(public_key=other.public_key, probes=True, superframes=SuperframeCipher.AES256GCM)
        )
    a.send([packet(A4, B4)])
    net.run(1)
    b.packets.clear()
    return net, a, b


heads = st.sampled_from([TYPE_PROBE, TYPE_ANSWER, TYPE_REPORT, 0, 4, 6, 7])


@settings(max_examples=60, deadline=None)
@given(messages=st.lists(st.tuples(heads, st.binary(max_size=60), st.booleans()), min_size=1, max_size=20))
def test_whatever_a_peer_with_the_keys_seals_is_borne(messages: list[tuple[int, bytes, bool]]) -> None:
    """b means harm; a sends it superframes, of which its reports may say anything."""
    net, a, b = told()
    (sender,) = b.device._peers
    (index,) = (pair.local_index for pair in sender._keypairs.all())
    mtu = a.device.status().peers[b.public_key].mtu
    for kind, rest, right in messages:
        message = bytes([kind]) + rest
        if right:  # as far as that can be: a report on a real keypair, a probe of its own length
            number = index if kind == TYPE_REPORT else len(message)
            message = message[:4].ljust(4, b"\0") + struct.pack("<I", number) + message[8:]
        sender._send_inband([message], net.now)
        net.collect(b)
        a.send_superpacket(superpacket(segments=2))
        net.run(0.01)
    net.run(1)
    assert set(a.drops()) <= {"inner-malformed", "source-not-allowed"}
    assert a.packets == []
    assert a.device.status().peers[b.public_key].mtu == mtu, "nothing was asked that this answers"
    b.packets.clear()
    a.send([packet(A4, B4)])
    net.run(1)
    assert b.packets == [bytes(packet(A4, B4))]
