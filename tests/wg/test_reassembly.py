"""Incomplete frames: slots, the budget and whom it makes give way."""

from random import Random

from raven.wg.endpoint import Endpoint
from raven.wg.reassembly import (
    PARTIAL_BYTES_MAX,
    PARTIAL_COST_MAX,
    PARTIAL_LIFETIME,
    PARTIALS_MAX,
    Partial,
    Reassembly,
    ReassemblyBudget,
)
from raven.wg.superframe import FRAME_MAX

HERE, THERE = Endpoint("192.0.2.1", 1), Endpoint("192.0.2.2", 1)


def add(
    frames: Reassembly,
    counter: int,
    number: int,
    *,
    last: int = 3,
    piece: bytes = b"x" * 1000,
    endpoint: Endpoint = HERE,
    now: float = 0.0,
) -> Partial | None:
    return frames.add((1, counter), number=number, last=last, tag=9, piece=piece, endpoint=endpoint, now=now)


def test_pieces_in_any_order_make_a_frame() -> None:
    frames = Reassembly(ReassemblyBudget())
    for number in (2, 0, 3):
        partial = add(frames, 5, number, piece=bytes([number]))
        assert partial is not None
        assert not partial.whole
    partial = add(frames, 5, 1, piece=b"\1")
    assert partial is not None
    assert partial.whole
    assert partial.pieces == [b"\0", b"\1", b"\2", b"\3"]
    assert partial.endpoint == HERE


def test_the_first_piece_of_a_slot_stays() -> None:
    frames = Reassembly(ReassemblyBudget())
    partial = add(frames, 5, 0, piece=b"first")
    assert partial is not None
    assert add(frames, 5, 0, piece=b"other") is None
    assert add(frames, 5, 1, last=4) is None, "another idea of how many there are"
    assert partial.pieces[0] == b"first"


def test_a_frame_from_two_places_is_from_none() -> None:
    frames = Reassembly(ReassemblyBudget())
    add(frames, 5, 0)
    partial = add(frames, 5, 1, endpoint=THERE)
    assert partial is not None
    assert partial.endpoint is None


def test_the_oldest_frames_go() -> None:
    budget = ReassemblyBudget()
    frames = Reassembly(budget)
    for counter in range(PARTIALS_MAX + 3):
        add(frames, counter, 0)
    assert frames.lost == 3
    assert [frames.find(1, counter) is None for counter in range(5)] == [True, True, True, False, False]
    add(frames, 100, 0, now=PARTIAL_LIFETIME + 0.1)
    assert frames.lost == 3 + PARTIALS_MAX
    assert frames.find(1, 100) is not None
    frames.clear()
    assert budget.used == 0


def test_a_late_piece_begins_anew() -> None:
    budget = ReassemblyBudget()
    frames = Reassembly(budget)
    add(frames, 5, 0)
    partial = add(frames, 5, 1, now=PARTIAL_LIFETIME + 0.1)
    assert partial is frames.find(1, 5)
    assert frames.lost == 1
    frames.clear()
    assert budget.used == 0


def test_one_peer_never_takes_the_room_of_another() -> None:
    budget = ReassemblyBudget()
    others = [Reassembly(budget) for _ in range(40)]
    for frames in others:
        for counter in range(PARTIALS_MAX):
            for number in range(63):
                add(frames, counter, number, last=63)
    assert budget.used <= PARTIAL_BYTES_MAX
    kept = [len(frames._partials) for frames in others]
    late = Reassembly(budget)
    assert add(late, 0, 0, piece=b"x" * 9000) is None
    assert [len(frames._partials) for frames in others] == kept


def test_a_frame_is_never_longer_than_a_frame_can_be() -> None:
    """Fragments with a right tag and any length, as somebody makes them who sees the path."""
    budget = ReassemblyBudget()
    frames = Reassembly(budget)
    kept = [add(frames, 5, number, last=63, piece=bytes(65491)) is not None for number in range(64)]
    assert kept == [True] + [False] * 63
    assert add(frames, 5, 1, last=63, piece=bytes(1400)) is not None, "that one may belong to it"
    assert frames.find(1, 5) is not None
    assert budget.used <= PARTIAL_COST_MAX


def test_the_longest_frame_fits() -> None:
    frames = Reassembly(ReassemblyBudget())
    part = (FRAME_MAX + 16) // 64
    for number in range(64):
        length = part if number < 63 else FRAME_MAX + 16 - 63 * part
        assert add(frames, 5, number, last=63, piece=bytes(length)) is not None
    partial = frames.find(1, 5)
    assert partial is not None
    assert partial.whole
    assert partial.cost == PARTIAL_COST_MAX


def test_seven_peers_leave_room_for_another() -> None:
    budget = ReassemblyBudget()
    for _ in range(7):
        greedy = Reassembly(budget)
        for counter in range(PARTIALS_MAX + 1):
            for number in range(64):
                add(greedy, counter, number, last=63, piece=bytes(65491))
    assert budget.used <= 7 * PARTIALS_MAX * PARTIAL_COST_MAX
    late = Reassembly(budget)
    assert all(add(late, 0, number, last=46, piece=bytes(1384)) for number in range(46))


def test_memory_is_counted_to_the_byte_whatever_happens() -> None:
    random = Random(4)
    budget = ReassemblyBudget()
    peers = [Reassembly(budget) for _ in range(12)]
    for step in range(20000):
        frames = random.choice(peers)
        index, counter = random.randrange(2), random.randrange(20)
        if random.random() < 0.02:
            frames.remove(index, counter)
        elif random.random() < 0.002:
            frames.forget_keypair(index)
        else:
            frames.add(
                (index, counter),
                number=random.randrange(64),
                last=63,
                tag=1,
                piece=bytes(random.choice([1, 1400, 9000])),
                endpoint=HERE,
                now=step / 5000,
            )
        assert budget.used <= PARTIAL_BYTES_MAX
    held = sum(
        len(piece) + 64
        for frames in peers
        for one in frames._partials.values()
        for piece in one.pieces
        if piece
    )
    assert budget.used == held
    for frames in peers:
        frames.clear()
    assert budget.used == 0
