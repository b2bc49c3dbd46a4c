import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.control.messages import (
    AgentHello,
    ControlMessage,
    GatewayHello,
    GatewayList,
    JoinAccepted,
    JoinHello,
    JoinMessage,
    JoinRefused,
    JoinRequest,
    KnownGateway,
    MapNode,
    NetworkMap,
    OpenRequest,
    PacketOffer,
    PacketReport,
    Renewed,
    RenewRefused,
    RenewRequest,
    decode_control_untrusted,
    decode_join_untrusted,
    decode_open_untrusted,
    encode,
)
from raven.errors import PeerError

OFFER = PacketOffer(public_key="k" * 44, listen_port=4500, pod_cidrs=["10.1.0.0/24", "fd00::/64"])
HELLO = AgentHello(version=1, node="shop-1", software="raven 0.1", packets=OFFER, allow=["node:22"])
CONTROL: list[ControlMessage] = [
    HELLO,
    AgentHello(version=1, node="a", software="", packets=None, no_packets_reason="no TUN"),
    GatewayHello(version=1, gateway="gw", cluster="lab", software="raven 0.1"),
    GatewayHello(
        version=1,
        gateway="g",
        cluster="lab",
        software="",
        now=1.5,
        renew_in=0.0,
        renew_only=True,
    ),
    GatewayList(revision=7, gateways=[KnownGateway(name="gw-1", address="gw.example.com:443")]),
    NetworkMap(
        revision=3,
        nodes=[MapNode(name="a", public_key="k" * 44, endpoint="", pod_cidrs=[], hub=False)],
        problem="10.1.0.0/24 belongs to node b",
    ),
    PacketReport(problem=""),
    RenewRequest(csr_pem="pem"),
    Renewed(certificate_pem="pem", renew_in=5184000.0),
    RenewRefused(reason="renew-often", message="Just now."),
]
JOIN: list[JoinMessage] = [
    JoinHello(ca_pem="pem", cluster="lab", now=1.5),
    JoinRequest(token="secret", node="shop-1", csr_pem="pem"),
    JoinAccepted(certificate_pem="pem", ca_pem="pem", cluster="lab", gateways=["h:1"]),
    JoinRefused(reason="token-used", message="It has been used."),
]
OPEN = OpenRequest(host="", port=10250, asker="10.0.0.1:5", request="CONNECT shop-1:10250")


@pytest.mark.parametrize("message", CONTROL, ids=lambda m: type(m).__name__)
def test_control_messages_come_back(message: ControlMessage) -> None:
    assert decode_control_untrusted(encode(message)) == message


@pytest.mark.parametrize("message", JOIN, ids=lambda m: type(m).__name__)
def test_join_messages_come_back(message: JoinMessage) -> None:
    assert decode_join_untrusted(encode(message)) == message


def test_an_open_header_comes_back() -> None:
    assert decode_open_untrusted(encode(OPEN)) == OPEN


def test_a_request_to_join_hides_its_token() -> None:
    request = JoinRequest(token="sesame", node="shop-1", csr_pem="pem")
    assert "sesame" not in repr(request)
    assert "shop-1" in str(request)


def test_fields_of_a_newer_end_are_ignored() -> None:
    data = encode(HELLO).replace(b"{", b'{"colour":"green",', 1)
    assert decode_control_untrusted(data) == HELLO


@pytest.mark.parametrize("message", [*CONTROL, *JOIN], ids=lambda m: type(m).__name__)
def test_a_truncated_message_or_a_tail_is_an_error(message: ControlMessage | JoinMessage) -> None:
    data = encode(message)
    for bad in [data[:cut] for cut in range(len(data))] + [data + b"}", data + data]:
        with pytest.raises(PeerError):
            decode_control_untrusted(bad)
        with pytest.raises(PeerError):
            decode_join_untrusted(bad)


def test_a_join_message_is_no_control_message() -> None:
    with pytest.raises(PeerError, match="join-hello"):
        decode_control_untrusted(encode(JOIN[0]))


FIELDS: dict[str, list[object]] = {
    "node": ["", "Shop", "a/b", "a" * 254, "a\n", None, 7],
    "software": ["x" * 2001],
    "allow": [["x"] * 1001, ["x" * 2001]],
    "packets": [{"public_key": "k", "listen_port": 1, "pod_cidrs": ["c" * 50]}, []],
}


@pytest.mark.parametrize(("field", "value"), [(field, v) for field, values in FIELDS.items() for v in values])
def test_the_error_names_the_field_that_does_not_fit(field: str, value: object) -> None:
    data = msgspec.json.decode(encode(HELLO))
    data[field] = value
    with pytest.raises(PeerError, match=rf"\$\.{field}") as caught:
        decode_control_untrusted(msgspec.json.encode(data))
    assert caught.value.reason == "bad-control"


@pytest.mark.parametrize("now", ["1e308", "-1", "253402300800", "NaN", "1e999"])
def test_a_wall_clock_is_one_a_date_can_be_made_of(now: str) -> None:
    data = f'{{"type":"join-hello","ca_pem":"","cluster":"lab","now":{now}}}'
    with pytest.raises(PeerError):
        decode_join_untrusted(data.encode())


@pytest.mark.parametrize("port", [0, 65536, -1, 1.5, "22"])
def test_an_open_header_needs_a_port(port: object) -> None:
    data = msgspec.json.decode(encode(OPEN)) | {"port": port}
    with pytest.raises(PeerError) as caught:
        decode_open_untrusted(msgspec.json.encode(data))
    assert caught.value.reason == "bad-open"


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["type", "node", "version", "token", "nodes"]), inner, max_size=5)
    ),
    max_leaves=12,
)


@given(st.binary(max_size=200) | JSON.map(lambda value: msgspec.json.encode(value)))
def test_garbage_is_one_typed_error(data: bytes) -> None:
    for decode in (decode_control_untrusted, decode_join_untrusted, decode_open_untrusted):
        with pytest.raises(PeerError):
            decode(data)


def test_deep_nesting_is_a_typed_error() -> None:
    data = b'{"type":"packet-report","problem":"","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(PeerError):
        decode_control_untrusted(data)
