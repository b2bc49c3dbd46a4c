"""A WireGuard device without I/O: feed it datagrams, packets and the time, then drain what it wants done.

Above stands a driver (`raven.dataplane.engine`, or a test's harness in virtual time); below stand the peers.
Nothing here waits, logs or reads a clock. What the network sends never raises: it is counted in `counters`
by reason and dropped.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from raven.wg.configuration import DeviceChange, DeviceState
from raven.wg.endpoint import Endpoint
from raven.wg.events import Event


class Transmit(NamedTuple):
    """Datagrams for one endpoint: `data` cut every `segment_size` bytes, the last one may be shorter.

    At most 64 segments and 65,507 bytes, so that one UDP_SEGMENT call can take it. `data` lives in the
    device's scratch: valid until the next call of send, receive or handle_timeout after the drain.
    """

    endpoint: Endpoint
    segment_size: int  # bytes
    data: memoryview | bytes
    tos: int = 0  # IP TOS / traffic class of the outer header: DSCP and ECN


class Device:
    """One WireGuard interface: its key, its peers, their allowed IPs.

    Calling rule: after receive, send, configure or handle_timeout drain `transmits()`, `packets()` and
    `events()`. Several calls may precede one drain; what was drained is invalid at the next call.
    """

    def __init__(
        self,
        *,
        tai64n: Callable[[], bytes],
        random: Callable[[int], bytes],
        wall: Callable[[], float],
        mtu: int = 1420,
    ) -> None:
        """`tai64n()`: 12 bytes (`messages.tai64n`); `random(n)`: n secret bytes; `wall()`: Unix seconds."""
        self.mtu = mtu  # bytes of an inner packet; settable, padding never exceeds it
        self.listen_port = 0  # what the driver bound; it sets this after binding port 0
        self.fwmark = 0
        self.counters: dict[str, int] = {}  # drops by reason

    def configure(self, change: DeviceChange, now: float) -> None:
        """Applies all of `change`, or nothing (UapiError). The driver rebinds if port or mark differ then."""

    def state(self) -> DeviceState:
        """What `get=1` answers."""
        raise NotImplementedError

    def receive(
        self, datagrams: Sequence[memoryview], endpoint: Endpoint, now: float, *, ecn: int = 0
    ) -> None:
        """One burst from one source; borrowed until the call returns. `ecn`: the outer header's two bits."""

    def send(self, packets: Sequence[memoryview], now: float) -> None:
        """Plaintext IP packets, borrowed until the call returns. Equal ones in a row leave as one Transmit."""

    def handle_timeout(self, now: float) -> None:
        """Runs every timer that is due at `now`."""

    def next_timeout(self) -> float | None:
        """When to call handle_timeout, in the clock of `now`; it may be early, never late. None: no timer."""
        raise NotImplementedError

    def transmits(self) -> list[Transmit]:
        """Drains what to send, in order."""
        raise NotImplementedError

    def packets(self) -> list[memoryview]:
        """Drains decrypted inner packets, writable, valid until the next receive."""
        raise NotImplementedError

    def events(self) -> list[Event]:
        """Drains what happened."""
        raise NotImplementedError
