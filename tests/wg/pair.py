"""Two (or more) devices in virtual time over a bad network; everything follows from one seed.

A `Net` moves datagrams between endpoints with loss, duplication, delay and reordering, and turns the clock
to whatever happens next: an arrival, or a device's timeout. What a device hands out is copied at once,
because its scratch is its own. Datagrams that arrive together from one source arrive as one burst, as UDP
GRO would have it.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_network
from random import Random

from raven.keys import PresharedKey, PrivateKey, PublicKey
from raven.wg.configuration import DeviceChange, PeerChange
from raven.wg.device import Device
from raven.wg.endpoint import Endpoint
from raven.wg.events import Event
from raven.wg.messages import tai64n
from raven.wg.primitives import DhPrivateKey
from tests.wg.packets import packet

EPOCH = 1_700_000_000  # Unix seconds at virtual time 0

Tap = Callable[[Endpoint, Endpoint, bytes], bool]


class Host:
    """A device on the net, and all that came out of it."""

    def __init__(self, net: "Net", endpoint: Endpoint, addresses: Sequence[str], *, mtu: int = 1420) -> None:
        self.net = net
        self.endpoint = endpoint
        self.addresses = list(addresses)
        random = Random(net.random.randbytes(8))
        self.private_key = PrivateKey.clamped(random.randbytes(32))
        self.public_key: PublicKey = DhPrivateKey(self.private_key).public
        self.packets: list[bytes] = []
        self.superpackets: list[bytes] = []  # each behind its virtio header
        self.events: list[Event] = []
        self.device = Device(
            tai64n=lambda: tai64n(EPOCH + int(net.now), int(net.now % 1 * 1e9)),
            random=random.randbytes,
            wall=lambda: EPOCH + net.now,
            mtu=mtu,
        )
        self.device.configure(DeviceChange(private_key=self.private_key, listen_port=endpoint.port), 0.0)

    def add_peer(
        self,
        other: "Host",
        *,
        knows_endpoint: bool = True,
        keepalive: int | None = None,
        preshared_key: PresharedKey | None = None,
    ) -> None:
        self.configure(
            PeerChange(
                public_key=other.public_key,
                endpoint=other.endpoint if knows_endpoint else None,
                keepalive=keepalive,
                preshared_key=preshared_key,
                allowed_ips=[ip_network(address) for address in other.addresses],
            )
        )

    def configure(self, *peers: PeerChange) -> None:
        self.device.configure(DeviceChange(peers=peers), self.net.now)
        self.net.collect(self)

    def send(self, packets: Iterable[memoryview]) -> None:
        self.device.send(list(packets), self.net.now)
        self.net.collect(self)

    def send_superpacket(self, superpacket: bytes) -> bool:
        """Whether the superpacket, behind its virtio header, went as a superframe."""
        room = memoryview(bytearray(superpacket).ljust(1 << 17, b"\xee"))  # what lies behind must not leak
        sent = self.device.send_superpacket(room, len(superpacket), self.net.now)
        self.net.collect(self)
        return sent

    def receive(self, datagrams: Sequence[bytes], source: Endpoint, *, ecn: int = 0) -> None:
        self.device.receive([memoryview(data) for data in datagrams], source, self.net.now, ecn=ecn)
        self.net.collect(self)

    def drops(self) -> dict[str, int]:
        return dict(self.device.counters)


class Net:
    """The network and the clock."""

    def __init__(self, seed: int = 0) -> None:
        self.random = Random(seed)
        self.now = 0.0
        self.loss = 0.0  # probability
        self.duplication = 0.0  # probability
        self.delay = (0.01, 0.01)  # seconds, shortest and longest
        self.tap: Tap | None = None  # sees (from, to, datagram); False drops it
        self.sent: list[tuple[float, Endpoint, Endpoint, bytes]] = []
        self.hosts: list[Host] = []
        self._flying: list[tuple[float, int, Endpoint, Endpoint, bytes]] = []
        self._serial = 0

    def host(self, endpoint: Endpoint, addresses: Sequence[str], *, mtu: int = 1420) -> Host:
        host = Host(self, endpoint, addresses, mtu=mtu)
        self.hosts.append(host)
        return host

    def collect(self, host: Host) -> None:
        """Takes everything out of a device."""
        host.packets.extend(bytes(packet) for packet in host.device.packets())
        host.superpackets.extend(bytes(packet) for _, packet in host.device.superpackets())
        host.events.extend(host.device.events())
        for transmit in host.device.transmits():
            data = bytes(transmit.data)
            assert len(data) <= 65507
            assert -(-len(data) // transmit.segment_size) <= 64
            for start in range(0, len(data), transmit.segment_size):
                self._fly(host.endpoint, transmit.endpoint, data[start : start + transmit.segment_size])

    def _fly(self, source: Endpoint, destination: Endpoint, data: bytes) -> None:
        self.sent.append((self.now, source, destination, data))
        if self.tap is not None and not self.tap(source, destination, data):
            return
        copies = 2 if self.random.random() < self.duplication else 1
        for _ in range(copies):
            if self.random.random() < self.loss:
                continue
            when = self.now + self.random.uniform(*self.delay)
            self._serial += 1
            heapq.heappush(self._flying, (when, self._serial, source, destination, data))

    def run(self, seconds: float) -> None:
        """Lets `seconds` pass."""
        end = self.now + seconds
        while True:
            timeouts = [(host.device.next_timeout(), host) for host in self.hosts]
            next_timeout = min((when for when, _ in timeouts if when is not None), default=end)
            next_arrival = self._flying[0][0] if self._flying else end
            when = min(next_timeout, next_arrival)
            if when >= end:
                break
            self.now = max(self.now, when)
            if next_arrival <= next_timeout:
                self._arrive()
            else:
                for due, host in timeouts:
                    if due is not None and due <= self.now:
                        host.device.handle_timeout(self.now)
                        after = host.device.next_timeout()
                        assert after is None or after > self.now, "a timer that is served must be gone"
                        self.collect(host)
        self.now = end

    def _arrive(self) -> None:
        when, _, source, destination, data = heapq.heappop(self._flying)
        burst = [data]
        while self._flying and self._flying[0][0] == when and self._flying[0][2:4] == (source, destination):
            burst.append(heapq.heappop(self._flying)[4])
        for host in self.hosts:
            if host.endpoint.same_place(destination):
                host.receive(burst, source)


def pair(
    seed: int = 0, *, preshared_key: PresharedKey | None = None, mtu: int = 1420
) -> tuple[Net, Host, Host]:
    """A net with a and b, each other's peers; both know where the other is."""
    net = Net(seed)
    a = net.host(Endpoint("192.0.2.1", 51820), ["10.0.0.1/32", "fd00::1/128"], mtu=mtu)
    b = net.host(Endpoint("192.0.2.2", 51820), ["10.0.0.2/32", "fd00::2/128"], mtu=mtu)
    a.add_peer(b, preshared_key=preshared_key)
    b.add_peer(a, preshared_key=preshared_key)
    return net, a, b


A4, B4, A6, B6 = "10.0.0.1", "10.0.0.2", "fd00::1", "fd00::2"


def connected(seed: int = 0, *, mtu: int = 1420) -> tuple[Net, Host, Host]:
    net, a, b = pair(seed, mtu=mtu)
    a.send([packet(A4, B4)])
    net.run(1)
    b.packets.clear()
    net.sent.clear()
    return net, a, b
