"""The gateway's policy: what it permits, whom it refuses with which word, and what is wrong with a file."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raven.errors import ConfigError
from raven.oam.asker import Asker, asker_from_address
from raven.oam.kubelet import Verb
from raven.oam.permits import Policy, default_policy
from raven.oam.policy import DEFAULT_ALLOW, Rule
from raven.oam.refusal import Refusal

POLICY = Policy.parse("""
[[permit]]
who = ["operator:alice", "group:ops"]
nodes = ["shop-*"]
targets = ["node:22", "192.168.1.0/24:502", "printer.lan:9100"]

[[permit]]
who = ["*"]
targets = ["node:9100"]
""")
ALICE = Asker(address="10.0.0.1:1", names=("operator:alice",))
BOB = Asker(address="10.0.0.2:1", names=("operator:bob",))
ANYBODY = asker_from_address("10.0.0.3:1", "10.0.0.3")
LOCAL = asker_from_address("127.0.0.1:1", "127.0.0.1")


def verdict(policy: Policy, asker: Asker, node: str, host: str, port: int, verb: Verb | None = None) -> str:
    try:
        policy.judge(asker, node, host, port, verb)
    except Refusal as refusal:
        return refusal.reason
    return "allowed"


@pytest.mark.parametrize(
    ("asker", "node", "host", "port", "expected"),
    [
        (ALICE, "shop-1", "", 22, "allowed"),
        (ALICE, "till-1", "", 22, "not-permitted"),
        (ALICE, "shop-1", "192.168.1.9", 502, "allowed"),
        (ALICE, "shop-1", "192.168.2.9", 502, "not-permitted"),
        (ALICE, "shop-1", "printer.lan", 9100, "allowed"),
        (ALICE, "shop-1", "PRINTER.LAN.", 9100, "allowed"),
        # What the node's DNS makes of a name nobody here can know: a network permits no name.
        (ALICE, "shop-1", "plc.lan", 502, "not-permitted"),
        (ALICE, "shop-1", "127.0.0.1", 22, "allowed"),  # the node itself, by another spelling
        (ALICE, "shop-1", "::ffff:127.0.0.1", 22, "allowed"),
        (ALICE, "shop-1", "", 9100, "allowed"),
        (BOB, "shop-1", "", 9100, "allowed"),
        (BOB, "shop-1", "", 22, "not-permitted"),
        (ANYBODY, "shop-1", "", 22, "no-identity"),
        (ANYBODY, "shop-1", "", 23, "not-permitted"),
    ],
)
def test_who_may_reach_what(asker: Asker, node: str, host: str, port: int, expected: str) -> None:
    assert verdict(POLICY, asker, node, host, port) == expected


def test_without_a_file_askers_get_what_openyurt_proxies_and_no_more() -> None:
    ports = {rule.ports[0][0] for rule in map(Rule.parse, DEFAULT_ALLOW)}
    policy = default_policy()
    for port in range(1, 65536):
        expected = "allowed" if port in ports else "no-identity"
        assert verdict(policy, ANYBODY, "n", "", port) == expected
    assert verdict(default_policy(), ANYBODY, "n", "192.168.1.1", 10250) == "no-identity"
    assert verdict(default_policy(), BOB, "n", "", 22) == "not-permitted"


def test_without_a_file_the_machine_of_the_gateway_reaches_what_agents_allow() -> None:
    root = Asker(address="unix pid 7", names=("uid:0", "gid:0"))
    for asker in (LOCAL, root, asker_from_address("[::1]:1", "::1")):
        assert verdict(default_policy(), asker, "n", "", 22) == "allowed"
        assert verdict(default_policy(), asker, "n", "printer.lan", 9100) == "allowed"
        assert verdict(default_policy(), asker, "n", "169.254.169.254", 80) != "allowed"


def test_an_empty_policy_permits_nothing() -> None:
    assert verdict(Policy.parse(""), LOCAL, "n", "", 9100) == "not-permitted"


def test_nodes_are_seen_by_whom_they_answer() -> None:
    assert POLICY.may_see(ANYBODY, "till-1")
    narrow = Policy.parse('[[permit]]\nwho=["operator:alice"]\nnodes=["shop-1"]\ntargets=["node:1"]')
    assert narrow.may_see(ALICE, "shop-1")
    assert not narrow.may_see(ALICE, "shop-2")
    assert not narrow.may_see(ANYBODY, "shop-1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("permit = 3", "p: permit: expected"),
        ("[permit]\nwho = []", "p: permit: expected"),
        ("premit = []", "p: premit: there is no such key"),
        ("[[permit]]\nwho = [", "p: "),
        ('\n\n[[permit]]\nwho=["bob"]\ntargets=["node:1"]', "p:3: permit[0].who[0]: 'bob'"),
        (
            '[[permit]]\nwho=["*"]\ntargets=["node:1"]\n[[permit]]\nwho=["*"]\ntargets=["node:x"]',
            "p:4: permit[1].targets[0]: ",
        ),
        ('[[permit]]\nwho=["*"]\ntargets=["node:1"]\nnodes=["Shop 1"]', "p:1: permit[0].nodes[0]: "),
        ('[[permit]]\nwho=["*"]\ntargets=["node:1 for uid:0"]', "here who asks stands in `who`"),
        ('[[permit]]\nwho=["*"]\ntargets=["node:1"]\nverb=["logs"]', "unknown field `verb`; "),
        ('[[permit]]\ntargets=["node:1"]', "who"),
        ('[[permit]]\nwho=[]\ntargets=["node:1"]', "who"),
        ('[[permit]]\nwho="*"\ntargets=["node:1"]', "got `str` at `permit.who`; "),
    ],
)
def test_a_broken_file_is_told_with_its_place(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Policy.parse(text, "p")
    assert expected in str(caught.value)
    assert str(caught.value).startswith("p")


def test_all_problems_are_told_in_one_go() -> None:
    text = '[[permit]]\nwho=["bob", "eve"]\ntargets=["node:x"]\n[[permit]]\nwho=["*"]\ntargets=["y"]\n'
    with pytest.raises(ConfigError) as caught:
        Policy.parse(text, "p")
    assert len(str(caught.value).splitlines()) == 4


@given(st.text(max_size=200))
def test_any_text_is_a_policy_or_one_error(text: str) -> None:
    with suppress(ConfigError):
        Policy.parse(text)


def test_verbs_are_told_apart_and_an_entry_that_cannot_see_them_gets_nothing_of_such_a_permit() -> None:
    policy = Policy.parse(
        """
        [[permit]]
        who = ["operator:alice"]
        targets = ["node:10250"]
        verbs = ["logs", "port-forward"]

        [[permit]]
        who = ["operator:bob"]
        targets = ["node:10250"]
        """
    )
    for verb in Verb:
        allowed = "allowed" if verb in (Verb.LOGS, Verb.PORT_FORWARD) else "not-permitted"
        assert verdict(policy, ALICE, "shop-1", "", 10250, verb) == allowed
        assert verdict(policy, BOB, "shop-1", "", 10250, verb) == "allowed"
    assert verdict(policy, ALICE, "shop-1", "", 10250) == "not-permitted"
    assert verdict(policy, BOB, "shop-1", "", 10250) == "allowed"
    with pytest.raises(Refusal, match="does not permit exec at shop-1:10250 to operator:alice"):
        policy.judge(ALICE, "shop-1", "", 10250, Verb.EXEC)


def test_a_verb_there_is_not_is_named() -> None:
    with pytest.raises(ConfigError, match=r"permit\[0\].verbs\[1\]: 'execute': expected one of logs, exec, "):
        Policy.parse('[[permit]]\nwho=["*"]\ntargets=["node:1"]\nverbs=["logs", "execute"]')
