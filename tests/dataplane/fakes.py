"""A device that encrypts nothing, to test the engine alone: 16 bytes before each packet, 16 behind."""

from collections.abc import Sequence

from raven.wg.configuration import DeviceChange, DeviceState
from raven.wg.device import Device, Transmit
from raven.wg.endpoint import Endpoint
from raven.wg.events import Event
from raven.wg.peers import Prepared

OVERHEAD = 16
RUN_MAX = 45  # packets of 1420 bytes that one UDP_SEGMENT call takes


class ClearDevice(Device):
    """Sends every packet to `peer`, or to whoever was heard last."""

    def __init__(self, peer: Endpoint | None = None) -> None:
        super().__init__(tai64n=lambda: bytes(12), random=bytes, wall=lambda: 0.0)
        self.peer = peer
        self.changes: list[DeviceChange] = []
        self.bursts: list[int] = []  # datagrams of each receive
        self.runs: list[int] = []  # packets of each run that was sent
        self.lone: list[int] = []  # bytes of each packet that took the short way
        self._sent: list[Transmit] = []
        self._received: list[memoryview] = []

    def apply(self, change: DeviceChange, prepared: Prepared, now: float) -> None:
        self.changes.append(change)
        if change.listen_port is not None:
            self.listen_port = change.listen_port
        if change.fwmark is not None:
            self.fwmark = change.fwmark

    def state(self) -> DeviceState:
        return DeviceState(listen_port=self.listen_port, fwmark=self.fwmark, counters=self.counters)

    def receive(
        self, datagrams: Sequence[memoryview], endpoint: Endpoint, now: float, *, ecn: int = 0
    ) -> None:
        self.peer = endpoint
        self.bursts.append(len(datagrams))
        self._received = [datagram[OVERHEAD:-OVERHEAD] for datagram in datagrams]

    def send(self, packets: Sequence[memoryview], now: float) -> None:
        if self.peer is None:
            return
        while len(packets) > RUN_MAX:
            self.send(packets[:RUN_MAX], now)
            packets = packets[RUN_MAX:]
        self.runs.append(len(packets))
        sealed = b"".join([part for packet in packets for part in (bytes(OVERHEAD), packet, bytes(OVERHEAD))])
        size = len(packets[0]) + 2 * OVERHEAD
        if all(len(packet) == len(packets[0]) for packet in packets[:-1]) and len(packets[-1]) <= len(
            packets[0]
        ):
            self._sent.append(Transmit(self.peer, size, sealed))
            return
        at = 0
        for packet in packets:
            end = at + len(packet) + 2 * OVERHEAD
            self._sent.append(Transmit(self.peer, end - at, sealed[at:end]))
            at = end

    def send_lone(self, buffer: memoryview, start: int, end: int, now: float) -> Transmit | None:
        if self.peer is None:
            return None
        self.lone.append(end - start)
        sealed = bytes(OVERHEAD) + buffer[start:end] + bytes(OVERHEAD)
        return Transmit(self.peer, len(sealed), sealed)

    def receive_lone(
        self, datagram: memoryview, endpoint: Endpoint, now: float, *, ecn: int = 0
    ) -> memoryview | None:
        self.peer = endpoint
        packet = datagram[OVERHEAD:-OVERHEAD]
        self.lone.append(len(packet))
        return packet

    def handle_timeout(self, now: float) -> None:
        pass

    def next_timeout(self) -> float | None:
        return None

    @property
    def pending(self) -> bool:
        return bool(self._sent)

    def transmits(self) -> list[Transmit]:
        sent, self._sent = self._sent, []
        return sent

    def packets(self) -> list[memoryview]:
        received, self._received = self._received, []
        return received

    def events(self) -> list[Event]:
        return []
