"""UDP towards a gateway, as far as it can be told without a key, and the path's MTU.

WireGuard answers nobody it does not know, so silence says nothing. What can be heard are refusals: of this
machine, of routers on the way, of a gateway where nobody listens. A datagram as large as the path is thought
to take, which may not be fragmented, brings out routers that take less.
"""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from typing import Final

import trio

from raven.diagnosis.contact import known_path_mtu

WG_PORT: Final = 4500  # --wg-listen of the gateway, unless it says otherwise
PATIENCE: Final = 1.0  # seconds for a router's or the gateway's word; a satellite takes 0.7
ROUNDS_MAX: Final = 6  # sizes tried; each router on the way may lower it once
_IP_MTU_DISCOVER: Final = 10  # linux/in.h
_IPV6_MTU_DISCOVER: Final = 23  # linux/in6.h
_PMTUDISC_DO: Final = 2  # never fragment, learn from ICMP; the same for both families
_HEADERS: Final = {4: 20 + 8, 6: 40 + 8}  # bytes of IP and UDP
_MTU_MIN: Final = 1280  # bytes; of IPv6, RFC 8200 section 5, for a kernel that will not say
_SIZE_MAX: Final = 9000  # bytes; loopback claims 65536, and nothing is learned from more


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What came of datagrams to one address."""

    address: str  # numeric, without port
    port: int
    sent: int = 0  # datagrams that left this machine
    refused: bool = False  # ICMP: nobody listens there, or a firewall says so
    answered: bool = False  # whoever it is, it is no WireGuard
    problem: str = ""  # why nothing could be sent
    mtu: int | None = None  # bytes of the largest packet that nobody objected to

    @property
    def family(self) -> int:
        return 6 if ":" in self.address else 4


async def probe(address: str, port: int) -> Heard:
    """Sends a few datagrams that mean nothing to WireGuard, and listens for objections."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sent, mtu = 0, None
    with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            _never_fragment(sock)
            await sock.connect((address, port))
            for _ in range(ROUNDS_MAX):
                mtu = _known(sock)
                size = mtu - _HEADERS[6 if family == socket.AF_INET6 else 4]
                try:
                    await sock.send(bytes(size))  # type 0: no message of WireGuard's
                    sent += 1
                    with trio.move_on_after(PATIENCE):
                        await sock.recv(2048)
                        return Heard(address=address, port=port, sent=sent, answered=True, mtu=mtu)
                except OSError as error:
                    if error.errno != errno.EMSGSIZE:
                        raise
                if _known(sock) == mtu:
                    break
            return Heard(address=address, port=port, sent=sent, mtu=_known(sock))
        except OSError as error:
            if error.errno == errno.ECONNREFUSED:
                return Heard(address=address, port=port, sent=sent, refused=True, mtu=mtu)
            problem = os.strerror(error.errno) if error.errno else str(error)
            return Heard(address=address, port=port, sent=sent, problem=problem, mtu=mtu)


def _known(sock: trio.socket.SocketType) -> int:
    return min(known_path_mtu(sock) or _MTU_MIN, _SIZE_MAX)


def _never_fragment(sock: trio.socket.SocketType) -> None:
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
