"""When a tunnel gets its next connection: real tunnels over a path that is cut, and what `Carrying` does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from agent.carrying import Carrying, Reached, addresses
from raven.errors import PeerError
from raven.net.path_changes import PathChanges
from raven.net.tls import Peer
from raven.pki.identity import Identity, Role
from tests.net.hosts import host
from tests.net.loopback import tls_pair
from tests.net.resumable import Ends, ends, until

HERE = "127.0.0.1"
ELSEWHERE = "127.0.0.9"  # nothing leaves by it
LONG = 60.0  # seconds; a test that waits for it fails


class Changes(PathChanges):
    """Changes when the test says so."""

    def __init__(self) -> None:
        self._changed = trio.Event()

    async def wait(self) -> None:
        await self._changed.wait()
        self._changed = trio.Event()

    def happen(self) -> None:
        self._changed.set()


@dataclass
class Scene:
    """A carried tunnel; what happened to it, in order."""

    ends: Ends
    changes: Changes = field(default_factory=Changes)
    wait: float = 0.0  # seconds that each back-off says
    unreachable: int = 0  # how many of the next attempts fail
    happened: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    waits: list[int] = field(default_factory=list)  # what the back-off was asked
    anew: Reached | None = None  # what `run` came back with
    returned: bool = False

    def reached(self, carriage: object = None, *, local: str = HERE) -> Reached:
        # Nothing is carried: any object is as good as a carriage.
        peer = Peer(Identity("lab", Role.GATEWAY, "gw"), "01", 0.0, 1.0)
        return Reached(carriage, peer, 0, local, (HERE, self.ends.path.port))  # type: ignore[arg-type]

    async def reach(self) -> Reached:
        suspended = self.ends.near.suspended_since is not None
        self.happened.append("dialled without one" if suspended else "dialled beside it")
        await trio.lowlevel.checkpoint()
        if self.unreachable:
            self.unreachable -= 1
            raise PeerError("connect", "nobody there")
        return self.reached(await self.ends.dial())

    def backoff(self, attempts: int) -> float:
        self.waits.append(attempts)
        return self.wait

    async def carry(self, reached: Reached) -> None:
        carrying = Carrying(
            reach=self.reach,
            backoff=self.backoff,
            broke=lambda: self.happened.append("broke"),
            returned=lambda: self.happened.append("went on"),
            problem=self.problems.append,
        )
        self.anew = await carrying.run(self.ends.near, reached, self.changes)
        self.returned = True

    async def cut(self) -> None:
        """Cuts the path, and returns when the tunnel has gone on."""
        before = self.ends.near.resumed
        self.ends.path.cut()
        await until(lambda: self.ends.near.resumed > before)
        assert await self.ends.near.ping() < LONG


@asynccontextmanager
async def carried(*, local: str = HERE, unreachable: int = 0, wait: float = 0.0) -> AsyncIterator[Scene]:
    """A tunnel that came by the address `local`, carried while the block lasts."""
    async with ends(refuse) as both, trio.open_nursery() as nursery:
        both.redial = False
        scene = Scene(both, unreachable=unreachable, wait=wait)
        nursery.start_soon(scene.carry, scene.reached(local=local))
        yield scene
        nursery.cancel_scope.cancel()


async def refuse(incoming: object) -> None:
    """No stream is opened here."""


async def test_a_tunnel_whose_connection_broke_gets_another() -> None:
    async with carried() as scene:
        for _ in range(2):
            await scene.cut()
        await until(lambda: len(scene.happened) == 6)
        assert scene.happened == ["broke", "dialled without one", "went on"] * 2
        assert scene.waits == []
        assert scene.problems == []


async def test_it_tries_until_one_comes_and_says_why_not() -> None:
    async with carried(unreachable=3) as scene:
        await scene.cut()
        assert scene.waits == [0, 1, 2]
        assert scene.problems == ["nobody there"] * 3
        await until(lambda: scene.happened[-1] == "went on")
        scene.unreachable = 1
        await scene.cut()
        assert scene.waits == [0, 1, 2, 0]  # what was, is over


async def test_a_change_of_this_machine_ends_the_waiting() -> None:
    async with carried(unreachable=1, wait=LONG) as scene:
        scene.ends.path.cut()
        await until(lambda: scene.waits == [0])
        scene.changes.happen()
        with trio.fail_after(LONG / 2):
            await until(lambda: scene.ends.near.resumed == 1)


async def test_a_change_that_leaves_the_way_alone_does_nothing() -> None:
    async with carried() as scene:
        for _ in range(3):
            scene.changes.happen()
            await trio.testing.wait_all_tasks_blocked(0.02)
        assert scene.happened == []


async def test_by_a_better_way_the_next_is_up_before_the_last_one_goes() -> None:
    async with carried(local=ELSEWHERE) as scene:
        await until(lambda: scene.happened == ["dialled beside it", "went on"])
        assert scene.ends.near.resumed == 1
        assert scene.ends.near.suspended_since is None


async def test_a_better_way_on_which_nobody_answers_costs_nothing() -> None:
    async with carried(local=ELSEWHERE, unreachable=1, wait=LONG) as scene:
        await until(lambda: scene.waits == [0])
        assert await scene.ends.near.ping() < LONG
        assert scene.ends.near.resumed == 0
        assert scene.happened == ["dialled beside it"]
        scene.changes.happen()
        await until(lambda: scene.happened[-1] == "went on")


async def test_where_the_gateway_begins_anew_that_connection_comes_back() -> None:
    async with carried() as scene:
        before = scene.ends.far
        del scene.ends.far  # as after a restart of its process
        scene.ends.path.cut()
        await until(lambda: scene.returned)
        assert scene.anew is not None
        assert scene.anew.carriage is scene.ends.near.unresumed
        assert scene.happened == ["broke", "dialled without one"]
        await scene.anew.carriage.drop()
        before.abort("test", "its other end is gone")


@pytest.mark.netns
def test_without_any_route_the_connection_there_is_the_best(tmp_path: Path) -> None:
    # Only its addresses are looked at.
    nowhere = Reached(None, None, 0, "192.0.2.10", ("203.0.113.1", 443))  # type: ignore[arg-type]
    with host(tmp_path) as machine:
        assert machine.inside(lambda: nowhere.is_best)
        machine.run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "isp0")
        machine.run("ip", "link", "set", "isp0", "up")
        machine.run("ip", "link", "set", "up0", "up")
        machine.run("ip", "addr", "add", "192.0.2.11/24", "dev", "up0")
        machine.run("ip", "route", "add", "default", "via", "192.0.2.1")
        assert not machine.inside(lambda: nowhere.is_best)  # a packet would leave by 192.0.2.11
        machine.run("ip", "addr", "add", "192.0.2.10/24", "dev", "up0")
        machine.run("ip", "route", "replace", "default", "via", "192.0.2.1", "src", "192.0.2.10")
        assert machine.inside(lambda: nowhere.is_best)


async def test_the_addresses_of_a_connection_and_of_none() -> None:
    left, right = await tls_pair()
    try:
        local, remote = addresses(left)
        assert (local, remote[0]) == (HERE, HERE)
        assert addresses(right)[1][1] == left.socket.getsockname()[1]
    finally:
        await trio.aclose_forcefully(right)
        await trio.aclose_forcefully(left)
    with pytest.raises(PeerError, match="the connection broke at once"):
        addresses(left)
