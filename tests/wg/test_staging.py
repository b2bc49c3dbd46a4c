"""The queue beside a plain list, and the budget over several."""

from hypothesis import given
from hypothesis import strategies as st

from raven.wg.staging import STAGED_BYTES_MAX, STAGED_MAX, StagedPackets, StagingBudget


@given(st.lists(st.integers(0, 400), max_size=400))
def test_keeps_the_newest(numbers: list[int]) -> None:
    queue = StagedPackets(StagingBudget())
    packets = [str(number).encode() for number in numbers]
    dropped = sum(queue.add(packet) for packet in packets)
    assert dropped == max(0, len(packets) - STAGED_MAX)
    assert len(queue) == len(packets) - dropped
    assert queue.take() == packets[-STAGED_MAX:]
    assert queue.take() == []


def test_the_budget_is_shared_and_given_back() -> None:
    budget = StagingBudget()
    packet = bytes(65536)
    queues = [StagedPackets(budget) for _ in range(3)]
    for queue in queues[:2]:
        for _ in range(STAGED_MAX // 2):
            assert queue.add(packet) == 0
    assert budget.used == STAGED_BYTES_MAX
    assert queues[2].add(packet) == 1, "nothing of its own to give up"
    assert len(queues[2]) == 0
    assert queues[0].add(packet) == 1, "its own oldest goes"
    assert len(queues[0]) == STAGED_MAX // 2
    queues[1].take()
    assert queues[2].add(packet) == 0
    queues[0].take()
    queues[2].take()
    assert budget.used == 0


def test_a_packet_larger_than_what_is_left_empties_the_queue_first() -> None:
    budget = StagingBudget()
    queue = StagedPackets(budget)
    queue.add(b"x")
    assert queue.add(bytes(STAGED_BYTES_MAX + 1)) == 2
    assert budget.used == 0
