"""Gives up what a running device has no use for, so that a mistake in it costs less.

It stays whoever it was started as (root, to remove its socket file), but without root's powers:
capabilities(7).
"""

import ctypes
import logging
import os
import stat
import struct
from pathlib import Path
from typing import Final

log = logging.getLogger("raven.privileges")

# Kept: setting the firewall mark, buffer sizes; ports below 1024.
_CAP_NET_BIND_SERVICE, _CAP_NET_ADMIN = 10, 12
_KEPT: Final = 1 << _CAP_NET_BIND_SERVICE | 1 << _CAP_NET_ADMIN
_CAPABILITIES: Final = 64  # the kernel knows 41; more bounding-set bits are refused and skipped

_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
# capget(2), version 3:
#   header  u32 version, i32 pid
#   data    twice, the lower and upper 32 bits: u32 effective, u32 permitted, u32 inheritable
_HEADER = struct.Struct("=Ii")
_DATA = struct.Struct("=6I")
_VERSION_3: Final = 0x20080522


def can_read_without(path: Path) -> bool:
    """Whether this user may read `path` when the powers that `drop` takes are gone."""
    path = path.resolve()
    for place in (path, *path.parents):
        status = place.stat()
        own = status.st_uid == os.geteuid()
        wanted = stat.S_IROTH if place is path else stat.S_IXOTH
        if not status.st_mode & (wanted << 6 if own else wanted):
            return False
    return True


def drop() -> None:
    """Keeps two capabilities of this thread, for good; call before there are others. Refusals are logged."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> bool:
        if getattr(libc, name)(*arguments) == 0:
            return True
        log.info("%s refused: %s", name, os.strerror(ctypes.get_errno()))
        return False

    header = ctypes.create_string_buffer(_HEADER.pack(_VERSION_3, 0), _HEADER.size)
    data = ctypes.create_string_buffer(_DATA.size)
    if not call("capget", header, data):
        return
    effective, permitted, *_ = _DATA.unpack(data.raw)
    for number in range(_CAPABILITIES):
        # The bounding set first: this takes CAP_SETPCAP, which goes with the rest.
        if not _KEPT >> number & 1 and libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0):
            break
    data.raw = _DATA.pack(effective & _KEPT, permitted & _KEPT, 0, 0, 0, 0)
    call("capset", header, data)
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
