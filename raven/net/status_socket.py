"""The Unix socket over which a daemon says what it knows: one request a line, one answer a line, JSON.

`ravenctl` is the reader. Whoever may open the socket may ask everything; its file's mode says who that is.
"""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import trio

from raven.errors import ConfigError, RavenError, StateError
from raven.net.unix_peer import UnixPeer, unix_peer
from raven.status import AgentSnapshot, GatewaySnapshot, Happening, PingResult, Streams, TraceResult


class SnapshotRequest(msgspec.Struct, frozen=True, tag_field="op", tag="snapshot"):
    """All there is to know now."""


class PingRequest(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="ping"):
    """A round trip to `node` through each lane."""

    node: str


class EventsRequest(msgspec.Struct, frozen=True, tag_field="op", tag="events"):
    """What happened lately."""


class StreamsRequest(msgspec.Struct, frozen=True, tag_field="op", tag="streams"):
    """The streams that are open now."""


class TraceRequest(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", tag="trace"):
    """The way of a request to `node`, or on to `port` there; `host` is a machine behind the node."""

    node: str
    port: int = 0  # 0: as far as the node
    host: str = ""


Request = SnapshotRequest | PingRequest | EventsRequest | StreamsRequest | TraceRequest


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the request asked for, or why not."""

    error: str = ""
    snapshot: GatewaySnapshot | AgentSnapshot | None = None
    ping: PingResult | None = None
    events: list[Happening] | None = None  # oldest first
    streams: Streams | None = None
    trace: TraceResult | None = None


REQUEST_MAX = 4096  # bytes; a ping with the longest name has 300
ANSWER_MAX = 64 << 20  # bytes; some ten thousand nodes
ASKERS_MAX = 32  # at once; each may hold one request and one answer in memory
IDLE_MAX = 60.0  # seconds an asker may keep the connection without asking
PATH_MAX = 107  # bytes; sockaddr_un has 108 with the closing zero

_request_decoder = msgspec.json.Decoder(Request)
_answer_decoder = msgspec.json.Decoder(Answer)
_encode = msgspec.json.Encoder().encode

Answerer = Callable[[Request, UnixPeer], Awaitable[Answer]]


def open_socket(path: Path, *, group: str = "", backlog: int = ASKERS_MAX) -> trio.SocketListener:
    """Listens at `path`, mode 0660, owned by `group` if given.

    A socket that nobody answers any more is replaced; StateError when someone does, when something else is in
    the way, or when the system refuses.
    """
    if len(os.fsencode(path)) > PATH_MAX:
        raise StateError(f"{path}: a socket's path has at most {PATH_MAX} bytes")
    _clear_leftover(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        before = os.umask(0o117)  # a chmod after bind would leave a moment in which everyone may connect
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        if group:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        listening.listen(backlog)
        return trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    except KeyError:
        listening.close()
        path.unlink(missing_ok=True)
        raise ConfigError(f"socket_group {group}: there is no such group on this machine") from None
    except OSError as error:
        listening.close()
        raise StateError(f"{path}: cannot listen there: {error.strerror}") from error


def _clear_leftover(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise StateError(f"{path}: something that is no socket is in the way")
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateError(f"{path}: {error.strerror}") from error
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.setblocking(False)
            probe.connect(str(path))
        except ConnectionRefusedError:  # left behind by a process that was killed
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"{path}: {error.strerror}") from error
        else:
            raise StateError(f"{path}: another process answers there; is the daemon running already?")


async def serve_socket(listener: trio.SocketListener, path: Path, answer: Answerer) -> None:
    """Answers until cancelled, then removes the socket's file."""
    slots = trio.CapacityLimiter(ASKERS_MAX)

    async def serve_one(stream: trio.SocketStream) -> None:
        async with slots, stream:
            try:
                await _serve_asker(stream, answer)
            except trio.BrokenResourceError:
                return  # the asker left

    try:
        await trio.serve_listeners(serve_one, [listener])
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


async def _serve_asker(stream: trio.SocketStream, answer: Answerer) -> None:
    peer = unix_peer(stream)
    while True:
        with trio.move_on_after(IDLE_MAX):
            line = await _read_line(stream, REQUEST_MAX)
            if line is None:
                return
            try:
                reply = await answer(_request_decoder.decode(line), peer)
            except msgspec.DecodeError as error:
                reply = Answer(error=f"not a request: {error}")
            except RavenError as error:
                reply = Answer(error=str(error))
            await stream.send_all(_encode(reply) + b"\n")
            continue
        return


async def _read_line(stream: trio.SocketStream, limit: int) -> bytes | None:
    """One line without its end; None when the other end closed or sent more than `limit` bytes.

    Askers wait for the answer before they ask again, so nothing follows the line's end.
    """
    data = bytearray()
    while not data.endswith(b"\n"):
        more = await stream.receive_some(65536)
        if not more or len(data) + len(more) > limit:
            return None
        data += more
    return bytes(data[:-1])


async def ask(path: Path, request: Request, *, timeout: float = 15.0) -> Answer:
    """The daemon's answer; StateError names the socket and says why there is none."""
    try:
        with trio.fail_after(timeout):
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(_encode(request) + b"\n")
                line = await _read_line(stream, ANSWER_MAX)
        if line is None:
            raise StateError(f"{path}: the daemon closed the connection without an answer")
        return _answer_decoder.decode(line)
    except FileNotFoundError as error:
        raise StateError(f"{path}: there is no such socket") from error
    except ConnectionRefusedError as error:
        raise StateError(f"{path}: nobody listens there any more") from error
    except OSError as error:
        raise StateError(f"{path}: {error.strerror or error}") from error
    except trio.TooSlowError as error:
        raise StateError(f"{path}: no answer within {timeout:.0f} s") from error
    except trio.BrokenResourceError as error:
        raise StateError(f"{path}: the daemon closed the connection") from error
    except msgspec.DecodeError as error:
        raise StateError(f"{path}: not the answer of a Raven daemon: {error}") from error
