"""Messages between two `raven-wg` devices, inside transport messages, where WireGuard carries IP packets.

They are sealed like packets, so they are authentic, in the replay window and never older than the keys. An IP
packet starts with a 4 or a 6 in its upper four bits; these start with a 0, so that every other implementation
drops them as what they are to it: no packet. None is sent to a peer unless the control plane has said that
the other end is a `raven-wg` (`raven_probes=true`); a plain peer sees nothing but WireGuard.

What stands after the last field is padding and means nothing.
"""

import struct
from typing import NamedTuple, Self

# - u8  type: 1 probe, 2 answer
# - u8  zero, three times
# - u32 size of the probe in bytes, as plaintext, little-endian
# - u64 token of the search it belongs to
_PROBE = struct.Struct("<B3xIQ")
# - u8  type: 3 report on superframes
# - u8  zero, three times
# - u32 index of the keypair, as the frames carry it
# - u32 number of frames that were sent, as far as is known
# - u32 number of them that were opened
_REPORT = struct.Struct("<B3xIII")
TYPE_PROBE, TYPE_ANSWER, TYPE_REPORT = 1, 2, 3
PROBE_MIN = _PROBE.size


class Probe(NamedTuple):
    """A question whether `size` bytes arrive, or the answer that they did."""

    size: int
    token: int

    def encode(self) -> bytes:
        """The question, of exactly `size` bytes."""
        return _PROBE.pack(TYPE_PROBE, self.size, self.token).ljust(self.size, b"\0")

    def encode_answer(self) -> bytes:
        return _PROBE.pack(TYPE_ANSWER, self.size, self.token)


class Report(NamedTuple):
    """What arrived of the superframes that the other end sealed under one keypair."""

    receiver: int
    reached: int
    opened: int

    def encode(self) -> bytes:
        return _REPORT.pack(TYPE_REPORT, *self)

    @classmethod
    def decode_untrusted(cls, message: memoryview) -> Self:
        """The report in what `is_inband` with TYPE_REPORT."""
        return cls._make(_REPORT.unpack_from(message)[1:])


def is_inband(packet: memoryview) -> bool:
    """Whether an opened transport message is one of these, rather than an IP packet or rubbish."""
    return packet[0] in (TYPE_PROBE, TYPE_ANSWER, TYPE_REPORT) and len(packet) >= PROBE_MIN


def decode_untrusted(packet: memoryview) -> tuple[int, Probe] | None:
    """Type and content of a probe or an answer; None when it contradicts itself.

    A probe that is shorter than it says was not sent by us, and an answer to it would prove nothing.
    """
    kind, size, token = _PROBE.unpack_from(packet)
    if kind == TYPE_PROBE and size != len(packet):
        return None
    return kind, Probe(size, token)
