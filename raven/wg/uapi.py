"""The cross-platform interface's text, both directions (https://www.wireguard.com/xplatform/).

`key=value` lines, an empty line ends a request or an answer, `errno=0` is success. Above: the device's
socket (`raven.dataplane.uapi`) and the client (`raven.net.device`). It only reads and writes text; it changes
no device. Two verbs are our own, so that `wg` never meets a key it does not know: `raven_counters=1` answers
drops by reason, and `raven_status=1` what a `raven-wg` knows beside WireGuard: its offloads, its peers'
paths, superframes. So are the keys `raven_probes`, `raven_rekey` and `raven_superframes` of a peer in a
`set=1`; other devices refuse them.
"""

import errno
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field

from raven.keys import PresharedKey, PrivateKey, PublicKey
from raven.wg.configuration import (
    NO_PRIVATE_KEY,
    NO_SUPERFRAMES,
    DeviceChange,
    DeviceState,
    IPNetwork,
    PeerChange,
    PeerState,
    PeerStatus,
    Status,
    UapiError,
)
from raven.wg.endpoint import Endpoint
from raven.wg.uapi_values import (
    read_bool,
    read_endpoint,
    read_key,
    read_line,
    read_network,
    read_number,
    read_signed,
    read_true,
)

GET = "get=1"
SET = "set=1"
COUNTERS = "raven_counters=1"
STATUS = "raven_status=1"

STEP = 250  # lines of a request that are parsed at once: 2 ms
REQUEST_MAX = (
    16 << 20
)  # bytes; 130,560 allowed IPs of 55 bytes are 7 MB, and no more is ever held for one client

__all__ = [
    "COUNTERS",
    "GET",
    "REQUEST_MAX",
    "SET",
    "STATUS",
    "UapiError",
    "format_counters",
    "format_errno",
    "format_get",
    "format_set",
    "format_status",
    "parse_counters_untrusted",
    "parse_errno_untrusted",
    "parse_get_untrusted",
    "parse_set_untrusted",
    "parse_status_untrusted",
    "parsing_untrusted",
]


# Requests -----------------------------------------------------------------------------------------


@dataclass(slots=True)
class _PeerSection:
    """The lines of one peer as they come; `networks` remembers each prefix's last verdict (False: remove)."""

    public_key: PublicKey
    remove: bool = False
    update_only: bool = False
    preshared_key: PresharedKey | None = None
    endpoint: Endpoint | None = None
    keepalive: int | None = None
    replace_allowed_ips: bool = False
    superframes: str | None = None
    networks: dict[IPNetwork, bool] = field(default_factory=dict)
    probes: bool | None = None
    rekey: bool = False

    def finish(self) -> PeerChange:
        return PeerChange(
            public_key=self.public_key,
            remove=self.remove,
            update_only=self.update_only,
            preshared_key=self.preshared_key,
            endpoint=self.endpoint,
            keepalive=self.keepalive,
            replace_allowed_ips=self.replace_allowed_ips,
            allowed_ips=[network for network, add in self.networks.items() if add],
            removed_allowed_ips=[network for network, add in self.networks.items() if not add],
            probes=self.probes,
            rekey=self.rekey,
            superframes=self.superframes,
        )


def parse_set_untrusted(lines: Iterable[str]) -> DeviceChange:
    """The change that the lines after `set=1` ask for, up to an empty line or the end; UapiError otherwise.

    EINVAL: a value that cannot be read; EPROTO: a key that is unknown, misplaced, or not `key=value`.
    """
    steps = parsing_untrusted(lines)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            change: DeviceChange = end.value
            return change


