"""Superframes: one AEAD seals a whole superpacket, and its bytes travel cut into datagrams of one size.

Between two `raven-wg` that a control plane has told so; `docs/superframes.md` has the wire format and the
security argument. Here are the keys, made from a handshake for this purpose alone, and what seals and opens
one frame. Above is `peer`; fragments that do not come in one burst wait in `reassembly`.
"""

import hashlib
import struct
from collections.abc import Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from raven.wg.configuration import SuperframeCipher
from raven.wg.constants import PADDING
from raven.wg.messages import TAG_LEN
from raven.wg.packet import FRAGMENT_TYPE
from raven.wg.primitives import kdf1
from raven.wg.replay import ReplayWindow
from raven.wg.scratch import Scratch

# A fragment. Its first 32 bits are none of WireGuard's four types, so that every other device drops it.
# - u8  type = 0x52
# - u8  number of this fragment, from 0
# - u8  number of the last one
# - u8  zero
# - u32 receiver's index, as in a transport message
# - u32 counter of the frame
# - u32 tag of the counter
# - a part of the sealed frame; all parts are equally long, but the last may be shorter
FRAGMENT = struct.Struct("<IIII")
FRAGMENT_LEN: Final = FRAGMENT.size
FRAGMENTS_MAX: Final = 64

# What is sealed: this, then the superpacket, then zeros.
# - u16 payload bytes of each segment (the virtio header's gso_size)
# - u16 zero
PRELUDE = struct.Struct("<HH")
PRELUDE_LEN: Final = PRELUDE.size

# Bytes before an opened frame, so that prelude and headroom together hold a virtio header (10 bytes).
HEADROOM: Final = 6
# Prelude, superpacket and padding: what fits in a chunk of scratch memory. A TCP sender's largest superpacket
# has 64 KiB less a header's room; one that is larger leaves as plain packets.
FRAME_MAX: Final = (1 << 16) - HEADROOM - TAG_LEN

# Frames under one key. A frame is at most 2^12 blocks, so a key seals 2^36: AES-GCM's advantage over a random
# function stays below 2^72 / 2^129 = 2^-57, the margin of RFC 9001. That is 1 TiB, 60 Gb/s for all of
# REKEY_AFTER_TIME; what exceeds it leaves as plain packets.
FRAMES_MAX: Final = 1 << 24

_LABEL: Final = b"raven superframes v1 "  # in front of the cipher's name
_NONCE = struct.Struct("<4xQ")
_TAG = struct.Struct("<I")


_AEADS: Final[dict[SuperframeCipher, type[AESGCM] | type[ChaCha20Poly1305]]] = {
    SuperframeCipher.AES256GCM: AESGCM,
    SuperframeCipher.CHACHA20POLY1305: ChaCha20Poly1305,
}


class FrameSealer:
    """One direction of one keypair, the end that sends."""

    __slots__ = ("_encrypt_into", "_index", "_tag_of", "sent")

    def __init__(self, cipher: SuperframeCipher, key: bytes, tag_key: bytes, *, index: int) -> None:
        self._encrypt_into = _AEADS[cipher](key).encrypt_into
        self._tag_of = hashlib.blake2s(key=tag_key, digest_size=_TAG.size)
        self._index = index
        self.sent = 0  # counter of the next frame

    def can_seal(self) -> bool:
        return self.sent < FRAMES_MAX

    def seal(
        self, plain: memoryview, stride: int, most: int, *, room: memoryview, scratch: Scratch
    ) -> list[memoryview]:
        """The fragments of one frame, `stride` bytes each but the last, in runs of at most `most` fragments.

        `plain` is prelude, superpacket and padding, of a length that `frame_size` gave. `room` is memory for
        the sealed frame, free again on return. Ask `can_seal` before.
        """
        from raven.wg.fragments import cut

        counter = self.sent
        self.sent += 1
        sealed = room[: len(plain) + TAG_LEN]
        part = stride - FRAGMENT_LEN
        count = -(-len(sealed) // part)
        header = FRAGMENT.pack(
            FRAGMENT_TYPE | count - 1 << 16, self._index, counter, _tag(self._tag_of, counter)
        )
        self._encrypt_into(_NONCE.pack(counter), plain, header, sealed)

        return cut(sealed, header, stride, most, scratch)


class FrameOpener:
    """One direction of one keypair, the end that receives."""

    __slots__ = ("_decrypt_into", "_tag_of", "opened", "reached", "reported", "window")

    def __init__(self, cipher: SuperframeCipher, key: bytes, tag_key: bytes) -> None:
        self._decrypt_into = _AEADS[cipher](key).decrypt_into
        self._tag_of = hashlib.blake2s(key=tag_key, digest_size=_TAG.size)
        self.window = ReplayWindow()
        self.reached = 0  # all frames that are known to have been sent have lower counters
        self.opened = 0  # frames
        self.reported = (0, 0)  # `reached` and `opened` of the last report

    def expects(self, counter: int, tag: int) -> bool:
        """Whether the other end did send a frame with this counter; asked before anything is kept of it."""
        if counter >= FRAMES_MAX or _tag(self._tag_of, counter) != tag:
            return False
        if counter >= self.reached:
            self.reached = counter + 1
        return True

    def open(self, parts: Sequence[memoryview | bytes], header: bytes, scratch: Scratch) -> memoryview | None:
        """The plaintext of the frame whose parts these are, behind HEADROOM; None if it is a forgery.

        `header` is the one of fragment 0. The counter is `expects`ed and new. What is returned is
        writable: HEADROOM bytes that mean nothing, then the plaintext.
        """
        sealed = b"".join(parts)
        size = len(sealed) - TAG_LEN
        if size <= PRELUDE_LEN or size > FRAME_MAX:
            return None
        counter = FRAGMENT.unpack(header)[2]
        whole, _ = scratch.run(1, HEADROOM + size, 0)
        plain = whole[HEADROOM : HEADROOM + size]
        try:
            self._decrypt_into(_NONCE.pack(counter), sealed, header, plain)
        except InvalidTag:
            return None
        self.window.mark(counter)
        self.opened += 1
        return whole[: HEADROOM + size]


class Superframes:
    """Both directions of one keypair under one cipher. Made once for each: no counter ever starts over."""

    __slots__ = ("opener", "reported_opened", "reported_reached", "sealer")

    def __init__(
        self, cipher: SuperframeCipher, exporter: bytes, *, initiator: bool, remote_index: int
    ) -> None:
        secret = kdf1(exporter, _LABEL + cipher.encode())
        ours, theirs = (b"initiator", b"responder") if initiator else (b"responder", b"initiator")
        self.sealer = FrameSealer(
            cipher, kdf1(secret, b"key " + ours), kdf1(secret, b"tag " + ours), index=remote_index
        )
        self.opener = FrameOpener(cipher, kdf1(secret, b"key " + theirs), kdf1(secret, b"tag " + theirs))
        # What the other end has reported of frames that we sent.
        self.reported_reached = 0
        self.reported_opened = 0


def frame_size(superpacket: int, part: int) -> int:
    """How long the plaintext for a superpacket of that many bytes is; `part` is what a fragment carries.

    A multiple of PADDING, as WireGuard hides lengths, and never such that the last fragment carries less than
    that.
    """
    size = -(-(PRELUDE_LEN + superpacket) // PADDING) * PADDING
    return size + PADDING if 0 < (size + TAG_LEN) % part < PADDING else size


def _tag(keyed: hashlib.blake2s, counter: int) -> int:
    state = keyed.copy()
    state.update(_NONCE.pack(counter))
    value: int = _TAG.unpack(state.digest())[0]
    return value
