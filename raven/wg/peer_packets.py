"""The packets of one peer: sealed, opened, staged while there are no keys; how large they may be on its path.

Above is `peer`, which is this and makes the keys; below are keypair, superframe_peer, path_mtu and staging.
What comes in changes something here only after it authenticated.
"""

import abc
from collections.abc import Sequence
from typing import Any

from raven.ip.mss import SYN_MAX, clamp_mss
from raven.keys import PublicKey
from raven.wg.constants import REFRESH_ON_RECEIVE_TIME
from raven.wg.endpoint import Endpoint
from raven.wg.events import PeerRoamed, RunsLost
from raven.wg.inband import TYPE_PROBE, TYPE_REPORT, Probe, Report, decode_untrusted
from raven.wg.keypair import Keypair, Keypairs, padded_size, run_limit
from raven.wg.messages import TRANSPORT_OVERHEAD
from raven.wg.outbox import LONE_MAX, Drop, Transmit
from raven.wg.oversize import Oversize
from raven.wg.packet import OVERHEAD_V4, OVERHEAD_V6
from raven.wg.path_mtu import FLOOR, PathMtu
from raven.wg.shared import Shared
from raven.wg.staging import StagedPackets, runs_of
from raven.wg.stepdown import REPORT_DELAY
from raven.wg.superframe_peer import OpenedFrame, PeerSuperframes
from raven.wg.timers import PeerTimers


