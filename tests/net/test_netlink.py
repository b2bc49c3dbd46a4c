"""Links, addresses and routes in a namespace of their own, compared by what `ip` says."""

import ipaddress
import json
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest

from raven.net.netlink import PROTOCOL, HostError, HostInterface, Wanted
from raven.topology.model import PROBE_NETWORK, IPNetwork
from tests.lab.machine import Machine
from tests.net.hosts import add_tun, dump, host

pytestmark = pytest.mark.netns

ADDRESS = IPv6Address("fd6b:aaf4:af96::5")


def networks(*texts: str) -> frozenset[IPNetwork]:
    return frozenset(ipaddress.ip_network(text) for text in texts)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with host(tmp_path) as made:
        yield made


@pytest.fixture
def interface(machine: Machine) -> HostInterface:
    return HostInterface(add_tun(machine, machine.interface))


def routes(machine: Machine, interface: HostInterface) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for family in ("-4", "-6"):
        shown = machine.run("ip", "-j", family, "route", "show", "dev", interface.name).out
        found |= {route["dst"]: route.get("protocol") for route in json.loads(shown or "[]")}
    return found


def test_what_is_wanted_is_laid_once_and_released_without_a_trace(
    machine: Machine, interface: HostInterface
) -> None:
    for state in ("up", "down"):  # the kernel attaches a queue at the first "up" and keeps it
        machine.run("ip", "link", "set", interface.name, state)
    before = dump(machine)
    want = Wanted(address=ADDRESS, routes=networks("10.5.0.0/24", "fd00:5::/64", str(PROBE_NETWORK)))
    assert machine.inside(lambda: interface.hold(want)) == machine.inside(lambda: interface.hold(want))
    laid = routes(machine, interface)
    assert laid == dict.fromkeys(["10.5.0.0/24", "fd00:5::/64", str(PROBE_NETWORK)], str(PROTOCOL))
    [link] = json.loads(machine.run("ip", "-j", "addr", "show", "dev", interface.name).out)
    assert [(address["local"], address["prefixlen"]) for address in link["addr_info"]] == [
        (str(ADDRESS), 128)
    ]
    assert "UP" in link["flags"]
    machine.inside(interface.release)
    machine.inside(interface.set_down)
    assert dump(machine) == before


def test_a_new_wish_leaves_what_stays_and_takes_away_the_rest(
    machine: Machine, interface: HostInterface
) -> None:
    machine.inside(
        lambda: interface.hold(Wanted(address=ADDRESS, routes=networks("10.5.0.0/24", "10.6.0.0/24")))
    )
    other = IPv6Address("fd6b:aaf4:af96::6")
    machine.inside(
        lambda: interface.hold(Wanted(address=other, routes=networks("10.6.0.0/24", "10.7.0.0/24")))
    )
    assert routes(machine, interface).keys() == {"10.6.0.0/24", "10.7.0.0/24"}
    addresses = machine.run("ip", "-6", "addr", "show", "dev", interface.name).out
    assert str(other) in addresses
    assert str(ADDRESS) not in addresses


def test_a_later_process_takes_over_what_a_killed_one_left(
    machine: Machine, interface: HostInterface
) -> None:
    machine.inside(
        lambda: interface.hold(Wanted(address=ADDRESS, routes=networks("10.5.0.0/24", "10.6.0.0/24")))
    )
    later = HostInterface(interface.name)
    assert machine.inside(lambda: later.hold(Wanted(address=ADDRESS, routes=networks("10.6.0.0/24")))) == []
    assert routes(machine, interface).keys() == {"10.6.0.0/24"}
    machine.inside(later.release)
    assert routes(machine, interface) == {}


def test_somebody_elses_route_is_kept_and_named(machine: Machine, interface: HostInterface) -> None:
    other = add_tun(machine, f"{machine.interface[:10]}oth")
    machine.run("ip", "link", "set", other, "up")
    machine.run("ip", "route", "add", "10.5.0.0/24", "dev", other, "metric", "500")
    machine.run("ip", "route", "add", "blackhole", "10.6.0.0/24")
    problems = machine.inside(
        lambda: interface.hold(Wanted(routes=networks("10.5.0.0/24", "10.6.0.0/24", "10.7.0.0/24")))
    )
    assert len(problems) == 2
    assert f"this host has a route to 10.5.0.0/24 on {other}" in problems[0]
    assert "this host has a route to 10.6.0.0/24" in problems[1]
    assert routes(machine, interface).keys() == {"10.7.0.0/24"}
    machine.inside(interface.release)
    assert routes(machine, HostInterface(other)).keys() == {"10.5.0.0/24"}


def test_a_route_that_appears_over_ours_makes_us_step_back(
    machine: Machine, interface: HostInterface
) -> None:
    want = Wanted(routes=networks("10.5.0.0/24"))
    assert machine.inside(lambda: interface.hold(want)) == []
    other = add_tun(machine, f"{machine.interface[:10]}oth")
    machine.run("ip", "link", "set", other, "up")
    machine.run("ip", "route", "add", "10.5.0.0/24", "dev", other, "metric", "500")
    assert len(machine.inside(lambda: interface.hold(want))) == 1
    assert routes(machine, interface) == {}