def parsing_untrusted(lines: Iterable[str]) -> Generator[None, None, DeviceChange]:
    """`parse_set_untrusted` in steps: between two of them a device can do what does not wait."""
    private_key: PrivateKey | None = None
    listen_port: int | None = None
    fwmark: int | None = None
    replace_peers = False
    peers: list[_PeerSection] = []
    for number, line in enumerate(lines, 1):
        if number % STEP == 0:
            yield
        line = line.rstrip("\r\n")
        if not line:
            break
        key, value = read_line(line)
        if key == "public_key":
            peers.append(_PeerSection(read_key(PublicKey, key, value)))
        elif peers:
            _parse_peer_line(peers[-1], key, value)
        elif key == "private_key":
            private_key = read_key(PrivateKey, key, value)
        elif key == "listen_port":
            listen_port = read_number(key, value, 65535)
        elif key == "fwmark":
            fwmark = read_number(key, value, 0xFFFFFFFF)
        elif key == "replace_peers":
            replace_peers = read_true(key, value)
        else:
            raise UapiError(errno.EPROTO, f"{key}: not a key of a device")
    return DeviceChange(
        private_key=private_key,
        listen_port=listen_port,
        fwmark=fwmark,
        replace_peers=replace_peers,
        peers=[peer.finish() for peer in peers],
    )


def _parse_peer_line(peer: _PeerSection, key: str, value: str) -> None:
    if key == "allowed_ip":
        remove = value.startswith("-")
        network = read_network(key, value[1:] if remove else value)
        peer.networks.pop(network, None)  # the last mention of a prefix decides, also about the order
        peer.networks[network] = not remove
    elif key == "endpoint":
        peer.endpoint = read_endpoint(key, value)
    elif key == "preshared_key":
        peer.preshared_key = read_key(PresharedKey, key, value)
    elif key == "persistent_keepalive_interval":
        peer.keepalive = read_number(key, value, 65535)
    elif key == "replace_allowed_ips":
        peer.replace_allowed_ips = read_true(key, value)
        peer.networks.clear()
    elif key == "remove":
        peer.remove = read_true(key, value)
    elif key == "update_only":
        peer.update_only = read_true(key, value)
    elif key == "raven_probes":
        peer.probes = read_bool(key, value)
    elif key == "raven_rekey":
        peer.rekey = read_true(key, value)
    elif key == "raven_superframes":
        peer.superframes = value
    elif key == "protocol_version":
        if value != "1":
            raise UapiError(errno.EINVAL, f"{key}={value}: expected 1")
    else:
        raise UapiError(errno.EPROTO, f"{key}: not a key of a peer")


def format_set(change: DeviceChange) -> str:
    """The whole request, `set=1` to the empty line."""
    lines = [SET]
    if change.private_key is not None:
        lines.append(f"private_key={change.private_key.hex()}")
    if change.listen_port is not None:
        lines.append(f"listen_port={change.listen_port}")
    if change.fwmark is not None:
        lines.append(f"fwmark={change.fwmark}")
    if change.replace_peers:
        lines.append("replace_peers=true")
    for peer in change.peers:
        lines.append(f"public_key={peer.public_key.hex()}")
        if peer.remove:
            lines.append("remove=true")
        if peer.update_only:
            lines.append("update_only=true")
        if peer.preshared_key is not None:
            lines.append(f"preshared_key={peer.preshared_key.hex()}")
        if peer.endpoint is not None:
            lines.append(f"endpoint={peer.endpoint}")
        if peer.keepalive is not None:
            lines.append(f"persistent_keepalive_interval={peer.keepalive}")
        if peer.probes is not None:
            lines.append(f"raven_probes={str(peer.probes).lower()}")
        if peer.rekey:
            lines.append("raven_rekey=true")
        if peer.replace_allowed_ips:
            lines.append("replace_allowed_ips=true")
        if peer.superframes is not None:
            lines.append(f"raven_superframes={peer.superframes}")
        lines.extend(f"allowed_ip=-{network}" for network in peer.removed_allowed_ips)
        lines.extend(f"allowed_ip={network}" for network in peer.allowed_ips)
    return "\n".join(lines) + "\n\n"


# Answers ------------------------------------------------------------------------------------------


