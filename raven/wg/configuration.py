"""What a WireGuard device can be told and what it tells: the model behind the UAPI, as plain values.

Above stand the UAPI codec and whoever configures a device (`raven.net.device`, for kernel and userspace
alike); below only keys and endpoints. The running agent imports it, so it must stay light: no cryptography.
"""

import enum
import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from raven.errors import RavenError
from raven.keys import PresharedKey, PrivateKey, PublicKey
from raven.wg.endpoint import Endpoint

IPNetwork = IPv4Network | IPv6Network

KEEPALIVE_MAX = 65535  # seconds; the UAPI's and netlink's field is a u16
NO_PRIVATE_KEY = PrivateKey(bytes(32))  # setting it removes the device's key
NO_PRESHARED_KEY = PresharedKey(bytes(32))  # WireGuard's spelling of "no PSK"


class SuperframeCipher(enum.StrEnum):
    """What seals superframes. Both ends are told the same one; where they were not, none authenticates."""

    AES256GCM = "aes256gcm"
    CHACHA20POLY1305 = "chacha20poly1305"


NO_SUPERFRAMES = "off"  # in place of a cipher: plain WireGuard packets alone
_SUPERFRAMES = ", ".join([*SuperframeCipher, NO_SUPERFRAMES])


class UapiError(RavenError):
    """A request the device refuses; `errno` is what the UAPI answers, the message says which key and why."""

    def __init__(self, errno: int, message: str) -> None:
        super().__init__(message)
        self.errno = errno


def _check(name: str, value: int | None, highest: int) -> None:
    if value is not None and not 0 <= value <= highest:
        raise UapiError(errno.EINVAL, f"{name}={value}: expected 0 to {highest}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerChange:
    """What to do to one peer; a field left at None stays as it is. UapiError(EINVAL) when out of range."""

    public_key: PublicKey
    remove: bool = False
    update_only: bool = False  # do nothing unless the peer exists
    preshared_key: PresharedKey | None = None  # NO_PRESHARED_KEY removes it
    endpoint: Endpoint | None = None
    keepalive: int | None = None  # seconds, 0 switches it off
    replace_allowed_ips: bool = False  # before `allowed_ips` are added
    allowed_ips: Sequence[IPNetwork] = ()  # added; a network moves here from the peer that had it
    removed_allowed_ips: Sequence[IPNetwork] = ()  # taken away if this peer has them
    # Our own, for a `raven-wg` alone; no other device understands them.
    probes: bool | None = None  # whether the other end answers probes of the path's MTU
    rekey: bool = False  # start a handshake now: the other end may have lost its keys
    # Our own: how superframes are sealed, a SuperframeCipher or NO_SUPERFRAMES. Other devices refuse it.
    superframes: str | None = None

    def __post_init__(self) -> None:
        _check("persistent_keepalive_interval", self.keepalive, KEEPALIVE_MAX)
        if self.endpoint is not None:
            _check("endpoint port", self.endpoint.port, 65535)
        if self.superframes is not None and self.superframes not in (NO_SUPERFRAMES, *SuperframeCipher):
            raise UapiError(
                errno.EINVAL, f"raven_superframes={self.superframes[:40]!r}: expected {_SUPERFRAMES}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceChange:
    """One `set`: fields first, then `replace_peers`, then the peers in order. None leaves a field alone."""

    private_key: PrivateKey | None = None  # NO_PRIVATE_KEY removes it
    listen_port: int | None = None  # 0 asks for any free port
    fwmark: int | None = None  # 0 removes the mark
    replace_peers: bool = False
    peers: Sequence[PeerChange] = ()

    def __post_init__(self) -> None:
        _check("listen_port", self.listen_port, 65535)
        _check("fwmark", self.fwmark, 0xFFFFFFFF)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerState:
    """One peer as `wg show` prints it."""

    public_key: PublicKey
    preshared_key: PresharedKey = NO_PRESHARED_KEY
    endpoint: Endpoint | None = None
    last_handshake: float = 0.0  # Unix seconds, 0 is never
    rx_bytes: int = 0  # bytes of authenticated datagrams, without UDP and IP headers
    tx_bytes: int = 0
    keepalive: int = 0  # seconds, 0 is off
    allowed_ips: Sequence[IPNetwork] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """A device as `wg show` prints it. `counters` (drops by reason) is our own and no part of equality."""

    private_key: PrivateKey = NO_PRIVATE_KEY
    listen_port: int = 0
    fwmark: int = 0
    peers: Sequence[PeerState] = ()
    counters: Mapping[str, int] = field(default_factory=dict, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerStatus:
    """What a `raven-wg` knows of one peer beside WireGuard."""

    mtu: int = 0  # bytes of the largest packet to it
    proven_mtu: int = 0  # the largest it has answered for; 0 without probes
    probes: bool = False  # it is asked
    superframes: str = NO_SUPERFRAMES  # as in PeerChange
    tx_superframes: int = 0
    rx_superframes: int = 0  # those that were opened


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a `raven-wg` knows of itself beside WireGuard."""

    mtu: int = 0  # bytes, of the link
    # By name; "" is on, else why it is off. Empty for a device that tells nothing.
    offloads: Mapping[str, str] = field(default_factory=dict)
    peers: Mapping[PublicKey, PeerStatus] = field(default_factory=dict)
    superframe_ciphers: Sequence[str] = ()  # that the host is good at, best first
