"""One frame: sealed, cut, joined, opened; and what its keys and counters are."""

import itertools
import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from raven.wg.configuration import SuperframeCipher
from raven.wg.scratch import Scratch
from raven.wg.superframe import (
    FRAGMENT,
    FRAGMENT_LEN,
    FRAME_MAX,
    FRAMES_MAX,
    HEADROOM,
    Superframes,
    frame_size,
)
from tests.wg import reference

EXPORTER = b"\x05" * 32
AES, CHACHA = SuperframeCipher.AES256GCM, SuperframeCipher.CHACHA20POLY1305
ROOM = memoryview(bytearray(1 << 16))


def ends(cipher: SuperframeCipher = AES) -> tuple[Superframes, Superframes]:
    """Initiator, with 7 as the responder's index, and responder."""
    return (
        Superframes(cipher, EXPORTER, initiator=True, remote_index=7),
        Superframes(cipher, EXPORTER, initiator=False, remote_index=8),
    )


def seal(frames: Superframes, plain: bytes, *, stride: int = 1452, most: int = 45) -> list[bytes]:
    """The datagrams of one frame."""
    runs = frames.sealer.seal(memoryview(bytearray(plain)), stride, most, room=ROOM, scratch=Scratch())
    assert all(len(run) <= stride * most for run in runs)
    return [bytes(run[at : at + stride]) for run in runs for at in range(0, len(run), stride)]


def opened(frames: Superframes, datagrams: list[bytes]) -> bytes | None:
    header = datagrams[0][:FRAGMENT_LEN]
    _, _, counter, tag = FRAGMENT.unpack(header)
    assert frames.opener.expects(counter, tag)
    room = frames.opener.open([data[FRAGMENT_LEN:] for data in datagrams], header, Scratch())
    return None if room is None else bytes(room[HEADROOM:])


@given(
    cipher=st.sampled_from(SuperframeCipher),
    size=st.integers(1, FRAME_MAX // 16 - 1),
    stride=st.integers(100, 9000),
    most=st.integers(1, 64),
)
def test_cut_and_joined_is_the_identity(cipher: SuperframeCipher, size: int, stride: int, most: int) -> None:
    plain = bytes(i & 0xFF for i in range(16 * size))
    a, b = ends(cipher)
    part = stride - FRAGMENT_LEN
    if -(-(len(plain) + 16) // part) > 64:
        return
    datagrams = seal(a, plain, stride=stride, most=min(most, 65507 // stride))
    assert {len(data) for data in datagrams[:-1]} <= {stride}
    assert len(datagrams[-1]) <= stride
    heads = [struct.unpack_from("<BBBBIII", data) for data in datagrams]
    assert [head[:6] for head in heads] == [(0x52, n, len(heads) - 1, 0, 7, 0) for n in range(len(heads))]
    assert len({head[6] for head in heads}) == 1, "one tag for one frame"
    assert opened(b, datagrams) == plain


@given(size=st.integers(1, 65000), part=st.integers(64, 9000))
def test_a_frame_is_padded_as_wireguard_pads_and_no_fragment_is_tiny(size: int, part: int) -> None:
    padded = frame_size(size, part)
    assert padded % 16 == 0
    assert size + 4 <= padded < size + 4 + 32
    last = (padded + 16) % part
    assert last == 0 or last >= 16


@pytest.mark.parametrize(("cipher", "aead"), [(AES, AESGCM), (CHACHA, ChaCha20Poly1305)])
def test_the_frame_is_what_the_document_says(
    cipher: SuperframeCipher, aead: type[AESGCM] | type[ChaCha20Poly1305]
) -> None:
    """Opened by hand, with keys derived by an independent HMAC."""
    secret = reference.kdf(1, EXPORTER, b"raven superframes v1 " + cipher.encode())[0]
    key = reference.kdf(1, secret, b"key initiator")[0]
    a, _ = ends(cipher)
    seal(a, bytes(16))
    datagrams = seal(a, b"sixteen bytes...", stride=48)
    sealed = b"".join(data[16:] for data in datagrams)
    assert aead(key).decrypt(struct.pack("<IQ", 0, 1), sealed, datagrams[0][:16]) == b"sixteen bytes..."


def test_no_two_keys_are_equal() -> None:
    """Each cipher, direction and purpose has its own: what one end seals the other's sealer never does."""
    sealed = {
        b"".join(data[FRAGMENT_LEN:] for data in seal(end, bytes(64)))
        for cipher in SuperframeCipher
        for end in ends(cipher)
    }
    tags = {
        FRAGMENT.unpack_from(seal(end, bytes(64))[0])[3]
        for cipher in SuperframeCipher
        for end in ends(cipher)
    }
    assert (len(sealed), len(tags)) == (4, 4)


def test_counters_never_come_twice_and_end() -> None:
    a, b = ends()
    first = [FRAGMENT.unpack_from(seal(a, bytes(32))[0])[2] for _ in range(5)]
    assert first == [0, 1, 2, 3, 4]
    a.sealer.sent = FRAMES_MAX - 1
    assert a.sealer.can_seal()
    last = seal(a, bytes(32))
    assert not a.sealer.can_seal()
    assert opened(b, last) == bytes(32)
    a.sealer.sent = FRAMES_MAX
    header = FRAGMENT.unpack_from(seal(a, bytes(32))[0])
    assert not b.opener.expects(header[2], header[3])


def test_every_byte_is_authentic() -> None:
    a, b = ends()
    datagrams = seal(a, bytes(range(160)), stride=48)
    for number, at in itertools.product(range(len(datagrams)), (16, 30)):
        if at < len(datagrams[number]):
            forged = bytearray(datagrams[number])
            forged[at] ^= 1
            assert opened(b, [*datagrams[:number], bytes(forged), *datagrams[number + 1 :]]) is None
    assert opened(b, datagrams[:-1]) is None
    assert opened(b, [datagrams[1], datagrams[0], *datagrams[2:]]) is None
    assert b.opener.opened == 0
    assert opened(b, datagrams) == bytes(range(160))


def test_who_was_told_another_cipher_opens_nothing() -> None:
    a, _ = ends(AES)
    _, b = ends(CHACHA)
    _, _, counter, tag = FRAGMENT.unpack_from(seal(a, bytes(32))[0])
    assert not b.opener.expects(counter, tag)
