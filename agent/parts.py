"""What an agent is made of, and how the parts know each other; nothing here runs.

`app` runs them; `report` reads them. Imports neither cryptography nor numpy: a small device pays for every
module.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import trio

from agent.allow_file import AllowFile
from agent.claims import Claims
from agent.dialer import Dialer
from agent.gateways import Gateways
from agent.network import AgentNetwork
from agent.options import AgentOptions
from agent.renewal import Renewal
from agent.uplink import Uplink
from raven import __version__
from raven.config import Address, parse_dial
from raven.control.messages import VERSION, AgentHello
from raven.errors import StateError
from raven.net.end import EndOptions
from raven.net.proxy import find_ways
from raven.oam.policy import Allow
from raven.oam.target import known_address_untrusted
from raven.registry.agent_state import AgentState


def joined_gateways(state: AgentState) -> list[Address]:
    """The addresses learned when joining, each once."""
    try:
        return list(dict.fromkeys(map(parse_dial, state.gateways)))
    except ValueError as error:
        raise StateError(
            f"{state.directory / 'agent.json'}: a gateway's address is wrong: {error}"
        ) from error


class Parts:
    """Of one agent, public so that others can read them."""

    def __init__(
        self,
        options: AgentOptions,
        state: AgentState,
        *,
        config: Path | None = None,
        load: Callable[[], AgentOptions] | None = None,
    ) -> None:
        """`load` reads the options again, from the file `config` and whatever beats it."""
        self.options = options
        self.state = state
        self.started = time.monotonic()
        self.draining = False
        self.problems: list[str] = []
        self.network = AgentNetwork(
            EndOptions(
                private_key=state.wg_private_key,
                public_key=state.wg_public_key,
                listen_port=options.wg_port,
                pod_cidrs=options.pod_cidr,
                interface=options.wg_interface,
                state_dir=options.state_dir,
                backend=options.backend,
                off="switched off by --no-packets" if options.no_packets else "",
            ),
            node=state.node,
        )
        allow = Allow(options.allow, ip_address(options.node_address))
        self.dialer = Dialer(allow, node_address=options.node_address)
        self.allow_file = AllowFile(options, config, load, self._take_allow)
        self.renewal = Renewal(state)
        self.changed = trio.Event()  # the next time an uplink's state has changed
        self._ways = find_ways(options.proxy, os.environ)
        self._claims = Claims()
        self.gateways = Gateways(
            options.gateway,
            joined=() if options.gateway else joined_gateways(state),
            cluster=state.cluster,
            state_dir=options.state_dir,
            make=self._uplink,
            drain_seconds=options.drain_seconds,
        )
        if not self.gateways.uplinks:
            raise StateError(
                f"{state.directory / 'agent.json'}: names no gateway; give one with --gateway HOST:P"
            )

    @property
    def uplinks(self) -> list[Uplink]:
        return self.gateways.uplinks

    def _uplink(self, address: Address) -> Uplink:
        return Uplink(
            address=address,
            cluster=self.state.cluster,
            network=self.network,
            renewal=self.renewal,
            accept=self.dialer.serve,
            hello=self._hello,
            grace=self.options.resume_seconds,
            ways=self._ways,
            learn=lambda told: self.gateways.learn(told),
            claims=self._claims,
            changed=self._uplink_changed,
        )

    def _take_allow(self, options: AgentOptions) -> int:
        allow = Allow(options.allow, ip_address(options.node_address))
        cut = self.dialer.apply(allow, node_address=options.node_address)
        self.network.tell()  # the hello shows the list
        return cut

    def _hello(self) -> AgentHello:
        packets, reason = self.network.offer()
        return AgentHello(
            version=VERSION,
            node=self.state.node,
            software=__version__,
            packets=packets,
            no_packets_reason=reason,
            allow=[str(rule) for rule in self.dialer.allow.rules],
            address=known_address_untrusted(self.options.node_address),
        )

    def _uplink_changed(self) -> None:
        self.changed.set()
        self.changed = trio.Event()
