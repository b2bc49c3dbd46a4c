"""Connects the streams that a gateway opens to targets at this node, as far as its owner allows.

The uplink hands over each stream that arrives; `raven.oam.policy` judges, `splice` carries. Whatever a
gateway asks for and whatever a target does, one stream never disturbs another.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections import Counter
from dataclasses import dataclass
from typing import Final

import trio

from raven import log
from raven.control.messages import Opened, OpenRequest, decode_open_untrusted, encode
from raven.errors import PeerError, RefusedError
from raven.mux.codes import RefusalCode
from raven.net.splice import splice
from raven.net.tcp import watch_peer
from raven.net.tunnel import IncomingStream
from raven.oam.asker import Asker, IPAddress, asker_told
from raven.oam.policy import Allow

DIAL_MAX: Final = 10.0  # seconds for looking up and connecting; the gateway waits 15
ATTEMPT_MAX: Final = 4.0  # seconds for one address while others are left
LOOKUP_MAX: Final = 5.0  # seconds; resolvers give up after as much
ADDRESSES_MAX: Final = 8  # addresses of one name that are tried; each was judged

SocketAddress = tuple[socket.AddressFamily, tuple[object, ...]]

# Our own fault, and for the moment only.
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_CODES: Final = {
    "not-allowed": RefusalCode.FORBIDDEN,
    "unreachable": RefusalCode.UNREACHABLE,
    "timeout": RefusalCode.TIMEOUT,
    "busy": RefusalCode.BUSY,
    "bad-open": RefusalCode.BAD_REQUEST,
}


@dataclass(eq=False, slots=True)
class _Live:
    """A stream that reached its target."""

    request: OpenRequest
    asker: Asker
    address: IPAddress  # of the target
    scope: trio.CancelScope
    cut: str = ""  # why it may go on no longer


class Dialer:
    """The targets of one agent."""

    def __init__(self, allow: Allow, *, node_address: str = "127.0.0.1") -> None:
        self._allow = allow
        self._node_address = node_address
        self._live: set[_Live] = set()
        self._log = log.get("dialer")
        self.refused: Counter[str] = Counter()  # streams turned away, by reason
        self.served = 0  # streams that reached their target and ended

    @property
    def allow(self) -> Allow:
        return self._allow

    def apply(self, allow: Allow, *, node_address: str) -> int:
        """From now on this is the list; streams that it does not permit end. How many did."""
        self._allow, self._node_address = allow, node_address
        for live in self._live:
            self._judge_again(live)
        return sum(bool(live.cut) for live in self._live)

    def _judge_again(self, live: _Live) -> None:
        host, port = live.request.host, live.request.port
        try:
            if host:
                self._allow.judge_addresses(host, port, [live.address], live.asker)
            else:
                self._allow.judge_host("", port, live.asker)
        except RefusedError as error:
            live.cut = str(error)
            live.scope.cancel()

    async def serve(self, incoming: IncomingStream) -> None:
        """One stream, from its OPEN to its end."""
        try:
            await self._serve(incoming)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.refused["opener-left"] += 1
        except Exception:
            # A bug met by one stream must not take the tunnel with it.
            self.refused["fault"] += 1
            self._log.exception("a stream ended by a fault of the agent")

    async def _serve(self, incoming: IncomingStream) -> None:
        began = trio.current_time()
        try:
            request = decode_open_untrusted(incoming.header)
        except PeerError as error:
            await self._refuse(incoming, None, error.reason, str(error))
            return
        asker = asker_told(request.asker, request.names)
        allow = self._allow
        try:
            target = await self._dial(request, asker)
        except RefusedError as error:
            await self._refuse(incoming, request, error.reason, str(error))
            return
        opened = Opened(seconds=trio.current_time() - began)
        try:
            stream = incoming.accept_now(encode(opened))
        except BaseException:
            await trio.aclose_forcefully(target)
            raise
        live = _Live(request, asker, _address_of(target), trio.CancelScope())
        self._live.add(live)
        if self._allow is not allow:  # it has changed while the target was dialled
            self._judge_again(live)
        told = {"request": request.request, "asker": str(asker), "target": _shown(request)}
        try:
            with live.scope:
                result = await splice(stream, target)
        finally:
            self._live.discard(live)
        if live.cut:
            self.refused["withdrawn"] += 1
            self._log.warning("stream cut", **told, why=live.cut)
            return
        self.served += 1
        self._log.info(
            "stream",
            **told,
            sent=result.bytes_a_to_b,
            received=result.bytes_b_to_a,
            seconds=round(trio.current_time() - began, 3),
            **({"aborted": result.aborted} if result.aborted else {}),
        )

    async def _refuse(
        self, incoming: IncomingStream, request: OpenRequest | None, reason: str, message: str
    ) -> None:
        self.refused[reason] += 1
        self._log.info(
            "stream refused",
            reason=reason,
            why=message,
            **(
                {"request": request.request, "asker": str(asker_told(request.asker, request.names))}
                if request
                else {}
            ),
        )
        await incoming.refuse(_CODES[reason], message)

    async def _dial(self, request: OpenRequest, asker: Asker) -> trio.SocketStream:
        """A connection to the target; RefusedError with a sentence for whoever asked."""
        self._allow.judge_host(request.host, request.port, asker)
        shown = _shown(request)
        with trio.move_on_after(DIAL_MAX):
            try:
                if request.host:
                    return await _connect_first(await self._judged(request, asker))
                return await self._dial_node(request.port)
            except OSError as error:
                # trio's own text names the address, and what a name means behind the node stays there.
                why = os.strerror(error.errno) if error.errno is not None else "no connection"
                if error.errno in _EXHAUSTED:
                    raise RefusedError(
                        "busy", f"the agent has no room for another connection: {why}"
                    ) from error
                raise RefusedError(
                    "unreachable",
                    f"cannot connect to {shown}: {why}; is the service up there?",
                ) from error
            except trio.TooSlowError:
                pass
        raise RefusedError("timeout", f"no answer from {shown}; is it up, and does a firewall drop this?")

    async def _dial_node(self, port: int) -> trio.SocketStream:
        """The node itself: loopback first, where most exporters listen, then the address it was given."""
        try:
            return await _connect_first(
                [(socket.AF_INET, ("127.0.0.1", port)), (socket.AF_INET6, ("::1", port))]
            )
        except OSError as loopback:
            if self._node_address in ("127.0.0.1", "::1", "localhost"):
                raise
            try:
                return await _connect_first(await _look_up(self._node_address, port))
            except (OSError, RefusedError):
                raise loopback from None

    async def _judged(self, request: OpenRequest, asker: Asker) -> list[SocketAddress]:
        """The addresses to try, every one of them allowed."""
        found = (await _look_up(request.host, request.port))[:ADDRESSES_MAX]
        # A zone is how this machine tells its links apart; rules know addresses only.
        plain = [ipaddress.ip_address(str(address[0]).partition("%")[0]) for _, address in found]
        self._allow.judge_addresses(request.host, request.port, plain, asker)
        return found


async def _look_up(host: str, port: int) -> list[SocketAddress]:
    try:
        with trio.fail_after(LOOKUP_MAX):
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:  # ValueError: a label that IDNA cannot spell, a NUL
        why = error.strerror if isinstance(error, OSError) else "not a host name"
        raise RefusedError("unreachable", f"cannot look up {host} from the node: {why}") from error
    except trio.TooSlowError as error:
        raise RefusedError("timeout", f"cannot look up {host} from the node: no answer of its DNS") from error
    return [(family, tuple(address)) for family, _, _, _, address in found]


async def _connect_first(addresses: list[SocketAddress]) -> trio.SocketStream:
    """A connection to the first address that takes one; otherwise OSError of the first, or TooSlowError."""
    problem: OSError | None = None
    for left, address in zip(range(len(addresses) - 1, -1, -1), addresses, strict=True):
        with trio.move_on_after(ATTEMPT_MAX if left else DIAL_MAX):
            try:
                return await _connect(address)
            except OSError as error:
                problem = problem or error
    if problem is None:
        raise trio.TooSlowError
    raise problem


async def _connect(to: SocketAddress) -> trio.SocketStream:
    family, address = to
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await sock.connect(address)
        if sock.getsockname() == sock.getpeername():
            # TCP's simultaneous open: a port of the ephemeral range without a listener can reach itself.
            raise OSError(errno.ECONNREFUSED, "Connection refused")
        stream = trio.SocketStream(sock)
        watch_peer(stream)
    except BaseException:
        sock.close()
        raise
    return stream


def _address_of(target: trio.SocketStream) -> IPAddress:
    try:
        return ipaddress.ip_address(str(target.socket.getpeername()[0]).partition("%")[0])
    except OSError:  # gone already
        return ipaddress.IPv4Address(0)


def _shown(request: OpenRequest) -> str:
    host = f"[{request.host}]" if ":" in request.host else request.host or "node"
    return f"{host}:{request.port}"
