"""What lets a connection go on after its transport broke: who it is, what arrived, what may have to go again.

`frames` says how the two ends find each other again. Nothing here knows what the bytes mean: the sequence of
all frames is repeated from where the peer has it, so streams, control messages and their ends need no rules
of their own for a broken transport.
"""

from typing import Final, NamedTuple

from raven.errors import PeerError
from raven.mux import frames
from raven.mux.frames import FrameType

REPLAY_MAX: Final = 8 << 20  # bytes without a receipt; 320 Mb/s at 200 ms
RECEIPT_BYTES: Final = 256 * 1024  # bytes after which an ACK is due: one for each of the longest flushes
RECEIPT_SECONDS: Final = 0.5  # seconds after which one is due on a slow path, which must not look dead
RECEIPT_LEAST: Final = 1024  # bytes that make one worth it: receipts themselves are no reason for another
RESUME_LEN: Final = 36  # bytes of the frame
JOINED_MAX: Final = 16 * 1024  # bytes of small flushes kept as one chunk


class Resume(NamedTuple):
    """One end's RESUME: which connection the transport is for, and how far it has heard the other end."""

    connection: bytes  # 16 of them; whoever knows them and has the right certificate can take it over
    transport: int  # how many the connection had before
    received: int  # bytes

    def encode(self) -> bytes:
        return frames.encode_resume(self.connection, transport=self.transport, received=self.received)

    def __repr__(self) -> str:
        return f"Resume(connection=hidden, transport={self.transport}, received={self.received})"


class Greeting:
    """The peer's first frame on a transport: feed until `resume` is there."""

    def __init__(self) -> None:
        self.resume: Resume | None = None
        self._head = bytearray()

    def feed_untrusted(self, data: bytes | bytearray | memoryview) -> bytes:
        """The bytes of `data` behind the frame. PeerError when the peer says something else."""
        assert self.resume is None
        head = self._head
        head += data
        if len(head) < frames.HEADER_LEN:
            return b""
        frame_type = head[3]
        if frame_type not in (FrameType.RESUME, FrameType.GOAWAY):
            raise PeerError("no-resume", f"the first frame has type {frame_type}, expected RESUME")
        length = frames.HEADER_LEN + int.from_bytes(head[:3], "big")
        for _, _, payload in frames.FrameDecoder().feed_untrusted(bytes(head[:length])):
            if frame_type == FrameType.GOAWAY:
                code, _, message = frames.decode_go_away_untrusted(payload)
                name = frames.end_code(code).name
                raise PeerError("ended-by-peer", f"the other end gave up ({name}): {message}")
            self.resume = Resume(*frames.decode_resume_untrusted(payload))
            return bytes(head[length:])
        return b""


class Replay:
    """What was sent and the peer has no receipt for, as far as `keep` says that it may be wanted again."""

    def __init__(self, *, keep: bool) -> None:
        self.sent = 0  # bytes of the sequence
        self.confirmed = 0
        self._keep = keep
        self._chunks: list[bytes | bytearray] = []  # the first may be confirmed in part
        self._from = 0  # offset where it begins
        self._again: list[memoryview] = []

    @property
    def full(self) -> bool:
        """Whether no more should be sent until a receipt comes."""
        return self.sent - self.confirmed >= REPLAY_MAX

    @property
    def has_more(self) -> bool:
        """Whether something must go again before anything new."""
        return bool(self._again)

    def add(self, data: bytes) -> None:
        """`data` has been handed to the transport for the first time."""
        self.sent += len(data)
        if not self._keep:
            return
        tail = self._chunks[-1] if self._chunks else None
        if len(data) >= JOINED_MAX // 4:
            self._chunks.append(data)
        elif type(tail) is bytearray and len(tail) + len(data) <= JOINED_MAX:
            tail += data
        else:
            self._chunks.append(bytearray(data))

    def confirm_untrusted(self, received: int) -> bool:
        """A receipt; whether it says anything new. PeerError when it goes beyond what was sent.

        One that goes back is in a stretch that is repeated, behind a RESUME that knew more.
        """
        if received > self.sent:
            raise PeerError("receipt-beyond", f"receipt for {received} bytes of {self.sent} sent")
        if received <= self.confirmed:
            return False
        self.confirmed = received
        whole = 0
        for chunk in self._chunks:
            if self._from + len(chunk) > received:
                break
            self._from += len(chunk)
            whole += 1
        del self._chunks[:whole]
        return True

    def rewind_untrusted(self, received: int) -> None:
        """A new transport to a peer that has `received` bytes: what it has not goes again. PeerError."""
        if received < self.confirmed:
            text = f"RESUME with {received} bytes, and there was a receipt for {self.confirmed}"
            raise PeerError("resume-backwards", text)
        self.confirm_untrusted(received)
        self._again.clear()
        skip = received - self._from
        for chunk in self._chunks:
            # A bytearray may still grow, so what goes again is a copy of it.
            self._again.append(memoryview(bytes(chunk))[skip:])
            skip = 0

    def again(self, limit: int) -> bytes:
        """The next bytes that go again, at most `limit`."""
        parts: list[memoryview] = []
        while self._again and limit:
            chunk = self._again.pop(0)
            if len(chunk) > limit:
                self._again.insert(0, chunk[limit:])
                chunk = chunk[:limit]
            limit -= len(chunk)
            parts.append(chunk)
        return b"".join(parts)

    def clear(self) -> None:
        """Nothing will be wanted again."""
        self._keep = False
        self._chunks.clear()
        self._again.clear()


class Receipts:
    """How far the peer's sequence has arrived here, and when to tell it."""

    def __init__(self, now: float) -> None:
        self.received = 0
        self._told = 0
        self._told_at = now

    def arrived(self, size: int, now: float) -> bool:
        """`size` bytes have come; whether an ACK is due."""
        self.received += size
        owed = self.received - self._told
        if owed < RECEIPT_BYTES and (owed < RECEIPT_LEAST or now - self._told_at < RECEIPT_SECONDS):
            return False
        self._told_at = now
        return True

    def tell(self) -> int:
        """The `received` of a frame that is being written."""
        self._told = self.received
        return self.received
