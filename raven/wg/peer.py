"""One peer: the handshakes that make its keys, what its timers do, and what a configuration changes.

Above is `device`, which finds the peer a packet or message belongs to; below are its packets
(`peer_packets`), handshake and cookie. A peer's state changes in these two files, and only after the last
authentication of what caused the change.
"""

from raven.errors import PeerError
from raven.keys import PresharedKey, PublicKey
from raven.wg.configuration import NO_PRESHARED_KEY
from raven.wg.constants import (
    HANDSHAKE_TOS,
    INITIATIONS_PER_SECOND,
    MAX_HANDSHAKE_ATTEMPTS,
    REKEY_TIMEOUT,
)
from raven.wg.cookie import MacGenerator
from raven.wg.endpoint import Endpoint
from raven.wg.events import HandshakeCompleted, HandshakeGaveUp, KeysErased
from raven.wg.handshake import (
    Authenticated,
    Initiated,
    TransportKeys,
    consume_response,
    create_initiation,
    create_response,
)
from raven.wg.keypair import Keypair
from raven.wg.messages import TAI64N_LEN, CookieReply, Response
from raven.wg.outbox import Drop, Transmit
from raven.wg.peer_packets import PeerPackets
from raven.wg.shared import Shared
from raven.wg.stepdown import REPORT_DELAY
from raven.wg.timers import Timer

_LONG_AGO = float("-inf")


class Peer(PeerPackets):
    """A configured peer of a device."""

    __slots__ = (
        "_attempts",
        "_initiated",
        "_last_handshake_sent",
        "_last_initiation_received",
        "_macs",
        "_newest_timestamp",
        "_static_static",
        "keepalive",
        "last_handshake",
        "preshared_key",
    )

    def __init__(self, public_key: PublicKey, shared: "Shared[Peer]") -> None:
        super().__init__(public_key, shared)
        self.preshared_key: PresharedKey = NO_PRESHARED_KEY
        self.keepalive = 0  # seconds
        self.last_handshake = 0.0  # Unix seconds
        self._static_static = b""  # DH of both static keys, once it was needed
        self._macs = MacGenerator(public_key)
        # The handshake we started. It is kept beside one that we answer meanwhile: when both ends start at
        # once either may finish, where the kernel's single slot makes both time out.
        self._initiated: Initiated | None = None
        self._attempts = 0  # initiations since the first that went unanswered
        self._last_handshake_sent = _LONG_AGO
        self._last_initiation_received = _LONG_AGO
        self._newest_timestamp = bytes(TAI64N_LEN)

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
                    self._send_inband([report.encode()], now)
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

    def configure_keepalive(self, seconds: int) -> None:
        self.keepalive = seconds
        self._timers.interval_configured(seconds)

    def source_moved(self) -> None:
        """Call when the local address that we answer from may no longer be the right one."""
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