def format_get(state: DeviceState) -> str:
    """The whole answer to `get=1`, up to `errno=0` and the empty line."""
    lines = []
    if state.private_key != NO_PRIVATE_KEY:
        lines.append(f"private_key={state.private_key.hex()}")
    if state.listen_port:
        lines.append(f"listen_port={state.listen_port}")
    if state.fwmark:
        lines.append(f"fwmark={state.fwmark}")
    for peer in state.peers:
        seconds = int(peer.last_handshake)
        nanoseconds = int((peer.last_handshake - seconds) * 1e9)
        lines.append(f"public_key={peer.public_key.hex()}")
        lines.append(f"preshared_key={peer.preshared_key.hex()}")
        lines.append("protocol_version=1")
        if peer.endpoint is not None:
            lines.append(f"endpoint={peer.endpoint}")
        lines.append(f"last_handshake_time_sec={seconds}")
        lines.append(f"last_handshake_time_nsec={nanoseconds}")
        lines.append(f"tx_bytes={peer.tx_bytes}")
        lines.append(f"rx_bytes={peer.rx_bytes}")
        lines.append(f"persistent_keepalive_interval={peer.keepalive}")
        lines.extend(f"allowed_ip={network}" for network in peer.allowed_ips)
    return "".join(f"{line}\n" for line in lines) + format_errno(0)


def format_errno(number: int) -> str:
    """The whole answer to `set=1`, or to a request that failed."""
    return f"errno={number}\n\n"


def format_counters(counters: Mapping[str, int]) -> str:
    """The whole answer to `raven_counters=1`."""
    return "".join(f"{reason}={count}\n" for reason, count in sorted(counters.items())) + format_errno(0)


def format_status(status: Status) -> str:
    """The whole answer to `raven_status=1`."""
    lines = [f"mtu={status.mtu}", f"superframe_ciphers={' '.join(status.superframe_ciphers)}"]
    lines += [f"offload_{name}={reason or 'on'}" for name, reason in status.offloads.items()]
    for key, peer in status.peers.items():
        lines.append(f"public_key={key.hex()}")
        lines.append(f"mtu={peer.mtu}")
        lines.append(f"proven_mtu={peer.proven_mtu}")
        lines.append(f"probes={str(peer.probes).lower()}")
        lines.append(f"superframes={peer.superframes}")
        lines.append(f"tx_superframes={peer.tx_superframes}")
        lines.append(f"rx_superframes={peer.rx_superframes}")
    return "".join(f"{line}\n" for line in lines) + format_errno(0)


def parse_status_untrusted(text: str) -> Status:
    """The status in an answer to `raven_status=1`; UapiError as in `parse_get_untrusted`."""
    mtu = 0
    ciphers: list[str] = []
    offloads: dict[str, str] = {}
    peers: list[tuple[PublicKey, dict[str, str]]] = []
    for key, value in _answer_lines(text):
        if key == "public_key":
            peers.append((read_key(PublicKey, key, value), {}))
        elif peers:
            peers[-1][1][key] = value
        elif key == "mtu":
            mtu = read_number(key, value, 1 << 32)
        elif key == "superframe_ciphers":
            ciphers = value.split()
        elif key.startswith("offload_"):
            offloads[key.removeprefix("offload_")] = "" if value == "on" else value[:200]
    return Status(
        mtu=mtu,
        offloads=offloads,
        superframe_ciphers=tuple(ciphers),
        peers={
            key: PeerStatus(
                mtu=read_number("mtu", lines.get("mtu", "0"), 1 << 32),
                proven_mtu=read_number("proven_mtu", lines.get("proven_mtu", "0"), 1 << 32),
                probes=read_bool("probes", lines.get("probes", "false")),
                superframes=lines.get("superframes", NO_SUPERFRAMES),
                tx_superframes=read_number("tx_superframes", lines.get("tx_superframes", "0"), 1 << 64),
                rx_superframes=read_number("rx_superframes", lines.get("rx_superframes", "0"), 1 << 64),
            )
            for key, lines in peers
        },
    )


