"""Published vectors for every primitive, each with its source, and the failures that must be ours."""

import hashlib

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from raven.keys import PrivateKey
from raven.wg.primitives import (
    AuthenticationError,
    DhPrivateKey,
    WeakKeyError,
    aead_open,
    aead_seal,
    equal,
    hash_,
    hchacha20,
    kdf1,
    kdf2,
    kdf3,
    mac,
    xaead_open,
    xaead_seal,
)
from tests.wg.points import LOW_ORDER

SUNSCREEN = (
    b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
    b"sunscreen would be it."
)


def h(text: str) -> bytes:
    return bytes.fromhex(text)


def test_blake2s() -> None:
    """RFC 7693, appendix B."""
    assert hash_(b"abc") == h("508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982")
    assert hash_(b"a", b"bc") == hash_(b"abc")


def test_keyed_blake2s() -> None:
    """Keyed BLAKE2s with 16 bytes of output: no published list uses that length, so the reference algorithm's
    known-answer list (https://github.com/BLAKE2/BLAKE2, testvectors/blake2s-kat.txt, first entry) at 32 bytes
    checks the keying, and the length against it must change everything (it is in the parameter block)."""
    key = bytes(range(32))
    full = hashlib.blake2s(b"", key=key).hexdigest()
    assert full == "48a8997da407876b3d79c0d92325ad3b89cbb754d86ab71aee047ad345fd2c49"
    assert mac(key, b"") == hashlib.blake2s(b"", key=key, digest_size=16).digest()
    assert mac(key, b"") != h(full)[:16]


@pytest.mark.parametrize(
    ("key", "data", "t1", "t2", "t3"),
    [
        (
            "746573742d6b6579",
            "746573742d696e707574",
            "6f0e5ad38daba1bea8a0d213688736f19763239305e0f58aba697f9ffc41c633",
            "df1194df20802a4fe594cde27e92991c8cae66c366e8106aaa937a55fa371e8a",
            "fac6e2745a325f5dc5d11a5b165aad08b0ada28e7b4e666b7c077934a4d76c24",
        ),
        (
            "776972656775617264",
            "776972656775617264",
            "491d43bbfdaa8750aaf535e334ecbfe5129967cd64635101c566d4caefda96e8",
            "1e71a379baefd8a79aa4662212fcafe19a23e2b609a3db7d6bcba8f560e3d25f",
            "31e1ae48bddfbe5de38f295e5452b1909a1b4e38e183926af3780b0c1e1f0160",
        ),
        (
            "",
            "",
            "8387b46bf43eccfcf349552a095d8315c4055beb90208fb1be23b894bc2ed5d0",
            "58a0e5f6faefccf4807bff1f05fa8a9217945762040bcec2f4b4a62bdfe0e86e",
            "0ce6ea98ec548f8e281e93e32db65621c45eb18dc6f0a7ad94178610a2f7338e",
        ),
    ],
)
def test_kdf(key: str, data: str, t1: str, t2: str, t3: str) -> None:
    """wireguard-go, device/kdf_test.go."""
    expected = (h(t1), h(t2), h(t3))
    assert kdf3(h(key), h(data)) == expected
    assert kdf2(h(key), h(data)) == expected[:2]
    assert kdf1(h(key), h(data)) == expected[0]


def test_chacha20_poly1305() -> None:
    """RFC 8439, section 2.8.2: the library that the data path calls."""
    key = bytes(range(0x80, 0xA0))
    nonce = h("070000004041424344454647")
    associated = h("50515253c0c1c2c3c4c5c6c7")
    sealed = h(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d6"
        "3dbea45e8ca9671282fafb69da92728b1a71de0a9e060b2905d6a5b67ecd3b36"
        "92ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b6116"
        "1ae10b594f09e26a7e902ecbd0600691"
    )
    assert ChaCha20Poly1305(key).encrypt(nonce, SUNSCREEN, associated) == sealed
    out = bytearray(len(SUNSCREEN))
    assert ChaCha20Poly1305(key).decrypt_into(nonce, sealed, associated, out) == len(out)
    assert out == SUNSCREEN


def test_hchacha20() -> None:
    """draft-irtf-cfrg-xchacha-03, section 2.2.1."""
    subkey = hchacha20(bytes(range(32)), h("000000090000004a0000000031415927"))
    assert subkey == h("82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc")


def test_xchacha20_poly1305() -> None:
    """draft-irtf-cfrg-xchacha-03, appendix A.3.1."""
    key = bytes(range(0x80, 0xA0))
    nonce = bytes(range(0x40, 0x58))
    associated = h("50515253c0c1c2c3c4c5c6c7")
    sealed = h(
        "bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
        "731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
        "2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
        "21f9664c97637da9768812f615c68b13b52e"
        "c0875924c1c7987947deafd8780acf49"
    )
    assert xaead_seal(key, nonce, SUNSCREEN, associated) == sealed
    assert xaead_open(key, nonce, sealed, associated) == SUNSCREEN
    with pytest.raises(AuthenticationError):
        xaead_open(key, nonce, sealed, associated + b"\0")


@pytest.mark.parametrize(
    ("private", "public", "shared"),
    [
        (  # RFC 7748, section 5.2, first vector
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (  # section 5.2, second vector: the peer's key has its top bit set
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
        (  # section 6.1, Bob's side
            "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
            "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742",
        ),
    ],
)
def test_x25519(private: str, public: str, shared: str) -> None:
    """RFC 7748."""
    assert DhPrivateKey(PrivateKey.clamped(h(private))).exchange(h(public)) == h(shared)


@pytest.mark.parametrize("point", LOW_ORDER)
def test_low_order_points_are_refused(point: str) -> None:
    with pytest.raises(WeakKeyError):
        DhPrivateKey(PrivateKey.clamped(bytes(range(32)))).exchange(h(point))


@given(key=st.binary(min_size=32, max_size=32), plain=st.binary(max_size=80), at=st.integers(0, 1 << 20))
def test_aead_opens_what_it_sealed_and_nothing_else(key: bytes, plain: bytes, at: int) -> None:
    sealed = aead_seal(key, plain, b"hash")
    assert aead_open(key, sealed, b"hash") == plain
    bad = bytearray(sealed)
    bad[at % len(bad)] ^= 1 << at % 8
    with pytest.raises(AuthenticationError):
        aead_open(key, bytes(bad), b"hash")
    with pytest.raises(AuthenticationError):
        aead_open(key, sealed, b"hush")
    with pytest.raises(AuthenticationError):
        aead_open(key, sealed[:-1], b"hash")


def test_keys_stay_out_of_reprs() -> None:
    key = DhPrivateKey(PrivateKey.clamped(bytes(range(32))))
    assert bytes(range(8, 16)).hex() not in repr(key)


def test_equal() -> None:
    assert equal(b"x" * 16, b"x" * 16)
    assert not equal(b"x" * 16, b"x" * 15 + b"y")
