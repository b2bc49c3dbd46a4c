"""Sealing and opening runs against the naive reference; limits, padding and rotation."""

from typing import Final

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.contrib.wireguard import Wireguard

from raven.wg.constants import (
    REJECT_AFTER_MESSAGES,
    REJECT_AFTER_TIME,
    REKEY_AFTER_MESSAGES,
    REKEY_AFTER_TIME,
    REPLAY_WINDOW,
)
from raven.wg.handshake import TransportKeys
from raven.wg.keypair import Keypair, Keypairs, padded_size, run_limit
from raven.wg.scratch import Scratch
from tests.wg import reference

KEY_1: Final = b"\x01" * 32
KEY_2: Final = b"\x02" * 32
EXPORTER: Final = b"\x03" * 32
MTU: Final = 1420


def ends(*, now: float = 0.0) -> tuple[Keypair, Keypair]:
    a = Keypair(TransportKeys(1, 2, KEY_1, KEY_2, EXPORTER), initiator=True, now=now)
    b = Keypair(TransportKeys(2, 1, KEY_2, KEY_1, EXPORTER), initiator=False, now=now)
    return a, b


def run_of(count: int, size: int, last: int) -> list[memoryview]:
    sizes = [size] * (count - 1) + [last]
    return [
        memoryview(bytes((number + i) & 255 for i in range(length))) for number, length in enumerate(sizes)
    ]


def cut(data: memoryview, stride: int) -> list[memoryview]:
    data = memoryview(bytes(data))
    return [data[start : start + stride] for start in range(0, len(data), stride)]


shapes = st.tuples(st.integers(1, 44), st.integers(1, 1440)).flatmap(
    lambda shape: st.tuples(st.just(shape[0]), st.just(shape[1]), st.integers(1, shape[1]))
)


@settings(max_examples=60)
@given(shape=shapes, first=st.sampled_from([0, 1, 1 << 32, REJECT_AFTER_MESSAGES - 64]))
def test_seal_run_equals_the_reference_and_opens(shape: tuple[int, int, int], first: int) -> None:
    count, size, last = shape
    a, b = ends()
    a.sent = first
    packets = run_of(count, size, last)
    stride = padded_size(size, MTU) + 32
    datagrams = cut(a.seal_run(packets, size, MTU, Scratch()), stride)
    assert a.sent == first + count
    wanted = [
        reference.transport(KEY_1, 2, first + i, bytes(packet).ljust(padded_size(len(packet), MTU), b"\0"))
        for i, packet in enumerate(packets)
    ]
    assert datagrams == wanted

    opened, replayed, forged = b.open_run(datagrams, first, Scratch())
    assert (replayed, forged) == (0, 0)
    assert [bytes(p)[: len(q)] for p, q in zip(opened, packets, strict=True)] == [bytes(q) for q in packets]
    assert all(not any(p[len(q) :]) for p, q in zip(opened, packets, strict=True))


def test_scapy_reads_a_transport_message() -> None:
    a, _ = ends()
    a.sent = 77
    seen = Wireguard(bytes(a.seal_run([memoryview(b"x" * 20)], 20, MTU, Scratch())))
    assert (seen.message_type, seen.receiver_index, seen.counter) == (4, 2, 77)
    nonce = b"\0\0\0\0" + (77).to_bytes(8, "little")
    sealed = seen.encrypted_encapsulated_packet
    assert ChaCha20Poly1305(KEY_1).decrypt(nonce, sealed, None) == b"x" * 20 + bytes(12)


def test_keepalives() -> None:
    a, b = ends()
    data = a.seal_run([b"", b"", b""], 0, MTU, Scratch())
    assert len(data) == 96
    opened, replayed, forged = b.open_run(cut(data, 32), 0, Scratch())
    assert ([bytes(p) for p in opened], replayed, forged) == ([b"", b"", b""], 0, 0)


@given(bad=st.sets(st.integers(0, 9)), seen=st.sets(st.integers(0, 9)))
def test_a_run_loses_only_what_is_forged_or_seen(bad: set[int], seen: set[int]) -> None:
    a, b = ends()
    packets = run_of(10, 100, 60)
    datagrams = cut(a.seal_run(packets, 100, MTU, Scratch()), padded_size(100, MTU) + 32)
    for i in sorted(seen):
        opened, _, _ = b.open_run([datagrams[i]], i, Scratch())
        assert len(opened) == 1
    for i in bad:
        changed = bytearray(datagrams[i])
        changed[-1] ^= 1
        datagrams[i] = memoryview(changed)
    opened, replayed, forged = b.open_run(datagrams, 0, Scratch())
    assert replayed == len(seen)
    assert forged == len(bad - seen)
    good = [i for i in range(10) if i not in bad | seen]
    assert [bytes(p[: len(packets[i])]) for p, i in zip(opened, good, strict=True)] == [
        bytes(packets[i]) for i in good
    ]
    # What was forged is still to come; what was accepted is not.
    assert [i for i in range(10) if b.window.is_new(i)] == sorted(bad - seen)


def test_a_forged_counter_does_not_move_the_window() -> None:
    a, b = ends()
    datagram = bytes(a.seal_run([memoryview(b"x" * 20)], 20, MTU, Scratch()))
    far = 1 << 50
    forged = datagram[:8] + far.to_bytes(8, "little") + datagram[16:]
    assert b.open_run([memoryview(forged)], far, Scratch())[1:] == (0, 1)
    assert len(b.open_run([memoryview(datagram)], 0, Scratch())[0]) == 1


