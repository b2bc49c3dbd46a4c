"""The in-kernel device's language, both directions: generic netlink messages of the family `wireguard`.

Linux's include/uapi/linux/wireguard.h; the values are those of `configuration`, as for the UAPI. It only
reads and writes bytes: `raven.net.kernel_device` carries them. One change may take several messages, which
the kernel applies one after the other, so a change is not all or nothing there.
"""

import errno
import struct
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Final, NamedTuple

from raven.keys import KEY_LEN, PresharedKey, PrivateKey, PublicKey
from raven.wg.configuration import DeviceChange, DeviceState, IPNetwork, PeerChange, PeerState, UapiError
from raven.wg.endpoint import Endpoint

FAMILY: Final = "wireguard"

# nlmsghdr   u32 length, u16 type, u16 flags, u32 sequence, u32 port
# genlmsghdr u8 command, u8 version, u16 reserved
# nlattr     u16 length with these four bytes, u16 type; padded to four bytes
_NLMSGHDR = struct.Struct("=IHHII")
_GENLMSGHDR = struct.Struct("=BBH")
_NLATTR = struct.Struct("=HH")
_U16, _U32, _U64 = struct.Struct("=H"), struct.Struct("=I"), struct.Struct("=Q")
_I32 = struct.Struct("=i")
# sockaddr_in: u16 family, u16 port and address in network order, 8 bytes of nothing; sockaddr_in6: u16
# family, u16 port in network order, u32 flow, address, u32 scope in the host's order
_SOCKADDR_IN = struct.Struct("=H2s4s8x")
_SOCKADDR_IN6 = struct.Struct("=H2sI16sI")
_TIMESPEC = struct.Struct("=qq")

_AF_INET, _AF_INET6 = 2, 10
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 1, 4, 0x300
_NLA_F_NESTED, _NLA_TYPE = 0x8000, 0x3FFF
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_FAMILY_ID, _CTRL_FAMILY_NAME = 0x10, 3, 1, 2

_GET, _SET = 0, 1
_IFNAME, _PRIVATE_KEY, _FLAGS, _LISTEN_PORT, _FWMARK, _PEERS = 2, 3, 5, 6, 7, 8
_REPLACE_PEERS: Final = 1
_P_PUBLIC_KEY, _P_PRESHARED_KEY, _P_FLAGS, _P_ENDPOINT, _P_KEEPALIVE = 1, 2, 3, 4, 5
_P_LAST_HANDSHAKE, _P_RX, _P_TX, _P_ALLOWED_IPS = 6, 7, 8, 9
_REMOVE_ME, _REPLACE_ALLOWED_IPS, _UPDATE_ONLY = 1, 2, 4
_A_FAMILY, _A_ADDRESS, _A_BITS, _A_FLAGS = 1, 2, 3, 4
_A_REMOVE_ME: Final = 1  # since Linux 6.16

# Allowed IPs of one message, 28 bytes each: so a message stays below the 64 KiB of a nested attribute, and
# below what a netlink socket takes by default.
_NETWORKS_MAX: Final = 1000
_PEERS_MAX: Final = 200  # of one message, at most 168 bytes each without their networks


class Reply(NamedTuple):
    """One netlink message of an answer."""

    kind: int
    body: bytes


# Requests -----------------------------------------------------------------------------------------


def ask_family(sequence: int) -> bytes:
    """Asks for the number of the family; `parse_family_untrusted` reads the answer."""
    name = _attribute(_CTRL_FAMILY_NAME, FAMILY.encode() + b"\0")
    return _message(_GENL_ID_CTRL, _NLM_F_REQUEST | _NLM_F_ACK, sequence, _CTRL_CMD_GETFAMILY, name)


def ask_device(family: int, name: str, sequence: int) -> bytes:
    """Asks for a device; `parse_device_untrusted` reads the answer, which ends with NLMSG_DONE."""
    return _message(family, _NLM_F_REQUEST | _NLM_F_DUMP, sequence, _GET, _name(name))


def set_device(family: int, name: str, change: DeviceChange, sequence: int) -> list[bytes]:
    """The messages that make the change, to be sent in order, each once the one before was acknowledged."""
    device = b""
    if change.private_key is not None:
        device += _attribute(_PRIVATE_KEY, change.private_key)
    if change.listen_port is not None:
        device += _attribute(_LISTEN_PORT, _U16.pack(change.listen_port))
    if change.fwmark is not None:
        device += _attribute(_FWMARK, _U32.pack(change.fwmark))
    if change.replace_peers:
        device += _attribute(_FLAGS, _U32.pack(_REPLACE_PEERS))
    messages: list[bytes] = []
    for peers in _groups(change.peers) or [b""]:
        body = _name(name) + (device if not messages else b"")
        if peers:
            body += _attribute(_PEERS | _NLA_F_NESTED, peers)
        flags = _NLM_F_REQUEST | _NLM_F_ACK
        messages.append(_message(family, flags, sequence + len(messages), _SET, body))
    return messages


