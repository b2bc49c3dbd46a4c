"""A TUN device with a virtio header on every packet: reads bring superpackets, writes take them.

Linux's include/uapi/linux/if_tun.h. The engine stands above and knows what is in the packets; here are the
file descriptor and the kernel's refusals.
"""

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Collection, Sequence
from typing import Final

from raven.dataplane.offloads import TUN_CHECKSUM, TUN_TCP, TUN_UDP
from raven.errors import RavenError
from raven.ip.header import VIRTIO_LEN

# The longest superpacket and its virtio header.
READ_MAX: Final = VIRTIO_LEN + 65535

_CLONE_DEVICE: Final = "/dev/net/tun"
_NAME_MAX: Final = 15  # IFNAMSIZ less the zero

_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_SIOCSIFMTU: Final = 0x8922
_IFF_TUN: Final = 0x0001
_IFF_NO_PI: Final = 0x1000
_IFF_VNET_HDR: Final = 0x4000
_F_CSUM, _F_TSO4, _F_TSO6, _F_TSO_ECN, _F_USO4, _F_USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
# What the kernel may leave undone in what we read, most wanted first.
_OFFLOADS: Final = (
    _F_CSUM | _F_TSO4 | _F_TSO6 | _F_TSO_ECN | _F_USO4 | _F_USO6,  # USO since 6.2
    _F_CSUM | _F_TSO4 | _F_TSO6 | _F_TSO_ECN,
    _F_CSUM,
    0,
)
# Superpackets come with open checksums, or not at all.
_FLAGS: Final = {
    TUN_CHECKSUM: _OFFLOADS[0],
    TUN_TCP: _F_TSO4 | _F_TSO6 | _F_TSO_ECN,
    TUN_UDP: _F_USO4 | _F_USO6,
}
_IFREQ_FLAGS = struct.Struct("16sH22x")
_IFREQ_INT = struct.Struct("16si20x")


class TunError(RavenError):
    """The device cannot be made or used; the message is for the user."""


class LinkGone(TunError):
    """Somebody deleted the link."""


class Tun:
    """One open TUN device. `segments_udp`: it gives and takes superpackets of UDP too."""

    def __init__(self, name: str, *, mtu: int) -> None:
        """Makes the link `name`, or attaches to a TUN link of that name, and sets its MTU; or TunError."""
        check_name(name)
        self.name = name
        self._fd = _open_clone_device(name)
        try:
            _set_interface(self._fd, name)
            os.set_blocking(self._fd, False)
            self._offloads = _set_offloads(self._fd)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                fcntl.ioctl(control, _SIOCSIFMTU, _IFREQ_INT.pack(name.encode(), mtu))
            self.index = socket.if_nametoindex(name)
        except OSError as error:
            os.close(self._fd)
            raise TunError(f"{name}: {error.strerror}") from error
        except TunError:
            os.close(self._fd)
            raise

    def refused_offloads(self) -> dict[str, str]:
        """What the kernel does not do for this device, with the reason."""
        wanted = {TUN_CHECKSUM: _F_CSUM, TUN_TCP: _F_TSO4, TUN_UDP: _F_USO4}
        why = {TUN_UDP: "the kernel has no USO for TUN devices (Linux 6.2 has)"}
        return {
            name: why.get(name, "the kernel refuses it for TUN devices")
            for name, flag in wanted.items()
            if not self._offloads & flag
        }

    def keep_off(self, names: Collection[str]) -> None:
        """The kernel does itself from now on, in what we read, what these offloads would leave to us."""
        flags = self._offloads
        for name in names:
            flags &= ~_FLAGS[name]
        if flags != self._offloads:
            fcntl.ioctl(self._fd, _TUNSETOFFLOAD, flags)
            self._offloads = flags

    def stop_superpackets(self) -> None:
        """The kernel cuts superpackets itself from now on, and finishes checksums."""
        fcntl.ioctl(self._fd, _TUNSETOFFLOAD, 0)
        self._offloads = 0

    @property
    def segments_udp(self) -> bool:
        return bool(self._offloads & _F_USO4)

    @property
    def segments_tcp(self) -> bool:
        return bool(self._offloads & _F_TSO4)

    def fileno(self) -> int:
        return self._fd

    def read_into(self, buffer: memoryview) -> int:
        """Reads one packet behind its virtio header; its size with that, 0 when there is none now."""
        try:
            return os.readv(self._fd, (buffer,))
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno in (errno.EBADFD, errno.ENXIO):
                raise LinkGone(f"{self.name}: the link was deleted") from error
            raise TunError(f"{self.name}: {error.strerror}") from error

    def write(self, pieces: Sequence[bytes | memoryview]) -> str:
        """Writes a virtio header and a packet; "" or the reason, to be counted, why the kernel dropped it."""
        try:
            os.writev(self._fd, pieces)
        except OSError as error:
            if error.errno == errno.EIO:
                return "tun-link-down"
            if error.errno == errno.EINVAL:
                return "tun-refused"  # not an IP packet, or an offload it does not know
            if error.errno in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM):
                return "tun-full"
            if error.errno in (errno.EBADFD, errno.ENXIO):
                raise LinkGone(f"{self.name}: the link was deleted") from error
            return "tun-error"
        return ""

    def close(self) -> None:
        """Removes the link, unless it was made persistent by somebody else."""
        os.close(self._fd)


def check_name(name: str) -> None:
    """TunError unless `name` can name an interface (and is no pattern: the kernel would fill in `%d`)."""
    if not 0 < len(name.encode()) <= _NAME_MAX:
        raise TunError(f"{name!r} is no interface name: expected 1 to {_NAME_MAX} bytes")
    if name in (".", "..") or any(letter in "/:%" or letter.isspace() for letter in name):
        raise TunError(f"{name!r} is no interface name: no slash, colon, percent sign or blank in it")


def _open_clone_device(name: str) -> int:
    try:
        return os.open(_CLONE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise TunError(f"{name}: {_CLONE_DEVICE} does not exist; load the kernel module tun") from error
    except OSError as error:
        raise TunError(f"{name}: {_CLONE_DEVICE}: {error.strerror}") from error


def _set_interface(fd: int, name: str) -> None:
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ_FLAGS.pack(name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR))
    except OSError as error:
        reason = {
            errno.EPERM: "needs root or CAP_NET_ADMIN",
            errno.EBUSY: "another process has it",
            errno.EINVAL: "exists and is no TUN link",
        }.get(error.errno or 0, error.strerror)
        raise TunError(f"{name}: {reason}") from error


def _set_offloads(fd: int) -> int:
    for offloads in _OFFLOADS:
        try:
            fcntl.ioctl(fd, _TUNSETOFFLOAD, offloads)
        except OSError as error:
            if error.errno != errno.EINVAL or offloads == 0:
                raise
        else:
            return offloads
    raise AssertionError("offloads of 0 were refused")
