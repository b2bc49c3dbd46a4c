"""The access token: one spelling, no secret in sight, nothing but a refusal for what is none."""

import base64
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.errors import RefusedError
from raven.pki.access_token import (
    new_access_token,
    parse_access_token_untrusted,
    token_in_credentials_untrusted,
)
from raven.pki.token import encode

TOKEN = new_access_token(random=random.Random(7).randbytes)


def test_a_token_is_read_back() -> None:
    assert parse_access_token_untrusted(TOKEN.text()) == TOKEN
    assert token_in_credentials_untrusted(f"Bearer {TOKEN.text()}") == TOKEN
    assert token_in_credentials_untrusted(f"bearer  {TOKEN.text()} ") == TOKEN
    basic = base64.b64encode(f"whoever:{TOKEN.text()}".encode()).decode()
    assert token_in_credentials_untrusted(f"Basic {basic}") == TOKEN


def test_its_secret_is_not_shown() -> None:
    assert encode(TOKEN.secret) not in f"{TOKEN!r} {TOKEN}"


def test_its_id_is_no_option_of_a_command() -> None:
    answers = [b"\xf8" + bytes(5), b"\x00" * 6, b"\x01" * 24]
    assert not new_access_token(random=lambda count: answers.pop(0)).id.startswith("-")


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Basic",
        "Basic !!",
        "Digest x",
        f"Bearer {TOKEN.text()}x",
        "Bearer raven1.a.b.c",
        "x" * 9999,
    ],
)
def test_other_credentials_are_refused_without_repeating_them(value: str) -> None:
    with pytest.raises(RefusedError) as caught:
        token_in_credentials_untrusted(value)
    assert caught.value.reason == "token-malformed"
    assert TOKEN.text() not in str(caught.value)


@given(st.text(max_size=300))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    for value in (text, f"Bearer {text}", f"Basic {text}"):
        with pytest.raises(RefusedError):
            token_in_credentials_untrusted(value)
