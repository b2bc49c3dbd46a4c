"""The answers of the cross-platform interface, read and written; the requests are `uapi`'s.

`key=value` lines, then `errno` and an empty line; `errno=0` is success. Above: the device's socket
(`raven.dataplane.uapi`), which writes, and the client (`raven.net.device`), which reads. It only reads and
writes text.
"""

import errno
import itertools
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field

from raven.keys import PresharedKey, PrivateKey, PublicKey
from raven.wg.configuration import (
    NO_PRIVATE_KEY,
    NO_SUPERFRAMES,
    DeviceState,
    IPNetwork,
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
)

_STEP = 500  # networks that are written in one step: 2 ms


def format_get(state: DeviceState) -> str:
    """The whole answer to `get=1`, up to `errno=0` and the empty line."""
    steps = formatting_get(state)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            answer: str = end.value
            return answer


def formatting_get(state: DeviceState) -> Generator[None, None, str]:
    """`format_get` in steps of some milliseconds."""
    text: list[str] = []
    lines: list[str] = []
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
        networks = iter(peer.allowed_ips)
        while step := [f"allowed_ip={network}" for network in itertools.islice(networks, _STEP)]:
            lines += step
            if len(lines) >= _STEP:
                text.append("".join(f"{line}\n" for line in lines))
                lines.clear()
                yield
    text.append("".join(f"{line}\n" for line in lines))
    return "".join(text) + format_errno(0)


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
