"""The device's Unix socket, where `wg` and Raven's control plane ask and configure.

The text is read and written in `raven.wg.uapi` and `uapi_answers`; here are the socket file, its mode, and
the requests' ends.
"""

import asyncio
import contextlib
import errno
import gc
import logging
import os
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Final, Protocol, cast

from raven.errors import RavenError
from raven.wg import uapi, uapi_answers
from raven.wg.configuration import DeviceChange, DeviceState, Status, UapiError

log = logging.getLogger("raven.uapi")

DIRECTORY: Final = Path("/var/run/wireguard")

# Clients at a time. Only root can connect and `wg` takes milliseconds; this is for a client gone mad.
_CLIENTS_MAX: Final = 32


class SocketError(RavenError):
    """The socket file cannot be made."""


class Configurable(Protocol):
    def state(self) -> DeviceState: ...

    def status(self) -> Status: ...

    def configuring(self, change: DeviceChange) -> Generator[None, None, None]: ...


class UapiServer:
    """Listens on `DIRECTORY/NAME.sock` until closed, then removes the file, unless another's by now."""

    def __init__(self, name: str, device: Configurable, *, directory: Path = DIRECTORY) -> None:
        """Binds the socket; SocketError when another process answers on it, or it cannot be made."""
        self.path = directory / f"{name}.sock"
        self._device = device
        self._clients: set[asyncio.BaseTransport] = set()
        self._server: asyncio.AbstractServer | None = None
        self._configuring = False
        try:
            try:
                self._socket = _bind(self.path)
            except FileNotFoundError:
                # Whoever removed its own socket just now may have taken the empty directory with it.
                self._socket = _bind(self.path)
            self._inode = self.path.stat().st_ino
        except OSError as error:
            raise SocketError(f"{self.path}: {error.strerror}") from error

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: _Client(self), sock=self._socket)

    def exists(self) -> bool:
        """Whether the socket file is still there, and still ours."""
        try:
            return self.path.stat().st_ino == self._inode
        except OSError:
            return False

    def close(self) -> None:
        if self.exists():
            with contextlib.suppress(OSError):
                self.path.unlink()
        if self._server is not None:
            self._server.close()
        self._socket.close()
        for client in self._clients:
            client.close()

    def answering(self, request: str) -> Generator[None, None, str]:
        """The answer to one whole request, in steps; a change is applied in the last one, and whole."""
        lines = uapi.lines_of(request)
        verb = next(lines).rstrip("\r")
        try:
            if verb == uapi.GET:
                if next(lines, ""):
                    raise UapiError(errno.EINVAL, f"nothing comes after {uapi.GET}")
                return (yield from uapi_answers.formatting_get(self._device.state()))
            if verb == uapi.SET:
                change = yield from uapi.parsing_untrusted(lines, _interface_index)
                while self._configuring:
                    yield  # another client's change is under way
                self._configuring = True
                try:
                    yield from self._device.configuring(change)
                finally:
                    self._configuring = False
                return uapi_answers.format_errno(0)
            if verb == uapi.COUNTERS:
                return uapi_answers.format_counters(self._device.state().counters)
            if verb == uapi.STATUS:
                return uapi_answers.format_status(self._device.status())
            raise UapiError(errno.EPROTO, "a request starts with get=1 or set=1")
        except UapiError as error:
            log.error("%s: %s", self.path.name, error)
            return uapi_answers.format_errno(-error.errno)  # negative, as wireguard-go: `wg` turns it round

    def _admit(self, transport: asyncio.BaseTransport) -> bool:
        if len(self._clients) >= _CLIENTS_MAX:
            return False
        self._clients.add(transport)
        return True

    def _leave(self, transport: asyncio.BaseTransport) -> None:
        self._clients.discard(transport)


class _Client(asyncio.Protocol):
    """One connection; requests may follow one another on it, each ended by an empty line."""

    def __init__(self, server: UapiServer) -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._searched = 0  # bytes of it that hold no request's end
        self._steps: Generator[None, None, str] | None = None  # of the request that is being answered

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's by their methods, not by inheritance.
        self._transport = transport = cast(asyncio.Transport, transport)
        if not self._server._admit(transport):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._received += data
        if self._steps is None:
            self._go_on()
        if len(self._received) > uapi.REQUEST_MAX:
            self._transport.write(uapi_answers.format_errno(-errno.EMSGSIZE).encode())
            self._transport.close()

    def _go_on(self) -> None:
        """Answers what came, request after request; in a long one packets pass between two steps."""
        assert self._transport is not None
        while (steps := self._steps or self._begin()) is not None:
            gc.disable()
            try:
                next(steps)
            except StopIteration as end:
                self._steps = None
                if not self._transport.is_closing():
                    self._transport.write(end.value.encode())
            else:
                # The collector would walk all that a long request has made so far again and again, the last
                # time for 0.3 s. It holds no cycles, so it is told never to look there; cycles that others
                # made since the last step stay for good, a few kB.
                gc.freeze()
                asyncio.get_running_loop().call_soon(self._go_on)
                return
            finally:
                gc.enable()

    def _begin(self) -> Generator[None, None, str] | None:
        """The steps of the next whole request, if there is one."""
        end = self._received.find(b"\n\n", self._searched)
        if end < 0:
            self._searched = max(0, len(self._received) - 1)
            return None
        request = self._received[:end].decode("utf-8", "replace")
        del self._received[: end + 2]
        self._searched = 0
        self._steps = self._server.answering(request)
        return self._steps

    def connection_lost(self, error: Exception | None) -> None:
        if self._transport is not None:
            self._server._leave(self._transport)


def _interface_index(name: str) -> int:
    """The index of an interface of the host; 0 when it has none of that name."""
    try:
        return socket.if_nametoindex(name)
    except (OSError, ValueError):  # ValueError: a NUL in it
        return 0


def _bind(path: Path) -> socket.socket:
    """A socket that listens at `path`, to which only its owner may connect.

    It gets its name once it listens: `wg` takes a socket that refuses it for a dead process's and removes it.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _remove_stale(path)
    unnamed = path.with_name(f".{path.stem}.{os.getpid()}")
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        bound.bind(str(unnamed))
        bound.listen()
        unnamed.rename(path)
    except OSError:
        bound.close()
        unnamed.unlink(missing_ok=True)
        raise
    finally:
        os.umask(mask)
    return bound


def _remove_stale(path: Path) -> None:
    """Removes the socket of a process that is gone; OSError(EADDRINUSE) when one answers."""
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, "another process answers on this socket")
