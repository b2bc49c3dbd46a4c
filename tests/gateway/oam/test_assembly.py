"""Who asks and what the policy says to it, with the real daemons: certificates, tokens, sockets, changes."""

import json
import os
import signal
import ssl
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from raven.net.tls_stream import TLSStream, client_handshake
from raven.pki.csr import key_pem
from raven.registry.interface import AuditRecord
from raven.registry.sqlite import open_existing
from tests.daemons import GATEWAY, Loopback, command, echo, free_port, loopback, until
from tests.gateway.oam.assembly import NODE, ask, connected
from tests.gateway.oam.site import curl, read_all, read_head, read_until, target


@pytest.fixture
def net(tmp_path: Path) -> Loopback:
    return loopback(tmp_path)


async def answer(stream: trio.SocketStream) -> None:
    await read_until(stream, b"\r\n\r\n")
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")


def permits(path: Path, *tables: tuple[list[str], list[str]]) -> Path:
    """A policy in which each `who` may reach its targets."""
    text = "".join(
        f"[[permit]]\nwho = {json.dumps(who)}\ntargets = {json.dumps(what)}\n" for who, what in tables
    )
    path.write_text(text)
    return path


async def broken_off(stream: trio.abc.ReceiveStream) -> None:
    """Returns once the stream has ended by a break; an end is an error."""
    with trio.fail_after(10), pytest.raises(trio.BrokenResourceError):
        await until(stream.receive_some, lambda data: data == b"", "a break")


async def access(net: Loopback, *words: object) -> str:
    ran = await command(GATEWAY, "access", *words, "--state-dir", net.state)
    assert (ran.code, ran.err) == (0, "")
    return ran.out.strip()


async def audited(net: Loopback, event: str, count: int = 1) -> list[AuditRecord]:
    """The lines of that event, newest first, once there are `count`."""

    async def read() -> list[AuditRecord]:
        with open_existing(net.state / "registry.sqlite", now=time.time()) as registry:
            return [line for line in registry.audit() if line.event == event]

    return await until(read, lambda lines: len(lines) >= count, f"{count} audit lines of {event}")


async def test_certificates_of_ravens_own_ca(net: Loopback, tmp_path: Path) -> None:
    entry = f"127.0.0.1:{free_port()}"
    async with target(answer) as port, echo() as echoing:
        policy = permits(tmp_path / "policy.toml", (["operator:alice"], [f"node:{port}", f"node:{echoing}"]))
        async with connected(net, "--oam-tls-listen", entry, "--policy", policy):
            out = tmp_path / "alice"
            await access(net, "certificate", "alice", "--out", out)
            url = f"http://{NODE}:{port}/"
            proxy = ["-x", f"https://{entry}", "--proxy-cacert", out / "ca.crt"]
            shown = ["--proxy-cert", out / "alice.crt", "--proxy-key", out / "alice.key"]
            ran = await curl("-f", *proxy, *shown, url)
            assert (ran.code, ran.out) == (0, b"ok\n"), ran.err
            # Nobody in particular may ask for it as well, and is told how.
            ran = await curl("-w", "%{http_code}", *proxy, url)
            assert ran.out.endswith(b"407")
            assert b"you have not said who you are" in ran.out
            # A node's certificate is for dialling in.
            node = tmp_path / NODE
            ran = await curl(*proxy, "--proxy-cert", node / "node.crt", "--proxy-key", node / "node.key", url)
            assert ran.code != 0
            assert b"ok" not in ran.out
            (first, *_) = [line for line in await audited(net, "http", 2) if line.verdict == "allowed"]
            assert first.asker.startswith("operator:alice at 127.0.0.1:")
            assert (first.node, first.target, first.received) == (NODE, f"{NODE}:{port}", 3)
            assert first.seconds is not None
            # What goes on ends with the right to it.
            serial = json.loads(await access(net, "list", "-o", "json"))[0]["id"]
            stream = await secured(entry, out, "alice")
            await stream.send_all(b"CONNECT %s:%d HTTP/1.1\r\nHost: x\r\n\r\n" % (NODE.encode(), echoing))
            assert (await read_head(stream)).startswith(b"HTTP/1.1 200 ")
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
            kept = await secured(entry, out, "alice")
            get = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % url.encode()
            await kept.send_all(get)
            assert (await read_head(kept)).startswith(b"HTTP/1.1 200 ")
            await access(net, "revoke", serial)
            await broken_off(stream)
            await trio.aclose_forcefully(stream)
            # So does a connection that is only kept for the next request.
            await kept.send_all(get)
            answer_head = await read_head(kept)
            assert b"bad-credentials" in answer_head or b"\r\nHTTP/1.1 407 " in answer_head, answer_head
            await trio.aclose_forcefully(kept)
            (cut, *_) = await audited(net, "connect")
            assert (cut.verdict, cut.sent, cut.received) == ("withdrawn", 5, 5)
            assert "was revoked" in cut.detail
            assert (await curl("-f", *proxy, *shown, url)).code != 0


