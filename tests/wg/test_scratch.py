"""What is handed out does not overlap, lives until reset, and is made once per size."""

from hypothesis import given
from hypothesis import strategies as st

from raven.wg.scratch import CHUNK, KEPT_CHUNKS, Scratch

runs = st.tuples(st.integers(1, 64), st.integers(33, 1500)).filter(lambda run: run[0] * run[1] <= CHUNK)


@given(st.lists(runs, max_size=30))
def test_runs_never_overlap(shapes: list[tuple[int, int]]) -> None:
    scratch = Scratch()
    taken = []
    for number, (count, stride) in enumerate(shapes):
        whole, segments = scratch.run(count, stride, 16)
        whole[: count * stride] = bytes([number]) * (count * stride)
        assert len(segments) >= count
        assert all(len(segment) == stride - 16 for segment in segments[:count])
        taken.append((number, whole, segments, count, stride))
    for number, whole, segments, count, stride in taken:
        assert set(whole[: count * stride]) == {number}
        for at, segment in enumerate(segments[:count]):
            segment[0] = 255 - number
            assert whole[at * stride + 16] == 255 - number


def test_reset_reuses_memory_and_views() -> None:
    scratch = Scratch()
    first, views = scratch.run(44, 1452, 16)
    scratch.reset()
    second, again = scratch.run(44, 1452, 16)
    assert first.obj is second.obj
    assert views is again


def test_a_huge_burst_is_not_kept() -> None:
    scratch = Scratch()
    for _ in range(3 * KEPT_CHUNKS):
        scratch.run(44, 1452, 16)
    scratch.reset()
    assert len(scratch._chunks) == KEPT_CHUNKS


def test_odd_sizes_do_not_pin_their_views() -> None:
    scratch = Scratch()
    for stride in range(100, 200):
        scratch.run(10, stride, 0)
        scratch.reset()
    assert len(scratch._chunks) == 1
    assert len(scratch._chunks[0]._layouts) <= 4


def test_padding_ends_in_zeros() -> None:
    scratch = Scratch()
    for size, padded in [(5, 16), (30, 32), (31, 32), (5, 16), (1, 16)]:
        plain, whole = scratch.padding(size, padded)
        plain[:] = b"\xff" * size
        assert bytes(whole) == b"\xff" * size + bytes(padded - size)
