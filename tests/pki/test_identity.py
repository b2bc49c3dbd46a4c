import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.errors import PeerError
from raven.pki.identity import (
    Identity,
    Role,
    gateway_identity,
    identity_among_untrusted,
    node_identity,
    parse_identity_untrusted,
)

NODE = "raven://lab/node/shop-1"


def test_the_uri_is_the_identity() -> None:
    assert node_identity("lab", "shop-1").uri == NODE
    assert gateway_identity("lab", "gw.cloud").uri == "raven://lab/gateway/gw.cloud"
    assert str(parse_identity_untrusted(NODE)) == NODE
    assert parse_identity_untrusted(NODE) == Identity("lab", Role.NODE, "shop-1")


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "raven://",
        "raven://lab/node",
        "raven://lab/node/",
        "raven://lab/node/a/b",
        "raven://lab/node/shop-1/",
        "raven://lab/node/shop-1?x",
        "raven://lab/node/shop-1#x",
        "raven://lab/node/shop%2d1",
        "raven://lab/node/Shop-1",
        "raven://Lab/node/shop-1",
        "RAVEN://lab/node/shop-1",
        "raven://lab/NODE/shop-1",
        "raven://lab/pod/shop-1",
        "raven://lab:1/node/shop-1",
        "raven://user@lab/node/shop-1",
        "raven:///node/shop-1",
        "raven://lab/node/shop-1\n",
        "raven://lab/node/shop-1\x00.evil",
        " raven://lab/node/shop-1",
        "spiffe://lab/node/shop-1",
    ],
)
def test_any_other_spelling_is_refused(uri: str) -> None:
    with pytest.raises(PeerError) as caught:
        parse_identity_untrusted(uri)
    assert caught.value.reason == "bad-identity"


def test_exactly_one_identity_counts() -> None:
    assert identity_among_untrusted(["https://a.example", NODE]).name == "shop-1"
    for uris in (
        [],
        ["https://a.example"],
        [NODE, NODE],
        [NODE, "raven://lab/gateway/gw"],
        [NODE, "Raven://x"],
    ):
        with pytest.raises(PeerError):
            identity_among_untrusted(uris)


def test_a_long_foreign_name_is_not_repeated_in_full() -> None:
    with pytest.raises(PeerError) as caught:
        parse_identity_untrusted("raven://" + "x" * 100_000)
    assert len(str(caught.value)) < 300


@given(st.text(max_size=60) | st.from_regex(r"raven://[a-z0-9./-]{0,20}/(node|gateway)/[a-z0-9./-]{0,20}"))
def test_what_parses_has_one_spelling(uri: str) -> None:
    try:
        identity = parse_identity_untrusted(uri)
    except PeerError:
        return
    assert identity.uri == uri
