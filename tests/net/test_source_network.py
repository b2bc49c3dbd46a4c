"""Sources are counted by /24 and /64."""

import pytest

from raven.net.source_network import network_of_host


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("unknown", "None"),
    ],
)
def test_the_network_of_a_source(host: str, network: str) -> None:
    assert str(network_of_host(host)) == network