@dataclass(slots=True)
class _PeerLines:
    """One peer of an answer while its lines come."""

    public_key: PublicKey
    preshared_key: PresharedKey = field(default_factory=lambda: PresharedKey(bytes(32)))
    endpoint: Endpoint | None = None
    seconds: int = 0
    nanoseconds: int = 0
    rx_bytes: int = 0
    tx_bytes: int = 0
    keepalive: int = 0
    allowed_ips: list[IPNetwork] = field(default_factory=list)

    def finish(self) -> PeerState:
        return PeerState(
            public_key=self.public_key,
            preshared_key=self.preshared_key,
            endpoint=self.endpoint,
            last_handshake=self.seconds + self.nanoseconds / 1e9,
            rx_bytes=self.rx_bytes,
            tx_bytes=self.tx_bytes,
            keepalive=self.keepalive,
            allowed_ips=self.allowed_ips,
        )


def parse_get_untrusted(text: str) -> DeviceState:
    """The state in an answer to `get=1`; UapiError with the device's errno, or EPROTO if unreadable.

    Keys we do not know are skipped: other devices (and newer ones) report more.
    """
    private_key = NO_PRIVATE_KEY
    listen_port = 0
    fwmark = 0
    peers: list[_PeerLines] = []
    for key, value in _answer_lines(text):
        if key == "public_key":
            peers.append(_PeerLines(read_key(PublicKey, key, value)))
        elif peers:
            _parse_peer_state_line(peers[-1], key, value)
        elif key == "private_key":
            private_key = read_key(PrivateKey, key, value)
        elif key == "listen_port":
            listen_port = read_number(key, value, 65535)
        elif key == "fwmark":
            fwmark = read_number(key, value, 0xFFFFFFFF)
    return DeviceState(
        private_key=private_key,
        listen_port=listen_port,
        fwmark=fwmark,
        peers=[peer.finish() for peer in peers],
    )


def _parse_peer_state_line(peer: _PeerLines, key: str, value: str) -> None:
    if key == "allowed_ip":
        peer.allowed_ips.append(read_network(key, value))
    elif key == "preshared_key":
        peer.preshared_key = read_key(PresharedKey, key, value)
    elif key == "endpoint":
        peer.endpoint = read_endpoint(key, value)
    elif key == "last_handshake_time_sec":
        peer.seconds = read_number(key, value, 1 << 62)
    elif key == "last_handshake_time_nsec":
        peer.nanoseconds = read_number(key, value, 10**9)
    elif key == "rx_bytes":
        peer.rx_bytes = read_number(key, value, 1 << 64)
    elif key == "tx_bytes":
        peer.tx_bytes = read_number(key, value, 1 << 64)
    elif key == "persistent_keepalive_interval":
        peer.keepalive = read_number(key, value, 65535)


def parse_errno_untrusted(text: str) -> None:
    """Returns if an answer to `set=1` says success; UapiError with the device's errno otherwise."""
    for _ in _answer_lines(text):
        pass


def parse_counters_untrusted(text: str) -> dict[str, int]:
    """Drops by reason from an answer to `raven_counters=1`; UapiError as in `parse_get_untrusted`."""
    return {key: read_number(key, value, 1 << 64) for key, value in _answer_lines(text)}


def _answer_lines(text: str) -> Iterable[tuple[str, str]]:
    """The pairs before `errno`; UapiError if that is not 0, or missing (the device died answering)."""
    for line in text.splitlines():
        if not line:
            break
        key, value = read_line(line)
        if key == "errno":
            number = read_signed(key, value)
            if number != 0:
                raise UapiError(abs(number), f"the device answered errno={number}")
            return
        yield key, value
    raise UapiError(errno.EPROTO, "the device's answer ends without errno")
