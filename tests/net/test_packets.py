"""The packet lane of one host on real devices: what it makes, what it puts right, what it leaves.

The devices are `raven-wg` and, as another implementation behind the same interface, wireguard-go.
"""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import leftovers
from tests.lab.machine import Machine
from tests.lab.waiting import wait_until
from tests.net.hosts import dump, host
from tests.net.lane_driver import OrderedMember
from tests.net.lanes import (
    SITE_A,
    SITE_B,
    SITE_C,
    WIREGUARD_GO,
    Lane,
    answers,
    fake_key,
    hub,
    own,
    settle,
    socket_of,
)

pytestmark = [pytest.mark.netns, pytest.mark.interop]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with host(tmp_path) as made:
        yield made


@pytest.mark.parametrize("program", [None, WIREGUARD_GO], ids=["raven-wg", "wireguard-go"])
def test_a_lane_starts_its_device_follows_the_plan_and_leaves_the_host_as_it_was(
    machine: Machine, program: list[str] | None
) -> None:
    before = dump(machine)
    files = sorted(machine.directory.rglob("*"))
    lane = hub(machine, program)
    lane.start()
    assert lane.status().problem == ""
    settle(lane, SITE_A)
    settle(lane, SITE_A, SITE_B)
    settle(lane, SITE_B)
    shown = machine.run("wg", "show", machine.interface, "allowed-ips").out
    assert "10.2.0.0/24" in shown
    assert "fd6b:aaf4:af96:" in shown
    assert lane.stop() == 0
    assert leftovers.processes(machine.namespace.removesuffix("host")) == []
    assert dump(machine) == before
    assert not socket_of(machine).exists()
    assert [path for path in sorted(lane.state.rglob("*")) if path not in files] == []


@pytest.mark.parametrize("program", [None, WIREGUARD_GO], ids=["raven-wg", "wireguard-go"])
def test_a_device_that_dies_is_started_again(machine: Machine, program: list[str] | None) -> None:
    lane = hub(machine, program)
    lane.start()
    settle(lane, SITE_A)
    assert lane.process is not None
    process = lane.process
    os.kill(_device(machine), signal.SIGKILL)
    wait_until(lambda: "was killed by signal 9" in process.text(), what="the end to be told", seconds=10)
    wait_until(lambda: answers(machine), what="a new device", seconds=10)
    settle(lane, SITE_A)
    assert lane.stop() == 0
    assert not socket_of(machine).exists()


@pytest.mark.parametrize("program", [None, WIREGUARD_GO], ids=["raven-wg", "wireguard-go"])
def test_after_both_were_killed_the_next_run_starts_afresh(
    machine: Machine, program: list[str] | None
) -> None:
    before = dump(machine)
    lane = hub(machine, program)
    lane.start()
    settle(lane, SITE_A)
    device = _device(machine)
    lane.kill()
    os.kill(device, signal.SIGKILL)
    assert socket_of(machine).exists()
    wait_until(lambda: not Path(f"/proc/{device}").exists(), what="the device's end", seconds=5)
    lane.start()
    settle(lane, SITE_A)
    assert lane.stop() == 0
    assert not socket_of(machine).exists()
    assert dump(machine) == before


def test_a_device_that_does_not_answer_for_a_while_is_not_given_up(machine: Machine) -> None:
    lane = hub(machine)
    lane.start()
    settle(lane, SITE_A)
    device = _device(machine)
    os.kill(device, signal.SIGSTOP)
    try:
        lane.order([own(lane), SITE_A, SITE_B])
        wait_until(
            lambda: any("does not answer within 5 s" in warning for warning in lane.status().warnings),
            what="the sentence",
            seconds=10,
        )
    finally:
        os.kill(device, signal.SIGCONT)
    settle(lane, SITE_A, SITE_B, SITE_C)
    assert _device(machine) == device
    wait_until(lambda: lane.status().warnings == [], what="the all-clear", seconds=5)
    assert lane.stop() == 0


def _device(machine: Machine) -> int:
    """The process behind the interface."""
    found = [
        pid
        for pid in leftovers.processes(machine.namespace.removesuffix("host"))
        if machine.interface.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    ]
    assert len(found) == 1
    return found[0]


def test_what_another_hand_changes_is_put_right_without_touching_a_roamed_peer(machine: Machine) -> None:
    lane = hub(machine)
    lane.start()
    settle(lane, SITE_A, SITE_B)
    machine.run("wg", "set", machine.interface, "peer", SITE_A.public_key, "endpoint", "192.0.2.9:7")
    machine.run("wg", "set", machine.interface, "peer", SITE_B.public_key, "remove")
    machine.run("ip", "route", "del", "10.2.0.0/24")
    settle(lane, SITE_A, SITE_B, SITE_C)
    assert "192.0.2.9:7" in machine.run("wg", "show", machine.interface, "endpoints").out
    assert lane.stop() == 0


def test_a_spoke_keeps_the_endpoint_its_hub_has_roamed_to_until_the_plan_names_another(
    machine: Machine,
) -> None:
    lane = Lane(machine, program=WIREGUARD_GO)
    me = OrderedMember(name="me", public_key=lane.public_key)
    far = OrderedMember(name="hub", public_key=fake_key(3), endpoint="192.0.2.1:4500", hub=True)
    lane.order([far, me])
    lane.start()
    wait_until(lambda: "192.0.2.1:4500" in _endpoints(machine), what="the endpoint", seconds=10)
    machine.run("wg", "set", machine.interface, "peer", far.public_key, "endpoint", "192.0.2.9:7")
    lane.order([far, me, SITE_A])
    wait_until(lambda: lane.routes() == {"10.1.0.0/24"}, what="the new site", seconds=10)
    assert "192.0.2.9:7" in _endpoints(machine)
    moved = OrderedMember(name="hub", public_key=far.public_key, endpoint="192.0.2.2:4500", hub=True)
    lane.order([moved, me, SITE_A])
    wait_until(lambda: "192.0.2.2:4500" in _endpoints(machine), what="the new endpoint", seconds=10)
    assert machine.run("wg", "show", machine.interface, "persistent-keepalive").out.split()[1] == "25"
    assert lane.stop() == 0


def test_a_port_in_use_is_a_sentence(machine: Machine) -> None:
    with machine.inside(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as holder:
        holder.bind(("::", 4999))
        lane = Lane(machine, listen_port=4999)
        lane.order([own(lane)])
        lane.start()
        assert "UDP port 4999 is in use" in lane.status().problem
        assert lane.stop() == 0


def test_without_ipv6_pods_over_ipv4_are_carried_all_the_same(machine: Machine) -> None:
    machine.set_sysctl(ipv6__conf__all__disable_ipv6=1, ipv6__conf__default__disable_ipv6=1)
    lane = hub(machine)
    lane.start()
    settle(lane, SITE_A)
    assert lane.status().problem == ""
    assert ["IPv6 is disabled" in warning for warning in lane.status().warnings] == [True]
    assert lane.stop() == 0


def _endpoints(machine: Machine) -> str:
    return machine.run("wg", "show", machine.interface, "endpoints").out
