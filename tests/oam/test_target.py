"""Which node, host and port a request asks for, in every spelling, and what is forwarded of its target."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.oam.refusal import Refusal
from raven.oam.target import Route, Target, at_address, find_route, known_address_untrusted

NODES = {"edge1", "edge2", "shop.north", "odd.via.name"}


def route(method: str, target: str, *raven_node: str) -> Route | None:
    return find_route(method, target, raven_node, NODES.__contains__)


@pytest.mark.parametrize(
    ("target", "header", "expected"),
    [
        ("edge1:10250", "", Target("edge1", "", 10250)),
        ("EDGE1.:10250", "", Target("edge1", "", 10250)),
        ("shop.north:22", "", Target("shop.north", "", 22)),
        ("nowhere:22", "", Target("nowhere", "", 22)),  # the gateway says 502
        ("10.0.0.7:502", "", Target("10.0.0.7", "", 502)),
        ("[fd00::7]:502", "", Target("fd00::7", "", 502)),
        ("10.0.0.7:502", "edge1", Target("edge1", "10.0.0.7", 502)),
        ("[fd00::7]:502", "Edge1", Target("edge1", "fd00::7", 502)),
        ("[fe80::7%lan0]:502", "edge1", Target("edge1", "fe80::7%lan0", 502)),
        ("plc.lan:502", "edge1", Target("edge1", "plc.lan", 502)),
        ("node:502", "edge1", Target("edge1", "", 502)),
        ("edge1:502", "edge1", Target("edge1", "", 502)),
        ("edge2:502", "edge1", Target("edge1", "", 502)),  # the override of OpenYurt
        ("10.0.0.7.via.edge1:502", "", Target("edge1", "10.0.0.7", 502)),
        ("PLC.lan.VIA.shop.north:502", "", Target("shop.north", "plc.lan", 502)),
        ("a.via.b.via.edge1:502", "", Target("edge1", "a.via.b", 502)),
        ("node.via.edge1:502", "", Target("edge1", "", 502)),
        ("odd.via.name:502", "", Target("odd.via.name", "", 502)),
        ("plc.via.nowhere:502", "", Target("nowhere", "plc", 502)),
        (
            "plc.via.edge2:502",
            "edge1",
            Target("edge1", "plc.via.edge2", 502),
        ),  # the header is the clearer word
    ],
)
def test_connect(target: str, header: str, expected: Target) -> None:
    assert route("CONNECT", target, *([header] if header else [])) == Route(expected)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("http://edge1:9100/metrics", Route(Target("edge1", "", 9100), "/metrics", "edge1:9100")),
        ("HTTP://edge1", Route(Target("edge1", "", 80), "/", "edge1")),
        ("http://edge1:/", Route(Target("edge1", "", 80), "/", "edge1:")),
        ("http://edge1?a=1", Route(Target("edge1", "", 80), "/?a=1", "edge1")),
        ("http://edge1/a?", Route(Target("edge1", "", 80), "/a", "edge1")),
        ("http://edge1/%2e?x=%26&&y", Route(Target("edge1", "", 80), "/%2e?x=%26&&y", "edge1")),
        (
            "http://plc.lan.via.edge1:8080/x",
            Route(Target("edge1", "plc.lan", 8080), "/x", "plc.lan:8080"),
        ),
        ("http://plc.lan.via.edge1/x", Route(Target("edge1", "plc.lan", 80), "/x", "plc.lan")),
        ("http://node.via.edge1:9100/", Route(Target("edge1", "", 9100), "/", "edge1:9100")),
        ("http://[fd00::7]:80/?nodeName=edge1", Route(Target("edge1", "fd00::7", 80), "/", "[fd00::7]:80")),
        (
            "http://10.0.0.7:80/m?a=1&nodeName=edge1&b=2",
            Route(Target("edge1", "10.0.0.7", 80), "/m?a=1&b=2", "10.0.0.7:80"),
        ),
        ("http://edge2:9100/m?nodeName=edge1", Route(Target("edge1", "", 9100), "/m", "edge2:9100")),
        ("http://x/m?node%4eame=edg%651", Route(Target("edge1", "x", 80), "/m", "x")),
        ("http://x/m?nodename=edge1", Route(Target("x", "", 80), "/m?nodename=edge1", "x")),
    ],
)
def test_absolute_form(target: str, expected: Route) -> None:
    assert route("GET", target) == expected


def test_the_header_leaves_a_query_of_the_targets_own_alone() -> None:
    found = route("GET", "http://plc/m?nodeName=mine", "edge1")
    assert found == Route(Target("edge1", "plc", 80), "/m?nodeName=mine", "plc")


def test_via_leaves_a_query_of_the_targets_own_alone() -> None:
    found = route("GET", "http://plc.via.edge1/m?nodeName=mine")
    assert found == Route(Target("edge1", "plc", 80), "/m?nodeName=mine", "plc")


def test_options_for_the_whole_server() -> None:
    assert route("OPTIONS", "http://edge1:80") == Route(Target("edge1", "", 80), "*", "edge1:80")


def test_origin_form_is_for_the_gateway_itself() -> None:
    assert route("GET", "/healthz") is None
    assert route("GET", "//edge1/") is None


@pytest.mark.parametrize(
    ("host", "target", "expected"),
    [
        ("edge1:9445", "/metrics", Route(Target("edge1", "", 9445), "/metrics", "edge1:9445")),
        ("EDGE1.", "/sd?a=1", Route(Target("edge1", "", 80), "/sd?a=1", "EDGE1.")),
        ("edge1:9445", "/a?nodeName=edge2&b", Route(Target("edge2", "", 9445), "/a?b", "edge1:9445")),
        ("edge1:9445", "//edge2/", Route(Target("edge1", "", 9445), "//edge2/", "edge1:9445")),
        *((host, "/sd", None) for host in ("gateway:10264", "10.0.0.1", "[::1]:80", "u:p@edge1", "", "/")),
    ],
)
def test_a_path_is_for_the_node_whose_name_led_here(host: str, target: str, expected: Route | None) -> None:
    assert find_route("GET", target, [], NODES.__contains__, host=host) == expected


NO_AUTHORITY = [
    *("", "edge1", "edge1:", "edge1:0", "edge1:65536", "edge1:080000", "edge1:8o", "edge1:80/", ":80", "/x"),
    *("http://edge1:80", "a b:80", "u:p@edge1:80", "é:80", "[::1:80", "fd00::1:80", "[edge1]:80"),
    *(".via.edge1:80", f"{'a' * 254}:80"),
]
NO_URL = [
    *("*", "edge1:80", "edge1/", "https://edge1/", "ftp://edge1/", "http:///", "http:/edge1"),
    *("http://u:p@edge1/", "http://edge1/#f", "http://edge1:x/", "http://x/?nodeName=edge1&nodeName=edge2"),
    *(f"http://x/?nodeName={name}" for name in ("", "a/b", "a%0d%0a", "%ff")),
]


@pytest.mark.parametrize(
    ("method", "target"), [*(("CONNECT", bad) for bad in NO_AUTHORITY), *(("GET", bad) for bad in NO_URL)]
)
def test_what_names_no_target_is_refused(method: str, target: str) -> None:
    with pytest.raises(Refusal) as caught:
        assert route(method, target) is None, "not a page"
    assert (caught.value.reason, caught.value.status) == ("bad-target", 400)
    assert "u:p" not in str(caught.value)


def test_two_nodes_are_no_node() -> None:
    with pytest.raises(Refusal, match="two nodes"):
        route("CONNECT", "plc:80", "edge1", "edge2")
    assert route("CONNECT", "plc:80", "edge1", "EDGE1") == Route(Target("edge1", "plc", 80))


@given(
    st.sampled_from(["GET", "CONNECT", "OPTIONS"]),
    st.text(max_size=60),
    st.lists(st.text(max_size=9), max_size=2),
)
def test_any_target_is_a_route_a_page_or_a_refusal(method: str, target: str, header: list[str]) -> None:
    try:
        found = route(method, target, *header)
    except Refusal:
        return
    if found is not None:
        assert 1 <= found.target.port <= 65535
        assert found.target.node
        assert method == "CONNECT" or found.path.startswith(("/", "*"))
        assert "nodeName" not in found.path or header


def test_a_target_reads_as_people_say_it() -> None:
    assert str(Target("edge1", "", 80)) == "edge1:80"
    assert str(Target("edge1", "fd00::1", 80)) == "[fd00::1]:80 behind edge1"


AT = {"10.0.0.7": ["edge1"], "192.168.1.10": ["edge1", "edge2"], "fd00::7": ["edge2"]}


@pytest.mark.parametrize(
    ("address", "node"),
    [
        ("10.0.0.7", "edge1"),
        ("fd00::7", "edge2"),
        ("fd00:0:0::7", "edge2"),
        ("10.0.0.8", "10.0.0.8"),  # nobody's: the gateway says 502
        ("127.0.0.1", "127.0.0.1"),
        ("edge1", "edge1"),
        ("010.0.0.7", "010.0.0.7"),
    ],
)
def test_a_node_is_found_by_an_address_of_its_own(address: str, node: str) -> None:
    found = at_address(Target(address, "", 10250), lambda text: AT.get(text, []))
    assert found == Target(node, "", 10250)


def test_an_address_of_two_nodes_is_refused_with_the_way_out() -> None:
    with pytest.raises(Refusal, match="kubelet-preferred-address-types=Hostname") as refused:
        at_address(Target("192.168.1.10", "", 10250), lambda text: AT.get(text, []))
    assert refused.value.reason == "ambiguous-node"
    assert "edge" not in str(refused.value), "which nodes there are is not for everybody to learn"


def test_addresses_that_mean_another_machine_to_everybody_name_no_node() -> None:
    for text in ("127.0.0.1", "::1", "0.0.0.0", "::", "169.254.1.1", "fe80::1", "224.0.0.1", "edge1", ""):
        assert known_address_untrusted(text) == ""
    assert known_address_untrusted("FD00:0::7") == "fd00::7"
