"""Indices and jitter."""

from collections.abc import Iterator
from random import Random

from raven.wg.constants import REKEY_TIMEOUT_JITTER_MAX
from raven.wg.handshake import TransportKeys
from raven.wg.keypair import Keypair
from raven.wg.shared import Shared


def shared(draws: Iterator[bytes] | None = None) -> Shared[str]:
    random = Random(0)
    return Shared(
        tai64n=lambda: bytes(12),
        random=random.randbytes if draws is None else lambda size: next(draws),
        wall=lambda: 0.0,
        route_mtu=lambda _: 0,
        mtu=1420,
    )


def test_an_index_in_use_is_not_drawn_again() -> None:
    s = shared(iter([b"\x05\0\0\0", b"\x06\0\0\0", b"\x07\0\0\x80"]))
    s.handshakes[5] = "a peer"
    keys = TransportKeys(6, 1, bytes(32), bytes(32), bytes(32))
    s.keypairs[6] = ("a peer", Keypair(keys, initiator=True, now=0.0))
    assert s.new_index() == 0x80000007


def test_jitter_spreads_over_its_range() -> None:
    s = shared()
    draws = [s.jitter() for _ in range(1000)]
    assert 0 <= min(draws) < 0.01
    assert REKEY_TIMEOUT_JITTER_MAX - 0.01 < max(draws) < REKEY_TIMEOUT_JITTER_MAX
