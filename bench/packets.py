"""The packet lane's device alone: two raven-wg on one wire, beside two of Debian's wireguard-go on another.

Both ends, both iperf3 and the kernel share the machine's cores, so a figure is what two hosts of half that
size would do. Both wires stand at once; what is not measured is idle.
"""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.table import Row, interleaved
from tests.interop.pair import GO, RAVEN, Host, pair
from tests.lab import programs
from tests.lab.errors import LabError

PEER = "wireguard-go (Debian)"
_SECONDS = 3  # of each transfer
_PINGS = 500  # 2 ms apart

Pair = tuple[Host, Host]


def measure(rounds: int) -> Iterator[Row]:
    if shutil.which(GO) is None:
        raise LabError(f"{GO} is not installed")
    with _connected(RAVEN) as ours, _connected(GO) as theirs:

        def both(measurement: Callable[[Pair], float]) -> tuple[float, float]:
            """The medians of ours and theirs."""
            contestants = {"ours": lambda: measurement(ours), "theirs": lambda: measurement(theirs)}
            medians = interleaved(rounds, contestants)
            return medians["ours"], medians["theirs"]

        mine, other = both(_tcp)
        yield Row(what="packets, one TCP stream", unit="Gb/s", ours=mine, peer=PEER, theirs=other, goal=1.0)
        mine, other = both(_ping)
        what = "packets, ping round trip, mean"
        yield Row(what=what, unit="ms", ours=mine, peer=PEER, theirs=other, higher_is_better=False)
        mine, other = both(lambda hosts: _flood(hosts, 64) / 1e3)
        what = "packets, UDP flood of 64 bytes, delivered"
        yield Row(what=what, unit="k/s", ours=mine, peer=PEER, theirs=other)
        mine, other = both(lambda hosts: _flood(hosts, 1300) * 1300 * 8 / 1e6)
        what = "packets, UDP flood of 1300 bytes, delivered"
        yield Row(what=what, unit="Mb/s", ours=mine, peer=PEER, theirs=other)
        mine, other = _memory(ours), _memory(theirs)
        what = "packets, resident memory of a device"
        yield Row(what=what, unit="MB", ours=mine, peer=PEER, theirs=other, higher_is_better=False)


@contextlib.contextmanager
def _connected(implementation: str) -> Iterator[Pair]:
    """Two hosts whose devices have shaken hands, an iperf3 server at the second."""
    with tempfile.TemporaryDirectory(prefix="rvn-bench-") as directory, pair(Path(directory)) as hosts:
        a, b = hosts
        for host in hosts:
            host.start(implementation)
        a.add_peer(b, endpoint=b.outer4)
        b.add_peer(a)
        programs.ping(a.machine, b.inner4)
        programs.iperf_server(b.machine)
        yield hosts


def _tcp(hosts: Pair) -> float:
    """Gb/s at the receiver, iperf3 -C cubic."""
    return programs.iperf(hosts[0].machine, hosts[1].inner4, seconds=_SECONDS).gigabits


def _ping(hosts: Pair) -> float:
    """Milliseconds."""
    command = ("ping", "-n", "-q", "-i", "0.002", "-c", str(_PINGS), hosts[1].inner4)
    return float(hosts[0].machine.run(*command).out.rpartition("=")[2].split("/")[1])


def _flood(hosts: Pair, length: int) -> float:
    """Datagrams a second that arrive when the sender does not wait."""
    command = ("iperf3", "-u", "-b", "0", "-l", str(length), "-t", str(_SECONDS), "-J", "-c", hosts[1].inner4)
    report = json.loads(hosts[0].machine.run(*command, seconds=_SECONDS + 15).out)["end"]["sum"]
    return float(report["packets"] - report["lost_packets"]) / float(report["seconds"])


def _memory(hosts: Pair) -> float:
    assert hosts[0].process is not None
    return hosts[0].process.resident_bytes() / 1e6
