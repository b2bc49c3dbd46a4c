"""What is asked of a packet device by traffic: each function measures one place and returns figures."""

from typing import Any

from bench.devices import Place
from bench.table import percentile
from tests.lab import programs

_SECONDS = 2  # of each transfer
_PINGS = 2000  # a thousand a second


def one_stream(place: Place) -> tuple[float, float]:
    """Gb/s at the receiver, and seconds of both devices' processors for a GB of payload."""
    before = sum(_cpu(place))
    report = _iperf(place, "-C", "cubic")["end"]["sum_received"]
    used = sum(_cpu(place)) - before
    return report["bits_per_second"] / 1e9, used / (report["bytes"] / 1e9)


def four_streams(place: Place) -> tuple[float]:
    """Gb/s of the four together."""
    return (_iperf(place, "-C", "cubic", "-P", "4")["end"]["sum_received"]["bits_per_second"] / 1e9,)


def both_directions(place: Place) -> tuple[float]:
    """Gb/s of both directions together."""
    end = _iperf(place, "-C", "cubic", "--bidir")["end"]
    there, back = end["sum_received"], end["sum_received_bidir_reverse"]
    return ((there["bits_per_second"] + back["bits_per_second"]) / 1e9,)


def pings(place: Place) -> tuple[float, float]:
    """Round trips in milliseconds: p50 and p99."""
    command = ("ping", "-n", "-i", "0.001", "-c", str(_PINGS), place.address)
    lines = place.client.run(*command, seconds=_PINGS / 100).out.splitlines()
    times = [float(line.rpartition("time=")[2].split()[0]) for line in lines if "time=" in line]
    return percentile(times, 0.5), percentile(times, 0.99)


def small_flood(place: Place) -> tuple[float]:
    """Datagrams of 64 bytes delivered when the sender does not wait, thousands a second."""
    return (_flood(place, 64) / 1e3,)


def large_flood(place: Place) -> tuple[float]:
    """The same of 1300 bytes, in Mb/s of payload."""
    return (_flood(place, 1300) * 1300 * 8 / 1e6,)


def _flood(place: Place, length: int) -> float:
    report = _iperf(place, "-u", "-b", "0", "-l", str(length))["end"]["sum"]
    return float(report["packets"] - report["lost_packets"]) / float(report["seconds"])


def _iperf(place: Place, *words: str) -> Any:
    command = ("iperf3", "-c", place.address, "-t", str(_SECONDS), "-J", *words)
    return programs.iperf_report(place.client.run(*command, seconds=_SECONDS + 15, check=False).out)


def _cpu(place: Place) -> list[float]:
    return [host.process.cpu_seconds() for host in place.devices if host.process is not None]
