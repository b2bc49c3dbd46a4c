"""Every decoder: whole, byte by byte, truncated, with a tail, random; and scapy as an independent reader."""

import contextlib
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.contrib.wireguard import Wireguard

from raven.wg.messages import (
    COOKIE_REPLY_LEN,
    INITIATION_LEN,
    RESPONSE_LEN,
    TRANSPORT_HEADER,
    CookieReply,
    Initiation,
    MessageError,
    Response,
    tai64n,
)

u32 = st.integers(0, 0xFFFFFFFF)


def fixed(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


initiations = st.builds(Initiation, u32, fixed(32), fixed(48), fixed(28))
responses = st.builds(Response, u32, u32, fixed(32), fixed(16))
cookie_replies = st.builds(CookieReply, u32, fixed(24), fixed(32))

DECODERS: list[tuple[Callable[[bytes], object], int]] = [
    (Initiation.decode_untrusted, INITIATION_LEN),
    (Response.decode_untrusted, RESPONSE_LEN),
    (CookieReply.decode_untrusted, COOKIE_REPLY_LEN),
]


def test_lengths_are_the_papers() -> None:
    assert (INITIATION_LEN, RESPONSE_LEN, COOKIE_REPLY_LEN, TRANSPORT_HEADER.size) == (148, 92, 64, 16)


@given(message=initiations, macs=fixed(32))
def test_initiation_round_trip(message: Initiation, macs: bytes) -> None:
    data = message.encode() + macs
    assert Initiation.decode_untrusted(data) == message
    seen = Wireguard(data)
    assert seen.message_type == 1
    assert seen.reserved_zero == 0
    assert seen.sender_index == message.sender
    assert seen.unencrypted_ephemeral == message.ephemeral
    assert seen.encrypted_static == message.static
    assert seen.encrypted_timestamp == message.timestamp
    assert seen.mac1 + seen.mac2 == macs


@given(message=responses, macs=fixed(32))
def test_response_round_trip(message: Response, macs: bytes) -> None:
    data = message.encode() + macs
    assert Response.decode_untrusted(data) == message
    seen = Wireguard(data)
    assert seen.message_type == 2
    assert (seen.sender_index, seen.receiver_index) == (message.sender, message.receiver)
    assert seen.unencrypted_ephemeral == message.ephemeral
    assert seen.encrypted_nothing == message.empty
    assert seen.mac1 + seen.mac2 == macs


@given(message=cookie_replies)
def test_cookie_reply_round_trip(message: CookieReply) -> None:
    data = message.encode()
    assert CookieReply.decode_untrusted(data) == message
    seen = Wireguard(data)
    assert seen.message_type == 3
    assert seen.receiver_index == message.receiver
    assert (seen.nonce, seen.encrypted_cookie) == (message.nonce, message.cookie)


@pytest.mark.parametrize(("decode", "length"), DECODERS)
def test_only_the_exact_length_is_a_message(decode: Callable[[bytes], object], length: int) -> None:
    kind = {INITIATION_LEN: 1, RESPONSE_LEN: 2, COOKIE_REPLY_LEN: 3}[length]
    whole = struct.pack("<I", kind).ljust(length, b"x")
    decode(whole)
    for wrong in [*(whole[:size] for size in range(length)), whole + b"x", whole + bytes(1000)]:
        with pytest.raises(MessageError):
            decode(wrong)


@pytest.mark.parametrize(("decode", "length"), DECODERS)
@given(data=st.data())
def test_random_bytes_decode_or_are_refused(
    decode: Callable[[bytes], object], length: int, data: st.DataObject
) -> None:
    bytes_ = data.draw(st.one_of(st.binary(max_size=200), fixed(length)))
    with contextlib.suppress(MessageError):  # nothing else may leave a decoder
        decode(bytes_)


@pytest.mark.parametrize(("decode", "length"), DECODERS)
def test_reserved_bytes_must_be_zero(decode: Callable[[bytes], object], length: int) -> None:
    kind = {INITIATION_LEN: 1, RESPONSE_LEN: 2, COOKIE_REPLY_LEN: 3}[length]
    for at in (1, 2, 3):
        message = bytearray(struct.pack("<I", kind).ljust(length, b"x"))
        message[at] = 1
        with pytest.raises(MessageError):
            decode(bytes(message))


def test_tai64n_labels_compare_like_times() -> None:
    """https://cr.yp.to/libtai/tai64.html: 1970 in TAI is 4000000000000000, and Unix time is 10 s behind."""
    assert tai64n(0, 0).hex() == "400000000000000a" + "00000000"
    times = [(1, 0), (1, 1 << 24), (1, 999_999_999), (2, 0), (1_700_000_000, 5), (1 << 33, 0)]
    labels = [tai64n(*time) for time in times]
    assert labels == sorted(labels)
    assert len({len(label) for label in labels} | {12}) == 1


def test_tai64n_hides_the_fine_clock() -> None:
    assert tai64n(1, 0) == tai64n(1, (1 << 24) - 1)
    assert tai64n(1, 1 << 24) > tai64n(1, 0)
