"""What a device has done and its driver has not yet taken: datagrams, packets, events, drops.

Shared by all peers of a device, so that nothing is handed up through return values. It only collects.
"""

import enum
from typing import NamedTuple

from raven.wg.constants import PADDING
from raven.wg.endpoint import Endpoint
from raven.wg.events import Event
from raven.wg.messages import TRANSPORT_OVERHEAD
from raven.wg.scratch import CHUNK, Scratch

# Bytes of a packet that goes the short way of a lone one: any that a link of 1500 bytes, or one of jumbo
# frames, has.
LONE_MAX = 9216


class Transmit(NamedTuple):
    """Datagrams for one endpoint: `data` cut every `segment_size` bytes, the last one may be shorter.

    At most 64 segments and 65,507 bytes, so that one UDP_SEGMENT call can take it. `data` lives in the
    device's scratch: valid until the next call of send, receive or handle_timeout after the drain.
    """

    endpoint: Endpoint
    segment_size: int  # bytes
    data: memoryview | bytes
    tos: int = 0  # IP TOS / traffic class of the outer header: DSCP and ECN
    hops: int = 0  # TTL / hop limit of the outer header; 0: the system's
    whole: bool = False  # arrives in one piece or not at all: "don't fragment", whatever the host knows


class Drop(enum.StrEnum):
    """Why something was dropped: the keys of `Device.counters`."""

    # From the network
    MALFORMED = "malformed"  # no message has this type and size
    NO_PRIVATE_KEY = "no-private-key"  # a handshake came and the device has no key
    MAC1 = "mac1"  # a handshake by someone who does not know our public key
    RATE_LIMITED = "rate-limited"  # under load: more handshakes than one source may send
    COOKIE_SENT = "cookie-sent"  # under load: answered with a cookie instead of work
    COOKIE_UNEXPECTED = "cookie-unexpected"  # a cookie reply that answers nothing
    AUTHENTICATION = "authentication"  # sealed bytes that do not authenticate
    WEAK_KEY = "weak-key"  # a point of low order, theirs or a configured peer's
    UNKNOWN_PEER = "unknown-peer"  # a handshake by a key that is not configured
    UNKNOWN_INDEX = "unknown-index"  # for a handshake or keypair that is not, or no longer, ours
    HANDSHAKE_REPLAY = "handshake-replay"  # an initiation no newer than one we answered
    HANDSHAKE_FLOOD = "handshake-flood"  # initiations of one peer within 20 ms
    REPLAYED = "replayed"  # a transport counter seen before, or behind the window
    KEYPAIR_EXPIRED = "keypair-expired"  # a transport message under keys past REJECT_AFTER_TIME or _MESSAGES
    INNER_MALFORMED = "inner-malformed"  # authentic, and not an IP packet of the length it claims
    SOURCE_NOT_ALLOWED = "source-not-allowed"  # authentic, from an inner address that is not this peer's
    SUPERFRAME_OFF = "superframe-off"  # a fragment under a peer's keys that is to send none
    SUPERFRAME_TAG = "superframe-tag"  # a fragment whose index is right and whose tag is not
    SUPERFRAME_FRAGMENT = "superframe-fragment"  # one that came twice or contradicts others, or found no room
    SUPERFRAME_INCOMPLETE = "superframe-incomplete"  # a frame given up for want of fragments or of its keys
    # From above
    NOT_IP = "not-ip"  # neither IPv4 nor IPv6
    NO_PEER = "no-peer"  # no peer's allowed IPs hold the destination
    LOOP = "routing-loop"  # a tunnel inside a tunnel inside ..., again and again
    NO_ENDPOINT = "no-endpoint"  # nobody knows where that peer is
    TOO_LARGE = "too-large"  # does not fit the path, and its sender was told so; or no datagram at all
    STAGED_FULL = "staged-full"  # too many packets wait for a handshake
    HANDSHAKE_FAILED = "handshake-failed"  # waited for a handshake that was given up, or whose peer went


class Outbox:
    """The lists a driver drains, and the memory they point into."""

    __slots__ = (
        "_packets_taken",
        "_transmits_taken",
        "counters",
        "events",
        "inbound",
        "lone_inbound",
        "lone_outbound",
        "outbound",
        "packets",
        "sealed",
        "superpackets",
        "transmits",
    )

    def __init__(self) -> None:
        self.transmits: list[Transmit] = []
        self.packets: list[memoryview] = []
        self.superpackets: list[tuple[int, memoryview]] = []
        self.events: list[Event] = []
        self.counters: dict[str, int] = {}
        self.outbound = Scratch()  # datagrams to send
        self.inbound = Scratch()  # decrypted packets
        # The same for a packet that comes alone: valid until the next one.
        self.lone_outbound = memoryview(bytearray(LONE_MAX + PADDING + TRANSPORT_OVERHEAD))
        self.lone_inbound = memoryview(bytearray(LONE_MAX))
        self.sealed = memoryview(bytearray(CHUNK))  # one superframe, before it is cut
        self._transmits_taken = False
        self._packets_taken = False

    def drop(self, reason: str, count: int = 1) -> None:
        self.counters[reason] = self.counters.get(reason, 0) + count

    def begin(self) -> None:
        """Call first in whatever may produce datagrams: those that were taken may be overwritten."""
        if self._transmits_taken:
            self._transmits_taken = False
            self.outbound.reset()

    def begin_inbound(self) -> None:
        """The same for packets."""
        self.begin()
        if self._packets_taken:
            self._packets_taken = False
            self.inbound.reset()

    def take_transmits(self) -> list[Transmit]:
        transmits, self.transmits = self.transmits, []
        self._transmits_taken = True
        return transmits

    def take_packets(self) -> list[memoryview]:
        packets, self.packets = self.packets, []
        self._packets_taken = True
        return packets

    def take_superpackets(self) -> list[tuple[int, memoryview]]:
        superpackets, self.superpackets = self.superpackets, []
        return superpackets

    def take_events(self) -> list[Event]:
        events, self.events = self.events, []
        return events
