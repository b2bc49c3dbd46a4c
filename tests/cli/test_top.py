"""`ravenctl top`: rates from two looks, and the streams of real daemons at both ends."""

import json
from pathlib import Path

from raven.cli.top import compare
from raven.status import Streams, StreamStatus
from tests.cli.daemon import Ran, ravenctl
from tests.daemons import Daemon, echo, loopback, until


def _stream(id: str, *, sent: int, received: int, age: float = 100.0) -> StreamStatus:
    return StreamStatus(
        id=id,
        node="shop-1",
        target="shop-1:22",
        asker="127.0.0.1:1",
        request="r",
        priority="interactive",
        age_s=age,
        bytes_to_target=sent,
        bytes_from_target=received,
        window=262_144,
        queue=0,
    )


def test_rates_and_their_order() -> None:
    before = Streams(
        at=10.0, streams=[_stream("a", sent=0, received=1000), _stream("gone", sent=9, received=9)]
    )
    after = Streams(
        at=12.0,
        streams=[
            _stream("a", sent=20, received=1500),
            _stream("idle", sent=0, received=0),
            _stream("new", sent=0, received=4000, age=1.0),
        ],
    )
    rows = compare(before, after)
    assert [(row.stream.id, row.to_target_bps, row.from_target_bps) for row in rows] == [
        ("new", 0.0, 4000.0),
        ("a", 10.0, 250.0),
        ("idle", 0.0, 0.0),
    ]


async def test_both_ends_show_an_open_stream(tmp_path: Path) -> None:
    net = loopback(tmp_path)
    async with net.gateway() as gateway, echo() as port:
        await net.join("shop-1")
        async with net.agent("shop-1", "--allow", f"node:{port}") as agent:
            await gateway.connected("shop-1")
            assert (await _top(gateway, "text")).out == "no streams are open\n"
            stream, head = await net.connect(f"shop-1:{port}")
            assert b" 200 " in head
            host, own = stream.socket.getsockname()
            await stream.send_all(bytes(10_000))
            for daemon in (gateway, agent):

                async def look(daemon: Daemon = daemon) -> dict[str, object]:
                    (row,) = json.loads((await _top(daemon, "json")).out)
                    shown: dict[str, object] = row["stream"]
                    return shown

                shown = await until(look, lambda shown: shown["bytes_from_target"] == 10_000, "the echo")
                assert shown["node"] == "shop-1"
                assert shown["target"] == f"shop-1:{port}"
                assert shown["asker"] == f"{host}:{own}"
                assert shown["bytes_to_target"] == 10_000
                assert shown["window"] == 256 * 1024
                assert f"shop-1:{port}" in (await _top(daemon, "text")).out
            await stream.aclose()
            await until(gateway.gateway_snapshot, lambda now: now.nodes[0].streams == 0, "the stream to end")
            assert json.loads((await _top(gateway, "json")).out) == []


async def _top(daemon: Daemon, output: str) -> Ran:
    ran = await ravenctl("--socket", daemon.socket, "top", "-i", "0.1", "-o", output)
    assert ran.code == 0, ran
    return ran
