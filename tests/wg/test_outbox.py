"""Drains give each thing once, and memory is used again only after a drain."""

from raven.wg.endpoint import Endpoint
from raven.wg.outbox import Drop, Outbox, Transmit


def test_each_thing_is_drained_once() -> None:
    outbox = Outbox()
    transmit = Transmit(Endpoint("192.0.2.1", 1), 3, b"abc")
    outbox.transmits.append(transmit)
    outbox.packets.append(memoryview(b"x"))
    assert outbox.take_transmits() == [transmit]
    assert outbox.take_transmits() == []
    assert outbox.take_packets() == [b"x"]
    assert outbox.take_packets() == []
    assert outbox.take_events() == []


def test_memory_is_reused_only_after_the_drain() -> None:
    outbox = Outbox()
    outbox.begin_inbound()
    outbound, _ = outbox.outbound.run(10, 100, 0)
    inbound, _ = outbox.inbound.run(10, 100, 0)
    outbox.begin_inbound()
    assert outbox.outbound.run(10, 100, 0)[0].obj is not outbound.obj
    outbox.take_transmits()
    outbox.begin()
    assert outbox.outbound.run(10, 100, 0)[0].obj is outbound.obj
    assert outbox.inbound.run(10, 100, 0)[0].obj is not inbound.obj
    outbox.take_packets()
    outbox.begin_inbound()
    assert outbox.inbound.run(10, 100, 0)[0].obj is inbound.obj


def test_drops_are_counted_under_plain_words() -> None:
    outbox = Outbox()
    outbox.drop(Drop.MAC1)
    outbox.drop("mac1", 2)
    assert outbox.counters == {"mac1": 3}
    assert f"{next(iter(outbox.counters))}" == "mac1"
    assert all(reason.value == reason.value.lower().replace("_", "-") for reason in Drop)
