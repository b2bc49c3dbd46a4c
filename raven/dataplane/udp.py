"""The outer UDP sockets: IPv4 and IPv6 on one port, whole runs of segments per system call.

UDP_SEGMENT cuts what we send, UDP_GRO joins what we receive; where the kernel refuses either, datagrams go
one by one and the log says so once. What is inside the datagrams is not looked at. Above stands the engine.
"""

import errno
import logging
import socket
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from raven.dataplane.offloads import UDP_RECEIVE, UDP_SEND, Offloads
from raven.errors import RavenError
from raven.wg.device import Transmit
from raven.wg.endpoint import Endpoint

log = logging.getLogger("raven.udp")

# What waits in the kernel while this process is busy elsewhere: 7 MiB as wireguard-go asks for, about 50 ms
# at 1 Gb/s. Debian's default maximum is 208 KiB, so the FORCE variants are tried first.
_BUFFER: Final = 7 << 20
_SO_SNDBUFFORCE: Final = 32
_SO_RCVBUFFORCE: Final = 33
_SO_MARK: Final = 36
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_IP_PKTINFO: Final = 8
_IP_MTU_DISCOVER: Final = 10
_IP_RECVTOS: Final = 13
_IPV6_MTU_DISCOVER: Final = 23
_IPV6_RECVPKTINFO: Final = 49
_IPV6_PKTINFO: Final = 50
_IPV6_HOPLIMIT: Final = 52
_IPV6_RECVTCLASS: Final = 66
_PMTUDISC_DONT: Final = 0
_PMTUDISC_PROBE: Final = 3  # "don't fragment", at any size that the first link takes

_ANCILLARY_MAX: Final = 256  # bytes; three control messages take at most 104
_DATAGRAM_MAX: Final = 65535
# Endpoints and layouts of views remembered. A burst costs less when they are known, and strangers who
# send from many addresses cost no more than this.
_REMEMBERED_MAX: Final = 1024
_PORT_TRIES: Final = 10  # for a port that is free in both families

_SEND_REASONS: Final = {
    errno.ENETUNREACH: "udp-unreachable",
    errno.EHOSTUNREACH: "udp-unreachable",
    errno.ENOBUFS: "udp-full",
    errno.EMSGSIZE: "udp-too-long",
    errno.EPERM: "udp-filtered",
    errno.EACCES: "udp-filtered",
}
_NOT_THE_SOURCE: Final = (errno.ENOBUFS, errno.EMSGSIZE)  # refusals that another source would meet as well

_INT = struct.Struct("=i")
_MARK = struct.Struct("=I")  # setsockopt(2) takes numbers as signed ones only
_PKTINFO = struct.Struct("=i4s4s")  # interface, address to answer from, address in the header
_PKTINFO6 = struct.Struct("=16si")

_Control = list[tuple[int, int, bytes]]
_Way = tuple[Callable[..., int], _Control, tuple[object, ...]]  # sendmsg, control messages, address


class UdpError(RavenError):
    """The port cannot be used; `errno` says why."""

    def __init__(self, message: str, error: OSError) -> None:
        super().__init__(f"{message}: {error.strerror}")
        self.errno = error.errno or errno.EIO


class Burst(NamedTuple):
    """Datagrams of one size (but the last) from one source, valid until the socket's next receive."""

    datagrams: list[memoryview]
    endpoint: Endpoint
    ecn: int  # the two bits of the outer header


