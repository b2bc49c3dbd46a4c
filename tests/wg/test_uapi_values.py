"""Values alone: what is read, and that everything else is EINVAL."""

import errno

import pytest

from raven.wg.configuration import UapiError
from raven.wg.endpoint import Endpoint
from raven.wg.uapi_values import read_endpoint, read_network, read_number, read_signed


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("192.0.2.1:51820", Endpoint("192.0.2.1", 51820)),
        ("[2001:DB8:0::1]:0", Endpoint("2001:db8::1", 0)),
        ("[fe80::1%7]:65535", Endpoint("fe80::1", 65535, 7)),
    ],
)
def test_endpoints(text: str, endpoint: Endpoint) -> None:
    assert read_endpoint("endpoint", text) == endpoint
    assert read_endpoint("endpoint", str(endpoint)) == endpoint


def test_a_scope_by_name() -> None:
    interfaces = {"eth0": 3, "7": 9}

    def read(text: str) -> Endpoint:
        return read_endpoint("endpoint", text, lambda name: interfaces.get(name, 0))

    assert read("[fe80::1%eth0]:5") == Endpoint("fe80::1", 5, 3)
    assert read("[fe80::1%8]:5") == Endpoint("fe80::1", 5, 8)
    assert read("[fe80::1%7]:5") == Endpoint("fe80::1", 5, 9), "a name goes before a number"
    for unknown in ("eth1", "", "\0"):
        with pytest.raises(UapiError) as info:
            read(f"[fe80::1%{unknown}]:5")
        assert info.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    "text", ["", ":", "[]:1", "1.2.3.4", "1.2.3:1", "[::1%]:1", "[::1]1", "::1:1", "[::1%-1]:1"]
)
def test_no_endpoints(text: str) -> None:
    with pytest.raises(UapiError) as info:
        read_endpoint("endpoint", text)
    assert info.value.errno == errno.EINVAL


def test_networks() -> None:
    assert str(read_network("allowed_ip", "10.1.2.3/8")) == "10.0.0.0/8"
    assert str(read_network("allowed_ip", "2001:DB8:0:0::1/64")) == "2001:db8::/64"
    for text in ("::1", "10.0.0.0/", "10.0.0.0/255.0.0.0", "::1%1/128", "10.0.0.0/+8", "10.0.0.0/8/8"):
        with pytest.raises(UapiError) as info:
            read_network("allowed_ip", text)
        assert info.value.errno == errno.EINVAL


def test_numbers() -> None:
    assert read_number("fwmark", "016", 100) == 16
    assert read_signed("errno", "-22") == -22
    for text in ("", " 1", "1 ", "+1", "1e3", "0b1", "0x10", "1_0", "101", "\u00b2"):
        with pytest.raises(UapiError):
            read_number("fwmark", text, 100)
