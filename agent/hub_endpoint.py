"""Where the hub is: turns HOST:PORT of the map into an address, and tries the next one while nobody answers.

A device takes numeric endpoints only and follows a peer that roams. So the name is resolved here, once at
first, and again after the hub has been silent for longer than its keys live.
"""

from __future__ import annotations

import ipaddress
import socket

import trio

from raven.config import Address
from raven.errors import RavenError

RESOLVE_MAX = 15.0  # seconds; two servers that do not answer, asked twice each


class NoEndpoint(RavenError):
    """The hub cannot be dialled; the message is a sentence for the operator."""


class HubEndpoint:
    """The addresses behind one HOST:PORT, and which of them is tried."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.current = ""  # HOST:PORT with a numeric host; "" before the first resolution
        self.tried = 0  # of its addresses
        self.count = 1  # addresses, as of the last resolution

    async def advance(self) -> str:
        """Resolves the name (again) and takes the next of its addresses; NoEndpoint when there is none."""
        if not self.text:
            raise NoEndpoint("the gateway tells no address for its packet lane")
        try:
            host, port = Address.parse(self.text)
        except ValueError as error:
            raise NoEndpoint(
                f"the gateway tells {self.text!r} as address of its packet lane: {error}"
            ) from error
        found = [host] if _is_numeric(host) else await _resolve(host, port)
        self.current = str(Address(found[self.tried % len(found)], port))
        self.tried += 1
        self.count = len(found)
        return self.current


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _resolve(host: str, port: int) -> list[str]:
    """The addresses of `host`, best first."""
    try:
        with trio.fail_after(RESOLVE_MAX):
            found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except trio.TooSlowError as error:
        raise NoEndpoint(f"the gateway's name {host} is not resolved within {RESOLVE_MAX:g} s") from error
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise NoEndpoint(f"the gateway's name {host} cannot be resolved: {reason}") from error
    numeric = list(dict.fromkeys(str(address[0]) for *_, address in found))
    return [host for host in numeric if "%" not in host] or numeric
