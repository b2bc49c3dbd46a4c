"""Notices what happens to a link: its MTU, up or down, deleted.

A netlink socket (rtnetlink(7)) says *that* some link changed; what the state is then is asked anew, so that a
notice the kernel lost for lack of room does no harm.
"""

import errno
import fcntl
import socket
import struct
from typing import Final, NamedTuple

_RTMGRP_LINK: Final = 1
_SIOCGIFFLAGS: Final = 0x8913
_SIOCGIFMTU: Final = 0x8921
_IFF_UP: Final = 1
_IFREQ_FLAGS = struct.Struct("16sh22x")
_IFREQ_INT = struct.Struct("16si20x")


class LinkState(NamedTuple):
    up: bool
    mtu: int  # bytes of an inner packet


class LinkWatch:
    """Watches the link with one interface index; `fileno()` is readable after a change."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._notices = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._notices.setblocking(False)
        self._notices.bind((0, _RTMGRP_LINK))
        self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def fileno(self) -> int:
        return self._notices.fileno()

    def drain(self) -> None:
        """Forgets the notices that came so far."""
        while True:
            try:
                self._notices.recv(65536)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # some notices were lost, which is all the same here
                    raise

    def state(self) -> LinkState | None:
        """How the link is now; None when it was deleted."""
        try:
            name = socket.if_indextoname(self._index).encode()
            _, flags = _IFREQ_FLAGS.unpack(
                fcntl.ioctl(self._control, _SIOCGIFFLAGS, _IFREQ_FLAGS.pack(name, 0))
            )
            _, mtu = _IFREQ_INT.unpack(fcntl.ioctl(self._control, _SIOCGIFMTU, _IFREQ_INT.pack(name, 0)))
        except OSError:
            return None
        return LinkState(up=bool(flags & _IFF_UP), mtu=mtu)

    def close(self) -> None:
        self._notices.close()
        self._control.close()
