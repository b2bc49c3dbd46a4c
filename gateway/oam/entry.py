"""The doors of O&M: TCP, TLS, a Unix socket, and names. Lets in whom there is room for, finds out who it is.

Below them one HTTP proxy serves all but those who dialled a node's name. What has not sent a whole head yet,
or a ClientHello, is a stranger and has a place among few; afterwards a connection counts to all there may be,
and to those of its network.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

import trio

from gateway.oam.connect import HttpProxy
from gateway.oam.identity import Identities
from gateway.oam.sni import NameSplicer
from gateway.refusals import Refusals
from raven import log
from raven.errors import PeerError, RefusedError
from raven.net.source_network import network_of_host
from raven.net.strangers import Place, Strangers
from raven.net.tcp import peer_of, watch_peer
from raven.net.tls_half_close import HalfCloseableTLSStream
from raven.net.tls_stream import server_handshake
from raven.net.unix_peer import unix_peer
from raven.oam.asker import Asker
from raven.oam.exchange import refusal_answer
from raven.oam.refusal import Refusal

HANDSHAKE_MAX: Final = 10.0  # seconds
CONNECTIONS_MAX: Final = 4096  # in all; each costs some 20 kB while it is idle
EACH_MAX: Final = 1024  # of one network; a Prometheus of 2,000 targets has some hundreds
STRANGERS_LOW: Final = 512  # connections without a whole head, from where on some are refused
STRANGERS_HIGH: Final = 1024
STRANGERS_EACH: Final = 256  # of one network
FAREWELL_MAX: Final = 0.5  # seconds in which somebody turned away may read why
FAREWELL_READ: Final = 16 * 1024  # bytes
FAREWELLS_MAX: Final = 64  # at once; a flood is not told why


@dataclass(frozen=True, slots=True)
class TLSDoor:
    """A door where TLS ends: what it shows, whom it believes, and what is behind it."""

    context: Callable[[], ssl.SSLContext]  # asked for each connection: certificates are renewed meanwhile
    identities: Identities
    proxy: HttpProxy


class Entries:
    """All O&M entries of a gateway."""

    def __init__(
        self,
        proxy: HttpProxy,
        identities: Identities,
        *,
        context: Callable[[], ssl.SSLContext] | None = None,
        connections_max: int = CONNECTIONS_MAX,
        each_max: int = EACH_MAX,
    ) -> None:
        """`context` gives the TLS entry's, asked for each connection: certificates are renewed meanwhile."""
        self._proxy = proxy
        self._identities = identities
        self._context = context
        self._connections_max = connections_max
        self._each_max = each_max
        self._strangers = Strangers(low=STRANGERS_LOW, high=STRANGERS_HIGH, each_max=STRANGERS_EACH)
        self._by: Counter[str] = Counter()  # connections open now, by network or user
        self._log = log.get("oam")
        self._farewells = 0
        self.connections = 0  # open now
        self.refused: Counter[str] = Counter()  # connections turned away before a request, by reason
        self._refusals = Refusals(self.refused, self._log)

    async def serve_tcp(self, stream: trio.SocketStream) -> None:
        await self._serve(stream, self._serve_plain, say_no=self._say_no)

    async def serve_tls(self, stream: trio.SocketStream) -> None:
        assert self._context is not None, "nothing listens for TLS without a context"
        await self.serve_tls_door(TLSDoor(self._context, self._identities, self._proxy), stream)

    async def serve_tls_door(self, door: TLSDoor, stream: trio.SocketStream) -> None:
        await self._serve(stream, partial(self._serve_tls, door))

    async def serve_named(self, splicer: NameSplicer, stream: trio.SocketStream) -> None:
        async def serve(stream: trio.SocketStream, asker: Asker, place: Place) -> None:
            await splicer.serve(stream, asker, greeted=lambda: self._strangers.leave(place))

        await self._serve(stream, serve)

    async def serve_unix(self, stream: trio.SocketStream) -> None:
        """Whoever may open the socket's file is here; the kernel says which user that is."""
        try:
            asker = self._identities.at_unix_socket(unix_peer(stream))
        except OSError:  # gone already
            stream.socket.close()
            return
        try:
            with self._counted(asker.identity):
                await self._proxy.serve(stream, asker)
        except RefusedError as error:
            self._refusals.turned_away(error.reason, asker.address, str(error))
            await self._say_no(stream, str(error))
        finally:
            stream.socket.close()

    async def _serve(
        self,
        stream: trio.SocketStream,
        serve: Callable[[trio.SocketStream, Asker, Place], Awaitable[None]],
        *,
        say_no: Callable[[trio.SocketStream, str], Awaitable[None]] | None = None,
    ) -> None:
        try:
            watch_peer(stream)
            address, host = peer_of(stream)
        except OSError:  # gone already
            stream.socket.close()
            return
        try:
            with self._counted(str(network_of_host(host))), self._strangers.place(host) as place:
                asker = self._identities.at_address(address, host)
                await serve(stream, asker, place)
        except RefusedError as error:
            self._refusals.turned_away(error.reason, address, str(error))
            if say_no is not None:
                await say_no(stream, str(error))
        except PeerError as error:
            self._refusals.turned_away(error.reason, address, str(error))
        finally:
            stream.socket.close()

    @contextmanager
    def _counted(self, whose: str) -> Iterator[None]:
        """Around a connection; RefusedError "too-many"."""
        have = self._by[whose]
        if have >= self._each_max:
            raise RefusedError("too-many", f"{have} connections of {whose} are open, as many as one may have")
        if self.connections >= self._connections_max:
            raise RefusedError(
                "too-many", f"{self.connections} connections are open, as many as there may be"
            )
        self.connections += 1
        self._by[whose] += 1
        try:
            yield
        finally:
            self.connections -= 1
            self._by[whose] -= 1
            if not self._by[whose]:
                del self._by[whose]

    async def _serve_plain(self, stream: trio.SocketStream, asker: Asker, place: Place) -> None:
        await self._proxy.serve(stream, asker, greeted=lambda: self._strangers.leave(place))

    async def _serve_tls(self, door: TLSDoor, stream: trio.SocketStream, asker: Asker, place: Place) -> None:
        secured = await server_handshake(stream, door.context(), timeout=HANDSHAKE_MAX)
        try:
            asker = door.identities.by_certificate(secured, asker)
        except BaseException:
            await trio.aclose_forcefully(secured)
            raise
        talking = HalfCloseableTLSStream(secured.socket)
        await door.proxy.serve(talking, asker, greeted=lambda: self._strangers.leave(place))

    async def _say_no(self, stream: trio.SocketStream, why: str) -> None:
        """One answer to whatever was going to be asked; reads on for a moment, lest a reset overtake it."""
        if self._farewells >= FAREWELLS_MAX:
            return
        self._farewells += 1
        try:
            with trio.move_on_after(FAREWELL_MAX):
                await stream.send_all(refusal_answer(Refusal("too-many", why), keep_alive=False))
                await stream.send_eof()
                while await stream.receive_some(FAREWELL_READ):
                    pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it has gone already
        finally:
            self._farewells -= 1
