"""Bytes on a cable: known packets, and what `idle_wire` says they would come to in a day."""

import itertools
import socket
from pathlib import Path

import pytest

from bench import wire
from tests.lab import wires
from tests.net.hosts import host


@pytest.mark.netns
def test_a_day_of_packets_of_a_known_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(1000.0, 43_200.0)  # half a day between two looks
    monkeypatch.setattr(wire, "monotonic", lambda: next(clock))
    with host(tmp_path) as machine:
        wires.ip(
            [
                *("link add up0 type veth peer name isp0", "link set isp0 up", "link set up0 up"),
                *("addr add 192.0.2.10/24 dev up0", "neigh add 192.0.2.1 lladdr 02:00:00:00:00:01 dev up0"),
            ],
            namespace=machine.namespace,
        )

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for _ in range(500):
                    sender.sendto(bytes(100), ("192.0.2.1", 9))

        later = wire.idle_wire(machine, "up0", agents=2)
        machine.inside(send)
        # 128 bytes each: IPv4 20, UDP 8, and the payload; twice half a day, for two.
        assert later() == pytest.approx(500 * 128 / 1e6)
