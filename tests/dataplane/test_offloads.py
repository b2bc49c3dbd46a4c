"""The kernel's shortcuts: tried out on the real loopback, and on sockets that refuse, lose or spoil."""

import errno
import socket
from typing import Any

import pytest

from raven.dataplane.offloads import (
    NAMES,
    TUN_TCP,
    UDP_RECEIVE,
    UDP_SEND,
    UDP_TRIAL,
    Offloads,
    Trial,
    try_udp,
)
from raven.dataplane.udp import Udp
from raven.wg.device import Transmit
from raven.wg.endpoint import Endpoint
from tests.lab.machine import Machine

UDP_SEGMENT, UDP_GRO = 103, 104
RUN = bytes(range(250)) * 12


class Faulty(socket.socket):
    """A real socket with one fault at the system call."""

    fault = ""

    def sendmsg(self, buffers: Any, ancdata: Any = (), flags: int = 0, address: Any = None) -> int:
        data = b"".join(buffers)
        if any(kind == UDP_SEGMENT for _, kind, _ in ancdata):
            if self.fault == "refuses":
                raise OSError(errno.EIO, "Input/output error")
            if self.fault == "spoils":
                data = data[:-1] + bytes([data[-1] ^ 1])
            if self.fault == "swaps":
                data = data[500:1000] + data[:500] + data[1000:]
        return super().sendmsg([data], ancdata, flags, address)

    def setsockopt(self, *arguments: Any) -> None:
        if self.fault == "no GRO" and arguments[1] == UDP_GRO:
            raise OSError(errno.ENOPROTOOPT, "Protocol not available")
        super().setsockopt(*arguments)

    def recvmsg(self, *arguments: Any) -> Any:
        data, ancillary, flags, address = super().recvmsg(*arguments)
        if self.fault == "joins wrong" and ancillary:
            data = data[:100] + data[101:] + b"x"
        return data, ancillary, flags, address


def with_fault(fault: str) -> dict[str, str]:
    class This(Faulty):
        pass

    This.fault = fault
    trial = try_udp(lambda family: This(family, socket.SOCK_DGRAM))
    assert trial.untried == ""
    return trial.failures


def test_this_kernels_shortcuts_pass() -> None:
    assert try_udp() == Trial({}, "")


@pytest.mark.netns
def test_where_there_is_no_loopback_the_status_says_that_nothing_was_tried(machine: Machine) -> None:
    machine.run("ip", "link", "set", "lo", "down")
    trial = machine.inside(try_udp)
    assert trial.failures == {}
    assert trial.untried.startswith("not tried out: no loopback: ")
    offloads = Offloads(trial.failures, untried={UDP_TRIAL: trial.untried})
    assert offloads.states() == dict.fromkeys(NAMES, "") | {UDP_TRIAL: trial.untried}


@pytest.mark.parametrize(
    ("fault", "name", "words"),
    [
        ("refuses", UDP_SEND, "the kernel refuses UDP_SEGMENT: Input/output error"),
        ("spoils", UDP_SEND, "did not come out the same"),
        ("swaps", UDP_SEND, "did not come out the same"),
        ("no GRO", UDP_RECEIVE, "the kernel refuses UDP_GRO: Protocol not available"),
        ("joins wrong", UDP_RECEIVE, "did not come out the same"),
    ],
)
def test_a_kernel_that_refuses_or_spoils_is_noticed(fault: str, name: str, words: str) -> None:
    found = with_fault(fault)
    assert list(found) == [name]
    assert words in found[name]
    offloads = Offloads(found)
    assert not offloads.works(name)
    assert {key for key, why in offloads.states().items() if why} == {name}


def test_a_path_that_refuses_runs_gets_single_datagrams_and_the_others_keep_them() -> None:
    offloads = Offloads()
    a, b = Udp(0, 0, offloads), Udp(0, 0)
    runs: list[str] = []

    class Card:
        """A network card toward 127.0.0.2 that cannot sum, so that UDP_SEGMENT fails with EIO there."""

        def __init__(self, real: socket.socket) -> None:
            self.real = real

        def sendmsg(self, buffers: Any, control: Any, flags: int, address: Any) -> int:
            if any(kind == UDP_SEGMENT for _, kind, _ in control):
                runs.append(address[0])
                if address[0] == "127.0.0.2":
                    raise OSError(errno.EIO, "Input/output error")
            return self.real.sendmsg(buffers, control, flags, address)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

    a.sockets[0]._socket = Card(a.sockets[0]._socket)  # type: ignore[assignment]
    for _ in range(3):
        for host in ("127.0.0.1", "127.0.0.2"):
            assert a.send(Transmit(Endpoint(host, b.port), 1000, RUN)) == ""
            received = b""
            while len(received) < len(RUN):
                burst = b.sockets[0].receive()
                if burst is not None:
                    received += b"".join(map(bytes, burst.datagrams))
            assert received == RUN
    assert runs == ["127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.1"]
    assert offloads.states()[UDP_SEND] == "toward 127.0.0.2: Input/output error"
    a.close()
    b.close()


def test_a_path_that_loses_runs_gets_single_datagrams() -> None:
    offloads = Offloads()
    offloads.runs_lost_toward("192.0.2.1")
    offloads.runs_lost_toward("192.0.2.1")
    assert not offloads.works_toward("192.0.2.1")
    assert offloads.works_toward("192.0.2.2")
    assert offloads.states()[UDP_SEND] == "toward 192.0.2.1: single datagrams arrive, runs do not"


def test_a_peer_that_moves_about_and_answers_no_runs_turns_them_off_for_nobody_else() -> None:
    offloads = Offloads()
    for number in range(300):
        offloads.runs_lost_toward(f"10.0.{number >> 8}.{number & 255}")
    assert offloads.works(UDP_SEND)
    assert offloads.works_toward("192.0.2.1")
    assert not offloads.works_toward("10.0.1.43")
    assert offloads.states()[UDP_SEND].startswith("toward 10.0.0.44 and 255 more: ")


def test_many_paths_that_refuse_are_the_machines_fault() -> None:
    offloads = Offloads()
    for number in range(300):
        offloads.failed_toward(f"10.0.{number >> 8}.{number & 255}", OSError(errno.EIO, "no sums"))
    assert not offloads.works(UDP_SEND)
    assert offloads.states()[UDP_SEND] == "256 paths refuse it, the last with no sums"
    assert not offloads.works_toward("192.0.2.1")


def test_the_first_reason_stays() -> None:
    offloads = Offloads()
    assert offloads.states() == dict.fromkeys(NAMES, "")
    offloads.failed(TUN_TCP, "first")
    offloads.failed(TUN_TCP, "second")
    assert offloads.states()[TUN_TCP] == "first"
