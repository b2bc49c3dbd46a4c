"""The gateway's end of the packet lane: who takes part, what agents are told, and the gateway's own device.

Above: the app, which passes on what agents offer and sends them their maps, and the status. Below:
`raven.topology` decides, `raven.net.packets` holds the device and the host's routes to the plan. Nothing that
goes wrong here leaves `run`; it becomes a sentence in the status, and is tried again.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import trio

from raven.control.messages import NetworkMap, PacketOffer
from raven.keys import PrivateKey, PublicKey
from raven.registry.interface import NodeRecord
from raven.status import Lane


class GatewayNetwork:
    """The members of the packet lane, the maps agents need, and the hub's device."""

    def __init__(
        self,
        *,
        name: str,
        private_key: PrivateKey,
        public_key: PublicKey,
        endpoint: str,
        listen_port: int,
        pod_cidrs: Sequence[str],
        interface: str,
        state_dir: Path,
        off: str = "",
    ) -> None:
        """`endpoint` is HOST:PORT as agents dial it; `off` is a sentence when nobody wants the lane.

        ConfigError when a pod CIDR cannot be used.
        """
        raise NotImplementedError

    def load(self, nodes: Iterable[NodeRecord]) -> None:
        """Takes back the members the registry remembers, in the order they joined; before `run`.

        So packets of nodes that have not dialled in again yet pass as soon as the device is up.
        """
        raise NotImplementedError

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Holds the device to the plan and probes the nodes until cancelled, then leaves the host as it was.

        Started as soon as the first attempt to bring the device up has ended, well or not.
        """
        raise NotImplementedError

    def offer(self, node: str, packets: PacketOffer | None) -> str:
        """Takes what a node's AgentHello brings; "" or the sentence that says why it cannot take part.

        None takes the node out. What is refused takes the node out as well, so the caller remembers key and
        pod networks in the registry only when the answer is "".
        """
        raise NotImplementedError

    def forget(self, node: str) -> None:
        """Called when a node was removed from the registry."""
        raise NotImplementedError

    @property
    def revision(self) -> int:
        """Grows with every change of what `map_for` gives."""
        raise NotImplementedError

    def map_for(self, node: str) -> NetworkMap:
        """What the node needs to know now; no devices, and a problem, when its offer was refused."""
        raise NotImplementedError

    async def wait_changed(self, revision: int) -> None:
        """Returns when `revision` is no longer the newest; a burst of changes ends the wait once."""
        raise NotImplementedError

    def lane(self) -> Lane:
        """The gateway's own device."""
        raise NotImplementedError

    def node_lane(self, node: str) -> Lane:
        """The packet lane between the gateway and the node."""
        raise NotImplementedError

    def counters(self) -> Mapping[str, int]:
        """What the gateway's device dropped, by reason."""
        raise NotImplementedError

    def problems(self) -> list[str]:
        """Sentences an operator should read: what packets, or some of them, lack."""
        raise NotImplementedError

    async def ping(self, node: str) -> float:
        """Seconds of one round trip through the packet lane; ProbeError says why there was none."""
        raise NotImplementedError
