"""What both ends of the packet lane do alike: `gateway.network` and `agent.network` stand on it.

An end has its own pod networks, a device that `PacketLane` holds, and a handshake with each peer that is as
fresh as it is. Who the peers are, and what is told about them, differs and is not here.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from raven.errors import ConfigError, PeerError
from raven.keys import PrivateKey, PublicKey
from raven.net.packets import PacketLane
from raven.topology.model import IPNetwork, parse_pod_networks_untrusted
from raven.wg.configuration import PeerState

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

KEYS_EXPIRE = 180.0  # seconds since a handshake; nothing passes afterwards (WireGuard's Reject-After-Time)


@dataclass(frozen=True, kw_only=True)
class EndOptions:
    """What an end of the packet lane is told by its configuration."""

    private_key: PrivateKey
    public_key: PublicKey
    listen_port: int  # 0 lets the device choose
    pod_cidrs: Sequence[str]
    interface: str
    state_dir: Path
    backend: str = "auto"  # auto, kernel or userspace
    off: str = ""  # a sentence when nobody wants the lane
    program: Sequence[str] | None = None  # stands in for `raven-wg -f`


class End:
    """One end: its networks and its device."""

    def __init__(self, options: EndOptions, log: FilteringBoundLogger) -> None:
        """ConfigError when a pod CIDR cannot be used."""
        try:
            self.own_networks: tuple[IPNetwork, ...] = parse_pod_networks_untrusted(options.pod_cidrs)
        except PeerError as error:
            raise ConfigError(f"pod_cidr: {error}") from error
        self.off = options.off
        self._log = log
        self._lane = self._make_lane(options)

    def _make_lane(self, options: EndOptions) -> PacketLane:
        return PacketLane(
            interface=options.interface,
            private_key=options.private_key,
            public_key=options.public_key,
            listen_port=options.listen_port,
            own_networks=self.own_networks,
            state_dir=options.state_dir,
            log=self._log,
            backend=options.backend,
            program=options.program,
        )

    async def _rest_if_off(self, task_status: trio.TaskStatus[None]) -> None:
        """Does not return when nobody wants the lane."""
        if self.off:
            task_status.started()
            await trio.sleep_forever()

    @property
    def answers_probes(self) -> bool:
        """Whether our device answers probes of the path's MTU: it is a `raven-wg`."""
        return self._lane.device_status is not None

    @property
    def superframes(self) -> tuple[str, ...]:
        """What our device can seal superframes with, best first; none for any device but a `raven-wg`."""
        return tuple(self._lane.device_status.superframe_ciphers) if self._lane.device_status else ()

    def offloads(self) -> Mapping[str, str]:
        """The device's offloads: "" for on, else why it is off. Empty for a device that does not tell."""
        return self._lane.device_status.offloads if self._lane.device_status is not None else {}

    def counters(self) -> Mapping[str, int]:
        """What our device dropped, by reason."""
        return {**self._lane.counters, "bad_probe": self._lane.prober.dropped}


def handshake_age(peer: PeerState) -> float | None:
    """Seconds since the last handshake with the peer; None before the first."""
    return max(0.0, time.time() - peer.last_handshake) if peer.last_handshake else None


def has_expired(age: float | None) -> bool:
    """Whether keys of that age, or none, let nothing pass any more."""
    return age is None or age > KEYS_EXPIRE
