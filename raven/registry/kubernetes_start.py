"""A gateway's state directory and the cluster's registry meet: at every start, and for every command.

The first gateway gives the cluster its CA, the directory's own where there was one; of two that are first at
once the API server takes one. A directory that knows the cluster's registry already does without the API
server, so that a gateway that starts while it is away serves everybody it knew.
"""

from __future__ import annotations

import random as pseudorandom
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from raven.errors import StateError
from raven.kube.access import Access, find_access
from raven.kube.client import Client
from raven.kube.errors import KubeError
from raven.pki.ca import Authority
from raven.pki.csr import new_key
from raven.registry import shared_ca
from raven.registry.gateway_state import new_cluster, registry_path
from raven.registry.kubernetes import KubernetesRegistry
from raven.registry.kubernetes_store import Store
from raven.registry.shared_state import SharedFile, read_shared_file, write_shared_file

T = TypeVar("T")
Random = Callable[[int], bytes]

START_MAX = 25.0  # seconds for the API server to answer at the start; then a restart tries again


def share(
    directory: Path, access: Access, *, kubeconfig: str, cluster: str | None, now: float, random: Random
) -> None:
    """Called under the directory's lock: what the cluster has is to become the directory's CA.

    StateError where the API server does not answer and the directory does not know the registry yet, or has
    a CA of another one.
    """
    known = read_shared_file(directory, now=now)
    try:
        asked = ask(access, lambda store: _share(store, directory, known, cluster, now, random))
    except StateError:
        if known is None or not (directory / "ca.key").exists():
            raise
        return  # `kubernetes_follow` tells what is wrong, and goes on trying
    found, made = asked
    imported = not registry_path(directory).exists() if known is None else known.imported
    marked = SharedFile(
        namespace=access.namespace,
        # Commands run elsewhere than the gateway.
        kubeconfig=str(Path(kubeconfig).absolute()) if kubeconfig else "",
        imported=imported and not (made and known),
    )
    if marked != known:
        write_shared_file(directory, marked)
    if not shared_ca.is_held(directory, found, now=now):
        shared_ca.adopt(directory, found, now=now)


def imported(directory: Path, *, now: float) -> None:
    """Called when everything that the directory held is in the cluster."""
    known = read_shared_file(directory, now=now)
    assert known is not None, "the start has marked it"
    write_shared_file(directory, msgspec.structs.replace(known, imported=True))


def open_for_commands(directory: Path, shared: SharedFile, *, now: float) -> KubernetesRegistry:
    """The cluster's registry for a command beside the gateway that has the directory; to be closed."""

    def call(do: Callable[[Store], Awaitable[T]]) -> T:
        return ask(_access(shared), do)

    return KubernetesRegistry(registry_path(directory), now=now, call=call, create=False)


def change_ca(shared: SharedFile, change: Callable[[shared_ca.SharedCa], shared_ca.SharedCa]) -> bytes:
    """Changes the cluster's CA, which every gateway follows within seconds; the pin of what it is now."""
    changed = ask(_access(shared), lambda store: store.change_ca(change))
    return shared_ca.pin(changed)


def ask(access: Access, do: Callable[[Store], Awaitable[T]]) -> T:
    """What the store answers, for those who have no event loop; StateError, RefusedError."""

    async def asked() -> T:
        client = Client(access)
        try:
            with trio.fail_after(START_MAX):
                return await do(Store(client, access.namespace, jitter=pseudorandom.random))
        finally:
            await client.aclose()

    try:
        return trio.run(asked)
    except KubeError as error:
        raise StateError(f"the registry in Kubernetes: {error}") from error
    except trio.TooSlowError as error:
        raise StateError(f"the registry in Kubernetes: {access.server} does not answer in time") from error


async def _share(
    store: Store, directory: Path, known: SharedFile | None, cluster: str | None, now: float, random: Random
) -> tuple[shared_ca.SharedCa, bool]:
    """The cluster's CA, and whether it was made just now."""
    found, made = await store.ca(), False
    own = shared_ca.load_own(directory) if found is None or known is None else None
    if found is None:
        found, made = await store.create_ca(own or _new(cluster, now, random))
    if own is not None and own.certificate_pem != found.certificate_pem:
        raise StateError(
            f"{directory}: its CA is another than that of the Secret {store.namespace}/raven-ca, and its"
            " nodes know no other; move the directory away to share the cluster's CA, or run with"
            " --kubernetes-registry local"
        )
    return found, made


def _new(cluster: str | None, now: float, random: Random) -> shared_ca.SharedCa:
    name = cluster or new_cluster(random)
    return shared_ca.shared_from(Authority.create(name, new_key(random), now=now, random=random))


def _access(shared: SharedFile) -> Access:
    access = find_access(shared.kubeconfig)
    return access if access.namespace == shared.namespace else access.within(shared.namespace)
