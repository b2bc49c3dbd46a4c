"""Joins the gateway to its Kubernetes cluster: Gateways tell the tunnels, and tunnels the Gateways.

It is one of the gateway's parts where the options say so; below it is `gateway.controllers`. What nodes carry
is kept in the state directory, so that a gateway that starts while the API server is away carries the packets
of all who were known.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Sequence
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
import trio

from gateway.addresses import ANYWHERE, is_loopback
from gateway.controllers import networks
from gateway.controllers.cluster import Cluster
from gateway.join import ISSUING, certificate_record
from raven import log
from raven.control.messages import GATEWAYS_MAX
from raven.errors import StateError
from raven.kube.access import find_access
from raven.kube.client import Client
from raven.kube.cluster_info import ClusterInfo
from raven.kube.conventions import PROXY, Doors
from raven.kube.errors import KubeError
from raven.kube.gateways import Gateway as SiteGateway
from raven.names import is_name
from raven.pki.csr import PublicKey, key_hash, read_csr_untrusted
from raven.pki.token import hash_secret, new_token
from raven.registry import files
from raven.registry.interface import CertificateRecord, NodeRecord, TokenRecord
from raven.registry.kubernetes import KubernetesRegistry, RegistryAwayError
from raven.topology.election import Health
from raven.topology.model import POD_NETWORKS_MAX, IPNetwork

if TYPE_CHECKING:
    from gateway.network import GatewayNetwork
    from gateway.options import GatewayOptions
    from gateway.sharing import Sharing
    from gateway.tunnels import TunnelTable
    from raven.config import Address
    from raven.registry.gateway_state import GatewayState
    from raven.registry.interface import Registry

KEPT = "kubernetes.json"  # in the state directory
_SHOWN_MAX = 5  # objects that cannot be read, of which the status has a sentence each
SETTLE = 0.2  # seconds in which changes of Gateways gather before the tunnels follow


class Host(Protocol):
    """What it needs of its gateway; the network once it runs."""

    options: GatewayOptions
    state: GatewayState
    registry: Registry
    table: TunnelTable
    network: GatewayNetwork
    advertise: Address
    sharing: Sharing | None
    started: float  # time.monotonic()


class _Kept(msgspec.Struct):
    """What is remembered over a restart."""

    carried: dict[str, list[str]] = {}
    listed: bool = False  # Gateways say where agents dial, or did
    packets_at: str = ""  # the address that they say datagrams reach this gateway at


class Kubernetes:
    """One gateway's ties to its cluster."""

    def __init__(self, of: Host) -> None:
        """ConfigError where there is no cluster to be found."""
        options = of.options
        access = find_access(options.kubernetes_kubeconfig)
        self._of = of
        self._log = log.get("kubernetes")
        self._kept = options.state_dir / KEPT
        kept = _read(self._kept)
        self.carried = {node: tuple(map(ip_network, held)) for node, held in kept.carried.items()}
        self.listed, self.packets_at = kept.listed, kept.packets_at
        self.cluster = Cluster(
            Client(access),
            identity=of.state.name,
            namespace=access.namespace,
            service=options.kubernetes_service,
            doors=doors(options),
            tunnels=self._tunnels,
            log=self._log,
            signing=(of.state.cluster, self._sign),
            info=self._info,
        )

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.cluster.run)
            await self.cluster.ready.wait()
            await self._follow()

    def problems(self) -> list[str]:
        crowded = [
            f"Kubernetes: node {node} would carry {len(held)} pod networks, more than {POD_NETWORKS_MAX};"
            " give its site neighbouring ones"
            for node, held in self.carried.items()
            if len(held) > POD_NETWORKS_MAX
        ]
        return [*self.cluster.problems(), *self._unreadable(), *crowded]

    def _unreadable(self) -> list[str]:
        """Objects that are as good as not there. A Gateway among them has no status to say so in."""
        view = self.cluster.view
        found = [one for cache in view.caches for one in cache.unreadable.values()] if view else []
        told = [f"Kubernetes: {one}; it is left out" for one in found[:_SHOWN_MAX]]
        more = [f"Kubernetes: {len(found) - len(told)} more objects cannot be read"]
        return told + (more if len(found) > len(told) else [])

    def assigned(self, node: str) -> Sequence[IPNetwork] | None:
        """The pod networks that the cluster has `node` carry; None for a node of no site."""
        held = self.carried.get(node)
        return None if held is None else held[:POD_NETWORKS_MAX]

    async def _follow(self) -> None:
        """Keeps the tunnels at what the Gateways say."""
        while True:
            view = self.cluster.view  # another one when the API server serves something else
            assert view is not None
            news = view.news
            gateways = list(view.gateways.objects.values())
            try:
                await self._list(gateways)
                await self._carry(networks.carried(gateways))
            except StateError as error:
                self._log.warning("not kept for a restart", why=str(error))
            await news.wait()
            await trio.sleep(SETTLE)

    async def _carry(self, carried: networks.Carried) -> None:
        changed = networks.moved(self.carried, carried)
        if not changed:
            return
        self.carried = carried
        for node in changed:
            live = self._of.table.live(node)
            if live is not None:
                self._of.network.offer(node, live.hello.packets)
        await self._keep()

    async def _keep(self) -> None:
        carried = {node: [*map(str, held)] for node, held in self.carried.items()}
        data = msgspec.json.encode(_Kept(carried, self.listed, self.packets_at))
        await trio.to_thread.run_sync(lambda: files.write(self._kept, data))

    async def _list(self, gateways: Sequence[SiteGateway]) -> None:
        """Agents keep tunnels to all gateways that can be dialled; with none known, to those they have.

        The registry's list is what they are told, and it outlives a restart without the API server.
        """
        known = [(node, address) for node, address in networks.dialled(gateways).items() if is_name(node)]
        if known:
            keep = partial(self._of.registry.list_gateways, dict(known[:GATEWAYS_MAX]), now=time.time())
            await trio.to_thread.run_sync(keep)
        packets_at = networks.packets_at(gateways, self._of.state.name)
        if packets_at and self._of.options.wg_listen.host in ANYWHERE:
            self._of.network.dial_at(packets_at)
        told = bool(known) or self.listed, packets_at or self.packets_at
        if told != (self.listed, self.packets_at):
            self.listed, self.packets_at = told
            await self._keep()

    def _info(self) -> ClusterInfo:
        """What edges that join by the API server are told; the same by whichever gateway leads."""
        of = self._of
        known = {one.name: one.address for one in of.registry.known_gateways().gateways}
        gateways = known or {of.state.name: str(of.advertise)}
        return ClusterInfo(of.state.cluster, of.state.ca_pem, tuple(sorted(gateways.items())[:GATEWAYS_MAX]))

    async def _sign(self, node: str, csr_pem: str, asker: str) -> str:
        """The certificate of a node that Kubernetes vouches for; on disk already. Its earlier ones end.

        It goes the way of every join, with a token that nobody else ever has.
        """
        key = read_csr_untrusted(csr_pem)
        now, of = time.time(), self._of
        if of.sharing is not None:
            return await self._admit(of.sharing.registry, node, key, asker, now)
        token = new_token(of.state.authority.pin, random=os.urandom)

        def enrol() -> CertificateRecord:
            of.registry.add_token(
                TokenRecord(
                    id=token.id,
                    secret_hash=hash_secret(token.secret),
                    node=node,
                    reusable=False,
                    created=now,
                    expires=now + 60,
                )
            )
            return of.registry.enrol(
                token_id=token.id,
                secret=token.secret,
                node=node,
                key_hash=key_hash(key),
                now=now,
                issue=lambda name: certificate_record(
                    of.state.authority.issue_node(name, key, now=now, random=os.urandom), now=now
                ),
                asker=asker,
            )

        return (await trio.to_thread.run_sync(enrol)).pem

    async def _admit(
        self, registry: KubernetesRegistry, node: str, key: PublicKey, asker: str, now: float
    ) -> str:
        """The same in the registry that all gateways share. What fails for now is tried again: KubeError."""
        authority = self._of.state.authority
        admit = partial(
            registry.admit,
            node,
            key_hash=key_hash(key),
            now=now,
            issue=lambda name: certificate_record(
                authority.issue_node(name, key, now=now, random=os.urandom), now=now
            ),
            asker=asker,
        )
        try:
            return (await trio.to_thread.run_sync(admit, limiter=ISSUING)).pem
        except RegistryAwayError as error:
            raise KubeError("unreachable", str(error)) from error
        except StateError as error:
            raise KubeError("failed", str(error)) from error

    def _tunnels(self, node: str, type: str) -> Health | None:
        """What this gateway has measured of a node's tunnel; None for one that never joined."""
        live = self._of.table.live(node)
        if live is None:
            record = self._of.registry.node(node)
            if record is None:
                return None
            return absent(record, now=time.time(), up=time.monotonic() - self._of.started)
        if (since := live.tunnel.suspended_since) is not None:  # its streams wait, but it carries nothing
            return Health(False, trio.current_time() - since)
        if type == PROXY or self._of.network.off:
            return Health(True, 0.0)
        lane = self._of.network.node_lane(node)
        down = lane.state in ("down", "off")
        return Health(not down, lane.handshake_age_s or float("inf") if down else 0.0)


def doors(options: GatewayOptions) -> Doors:
    """The entries by which others than this machine's own programs come to nodes."""
    return Doors(
        https={
            lead.port: lead.address.port
            for lead in (*options.names_listen, *options.kubelet_listen)
            if not is_loopback(lead.address.host)
        },
        http=0 if is_loopback(options.oam_listen.host) else options.oam_listen.port,
    )


def absent(record: NodeRecord, *, now: float, up: float) -> Health:
    """Of a node without a tunnel, at `now` in wall seconds, by a gateway that is `up` for so long.

    Who has only just joined is on its way, and nobody can have come back before the gateway was there: else
    each restart would write that every site is lost, and soon after that it is not.
    """
    seen = record.created if record.last_seen is None else record.last_seen
    return Health(False, min(up, max(0.0, now - seen)))


def _read(path: Path) -> _Kept:
    """What was kept; nothing where there is nothing, or what is there cannot be read."""
    try:
        kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        for network in itertools.chain.from_iterable(kept.carried.values()):
            ip_network(network)
        return kept
    except (OSError, ValueError):  # a DecodeError is a ValueError; the cluster will tell anew
        return _Kept()
