"""A gateway's share in the registry of its Kubernetes cluster: where that is, and the tie to it.

Above it `main`, which opens it before the state directory, and the app, which runs it beside the lanes; below
it `raven.registry.kubernetes*`. Nothing that goes wrong here leaves `run`.
"""

from __future__ import annotations

import os
import random
import time
from functools import partial
from pathlib import Path

from gateway.options import GatewayOptions
from raven import log
from raven.kube.access import find_access, is_pod
from raven.kube.client import Client
from raven.registry import kubernetes_start, shared_ca
from raven.registry.gateway_state import GatewayState
from raven.registry.kubernetes import KubernetesRegistry
from raven.registry.kubernetes_follow import Follow
from raven.registry.kubernetes_store import Store
from raven.registry.shared_state import read_shared_file


def shares(options: GatewayOptions) -> bool:
    """Whether the registry is to be the cluster's."""
    where = options.kubernetes_registry
    return where == "cluster" or (where == "auto" and options.kubernetes_enabled and is_pod())


class Sharing:
    """One gateway's tie to the registry that it shares."""

    registry: KubernetesRegistry

    def __init__(self, options: GatewayOptions) -> None:
        """ConfigError where there is no cluster to be found."""
        self._options = options
        self._access = find_access(options.kubernetes_kubeconfig)
        self._log = log.get("registry")

    def share(self, directory: Path) -> None:
        """As `open_gateway` wants it. StateError."""
        kubernetes_start.share(
            directory,
            self._access,
            kubeconfig=self._options.kubernetes_kubeconfig,
            cluster=self._options.cluster or None,
            now=time.time(),
            random=os.urandom,
        )

    def open(self, state: GatewayState) -> KubernetesRegistry:
        """The registry; its calls that wait for the API server work while `run` does."""
        self._directory = state.directory
        shared = read_shared_file(state.directory, now=time.time())
        assert shared is not None, "share has marked the directory"
        self._follow = Follow(
            Store(Client(self._access), self._access.namespace, jitter=random.random),
            log=self._log,
            taken=self._take_ca,
            imported=None
            if shared.imported
            else partial(kubernetes_start.imported, state.directory, now=time.time()),
        )
        self.registry = KubernetesRegistry(state.registry, now=time.time(), call=self._follow.call)
        return self.registry

    async def run(self) -> None:
        """Until cancelled."""
        await self._follow.run(self.registry)

    def problems(self) -> list[str]:
        return self._follow.problems()

    def _take_ca(self, ca: shared_ca.SharedCa) -> None:
        """In a thread: leaves the cluster's CA where the app finds it within a second. StateError."""
        if not shared_ca.is_held(self._directory, ca, now=time.time()):
            shared_ca.adopt(self._directory, ca, now=time.time())
