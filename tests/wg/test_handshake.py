"""Both roles against each other and, byte for byte, against a naive second implementation (`reference`)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raven.errors import PeerError
from raven.keys import PresharedKey, PrivateKey, PublicKey
from raven.wg.cookie import MacGenerator
from raven.wg.handshake import (
    Initiated,
    TransportKeys,
    authenticate_initiation,
    consume_response,
    create_initiation,
    create_response,
    open_initiation,
)
from raven.wg.messages import Initiation, Response, tai64n
from raven.wg.primitives import AuthenticationError, DhPrivateKey, WeakKeyError
from tests.wg import reference

TIMESTAMP = tai64n(1_700_000_000, 0)


def dh_key(raw: bytes) -> DhPrivateKey:
    return DhPrivateKey(PrivateKey.clamped(raw))


STATIC_I, STATIC_R = bytes(range(32)), bytes(range(1, 33))
INITIATOR, RESPONDER = dh_key(STATIC_I), dh_key(STATIC_R)
SS = INITIATOR.exchange(RESPONDER.public)
PSK = PresharedKey(b"\x07" * 32)


def initiate() -> tuple[Initiation, Initiated]:
    return create_initiation(
        INITIATOR, RESPONDER.public, SS, index=1, ephemeral=dh_key(b"\x21" * 32), timestamp=TIMESTAMP
    )


def respond(message: Initiation, psk: PresharedKey = PSK) -> tuple[Response, TransportKeys]:
    authenticated = authenticate_initiation(open_initiation(RESPONDER, message), SS)
    assert authenticated.timestamp == TIMESTAMP
    return create_response(authenticated, INITIATOR.public, psk, index=2, ephemeral=dh_key(b"\x22" * 32))


keys32 = st.binary(min_size=32, max_size=32)


@settings(max_examples=30)
@given(
    static_i=keys32,
    static_r=keys32,
    ephemeral_i=keys32,
    ephemeral_r=keys32,
    psk=keys32,
    index_i=st.integers(0, 0xFFFFFFFF),
    index_r=st.integers(0, 0xFFFFFFFF),
)
def test_equals_the_reference(
    static_i: bytes,
    static_r: bytes,
    ephemeral_i: bytes,
    ephemeral_r: bytes,
    psk: bytes,
    index_i: int,
    index_r: int,
) -> None:
    initiator, responder = dh_key(static_i), dh_key(static_r)
    ss = initiator.exchange(responder.public)
    wanted_initiation, c, h = reference.initiation(
        static_i, ephemeral_i, responder.public, index=index_i, timestamp=TIMESTAMP
    )
    wanted_response, to_responder, to_initiator = reference.response(
        c, h, wanted_initiation, ephemeral_r, initiator.public, psk, index=index_r
    )

    message, initiated = create_initiation(
        initiator, responder.public, ss, index=index_i, ephemeral=dh_key(ephemeral_i), timestamp=TIMESTAMP
    )
    assert MacGenerator(responder.public).add_macs(message.encode(), 0.0) == wanted_initiation

    opened = open_initiation(responder, Initiation.decode_untrusted(wanted_initiation))
    assert opened.static == initiator.public
    response, responder_keys = create_response(
        authenticate_initiation(opened, ss),
        opened.static,
        PresharedKey(psk),
        index=index_r,
        ephemeral=dh_key(ephemeral_r),
    )
    assert MacGenerator(initiator.public).add_macs(response.encode(), 0.0) == wanted_response
    assert responder_keys == TransportKeys(
        index_r, index_i, to_initiator, to_responder, responder_keys.exporter
    )

    initiator_keys = consume_response(
        initiator, initiated, PresharedKey(psk), Response.decode_untrusted(wanted_response)
    )
    assert initiator_keys == TransportKeys(
        index_i, index_r, to_responder, to_initiator, responder_keys.exporter
    )
    assert initiator_keys.exporter not in (to_initiator, to_responder)


def test_a_wrong_preshared_key_fails_at_the_response() -> None:
    message, initiated = initiate()
    response, _ = respond(message, PresharedKey(b"\x08" * 32))
    with pytest.raises(AuthenticationError):
        consume_response(INITIATOR, initiated, PSK, response)


def test_a_forged_response_does_not_stop_the_real_one() -> None:
    message, initiated = initiate()
    response, keys = respond(message)
    for forged in (
        Response(2, 1, response.ephemeral, bytes(16)),
        Response(2, 1, bytes(32), response.empty),
        Response(2, 1, dh_key(b"\x23" * 32).public, response.empty),
    ):
        with pytest.raises(PeerError):
            consume_response(INITIATOR, initiated, PSK, forged)
    assert consume_response(INITIATOR, initiated, PSK, response).sending == keys.receiving


@given(at=st.integers(0, 32 + 48 + 28 - 1), bit=st.integers(0, 7))
def test_every_flipped_bit_of_an_initiation_is_noticed(at: int, bit: int) -> None:
    """Also the top bit of the ephemeral key, which X25519 ignores (RFC 7748, section 5): it is hashed."""
    message, _ = initiate()
    changed = bytearray(message.ephemeral + message.static + message.timestamp)
    changed[at] ^= 1 << bit
    forged = Initiation(1, bytes(changed[:32]), bytes(changed[32:80]), bytes(changed[80:]))
    with pytest.raises(PeerError):
        authenticate_initiation(open_initiation(RESPONDER, forged), SS)


def test_an_initiator_that_is_not_the_peer_it_names() -> None:
    """Anyone can seal a public key of somebody else; only `ss` proves the private one."""
    message, _ = create_initiation(
        INITIATOR,
        RESPONDER.public,
        b"\x01" * 32,
        index=1,
        ephemeral=dh_key(b"\x21" * 32),
        timestamp=TIMESTAMP,
    )
    opened = open_initiation(RESPONDER, message)
    assert opened.static == INITIATOR.public
    with pytest.raises(AuthenticationError):
        authenticate_initiation(opened, SS)


def test_low_order_keys_are_refused() -> None:
    with pytest.raises(WeakKeyError):
        create_initiation(
            INITIATOR, PublicKey(bytes(32)), SS, index=1, ephemeral=dh_key(b"\x21" * 32), timestamp=TIMESTAMP
        )
    message, initiated = initiate()
    with pytest.raises(WeakKeyError):
        open_initiation(RESPONDER, Initiation(1, bytes(32), message.static, message.timestamp))
    with pytest.raises(WeakKeyError):
        consume_response(INITIATOR, initiated, PSK, Response(2, 1, bytes(32), bytes(16)))


def test_no_secret_in_a_repr() -> None:
    message, initiated = initiate()
    _, keys = respond(message)
    shown = repr((initiated, keys, open_initiation(RESPONDER, message)))
    assert repr(keys.sending)[2:-1] not in shown
    assert "state" not in shown
    assert "ephemeral=<" not in shown