async def secured(entry: str, directory: Path, name: str) -> TLSStream:
    """A connection to the TLS entry with that operator's certificate."""
    context = ssl.create_default_context(cafile=directory / "ca.crt")
    context.load_cert_chain(directory / f"{name}.crt", directory / f"{name}.key")
    host, _, port = entry.rpartition(":")
    transport = await trio.open_tcp_stream(host, int(port))
    return await client_handshake(transport, context, server_hostname=host)


async def test_certificates_of_another_ca(net: Loopback, tmp_path: Path) -> None:
    """As Kubernetes makes them: the common name is the user, organizations are groups."""
    entry = f"127.0.0.1:{free_port()}"
    make_foreign(tmp_path, "kube-apiserver", ["system:masters"])
    async with target(answer) as port:
        policy = permits(tmp_path / "policy.toml", (["group:system:masters"], [f"node:{port}"]))
        options = [
            "--oam-tls-listen",
            entry,
            "--policy",
            policy,
            "--oam-client-ca",
            tmp_path / "foreign-ca.crt",
        ]
        async with connected(net, *options, "--policy", policy):
            proxy = ["-x", f"https://{entry}", "--proxy-cacert", net.state / "ca.crt"]
            shown = ["--proxy-cert", tmp_path / "client.crt", "--proxy-key", tmp_path / "client.key"]
            ran = await curl("-f", *proxy, *shown, f"http://{NODE}:{port}/")
            assert (ran.code, ran.out) == (0, b"ok\n"), ran.err
            assert (await audited(net, "http"))[0].asker.startswith("cert:kube-apiserver at ")
            # Raven's own operators are strangers here, even with a name of theirs.
            await access(net, "certificate", "alice", "--out", tmp_path / "alice")
            own = [tmp_path / "alice" / "alice.crt", tmp_path / "alice" / "alice.key"]
            ran = await curl("-f", *proxy, "--proxy-cert", own[0], "--proxy-key", own[1], f"http://{NODE}:1/")
            assert ran.code != 0


