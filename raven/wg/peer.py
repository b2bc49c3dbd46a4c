"""One peer: its keys, where it is, what waits for it, and what its timers do.

Above is `device`, which finds the peer a packet or message belongs to; below are handshake, keypair, cookie
and timers. All of a peer's state changes here, and only after the last authentication of what caused the
change.
"""

from collections.abc import Sequence

from raven.errors import PeerError
from raven.keys import PresharedKey, PublicKey
from raven.wg.configuration import NO_PRESHARED_KEY
from raven.wg.constants import (
    HANDSHAKE_TOS,
    INITIATIONS_PER_SECOND,
    MAX_HANDSHAKE_ATTEMPTS,
    REFRESH_ON_RECEIVE_TIME,
    REKEY_TIMEOUT,
)
from raven.wg.cookie import MacGenerator
from raven.wg.endpoint import Endpoint
from raven.wg.events import HandshakeCompleted, HandshakeGaveUp, KeysErased, PeerRoamed
from raven.wg.handshake import (
    Authenticated,
    Initiated,
    TransportKeys,
    consume_response,
    create_initiation,
    create_response,
)
from raven.wg.inband import TYPE_PROBE, TYPE_REPORT, Probe, Report, decode_untrusted
from raven.wg.keypair import Keypair, Keypairs, padded_size, run_limit
from raven.wg.messages import TAI64N_LEN, TRANSPORT_OVERHEAD, CookieReply, Response
from raven.wg.outbox import LONE_MAX, Drop, Transmit
from raven.wg.oversize import Oversize
from raven.wg.packet import OVERHEAD_V4, OVERHEAD_V6, outer_fields
from raven.wg.path_mtu import FLOOR, PathMtu
from raven.wg.shared import Shared
from raven.wg.staging import StagedPackets
from raven.wg.stepdown import REPORT_DELAY
from raven.wg.superframe_peer import OpenedFrame, PeerSuperframes
from raven.wg.timers import PeerTimers, Timer

_LONG_AGO = float("-inf")