def _groups(peers: Sequence[PeerChange]) -> list[bytes]:
    """The peers in pieces that fit a message each; a peer with many networks is continued in the next."""
    groups: list[bytes] = []
    current, networks_left, peers_left = b"", _NETWORKS_MAX, _PEERS_MAX
    for peer in peers:
        first, networks = True, _networks(peer)
        while first or networks:
            if not peers_left or not networks_left:
                groups.append(current)
                current, networks_left, peers_left = b"", _NETWORKS_MAX, _PEERS_MAX
            some, networks = networks[:networks_left], networks[networks_left:]
            current += _attribute(_NLA_F_NESTED, _peer(peer, some, first=first))
            networks_left -= len(some)
            peers_left -= 1
            first = False
    return [*groups, current] if current else groups


def _peer(peer: PeerChange, networks: list[bytes], *, first: bool) -> bytes:
    body = _attribute(_P_PUBLIC_KEY, peer.public_key)
    flags = _UPDATE_ONLY if peer.update_only else 0
    if first:
        flags |= (_REMOVE_ME if peer.remove else 0) | (
            _REPLACE_ALLOWED_IPS if peer.replace_allowed_ips else 0
        )
        if peer.preshared_key is not None:
            body += _attribute(_P_PRESHARED_KEY, peer.preshared_key)
        if peer.endpoint is not None:
            body += _attribute(_P_ENDPOINT, _sockaddr(peer.endpoint))
        if peer.keepalive is not None:
            body += _attribute(_P_KEEPALIVE, _U16.pack(peer.keepalive))
    if flags:
        body += _attribute(_P_FLAGS, _U32.pack(flags))
    if networks:
        body += _attribute(_P_ALLOWED_IPS | _NLA_F_NESTED, b"".join(networks))
    return body


def _networks(peer: PeerChange) -> list[bytes]:
    return [_network(network, _A_REMOVE_ME) for network in peer.removed_allowed_ips] + [
        _network(network) for network in peer.allowed_ips
    ]


def _network(network: IPNetwork, flags: int = 0) -> bytes:
    family = _AF_INET if network.version == 4 else _AF_INET6
    body = _attribute(_A_FAMILY, _U16.pack(family))
    body += _attribute(_A_ADDRESS, network.network_address.packed)
    body += _attribute(_A_BITS, bytes([network.prefixlen]))
    if flags:
        body += _attribute(_A_FLAGS, _U32.pack(flags))
    return _attribute(_NLA_F_NESTED, body)


def _sockaddr(endpoint: Endpoint) -> bytes:
    port = endpoint.port.to_bytes(2, "big")
    if ":" in endpoint.host:
        packed = IPv6Address(endpoint.host).packed
        return _SOCKADDR_IN6.pack(_AF_INET6, port, 0, packed, endpoint.scope)
    return _SOCKADDR_IN.pack(_AF_INET, port, IPv4Address(endpoint.host).packed)


def _name(name: str) -> bytes:
    return _attribute(_IFNAME, name.encode() + b"\0")


def _attribute(kind: int, value: bytes) -> bytes:
    size = _NLATTR.size + len(value)
    return _NLATTR.pack(size, kind) + value + bytes(-size % 4)


def _message(kind: int, flags: int, sequence: int, command: int, body: bytes) -> bytes:
    size = _NLMSGHDR.size + _GENLMSGHDR.size + len(body)
    return _NLMSGHDR.pack(size, kind, flags, sequence, 0) + _GENLMSGHDR.pack(command, 1, 0) + body


# Answers ------------------------------------------------------------------------------------------


def read_untrusted(data: bytes) -> Iterator[Reply]:
    """The messages of one receive. UapiError: EPROTO for what is none, the kernel's errno for its refusal."""
    at = 0
    while at < len(data):
        if len(data) - at < _NLMSGHDR.size:
            raise UapiError(errno.EPROTO, "the kernel's answer is cut off")
        size, kind, *_ = _NLMSGHDR.unpack_from(data, at)
        if not _NLMSGHDR.size <= size <= len(data) - at:
            raise UapiError(errno.EPROTO, "the kernel's answer has a message of no length")
        body = data[at + _NLMSGHDR.size : at + size]
        if kind in (_NLMSG_ERROR, _NLMSG_DONE) and len(body) >= _I32.size:
            (number,) = _I32.unpack_from(body)
            if number:
                raise UapiError(-number, f"the kernel refuses: errno {-number}")
        yield Reply(kind, body)
        at += (size + 3) & ~3


def is_last(reply: Reply) -> bool:
    """Whether an answer ends with this message: an acknowledgement, or the end of a dump."""
    return reply.kind in (_NLMSG_ERROR, _NLMSG_DONE)


