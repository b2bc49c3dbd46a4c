"""Sends what the device has to say; what the sockets do not take waits here, a bounded number of runs.

Above is the engine, which stops reading packets while anything waits: then the TUN device's queue fills, and
the senders behind it notice.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from raven.dataplane.udp import Udp
from raven.wg.device import Device, Transmit

# What one wake-up can leave behind: its eight superpackets, and as much again from timers and received
# bursts.
_WAITING_MAX: Final = 32


class Sender:
    """The way from one device into its UDP sockets, while it has some."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, device: Device, may_read: Callable[[bool], None]
    ) -> None:
        """`may_read(False)` is called when something begins to wait, `may_read(True)` when nothing does."""
        self._loop = loop
        self._device = device
        self._may_read = may_read
        self.udp: Udp | None = None
        # What the sockets did not take, copied.
        self._waiting: deque[Transmit] = deque()

    @property
    def blocked(self) -> bool:
        """Whether anything waits for a socket."""
        return bool(self._waiting)

    def send(self) -> None:
        """Sends what the device has ready."""
        for transmit in self._device.transmits():
            self.send_one(transmit)

    def send_one(self, transmit: Transmit) -> None:
        """Sends that alone."""
        if self.udp is None:
            self._device.dropped("udp-down")
        elif self._waiting:
            self._wait(self.udp, transmit)
        else:
            try:
                reason = self.udp.send(transmit)
            except BlockingIOError:
                self._wait(self.udp, transmit)
            else:
                if reason:
                    self._device.dropped(reason)

    def close(self) -> None:
        """Closes the sockets; what waited for them is lost."""
        udp, self.udp = self.udp, None
        if udp is None:
            return
        if self._waiting:
            self._waiting.clear()
            self._stop_waiting(udp)
        for one in udp.sockets:
            self._loop.remove_reader(one.fileno())
        udp.close()

    def _wait(self, udp: Udp, transmit: Transmit) -> None:
        if len(self._waiting) >= _WAITING_MAX:
            self._device.dropped("udp-full")
            return
        if not self._waiting:
            self._may_read(False)
            for one in udp.sockets:
                self._loop.add_writer(one.fileno(), self._writable)
        self._waiting.append(transmit._replace(data=bytes(transmit.data)))

    def _writable(self) -> None:
        assert self.udp is not None
        while self._waiting:
            try:
                reason = self.udp.send(self._waiting[0])
            except BlockingIOError:
                return
            self._waiting.popleft()
            if reason:
                self._device.dropped(reason)
        self._stop_waiting(self.udp)

    def _stop_waiting(self, udp: Udp) -> None:
        for one in udp.sockets:
            self._loop.remove_writer(one.fileno())
        self._may_read(True)
