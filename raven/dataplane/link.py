"""Notices what happens to a link: its MTU, up or down, deleted.

A notice says *that* some link changed; what the state is then is asked anew.
"""

import fcntl
import socket
import struct
from typing import Final, NamedTuple

from raven.net.rtnetlink import LINKS, Notices

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
        self._notices = Notices(LINKS)
        self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def fileno(self) -> int:
        return self._notices.fileno()

    def drain(self) -> None:
        """Forgets the notices that came so far."""
        self._notices.drain()

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
