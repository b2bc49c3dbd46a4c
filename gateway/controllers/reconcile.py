"""Makes one thing in the cluster what it shall be: reads caches, asks plain functions, writes differences.

Idempotent: with nothing to change nothing is sent. A write names the version it was decided on, so of two
leaders the slower gets a conflict and looks again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gateway.controllers import services
from gateway.controllers.hosts_file import SIZE_MAX, hosts_file
from gateway.controllers.services import Wanted
from gateway.controllers.site import Facts, Measured, site_status
from gateway.controllers.view import Key, View
from raven.kube.client import Client
from raven.kube.conventions import (
    ENDPOINT_LABEL,
    INTERNAL_SERVICE,
    LOAD_BALANCER,
    MANAGED_BY_LABEL,
    MANAGER,
    NAMESPACE,
    NODES_CONFIG,
    NODES_KEY,
    TYPE_LABEL,
    Doors,
)
from raven.kube.errors import KubeError
from raven.kube.gateways import GATEWAYS_V1ALPHA1, Endpoint, Gateway, GatewayStatus
from raven.kube.objects import Kind, Meta
from raven.kube.recorder import Recorder
from raven.kube.resources import (
    CONFIG_MAPS,
    SERVICES,
    SLICES_V1BETA1,
    ConfigMap,
    EndpointSlice,
    Node,
    Service,
)


class Reconciler:
    """One reconcile a call; `measured` is what tunnels and pods show of a node."""

    def __init__(
        self,
        view: View,
        client: Client,
        recorder: Recorder,
        *,
        doors: Doors,
        measured: Measured,
        wall: Callable[[], float],
    ) -> None:
        self._view, self._client, self._recorder = view, client, recorder
        self._doors, self._measured, self._wall = doors, measured, wall

    async def __call__(self, key: Key) -> None:
        match key.what:
            case "site":
                await self._site(key.name)
            case "services":
                await self._exposing(key.name)
            case "internal":
                await self._internal()
            case "hosts":
                await self._hosts()
            case _:
                raise AssertionError(key)

    async def _site(self, name: str) -> None:
        view = self._view
        gateway = view.gateways.get(name)
        if gateway is None or view.gateway_kind is GATEWAYS_V1ALPHA1:  # that version is read only
            return
        status = site_status(
            Facts(
                gateway=gateway,
                nodes=view.nodes_of(name),
                known=view.nodes.get,
                blocks=view.blocks_of,
                lanes=view.lanes,
                doors=self._doors,
                held=view.claims,
                measured=self._measured,
                load_balancers=view.load_balancers(name),
            ),
            now=self._wall(),
        )
        if status == gateway.status:
            return
        new = msgspec.structs.replace(gateway, status=status)
        view.gateways.took(await self._client.patch(view.gateway_kind, gateway, new, subresource="status"))
        self._tell(gateway, status)

    def _tell(self, gateway: Gateway, status: GatewayStatus) -> None:
        """What an operator wants to find in `kubectl describe`."""
        kind: Any = self._view.gateway_kind
        before, after = _by_place(gateway.status), _by_place(status)
        for place in after.keys() - before.keys():
            where = f", public IP {after[place].public_ip}" if after[place].public_ip else ""
            self._recorder.record(
                kind,
                gateway,
                "Normal",
                "ActiveEndpointElected",
                f"{place[1]} endpoint on node {place[0]}{where}",
            )
        for node, type in before.keys() - after.keys():
            self._recorder.record(
                kind,
                gateway,
                "Warning",
                "ActiveEndpointLost",
                f"{type} endpoint on node {node} is not active any more",
            )
        held = {one.type: one for one in gateway.status.conditions}
        for one in status.conditions:
            if one.status == "False" and (one.type not in held or held[one.type].message != one.message):
                self._recorder.record(kind, gateway, "Warning", one.reason, one.message)

    async def _exposing(self, name: str) -> None:
        """The LoadBalancer Services of one Gateway, which may be gone itself."""
        view = self._view
        gateway = view.gateways.get(name)
        wanted = (
            services.exposing(gateway, view.lanes, view.nodes.get, self._serves)
            if gateway is not None
            else []
        )
        held = {_place(one): one for one in view.services_of(name) if one.spec.type == LOAD_BALANCER}
        for one in wanted:
            found = held.pop(_place(one.service), None)
            await self._service(found, one)
            if found is None and gateway is not None:
                kind: Any = view.gateway_kind
                made = f"Service {one.service.metadata.key}"
                self._recorder.record(
                    kind, gateway, "Normal", "Exposed", f"{made} leads to {_place(one.service)[0]}"
                )
        for left in held.values():
            await self._remove(left)

    async def _internal(self) -> None:
        view = self._view
        held = view.services.get(f"{NAMESPACE}/{INTERNAL_SERVICE}")
        gateways = view.gateways.objects.values()
        wanted = services.internal(gateways, view.lanes, self._doors, view.nodes.get, self._serves)
        if wanted is not None:
            await self._service(held, wanted)
        elif held is not None:
            await self._remove(held)

    async def _service(self, held: Service | None, wanted: Wanted) -> None:
        """The Service as wanted, whatever it is called, and its slices."""
        view = self._view
        if held is None:
            made = await self._client.create(SERVICES, wanted.service)
        else:
            made = await self._client.patch(SERVICES, held, services.service_as_wanted(held, wanted.service))
        view.services.took(made)
        if view.slices is None or view.slice_kind is None:
            return
        left = {one.metadata.name: one for one in view.slices_for(made.metadata.name)}
        for slice in wanted.slices:
            one = _renamed(slice, wanted.service.metadata.name, made.metadata.name)
            if view.slice_kind is SLICES_V1BETA1:
                one = services.as_v1beta1(one)
            found = left.pop(one.metadata.name, None)
            if found is None:
                view.slices.took(await self._create_slice(view.slice_kind, one))
            else:
                new = services.slice_as_wanted(found, one)
                view.slices.took(await self._client.patch(view.slice_kind, found, new))
        for slice in left.values():
            await self._client.delete(view.slice_kind, slice)

    async def _create_slice(self, kind: Kind[EndpointSlice], slice: EndpointSlice) -> EndpointSlice:
        try:
            return await self._client.create(kind, slice)
        except KubeError as error:
            if error.reason != "exists":
                raise
            # Ours are followed by their label; to take over another's would be a fight with whoever made it.
            raise KubeError(
                "exists",
                f"{error}; one without the label {MANAGED_BY_LABEL}={MANAGER} is not ours: delete it",
            ) from error

    async def _remove(self, service: Service) -> None:
        # The Service last: as long as it is there, a next turn finds what is left.
        view = self._view
        if view.slice_kind is not None:
            for one in view.slices_for(service.metadata.name):
                await self._client.delete(view.slice_kind, one)
        await self._client.delete(SERVICES, service)

    async def _hosts(self) -> None:
        view = self._view
        service = view.services.get(f"{NAMESPACE}/{INTERNAL_SERVICE}")
        proxy = service.spec.cluster_ip if service is not None and view.lanes.proxy else ""
        text = hosts_file(view.nodes.objects.values(), is_ours=self._is_ours, proxy=proxy.replace("None", ""))
        if len(text) > SIZE_MAX:
            raise KubeError(
                "invalid", f"ConfigMap {NODES_CONFIG}: {len(text)} bytes of node names do not fit"
            )
        held = view.hosts.get(f"{NAMESPACE}/{NODES_CONFIG}")
        if held is None:
            meta = Meta(name=NODES_CONFIG, namespace=NAMESPACE)
            made = await self._client.create(CONFIG_MAPS, ConfigMap(metadata=meta, data={NODES_KEY: text}))
        elif held.data.get(NODES_KEY) != text:
            new = msgspec.structs.replace(held, data={**held.data, NODES_KEY: text})
            made = await self._client.patch(CONFIG_MAPS, held, new)
        else:
            return
        view.hosts.took(made)

    def _serves(self, node: str) -> bool:
        """Whether the gateway of a node answers, as far as the cluster has heard of its pod."""
        return self._view.gateway_pods().get(node, True)

    def _is_ours(self, node: Node) -> bool:
        """Whether its site only dials out, so that there is no way to it but ours."""
        gateway = self._view.gateways.get(node.metadata.labels.get("raven.openyurt.io/gateway", ""))
        return gateway is not None and not gateway.spec.expose_type


def _place(service: Service) -> tuple[str, str]:
    labels = service.metadata.labels
    return labels.get(ENDPOINT_LABEL, ""), labels.get(TYPE_LABEL, "")


def _by_place(status: GatewayStatus) -> dict[tuple[str, str], Endpoint]:
    return {(one.node_name, one.type): one for one in status.active_endpoints}


def _renamed(slice: EndpointSlice, old: str, new: str) -> EndpointSlice:
    """The slice of a Service that somebody gave another name than we would."""
    if old == new:
        return slice
    name = new + slice.metadata.name.removeprefix(old)
    labels = {key: new if value == old else value for key, value in slice.metadata.labels.items()}
    return msgspec.structs.replace(
        slice, metadata=msgspec.structs.replace(slice.metadata, name=name, labels=labels)
    )