class PeerPackets(abc.ABC):
    """The half of a peer that carries packets; the other half makes the keys."""

    __slots__ = (
        "_keypairs",
        "_oversize",
        "_refreshed_late",
        "_shared",
        "_staged",
        "_timers",
        "endpoint",
        "path",
        "public_key",
        "rx_bytes",
        "superframes",
        "tx_bytes",
    )

    def __init__(self, public_key: PublicKey, shared: Shared[Any]) -> None:
        self.public_key = public_key
        self.endpoint: Endpoint | None = None
        self.rx_bytes = 0
        self.tx_bytes = 0
        self.path = PathMtu()
        self._oversize = Oversize(shared.outbox, shared.random)
        self._shared = shared
        self._timers = PeerTimers(shared.agenda, public_key)
        self._keypairs = Keypairs()
        self._staged = StagedPackets(shared.staging)
        self.superframes = PeerSuperframes(shared.outbox, shared.reassembly)
        self._refreshed_late = False  # an initiation was sent because the keys we receive under grew old

    @abc.abstractmethod
    def initiate(self, now: float, *, retry: bool = False) -> None:
        """Called when new keys are wanted."""

    @abc.abstractmethod
    def _handshake_completed(self, now: float) -> None:
        """Called when the first message came under keys that we made as responder."""

    # Packets ------------------------------------------------------------------------------------------

    def send(self, packets: Sequence[memoryview], size: int, tos: int, now: float, hops: int = 0) -> None:
        """One run: packets of `size` bytes, the last maybe shorter. Sealed now, or staged for a handshake."""
        if self.endpoint is None:
            self._shared.outbox.drop(Drop.NO_ENDPOINT, len(packets))
            return
        if size > self.path.limit:
            # Whoever sends nothing else would otherwise never learn that the path has become wider.
            if self.path.is_due(now):
                self._examine_path(now)
            for run in self._oversize.fit(packets, self.path.limit, now):
                self.send(run, len(run[0]), tos, now, hops)
            return
        keypair = self._keypairs.current
        if keypair is not None and keypair.can_seal(len(packets), now):
            self._seal(keypair, packets, size, tos, now, hops)
        else:
            if not self.path.cooperative and self.path.is_due(now):
                self._ask_host(now)
                if size <= SYN_MAX:  # one was clamped by what was known before
                    for packet in packets:
                        clamp_mss(packet, self.mtu)
            dropped = sum(self._staged.add(bytes(packet)) for packet in packets)
            if dropped:
                self._shared.outbox.drop(Drop.STAGED_FULL, dropped)
            self.initiate(now)

    def _seal(
        self,
        keypair: Keypair,
        packets: Sequence[memoryview | bytes],
        size: int,
        tos: int,
        now: float,
        hops: int,
    ) -> None:
        shared = self._shared
        outbox = shared.outbox
        endpoint = self.endpoint
        assert endpoint is not None
        mtu = self.mtu
        limit = run_limit(size, mtu)
        if limit == 0:
            outbox.drop(Drop.TOO_LARGE, len(packets))
            return
        stride = padded_size(size, mtu) + TRANSPORT_OVERHEAD
        for start in range(0, len(packets), limit):
            run = packets if len(packets) <= limit else packets[start : start + limit]
            data = keypair.seal_run(run, size, mtu, outbox.outbound)
            outbox.transmits.append(Transmit(endpoint, min(stride, len(data)), data, tos, hops))
            self.tx_bytes += len(data)
        self._sealed(keypair, size, now)
        if len(packets) > 1 and size > FLOOR:
            self._run_sent(now)

    def _sealed(self, keypair: Keypair, size: int, now: float) -> None:
        """Call after packets of `size` bytes were sealed under `keypair`."""
        self._timers.messages_sent(now, data=size > 0)
        if size > FLOOR and self.path.large_sent(now):
            self._examine_path(now)
        if keypair.needs_renewal(now):
            self.initiate(now)

    def send_lone(self, buffer: memoryview, start: int, size: int, tos: int, now: float) -> Transmit | None:
        """Seals the packet of `size` bytes from `start` in `buffer`; None when it takes more than that."""
        endpoint, keypair, path = self.endpoint, self._keypairs.current, self.path
        if endpoint is None or keypair is None or size > path.limit or size > LONE_MAX:
            return None
        outbox, mtu = self._shared.outbox, min(self._shared.mtu, path.advice)
        data = keypair.seal_lone(buffer, start, size, mtu, outbox.lone_outbound, now)
        if data is None:
            return None
        length = len(data)
        self.tx_bytes += length
        if size > FLOOR or keypair.needs_renewal(now):
            outbox.begin()
            self._sealed(keypair, size, now)
        else:
            self._timers.messages_sent(now, data=True)
        return Transmit(endpoint, length, data, tos)

    def receive(
        self, keypair: Keypair, datagrams: Sequence[memoryview], counter: int, endpoint: Endpoint, now: float
    ) -> list[memoryview]:
        """The packets of one run of transport messages under `keypair`, still padded, without keepalives.

        Counters are consecutive from `counter`, sizes equal but for the last.
        """
        outbox = self._shared.outbox
        if not keypair.can_open(counter, len(datagrams), now):
            outbox.drop(Drop.KEYPAIR_EXPIRED, len(datagrams))
            return []
        packets, replayed, forged = keypair.open_run(datagrams, counter, outbox.inbound)
        if replayed:
            outbox.drop(Drop.REPLAYED, replayed)
        if forged:
            outbox.drop(Drop.AUTHENTICATION, forged)
        if not packets:
            return packets
        self._authenticated_from(endpoint)
        sizes = sum(map(len, packets))
        self._opened(keypair, sizes + TRANSPORT_OVERHEAD * len(packets), now, data=sizes > 0)
        if not packets[-1]:  # keepalives are the shortest messages, so a run ends with them
            packets = [packet for packet in packets if packet]
        return packets

    def receive_lone(
        self, keypair: Keypair, datagram: memoryview, counter: int, endpoint: Endpoint, now: float
    ) -> memoryview | None:
        """The packet, still padded, of one transport message; None when it is not to be accepted."""
        outbox = self._shared.outbox
        packet = keypair.open_lone(datagram, counter, outbox.lone_inbound, now)
        if packet is not None:
            outbox.begin()
            if endpoint != self.endpoint:
                self._authenticated_from(endpoint)
            self._opened(keypair, len(datagram), now, data=True)
        return packet

    def _opened(self, keypair: Keypair, received: int, now: float, *, data: bool) -> None:
        """Call after messages, of `received` bytes in all, authenticated under `keypair`."""
        self.rx_bytes += received
        self._timers.messages_received(now, data=data)
        if self.path.unheard:
            self.path.heard()
        if keypair is self._keypairs.next:
            self._forget(self._keypairs.confirmed(now))
            self._handshake_completed(now)
            self._send_staged(now)
            self._examine_new_path(now)
        if not self._refreshed_late:
            self._refresh_if_late(now)

    # Superframes --------------------------------------------------------------------------------------

    def send_superpacket(
        self,
        buffer: memoryview,
        at: int,
        size: int,
        *,
        gso_size: int,
        segment: int,
        tos: int,
        hops: int,
        now: float,
    ) -> bool:
        """Sends the `size` bytes from `at` in `buffer` as one superframe, if that suits this peer now.

        `segment` is the size of a whole segment: the frame's datagrams are as long as its segments' would be
        as plain packets. False: nothing was sent, and segments have to be.
        """
        keypair, mtu = self._keypairs.current, self.mtu
        if self.endpoint is None or keypair is None or segment > mtu or not keypair.can_seal(1, now):
            return False
        stride = padded_size(segment, mtu) + TRANSPORT_OVERHEAD
        runs = self.superframes.seal(keypair, buffer, at, size, gso_size=gso_size, stride=stride, now=now)
        if not runs:
            return False
        for data in runs:
            self._shared.outbox.transmits.append(
                Transmit(self.endpoint, min(stride, len(data)), data, tos, hops)
            )
            self.tx_bytes += len(data)
        self._timers.messages_sent(now, data=True)
        self._run_sent(now)
        if keypair.needs_renewal(now):
            self.initiate(now)
        return True

    def receive_fragments(
        self,
        keypair: Keypair,
        datagrams: Sequence[memoryview],
        at: int,
        *,
        endpoint: Endpoint,
        ecn: int,
        now: float,
    ) -> tuple[int, OpenedFrame | None]:
        """Takes fragments under `keypair` from `at` on: how many, and the frame if they made one whole."""
        if not keypair.can_open(0, 1, now):
            self._shared.outbox.drop(Drop.KEYPAIR_EXPIRED)
            return 1, None
        frames = self.superframes
        taken, opened = frames.receive(keypair, datagrams, at, endpoint=endpoint, ecn=ecn, now=now)
        if frames.unreported:
            self._timers.superframe_received(now + REPORT_DELAY)
        if opened is not None:
            if opened.endpoint is not None:
                self._authenticated_from(opened.endpoint)
            self._opened(keypair, opened.received, now, data=True)
        return taken, opened

    def _refresh_if_late(self, now: float) -> None:
        """Section 6.2: an initiator that only receives renews too, shortly before its keys are refused."""
        keypair = self._keypairs.current
        if keypair is None or not keypair.initiator:
            return
        if now - keypair.born >= REFRESH_ON_RECEIVE_TIME:
            self._refreshed_late = True
            self.initiate(now)

    def _authenticated_from(self, endpoint: Endpoint) -> None:
        """Roaming: call with the source of a message only after the whole message authenticated."""
        if endpoint != self.endpoint:
            if not endpoint.same_place(self.endpoint):
                self._shared.outbox.events.append(PeerRoamed(self.public_key, endpoint))
            self.move_to(endpoint)

    def move_to(self, endpoint: Endpoint) -> None:
        """The peer is at `endpoint` from now on, as it showed or as somebody configured."""
        if self.endpoint is None or endpoint.host != self.endpoint.host:
            self.path.changed()
        self.endpoint = endpoint

    # The path -----------------------------------------------------------------------------------------

    @property
    def mtu(self) -> int:
        """Bytes of the largest packet that fits both the link and the path, in one piece."""
        return min(self._shared.mtu, self.path.advice)

    def inband_received(self, message: memoryview, now: float) -> None:
        """Call with what the peer sealed for this device itself (`inband`); answers probes."""
        if message[0] == TYPE_REPORT:
            report = Report.decode_untrusted(message)
            self.superframes.report_received(report, self._keypairs.all(), now)
            return
        decoded = decode_untrusted(message)
        if decoded is None:
            self._shared.outbox.drop(Drop.INNER_MALFORMED)
            return
        kind, probe = decoded
        if kind == TYPE_PROBE:
            self._send_inband([probe.encode_answer()], now)
        else:
            self.path.runs.answered(probe)
            self._send_probes(self.path.answered(probe, now), now)

    def configure_probes(self, cooperative: bool) -> None:
        """`cooperative`: the other end answers probes."""
        if cooperative != self.path.cooperative:
            self.path.changed()
            self.path.cooperative = cooperative

    def _examine_new_path(self, now: float) -> None:
        """Asks how large packets may be before the first large one is lost."""
        if not self.path.proven and self.path.is_due(now):
            self._examine_path(now)

    def _ask_host(self, now: float) -> None:
        assert self.endpoint is not None
        overhead = OVERHEAD_V6 if ":" in self.endpoint.host else OVERHEAD_V4
        self.path.hinted(max(0, self._shared.route_mtu(self.endpoint) - overhead), now)

    def _examine_path(self, now: float) -> None:
        shared, path = self._shared, self.path
        self._ask_host(now)
        if path.cooperative:
            token = int.from_bytes(shared.random(8), "little")
            self._send_probes(path.search(shared.mtu, token, now), now)

    def _send_probes(self, probes: Sequence[Probe], now: float) -> None:
        if not all(self._send_inband([probe.encode()], now) for probe in probes):
            self.path.interrupted()
        self._timers.probes_sent(self.path.deadline)

    def _run_sent(self, now: float) -> None:
        """Call after large packets were sealed that leave in one call; asks at times whether such arrive."""
        path, runs = self.path, self.path.runs
        if now < runs.due or not path.cooperative or not path.proven:
            return
        assert self.endpoint is not None
        if runs.judge(now):
            self._shared.outbox.events.append(RunsLost(self.public_key, self.endpoint))
        token = int.from_bytes(self._shared.random(8), "little")
        for probes in runs.ask(min(path.proven, LONE_MAX), token, now):
            self._send_inband([probe.encode() for probe in probes], now)

    def _send_inband(self, messages: Sequence[bytes], now: float) -> bool:
        """Seals messages of one length for the device at the other end, and sends them as one run.

        Whether there were keys for it.
        """
        keypair, outbox = self._keypairs.current, self._shared.outbox
        if keypair is None or self.endpoint is None or not keypair.can_seal(len(messages), now):
            return False
        size = len(messages[0])
        if run_limit(size, size):
            data = keypair.seal_run(messages, size, size, outbox.outbound)
            stride = len(data) // len(messages)
            outbox.transmits.append(Transmit(self.endpoint, stride, data, whole=True))
            self.tx_bytes += len(data)
            self._timers.messages_sent(now, data=False)
        return True

    # Staged packets -----------------------------------------------------------------------------------

    def _drop_staged(self, reason: Drop) -> None:
        count = sum(1 for packet in self._staged.take() if packet)
        if count:
            self._shared.outbox.drop(reason, count)

    def _send_staged(self, now: float) -> None:
        """Sends what waits, or starts the handshake it waits for."""
        if not self._staged or self.endpoint is None:
            return
        keypair = self._keypairs.current
        if keypair is None or not keypair.can_seal(len(self._staged), now):
            self.initiate(now)
            return
        for packets, tos, hops in runs_of(self._staged.take()):
            self._seal(keypair, packets, len(packets[0]), tos, now, hops)

    def send_keepalive(self, now: float) -> None:
        """Shows that we are here: sends what is staged, or an empty packet; without keys, an initiation."""
        if not self._staged:
            self._staged.add(b"")
        self._send_staged(now)

    def _forget_source(self) -> None:
        """The local address we answered from may be what is broken: let the routing table choose again."""
        if self.endpoint is not None and self.endpoint.source:
            self.endpoint = self.endpoint._replace(source="")

    def _forget(self, keypairs: Sequence[Keypair]) -> None:
        for keypair in keypairs:
            del self._shared.keypairs[keypair.local_index]
            self.superframes.forget_keypair(keypair.local_index)