def test_an_operators_own_route_over_the_interface_is_as_good_as_ours(
    machine: Machine, interface: HostInterface
) -> None:
    machine.run("ip", "link", "set", interface.name, "up")
    machine.run("ip", "route", "add", "10.5.0.0/24", "dev", interface.name, "protocol", "static")
    assert machine.inside(lambda: interface.hold(Wanted(routes=networks("10.5.0.0/24")))) == []
    machine.inside(interface.release)
    assert routes(machine, interface)["10.5.0.0/24"] == "static"


def test_a_route_never_takes_away_an_address_the_host_needs(
    machine: Machine, interface: HostInterface
) -> None:
    other = add_tun(machine, f"{machine.interface[:10]}oth")
    machine.run("ip", "link", "set", other, "up")
    machine.run("ip", "addr", "add", "192.168.7.5/24", "dev", other)
    want = Wanted(
        routes=networks("192.168.0.0/16", "192.168.7.128/25", "192.0.2.0/24", "10.5.0.0/24"),
        endpoints=frozenset({ipaddress.ip_address("192.0.2.1")}),
    )
    problems = machine.inside(lambda: interface.hold(want))
    assert len(problems) == 3
    assert "contains 192.0.2.1, the endpoint of its own tunnel" in problems[0]
    assert f"contains 192.168.7.5, this host's own address on {other}" in problems[1]
    assert f"lies in 192.168.7.0/24, the network of {other}" in problems[2]
    assert routes(machine, interface).keys() == {"10.5.0.0/24"}


def test_forwarding_is_switched_on_for_the_interface_alone(
    machine: Machine, interface: HostInterface
) -> None:
    machine.set_sysctl(ipv4__ip_forward=0)
    machine.inside(lambda: interface.hold(Wanted(routes=networks("10.5.0.0/24"))))
    root = Path("/proc/sys/net/ipv4/conf")

    def switches() -> list[str]:
        return [(root / name / "forwarding").read_text().strip() for name in ("all", interface.name)]

    assert machine.inside(switches) == ["0", "1"]
    machine.inside(interface.release)
    assert machine.inside(switches) == ["0", "0"]


def test_a_pod_interface_that_forwards_nothing_is_named(machine: Machine, interface: HostInterface) -> None:
    pods = add_tun(machine, f"{machine.interface[:10]}pod")
    machine.set_sysctl(ipv4__ip_forward=0, ipv6__conf__all__forwarding=0)
    machine.run("ip", "link", "set", pods, "up")
    machine.run("ip", "addr", "add", "10.1.0.1/24", "dev", pods)
    machine.run("ip", "addr", "add", "fd00:1::1/64", "dev", pods, "nodad")
    want = Wanted(
        routes=networks("10.5.0.0/24", "fd00:5::/64"),
        own_networks=tuple(sorted(networks("10.1.0.0/24", "fd00:1::/64"), key=str)),
    )
    problems = machine.inside(lambda: interface.hold(want))
    assert any(
        f"pods behind {pods}" in problem and "net.ipv4.ip_forward=1" in problem for problem in problems
    )
    assert any(
        f"pods behind {pods}" in problem and "net.ipv6.conf.all.forwarding=1" in problem
        for problem in problems
    )
    machine.set_sysctl(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
    assert machine.inside(lambda: interface.hold(want)) == []


def test_without_ipv6_the_rest_works_and_the_switch_is_named(
    machine: Machine, interface: HostInterface
) -> None:
    machine.set_sysctl(ipv6__conf__all__disable_ipv6=1)
    problems = machine.inside(
        lambda: interface.hold(Wanted(address=ADDRESS, routes=networks("10.5.0.0/24", "fd00:5::/64")))
    )
    assert problems == [
        "IPv6 is disabled on this host (net.ipv6.conf.all.disable_ipv6=1): "
        "packet-lane probes and IPv6 pod networks do not work"
    ]
    assert routes(machine, interface).keys() == {"10.5.0.0/24"}


def test_an_interface_that_is_not_there(machine: Machine) -> None:
    gone = HostInterface(f"{machine.interface[:10]}gone")
    assert machine.inside(gone.link) is None
    machine.inside(gone.release)
    machine.inside(gone.set_down)
    with pytest.raises(HostError, match=r"no interface .* in this network namespace"):
        machine.inside(lambda: gone.hold(Wanted()))
    with pytest.raises(HostError, match="no interface"):
        machine.inside(gone.bring_up)


def test_a_link_is_brought_up_without_an_address_of_the_kernels(
    machine: Machine, interface: HostInterface
) -> None:
    assert not machine.inside(interface.bring_up).up
    assert machine.inside(interface.bring_up).up
    assert "inet6" not in machine.run("ip", "addr", "show", "dev", interface.name).out


def test_without_the_capability_the_sentence_says_so(machine: Machine, interface: HostInterface) -> None:
    code = (
        "from raven.net.netlink import HostInterface, Wanted, HostError\n"
        f"try: HostInterface({interface.name!r}).hold(Wanted())\n"
        "except HostError as error: print(error)"
    )
    shown = machine.run(
        "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "python", "-c", code, seconds=30
    )
    assert shown.out.strip() == "this process may not change links and routes: it lacks CAP_NET_ADMIN"
