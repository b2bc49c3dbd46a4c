"""What the allow list lets through, and that no spelling of an address, no DNS answer gets around it."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raven.errors import RefusedError
from raven.oam.asker import IPAddress
from raven.oam.policy import DEFAULT_ALLOW, METADATA_ADDRESSES, Allow, Rule, real_address


def addresses(*texts: str) -> list[IPAddress]:
    return [ipaddress.ip_address(text) for text in texts]


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("node:10250", "node:10250"),
        (" node:10250,10255 ", "node:10250,10255"),
        ("*:*", "*:*"),
        ("10.0.0.7:502", "10.0.0.7:502"),
        ("10.0.0.0/8:1-1024", "10.0.0.0/8:1-1024"),
        ("[fd00::1]:443", "[fd00::1]:443"),
        ("[fd00::/8]:*", "[fd00::/8]:*"),
        ("[::ffff:10.0.0.7]:502", "10.0.0.7:502"),
        ("Printer.LAN.:9100-9110", "printer.lan:9100-9110"),
        ("plc_4:502-502", "plc_4:502"),
    ],
)
def test_a_rule_is_read_and_written(text: str, canonical: str) -> None:
    assert str(Rule.parse(text)) == canonical
    assert Rule.parse(canonical) == Rule.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "node",
            ":80",
            "node:",
            "node:0",
            "node:65536",
            "node:9-8",
            "node:x",
            "node:+1",
            "node:1-",
            "node:1,",
        ),
        *("fd00::1:443", "[fd00::1:443", "[node]:1", "10.0.0.1/8:80", "300.1.1.1:80", "127.1:80", "a b:80"),
        *("-a:80", "a..b:80", "https://a:80", "node:١", "ä.lan:80", f"{'a' * 254}:80"),
    ],
)
def test_a_rule_that_cannot_be_read_is_named_with_what_was_expected(text: str) -> None:
    with pytest.raises(ValueError, match="expected HOST:PORT") as caught:
        Rule.parse(text)
    assert repr(text) in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_a_value_error(text: str) -> None:
    try:
        rule = Rule.parse(text)
    except ValueError:
        return
    assert Rule.parse(str(rule)) == rule


def test_the_default_list_opens_the_four_ports_of_the_node_only() -> None:
    allow = Allow.parse()
    assert len(DEFAULT_ALLOW) == 4
    for port in (10250, 10255, 9100, 9445):
        assert allow.permits("", port, [])
    assert not allow.permits("", 22, [])
    assert not allow.permits("10.0.0.7", 9100, addresses("10.0.0.7"))


@pytest.mark.parametrize(
    ("rules", "host", "port", "resolved", "permitted"),
    [
        # the node itself, under every name that surely means it
        ("node:80", "127.0.0.1", 80, "127.0.0.1", True),
        ("node:80", "127.8.9.1", 80, "127.8.9.1", True),
        ("node:80", "::1", 80, "::1", True),
        ("node:80", "0.0.0.0", 80, "0.0.0.0", True),
        ("node:80", "localhost", 80, "127.0.0.1 ::1", True),
        ("node:80", "192.168.1.9", 80, "192.168.1.9", True),  # its own address
        ("node:80", "192.168.1.8", 80, "192.168.1.8", False),
        ("node:80", "myself.lan", 80, "192.168.1.9", False),
        ("10.0.0.0/8:80", "127.0.0.1", 80, "127.0.0.1", False),
        ("10.0.0.0/8:80", "0.0.0.0", 80, "0.0.0.0", False),
        ("10.0.0.0/8:80", "", 80, "", False),
        ("*:80", "", 80, "", True),
        # addresses and networks
        ("10.0.0.7:80", "10.0.0.7", 80, "10.0.0.7", True),
        ("10.0.0.7:80", "10.0.0.7", 81, "10.0.0.7", False),
        ("10.0.0.7:80", "::ffff:10.0.0.7", 80, "::ffff:10.0.0.7", True),
        ("10.0.0.7:80", "64:ff9b::a00:7", 80, "64:ff9b::a00:7", True),
        ("[fe80::/10]:80", "fe80::7%lan0", 80, "fe80::7%lan0", True),
        ("[fd00::/8]:80", "10.0.0.7", 80, "10.0.0.7", False),
        # names: by name, or by every address
        ("plc.lan:502", "PLC.lan.", 502, "192.168.1.20", True),
        ("plc.lan:502", "plc.lan.evil.example", 502, "192.168.1.20", False),
        ("plc.lan:502", "192.168.1.20", 502, "192.168.1.20", False),
        ("192.168.1.0/24:502", "plc.lan", 502, "192.168.1.20", True),
        ("192.168.1.0/24:502", "plc.lan", 502, "192.168.1.20 192.168.1.21", True),
        ("192.168.1.0/24:502", "plc.lan", 502, "192.168.1.20 8.8.8.8", False),
        ("192.168.1.0/24:502 8.8.8.8:502", "plc.lan", 502, "192.168.1.20 8.8.8.8", True),
        ("192.168.1.0/24:502", "plc.lan", 502, "", False),
        # rebinding: the answer of the DNS must not open loopback or metadata
        ("plc.lan:502", "plc.lan", 502, "127.0.0.1", False),
        ("plc.lan:502", "plc.lan", 502, "::1", False),
        ("plc.lan:502", "plc.lan", 502, "0.0.0.0", False),
        ("plc.lan:502", "plc.lan", 502, "::ffff:127.0.0.1", False),
        ("plc.lan:502", "plc.lan", 502, "169.254.169.254", False),
        ("plc.lan:502 node:502", "plc.lan", 502, "127.0.0.1", False),
        ("localhost:502", "localhost", 502, "127.0.0.1 ::1", True),
        # metadata: only a rule with the very address
        ("*:*", "169.254.169.254", 80, "169.254.169.254", False),
        ("169.254.0.0/16:80", "169.254.169.254", 80, "169.254.169.254", False),
        ("169.254.169.254:80", "169.254.169.254", 80, "169.254.169.254", True),
        ("169.254.169.254/32:80", "metadata.lan", 80, "169.254.169.254", True),
        ("*:*", "0xa9fea9fe", 80, "169.254.169.254", False),  # a legacy spelling that resolvers take
        ("*:*", "::ffff:169.254.169.254", 80, "::ffff:169.254.169.254", False),
        ("*:*", "64:ff9b::a9fe:a9fe", 80, "64:ff9b::a9fe:a9fe", False),
        ("[fe80::/10]:*", "fe80::a9fe:a9fe%eth0", 80, "fe80::a9fe:a9fe%eth0", False),
    ],
)
def test_what_is_permitted(rules: str, host: str, port: int, resolved: str, permitted: bool) -> None:
    allow = Allow.parse(rules.split(), node_address=ipaddress.ip_address("192.168.1.9"))
    assert allow.permits(host, port, addresses(*resolved.split())) is permitted


def test_a_name_that_no_rule_can_permit_is_refused_before_it_is_looked_up() -> None:
    with pytest.raises(RefusedError):
        Allow.parse().judge_host("leak-of-a-secret.evil.example", 9100)
    Allow.parse(["10.0.0.0/8:9100"]).judge_host("may-be-in-10.lan", 9100)


@pytest.mark.parametrize(
    ("rules", "host", "resolved", "sentence"),
    [
        ("node:1", "", "", "can add the rule node:80"),
        ("node:1", "fd00::1", "fd00::1", r"can add the rule \[fd00::1\]:80"),
        ("*:80", "169.254.169.254", "169.254.169.254", "needs a rule with this very address"),
        ("plc.lan:80", "plc.lan", "127.0.0.1", "its owner can list the address"),
    ],
)
def test_a_refusal_says_what_to_do(rules: str, host: str, resolved: str, sentence: str) -> None:
    allow = Allow.parse(rules.split())
    with pytest.raises(RefusedError, match=sentence) as caught:  # noqa: PT012 - either call may refuse
        allow.judge_host(host, 80)
        allow.judge_addresses(host, 80, addresses(*resolved.split()))
    assert caught.value.reason == "not-allowed"
    assert resolved in host or resolved not in str(caught.value)  # what a name means stays behind the node


hosts = st.one_of(
    st.sampled_from(["", "plc.lan", "localhost", "127.0.0.1", "10.1.2.3", "fd00::1"]),
    st.ip_addresses().map(str),
)
networks = st.sampled_from(["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "192.168.0.0/16"])


@settings(max_examples=150)
@given(
    st.lists(networks, max_size=4),
    st.lists(st.sampled_from(["10.1.2.3", "10.200.0.1", "192.168.3.4", "8.8.8.8"]), min_size=1, max_size=3),
)
def test_networks_agree_with_a_naive_model(allowed: list[str], resolved: list[str]) -> None:
    naive = all(any(ipaddress.ip_address(a) in ipaddress.ip_network(n) for n in allowed) for a in resolved)
    allow = Allow.parse([f"{network}:80" for network in allowed])
    assert allow.permits("some.name", 80, addresses(*resolved)) is naive


@given(hosts, st.integers(1, 65535), st.lists(st.ip_addresses(), max_size=3))
def test_nothing_but_a_refusal_is_ever_raised(host: str, port: int, resolved: list[IPAddress]) -> None:
    assert not Allow.parse([]).permits(host, port, resolved)
    everything = Allow.parse(["*:*"]).permits(host, port, resolved)
    assert not (
        everything and any(real_address(address) in METADATA_ADDRESSES for address in resolved) and host
    )


@pytest.mark.parametrize(
    ("rules", "host", "reached", "who"),
    [
        (["node:23"], "", [], []),
        (["node:22 for operator:alice,group:ops"], "", [], ["operator:alice", "group:ops"]),
        (
            ["node:22 for operator:alice", "*:22 for from:10.0.0.0/8"],
            "",
            [],
            ["operator:alice", "from:10.0.0.0/8"],
        ),
        (["node:23 for operator:alice"], "", [], []),
        (["192.0.2.0/24:22 for token:a", "node:22 for token:b"], "192.0.2.5", ["192.0.2.5"], ["token:a"]),
        (["a.lan:22 for token:a", "b.lan:22 for token:b"], "a.lan", ["192.0.2.5"], ["token:a"]),
        # Each address by a rule, one of them for everybody.
        (["192.0.2.5:22", "192.0.2.6:22 for token:a"], "a.lan", ["192.0.2.5", "192.0.2.6"], ["token:a"]),
        (["192.0.2.6:22 for token:a"], "a.lan", ["192.0.2.5", "192.0.2.6"], []),
    ],
)
def test_to_whom_it_is_permitted_by_rules_for_some(
    rules: list[str], host: str, reached: list[str], who: list[str]
) -> None:
    assert list(map(str, Allow.parse(rules).permitted_to(host, 22, addresses(*reached)))) == who