def test_too_old_counters_are_replays() -> None:
    a, b = ends()
    a.sent = REPLAY_WINDOW
    new = cut(a.seal_run([b"x" * 16], 16, MTU, Scratch()), 48)
    a.sent = 0
    old = cut(a.seal_run([b"x" * 16, b"y" * 16], 16, MTU, Scratch()), 48)
    assert len(b.open_run(new, REPLAY_WINDOW, Scratch())[0]) == 1
    opened, replayed, _ = b.open_run(old, 0, Scratch())
    assert (len(opened), replayed) == (1, 1)


@given(size=st.integers(0, 9000), mtu=st.integers(576, 9000))
def test_padding(size: int, mtu: int) -> None:
    """The kernel's calculate_skb_padding (drivers/net/wireguard/send.c), written out."""
    last_unit = size % mtu if size > mtu else size
    expected = size - last_unit + min(mtu, (last_unit + 15) // 16 * 16)
    padded = padded_size(size, mtu)
    assert padded == expected
    assert size <= padded < size + 16
    if size <= mtu:
        assert padded <= mtu


def test_run_limits() -> None:
    assert run_limit(1420, 1420) == 45
    assert run_limit(40, 1420) == 64
    assert run_limit(65507 - 32, 65535) == 0 or (65507 - 32) % 16 == 3
    assert run_limit(65472, 65472) == 1
    assert run_limit(65500, 65500) == 0


def test_key_limits() -> None:
    a, b = ends(now=100.0)
    assert a.can_seal(1, 100.0 + REJECT_AFTER_TIME - 0.1)
    assert not a.can_seal(1, 100.0 + REJECT_AFTER_TIME)
    assert a.can_open(5, 1, 100.0 + REJECT_AFTER_TIME - 0.1)
    assert not a.can_open(5, 1, 100.0 + REJECT_AFTER_TIME)
    a.sent = REJECT_AFTER_MESSAGES - 2
    assert a.can_seal(2, 100.0)
    assert not a.can_seal(3, 100.0)
    assert a.can_open(REJECT_AFTER_MESSAGES - 1, 1, 100.0)
    assert not a.can_open(REJECT_AFTER_MESSAGES, 1, 100.0)
    assert not a.can_open((1 << 64) - 1, 1, 100.0)

    assert a.needs_renewal(100.0)
    a.sent = REKEY_AFTER_MESSAGES
    assert not a.needs_renewal(100.0 + REKEY_AFTER_TIME - 0.1)
    assert a.needs_renewal(100.0 + REKEY_AFTER_TIME)
    assert not b.needs_renewal(100.0 + REKEY_AFTER_TIME)
    b.sent = REKEY_AFTER_MESSAGES + 1
    assert b.needs_renewal(100.0)


class Rotation:
    """Keypairs with names, each born at the time it is made."""

    def __init__(self) -> None:
        self.keypairs = Keypairs()
        self.names: dict[Keypair, str] = {}

    def new(self, name: str, now: float = 0.0) -> Keypair:
        keypair, _ = ends(now=now)
        self.names[keypair] = name
        return keypair

    def shown(self) -> tuple[str, str, str]:
        """Names of previous (newest first), current, next."""
        k = self.keypairs
        slots = (k.previous, [k.current], [k.next])
        previous, current, next_ = ("".join(self.names[p] for p in slot if p is not None) for slot in slots)
        return previous, current, next_

    def dropped(self, keypairs: list[Keypair]) -> str:
        return "".join(self.names[keypair] for keypair in keypairs)


def test_rotation_as_initiator() -> None:
    r = Rotation()
    assert r.dropped(r.keypairs.initiated(r.new("1"), 0)) == ""
    assert r.shown() == ("", "1", "")
    assert r.dropped(r.keypairs.initiated(r.new("2", 120), 120)) == ""
    assert r.shown() == ("1", "2", "")
    assert r.dropped(r.keypairs.initiated(r.new("3", 240), 240)) == "1", "it can open nothing any more"
    assert r.shown() == ("2", "3", "")
    assert r.dropped(r.keypairs.clear()) == "23"
    assert r.shown() == ("", "", "")


def test_rotation_as_responder() -> None:
    r = Rotation()
    r.keypairs.responded(r.new("1"), 0)
    assert r.shown() == ("", "", "1")
    assert r.dropped(r.keypairs.responded(r.new("2"), 0)) == "1"
    r.keypairs.confirmed(0)
    assert r.shown() == ("", "2", "")
    r.keypairs.responded(r.new("3", 120), 120)
    assert r.shown() == ("", "2", "3")
    r.keypairs.confirmed(120)
    assert r.shown() == ("2", "3", "")
    assert r.dropped(r.keypairs.responded(r.new("4", 240), 240)) == "2"
    assert r.shown() == ("", "3", "4")


def test_both_ends_initiate_at_once() -> None:
    """We answered theirs (1 waits as next), then ours is answered (2): the peer may use 0, 1 and 2."""
    r = Rotation()
    r.keypairs.initiated(r.new("0"), 0)
    r.keypairs.responded(r.new("1"), 5)
    assert r.dropped(r.keypairs.initiated(r.new("2"), 5)) == ""
    assert r.shown() == ("10", "2", "")


def test_keypairs_are_bounded() -> None:
    r = Rotation()
    for number in range(9):
        rotate = r.keypairs.initiated if number % 2 else r.keypairs.responded
        rotate(r.new(str(number)), 0.0)
    assert r.shown() == ("65", "7", "8")


@pytest.mark.parametrize("size", [16, 1408, 1420])
def test_padding_and_bulk_paths_agree(size: int) -> None:
    """A run whose packets need no padding takes the path without a copy, up to its last."""
    a, b = ends()
    packets = run_of(5, size, size - 3)
    data = a.seal_run(packets, size, MTU, Scratch())
    opened, _, _ = b.open_run(cut(data, size + 32), 0, Scratch())
    assert [bytes(p)[: len(q)] for p, q in zip(opened, packets, strict=True)] == [bytes(q) for q in packets]
