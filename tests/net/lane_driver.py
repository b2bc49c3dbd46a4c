"""Runs one packet lane as a daemon does, for tests: `python -m tests.net.lane_driver FILE` in a namespace.

FILE is the JSON of `Orders`. SIGUSR1 reads it again and follows its plan; the state goes to STATUS, whole,
with every change. SIGTERM ends it in order.
"""

import signal
import sys
from pathlib import Path

import msgspec
import structlog
import trio

from raven.keys import PrivateKey, PublicKey
from raven.net.packets import PacketLane
from raven.topology.model import Member, parse_pod_networks_untrusted
from raven.topology.plan import plan


class OrderedMember(msgspec.Struct, frozen=True, kw_only=True):
    """A `Member` with keys in base64."""

    name: str
    public_key: str
    endpoint: str = ""
    pod_cidrs: list[str] = []
    hub: bool = False

    def member(self) -> Member:
        return Member(
            name=self.name,
            public_key=PublicKey.from_base64(self.public_key),
            endpoint=self.endpoint,
            pod_networks=parse_pod_networks_untrusted(self.pod_cidrs),
            hub=self.hub,
        )


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What the lane is, and whom it meets."""

    interface: str
    private_key: str
    public_key: str
    state_dir: str
    members: list[OrderedMember]
    listen_port: int = 0
    program: list[str] | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What the lane said last."""

    problem: str
    warnings: list[str]
    held: bool


async def main(path: str) -> None:
    orders = msgspec.json.decode(await trio.Path(path).read_bytes(), type=Orders)
    me = PublicKey.from_base64(orders.public_key)
    own = next((m for m in orders.members if m.public_key == orders.public_key), None)
    lane = PacketLane(
        interface=orders.interface,
        private_key=PrivateKey.from_base64(orders.private_key),
        public_key=me,
        listen_port=orders.listen_port,
        own_networks=own.member().pod_networks if own else (),
        state_dir=Path(orders.state_dir),
        log=structlog.get_logger(),
        program=orders.program,
    )
    lane.follow(plan([m.member() for m in orders.members], me))
    async with trio.open_nursery() as nursery:

        async def obey(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGUSR1) as signals:
                task_status.started()
                async for number in signals:
                    if number == signal.SIGTERM:
                        nursery.cancel_scope.cancel()
                        return
                    newer = msgspec.json.decode(await trio.Path(path).read_bytes(), type=Orders)
                    lane.follow(plan([m.member() for m in newer.members], me))

        await nursery.start(obey)
        await nursery.start(lane.run)
        while True:
            status = Status(problem=lane.problem, warnings=lane.warnings, held=lane.held)
            fresh = trio.Path(f"{path}.status.new")
            await fresh.write_bytes(msgspec.json.encode(status))
            await fresh.rename(f"{path}.status")
            await lane.changed()


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
