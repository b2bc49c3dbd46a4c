"""The gateway's end of Kubernetes: follows the cluster, stands for election, reconciles while it leads.

Assembles what the other modules decide. Nothing that goes wrong here leaves `run`; it becomes a sentence in
the status, and is tried again. Tunnels and packets go on meanwhile with what is known.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import trio
from structlog.typing import FilteringBoundLogger

from gateway.controllers.certificates import CertificateReconciler, Sign
from gateway.controllers.cluster_info import ClusterInfoReconciler
from gateway.controllers.reconcile import Reconciler
from gateway.controllers.site import Measured
from gateway.controllers.view import INFO, Key, View
from raven.errors import StateError
from raven.kube.client import Client
from raven.kube.cluster_info import ClusterInfo
from raven.kube.controller import Queue
from raven.kube.conventions import LEADER_LEASE, NAMESPACE, Doors
from raven.kube.errors import KubeError
from raven.kube.gateways import GATEWAYS, GATEWAYS_V1ALPHA1, GROUP, Gateway
from raven.kube.lease import Elector
from raven.kube.objects import Kind
from raven.kube.recorder import Recorder
from raven.kube.resources import (
    BLOCK_AFFINITIES,
    CERTIFICATE_REQUESTS,
    SLICES,
    SLICES_V1BETA1,
    CertificateSigningRequest,
    EndpointSlice,
)
from raven.kube.signing import SIGNER
from raven.kube.watch import Cache
from raven.topology.election import Health

Verdicts = Mapping[tuple[str, str, str], bool | None]  # Gateway, node, type of endpoint

LOOK_AGAIN = 30.0  # seconds between two looks for a CRD that is not installed yet
SERVED_AGAIN = 60.0  # seconds between two looks at what else the API server serves, in three requests
MEASURE = 2.0  # seconds between two looks at the tunnels of nodes that may be elected
_ANSWERS_LONG_AGO = float("inf")


class Served(NamedTuple):
    """What of an API server decides how we follow it."""

    gateways: Kind[Gateway]
    slices: Kind[EndpointSlice] | None
    calico: bool

    def __str__(self) -> str:
        slices = self.slices.api_version if self.slices is not None else "no slices"
        return f"{self.gateways.api_version}, {slices}{', Calico' if self.calico else ''}"


class Cluster:
    """One gateway's part in its cluster."""

    def __init__(
        self,
        client: Client,
        *,
        identity: str,
        namespace: str,
        service: str,
        doors: Doors,
        tunnels: Measured,
        log: FilteringBoundLogger,
        wall: Callable[[], float] = time.time,
        signing: tuple[str, Sign] | None = None,
        info: Callable[[], ClusterInfo] | None = None,
    ) -> None:
        """`identity` is this gateway's; `namespace` and `service` name the Service of the gateways' pods;
        `doors` are where it lets O&M in, and all gateways alike; `tunnels` is what it has measured of a
        node's. `signing` is the name of the certificates'
        cluster and what signs; None leaves certificate requests alone. `info` is what edges that join by
        the API server are told; None publishes nothing.
        """
        self.client = client
        self.view: View | None = None  # None until everything was listed once
        self._coming: View | None = None  # the latest one, which may not have listed everything
        self.ready = trio.Event()  # set when everything was listed once
        self._missing = ""
        self._identity, self._namespace, self._service = identity, namespace, service
        self._doors, self._tunnels, self._log, self._wall = doors, tunnels, log, wall
        self.elector = Elector(
            client,
            namespace=NAMESPACE,
            name=LEADER_LEASE,
            identity=identity,
            wall=wall,
            log=log,
            is_gone=self._is_gone,
        )
        self.queue: Queue[Key] = Queue(self._reconcile, log=log)
        self.recorder = Recorder(client, instance=identity, wall=wall, log=log)
        self._reconciler: Reconciler | None = None
        self._certificates: CertificateReconciler | None = None
        self.requests: Cache[CertificateSigningRequest] | None = None
        if signing is not None:
            self.requests = Cache(
                client,
                CERTIFICATE_REQUESTS,
                field_selector=f"spec.signerName={SIGNER}",
                changed=self._request_changed,
                log=log,
            )
            name, sign = signing
            self._certificates = CertificateReconciler(
                client, self.requests.objects, cluster=name, sign=sign, wall=wall
            )

        self._info = ClusterInfoReconciler(client, wanted=info, log=log) if info is not None else None

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._follow)
                await self.ready.wait()
                nursery.start_soon(self.recorder.run)
                if self.requests is not None:
                    nursery.start_soon(self.requests.run)
                if self._info is not None:
                    nursery.start_soon(self._info.cache.run)
                nursery.start_soon(self.elector.run, self._lead)
        finally:
            with trio.move_on_after(1, shield=True):
                await self.client.aclose()

    def problems(self) -> list[str]:
        """Sentences an operator should read."""
        found = [f"Kubernetes: {self._missing}"] if self._missing else []
        for view in dict.fromkeys((self.view, self._coming)):
            found += view.problems() if view is not None else []
        for cache in (self.requests, self._info.cache if self._info is not None else None):
            if cache is not None and cache.problem:
                found.append(f"Kubernetes: {cache.problem}")
        if self.elector.problem:
            found.append(f"Kubernetes: election: {self.elector.problem}")
        if self.elector.leading:
            found += [f"Kubernetes: {key}: {why}" for key, why in self.queue.problems.items()]
        return found

    async def _follow(self) -> None:
        """Until cancelled: has a view of what the API server serves now.

        A CRD that comes, or a version that goes with an upgrade, makes another one. It takes over when it has
        listed everything, so that nobody ever sees an empty cluster.
        """
        earlier: list[trio.CancelScope] = []
        async with trio.open_nursery() as nursery:
            served: Served | None = None
            while True:
                try:
                    now = await self._look()
                except KubeError as error:
                    now = served
                    if served is None:
                        self._lacks(str(error))
                if now is not None and now != served:
                    if served is not None:
                        self._log.info("the API server serves something else", now=str(now))
                    served = now
                    scope = trio.CancelScope()
                    nursery.start_soon(self._run_view, served, scope, tuple(earlier))
                    earlier.append(scope)
                await trio.sleep(LOOK_AGAIN if served is None else SERVED_AGAIN)

    async def _look(self) -> Served | None:
        """What the API server has of what we follow; None where it has not our CRD, or not any more."""
        kind = await self.client.choose(GATEWAYS, GATEWAYS_V1ALPHA1)
        if kind is None:
            if self.view is None:
                self._lacks(f"the API server has no gateways of {GROUP}/v1beta1 or v1alpha1; install the CRD")
            return None
        slices: Kind[EndpointSlice] | None = await self.client.choose(SLICES, SLICES_V1BETA1)
        calico = await self.client.choose(BLOCK_AFFINITIES)
        self._missing = ""
        if kind is GATEWAYS_V1ALPHA1:
            self._missing = (
                f"Gateways are served as {kind.api_version} only, read and never written;"
                f" install the CRD with {GATEWAYS.api_version}"
            )
        return Served(kind, slices, calico is not None)

    def _lacks(self, why: str) -> None:
        if why != self._missing:
            self._log.warning("waiting", why=why)
        self._missing = why

    async def _run_view(
        self, served: Served, scope: trio.CancelScope, earlier: Sequence[trio.CancelScope]
    ) -> None:
        """Until `scope` is cancelled; those of `earlier` views are, when this one knows all."""
        with scope:
            view = self._coming = View(
                self.client,
                gateway_kind=served.gateways,
                slice_kind=served.slices,
                calico=served.calico,
                namespace=self._namespace,
                service=self._service,
                add=self._add,
                log=self._log,
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(view.run)
                await view.wait_synced()
                for one in earlier:
                    one.cancel()
                self._take(view)

    def _take(self, view: View) -> None:
        """Called when a view knows all: from now on it is the one."""
        before, self.view = self.view, view
        self._reconciler = Reconciler(
            view,
            self.client,
            self.recorder,
            doors=self._doors,
            measured=self._measured,
            wall=self._wall,
        )
        self.ready.set()
        for key in view.everything():
            self._add(key)
        if before is not None:
            before.news.set()  # whoever waits there shall look here

    def _add(self, key: Key, *, after: float = 0.0) -> None:
        if self.elector.leading:
            self.queue.add(key, after=after)

    async def _lead(self) -> None:
        assert self.view is not None
        before = self._verdicts()
        for key in self.view.everything():
            self.queue.add(key)
        for name in self.requests.objects if self.requests is not None else ():
            self.queue.add(Key("request", name))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.queue.run)
            nursery.start_soon(self._measure, before)
            nursery.start_soon(self._publish)

    def _is_gone(self, holder: str) -> bool:
        """Whether the cluster says so of the leader's pod, and not of ours; a gateway has its node's name."""
        assert self.view is not None
        pods = self.view.gateway_pods()
        return pods.get(holder) is False and pods.get(self._identity) is True

    def _request_changed(
        self, before: CertificateSigningRequest | None, after: CertificateSigningRequest | None
    ) -> None:
        if after is not None:
            self._add(Key("request", after.metadata.name))

    async def _reconcile(self, key: Key) -> None:
        assert self._reconciler is not None
        if key.what == "request":
            assert self._certificates is not None
            if said := await self._certificates(key.name):
                self._log.info("certificate request", name=key.name, said=said)
            return
        if key == INFO:
            assert self._info is not None
            if said := await self._info():
                self._log.info("cluster info", said=said)
            return
        await self._reconciler(key)

    async def _publish(self) -> None:
        """Has the ConfigMap for joining edges looked at when it, or what it shall say, has changed."""
        while self._info is not None:
            with suppress(StateError):  # the registry cannot be read now; whoever reads it often says so
                if self._info.is_due() and INFO not in self.queue.problems:  # else it comes back by itself
                    self.queue.add(INFO)
            await trio.sleep(MEASURE)

    async def _measure(self, before: Verdicts) -> None:
        """Has a site looked at again when the verdict about one of its candidates has changed."""
        while True:
            await trio.sleep(MEASURE)
            now = self._verdicts()
            for place, verdict in now.items():
                if verdict != before.get(place, verdict):  # a new one is looked at anyway
                    self.queue.add(Key("site", place[0]))
            before = now

    def _verdicts(self) -> Verdicts:
        """Of each Gateway's endpoints whether it is down; None for what nobody has measured."""
        assert self.view is not None
        pods = self.view.gateway_pods()
        return {
            (gateway.metadata.name, one.node_name, one.type): None if health is None else health.is_down()
            for gateway in self.view.gateways.objects.values()
            for one in gateway.spec.endpoints
            for health in (self._shown(one.node_name, one.type, pods),)
        }

    def _measured(self, node: str, type: str) -> Health | None:
        """Of a node with a gateway, whether its pod is ready; of an edge, what its tunnel shows."""
        assert self.view is not None
        return self._shown(node, type, self.view.gateway_pods())

    def _shown(self, node: str, type: str, pods: Mapping[str, bool]) -> Health | None:
        if (ready := pods.get(node)) is not None:
            return Health(ready, _ANSWERS_LONG_AGO)
        return self._tunnels(node, type)
