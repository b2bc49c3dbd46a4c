"""Longest prefix beside a naive scan of all networks, through random additions, moves and removals."""

import ipaddress
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import given, settings
from hypothesis import strategies as st

from raven.wg.allowed_ips import AllowedIPs
from raven.wg.configuration import IPNetwork


class Naive:
    def __init__(self) -> None:
        self.owners: dict[IPNetwork, str] = {}

    def lookup(self, address: IPv4Address | IPv6Address) -> str | None:
        matching = [network for network in self.owners if address in network]
        return self.owners[max(matching, key=lambda network: network.prefixlen)] if matching else None


# Few distinct bits, so that networks nest and collide.
numbers_v4 = st.integers(0, 15).map(lambda bits: bits << 28) | st.integers(0, (1 << 32) - 1)
numbers_v6 = st.integers(0, 15).map(lambda bits: bits << 124) | st.integers(0, (1 << 128) - 1)
networks = st.one_of(
    st.builds(lambda n, p: IPv4Network((n, p), strict=False), numbers_v4, st.integers(0, 32)),
    st.builds(lambda n, p: IPv6Network((n, p), strict=False), numbers_v6, st.integers(0, 128)),
)
owners = st.sampled_from("abc")
steps = st.one_of(
    st.tuples(st.just("add"), networks, owners),
    st.tuples(st.just("remove"), networks, owners),
    st.tuples(st.just("remove_all"), networks, owners),
)


def lookup(table: AllowedIPs[str], address: IPv4Address | IPv6Address) -> str | None:
    return table.lookup_v4(int(address)) if address.version == 4 else table.lookup_v6(int(address))


@settings(max_examples=150)
@given(st.lists(steps, max_size=40), st.lists(networks, max_size=10))
def test_equals_the_naive_model(moves: list[tuple[str, IPNetwork, str]], probes: list[IPNetwork]) -> None:
    table: AllowedIPs[str] = AllowedIPs()
    naive = Naive()
    for verb, network, owner in moves:
        if verb == "add":
            table.add(network, owner)
            naive.owners[network] = owner
        elif verb == "remove":
            table.remove(network, owner)
            if naive.owners.get(network) == owner:
                del naive.owners[network]
        else:
            table.remove_all(owner)
            naive.owners = {n: o for n, o in naive.owners.items() if o != owner}
    for owner in "abc":
        assert set(table.of(owner)) == {n for n, o in naive.owners.items() if o == owner}
    for network in [*probes, *naive.owners]:
        for address in (network.network_address, network.broadcast_address):
            assert lookup(table, address) == naive.lookup(address)


def test_default_routes_and_hosts() -> None:
    table: AllowedIPs[str] = AllowedIPs()
    for text, owner in [("0.0.0.0/0", "a"), ("10.0.0.0/8", "b"), ("10.0.0.1/32", "c"), ("::/0", "c")]:
        table.add(ipaddress.ip_network(text), owner)
    assert lookup(table, IPv4Address("192.0.2.1")) == "a"
    assert lookup(table, IPv4Address("10.0.0.2")) == "b"
    assert lookup(table, IPv4Address("10.0.0.1")) == "c"
    assert lookup(table, IPv6Address("::1")) == "c"
    table.remove(ipaddress.ip_network("10.0.0.1/32"), "b")
    assert lookup(table, IPv4Address("10.0.0.1")) == "c", "not b's to remove"


def test_order_of_addition_is_kept_and_a_move_goes_last() -> None:
    table: AllowedIPs[str] = AllowedIPs()
    texts = ["10.2.0.0/16", "10.1.0.0/16", "fd00::/8", "10.3.0.0/16"]
    for text in texts:
        table.add(ipaddress.ip_network(text), "a")
    table.add(ipaddress.ip_network("10.1.0.0/16"), "b")
    table.add(ipaddress.ip_network("10.1.0.0/16"), "a")
    assert [str(n) for n in table.of("a")] == ["10.2.0.0/16", "fd00::/8", "10.3.0.0/16", "10.1.0.0/16"]
    assert list(table.of("b")) == []


def test_many_networks() -> None:
    """The kernel's self-test configures 130,560; a lookup must not care."""
    table: AllowedIPs[int] = AllowedIPs()
    for i in range(20_000):
        table.add(IPv4Network((i << 8, 24)), i % 7)
    for i in range(0, 20_000, 97):
        assert table.lookup_v4(i << 8 | 5) == i % 7
    assert table.lookup_v4(20_000 << 8) is None


def test_a_copy_is_changed_alone() -> None:
    table: AllowedIPs[str] = AllowedIPs()
    table.add(ipaddress.ip_network("10.0.0.0/8"), "a")
    table.add(ipaddress.ip_network("fd00::/8"), "a")
    other = table.copy()
    other.add(ipaddress.ip_network("10.0.0.0/8"), "b")
    other.add(ipaddress.ip_network("10.1.0.0/16"), "b")
    other.remove_all("a")
    table.add(ipaddress.ip_network("10.2.0.0/16"), "c")
    assert [table.lookup_v4(a) for a in (0x0A000001, 0x0A010001, 0x0A020001)] == ["a", "a", "c"]
    assert [other.lookup_v4(a) for a in (0x0A000001, 0x0A010001, 0x0A020001)] == ["b", "b", "b"]
    assert table.lookup_v6(0xFD << 120) == "a"
    assert other.lookup_v6(0xFD << 120) is None
    assert [str(network) for network in table.of("a")] == ["10.0.0.0/8", "fd00::/8"]
