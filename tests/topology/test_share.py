"""Nodes are spread evenly over a hub's devices, and a device more moves no more than it gets."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from raven.keys import PublicKey
from raven.topology.share import device_of

DEVICES = [PublicKey(bytes([number]) * 32) for number in range(1, 9)]
NODES = [f"shop-{number}" for number in range(2000)]


@given(count=st.integers(1, 7), order=st.randoms())
def test_a_device_more_takes_its_share_and_moves_nothing_else(count: int, order: object) -> None:
    before = {node: device_of(node, DEVICES[:count]) for node in NODES}
    more = DEVICES[: count + 1]
    order.shuffle(more)  # type: ignore[attr-defined]
    after = {node: device_of(node, more) for node in NODES}
    moved = [node for node in NODES if before[node] != after[node]]
    assert all(after[node] == DEVICES[count] for node in moved)
    fair = len(NODES) / (count + 1)
    assert 0.7 * fair < len(moved) < 1.3 * fair
    assert max(Counter(after.values()).values()) < 1.3 * fair