class UdpSocket:
    """One family's socket."""

    def __init__(
        self, family: socket.AddressFamily, port: int, fwmark: int, offloads: Offloads | None = None
    ) -> None:
        """Bound to `port`, 0 for any; OSError when the host lacks the family or the port is taken."""
        self.family = family
        self._offloads = offloads or Offloads()
        self._six = family == socket.AF_INET6
        self._socket = sock = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sock.setblocking(False)
            if self._six:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if fwmark:
                sock.setsockopt(socket.SOL_SOCKET, _SO_MARK, _MARK.pack(fwmark))
            sock.bind(("::" if self._six else "0.0.0.0", port))
        except OSError:
            sock.close()
            raise
        self.port: int = sock.getsockname()[1]
        self._set_options()
        self._buffer = memoryview(bytearray(_DATAGRAM_MAX))
        self._views: dict[int, list[memoryview]] = {}
        self._endpoints: dict[tuple[object, bytes], Endpoint] = {}
        self._controls: dict[tuple[int, str, int, int], _Control] = {}
        self._heard_on: dict[Endpoint, set[int]] = {}  # interfaces that each endpoint's datagrams came by
        self._moved: set[Endpoint] = set()  # whose answers would leave by another now

    def _set_options(self) -> None:
        sock = self._socket
        for force, plain in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                sock.setsockopt(socket.SOL_SOCKET, force, _BUFFER)
            except OSError:
                sock.setsockopt(socket.SOL_SOCKET, plain, _BUFFER)
        # Like the kernel's WireGuard, we let routers fragment rather than lose what does not fit the path.
        if self._six:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DONT)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVTCLASS, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DONT)
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
            sock.setsockopt(socket.IPPROTO_IP, _IP_RECVTOS, 1)
        if self._offloads.works(UDP_RECEIVE):
            try:
                sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
            except OSError as error:
                self._offloads.failed(UDP_RECEIVE, f"the kernel refuses UDP_GRO: {error.strerror}")
        try:
            sock.getsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT)
        except OSError as error:
            self._offloads.failed(UDP_SEND, f"the kernel refuses UDP_SEGMENT: {error.strerror}")

    def fileno(self) -> int:
        return self._socket.fileno()

    def set_fwmark(self, fwmark: int) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_MARK, _MARK.pack(fwmark))

    def receive(self) -> Burst | None:
        """What one system call brings; None when nothing waits."""
        try:
            size, control, _, address = self._socket.recvmsg_into((self._buffer,), _ANCILLARY_MAX)
        except BlockingIOError:
            return None
        segment, ecn, information = size, 0, b""
        for level, kind, data in control:
            if level == socket.IPPROTO_UDP:
                (segment,) = _INT.unpack(data)
            elif kind in (_IP_PKTINFO, _IPV6_PKTINFO):
                information = data
            else:
                ecn = (data[0] if len(data) == 1 else _INT.unpack(data)[0]) & 3
        endpoint = self._endpoints.get((address, information))
        if endpoint is None:
            endpoint = self._endpoint(address, information)
        if size <= segment:
            return Burst([self._buffer[:size]], endpoint, ecn)
        whole, rest = divmod(size, segment)
        datagrams = self._views_of(segment)[:whole]
        if rest:
            datagrams.append(self._buffer[whole * segment : size])
        return Burst(datagrams, endpoint, ecn)

    def _endpoint(self, address: tuple[object, ...], information: bytes) -> Endpoint:
        host, port, *rest = address
        scope = rest[1] if rest else 0
        source, index = "", 0
        if len(information) == _PKTINFO.size:
            index, packed, _ = _PKTINFO.unpack(information)
            source = socket.inet_ntop(socket.AF_INET, packed)
        elif len(information) == _PKTINFO6.size:
            packed, index = _PKTINFO6.unpack(information)
            source = socket.inet_ntop(socket.AF_INET6, packed)
        assert isinstance(host, str)
        assert isinstance(port, int)
        assert isinstance(scope, int)
        endpoint = Endpoint(host.partition("%")[0], port, scope, source)
        if len(self._endpoints) >= _REMEMBERED_MAX:
            self._endpoints.clear()
            self._heard_on.clear()
        self._heard_on.setdefault(endpoint, set()).add(index)
        if endpoint in self._moved:
            endpoint = endpoint._replace(source="")
        self._endpoints[address, information] = endpoint
        return endpoint

    def routes_changed(
        self, endpoints: Iterable[Endpoint], leaves_by: Callable[[Endpoint], int]
    ) -> set[Endpoint]:
        """Those of `endpoints` (the peers') whose source is no longer to be answered from.

        That is so while the route from there leaves by an interface that the peer was not heard on.
        """
        asked = {one for one in endpoints if one.source and not one.scope} | self._moved
        moved = {
            one for one in asked if (heard_on := self._heard_on.get(one)) and leaves_by(one) not in heard_on
        }
        if moved != self._moved:
            self._moved = moved
            self._endpoints.clear()
        return moved

    def _views_of(self, segment: int) -> list[memoryview]:
        views = self._views.get(segment)
        if views is None:
            if (
                len(self._views) >= 16
            ):  # sizes of GRO runs: one for each path MTU in use, and acknowledgements
                self._views.clear()
            ends = range(segment, _DATAGRAM_MAX + 1, segment)
            views = self._views[segment] = [self._buffer[end - segment : end] for end in ends]
        return views

    def send(self, transmit: Transmit) -> str:
        """Sends all of `transmit`; "" or the reason, to be counted, why some of it was dropped.

        BlockingIOError: nothing was sent, and it is worth trying again when the socket is writable.
        """
        endpoint, segment_size, data, tos, hops, whole = transmit
        if whole:
            return self._send_whole(transmit)
        address = self._address(endpoint)
        single = len(data) <= segment_size
        if not single and not self._offloads.works_toward(endpoint.host):
            return self._send_one_by_one(transmit, address)
        try:
            control = self._control(0 if single else segment_size, endpoint.source, tos, hops)
            self._socket.sendmsg((data,), control, 0, address)
        except BlockingIOError:
            raise
        except OSError as error:
            if single or error.errno not in (errno.EINVAL, errno.EMSGSIZE, errno.EIO):
                return self._refused(transmit, error)
            # EIO: a network card that cannot sum; EINVAL or EMSGSIZE: a segment that does not fit the link,
            # which UDP_SEGMENT does not fragment. Or the source is gone, and the first datagram shows that.
            if error.errno == errno.EIO:
                self._offloads.failed_toward(endpoint.host, error)
            return self._send_one_by_one(transmit, address)
        return ""

    def _refused(self, transmit: Transmit, error: OSError) -> str:
        """Call when the kernel took nothing of `transmit`: sends it without a source, or says why not."""
        endpoint = transmit.endpoint
        if endpoint.source and error.errno not in _NOT_THE_SOURCE:
            # Perhaps that local address is gone; the kernel chooses another until the peer is heard.
            return self.send(transmit._replace(endpoint=endpoint._replace(source="")))
        return _SEND_REASONS.get(error.errno or 0, "udp-error")

    def way(self, endpoint: Endpoint, tos: int) -> "_Way":
        """With what to send single datagrams to `endpoint`."""
        return self._socket.sendmsg, self._control(0, endpoint.source, tos, 0), self._address(endpoint)

    def _address(self, endpoint: Endpoint) -> tuple[object, ...]:
        return (endpoint.host, endpoint.port, 0, endpoint.scope) if self._six else endpoint[:2]

    def _send_whole(self, transmit: Transmit) -> str:
        """Sends a datagram that no router may cut. One that even the first link does not take is no fault."""
        level, option = (
            (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER) if self._six else (socket.IPPROTO_IP, _IP_MTU_DISCOVER)
        )
        self._socket.setsockopt(level, option, _PMTUDISC_PROBE)
        try:
            reason = self.send(transmit._replace(whole=False))
        finally:
            self._socket.setsockopt(level, option, _PMTUDISC_DONT)
        return "" if reason == "udp-too-long" else reason

    def _send_one_by_one(self, transmit: Transmit, address: tuple[object, ...]) -> str:
        endpoint, segment_size, data, tos, hops, _ = transmit
        control = self._control(0, endpoint.source, tos, hops)
        for at in range(0, len(data), segment_size):
            try:
                self._socket.sendmsg((data[at : at + segment_size],), control, 0, address)
            except BlockingIOError:
                if at == 0:
                    raise
                return "udp-full"
            except OSError as error:
                if at == 0:
                    return self._refused(transmit, error)
                return _SEND_REASONS.get(error.errno or 0, "udp-error")
        return ""

    def _control(self, segment_size: int, source: str, tos: int, hops: int) -> _Control:
        key = segment_size, source, tos, hops
        control = self._controls.get(key)
        if control is None:
            control = []
            if segment_size:
                control.append((socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", segment_size)))
            if source and self._six:
                packed = _PKTINFO6.pack(socket.inet_pton(socket.AF_INET6, source), 0)
                control.append((socket.IPPROTO_IPV6, _IPV6_PKTINFO, packed))
            elif source:
                packed = _PKTINFO.pack(0, socket.inet_pton(socket.AF_INET, source), bytes(4))
                control.append((socket.IPPROTO_IP, _IP_PKTINFO, packed))
            if tos and self._six:
                control.append((socket.IPPROTO_IPV6, socket.IPV6_TCLASS, _INT.pack(tos)))
            elif tos:
                control.append((socket.IPPROTO_IP, socket.IP_TOS, _INT.pack(tos)))
            if hops and self._six:
                control.append((socket.IPPROTO_IPV6, _IPV6_HOPLIMIT, _INT.pack(hops)))
            elif hops:
                control.append((socket.IPPROTO_IP, socket.IP_TTL, _INT.pack(hops)))
            if len(self._controls) >= _REMEMBERED_MAX:
                self._controls.clear()
            self._controls[key] = control
        return control

    def close(self) -> None:
        self._socket.close()


class Udp:
    """Both families' sockets on one port; a host without one of them has just the other."""

    def __init__(self, port: int, fwmark: int, offloads: Offloads | None = None) -> None:
        """UdpError when the port (0: any) cannot be had."""
        self.sockets = _open_sockets(port, fwmark, offloads)
        self.port = self.sockets[0].port
        self._by_family = {one.family: one for one in self.sockets}
        self._ways: dict[tuple[Endpoint, int], _Way] = {}

    def send_lone(self, transmit: Transmit) -> bool:
        """Sends one datagram by what is remembered of its endpoint; False when that is for `send` to do."""
        endpoint, _, data, tos, hops, whole = transmit
        way = self._ways.get((endpoint, tos))
        if way is None:
            if not hops and not whole and (one := self._by_family.get(_family_of(endpoint))):
                if len(self._ways) >= _REMEMBERED_MAX:
                    self._ways.clear()
                self._ways[endpoint, tos] = one.way(endpoint, tos)
            return False
        if hops or whole:
            return False
        sendmsg, control, address = way
        try:
            sendmsg((data,), control, 0, address)
        except OSError:
            return False  # `send` meets it again, and knows what it means
        return True

    def send(self, transmit: Transmit) -> str:
        """As `UdpSocket.send`, on the socket of the endpoint's family."""
        one = self._by_family.get(_family_of(transmit.endpoint))
        return one.send(transmit) if one else "udp-no-family"

    def routes_changed(
        self, endpoints: Sequence[Endpoint], leaves_by: Callable[[Endpoint], int]
    ) -> set[Endpoint]:
        """As `UdpSocket.routes_changed`."""
        return set().union(*(one.routes_changed(endpoints, leaves_by) for one in self.sockets))

    def set_fwmark(self, fwmark: int) -> None:
        """UdpError when the process may not."""
        try:
            for one in self.sockets:
                one.set_fwmark(fwmark)
        except OSError as error:
            raise UdpError(f"firewall mark {fwmark:#x}", error) from error

    def close(self) -> None:
        for one in self.sockets:
            one.close()


def _family_of(endpoint: Endpoint) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in endpoint.host else socket.AF_INET


def _open_sockets(port: int, fwmark: int, offloads: Offloads | None) -> list[UdpSocket]:
    """A socket of each family that the host has, all on one port."""
    for attempt in range(_PORT_TRIES):
        sockets: list[UdpSocket] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                sockets.append(UdpSocket(family, sockets[0].port if sockets else port, fwmark, offloads))
            except OSError as error:
                if error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    continue
                for one in sockets:
                    one.close()
                if error.errno == errno.EADDRINUSE and port == 0 and attempt < _PORT_TRIES - 1:
                    break
                raise UdpError(f"UDP port {port}", error) from error
        else:
            if not sockets:
                raise UdpError("UDP", OSError(errno.EAFNOSUPPORT, "the host has neither IPv4 nor IPv6"))
            return sockets
    raise AssertionError("the last attempt returns or raises")
