"""mac1 and mac2 in both directions, the life of a cookie, and forged replies."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.errors import PeerError
from raven.keys import PrivateKey
from raven.wg.constants import COOKIE_LATENCY, COOKIE_LIFETIME
from raven.wg.cookie import CookieChecker, MacGenerator
from raven.wg.messages import CookieReply
from raven.wg.primitives import AuthenticationError, DhPrivateKey

PUBLIC = DhPrivateKey(PrivateKey.clamped(bytes(range(32)))).public
OTHER = DhPrivateKey(PrivateKey.clamped(bytes(range(1, 33)))).public
SOURCE = b"192.0.2.1 51820"
BODY = b"\x01\0\0\0" + bytes(112)


def ends(seed: int = 0) -> tuple[CookieChecker, MacGenerator]:
    return CookieChecker(PUBLIC, Random(seed).randbytes), MacGenerator(PUBLIC)


def test_mac1() -> None:
    checker, generator = ends()
    message = generator.add_macs(BODY, 0.0)
    assert len(message) == len(BODY) + 32
    assert message[-16:] == bytes(16)
    assert checker.mac1_is_valid(message)
    assert not checker.mac1_is_valid(b"\x02" + message[1:])
    assert not checker.mac1_is_valid(MacGenerator(OTHER).add_macs(BODY, 0.0))
    assert not checker.mac2_is_valid(message, SOURCE, 0.0)


def test_a_cookie_makes_mac2_valid_for_its_source_only() -> None:
    checker, generator = ends()
    message = generator.add_macs(BODY, 0.0)
    generator.cookie_reply_received(checker.reply(message, 7, SOURCE, 0.0), 0.1)
    message = generator.add_macs(BODY, 0.2)
    assert checker.mac1_is_valid(message)
    assert checker.mac2_is_valid(message, SOURCE, 0.3)
    assert not checker.mac2_is_valid(message, b"192.0.2.1 51821", 0.3)
    assert not checker.mac2_is_valid(message, b"192.0.2.9 51820", 0.3)


def test_cookies_age_on_both_sides() -> None:
    checker, generator = ends()
    message = generator.add_macs(BODY, 0.0)
    generator.cookie_reply_received(checker.reply(message, 7, SOURCE, 0.0), 0.0)
    with_cookie = generator.add_macs(BODY, COOKIE_LIFETIME - COOKIE_LATENCY - 0.01)
    assert checker.mac2_is_valid(with_cookie, SOURCE, COOKIE_LIFETIME - 0.01)
    assert not checker.mac2_is_valid(with_cookie, SOURCE, COOKIE_LIFETIME)
    assert generator.add_macs(BODY, COOKIE_LIFETIME - COOKIE_LATENCY)[-16:] == bytes(16)


def test_a_reply_is_bound_to_the_message_it_answers() -> None:
    checker, generator = ends()
    first = generator.add_macs(BODY, 0.0)
    reply = checker.reply(first, 7, SOURCE, 0.0)
    generator.add_macs(b"\x01\0\0\0" + bytes(range(112)), 1.0)
    with pytest.raises(AuthenticationError):
        generator.cookie_reply_received(reply, 1.1)
    assert generator.add_macs(BODY, 1.2)[-16:] == bytes(16)


def test_a_reply_counts_once_and_only_after_a_message() -> None:
    checker, generator = ends()
    reply = checker.reply(MacGenerator(PUBLIC).add_macs(BODY, 0.0), 7, SOURCE, 0.0)
    with pytest.raises(PeerError) as info:
        generator.cookie_reply_received(reply, 0.0)
    assert info.value.reason == "cookie-unexpected"
    generator.add_macs(BODY, 0.0)
    generator.cookie_reply_received(reply, 0.1)
    with pytest.raises(PeerError):
        generator.cookie_reply_received(reply, 0.2)


@given(nonce=st.binary(min_size=24, max_size=24), cookie=st.binary(min_size=32, max_size=32))
def test_forged_replies_leave_the_way_open_for_the_real_one(nonce: bytes, cookie: bytes) -> None:
    checker, generator = ends()
    message = generator.add_macs(BODY, 0.0)
    with pytest.raises(AuthenticationError):
        generator.cookie_reply_received(CookieReply(7, nonce, cookie), 0.0)
    generator.cookie_reply_received(checker.reply(message, 7, SOURCE, 0.0), 0.1)
    assert checker.mac2_is_valid(generator.add_macs(BODY, 0.2), SOURCE, 0.2)
