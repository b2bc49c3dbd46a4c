"""Notices that this machine's addresses, links or routes change, and says which address leads where now.

What the kernel sends is not even read, because whoever is told looks for itself.
"""

import socket
from typing import Final

import trio

from raven.net.rtnetlink import (
    IPV4_ADDRESSES,
    IPV4_ROUTES,
    IPV6_ADDRESSES,
    IPV6_ROUTES,
    LINKS,
    Notices,
)

_GROUPS: Final = LINKS | IPV4_ADDRESSES | IPV4_ROUTES | IPV6_ADDRESSES | IPV6_ROUTES
_CALM: Final = 0.1  # seconds; one cable that is plugged in is a dozen notifications
_CALM_MAX: Final = 1.0  # seconds; something may flap without end


class PathChanges:
    """A subscription, until it is closed. OSError where the kernel gives none."""

    def __init__(self) -> None:
        self._notices = Notices(_GROUPS)

    async def wait(self) -> None:
        """Until something has changed since the last call, and the worst of it is over."""
        await trio.lowlevel.wait_readable(self._notices)
        with trio.move_on_after(_CALM_MAX):
            while self._notices.drain():  # noqa: ASYNC110 - it is the silence that is waited for
                await trio.sleep(_CALM)

    def close(self) -> None:
        trio.lowlevel.notify_closing(self._notices)
        self._notices.close()


def source_address(remote: str, port: int) -> str | None:
    """The local address from which a packet to the numeric `remote` would leave now; None without a route."""
    family = socket.AF_INET6 if ":" in remote else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((remote, port))  # sends nothing
        except OSError:
            return None
        return str(probe.getsockname()[0])
