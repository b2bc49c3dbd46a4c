"""Memory that a device writes datagrams and packets into, used again for every burst.

Chunks of 64 KiB, each with room for one GSO run; the views of a run of equal segments are made once per
segment size, because slicing costs a tenth of sealing. Above: `keypair`. What is handed out lives until
`reset`.
"""

CHUNK = 1 << 16  # bytes; the largest UDP payload fits
KEPT_CHUNKS = (
    32  # 2 MiB stay allocated between bursts, a full socket buffer's worth; a larger burst frees again
)
_LAYOUTS_MAX = 4  # per chunk: bulk traffic uses one or two sizes, and odd ones should not pin their views
_RUN_MIN = 4  # segments; shorter runs share a chunk and are sliced as they come


class _Chunk:
    __slots__ = ("_layouts", "view")

    def __init__(self) -> None:
        self.view = memoryview(bytearray(CHUNK))
        self._layouts: dict[tuple[int, int], list[memoryview]] = {}

    def segments(self, stride: int, skip: int) -> list[memoryview]:
        """All segments of `stride` bytes from the chunk's start on, each without its first `skip` bytes."""
        views = self._layouts.get((stride, skip))
        if views is None:
            if len(self._layouts) >= _LAYOUTS_MAX:
                self._layouts.clear()
            view = self.view
            views = [view[start + skip : start + stride] for start in range(0, CHUNK - stride + 1, stride)]
            self._layouts[stride, skip] = views
        return views


class Scratch:
    """Hands out memory for runs of segments; grows by chunks, bounded by what one drain's calls hand in."""

    __slots__ = ("_chunks", "_padded", "_plain", "_shared", "_used", "_used_chunks")

    def __init__(self) -> None:
        self._chunks: list[_Chunk] = []
        self._used_chunks = 0
        self._shared: _Chunk | None = None
        self._used = 0  # bytes of the shared chunk
        self._padded = memoryview(bytearray())
        self._plain = self._padded

    def reset(self) -> None:
        """Everything handed out may be overwritten from now on."""
        del self._chunks[KEPT_CHUNKS:]
        self._used_chunks = 0
        self._shared = None

    def run(self, count: int, stride: int, skip: int) -> tuple[memoryview, list[memoryview]]:
        """Room for `count` segments of `stride` bytes: the whole, and each without its first `skip` bytes.

        `count` times `stride` is at most CHUNK. The list may be longer than `count`.
        """
        if count >= _RUN_MIN:
            chunk = self._next_chunk()
            return chunk.view, chunk.segments(stride, skip)
        size = count * stride
        shared = self._shared
        if shared is None or self._used + size > CHUNK:
            shared = self._shared = self._next_chunk()
            self._used = 0
        start = self._used
        self._used += size
        whole = shared.view[start : start + size]
        return whole, [whole[at + skip : at + stride] for at in range(0, size, stride)]

    def padding(self, size: int, padded: int) -> tuple[memoryview, memoryview]:
        """One buffer seen twice: `size` bytes to fill with plaintext, and `padded` bytes that end in zeros.

        Valid until the next call; sealing reads it at once.
        """
        if len(self._plain) != size or len(self._padded) != padded:
            self._padded = memoryview(bytearray(padded))
            self._plain = self._padded[:size]
        return self._plain, self._padded

    def _next_chunk(self) -> _Chunk:
        if self._used_chunks == len(self._chunks):
            self._chunks.append(_Chunk())
        chunk = self._chunks[self._used_chunks]
        self._used_chunks += 1
        return chunk
