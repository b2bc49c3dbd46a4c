"""Notices about a real link."""

import select

import pytest

from raven.dataplane.link import LinkState, LinkWatch
from raven.dataplane.tun import Tun
from tests.lab.machine import Machine


@pytest.mark.netns
def test_changes_are_noticed(machine: Machine) -> None:
    tun = machine.inside(lambda: Tun(machine.interface, mtu=1420))
    watch = machine.inside(lambda: LinkWatch(tun.index))

    def changed() -> LinkState | None:
        assert select.select([watch], [], [], 5)[0], "no notice"
        watch.drain()
        return watch.state()

    # if_indextoname() asks in the namespace of the thread.
    assert machine.inside(watch.state) == LinkState(up=False, mtu=1420)
    machine.run("ip", "link", "set", tun.name, "mtu", "1300")
    assert machine.inside(changed) == LinkState(up=False, mtu=1300)
    machine.run("ip", "link", "set", tun.name, "up")
    assert machine.inside(changed) == LinkState(up=True, mtu=1300)
    machine.run("ip", "link", "del", tun.name)
    assert machine.inside(changed) is None
    watch.close()
    tun.close()
