"""Notices that routes change, and asks which interface the host would send by, and how much at a time.

An answer leaves from the address that was contacted. The kernel's WireGuard keeps to that for as long as the
route from there leaves by the interface the peer was heard on; when a better route takes over, or the old one
goes, it lets the routing table choose the address anew. `udp` does the same with what is told here.
"""

import socket
import struct
from typing import Final

from raven.net.rtnetlink import IPV4_ROUTES, IPV6_ROUTES, Notices
from raven.wg.endpoint import Endpoint

# RTM_GETROUTE, rtnetlink(7):
#   nlmsghdr   u32 length, u16 type, u16 flags, u32 sequence, u32 port
#   rtmsg      u8 family, u8 bits of dst, u8 of src, u8 tos, u8 table, 3 x u8 (0), u32 flags
#   rtattr     u16 length, u16 type, value; any number of them
_NLMSGHDR = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=BBBBBBBBI")
_RTATTR = struct.Struct("=HH")
_U32 = struct.Struct("=I")
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_NLM_F_REQUEST: Final = 1
_RTA_DST, _RTA_SRC, _RTA_OIF, _RTA_MARK = 1, 2, 4, 16

_SO_MARK: Final = 36
_IP_MTU: Final = 14  # ip(7), for a connected socket
_IPV6_MTU: Final = 24


def path_mtu(endpoint: Endpoint, fwmark: int) -> int:
    """Bytes of the largest outer packet that the host knows to fit the path to `endpoint`; 0: no route.

    That is the MTU of the route or the first link, or what a router has said since.
    """
    six = ":" in endpoint.host
    try:
        with socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM) as asker:
            if fwmark:
                asker.setsockopt(socket.SOL_SOCKET, _SO_MARK, _U32.pack(fwmark))
            asker.connect((endpoint.host, endpoint.port, 0, endpoint.scope) if six else endpoint[:2])
            if six:
                return asker.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
            return asker.getsockopt(socket.IPPROTO_IP, _IP_MTU)
    except OSError:
        return 0


class RouteWatch:
    """`fileno()` is readable after some route changed."""

    def __init__(self) -> None:
        self._notices = Notices(IPV4_ROUTES | IPV6_ROUTES)
        self._request = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._request.settimeout(1.0)  # the kernel answers at once; this is for one that does not

    def fileno(self) -> int:
        return self._notices.fileno()

    def drain(self) -> None:
        """Forgets the notices that came so far."""
        self._notices.drain()

    def interface(self, endpoint: Endpoint, fwmark: int) -> int:
        """Index of the interface that datagrams from `endpoint.source` to its host leave by; 0: no route."""
        family = socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET
        attributes = b""
        for kind, address in ((_RTA_DST, endpoint.host), (_RTA_SRC, endpoint.source)):
            if address:
                packed = socket.inet_pton(family, address)
                attributes += _RTATTR.pack(_RTATTR.size + len(packed), kind) + packed
        if fwmark:
            attributes += _RTATTR.pack(8, _RTA_MARK) + _U32.pack(fwmark)
        bits = 128 if family == socket.AF_INET6 else 32
        body = _RTMSG.pack(family, bits, bits if endpoint.source else 0, 0, 0, 0, 0, 0, 0) + attributes
        header = _NLMSGHDR.pack(_NLMSGHDR.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 0, 0)
        try:
            self._request.send(header + body)
            answer = self._request.recv(65536)
        except OSError:
            return 0
        length, kind, _, _, _ = _NLMSGHDR.unpack_from(answer)
        if kind != _RTM_NEWROUTE:  # an error: no route, or none from that address
            return 0
        at = _NLMSGHDR.size + _RTMSG.size
        while at + _RTATTR.size <= length:
            size, attribute = _RTATTR.unpack_from(answer, at)
            if attribute == _RTA_OIF:
                (index,) = _U32.unpack_from(answer, at + _RTATTR.size)
                assert isinstance(index, int)
                return index
            at += (size + 3) & ~3
        return 0

    def close(self) -> None:
        self._notices.close()
        self._request.close()
