"""Spelling and comparison of endpoints."""

from raven.wg.endpoint import Endpoint


def test_spelling() -> None:
    assert str(Endpoint("192.0.2.1", 51820)) == "192.0.2.1:51820"
    assert str(Endpoint("2001:db8::1", 1)) == "[2001:db8::1]:1"
    assert str(Endpoint("fe80::1", 1, 3)) == "[fe80::1%3]:1"


def test_the_local_address_is_no_part_of_the_place() -> None:
    here = Endpoint("192.0.2.1", 51820, source="192.0.2.9")
    assert here.same_place(Endpoint("192.0.2.1", 51820))
    assert here != Endpoint("192.0.2.1", 51820)
    assert not here.same_place(Endpoint("192.0.2.1", 51821))
    assert not here.same_place(None)
