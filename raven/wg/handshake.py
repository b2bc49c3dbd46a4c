"""Noise_IKpsk2, both roles, as four plain functions over messages (WireGuard paper, section 5.4).

    <- s
    ...
    -> e, es, s, ss, {timestamp}
    <- e, ee, se, psk, {empty}

Above stands `peer`, which keeps what a role must remember between messages; below is `noise`. A function
either returns the whole next state or raises PeerError and has changed nothing: a forged message costs time
only.
"""

from dataclasses import dataclass, field

from raven.keys import PresharedKey, PublicKey
from raven.wg.messages import Initiation, Response
from raven.wg.noise import SymmetricState
from raven.wg.primitives import DhPrivateKey


@dataclass(frozen=True, slots=True)
class Initiated:
    """What an initiator remembers while it waits for the response."""

    index: int
    ephemeral: DhPrivateKey = field(repr=False)
    state: SymmetricState = field(repr=False)


@dataclass(frozen=True, slots=True)
class Opened:
    """An initiation whose sender's static key is decrypted but not yet proven: only `ss` proves it."""

    static: PublicKey
    message: Initiation
    state: SymmetricState = field(repr=False)


@dataclass(frozen=True, slots=True)
class Authenticated:
    """An initiation that the holder of the peer's private key made; its timestamp may still be a replay."""

    index: int  # the initiator's
    ephemeral: bytes
    timestamp: bytes
    state: SymmetricState = field(repr=False)


@dataclass(frozen=True, slots=True)
class TransportKeys:
    """The outcome of a handshake, from this end's view."""

    local_index: int
    remote_index: int
    sending: bytes = field(repr=False)
    receiving: bytes = field(repr=False)
    exporter: bytes = field(repr=False)  # both ends' secret for what is no part of WireGuard


def create_initiation(
    local: DhPrivateKey,
    remote: PublicKey,
    static_static: bytes,
    *,
    index: int,
    ephemeral: DhPrivateKey,
    timestamp: bytes,
) -> tuple[Initiation, Initiated]:
    """Initiator, first message. WeakKeyError if `remote` is of low order: then nothing may be sent."""
    state = SymmetricState(remote)
    # e
    state.mix_ephemeral(ephemeral.public)
    # es
    state.mix_key(ephemeral.exchange(remote))
    # s
    sealed_static = state.seal(local.public)
    # ss
    state.mix_key(static_static)
    # {timestamp}
    sealed_timestamp = state.seal(timestamp)
    message = Initiation(index, ephemeral.public, sealed_static, sealed_timestamp)
    return message, Initiated(index, ephemeral, state)


def open_initiation(local: DhPrivateKey, message: Initiation) -> Opened:
    """Responder, first half: learns which peer claims to speak. PeerError."""
    state = SymmetricState(local.public)
    # e
    state.mix_ephemeral(message.ephemeral)
    # es
    state.mix_key(local.exchange(message.ephemeral))
    # s
    static = PublicKey(state.open(message.static))
    return Opened(static, message, state)


def authenticate_initiation(opened: Opened, static_static: bytes) -> Authenticated:
    """Responder, second half, with the secret shared with that peer. PeerError."""
    state = opened.state.copy()
    # ss
    state.mix_key(static_static)
    # {timestamp}
    timestamp = state.open(opened.message.timestamp)
    return Authenticated(opened.message.sender, opened.message.ephemeral, timestamp, state)


def create_response(
    initiation: Authenticated,
    remote: PublicKey,
    preshared: PresharedKey,
    *,
    index: int,
    ephemeral: DhPrivateKey,
) -> tuple[Response, TransportKeys]:
    """Responder, answer. The keys are good at once, but the initiator has not proven to have them."""
    state = initiation.state.copy()
    # e
    state.mix_ephemeral(ephemeral.public)
    # ee
    state.mix_key(ephemeral.exchange(initiation.ephemeral))
    # se
    state.mix_key(ephemeral.exchange(remote))
    # psk
    state.mix_key_and_hash(preshared)
    # {empty}
    sealed_empty = state.seal(b"")
    receiving, sending = state.split()
    message = Response(index, initiation.index, ephemeral.public, sealed_empty)
    return message, TransportKeys(index, initiation.index, sending, receiving, state.export())


def consume_response(
    local: DhPrivateKey, initiated: Initiated, preshared: PresharedKey, message: Response
) -> TransportKeys:
    """Initiator, end. PeerError; `initiated` stays good, so a forged response does not stop the real one."""
    state = initiated.state.copy()
    # e
    state.mix_ephemeral(message.ephemeral)
    # ee
    state.mix_key(initiated.ephemeral.exchange(message.ephemeral))
    # se
    state.mix_key(local.exchange(message.ephemeral))
    # psk
    state.mix_key_and_hash(preshared)
    # {empty}
    state.open(message.empty)
    sending, receiving = state.split()
    return TransportKeys(initiated.index, message.sender, sending, receiving, state.export())
