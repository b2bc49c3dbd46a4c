"""What follows from the CA a gateway has, and from the one before while both are trusted.

The context of the agents' listener, the hello, and the rules of renewal: made at the start, and again when
the CA or the gateway's own certificate has changed while it runs.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

import msgspec

from gateway.renew import is_outdated, renew
from raven import __version__
from raven.control.messages import VERSION, GatewayHello
from raven.net.tls import ca_label, choose_by_ca, gateway_context
from raven.net.tls_stream import TLSStream
from raven.registry.gateway_state import GatewayState
from raven.registry.interface import CertificateRecord, Registry


class Trust:
    """The gateway's side of every certificate."""

    context: ssl.SSLContext  # of the agents' listener
    hello: GatewayHello  # what every agent is told
    outdated: Callable[[str, str], bool] | None  # node, serial: whether the CA before has signed it

    def __init__(self, state: GatewayState, registry: Registry) -> None:
        """StateError when a file cannot be loaded."""
        self._state = state
        self._registry = registry
        self.load()

    def load(self) -> None:
        """Makes everything anew from the state; StateError leaves it as it was."""
        state, previous = self._state, self._state.previous
        context, before, known = gateway_context(state), None, ""
        if previous is not None:
            known = previous.own_ca.read_text("ascii")
            before = gateway_context(previous)
            choose_by_ca(context, {ca_label(known): before})
        self.context = context
        self._before = before, known
        self.hello = GatewayHello(
            version=VERSION,
            gateway=state.name,
            cluster=state.cluster,
            software=__version__,
            ca_pem=state.ca_pem,
            ca_link_pem=previous.link_pem if previous else "",
            ca_overlap=previous is not None,
        )
        # A follower's copy has no certificates in it: the gateway with the CA says whose are due.
        judges = previous is not None and state.own_authority is not None
        self.outdated = self._outdated if judges else None

    def shown(self, stream: TLSStream) -> str:
        """The CA before, where the other end has asked for its certificate; "" for the current one."""
        context, known = self._before
        return known if context is not None and stream.socket.context is context else ""

    def hello_again(self, node: str, serial: str, *, now: float) -> GatewayHello:
        """For a node whose tunnel is up: the CA there is now, and that it should renew under it at once."""
        due = self.outdated is not None and self.outdated(node, serial)
        return msgspec.structs.replace(self.hello, now=now, renew_in=0.0 if due else None)

    async def renew(
        self, csr_pem: str, *, node: str, serial: str, address: str, now: float
    ) -> CertificateRecord:
        """As `gateway.renew.renew`, by the CA there is now."""
        return await renew(
            csr_pem,
            node=node,
            serial=serial,
            authority=self._state.authority,
            registry=self._registry,
            address=address,
            now=now,
            overlap=self._state.previous is not None,
        )

    def _outdated(self, node: str, serial: str) -> bool:
        return is_outdated(node, serial, authority=self._state.authority, registry=self._registry)
