import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.keys import KEY_LEN, PresharedKey, PrivateKey, PublicKey

KINDS = [PublicKey, PrivateKey, PresharedKey]
Kind = type[PublicKey] | type[PrivateKey] | type[PresharedKey]


@given(st.binary(min_size=KEY_LEN, max_size=KEY_LEN))
def test_both_spellings_come_back(raw: bytes) -> None:
    for kind in KINDS:
        key = kind(raw)
        assert kind.from_base64(key.to_base64()) == key
        assert kind.from_hex(key.hex()) == key
        assert type(kind.from_hex(key.hex())) is kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, 31, 33])
def test_another_length_is_refused(kind: Kind, size: int) -> None:
    raw = bytes(size)
    with pytest.raises(ValueError, match="32 bytes"):
        kind(raw)
    with pytest.raises(ValueError, match="32 bytes"):
        kind.from_base64(base64.b64encode(raw).decode())
    with pytest.raises(ValueError, match="32 bytes"):
        kind.from_hex(raw.hex())


@given(st.text(max_size=60))
def test_any_other_text_is_a_value_error(text: str) -> None:
    for read in (PublicKey.from_base64, PublicKey.from_hex):
        try:
            key = read(text)
        except ValueError:
            continue
        assert len(key) == KEY_LEN


@pytest.mark.parametrize("kind", [PrivateKey, PresharedKey])
def test_a_secret_key_is_never_shown(kind: type[PrivateKey] | type[PresharedKey]) -> None:
    key = kind(bytes(range(32)))
    shown = [repr(key), str(key), f"{key}", f"{key:>80}", f"{key!r}", repr({"key": key})]
    for text in shown:
        assert "hidden" in text
        for secret in (key.to_base64(), key.hex(), "\\x01\\x02"):
            assert secret not in text


def test_a_public_key_shows_its_beginning() -> None:
    assert repr(PublicKey(bytes(32))) == "PublicKey(AAAAAAAA…)"


def test_clamping_follows_rfc_7748() -> None:
    # RFC 7748, section 5: the three low bits of the first byte and the high bit of the last are cleared, the
    # second highest bit of the last is set.
    key = PrivateKey.clamped(b"\xff" * 32)
    assert (key[0], key[31]) == (0xF8, 0x7F)
    assert PrivateKey.clamped(bytes(32))[31] == 0x40
    assert PrivateKey.clamped(key) == key
