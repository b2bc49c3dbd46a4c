"""What this machine tells about its links, addresses and routes: real ones, in a namespace of its own."""

import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from raven.net import path_changes
from raven.net.path_changes import PathChanges, source_address
from tests.lab import wires
from tests.lab.machine import Machine
from tests.lab.waiting import wait_until
from tests.net.hosts import host

pytestmark = pytest.mark.netns

QUIET = 0.3  # seconds without anything to read, after which nothing has come
PEER = "203.0.113.1"


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Machine]:
    """A host with an uplink `up0` at 192.0.2.10, and a second one, `up1`, at 198.51.100.10."""
    with host(tmp_path) as machine:
        machine.set_sysctl(ipv6__conf__default__addr_gen_mode=1)  # none: no address comes by itself, and late
        wires.ip(
            [
                *(f"link add up{n} type veth peer name isp{n}" for n in range(2)),
                *(f"link set {end}{n} up" for n in range(2) for end in ("isp", "up")),
                *("addr add 192.0.2.10/24 dev up0", "addr add 198.51.100.10/24 dev up1"),
                *("addr add fd00:1::10/64 dev up0 nodad", "route add default via 192.0.2.1"),
            ],
            namespace=machine.namespace,
        )
        wait_until(
            lambda: all(link["operstate"] == "UP" for link in uplinks(machine)),
            what="carrier, which the kernel tells up to a second later",
            seconds=10,
        )
        yield machine


def uplinks(machine: Machine) -> Any:
    return json.loads(machine.run("ip", "-j", "link", "show", "type", "veth").out)


@asynccontextmanager
async def subscribed(machine: Machine) -> AsyncIterator[PathChanges]:
    """A subscription in that host from which all has been read that came of building it."""
    changes = machine.inside(PathChanges)
    try:
        with trio.move_on_after(QUIET):
            while True:
                await changes.wait()
        yield changes
    finally:
        changes.close()


async def is_quiet(changes: PathChanges) -> bool:
    with trio.move_on_after(QUIET):
        await changes.wait()
        return False
    return True


@pytest.mark.parametrize(
    "change",
    [
        "link set up1 down",
        "addr add 192.0.2.11/24 dev up0",
        "addr del 192.0.2.10/24 dev up0",
        "route replace default via 198.51.100.1",
        "addr add fd00:2::10/64 dev up1 nodad",
        "route add fd00:9::/64 via fd00:1::1",
    ],
)
async def test_whoever_waits_is_woken_by(edge: Machine, change: str) -> None:
    async with subscribed(edge) as changes, trio.open_nursery() as nursery:
        assert await is_quiet(changes)
        woken = trio.Event()

        async def wait() -> None:
            await changes.wait()
            woken.set()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        assert not woken.is_set()
        wires.ip([change], namespace=edge.namespace)
        with trio.fail_after(10):
            await woken.wait()


async def test_a_burst_is_one_change_and_none_is_lost_between_two_waits(edge: Machine) -> None:
    async with subscribed(edge) as changes:
        wires.ip([f"addr add 192.0.2.{n}/24 dev up0" for n in range(20, 60)], namespace=edge.namespace)
        with trio.fail_after(10):
            await changes.wait()  # they came while nobody waited
        assert await is_quiet(changes)


async def test_more_changes_than_the_kernel_keeps_are_a_change_as_well(edge: Machine) -> None:
    async with subscribed(edge) as changes:
        changes._notices._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        lines = [f"addr add 10.{n}.{m}.1/24 dev up0" for n in range(4) for m in range(100)]
        wires.ip(lines, namespace=edge.namespace)  # 1200 notifications, and room for a few
        with trio.fail_after(10):
            await changes.wait()
        assert await is_quiet(changes)
        wires.ip(["link set up1 down"], namespace=edge.namespace)
        with trio.fail_after(10):
            await changes.wait()


async def test_what_never_comes_to_rest_is_told_nevertheless(
    edge: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(path_changes, "_CALM", 0.5)  # longer than any pause of the flapping
    flapping = True

    def flap() -> None:
        while flapping:
            wires.ip(
                ["addr add 192.0.2.11/24 dev up0", "addr del 192.0.2.11/24 dev up0"], namespace=edge.namespace
            )

    async with subscribed(edge) as changes, trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, flap)
        try:
            with trio.fail_after(10):
                await changes.wait()
        finally:
            flapping = False


async def test_who_waits_when_it_is_closed_is_told(edge: Machine) -> None:
    async with subscribed(edge) as changes, trio.open_nursery() as nursery:

        async def wait() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await changes.wait()

        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        changes.close()


def test_which_address_leads_where(edge: Machine) -> None:
    def leads(remote: str) -> str | None:
        return edge.inside(lambda: source_address(remote, 443))

    assert leads(PEER) == "192.0.2.10"
    assert leads("198.51.100.1") == "198.51.100.10"
    assert leads("fd00:1::1") == "fd00:1::10"
    assert leads("fd00:2::1") is None  # no route
    wires.ip(["route replace default via 198.51.100.1"], namespace=edge.namespace)
    assert leads(PEER) == "198.51.100.10"
    wires.ip(["route del default"], namespace=edge.namespace)
    assert leads(PEER) is None
