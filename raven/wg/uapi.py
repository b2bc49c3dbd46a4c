"""The requests of the cross-platform interface, read and written (https://www.wireguard.com/xplatform/).

`key=value` lines, and an empty line ends a request; the answers are `uapi_answers`'s. Above: the device's
socket (`raven.dataplane.uapi`) and the client (`raven.net.device`). It only reads and writes text; it changes
no device. Two verbs are our own, so that `wg` never meets a key it does not know: `raven_counters=1` answers
drops by reason, and `raven_status=1` what a `raven-wg` knows beside WireGuard: its offloads, its peers'
paths, superframes. So are the keys `raven_probes`, `raven_rekey` and `raven_superframes` of a peer in a
`set=1`; other devices refuse them.
"""

import errno
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field

from raven.keys import PresharedKey, PrivateKey, PublicKey
from raven.wg.configuration import (
    DeviceChange,
    IPNetwork,
    PeerChange,
    UapiError,
)
from raven.wg.endpoint import Endpoint
from raven.wg.uapi_values import (
    ScopeOf,
    no_names,
    read_bool,
    read_endpoint,
    read_key,
    read_line,
    read_network,
    read_number,
    read_true,
)

GET = "get=1"
SET = "set=1"
COUNTERS = "raven_counters=1"
STATUS = "raven_status=1"

STEP = 250  # lines of a request that are parsed at once: 2 ms
_SORTED_STEP = 10_000  # networks, read already, that are sorted at once: 1 ms
REQUEST_MAX = (
    16 << 20
)  # bytes; 130,560 allowed IPs of 55 bytes are 7 MB, and no more is ever held for one client


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

    def finishing(self) -> Generator[None, None, PeerChange]:
        """What the lines ask for, in steps."""
        added: list[IPNetwork] = []
        removed: list[IPNetwork] = []
        for number, (network, add) in enumerate(self.networks.items(), 1):
            (added if add else removed).append(network)
            if number % _SORTED_STEP == 0:
                yield
        return PeerChange(
            public_key=self.public_key,
            remove=self.remove,
            update_only=self.update_only,
            preshared_key=self.preshared_key,
            endpoint=self.endpoint,
            keepalive=self.keepalive,
            replace_allowed_ips=self.replace_allowed_ips,
            allowed_ips=added,
            removed_allowed_ips=removed,
            probes=self.probes,
            rekey=self.rekey,
            superframes=self.superframes,
        )


def lines_of(request: str) -> Iterator[str]:
    """The lines of a request, one by one, so that a long one is not cut at once."""
    at = 0
    while (end := request.find("\n", at)) >= 0:
        yield request[at:end]
        at = end + 1
    yield request[at:]


def parse_set_untrusted(lines: Iterable[str], scope_of: ScopeOf = no_names) -> DeviceChange:
    """The change that the lines after `set=1` ask for, up to an empty line or the end; UapiError otherwise.

    `scope_of` knows the host's interfaces, which `wg` names where an endpoint is link-local.
    EPROTO: a line that is no `key=value`; EINVAL: all else, a key that is unknown or misplaced included.
    """
    steps = parsing_untrusted(lines, scope_of)
    while True:
        try:
            next(steps)
        except StopIteration as end:
            change: DeviceChange = end.value
            return change


def parsing_untrusted(
    lines: Iterable[str], scope_of: ScopeOf = no_names
) -> Generator[None, None, DeviceChange]:
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
            _parse_peer_line(peers[-1], key, value, scope_of)
        elif key == "private_key":
            private_key = read_key(PrivateKey, key, value)
        elif key == "listen_port":
            listen_port = read_number(key, value, 65535)
        elif key == "fwmark":
            fwmark = read_number(key, value, 0xFFFFFFFF)
        elif key == "replace_peers":
            replace_peers = read_true(key, value)
        else:
            raise UapiError(errno.EINVAL, f"{key[:40]!r}: not a key of a device")
    changes: list[PeerChange] = []
    for peer in peers:
        change = yield from peer.finishing()
        changes.append(change)
    return DeviceChange(
        private_key=private_key,
        listen_port=listen_port,
        fwmark=fwmark,
        replace_peers=replace_peers,
        peers=changes,
    )


def _parse_peer_line(peer: _PeerSection, key: str, value: str, scope_of: ScopeOf) -> None:
    if key == "allowed_ip":
        remove = value.startswith("-")
        network = read_network(key, value[1:] if remove else value)
        peer.networks.pop(network, None)  # the last mention of a prefix decides, also about the order
        peer.networks[network] = not remove
    elif key == "endpoint":
        peer.endpoint = read_endpoint(key, value, scope_of)
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
        raise UapiError(errno.EINVAL, f"{key[:40]!r}: not a key of a peer")


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
