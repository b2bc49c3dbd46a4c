"""The words evidence is shown with."""

from raven.diagnosis.evidence import Attempt, Contact


def test_a_contact_is_named_as_one_would_dial_it() -> None:
    assert Contact(host="gw.example", port=443).name == "gw.example:443"
    assert Contact(host="2001:db8::1", port=443).name == "[2001:db8::1]:443"


def test_connected_are_those_with_a_time() -> None:
    good, bad = Attempt(address="a:1", seconds=0.0), Attempt(address="b:1", problem="no")
    assert Contact(host="x", port=1, attempts=(bad, good)).connected == (good,)
