"""Notices that this machine's addresses, links or routes change, and says which address leads where now.

A plain rtnetlink subscription, which needs no privilege and no library: what the kernel sends is not even
read, because whoever is told looks for itself.
"""

import socket
from typing import Final

import trio

# Groups of linux/rtnetlink.h: what may change by which way a packet leaves.
_RTMGRP_LINK: Final = 0x1
_RTMGRP_IPV4_IFADDR: Final = 0x10
_RTMGRP_IPV4_ROUTE: Final = 0x40
_RTMGRP_IPV6_IFADDR: Final = 0x100
_RTMGRP_IPV6_ROUTE: Final = 0x400
_GROUPS: Final = (
    _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV4_ROUTE | _RTMGRP_IPV6_IFADDR | _RTMGRP_IPV6_ROUTE
)
_READ: Final = 64 * 1024  # bytes; one notification has some hundred
_CALM: Final = 0.1  # seconds; one cable that is plugged in is a dozen notifications
_CALM_MAX: Final = 1.0  # seconds; something may flap without end


class PathChanges:
    """A subscription, until it is closed. OSError where the kernel gives none."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            self._socket.setblocking(False)
            self._socket.bind((0, _GROUPS))
        except BaseException:
            self._socket.close()
            raise

    async def wait(self) -> None:
        """Until something has changed since the last call, and the worst of it is over."""
        await trio.lowlevel.wait_readable(self._socket)
        with trio.move_on_after(_CALM_MAX):
            while self._drain():  # noqa: ASYNC110 - it is the silence that is waited for
                await trio.sleep(_CALM)

    def close(self) -> None:
        trio.lowlevel.notify_closing(self._socket)
        self._socket.close()

    def _drain(self) -> bool:
        """Whether anything was there."""
        found = False
        while True:
            try:
                self._socket.recv(_READ)
            except BlockingIOError:
                return found
            except OSError:  # ENOBUFS: more has changed than fitted
                pass
            found = True


def source_address(remote: str, port: int) -> str | None:
    """The local address from which a packet to the numeric `remote` would leave now; None without a route."""
    family = socket.AF_INET6 if ":" in remote else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((remote, port))  # sends nothing
        except OSError:
            return None
        return str(probe.getsockname()[0])
