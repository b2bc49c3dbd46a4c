"""The symmetric state against a published Noise vector, and WireGuard's own starting points."""

import struct
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from raven.keys import PrivateKey
from raven.wg.constants import CONSTRUCTION, IDENTIFIER
from raven.wg.noise import SymmetricState
from raven.wg.primitives import DhPrivateKey, hash_

# cacophony's vectors, protocol Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s
# (https://github.com/haskell-cryptography/cacophony, vectors/cacophony.txt; snow tests with it too)
PROLOGUE: Final = bytes.fromhex("4a6f686e2047616c74")
PSK: Final = bytes.fromhex("54686973206973206d7920417573747269616e20706572737065637469766521")
INIT_STATIC: Final = "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1"
INIT_EPHEMERAL: Final = "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a"
RESP_STATIC: Final = "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893"
RESP_EPHEMERAL: Final = "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b"
MESSAGES: Final = [
    (
        "4c756477696720766f6e204d69736573",
        "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944001e21de9f98ddd8e2ad57527207feb5"
        "6253c9c94a9e496782ecfcb2a75fbcaf1b52948cc48daefe660c62119ab5000980c84831215f2441eba616548e832985"
        "464cf17e51ee93109008399a21f7e13f",
    ),
    (
        "4d757272617920526f746862617264",
        "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843cb765f2caef0751b8f007572dab03222"
        "17755c0632f365717edbf34d33e87a",
    ),
    ("462e20412e20486179656b", "8153ca9833bc3c1b91a7e66e5f4d4f5b59bf9e64c2f20d15f0bba7"),
    ("4361726c204d656e676572", "07af0c9c86e1b4e80f36b04ff7688d51141af3debd0332f0a705ef"),
    (
        "4a65616e2d426170746973746520536179",
        "6ab1467c0448cc78394494abaaf23afce0e234315d6e2624dcbfa8a21c1c4d073d",
    ),
    (
        "457567656e2042f6686d20766f6e2042617765726b",
        "dfc346c0d2296ae6cf1acf6f12b8456a1dba228cf8d8b774aacf1c47fc53aa80ebc7a4c292",
    ),
]


def key(text: str) -> DhPrivateKey:
    return DhPrivateKey(PrivateKey.clamped(bytes.fromhex(text)))


def test_ikpsk2_vector() -> None:
    """Both roles, token by token, and four transport messages."""
    static_i, ephemeral_i = key(INIT_STATIC), key(INIT_EPHEMERAL)
    static_r, ephemeral_r = key(RESP_STATIC), key(RESP_EPHEMERAL)
    initiator = SymmetricState(static_r.public, prologue=PROLOGUE)
    responder = SymmetricState(static_r.public, prologue=PROLOGUE)

    # -> e, es, s, ss
    payload, expected = map(bytes.fromhex, MESSAGES[0])
    initiator.mix_ephemeral(ephemeral_i.public)
    initiator.mix_key(ephemeral_i.exchange(static_r.public))
    sealed_static = initiator.seal(static_i.public)
    initiator.mix_key(static_i.exchange(static_r.public))
    assert ephemeral_i.public + sealed_static + initiator.seal(payload) == expected

    responder.mix_ephemeral(expected[:32])
    responder.mix_key(static_r.exchange(expected[:32]))
    assert responder.open(expected[32:80]) == static_i.public
    responder.mix_key(static_r.exchange(static_i.public))
    assert responder.open(expected[80:]) == payload

    # <- e, ee, se, psk
    payload, expected = map(bytes.fromhex, MESSAGES[1])
    responder.mix_ephemeral(ephemeral_r.public)
    responder.mix_key(ephemeral_r.exchange(ephemeral_i.public))
    responder.mix_key(ephemeral_r.exchange(static_i.public))
    responder.mix_key_and_hash(PSK)
    assert ephemeral_r.public + responder.seal(payload) == expected

    initiator.mix_ephemeral(expected[:32])
    initiator.mix_key(ephemeral_i.exchange(expected[:32]))
    initiator.mix_key(static_i.exchange(expected[:32]))
    initiator.mix_key_and_hash(PSK)
    assert initiator.open(expected[32:]) == payload

    # transport, alternating, counters from 0 in each direction
    keys = initiator.split()
    assert keys == responder.split()
    for number, (payload_hex, expected_hex) in enumerate(MESSAGES[2:]):
        nonce = struct.pack("<4xQ", number // 2)
        sealed = ChaCha20Poly1305(keys[number % 2]).encrypt(nonce, bytes.fromhex(payload_hex), b"")
        assert sealed.hex() == expected_hex


def test_wireguards_own_start() -> None:
    """The two constants that implementations hard-code (boringtun, noise/handshake.rs: INITIAL_CHAIN_*)."""
    chaining_key = hash_(CONSTRUCTION)
    assert chaining_key.hex() == "60e26daef327efc02ec335e2a025d2d016eb4206f87277f52d38d1988b78cd36"
    initial = hash_(chaining_key, IDENTIFIER)
    assert initial.hex() == "2211b361081ac566691243db458ad5322d9c6c662293e8b70ee19c65ba079ef3"


def test_a_copy_is_independent() -> None:
    state = SymmetricState(bytes(32))
    state.mix_key(b"one")
    twin = state.copy()
    twin.mix_key(b"two")
    assert state.split() != twin.split()
    assert state.split() == state.copy().split()
