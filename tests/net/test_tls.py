import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from raven.errors import PeerError, StateError
from raven.net.tls import (
    FOLLOW_ALPN,
    JOIN_ALPN,
    STREAM_ALPN,
    Peer,
    agent_context,
    alpn,
    ca_label,
    check_gateway,
    check_node,
    choose_by_ca,
    follower_context,
    gateway_context,
    handshake_problem,
    join_context,
    peer_identity,
)
from raven.pki.ca import Authority
from raven.pki.certificate import Leaf
from raven.pki.csr import key_pem
from raven.pki.identity import gateway_identity, node_identity
from tests.pki.material import make_authority, make_key, seeded

NOW = time.time()  # OpenSSL judges certificates by the real clock
DAY = 86400.0
CA = make_authority(now=NOW)
OTHER_CA = make_authority(seed=2, now=NOW)
KEY = make_key(7)


@dataclass(frozen=True)
class Files:
    certificate: Path
    key: Path
    ca: Path


Write = Callable[..., Files]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Puts a leaf, its key and the CA to believe into files."""
    count = iter(range(100))

    def write_files(certificate_pem: str, ca: Authority = CA) -> Files:
        directory = tmp_path / str(next(count))
        directory.mkdir()
        files = Files(directory / "leaf.crt", directory / "leaf.key", directory / "ca.crt")
        files.certificate.write_text(certificate_pem)
        files.key.write_bytes(key_pem(KEY))
        files.ca.write_text(ca.certificate_pem)
        return files

    return write_files


def node(name: str = "shop-1", *, ca: Authority = CA, now: float = NOW) -> Leaf:
    return ca.issue_node(name, KEY.public_key(), now=now, random=seeded())


def gateway(name: str = "gw", *, ca: Authority = CA, now: float = NOW) -> Leaf:
    return ca.issue_gateway(name, KEY.public_key(), hosts=["gw.example"], now=now, random=seeded())


class Ends(NamedTuple):
    """Both ends after a handshake over a socket pair, and the sentence of each end at which it failed."""

    client: ssl.SSLSocket
    server: ssl.SSLSocket
    problems: dict[str, str]


Shake = Callable[..., Ends]


@pytest.fixture
def shake() -> Iterator[Shake]:
    with contextlib.ExitStack() as stack:

        def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str | None = None) -> Ends:
            near, far = socket.socketpair()
            ends = Ends(
                client.wrap_socket(near, do_handshake_on_connect=False, server_hostname=name),
                server.wrap_socket(far, do_handshake_on_connect=False, server_side=True),
                {},
            )

            def run(name: str, end: ssl.SSLSocket) -> None:
                stack.callback(end.close)
                end.settimeout(5)
                try:
                    end.do_handshake()
                    # A TLS 1.3 client is done before the server has judged its certificate: a byte tells.
                    if name == "server":
                        end.send(b"!")
                    else:
                        end.recv(1)
                except OSError as error:
                    ends.problems[name] = handshake_problem(error)
                    end.shutdown(socket.SHUT_WR)

            server_thread = threading.Thread(target=run, args=("server", ends.server))
            server_thread.start()
            run("client", ends.client)
            server_thread.join(10)
            return ends

        yield shake_hands


def refusal(check: Callable[..., Any], *args: Any, **given: Any) -> str:
    with pytest.raises(PeerError) as caught:
        check(*args, **given)
    return caught.value.reason


def test_a_node_and_a_gateway_know_each_other(write: Write, shake: Shake) -> None:
    leaf = node()
    ends = shake(agent_context(write(leaf.pem)), gateway_context(write(gateway().pem)))
    assert ends.problems == {}
    for end in (ends.client, ends.server):
        assert alpn(end) == STREAM_ALPN
        assert end.version() == "TLSv1.3"
    seen = check_node(ends.server, cluster="lab")
    assert seen == Peer(node_identity("lab", "shop-1"), leaf.serial, leaf.not_before, leaf.not_after)
    assert check_gateway(ends.client, cluster="lab").identity == gateway_identity("lab", "gw")
    assert peer_identity(ends.client) == gateway_identity("lab", "gw")
    assert refusal(check_node, ends.server, cluster="other") == "wrong-cluster"
    assert refusal(check_gateway, ends.server, cluster="lab") == "wrong-role"


def test_one_who_joins_shows_nothing_and_is_no_node(write: Write, shake: Shake) -> None:
    ends = shake(join_context(), gateway_context(write(gateway().pem)))
    assert ends.problems == {}
    assert alpn(ends.server) == alpn(ends.client) == JOIN_ALPN
    assert refusal(check_node, ends.server, cluster="lab") == "no-certificate"
    # The joining end gets the certificate to check it with the pinned CA, since OpenSSL has not.
    der = ends.client.getpeercert(binary_form=True)
    assert der is not None
    x509.load_der_x509_certificate(der).verify_directly_issued_by(CA.certificate)


def test_a_stream_client_without_a_certificate_is_no_node(write: Write, shake: Shake) -> None:
    context = join_context()
    context.set_alpn_protocols([STREAM_ALPN])
    ends = shake(context, gateway_context(write(gateway().pem)))
    assert alpn(ends.server) == STREAM_ALPN
    assert refusal(check_node, ends.server, cluster="lab") == "no-certificate"


@pytest.mark.parametrize("protocols", [[], ["h2", "http/1.1"], ["raven/2"]])
def test_another_protocol_is_refused(write: Write, shake: Shake, protocols: list[str]) -> None:
    context = join_context()
    context.set_alpn_protocols(protocols)
    ends = shake(context, gateway_context(write(gateway().pem)))
    assert refusal(alpn, ends.server) == "wrong-alpn"


@pytest.mark.parametrize(
    ("client", "client_ca", "server", "problem"),
    [
        (
            node(ca=OTHER_CA),
            CA,
            gateway(),
            {"server": "another cluster's CA", "client": "does not know the CA"},
        ),
        (node(), OTHER_CA, gateway(), {"client": "another cluster's CA"}),
        (node(), CA, node(), {"client": "the other role"}),
    ],
    ids=[
        "node of another CA",
        "gateway of another CA",
        "node as gateway",
    ],
)
def test_a_handshake_that_must_fail_says_why(
    write: Write, shake: Shake, client: Leaf, client_ca: Authority, server: Leaf, problem: dict[str, str]
) -> None:
    ends = shake(agent_context(write(client.pem, client_ca)), gateway_context(write(server.pem)))
    for name, part in problem.items():
        assert part in ends.problems[name]


def test_a_gateway_that_dials_is_no_node(write: Write, shake: Shake) -> None:
    """TLS lets it, because gateways follow one another; who it is decides."""
    ends = shake(agent_context(write(gateway().pem)), gateway_context(write(gateway().pem)))
    assert ends.problems == {}
    assert refusal(check_node, ends.server, cluster="lab") == "wrong-role"
    assert check_gateway(ends.server, cluster="lab").identity == gateway_identity("lab", "gw")


def test_a_follower_dials_as_the_gateway_it_is(write: Write, shake: Shake) -> None:
    ends = shake(follower_context(write(gateway().pem)), gateway_context(write(gateway().pem)))
    assert ends.problems == {}
    assert alpn(ends.server) == alpn(ends.client) == FOLLOW_ALPN


@pytest.mark.parametrize("past", [100 * DAY, 3000 * DAY, -DAY, -3000 * DAY])
def test_times_are_left_to_who_knows_the_time(write: Write, shake: Shake, past: float) -> None:
    ca = make_authority(now=NOW - past)
    leaf, other = node(ca=ca, now=NOW - past), gateway(ca=ca, now=NOW - past)
    ends = shake(agent_context(write(leaf.pem, ca)), gateway_context(write(other.pem, ca)))
    assert ends.problems == {}
    seen = check_node(ends.server, cluster="lab")
    assert (seen.not_before, seen.not_after) == (leaf.not_before, leaf.not_after)
    seen = check_gateway(ends.client, cluster="lab")
    assert (seen.not_before, seen.not_after) == (other.not_before, other.not_after)


def test_a_gateway_with_two_cas_shows_the_one_the_agent_knows(write: Write, shake: Shake) -> None:
    server = gateway_context(write(gateway().pem, CA))
    before = gateway_context(write(gateway(ca=OTHER_CA).pem, CA))
    choose_by_ca(server, {ca_label(OTHER_CA.certificate_pem): before})
    for ca in (CA, OTHER_CA):
        # Of a file with several the first counts.
        label = ca_label(ca.certificate_pem + CA.certificate_pem)
        ends = shake(agent_context(write(node().pem, ca)), server, label)
        assert ends.problems == {}
        assert check_gateway(ends.client, cluster="lab").identity == gateway_identity("lab", "gw")
    ends = shake(agent_context(write(node().pem)), server, "gw.example.com")
    assert ends.problems == {}


def test_an_older_tls_is_refused(write: Write, shake: Shake) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    ends = shake(context, gateway_context(write(gateway().pem)))
    assert ends.problems["server"] == "the other end does not speak TLS 1.3"
    assert ends.problems["client"] == "the other end does not speak TLS 1.3"


@pytest.mark.parametrize(
    ("first", "problem"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "speaks HTTP, not TLS"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "does not speak TLS"),
        (b"\x16\x03\x01\x00\x05\x01\x00", "hung up during the TLS handshake"),
        (b"", "hung up during the TLS handshake"),
    ],
    ids=["HTTP", "ssh", "half a handshake", "nothing"],
)
def test_what_is_no_tls_is_named(write: Write, first: bytes, problem: str) -> None:
    near, far = socket.socketpair()
    server = gateway_context(write(gateway().pem)).wrap_socket(
        far, do_handshake_on_connect=False, server_side=True
    )
    with near, server:
        server.settimeout(5)
        near.sendall(first)
        near.shutdown(socket.SHUT_WR)
        with pytest.raises(OSError) as caught:  # noqa: PT011
            server.do_handshake()
    assert problem in handshake_problem(caught.value)


def test_no_ticket_lets_a_node_come_back_without_its_certificate(write: Write, shake: Shake) -> None:
    context = agent_context(write(node().pem))
    ends = shake(context, gateway_context(write(gateway().pem)))
    session = ends.client.session
    assert session is None or not session.has_ticket


def certificate(names: list[x509.GeneralName]) -> str:
    """A node's certificate as the CA would never sign it, with other names."""
    good = x509.load_pem_x509_certificate(node().pem.encode())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")]))
        .issuer_name(good.issuer)
        .public_key(good.public_key())
        .serial_number(5)
        .not_valid_before(good.not_valid_before_utc)
        .not_valid_after(good.not_valid_after_utc)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(CA.key.public_key()), critical=False
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    return builder.sign(CA.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


URI = x509.UniformResourceIdentifier


@pytest.mark.parametrize(
    "names",
    [
        [],
        [x509.DNSName("raven://lab/node/shop-1")],
        [URI("https://lab/node/shop-1")],
        [URI("raven://lab/node/shop-1"), URI("raven://lab/node/shop-2")],
        [URI("raven://lab/node/Shop-1")],
        [URI("raven://lab/node/shop-1\x00.evil")],
    ],
)
def test_a_certificate_has_exactly_one_identity(
    write: Write, shake: Shake, names: list[x509.GeneralName]
) -> None:
    ends = shake(agent_context(write(certificate(names))), gateway_context(write(gateway().pem)))
    assert ends.problems == {}
    assert refusal(check_node, ends.server, cluster="lab") == "bad-identity"


@pytest.mark.parametrize("make", [gateway_context, agent_context])
def test_credentials_that_do_not_load_are_named(
    write: Write, make: Callable[[Files], ssl.SSLContext]
) -> None:
    for name, damage in [
        ("ca", b"scribble"),
        ("certificate", b""),
        ("key", key_pem(make_key(8))),
        ("key", None),
    ]:
        files = write(node().pem)
        path: Path = getattr(files, name)
        path.unlink() if damage is None else path.write_bytes(damage)
        with pytest.raises(StateError, match=str(path)):
            make(files)


def test_an_encrypted_key_does_not_ask_the_terminal(write: Write) -> None:
    files = write(node().pem)
    sealed = serialization.BestAvailableEncryption(b"x")
    form = serialization.PrivateFormat.PKCS8
    files.key.write_bytes(KEY.private_bytes(serialization.Encoding.PEM, form, sealed))
    with pytest.raises(StateError, match=str(files.key)):
        agent_context(files)
