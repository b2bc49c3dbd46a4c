"""Reads request heads off a stream with all their deadlines, and serves a daemon's own pages.

The pages are small and ready at once: /metrics, /healthz, service discovery. The gateway's proxy reads its
requests with the same functions. Nothing here reads a request's body: who sends one is answered and let go.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from raven.net import tcp
from raven.oam.exchange import own_answer, refusal_answer
from raven.oam.heads import HeadBuffer, RequestHead, parse_request_untrusted
from raven.oam.refusal import Refusal

HEAD_TIMEOUT: Final = 10.0  # seconds from the first chance to send a head until all of it is here
IDLE_TIMEOUT: Final = 75.0  # seconds a kept connection may say nothing; as nginx has it
SEND_TIMEOUT: Final = 30.0  # seconds for a whole answer of ours; the largest is some 100 KiB
LINGER_TIMEOUT: Final = 2.0  # seconds in which the other end may still read our last answer
LINGER_MAX: Final = 1 << 20  # bytes of an unwanted request that are thrown away meanwhile
READ_SIZE: Final = 16 * 1024  # bytes; heads are small


@dataclass(frozen=True, slots=True)
class Page:
    """The answer to a GET."""

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    status: int = 200


Pages = Mapping[str, Callable[[str], Page]]  # by path; each is given the query, and may raise Refusal


async def next_request(
    stream: trio.abc.ReceiveStream, buffer: HeadBuffer, *, first: bool, idle: trio.CancelScope | None = None
) -> RequestHead | None:
    """The next request on a connection; None when there will be none.

    `idle`, when given, is entered for as long as the other end owes nothing: cancelling it ends the wait with
    None. Raises Refusal for a head that makes no sense, is too large or too slow.
    """
    if not first and not len(buffer):
        with idle or trio.CancelScope() as idle:
            idle.deadline = min(idle.deadline, trio.current_time() + IDLE_TIMEOUT)
            if not await _receive(stream, buffer):
                return None
        if idle.cancelled_caught:
            return None
    if not len(buffer) and not _receive_nowait(stream, buffer):
        return None
    if (head := buffer.next_head()) is not None:
        return parse_request_untrusted(head)
    with trio.move_on_after(HEAD_TIMEOUT):
        while (head := buffer.next_head()) is None:
            if not await _receive(stream, buffer):
                return None
        return parse_request_untrusted(head)
    raise Refusal("head-timeout", f"no whole request head within {HEAD_TIMEOUT:.0f} s")


def _receive_nowait(stream: trio.abc.ReceiveStream, buffer: HeadBuffer) -> bool:
    """Takes what is there already, most often a whole head; whether more may come."""
    try:
        data = tcp.receive_nowait(stream, READ_SIZE)
    except trio.BrokenResourceError:
        return False
    buffer.receive_data(data or b"")
    return data != b""


async def _receive(stream: trio.abc.ReceiveStream, buffer: HeadBuffer) -> bool:
    try:
        data = await stream.receive_some(READ_SIZE)
    except trio.BrokenResourceError:
        return False
    buffer.receive_data(data)
    return bool(data)


def find_page(request: RequestHead, pages: Pages) -> Page:
    """The page a request asks for; Refusal when it asks for something else."""
    path, _, query = request.target.partition("?")
    if path not in pages:
        known = ", ".join(sorted(pages))
        raise Refusal("no-such-page", f"there is nothing at this path; expected one of {known}")
    if request.method not in ("GET", "HEAD"):
        raise Refusal("bad-method", f"{path} is there for GET and HEAD only")
    return pages[path](query)


async def send_page(
    stream: trio.abc.SendStream, request: RequestHead, page: Page, *, keep_alive: bool
) -> None:
    """Answers `request`; TooSlowError when the other end does not read."""
    answer = own_answer(
        page.status,
        [("Content-Type", page.content_type), ("Cache-Control", "no-store")],
        page.body,
        keep_alive=keep_alive,
        head_only=request.method == "HEAD",
    )
    with trio.fail_after(SEND_TIMEOUT):
        await stream.send_all(answer)


async def send_refusal(
    stream: trio.abc.SendStream, request: RequestHead | None, refusal: Refusal, *, keep_alive: bool
) -> None:
    """Answers `request`, None for one that was not understood; TooSlowError when nobody reads it."""
    head_only = request is not None and request.method == "HEAD"
    with trio.fail_after(SEND_TIMEOUT):
        await stream.send_all(refusal_answer(refusal, keep_alive=keep_alive, head_only=head_only))


async def linger(stream: trio.abc.HalfCloseableStream) -> None:
    """Ends a connection whose other end may still be sending, so that it can read our last answer.

    Closing with unread bytes makes TCP reset the connection, and a reset overtakes the answer.
    """
    with trio.move_on_after(LINGER_TIMEOUT):
        try:
            await stream.send_eof()
            discarded = 0
            while discarded < LINGER_MAX and (data := await stream.receive_some(READ_SIZE)):
                discarded += len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
    await trio.aclose_forcefully(stream)


async def serve_pages(stream: trio.abc.HalfCloseableStream, pages: Pages) -> None:
    """Answers requests on one connection until its end; closes it. Nothing the other end does raises."""
    buffer = HeadBuffer(strict=True)
    first = True
    try:
        while True:
            request: RequestHead | None = None
            keep_alive = False
            try:
                request = await next_request(stream, buffer, first=first)
                if request is None:
                    return
                keep_alive = request.persistent and request.body == 0
                await send_page(stream, request, find_page(request, pages), keep_alive=keep_alive)
            except Refusal as refusal:
                await send_refusal(stream, request, refusal, keep_alive=keep_alive)
            if not keep_alive:
                await linger(stream)
                return
            first = False
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        pass
    except Exception:
        # A page that cannot be made must not take the daemon with it.
        structlog.get_logger(area="pages").exception("a page ended by a fault of this program")
    finally:
        await trio.aclose_forcefully(stream)