class Peer:
    """A configured peer of a device."""

    __slots__ = (
        "_attempts",
        "_initiated",
        "_keypairs",
        "_last_handshake_sent",
        "_last_initiation_received",
        "_macs",
        "_newest_timestamp",
        "_oversize",
        "_refreshed_late",
        "_shared",
        "_staged",
        "_static_static",
        "_timers",
        "endpoint",
        "keepalive",
        "last_handshake",
        "path",
        "preshared_key",
        "public_key",
        "rx_bytes",
        "superframes",
        "tx_bytes",
    )

    def __init__(self, public_key: PublicKey, shared: "Shared[Peer]") -> None:
        self.public_key = public_key
        self.preshared_key: PresharedKey = NO_PRESHARED_KEY
        self.endpoint: Endpoint | None = None
        self.keepalive = 0  # seconds
        self.last_handshake = 0.0  # Unix seconds
        self.rx_bytes = 0
        self.tx_bytes = 0
        self.path = PathMtu()
        self._oversize = Oversize(shared.outbox, shared.random)
        self._shared = shared
        self._static_static = b""  # DH of both static keys, once it was needed
        self._macs = MacGenerator(public_key)
        self._timers = PeerTimers(shared.agenda, public_key)
        self._keypairs = Keypairs()
        self._staged = StagedPackets(shared.staging)
        self.superframes = PeerSuperframes(shared.outbox, shared.reassembly)
        # The handshake we started. It is kept beside one that we answer meanwhile: when both ends start at
        # once either may finish, where the kernel's single slot makes both time out.
        self._initiated: Initiated | None = None
        self._attempts = 0  # initiations since the first that went unanswered
        self._last_handshake_sent = _LONG_AGO
        self._last_initiation_received = _LONG_AGO
        self._newest_timestamp = bytes(TAI64N_LEN)
        self._refreshed_late = False  # an initiation was sent because the keys we receive under grew old

    # Packets ------------------------------------------------------------------------------------------

    def send(self, packets: Sequence[memoryview], size: int, tos: int, now: float, hops: int = 0) -> None:
        """One run: packets of `size` bytes, the last maybe shorter. Sealed now, or staged for a handshake."""
        if self.endpoint is None:
            self._shared.outbox.drop(Drop.NO_ENDPOINT, len(packets))
            return
        if size > self.path.limit:
            for run in self._oversize.fit(packets, self.path.limit, now):
                self.send(run, len(run[0]), tos, now, hops)
            return
        keypair = self._keypairs.current
        if keypair is not None and keypair.can_seal(len(packets), now):
            self._seal(keypair, packets, size, tos, now, hops)
        else:
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

    def _sealed(self, keypair: Keypair, size: int, now: float) -> None:
        """Call after packets of `size` bytes were sealed under `keypair`."""
        self._timers.messages_sent(now, data=size > 0)
        if size > FLOOR and self.path.large_sent(now):
            self._examine_path(now)
        if keypair.needs_renewal(now):
            self.initiate(now)

    def send_lone(self, buffer: memoryview, start: int, size: int, tos: int, now: float) -> Transmit | None:
        """Seals the packet of `size` bytes from `start` in `buffer`; None when it takes more than that."""
        endpoint, keypair = self.endpoint, self._keypairs.current
        if (
            endpoint is None
            or keypair is None
            or size > min(self.path.limit, LONE_MAX)
            or not keypair.can_seal(1, now)
        ):
            return None
        data = keypair.seal_lone(buffer, start, size, self.mtu, self._shared.outbox.lone_outbound)
        self.tx_bytes += len(data)
        self._sealed(keypair, size, now)
        return Transmit(endpoint, len(data), data, tos)

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
        if not keypair.can_open(counter, 1, now):
            return None
        packet = keypair.open_lone(datagram, counter, self._shared.outbox.lone_inbound)
        if packet is not None:
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
        if keypair is None or self._refreshed_late or not keypair.initiator:
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
            self._send_inband(probe.encode_answer(), now)
        else:
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

    def _examine_path(self, now: float) -> None:
        shared, path = self._shared, self.path
        assert self.endpoint is not None
        overhead = OVERHEAD_V6 if ":" in self.endpoint.host else OVERHEAD_V4
        path.hinted(max(0, shared.route_mtu(self.endpoint) - overhead), now)
        if path.cooperative:
            token = int.from_bytes(shared.random(8), "little")
            self._send_probes(path.search(shared.mtu, token, now), now)

    def _send_probes(self, probes: Sequence[Probe], now: float) -> None:
        if not all(self._send_inband(probe.encode(), now) for probe in probes):
            self.path.interrupted()
        self._timers.probes_sent(self.path.deadline)

    def _send_inband(self, message: bytes, now: float) -> bool:
        """Seals and sends one message to the device at the other end; whether there were keys for it."""
        keypair, outbox = self._keypairs.current, self._shared.outbox
        if keypair is None or self.endpoint is None or not keypair.can_seal(1, now):
            return False
        size = len(message)
        if run_limit(size, size):
            data = keypair.seal_run([message], size, size, outbox.outbound)
            outbox.transmits.append(Transmit(self.endpoint, len(data), data, whole=True))
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
        packets = self._staged.take()
        start = 0
        while start < len(packets):
            size = len(packets[start])
            tos, hops = outer = outer_fields(packets[start])
            end = start + 1
            while end < len(packets) and len(packets[end]) == size and outer_fields(packets[end]) == outer:
                end += 1
            self._seal(keypair, packets[start:end], size, tos, now, hops)
            start = end

    def send_keepalive(self, now: float) -> None:
        """Shows that we are here: sends what is staged, or an empty packet; without keys, an initiation."""
        if not self._staged:
            self._staged.add(b"")
        self._send_staged(now)

    # Handshakes ---------------------------------------------------------------------------------------

    def initiate(self, now: float, *, retry: bool = False) -> None:
        """Sends an initiation, unless one message left within REKEY_TIMEOUT or no endpoint is known."""
        shared = self._shared
        identity = shared.identity
        if not retry:
            self._attempts = 0
        if now - self._last_handshake_sent < REKEY_TIMEOUT or self.endpoint is None or not shared.up:
            return
        if identity is None:
            self._drop_staged(Drop.NO_PRIVATE_KEY)
            return
        try:
            message, initiated = create_initiation(
                identity.dh,
                self.public_key,
                self.static_static(),
                index=shared.new_index(),
                ephemeral=shared.new_ephemeral(),
                timestamp=shared.tai64n(),
            )
        except PeerError as error:
            self._drop_staged(Drop.WEAK_KEY)
            shared.outbox.drop(error.reason)
            return
        self._forget_initiated()
        self._initiated = initiated
        shared.handshakes[initiated.index] = self
        self._send_handshake_message(message.encode(), now)
        self._timers.handshake_initiated(now, jitter=shared.jitter())

    def rekey(self, now: float) -> None:
        """Starts a handshake although the keys are good: the other end may have lost them."""
        keypair = self._keypairs.current
        if keypair is None or now - keypair.born >= REKEY_TIMEOUT:
            self._last_handshake_sent = _LONG_AGO
        self.initiate(now)

    def answer(self, initiation: Authenticated, length: int, endpoint: Endpoint, now: float) -> None:
        """Call with an authenticated initiation of `length` bytes; PeerError if replayed or flooding."""
        if initiation.timestamp <= self._newest_timestamp:
            raise PeerError(Drop.HANDSHAKE_REPLAY, "the timestamp is not newer than the last")
        if now - self._last_initiation_received < 1 / INITIATIONS_PER_SECOND:
            raise PeerError(Drop.HANDSHAKE_FLOOD, "too many initiations")
        shared = self._shared
        response, keys = create_response(
            initiation,
            self.public_key,
            self.preshared_key,
            index=shared.new_index(),
            ephemeral=shared.new_ephemeral(),
        )
        self._newest_timestamp = initiation.timestamp
        self._last_initiation_received = now
        self._handshake_message_received(length, endpoint, now)
        self._adopt(keys, initiator=False, now=now)
        self._send_handshake_message(response.encode(), now)

    def response_received(self, response: Response, length: int, endpoint: Endpoint, now: float) -> None:
        """Call with a response of `length` bytes whose index names this peer; PeerError if it is forged."""
        shared = self._shared
        assert self._initiated is not None
        assert shared.identity is not None
        keys = consume_response(shared.identity.dh, self._initiated, self.preshared_key, response)
        self._forget_initiated()
        self._handshake_message_received(length, endpoint, now)
        self._adopt(keys, initiator=True, now=now)
        self._handshake_completed(now)
        # The responder may not send before it has heard us under the new keys.
        self.send_keepalive(now)
        self._examine_new_path(now)

    def cookie_reply_received(self, reply: CookieReply, now: float) -> None:
        """Call with a cookie reply to our index; the next handshake message uses the cookie. PeerError."""
        self._macs.cookie_reply_received(reply, now)

    def _send_handshake_message(self, message: bytes, now: float) -> None:
        assert self.endpoint is not None
        data = self._macs.add_macs(message, now)
        self._last_handshake_sent = now
        self.tx_bytes += len(data)
        self._shared.outbox.transmits.append(Transmit(self.endpoint, len(data), data, HANDSHAKE_TOS))
        self._timers.messages_sent(now, data=False)

    def _handshake_message_received(self, length: int, endpoint: Endpoint, now: float) -> None:
        self._authenticated_from(endpoint)
        self.rx_bytes += length
        self._timers.messages_received(now, data=False)

    def _adopt(self, keys: TransportKeys, *, initiator: bool, now: float) -> None:
        shared = self._shared
        keypair = Keypair(keys, initiator=initiator, now=now)
        shared.keypairs[keypair.local_index] = (self, keypair)
        if initiator:
            assert shared.identity is not None
            if (
                self._keypairs.answered_since(now - REKEY_TIMEOUT)
                and shared.identity.dh.public < self.public_key
            ):
                # Both ends initiated at once, and would at each renewal: the one with the lower key waits.
                keypair.renew_after += REKEY_TIMEOUT
            self._forget(self._keypairs.initiated(keypair, now))
        else:
            self._forget(self._keypairs.responded(keypair, now))
        self._timers.keys_derived(now)

    def _handshake_completed(self, now: float) -> None:
        self.path.handshake_completed(self._shared.mtu, now, at_once=self._attempts == 0)
        self._attempts = 0
        self._refreshed_late = False
        self.last_handshake = self._shared.wall()
        self._timers.handshake_completed()
        self._shared.outbox.events.append(HandshakeCompleted(self.public_key))

    def static_static(self) -> bytes:
        """DH of both static keys, computed at first need; WeakKeyError. Only with an identity."""
        if not self._static_static:
            assert self._shared.identity is not None
            self._static_static = self._shared.identity.dh.exchange(self.public_key)
        return self._static_static

    # Time and change ----------------------------------------------------------------------------------

    def handle_timeout(self, now: float) -> None:
        """Serves the timers that are due."""
        for timer in self._timers.due(now):
            if timer is Timer.RETRANSMIT_HANDSHAKE:
                self._handshake_timed_out(now)
            elif timer is Timer.SEND_KEEPALIVE:
                self.send_keepalive(now)
            elif timer is Timer.NEW_HANDSHAKE:
                self.path.fell_silent()
                self._forget_source()
                self.initiate(now)
            elif timer is Timer.ERASE_KEYS:
                self.erase_keys()
                self._shared.outbox.events.append(KeysErased(self.public_key))
            elif timer is Timer.PERSISTENT_KEEPALIVE and self.keepalive:
                self.send_keepalive(now)
            elif timer is Timer.PATH_PROBE:
                self._send_probes(self.path.timed_out(now), now)
            elif timer is Timer.REPORT_SUPERFRAMES:
                for report in self.superframes.reports(self._keypairs.all(), now):
                    self._send_inband(report.encode(), now)
                if self.superframes.unreported:
                    self._timers.superframe_received(now + REPORT_DELAY)
        self._timers.reschedule()

    def _handshake_timed_out(self, now: float) -> None:
        if self._attempts >= MAX_HANDSHAKE_ATTEMPTS:
            self._drop_staged(Drop.HANDSHAKE_FAILED)
            self._timers.handshake_given_up(now)
            self._shared.outbox.events.append(HandshakeGaveUp(self.public_key))
        else:
            self._attempts += 1
            self._forget_source()
            self.initiate(now, retry=True)

    def _forget_source(self) -> None:
        """The local address we answered from may be what is broken: let the routing table choose again."""
        if self.endpoint is not None and self.endpoint.source:
            self.endpoint = self.endpoint._replace(source="")

    def configure_keepalive(self, seconds: int) -> None:
        self.keepalive = seconds
        self._timers.interval_configured(seconds)

    def port_changed(self) -> None:
        """Call when the device moves to another port."""
        self._forget_source()

    def source_moved(self) -> None:
        """Call when the local address that we answer from is no longer the right one."""
        self._forget_source()

    def link_up(self, now: float) -> None:
        """Call when the device comes up."""
        if self.keepalive:
            self.send_keepalive(now)
        else:
            self._send_staged(now)

    def link_down(self) -> None:
        """Call when the device goes down: no keys survive, and the next handshake may start at once."""
        self.remove()
        self._last_handshake_sent = _LONG_AGO

    def identity_changed(self) -> None:
        """Call when the device's key was replaced: nothing more is sealed under what the old one made."""
        self._static_static = b""
        self._forget_initiated()
        self._last_handshake_sent = _LONG_AGO
        for keypair in (self._keypairs.current, self._keypairs.next):
            if keypair is not None:
                keypair.may_seal = False

    def erase_keys(self) -> None:
        """Forgets every key a handshake gave, and the handshake under way."""
        self._forget_initiated()
        self._forget(self._keypairs.clear())

    def remove(self) -> None:
        """Call when the peer leaves the device: nothing refers to it any more."""
        self._drop_staged(Drop.HANDSHAKE_FAILED)
        self.erase_keys()
        self.path.changed()
        self._timers.clear()

    def _forget_initiated(self) -> None:
        if self._initiated is not None:
            del self._shared.handshakes[self._initiated.index]
            self._initiated = None

    def _forget(self, keypairs: Sequence[Keypair]) -> None:
        for keypair in keypairs:
            del self._shared.keypairs[keypair.local_index]
            self.superframes.forget_keypair(keypair.local_index)
