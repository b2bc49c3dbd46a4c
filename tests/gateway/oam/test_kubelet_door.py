"""The doors of the terminating entry: all files or none, read again when they change, no stranger inside."""

import os
import ssl
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from gateway.oam.kubelet import Reloaded
from gateway.oam.kubelet_door import kubelet_doors
from gateway.oam.requests import Requests
from gateway.options import GatewayOptions
from raven.config import Lead
from raven.errors import ConfigError, StateError
from raven.net.tls_stream import HandshakeFailed, server_handshake
from raven.registry.interface import Registry
from tests.authority import Authority
from tests.net.loopback import tcp_streams


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    made = Authority(tmp_path / "pki", "test-ca")
    made.sign("nodes", "nodes", hosts=["edge1"])
    made.sign("client", "client")
    return made


def files(authority: Authority) -> dict[str, Path]:
    pki = authority.directory
    return {
        "kubelet_listen_certificate": pki / "nodes.crt",
        "kubelet_listen_key": pki / "nodes.key",
        "kubelet_listen_client_ca": pki / "ca.crt",
        "kubelet_client_certificate": pki / "client.crt",
        "kubelet_client_key": pki / "client.key",
        "kubelet_ca": pki / "ca.crt",
    }


def doors(**options: Any) -> list[Any]:
    made = GatewayOptions(kubelet_listen=(Lead.parse("127.0.0.1:0"),), **options)
    return list(kubelet_doors(made, cast(Requests, None), cast(Registry, None), "test"))


def test_off_unless_configured() -> None:
    assert not list(kubelet_doors(GatewayOptions(), cast(Requests, None), cast(Registry, None), "test"))


def test_each_missing_file_is_named(authority: Authority) -> None:
    for key in files(authority):
        given = {other: path for other, path in files(authority).items() if other != key}
        with pytest.raises(ConfigError, match="--" + key.replace("_", "-")):
            doors(**given)


def test_a_file_that_is_no_use_stops_the_start(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(StateError, match="empty"):
        doors(**{**files(authority), "kubelet_ca": tmp_path / "empty"})


def test_a_context_follows_its_files_and_survives_a_bad_one(authority: Authority) -> None:
    ((door, lead),) = doors(**files(authority))
    assert lead.port == 10250
    first = door.context()
    assert door.context() is first
    authority.sign("nodes", "nodes", hosts=["edge1", "edge2"])
    later(authority.directory / "nodes.crt")
    second = door.context()
    assert second is not first
    (authority.directory / "nodes.crt").write_text("half a file")
    later(authority.directory / "nodes.crt", by=2)
    assert door.context() is second


def later(path: Path, by: int = 1) -> None:
    """Gives the file a time that no clock is too coarse for."""
    now = path.stat().st_mtime_ns
    os.utime(path, ns=(now, now + by * 10**9))


def test_a_file_that_is_away_for_a_moment_changes_nothing(authority: Authority) -> None:
    path = authority.directory / "nodes.crt"

    def make() -> ssl.SSLContext:
        if not path.exists():
            raise StateError(f"{path}: away")
        return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    reloaded = Reloaded(make, [path])
    before = reloaded()
    path.rename(path.with_suffix(".away"))
    assert reloaded() is before


@pytest.mark.parametrize("shown", ["client", ""])
async def test_only_a_certificate_opens_the_door_and_the_name_is_kept(
    authority: Authority, shown: str
) -> None:
    ((door, _),) = doors(**files(authority))
    context = ssl.create_default_context(cafile=authority.certificate)
    if shown:
        context.load_cert_chain(authority.directory / f"{shown}.crt", authority.directory / f"{shown}.key")
    ours, theirs = tcp_streams()
    client = trio.SSLStream(ours, context, server_hostname="edge1")

    async def talk() -> None:
        try:
            await client.do_handshake()
            await client.receive_some()
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(client)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(talk)
        if shown:
            stream = await server_handshake(theirs, door.context())
            assert stream.socket.server_hostname == "edge1"
            await trio.aclose_forcefully(stream)
        else:
            with pytest.raises(HandshakeFailed, match="has to show a certificate"):
                await server_handshake(theirs, door.context())
