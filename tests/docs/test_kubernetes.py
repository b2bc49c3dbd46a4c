"""docs/kubernetes.md: its verbs are the code's, its policy parses, its flags exist, its links lead on."""

import re
from pathlib import Path

import yaml

from agent.options import AgentOptions
from gateway.options import GatewayOptions
from raven.config import fields
from raven.oam.kubelet import Verb
from raven.oam.permits import Policy

DOCUMENT = Path(__file__).parents[2] / "docs" / "kubernetes.md"
TEXT = DOCUMENT.read_text()


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def test_every_verb_stands_there() -> None:
    table = TEXT.partition("| verb | what it is |")[2]
    assert re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE) == list(Verb)


def test_the_policy_parses() -> None:
    (policy,) = snippets("toml")
    (permit,) = Policy.parse(policy).permits
    assert permit.verbs is not None
    assert Verb.EXEC not in permit.verbs


def test_the_egress_configurations_are_what_the_test_cluster_uses() -> None:
    socket, tcp = map(yaml.safe_load, snippets("yaml"))
    (selection,) = socket["egressSelections"]
    assert (socket["kind"], selection["name"]) == ("EgressSelectorConfiguration", "cluster")
    assert selection["connection"]["proxyProtocol"] == "HTTPConnect"
    assert list(selection["connection"]["transport"]) == ["uds"]
    assert set(tcp["transport"]["tcp"]["tlsConfig"]) == {"caBundle", "clientCert", "clientKey"}


def test_every_flag_of_ours_exists() -> None:
    known = {field.flag for kind in (GatewayOptions, AgentOptions) for field in fields(kind)} | {"--node"}
    theirs = {"--egress-selector-config-file", "--kubelet-preferred-address-types"}
    theirs |= {"--kubelet-certificate-authority"}
    mentioned = set(re.findall(r"--[a-z][a-z-]+", TEXT))
    assert mentioned - theirs <= known


def test_every_link_leads_somewhere() -> None:
    headings = re.findall(r"^#+ (.+)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        file, _, anchor = target.partition("#")
        assert (DOCUMENT.parent / file).exists() if file else anchor in anchors, target
