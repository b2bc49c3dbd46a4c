"""Carries one HTTP exchange between its asker and its target: reads, feeds `Exchange`, writes.

`connect` has opened both ends. Both directions run at once, because an answer may come before its request
is all there (100 Continue, an early error). Meanwhile the asker is watched: one that hangs up ends the
exchange.
"""

from __future__ import annotations

from typing import Final

import trio

from raven.errors import PeerError
from raven.net.splice import Copied, abort, splice
from raven.net.tunnel import TunnelLost
from raven.oam.exchange import Exchange
from raven.oam.heads import HeadBuffer
from raven.oam.refusal import Refusal

READ_SIZE: Final = 64 * 1024  # bytes
READ_AHEAD: Final = 64 * 1024  # bytes of later requests taken while one is answered; then the asker waits
BODY_IDLE: Final = 60.0  # seconds between two pieces of a request's body; as nginx has it
HALF_CLOSED_GRACE: Final = 10.0  # seconds without progress for an asker that has said EOF and may be gone


class Relay:
    """One exchange on its way. Owns `upstream`; the asker's stream stays with the caller."""

    def __init__(
        self,
        asker: trio.abc.HalfCloseableStream,
        buffer: HeadBuffer,
        upstream: trio.abc.HalfCloseableStream,
        exchange: Exchange,
    ) -> None:
        self.exchange = exchange
        self.broken = ""  # why the exchange did not reach its end, after its answer had begun
        self._asker = asker
        self._buffer = buffer  # what the asker has sent and nobody has used: later requests
        self._upstream = upstream
        self._spliced = (0, 0)
        self._refusal: Refusal | None = None
        self._both = trio.CancelScope()

    @property
    def keep_alive(self) -> bool:
        """Whether the asker's connection can carry another request."""
        return self.exchange.answered and self.exchange.keep_alive and not self.broken

    @property
    def bytes_to_target(self) -> int:
        return self.exchange.bytes_to_target + self._spliced[0]

    @property
    def bytes_from_target(self) -> int:
        return self.exchange.bytes_from_target + self._spliced[1]

    async def run(self) -> None:
        """Until the exchange has ended, one way or another; Refusal while nothing of an answer was sent.

        Where `broken` tells why it ended early, closing the asker's connection will reset it, so that the
        asker does not take what it has for the whole.
        """
        try:
            with self._both:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._carry_request)
                    await self._carry_answer()
                    nursery.cancel_scope.cancel()
            if self._refusal is not None:
                if not self.exchange.status:
                    raise self._refusal
                self.broken = self._refusal.reason
            elif self.exchange.switched and not self.broken:
                await self._carry_upgraded()
            elif self.exchange.answered and self.exchange.asked:
                await self._upstream.aclose()
            if self.broken:
                abort(self._asker, self.broken)
        finally:
            await trio.aclose_forcefully(self._upstream)

    def _end(self, *, refusal: Refusal | None = None, broken: str = "") -> None:
        """The first thing that goes wrong ends both directions and is what is told."""
        if self._refusal is None and not self.broken:
            self._refusal, self.broken = refusal, broken
        self._both.cancel()

    async def _carry_request(self) -> None:
        """Sends head and body to the target, then watches the asker."""
        data: bytes | bytearray = self._buffer.take()
        head: bytes | None = self.exchange.head
        while True:
            try:
                used = self.exchange.from_asker(data)
            except Refusal as refusal:
                self._end(refusal=refusal)
                return
            piece: bytes | bytearray | memoryview = memoryview(data)[:used]
            if head is not None:
                piece, head = head + piece, None  # in one segment
            try:
                await self._upstream.send_all(piece)
            except trio.BrokenResourceError:
                return  # the target reads no more; it may have answered all the same
            if self.exchange.asked:
                self._buffer.receive_data(memoryview(data)[used:])
                await self._watch_asker()
                return
            with trio.move_on_after(BODY_IDLE) as waiting:
                data = await self._receive_from_asker()
            if waiting.cancelled_caught:
                self._end(
                    refusal=Refusal(
                        "body-timeout", f"nothing of the request's body came for {BODY_IDLE:.0f} s"
                    )
                )
                return
            if not data:
                self._end(broken="asker-left")
                return

    async def _receive_from_asker(self) -> bytes | bytearray:
        """What the asker sends; b"" at its end, whatever that looks like."""
        try:
            return await self._asker.receive_some(READ_SIZE)
        except trio.BrokenResourceError:
            self._end(broken="asker-left")
            return b""

    async def _watch_asker(self) -> None:
        """Reads ahead, so that an asker that hangs up is noticed while its target is still thinking.

        EOF alone does not tell a program that has gone from one that only has nothing more to ask, such as
        nc: it has no more patience than HALF_CLOSED_GRACE between two pieces of the answer.
        """
        while data := await self._receive_from_asker():
            self._buffer.receive_data(data)
            if len(self._buffer) > READ_AHEAD:
                return
        while True:
            seen = self.exchange.bytes_from_target
            await trio.sleep(HALF_CLOSED_GRACE)
            if self.exchange.bytes_from_target == seen:
                self._end(broken="asker-left")
                return

    async def _carry_answer(self) -> None:
        exchange = self.exchange
        try:
            while not exchange.answered and not exchange.switched:
                data = await self._upstream.receive_some(READ_SIZE)
                if not data:
                    exchange.target_ended()
                elif pieces := exchange.from_target(data):
                    await self._send_to_asker(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        except Refusal as refusal:
            self._end(refusal=refusal)
        except PeerError as error:
            self._end(broken=error.reason)
        except trio.BrokenResourceError as error:
            lost = error.__cause__
            if exchange.status:
                self._end(broken="tunnel-lost" if isinstance(lost, TunnelLost) else "cut-answer")
            elif isinstance(lost, TunnelLost):
                self._end(refusal=tunnel_lost(lost))
            else:
                self._end(
                    refusal=Refusal("no-answer", "the target broke the connection off; look at its log")
                )

    async def _send_to_asker(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._asker.send_all(data)
        except trio.BrokenResourceError:
            self._end(broken="asker-left")
            await trio.lowlevel.checkpoint_if_cancelled()

    async def _carry_upgraded(self) -> None:
        """After 101 both ends speak something else; what the asker has said of it already goes first."""
        early = self._buffer.take()
        try:
            await self._upstream.send_all(early)
        except trio.BrokenResourceError:
            early = b""
        copied = Copied()
        try:
            await splice(self._asker, self._upstream, copied)
        finally:
            self._spliced = (len(early) + copied.a_to_b, copied.b_to_a)


def tunnel_lost(error: TunnelLost) -> Refusal:
    """The node went away while it was being asked, or before."""
    if error.reason == "reconnecting":
        return Refusal("reconnecting", str(error))
    return Refusal(
        "tunnel-lost", f"the tunnel to the node was lost: {error}; it dials again by itself, so ask again"
    )
