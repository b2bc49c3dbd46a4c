"""The kernel's shortcuts for many packets at once: which are in use, and why the others are not.

Each can be refused by an old kernel, by one network card among several, or work and spoil what it carries
(kernels have had such bugs). So what can be tried out is tried when the device starts; what fails in use goes
off, for all or for one path; and the status says so. Everything works without any of them, slower.
"""

import errno
import logging
import os
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

log = logging.getLogger("raven.offloads")

TUN_CHECKSUM: Final = "tun_checksum"  # packets of this host come with checksums to finish
TUN_TCP: Final = "tun_tcp"  # and as TCP superpackets, which it also takes
TUN_UDP: Final = "tun_udp"  # the same for UDP
UDP_SEND: Final = "udp_send"  # UDP_SEGMENT: one call sends a run of datagrams
UDP_RECEIVE: Final = "udp_receive"  # UDP_GRO: one call receives a run
TUN_NAMES: Final = (TUN_CHECKSUM, TUN_TCP, TUN_UDP)
NAMES: Final = (*TUN_NAMES, UDP_SEND, UDP_RECEIVE)
# No offloads: the trials at the start of the first three and of the other two, where there was none.
TUN_TRIAL: Final = "tun_trial"
UDP_TRIAL: Final = "udp_trial"

_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_SEGMENT: Final = 500  # bytes; below any MTU that loopback is given
_COUNT: Final = 3  # segments of that size, and a shorter one behind
_WAIT: Final = 2.0  # seconds; loopback delivers before the send returns, unless the machine is very busy
_PATHS_MAX: Final = 256  # hosts remembered; more would mean that the whole machine cannot

Connect = Callable[[socket.AddressFamily], socket.socket]


class Trial(NamedTuple):
    """What came of trying some of them out."""

    failures: dict[str, str]  # offloads that lose or spoil what they carry, with the reason
    untried: str  # why nothing was tried; "" when it was


class Offloads:
    """What is off, and why; shared by the TUN device and all sockets of one `raven-wg`."""

    def __init__(
        self, refused: Mapping[str, str] | None = None, *, untried: Mapping[str, str] | None = None
    ) -> None:
        """`untried`: by TUN_TRIAL and UDP_TRIAL, why there was none; "" when there was."""
        self._untried = {trial: why for trial, why in (untried or {}).items() if why}
        self._off: dict[str, str] = dict(refused or {})
        self._paths: dict[str, str] = {}  # by host: why no runs go there
        self._losing: dict[str, str] = {}  # the same, where the kernel took them and they did not arrive

    def works(self, name: str) -> bool:
        return name not in self._off

    def failed(self, name: str, why: str) -> None:
        """Call when an offload was refused or did harm: it stays off, and the log says so once."""
        if name not in self._off:
            self._off[name] = why
            log.warning("%s goes off: %s", name, why)

    def tun_off(self) -> list[str]:
        """What the TUN device is not asked for; without open checksums there are no superpackets."""
        if not self.works(TUN_CHECKSUM):
            for name in (TUN_TCP, TUN_UDP):
                self.failed(name, f"superpackets need {TUN_CHECKSUM}")
        return [name for name in TUN_NAMES if not self.works(name)]

    def works_toward(self, host: str) -> bool:
        """Whether runs may be sent to `host` in one call."""
        return UDP_SEND not in self._off and host not in self._paths and host not in self._losing

    def failed_toward(self, host: str, error: OSError) -> None:
        """Call when the path to `host` refused a run that single datagrams pass on."""
        if host in self._paths:
            return
        if len(self._paths) >= _PATHS_MAX:
            self.failed(UDP_SEND, f"{_PATHS_MAX} paths refuse it, the last with {error.strerror}")
            return
        self._paths[host] = error.strerror or str(error)
        log.warning("%s goes off toward %s: %s", UDP_SEND, host, self._paths[host])

    def runs_lost_toward(self, host: str) -> None:
        """Call when single datagrams arrive at `host` and runs do not."""
        if host in self._losing:
            return
        if len(self._losing) >= _PATHS_MAX:
            # That is the other end's word: one that moves about must not turn runs off for all.
            del self._losing[next(iter(self._losing))]
        self._losing[host] = "single datagrams arrive, runs do not"
        log.warning("%s goes off toward %s: %s", UDP_SEND, host, self._losing[host])

    def states(self) -> dict[str, str]:
        """By name: "" is on, else why it is off."""
        found = {name: self._off.get(name, "") for name in NAMES}
        paths = self._losing | self._paths
        if paths and not found[UDP_SEND]:
            host, why = next(iter(paths.items()))
            more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            found[UDP_SEND] = f"toward {host}{more}: {why}"
        return found | self._untried


def try_udp(make: Connect | None = None) -> Trial:
    """Sends a run to itself over loopback; what was refused or came out different.

    `make` opens a socket, for tests.
    """
    make = make or (lambda family: socket.socket(family, socket.SOCK_DGRAM))
    wanted = [os.urandom(_SEGMENT) for _ in range(_COUNT)] + [os.urandom(_SEGMENT // 2)]
    failures: dict[str, str] = {}
    with make(socket.AF_INET) as sender, make(socket.AF_INET) as receiver:
        try:
            receiver.bind(("127.0.0.1", 0))
            receiver.settimeout(_WAIT)
            sender.connect(receiver.getsockname())
            sender.send(wanted[0])
            receiver.recv(65535)
        except OSError as error:
            # Nothing is said of a run where not even a single datagram passes: the link is down, or filtered.
            return Trial({}, f"not tried out: no loopback: {error.strerror or error}")
        if why := _try_send(sender, receiver, wanted):
            failures[UDP_SEND] = why
        if why := _try_receive(sender, receiver, wanted, segment=not why):
            failures[UDP_RECEIVE] = why
    return Trial(failures, "")


def _try_send(sender: socket.socket, receiver: socket.socket, wanted: list[bytes]) -> str:
    control = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", _SEGMENT))]
    try:
        sender.sendmsg((b"".join(wanted),), control)
    except OSError as error:
        return f"the kernel refuses UDP_SEGMENT: {error.strerror}"
    try:
        received = [receiver.recv(65535) for _ in wanted]
    except TimeoutError:
        received = []
    if received == wanted:
        return ""
    _drain(receiver)
    return "what UDP_SEGMENT sent over loopback did not come out the same"


def _try_receive(
    sender: socket.socket, receiver: socket.socket, wanted: list[bytes], *, segment: bool
) -> str:
    try:
        receiver.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
    except OSError as error:
        return f"the kernel refuses UDP_GRO: {error.strerror}"
    if segment:
        control = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", _SEGMENT))]
        sender.sendmsg((b"".join(wanted),), control)
    else:
        for datagram in wanted:
            sender.send(datagram)
    received = b""
    try:
        while len(received) < len(b"".join(wanted)):
            data, ancillary, _, _ = receiver.recvmsg(65535, 256)
            sizes = [struct.unpack("=i", value)[0] for _, kind, value in ancillary if kind == _UDP_GRO]
            if sizes and sizes[0] != _SEGMENT:
                return f"UDP_GRO says {sizes[0]} bytes a datagram where {_SEGMENT} were sent"
            received += data
    except TimeoutError:
        return "UDP_GRO lost what was sent over loopback"
    return "" if received == b"".join(wanted) else "what UDP_GRO joined did not come out the same"


def _drain(receiver: socket.socket) -> None:
    receiver.setblocking(False)
    try:
        while True:
            receiver.recv(65535)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EWOULDBLOCK):
            raise
    finally:
        receiver.settimeout(_WAIT)
