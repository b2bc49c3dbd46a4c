"""Reads what an overview of the cluster follows from, all at once, with list and get alone.

Any administrator may read it, and the gateway's own account most of it; what may not be read becomes a note.
"""

from __future__ import annotations

import trio

from raven.kube import cluster_info
from raven.kube.client import Client
from raven.kube.conventions import CONFIG, LEADER_LEASE, NAMESPACE
from raven.kube.errors import KubeError
from raven.kube.gateways import GATEWAYS, GATEWAYS_V1ALPHA1, Gateway, from_v1alpha1
from raven.kube.overview import Facts
from raven.kube.resources import CONFIG_MAPS, LEASES, NODES, PODS, ConfigMap, Lease, Node, Pod

POD_SELECTOR = "app.kubernetes.io/name=raven-gateway"  # of the DaemonSet in deploy/kubernetes


async def read(client: Client) -> Facts:
    """All that is needed, at once. KubeError where the resources themselves cannot be read."""
    kind = await client.choose(GATEWAYS, GATEWAYS_V1ALPHA1)
    if kind is None:
        raise KubeError(
            "not-found",
            f"{client.access.server} has no {GATEWAYS.plural} of {GATEWAYS.api_version};"
            " try: kubectl apply -k deploy/kubernetes",
        )
    notes: list[str] = []
    gateways: list[Gateway] = []
    nodes: list[Node] = []
    pods: list[Pod] = []
    lease: list[Lease] = []
    maps: dict[str, ConfigMap] = {}

    async def read_gateways() -> None:
        found = (await client.list(kind)).items
        gateways.extend(map(from_v1alpha1, found) if kind is GATEWAYS_V1ALPHA1 else found)

    async def read_nodes() -> None:
        nodes.extend((await client.list(NODES)).items)

    async def read_pods() -> None:
        try:
            pods.extend((await client.list(PODS, selector=POD_SELECTOR)).items)
        except KubeError as error:
            _only_forbidden(error)
            notes.append("pods may not be read, so whether gateways are ready is not known")

    async def read_lease() -> None:
        try:
            lease.append(await client.get(LEASES, LEADER_LEASE, namespace=NAMESPACE))
        except KubeError as error:
            if error.reason != "not-found":
                raise

    async def read_map(namespace: str, name: str) -> None:
        try:  # by list, which the gateway's own account may do
            page = await client.list(CONFIG_MAPS, namespace=namespace, field_selector=f"metadata.name={name}")
        except KubeError as error:
            _only_forbidden(error)
            notes.append(f"ConfigMap {namespace}/{name} may not be read")
            return
        if page.items:
            maps[name] = page.items[0]

    await read_gateways()  # alone: who may not even do that gets one sentence, and the one that matters
    async with trio.open_nursery() as nursery:
        for task in (read_nodes, read_pods, read_lease):
            nursery.start_soon(task)
        nursery.start_soon(read_map, NAMESPACE, CONFIG)
        nursery.start_soon(read_map, cluster_info.NAMESPACE, cluster_info.NAME)
    return Facts(
        server=client.access.server,
        gateways=gateways,
        nodes=nodes,
        lease=lease[0] if lease else None,
        config=maps.get(CONFIG),
        info=maps.get(cluster_info.NAME),
        pods=pods,
        notes=notes,
    )


def _only_forbidden(error: KubeError) -> None:
    if error.reason != "forbidden":
        raise error