def parse_family_untrusted(replies: Iterable[Reply]) -> int:
    """The family's number; UapiError(ENOENT) without one."""
    for reply in replies:
        if reply.kind == _GENL_ID_CTRL:
            for kind, value in _attributes(reply.body[_GENLMSGHDR.size :]):
                if kind == _CTRL_FAMILY_ID and len(value) == _U16.size:
                    return int(_U16.unpack(value)[0])
    raise UapiError(errno.ENOENT, "the kernel has no WireGuard")


def parse_device_untrusted(family: int, replies: Iterable[Reply]) -> DeviceState:
    """The device in the answer to `ask_device`; a peer with many networks comes in several pieces."""
    state = DeviceState()
    peers: dict[PublicKey, PeerState] = {}
    private_key, listen_port, fwmark = state.private_key, 0, 0
    for reply in replies:
        if reply.kind != family:
            continue
        for kind, value in _attributes(reply.body[_GENLMSGHDR.size :]):
            if kind == _PRIVATE_KEY:
                private_key = PrivateKey(_exactly(value, KEY_LEN))
            elif kind == _LISTEN_PORT:
                listen_port = _U16.unpack(_exactly(value, _U16.size))[0]
            elif kind == _FWMARK:
                fwmark = _U32.unpack(_exactly(value, _U32.size))[0]
            elif kind == _PEERS:
                for _, nested in _attributes(value):
                    _take_peer(peers, _parse_peer(nested))
    return DeviceState(
        private_key=private_key, listen_port=listen_port, fwmark=fwmark, peers=list(peers.values())
    )


def _take_peer(peers: dict[PublicKey, PeerState], peer: PeerState) -> None:
    known = peers.get(peer.public_key)
    if known is not None:
        networks = [*known.allowed_ips, *peer.allowed_ips]
        peer = PeerState(
            public_key=known.public_key,
            preshared_key=known.preshared_key,
            endpoint=known.endpoint,
            last_handshake=known.last_handshake,
            rx_bytes=known.rx_bytes,
            tx_bytes=known.tx_bytes,
            keepalive=known.keepalive,
            allowed_ips=networks,
        )
    peers[peer.public_key] = peer


def _parse_peer(data: bytes) -> PeerState:
    found = dict(_attributes(data))
    seconds, nanoseconds = _TIMESPEC.unpack(_exactly(found.get(_P_LAST_HANDSHAKE, bytes(16)), 16))
    networks = [_parse_network(value) for _, value in _attributes(found.get(_P_ALLOWED_IPS, b""))]
    return PeerState(
        public_key=PublicKey(_exactly(found.get(_P_PUBLIC_KEY, b""), KEY_LEN)),
        preshared_key=PresharedKey(_exactly(found.get(_P_PRESHARED_KEY, bytes(KEY_LEN)), KEY_LEN)),
        endpoint=_parse_sockaddr(found.get(_P_ENDPOINT, b"")),
        last_handshake=seconds + nanoseconds / 1e9,
        rx_bytes=_U64.unpack(_exactly(found.get(_P_RX, bytes(8)), 8))[0],
        tx_bytes=_U64.unpack(_exactly(found.get(_P_TX, bytes(8)), 8))[0],
        keepalive=_U16.unpack(_exactly(found.get(_P_KEEPALIVE, bytes(2)), 2))[0],
        allowed_ips=networks,
    )


def _parse_network(data: bytes) -> IPNetwork:
    found = dict(_attributes(data))
    address, bits = found.get(_A_ADDRESS, b""), _exactly(found.get(_A_BITS, b""), 1)[0]
    try:
        return ip_network((address, bits))
    except ValueError as error:
        raise UapiError(errno.EPROTO, "the kernel's answer has a network that is none") from error


def _parse_sockaddr(data: bytes) -> Endpoint | None:
    if len(data) == _SOCKADDR_IN.size:
        _, port, address = _SOCKADDR_IN.unpack(data)
        return Endpoint(str(IPv4Address(address)), int.from_bytes(port, "big"))
    if len(data) == _SOCKADDR_IN6.size:
        _, port, _, address, scope = _SOCKADDR_IN6.unpack(data)
        return Endpoint(str(IPv6Address(address)), int.from_bytes(port, "big"), scope)
    return None


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _NLATTR.size <= len(data):
        size, kind = _NLATTR.unpack_from(data, at)
        if not _NLATTR.size <= size <= len(data) - at:
            raise UapiError(errno.EPROTO, "the kernel's answer has an attribute of no length")
        yield kind & _NLA_TYPE, data[at + _NLATTR.size : at + size]
        at += (size + 3) & ~3


def _exactly(value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise UapiError(errno.EPROTO, f"the kernel's answer has {len(value)} bytes where {size} belong")
    return value
