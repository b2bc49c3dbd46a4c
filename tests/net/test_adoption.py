"""Whose device it is, on real ones: taken over after a crash, borrowed and given back, or left alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from raven import log
from raven.keys import PrivateKey
from raven.net import adoption
from raven.net.kernel_device import KernelDevice
from raven.wg.configuration import DeviceState
from tests.lab.machine import Machine
from tests.lab.waiting import wait_until
from tests.net.hosts import add_tun, dump, host
from tests.net.lanes import (
    SITE_A,
    SITE_B,
    WIREGUARD_GO,
    answers,
    hub,
    make_keys,
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
def test_after_a_crash_the_device_lives_on_and_the_next_run_takes_over(
    machine: Machine, program: list[str] | None
) -> None:
    machine.env["LOG_LEVEL"] = "verbose"  # it goes on talking to the one that was killed
    before = dump(machine)
    lane = hub(machine, program)
    lane.order([own(lane), SITE_A])
    lane.start()
    settle(lane, SITE_A, SITE_B)
    lane.kill()
    assert lane.peers() == {SITE_A.public_key, SITE_B.public_key}
    link = machine.run("ip", "-o", "link", "show", machine.interface).out
    lane.order([own(lane), SITE_B])
    lane.start()
    settle(lane, SITE_B)
    assert machine.run("ip", "-o", "link", "show", machine.interface).out == link
    assert lane.stop() == 0
    assert dump(machine) == before
    assert not socket_of(machine).exists()


def test_a_device_that_was_there_stays_and_is_given_back_empty(machine: Machine) -> None:
    device = machine.start("wireguard-go", "-f", machine.interface)
    wait_until(lambda: answers(machine), what="the device", seconds=10)
    for state in ("up", "down"):  # the kernel attaches a queue at the first "up" and keeps it
        machine.run("ip", "link", "set", machine.interface, state)
    before = dump(machine), machine.run("wg", "show", machine.interface, "dump").out
    lane = hub(machine)
    lane.start()
    settle(lane, SITE_A)
    assert lane.stop() == 0
    assert device.alive
    assert (dump(machine), machine.run("wg", "show", machine.interface, "dump").out) == before


def test_a_crash_on_a_device_that_was_there_is_cleared_up_as_well(machine: Machine) -> None:
    device = machine.start("wireguard-go", "-f", machine.interface)
    wait_until(lambda: answers(machine), what="the device", seconds=10)
    for state in ("up", "down"):
        machine.run("ip", "link", "set", machine.interface, state)
    before = dump(machine)
    lane = hub(machine)
    lane.start()
    settle(lane, SITE_A)
    lane.kill()
    lane.start()
    settle(lane, SITE_A, SITE_B)
    assert lane.stop() == 0
    assert device.alive
    assert dump(machine) == before


def test_somebody_elses_device_is_left_alone(machine: Machine) -> None:
    machine.start("wireguard-go", "-f", machine.interface)
    wait_until(lambda: answers(machine), what="the device", seconds=10)
    private, _ = make_keys(machine)
    machine.run("wg", "set", machine.interface, "private-key", "/dev/stdin", text=private)
    before = dump(machine), machine.run("wg", "show", machine.interface, "dump").out
    lane = hub(machine)
    lane.start()
    assert "is in use: it has another private key" in lane.status().problem
    assert lane.stop() == 0
    assert (dump(machine), machine.run("wg", "show", machine.interface, "dump").out) == before


def test_an_interface_of_that_name_that_is_no_device(machine: Machine) -> None:
    add_tun(machine, machine.interface)
    lane = hub(machine)
    lane.start()
    assert f"there is an interface {machine.interface} already" in lane.status().problem
    assert lane.stop() == 0


def test_a_device_of_another_namespace_is_not_mistaken_for_ours(machine: Machine, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with host(tmp_path / "other") as other:
        other.start("wireguard-go", "-f", machine.interface)
        wait_until(lambda: answers(machine), what="the device", seconds=10)
        lane = hub(machine)
        lane.start()
        assert "it is another namespace's" in lane.status().problem
        assert lane.stop() == 0


async def test_a_link_that_nobody_came_to_use_is_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Cancelled between the making of the kernel's device and the first answer of it."""
    links: list[int] = []

    def make_link(name: str) -> str:
        links.append(7)
        return ""

    async def never(device: KernelDevice) -> DeviceState:
        return await trio.sleep_forever()

    monkeypatch.setattr(adoption, "make_link", make_link)
    monkeypatch.setattr(adoption, "remove_link", links.remove)
    monkeypatch.setattr(adoption, "_index", lambda name: links[0] if links else 0)
    monkeypatch.setattr(KernelDevice, "state", never)
    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.5) as cancelled:
            await adoption.adopt_or_start(
                "rvn-none",
                key=PrivateKey.clamped(bytes(32)),
                state_dir=tmp_path,
                nursery=nursery,
                log=log.get("test"),
                backend="kernel",
                directory=tmp_path,
            )
    assert cancelled.cancelled_caught
    assert links == []
