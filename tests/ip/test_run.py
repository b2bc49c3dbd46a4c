"""One run, packet by packet."""

from raven.ip import header as h
from raven.ip.run import Run
from raven.ip.shape import Shapes
from tests.ip.model import Flow


def run_of(packets: list[bytes]) -> tuple[Run, int]:
    """A run begun by the first packet, and how many it took."""
    first = memoryview(packets[0])
    shape, _ = Shapes(udp=True).of_untrusted(first)
    assert shape is not None
    run = Run(first, int.from_bytes(first[: shape.header_length]), shape)
    run.add(first)
    taken = 1
    for packet in packets[1:]:
        if not run.continued_by(memoryview(packet), int.from_bytes(packet[: shape.header_length]), shape):
            break
        run.add(memoryview(packet))
        taken += 1
    return run, taken


def test_a_packet_that_stayed_alone_is_written_as_it_came() -> None:
    packet = Flow().packet(b"alone")
    assert run_of([packet])[0].finish() == [h.PLAIN, packet]


def test_several_become_a_superpacket() -> None:
    flow = Flow()
    run, taken = run_of(flow.cut(b"abcdefgh" * 100, 300, flags=h.ACK | h.PSH))
    virtio, superpacket = flow.superpacket(b"abcdefgh" * 100, 300, flags=h.ACK | h.PSH)
    assert taken == 3
    assert b"".join(run.finish()) == virtio.pack() + superpacket
    assert not run.open


def test_sequence_numbers_wrap() -> None:
    run, taken = run_of(Flow().cut(bytes(900), 300, sequence=0xFFFFFFFF - 400))
    assert (taken, run.sequence) == (3, 499)


def test_nothing_follows_a_shorter_packet() -> None:
    flow = Flow()
    packets = [flow.packet(bytes(size), sequence=at) for at, size in ((0, 300), (300, 200), (500, 200))]
    assert run_of(packets)[1] == 2


def test_nothing_longer_follows() -> None:
    flow = Flow()
    assert run_of([flow.packet(bytes(200), sequence=0), flow.packet(bytes(300), sequence=200)])[1] == 1


def test_pieces_are_bounded() -> None:
    run, taken = run_of(Flow().cut(bytes(10000), 10))
    assert taken == len(run.pieces) == 500
