"""The kernel's own WireGuard devices, driven by netlink where `raven-wg` is driven by its socket.

`raven.wg.netlink` knows the messages; here are the sockets, and the link that is made and removed. Calls
block for some microseconds, milliseconds with thousands of peers; `KernelDevice` runs them in a thread.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Mapping
from typing import TypeVar

import trio

from raven.keys import PublicKey
from raven.net.device import DeviceError, NoDevice, forget_keys
from raven.wg import netlink
from raven.wg.configuration import DeviceChange, DeviceState, Status, UapiError

T = TypeVar("T")

_GENERIC = 16  # NETLINK_GENERIC
_ANSWER_MAX = 1.0  # seconds; the kernel answers at once
_RECEIVE = 1 << 20  # bytes of one receive; a dump comes in pieces of 32 KiB at most
_KIND = "wireguard"
_REFUSED = {
    errno.EPERM: "this process may not: it lacks CAP_NET_ADMIN",
    errno.EADDRINUSE: "the UDP port is in use",
}

Ask = Callable[[bytes], list[netlink.Reply]]


class KernelDevice:
    """The device of the interface `name`, in the network namespace of the calling thread."""

    def __init__(self, name: str, ask: Ask | None = None) -> None:
        """`ask` sends one request and returns the whole answer; without it, this host's kernel is asked."""
        self._name = name
        self._ask = ask or ask_kernel
        self._threads = trio.CapacityLimiter(1)

    @property
    def name(self) -> str:
        return self._name

    async def state(self) -> DeviceState:
        return await self._in_thread(self.read)

    async def configure(self, change: DeviceChange) -> None:
        """Applies `change`, some hundred peers at a time; UapiError with the kernel's errno."""
        await self._in_thread(lambda: self.write(change))

    async def counters(self) -> Mapping[str, int]:
        return {}  # the kernel counts drops for the whole link only

    async def status(self) -> Status | None:
        return None

    async def rekey(self, key: PublicKey) -> None:
        await self.configure(forget_keys(await self.state(), key))

    def read(self) -> DeviceState:
        """As `state`, for who need not wait."""
        family = self._family()
        try:
            return netlink.parse_device_untrusted(
                family, self._ask(netlink.ask_device(family, self._name, 1))
            )
        except UapiError as error:
            if error.errno in (errno.ENODEV, errno.EOPNOTSUPP):
                raise NoDevice(f"there is no WireGuard interface {self._name} in the kernel") from error
            raise UapiError(error.errno, f"{self._name}: {_words(error.errno)}") from error

    def write(self, change: DeviceChange) -> None:
        """As `configure`, for who need not wait."""
        try:
            for message in netlink.set_device(self._family(), self._name, change, 1):
                self._ask(message)
        except UapiError as error:
            if error.errno == errno.ENODEV:
                raise NoDevice(f"there is no WireGuard interface {self._name} in the kernel") from error
            raise UapiError(error.errno, f"{self._name}: {_words(error.errno)}") from error

    def _family(self) -> int:
        try:
            return netlink.parse_family_untrusted(self._ask(netlink.ask_family(1)))
        except UapiError as error:
            if error.errno == errno.ENOENT:
                raise NoDevice("the kernel has no WireGuard, or its module is not loaded") from error
            raise

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(call, limiter=self._threads)


def ask_kernel(request: bytes) -> list[netlink.Reply]:
    """Sends one request to this host's kernel and returns the whole answer; UapiError, DeviceError."""
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _GENERIC) as asker:
            asker.settimeout(_ANSWER_MAX)
            asker.send(request)
            replies: list[netlink.Reply] = []
            while not replies or not netlink.is_last(replies[-1]):
                replies += netlink.read_untrusted(asker.recv(_RECEIVE))
            return replies
    except OSError as error:
        raise DeviceError(
            f"the kernel cannot be asked for its WireGuard: {error.strerror or error}"
        ) from error


def is_kernel_device(name: str) -> bool:
    """Whether the interface is one of the kernel's own WireGuard devices."""
    try:
        KernelDevice(name).read()
    except (DeviceError, UapiError):
        return False
    return True


def make_link(name: str) -> str:
    """Makes the interface, whose module the kernel then loads; "" or a sentence why it does not."""
    from raven.net.pyroute import IPRoute, NetlinkError  # 5 MB, and only where there are packets

    try:
        with IPRoute() as ipr:
            ipr.link("add", ifname=name, kind=_KIND)
    except NetlinkError as error:
        if error.code == errno.EOPNOTSUPP:
            return "the kernel has no WireGuard"
        return f"the kernel makes no WireGuard interface {name}: {_words(error.code)}"
    except OSError as error:
        return f"no netlink socket: {error.strerror or error}"
    return ""


def remove_link(index: int) -> None:
    """Removes the interface with that index, if it is still there."""
    from raven.net.pyroute import IPRoute, NetlinkError

    try:
        with IPRoute() as ipr:
            ipr.link("del", index=index)
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise DeviceError(f"the interface cannot be removed: {_words(error.code)}") from error


def _words(number: int) -> str:
    return _REFUSED.get(number) or os.strerror(number)