def make_foreign(directory: Path, name: str, groups: list[str]) -> None:
    """A CA of somebody else and a client's certificate, which calls itself an operator of ours as well."""
    now = datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    subject = x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        + [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    )
    for issued, own, path in ((ca_name, ca_key, "foreign-ca"), (subject, key, "client")):
        certificate = (
            x509.CertificateBuilder()
            .subject_name(issued)
            .issuer_name(ca_name)
            .public_key(own.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=path == "foreign-ca", path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier("raven://test/operator/root")]),
                critical=False,
            )
            .sign(ca_key, hashes.SHA256())
        )
        (directory / f"{path}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        (directory / f"{path}.key").write_bytes(key_pem(own))


async def test_access_tokens(net: Loopback, tmp_path: Path) -> None:
    async with target(answer) as port:
        policy = permits(tmp_path / "policy.toml", (["token:prometheus"], [f"node:{port}"]))
        async with connected(net, "--policy", policy) as gateway:
            token = await access(net, "token", "prometheus", "--ttl", "1h")
            url = f"http://{NODE}:{port}/"
            ran = await curl("-f", "-x", f"http://prometheus:{token}@{net.oam}", url)
            assert (ran.code, ran.out) == (0, b"ok\n"), ran.err
            ran = await curl(
                "-f", "-x", f"http://{net.oam}", "--proxy-header", f"Proxy-Authorization: Bearer {token}", url
            )
            assert (ran.code, ran.out) == (0, b"ok\n"), ran.err
            # By CONNECT as well, as ssh and https:// go.
            ran = await curl("-f", "-p", "-x", f"http://x:{token}@{net.oam}", url)
            assert (ran.code, ran.out) == (0, b"ok\n"), ran.err
            # Discovery shows nodes to those who may reach them.
            page = f"http://{net.oam}/sd?port={port}"
            assert json.loads((await curl(page)).out) == []
            found = json.loads((await curl("-H", f"Authorization: Bearer {token}", page)).out)
            assert found[0]["targets"] == [f"{NODE}:{port}"]
            for wrong in (token[:-2] + "AA", "ravenop1.AAAAAAAA." + token.rpartition(".")[2], "secret"):
                ran = await curl("-w", "%{http_code}", "-x", f"http://x:{wrong}@{net.oam}", url)
                assert ran.out.endswith(b"407"), wrong
            listed = await access(net, "list")
            assert "token:prometheus" in listed
            assert token.rpartition(".")[2] not in listed
            await access(net, "revoke", token.split(".")[1])
            ran = await curl("-w", "%{http_code}", "-x", f"http://x:{token}@{net.oam}", url)
            assert ran.out.endswith(b"407")
            lines = await audited(net, "http", 5)
            assert {line.verdict for line in lines} == {"allowed", "bad-credentials"}
            assert lines[0].detail == "the token of prometheus was revoked"
            assert (await audited(net, "access-created"))[0].detail == "token:prometheus"
            assert (await audited(net, "access-revoked"))[0].detail == "token:prometheus"
    logged = gateway.log.read_text() + (net.state / "registry.sqlite").read_bytes().decode("latin-1")
    assert token.rpartition(".")[2] not in logged


async def test_the_unix_socket_knows_its_user(net: Loopback, tmp_path: Path) -> None:
    path = tmp_path / "oam.sock"
    async with target(answer) as port:
        policy = permits(tmp_path / "policy.toml", ([f"uid:{os.getuid()}"], [f"node:{port}"]))
        async with connected(net, "--oam-socket", path, "--policy", policy) as gateway:
            assert path.stat().st_mode & 0o777 == 0o660
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(
                    b"GET http://%s:%d/ HTTP/1.0\r\nHost: x\r\n\r\n" % (NODE.encode(), port)
                )
                assert (await read_all(stream)).endswith(b"ok\n")
            assert (await audited(net, "http"))[0].asker.startswith(f"uid:{os.getuid()} at unix pid ")
            assert b" 407 " in await ask(net, port)
            assert await gateway.stop() == 0
            assert not path.exists()


async def test_a_changed_policy_takes_effect_and_cuts(net: Loopback, tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    async with target(answer) as port, echo() as echoing:
        permits(path, (["*"], [f"node:{echoing}"]))
        async with connected(net, "--policy", path) as gateway:
            assert b" 403 " in await ask(net, port)
            stream, head = await net.connect(f"{NODE}:{echoing}")
            assert head.startswith(b"HTTP/1.1 200 ")
            async with stream:
                await stream.send_all(b"hello")
                assert await stream.receive_some() == b"hello"
                # What is broken changes nothing, and is told.
                path.write_text("[[permit]]\nwho = 3\n")
                gateway.process.send_signal(signal.SIGHUP)
                await until(
                    gateway.gateway_snapshot,
                    lambda now: any("policy before is still in force" in text for text in now.problems),
                    "the problem in the status",
                )
                await stream.send_all(b"again")
                assert await stream.receive_some() == b"again"
                # The new one lets through, and ends, without a signal as well.
                permits(path, (["*"], [f"node:{port}"]))
                await broken_off(stream)
            assert b" 200 " in await ask(net, port)
            assert (await gateway.gateway_snapshot()).problems == []
            (line, *_) = await audited(net, "connect")
            assert (line.verdict, line.sent, line.received) == ("withdrawn", 10, 10)
            (taken, *_) = await audited(net, "policy")
            assert taken.detail == "1 permits; 1 requests cut"


async def test_a_broken_policy_stops_the_start(net: Loopback, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("[[permit]]\nwho = ['*']\ntargets = ['node:99999']\n")
    ran = await command(GATEWAY, "run", *net.options(), "--policy", tmp_path / "policy.toml")
    assert ran.code == 2
    assert "policy.toml:1: permit[0].targets[0]" in ran.err
    checked = await command(GATEWAY, "policy", "check", tmp_path / "policy.toml")
    assert (checked.code, "permit[0].targets[0]" in checked.err) == (2, True)
    shown = await command(GATEWAY, "policy", "default")
    (tmp_path / "policy.toml").write_text(shown.out)
    checked = await command(GATEWAY, "policy", "check", tmp_path / "policy.toml")
    assert (checked.code, checked.out) == (0, f"{tmp_path / 'policy.toml'}: 2 permits\n")


async def test_an_owner_allows_askers_by_name_and_takes_it_back(net: Loopback, tmp_path: Path) -> None:
    async with target(answer) as port, net.gateway() as gateway:
        await net.join(NODE)
        file = tmp_path / "agent.toml"
        file.write_text(f'allow = ["node:{port} for token:ops"]\n')
        async with net.agent(NODE, "--config", file) as agent:
            await gateway.connected(NODE)
            token = await access(net, "token", "ops")
            url = f"http://{NODE}:{port}/"
            assert b" 403 " in await ask(net, port)
            ran = await curl("-f", "-x", f"http://x:{token}@{net.oam}", url)
            assert (ran.code, ran.out) == (0, b"ok\n"), ran.err
            file.write_text("allow = 3\n")
            agent.process.send_signal(signal.SIGHUP)
            await until(
                agent.agent_snapshot,
                lambda now: any("list before is still in force" in text for text in now.problems),
                "the problem in the status",
            )
            assert (await curl("-f", "-x", f"http://x:{token}@{net.oam}", url)).code == 0
            file.write_text('allow = ["node:1"]\n')
            agent.process.send_signal(signal.SIGHUP)
            await until(agent.agent_snapshot, lambda now: now.allow == ["node:1"], "the new list")
            assert b" 403 " in (await curl("-i", "-x", f"http://x:{token}@{net.oam}", url)).out
