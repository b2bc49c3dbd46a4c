"""A cluster whose gateway and nodes were made long ago: certificates near their end, without waiting."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gateway.admin.token import add_token
from gateway.join import certificate_record
from raven.keys import PrivateKey
from raven.pki.csr import key_hash, key_pem, load_key, new_key
from raven.pki.token import parse_token_untrusted
from raven.registry.agent_state import AgentFile, JoinDraft
from raven.registry.gateway_state import GatewayState, open_gateway
from raven.registry.sqlite import SqliteRegistry
from raven.wg.primitives import DhPrivateKey

DAY = 86400.0


@dataclass
class Past:
    """A gateway's state, opened at `now`."""

    state: GatewayState
    registry: SqliteRegistry
    now: float

    def join(self, directory: Path, node: str, *gateways: str) -> None:
        """What `raven-agent join` leaves on both ends."""
        token = parse_token_untrusted(add_token(self.registry, self.state.authority.pin, now=self.now))
        draft = JoinDraft(
            directory,
            force=False,
            make_keys=lambda: (key_pem(new_key(os.urandom)), PrivateKey.clamped(os.urandom(32))),
            now=self.now,
        )
        key = load_key(draft.key_pem).public_key()
        certificate = self.registry.enrol(
            token_id=token.id,
            secret=token.secret,
            node=node,
            key_hash=key_hash(key),
            now=self.now,
            issue=lambda name: certificate_record(
                self.state.authority.issue_node(name, key, now=self.now, random=os.urandom), now=self.now
            ),
        )
        draft.finish(
            certificate_pem=certificate.pem,
            ca_pem=self.state.authority.certificate_pem,
            agent=AgentFile(
                node=node,
                cluster=self.state.cluster,
                gateways=list(gateways),
                wg_public_key=DhPrivateKey(draft.wg_private_key).public.to_base64(),
                time_floor=certificate.not_before,
            ),
        ).close()


@contextlib.contextmanager
def past(directory: Path, *, now: float, name: str = "gw-1", cluster: str = "test") -> Iterator[Past]:
    """Opens the gateway's directory as it was at `now`, making what is missing."""
    state = open_gateway(directory, hosts=["127.0.0.1"], name=name, cluster=cluster, now=now)
    try:
        with contextlib.closing(SqliteRegistry(state.registry, now=now)) as registry:
            yield Past(state, registry, now)
    finally:
        state.close()
