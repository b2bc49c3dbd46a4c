"""What a gateway tells agents to dial, from what it was told itself."""

import socket

import pytest

from gateway.addresses import advertised
from gateway.options import GatewayOptions
from raven.config import load


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"advertise": "gw.example.com:443"}, "gw.example.com:443"),
        ({"agents_listen": "192.0.2.7:10262"}, "192.0.2.7:10262"),
        ({"agents_listen": "[2001:db8::7]:10262"}, "[2001:db8::7]:10262"),
        ({"agents_listen": "0.0.0.0:10262"}, "shop.example:10262"),
        ({}, "shop.example:10262"),
    ],
)
def test_advertised(given: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Shop.example")
    assert str(advertised(load(GatewayOptions, given=given))) == expected
