"""The same questions to any API server, and what of the answers must not depend on who gave them.

`python -m tests.kube.conversation KUBECONFIG` prints the answers of a real one as JSON; `tests/e2e_kube`
compares them with the fake's. Whatever it makes it removes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import trio

from raven.kube import client as client_module
from raven.kube.access import read_kubeconfig
from raven.kube.client import Client
from raven.kube.errors import KubeError
from raven.kube.gateways import (
    GATEWAYS,
    Endpoint,
    Gateway,
    GatewaySpec,
    GatewayStatus,
    NodeInfo,
    TunnelConfig,
)
from raven.kube.objects import Meta, timestamp
from raven.kube.resources import CONFIG_MAPS, LEASES, ConfigMap, Lease, LeaseSpec

NAMESPACE = "default"
LABEL = {"raven-conversation": "yes"}
SELECTOR = "raven-conversation=yes"
Answers = list[Any]


async def converse(client: Client) -> Answers:
    """The answers, in order."""
    said: Answers = []
    await _clean(client)
    try:
        await _objects(client, said)
        await _pages(client, said)
        await _watches(client, said)
        await _status(client, said)
        await _lease(client, said)
        said.append(sorted(await client.served("coordination.k8s.io", "v1") & {"leases"}))
        said.append(sorted(await client.served("raven.openyurt.io", "v0")))
    finally:
        await _clean(client)
    return said


def _named(name: str, **data: str) -> ConfigMap:
    return ConfigMap(metadata=Meta(name=name, namespace=NAMESPACE, labels=LABEL), data=data)


async def _objects(client: Client, said: Answers) -> None:
    made = await client.create(CONFIG_MAPS, _named("c1", a="1"))
    said.append(
        [made.metadata.name, made.data, bool(made.metadata.uid), bool(made.metadata.resource_version)]
    )
    said.append(await _reason(client.create(CONFIG_MAPS, _named("c1"))))
    said.append(await _reason(client.get(CONFIG_MAPS, "absent", namespace=NAMESPACE)))
    new = await client.patch(CONFIG_MAPS, made, msgspec.structs.replace(made, data={"b": "2"}))
    said.append([new.data, new.metadata.resource_version != made.metadata.resource_version])
    stale = msgspec.structs.replace(made, data={"c": "3"})
    said.append(await _reason(client.patch(CONFIG_MAPS, made, stale)))
    same = await client.merge(CONFIG_MAPS, new, {"data": {"b": "2"}})
    said.append(same.metadata.resource_version == new.metadata.resource_version)  # nothing changed
    wrong = msgspec.structs.replace(new, metadata=msgspec.structs.replace(new.metadata, uid="0-0"))
    await client.delete(CONFIG_MAPS, wrong)
    said.append((await client.get(CONFIG_MAPS, "c1", namespace=NAMESPACE)).data)  # another's object stays
    await client.delete(CONFIG_MAPS, new)
    await client.delete(CONFIG_MAPS, new)
    said.append(await _reason(client.get(CONFIG_MAPS, "c1", namespace=NAMESPACE)))


async def _pages(client: Client, said: Answers) -> None:
    for number in range(5):
        await client.create(CONFIG_MAPS, _named(f"p{number}"))
    page, client_module.PAGE = client_module.PAGE, 2
    try:
        first = await client.page(CONFIG_MAPS, namespace=NAMESPACE, selector=SELECTOR)
        said.append([[one.metadata.name for one in first.items], bool(first.next_page)])
        whole = await client.list(CONFIG_MAPS, namespace=NAMESPACE, selector=SELECTOR)
        said.append([one.metadata.name for one in whole.items])
    finally:
        client_module.PAGE = page
    field = await client.list(CONFIG_MAPS, namespace=NAMESPACE, field_selector="metadata.name=p3")
    said.append([one.metadata.name for one in field.items])


async def _watches(client: Client, said: Answers) -> None:
    page = await client.list(CONFIG_MAPS, namespace=NAMESPACE, selector=SELECTOR)
    made = await client.create(CONFIG_MAPS, _named("w", a="1"))
    changed = await client.patch(CONFIG_MAPS, made, msgspec.structs.replace(made, data={"a": "2"}))
    for label in (None, "no", "yes"):  # it leaves the selector, and comes back
        labels = {"metadata": {"labels": {"raven-conversation": label}}}
        changed = await client.merge(CONFIG_MAPS, changed, labels)
    await client.delete(CONFIG_MAPS, changed)
    seen: list[list[str]] = []
    version = ""
    with trio.fail_after(30):
        async with client.watch(
            CONFIG_MAPS,
            namespace=NAMESPACE,
            selector=SELECTOR,
            resource_version=page.resource_version,
            seconds=3,
        ) as events:
            async for event in events:
                if event.type != "BOOKMARK":
                    seen.append([event.type, event.object.metadata.name])
                version = event.object.metadata.resource_version
    said.append(seen)
    said.append(int(version) > int(page.resource_version))
    empty = 0
    async with client.watch(
        CONFIG_MAPS, namespace=NAMESPACE, selector=SELECTOR, resource_version=version, seconds=1
    ) as events:
        async for event in events:
            empty += event.type != "BOOKMARK"
    said.append(empty)  # it ended by itself, and had nothing to say


async def _status(client: Client, said: Answers) -> None:
    """Spec and status of a Gateway are written apart, and only the spec counts as a generation."""
    spec = GatewaySpec(
        endpoints=(Endpoint(node_name="n1", type="tunnel"),),
        tunnel_config=TunnelConfig(replicas=1),
    )
    made = await client.create(GATEWAYS, Gateway(metadata=Meta(name="conversation", labels=LABEL), spec=spec))
    said.append([made.metadata.generation, [one.node_name for one in made.spec.endpoints]])
    status = GatewayStatus(
        nodes=(NodeInfo(node_name="n1", private_ip="10.0.0.1", subnets=("10.1.0.0/24",)),),
        observed_generation=1,
    )
    both = {
        **msgspec.to_builtins(msgspec.structs.replace(made, status=status)),
        "spec": {"exposeType": "PublicIP"},
    }
    both.pop("metadata")
    after = await client.merge(GATEWAYS, made, both, subresource="status")
    said.append([after.spec.expose_type, len(after.status.nodes), after.metadata.generation])
    both["status"] = {"nodes": []}
    again = await client.merge(GATEWAYS, made, both)
    said.append([again.spec.expose_type, len(again.status.nodes), again.metadata.generation])


async def _lease(client: Client, said: Answers) -> None:
    now = timestamp(1.8e9, micro=True)
    lease = Lease(
        metadata=Meta(name="conversation", namespace=NAMESPACE, labels=LABEL),
        spec=LeaseSpec(holder_identity="a", lease_duration_seconds=15, acquire_time=now, renew_time=now),
    )
    made = await client.create(LEASES, lease)
    said.append([made.spec.holder_identity, made.spec.lease_duration_seconds, made.spec.renew_time])
    taken = msgspec.structs.replace(made, spec=msgspec.structs.replace(made.spec, holder_identity="b"))
    said.append((await client.patch(LEASES, made, taken)).spec.holder_identity)
    said.append(await _reason(client.patch(LEASES, made, taken)))


async def _reason(call: Any) -> str:
    try:
        await call
    except KubeError as error:
        return error.reason
    return "done"


async def _clean(client: Client) -> None:
    kinds: list[tuple[Any, str]] = [(CONFIG_MAPS, NAMESPACE), (LEASES, NAMESPACE), (GATEWAYS, "")]
    for kind, namespace in kinds:
        for one in (await client.list(kind, namespace=namespace, selector=SELECTOR)).items:
            await client.delete(kind, one)


async def _main(path: Path) -> None:
    client = Client(read_kubeconfig(path))
    try:
        answers = await converse(client)
    finally:
        await client.aclose()
    sys.stdout.write(msgspec.json.encode(answers).decode() + "\n")


if __name__ == "__main__":
    trio.run(_main, Path(sys.argv[1]))
