"""The child that makes requests and installs answers, as a function and as a process."""

import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509

from agent.renew import Trust, follow_ca, install_certificate, request
from agent.renewal import CHILD
from raven.errors import PeerError, StateError
from raven.pki.ca import Authority
from raven.pki.certificate import pin_of
from raven.pki.csr import read_csr_untrusted
from raven.registry.agent_state import open_agent, read_agent_file
from tests.aged import Past, past
from tests.pki.material import make_authority, make_key, seeded

NOW = time.time()


@pytest.fixture
def node(tmp_path: Path) -> Path:
    with past(tmp_path / "gateway", now=NOW) as then:
        then.join(tmp_path / "node", "shop-1", "gw:1")
    return tmp_path / "node"


def _opened(node: Path) -> Past:
    with past(node.parent / "gateway", now=NOW) as then:
        return then


def test_a_request_stays_the_same_until_it_was_granted(node: Path) -> None:
    first, second = read_csr_untrusted(request(node)), read_csr_untrusted(request(node))
    assert first == second
    leaf = _opened(node).state.authority.issue_node("shop-1", first, now=NOW + 99, random=seeded())
    install_certificate(node, leaf.pem)
    assert read_agent_file(node, now=NOW).time_floor == leaf.not_before
    open_agent(node, now=NOW).close()
    assert (node / "node.crt").read_text() == leaf.pem
    assert read_csr_untrusted(request(node)) != first


def test_another_certificate_is_not_put_in_place(node: Path) -> None:
    before = (node / "node.crt").read_bytes()
    authority = _opened(node).state.authority
    stranger = make_authority("test", now=NOW)
    with pytest.raises(PeerError, match="no request"):
        install_certificate(node, authority.certificate_pem)
    key = read_csr_untrusted(request(node))
    for pem in (
        authority.issue_node("shop-2", key, now=NOW, random=seeded()).pem,
        authority.issue_node("shop-1", make_key(5).public_key(), now=NOW, random=seeded()).pem,
        authority.issue_gateway("shop-1", key, hosts=[], now=NOW, random=seeded()).pem,
        stranger.issue_node("shop-1", key, now=NOW, random=seeded()).pem,
        authority.certificate_pem,
        "nonsense",
    ):
        with pytest.raises(PeerError):
            install_certificate(node, pem)
    assert (node / "node.crt").read_bytes() == before
    open_agent(node, now=NOW).close()


def test_the_process_speaks_over_its_pipes(node: Path, tmp_path: Path) -> None:
    asked = subprocess.run([*CHILD, "request", node], capture_output=True, timeout=20, check=True)
    key = read_csr_untrusted(asked.stdout.decode())
    leaf = _opened(node).state.authority.issue_node("shop-1", key, now=NOW, random=seeded())
    command = [*CHILD, "install", str(node)]
    done = subprocess.run(command, input=leaf.pem.encode(), capture_output=True, timeout=20, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert (node / "node.crt").read_text() == leaf.pem
    failed = subprocess.run(
        [*CHILD, "request", tmp_path / "none"], capture_output=True, timeout=20, check=False
    )
    assert failed.returncode == 1
    assert failed.stderr.startswith(str(tmp_path / "none").encode())
    with pytest.raises(StateError):
        request(tmp_path / "none")


def _said(following: Authority, link_pem: str = "", *, overlap: bool = True) -> Trust:
    return Trust(ca_pem=following.certificate_pem, link_pem=link_pem, overlap=overlap)


def _known(node: Path) -> list[bytes]:
    return [pin_of(one) for one in x509.load_pem_x509_certificates((node / "ca.crt").read_bytes())]


def test_a_ca_is_believed_by_the_signature_of_the_one_before(node: Path) -> None:
    first = _opened(node).state.authority
    second, third, stranger = (make_authority("test", seed=seed, now=NOW) for seed in (2, 3, 4))
    link = first.vouch_for(second, now=NOW, random=seeded())
    for said in (
        _said(second),
        _said(second, "nonsense"),
        _said(second, second.certificate_pem),
        _said(second, stranger.vouch_for(second, now=NOW, random=seeded())),
        _said(stranger, link),
        _said(third, second.vouch_for(third, now=NOW, random=seeded()), overlap=False),
    ):
        with pytest.raises(PeerError):
            follow_ca(node, said)
        assert _known(node) == [first.pin]
    follow_ca(node, _said(second, link))
    assert _known(node) == [second.pin, first.pin]
    follow_ca(node, _said(second, link))
    assert _known(node) == [second.pin, first.pin]
    # The newest is not given up on the word of whoever has a certificate of the one before.
    follow_ca(node, _said(first, overlap=False))
    assert _known(node) == [second.pin, first.pin]
    with pytest.raises(PeerError):
        follow_ca(node, _said(stranger, first.vouch_for(stranger, now=NOW, random=seeded())))
    follow_ca(node, _said(second, overlap=False))
    assert _known(node) == [second.pin]
    open_agent(node, now=NOW).close()
    key = read_csr_untrusted(request(node))
    install_certificate(node, second.issue_node("shop-1", key, now=NOW, random=seeded()).pem)
