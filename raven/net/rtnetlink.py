"""A subscription to what the kernel tells of links, addresses and routes: rtnetlink(7), without privileges.

It says *that* something has changed; what is so then is asked anew by whoever is told. So a notice that the
kernel lost for lack of room does no harm. Nothing here waits: `raven-wg` has it in a loop of its own.
"""

import errno
import socket
from typing import Final

# Groups of linux/rtnetlink.h.
LINKS: Final = 0x1
IPV4_ADDRESSES: Final = 0x10
IPV4_ROUTES: Final = 0x40
IPV6_ADDRESSES: Final = 0x100
IPV6_ROUTES: Final = 0x400
_READ: Final = 64 * 1024  # bytes; one notice has some hundred


class Notices:
    """Of some groups; `fileno()` is readable after a change. OSError where the kernel gives none."""

    def __init__(self, groups: int) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        try:
            self._socket.setblocking(False)
            self._socket.bind((0, groups))
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> bool:
        """Forgets the notices that came so far; whether there was any."""
        found = False
        while True:
            try:
                self._socket.recv(_READ)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # more has changed than fitted, which is all the same here
                    raise
            found = True

    def close(self) -> None:
        self._socket.close()
