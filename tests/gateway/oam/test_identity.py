"""What proved a name counts until it expires or is revoked, also on a connection that was made before."""

import math
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import pytest
import trio
from cryptography import x509

from gateway.oam.entry import Entries
from gateway.oam.identity import Identities
from raven.errors import StateError
from raven.net.tls import oam_context
from raven.net.tls_stream import TLSStream, client_handshake
from raven.oam.asker import Asker
from raven.oam.heads import parse_request_untrusted
from raven.oam.permits import Policy
from raven.oam.refusal import Refusal
from raven.pki.access_token import new_access_token
from raven.registry.interface import CredentialRecord, Registry
from raven.registry.sqlite import SqliteRegistry
from tests.authority import Authority
from tests.gateway.oam.site import Site, read_all, read_head, read_until, serve_tcp, site, target

EXPIRY = 1000.0  # Unix seconds
ASKER = Asker(address="192.0.2.1:1", names=("cert:alice",))
CREDENTIAL = CredentialRecord(id="1a", kind="certificate", name="alice", created=0.0, expires=EXPIRY)


@dataclass
class Wall:
    """A clock that a test sets."""

    now: float

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[SqliteRegistry]:
    made = SqliteRegistry(tmp_path / "registry.sqlite", now=0.0)
    made.add_credential(CREDENTIAL)
    made.add_credential(replace(CREDENTIAL, id="2b", expires=math.inf))
    made.revoke_credential("2b", now=1.0)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("asker", "now", "why"),
    [
        (ASKER, 1e12, None),
        (replace(ASKER, expires=EXPIRY), EXPIRY - 1, None),
        (replace(ASKER, expires=EXPIRY), EXPIRY, "the certificate of cert:alice has expired"),
        (replace(ASKER, credentials=("1a",)), EXPIRY - 1, None),
        (replace(ASKER, credentials=("1a",)), EXPIRY, "the certificate of alice has expired"),
        (replace(ASKER, credentials=("1a", "2b")), 2.0, "the certificate of alice was revoked"),
        (replace(ASKER, credentials=("3c",)), 2.0, "has not given out"),
    ],
)
def test_what_counts_no_longer(registry: SqliteRegistry, asker: Asker, now: float, why: str | None) -> None:
    identities = Identities(registry, cluster="test", own_ca=False, wall=lambda: now)
    if why is None:
        identities.standing(asker)
        return
    with pytest.raises(Refusal, match=why) as raised:
        identities.standing(asker)
    assert raised.value.reason == "bad-credentials"


class _Unreadable:
    def credential(self, credential_id: str) -> CredentialRecord | None:
        raise StateError("registry.sqlite: disk I/O error")


def test_a_registry_that_cannot_be_read_ends_nothing_but_what_has_expired() -> None:
    identities = Identities(cast(Registry, _Unreadable()), cluster="test", own_ca=True, wall=lambda: EXPIRY)
    identities.standing(replace(ASKER, credentials=("1a",)))
    with pytest.raises(Refusal, match="has expired"):
        identities.standing(replace(ASKER, credentials=("1a",), expires=EXPIRY))


def test_a_token_that_cannot_be_looked_up_is_not_called_bad() -> None:
    identities = Identities(cast(Registry, _Unreadable()), cluster="test", own_ca=True)
    token = new_access_token(random=bytes).text().encode()
    request = parse_request_untrusted(
        b"GET / HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Bearer %s\r\n\r\n" % token
    )
    with pytest.raises(Refusal) as raised:
        identities.by_token(request, ASKER, for_us=False)
    assert raised.value.reason == "registry"


@dataclass
class Entry:
    """The TLS entry for certificates of another CA; `wall` is the gateway's clock."""

    site: Site
    wall: Wall
    authority: Authority
    port: int

    async def dial(self) -> TLSStream:
        context = ssl.create_default_context(cafile=self.authority.certificate)
        alice = self.authority.directory / "alice"
        context.load_cert_chain(alice.with_suffix(".crt"), alice.with_suffix(".key"))
        transport = await trio.open_tcp_stream("127.0.0.1", self.port)
        return await client_handshake(transport, context, server_hostname="gateway")

    @property
    def expiry(self) -> float:
        """Unix seconds; of the certificate that `dial` shows."""
        pem = (self.authority.directory / "alice.crt").read_bytes()
        return x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp()


@asynccontextmanager
async def entry(directory: Path, policy: str) -> AsyncIterator[Entry]:
    authority = Authority(directory / "pki", "test-ca")
    shown = authority.sign("gateway", "gateway", hosts=["gateway"])
    authority.sign("alice", "alice")
    context = oam_context(
        shown.with_suffix(".crt"), shown.with_suffix(".key"), authority.certificate, strict=False
    )
    async with site() as s, trio.open_nursery() as nursery:
        wall = Wall(0.0)
        identities = Identities(cast(Registry, None), cluster="test", own_ca=False, wall=wall)
        s.standing = identities.standing
        s.policy = Policy.parse(policy)
        entries = Entries(s.proxy, identities, context=lambda: context)
        yield Entry(s, wall, authority, await nursery.start(serve_tcp, entries.serve_tls))
        nursery.cancel_scope.cancel()


PERMITTED = """
[[permit]]
who = ["cert:alice"]
targets = ["node:*"]
"""


async def test_a_certificate_that_expires_ends_with_the_next_request_on_a_kept_connection(
    tmp_path: Path,
) -> None:
    asked = 0

    async def answer(stream: trio.SocketStream) -> None:
        nonlocal asked
        await read_head(stream)
        asked += 1
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")

    async with target(answer) as port, entry(tmp_path, PERMITTED) as made:
        get = b"GET http://edge1:%d/ HTTP/1.1\r\nHost: x\r\n\r\n" % port
        async with await made.dial() as kept:
            for now in (made.expiry - 3600, made.expiry - 1):
                made.wall.now = now
                await kept.send_all(get)
                assert (await read_until(kept, b"ok\n")).startswith(b"HTTP/1.1 200 ")
            made.wall.now = made.expiry
            await kept.send_all(get)
            head = await read_head(kept)
            assert head.startswith(b"HTTP/1.1 407 ")
            assert b"Raven-Error: bad-credentials\r\n" in head
            # Nor does the list of nodes take it.
            await kept.send_all(b"GET /sd HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
            assert b" 407 " in await read_all(kept)
        lines = await made.site.lines(4)
        assert [line.verdict for line in lines] == [
            "allowed",
            "allowed",
            "bad-credentials",
            "bad-credentials",
        ]
        assert lines[2].asker.startswith("cert:alice at 127.0.0.1:")
    assert asked == 2


async def test_what_is_under_way_ends_when_the_certificate_has_expired(tmp_path: Path) -> None:
    async def echo(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async with target(echo) as port, entry(tmp_path, PERMITTED) as made, await made.dial() as stream:
        made.wall.now = made.expiry - 1
        await stream.send_all(b"CONNECT edge1:%d HTTP/1.1\r\nHost: x\r\n\r\n" % port)
        assert (await read_head(stream)).startswith(b"HTTP/1.1 200 ")
        assert made.site.requests.judge_again() == 0
        made.wall.now = made.expiry
        assert made.site.requests.judge_again() == 1
        (line,) = await made.site.lines(1)
        assert (line.verdict, line.detail) == ("withdrawn", "the certificate of cert:alice has expired")
