import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.errors import RefusedError
from raven.pki.token import (
    ID_LEN,
    PIN_LEN,
    SECRET_LEN,
    JoinToken,
    hash_secret,
    new_token,
    parse_token_untrusted,
    secret_matches,
)
from tests.pki.material import seeded

PIN = bytes(range(PIN_LEN))
TOKEN = new_token(PIN, random=seeded())
TEXT = TOKEN.text()


@given(
    st.binary(min_size=ID_LEN, max_size=ID_LEN),
    st.binary(min_size=SECRET_LEN, max_size=SECRET_LEN),
    st.binary(min_size=PIN_LEN, max_size=PIN_LEN),
)
def test_a_token_comes_back_from_its_text(token_id: bytes, secret: bytes, pin: bytes) -> None:
    token = JoinToken(base64.urlsafe_b64encode(token_id).decode(), secret, pin)
    assert parse_token_untrusted(token.text()) == token


def test_a_token_fits_on_a_command_line() -> None:
    assert len(TEXT) == 92
    assert TEXT.replace(".", "").replace("-", "").replace("_", "").isalnum()


def test_every_truncation_is_refused_without_repeating_the_secret() -> None:
    secret = TEXT.split(".")[2]
    for cut in range(len(TEXT)):
        with pytest.raises(RefusedError) as caught:
            parse_token_untrusted(TEXT[:cut])
        assert caught.value.reason == "token-malformed"
        assert secret[:6] not in str(caught.value)


def test_the_error_says_which_part_is_cut_short() -> None:
    with pytest.raises(RefusedError, match="the token's pin has 40 characters, expected 43"):
        parse_token_untrusted(TEXT[:-3])


@pytest.mark.parametrize(
    "text",
    [
        "",
        TEXT + "A",
        TEXT + ".",
        TEXT + "=",
        TEXT + "\n",
        " " + TEXT,
        TEXT.replace("raven1", "raven2"),
        TEXT.replace("raven1", "Raven1"),
        TEXT.replace(".", ":"),
        TEXT.replace(".", "..", 1),
        "raven1." + "é" * 8 + TEXT[15:],
        "x" * 1_000_000,
    ],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(RefusedError) as caught:
        parse_token_untrusted(text)
    assert caught.value.reason == "token-malformed"


def test_a_second_spelling_of_the_same_bytes_is_refused() -> None:
    # 32 bytes are 42 whole characters and 4 bits: the last character has 4 spellings for other decoders.
    last = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    spellings = []
    for letter in last:
        try:
            spellings.append(parse_token_untrusted(TEXT[:-1] + letter).pin)
        except RefusedError:
            continue
    assert len(spellings) == len(set(spellings)) == 16


@given(
    st.text(max_size=120) | st.from_regex(r"raven1\.[\w-]{7,9}\.[\w-]{31,33}\.[\w-]{42,44}", fullmatch=True)
)
def test_what_parses_has_one_spelling(text: str) -> None:
    try:
        token = parse_token_untrusted(text)
    except RefusedError:
        return
    assert token.text() == text


def test_a_token_is_never_shown_by_accident() -> None:
    for shown in (repr(TOKEN), str(TOKEN), f"{TOKEN}"):
        assert TEXT.split(".")[2] not in shown
        assert TOKEN.id in shown
        assert repr(TOKEN.secret) not in shown


def test_only_the_secret_matches_its_hash() -> None:
    stored = hash_secret(TOKEN.secret)
    assert TOKEN.secret not in stored
    assert secret_matches(TOKEN.secret, stored)
    assert not secret_matches(TOKEN.secret[:-1] + b"\x00", stored)
    assert not secret_matches(b"", stored)
