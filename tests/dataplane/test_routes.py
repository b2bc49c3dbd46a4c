"""Notices about real routes, and what the kernel says of them."""

import select
import socket

import pytest

from raven.dataplane.routes import RouteWatch
from raven.wg.endpoint import Endpoint
from tests.lab.machine import Machine
from tests.lab.wires import ip

pytestmark = pytest.mark.netns


def test_the_interface_that_answers_leave_by(machine: Machine) -> None:
    watch = machine.inside(RouteWatch)
    ip(
        [
            *("link add one type veth peer name end1", "link add two type veth peer name end2"),
            *("link set one up", "link set two up", "link set end1 up", "link set end2 up"),
            *("addr add 10.0.0.1/24 dev one", "addr add fd01::1/64 dev one nodad"),
            *("addr add 10.0.1.1/24 dev two", "addr add fd02::1/64 dev two nodad"),
        ],
        namespace=machine.namespace,
    )
    one, two = (machine.inside(lambda name=name: socket.if_nametoindex(name)) for name in ("one", "two"))  # type: ignore[misc]
    assert select.select([watch], [], [], 5)[0], "no notice of the new routes"
    watch.drain()
    four, six = Endpoint("10.0.0.2", 1, 0, "10.0.0.1"), Endpoint("fd01::2", 1, 0, "fd01::1")
    assert (watch.interface(four, 0), watch.interface(six, 0)) == (one, one)
    ip(
        ["route add 10.0.0.2/32 dev two", "route add fd01::2/128 dev two metric 1"],
        namespace=machine.namespace,
    )
    assert select.select([watch], [], [], 5)[0], "no notice of the better routes"
    watch.drain()
    assert (watch.interface(four, 0), watch.interface(six, 0)) == (two, two)
    assert watch.interface(four._replace(source=""), 0) == two
    # Routes by mark
    ip(["rule add fwmark 7 table 77", "route add 10.0.0.2/32 dev one table 77"], namespace=machine.namespace)
    assert watch.interface(four, 7) == one
    # An address that is not ours, and one that no route leads to
    assert watch.interface(four._replace(source="10.0.0.77"), 0) == 0
    assert watch.interface(Endpoint("192.0.2.1", 1, 0, "10.0.0.1"), 0) == 0
    watch.close()
