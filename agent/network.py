"""The agent's end of the packet lane: offers its networks, follows the map, holds its device to the plan.

It needs the gateway only to learn the map. The last one is kept in the state directory, so that packets pass
after a restart while no gateway can be reached. Nothing that goes wrong here leaves `run`; it becomes the
offer's reason or the report's problem, and is tried again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from raven.control.messages import NetworkMap, PacketOffer, PacketReport
from raven.keys import PrivateKey, PublicKey
from raven.status import Lane


class AgentNetwork:
    """One node's device, and what the gateway is told about it."""

    def __init__(
        self,
        *,
        node: str,
        private_key: PrivateKey,
        public_key: PublicKey,
        listen_port: int,
        pod_cidrs: Sequence[str],
        interface: str,
        state_dir: Path,
        off: str = "",
    ) -> None:
        """`listen_port` 0 lets the device choose; `off` is a sentence when nobody wants the lane.

        ConfigError when a pod CIDR cannot be used.
        """
        raise NotImplementedError

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Holds the device to the plan until cancelled, then leaves the host as it was.

        Started as soon as the first attempt to bring the device up has ended, well or not.
        """
        raise NotImplementedError

    def offer(self) -> tuple[PacketOffer | None, str]:
        """`packets` and `no_packets_reason` of this node's AgentHello."""
        raise NotImplementedError

    def take_map(self, network: NetworkMap) -> None:
        """Called with every NetworkMap the gateway sends; it replaces the one before. Does not block."""
        raise NotImplementedError

    def report(self) -> PacketReport:
        """How this end does, for the gateway's status."""
        raise NotImplementedError

    async def changed(self) -> None:
        """Returns when `offer` or `report` say something new, compared with the moment of the call."""
        raise NotImplementedError

    def lane(self) -> Lane:
        """The packet lane between this node and its gateway."""
        raise NotImplementedError

    def counters(self) -> Mapping[str, int]:
        """What this node's device dropped, by reason."""
        raise NotImplementedError

    def problems(self) -> list[str]:
        """Sentences an operator should read: what packets, or some of them, lack."""
        raise NotImplementedError

    async def ping(self) -> float:
        """Seconds of one round trip to the hub; ProbeError says why there was none."""
        raise NotImplementedError
