"""Keeps a gateway's copy at what the API server has, and brings there what this gateway has heard.

Two watches: ConfigMaps are nodes, Secrets are credentials and the CA. Changes gather for a moment and are
copied in one transaction, in a thread. While the API server is away the copy stands as it is; nothing that
goes wrong here leaves `run`.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

import trio
from structlog.typing import FilteringBoundLogger

from raven.errors import StateError
from raven.kube.controller import Queue
from raven.kube.errors import KubeError
from raven.kube.resources import CONFIG_MAPS, SECRETS, ConfigMap, Secret
from raven.kube.watch import Cache
from raven.registry.kubernetes import KubernetesRegistry, RegistryAwayError, version_of
from raven.registry.kubernetes_node import SharedNode
from raven.registry.kubernetes_objects import (
    CA_NAME,
    LABEL,
    kind_of,
    node_object_name,
    read_ca,
    read_credential,
    read_node,
)
from raven.registry.kubernetes_store import Store
from raven.registry.shared_ca import SharedCa

T = TypeVar("T")

SETTLE = 0.05  # seconds in which changes gather; a removed node has two until it is cut off
CALL_MAX = 8.0  # seconds for all of one question to the API server; who joins gives up after ten
AGAIN = 2.0  # seconds before the next attempt to import, or to write a copy to a full disk
IMPORTERS = 8  # objects that are created at a time while a directory is imported

_AWAY = frozenset({"unreachable", "throttled", "failed", "unreadable", "conflict", "exists", "gone"})


class Follow:
    """One gateway's tie to the registry of its cluster."""

    def __init__(
        self,
        store: Store,
        *,
        log: FilteringBoundLogger,
        taken: Callable[[SharedCa], None],
        imported: Callable[[], None] | None = None,
    ) -> None:
        """`taken` is called in a thread with every CA the cluster has; it may raise StateError. `imported`,
        where what the copy holds is to be in the cluster first, when it is.
        """
        self.store = store
        self._log = log
        self._taken = taken
        self._imported = imported
        self._importing = ""  # a sentence while the import does not get on
        self._ca_problem = ""
        self._spoiled: dict[str, str] = {}  # object: what is wrong with it
        self._nodes: dict[str, tuple[ConfigMap | None, ConfigMap | None]] = {}  # object: last known, now
        self._doubtful: set[str] = set()  # nodes to be asked about: gone by the watch, written by us since
        self._secrets = False  # whether one has changed
        self._news = trio.Event()
        self.nodes: Cache[ConfigMap] = Cache(
            store.client,
            CONFIG_MAPS,
            namespace=store.namespace,
            selector=LABEL,
            changed=self._node_changed,
            log=log,
        )
        self.secrets: Cache[Secret] = Cache(
            store.client,
            SECRETS,
            namespace=store.namespace,
            selector=LABEL,
            changed=self._secret_changed,
            log=log,
        )
        self.queue: Queue[str] = Queue(self._write, log=log)
        self._registry: KubernetesRegistry | None = None

    def call(self, do: Callable[[Store], Awaitable[T]]) -> T:
        """As `raven.registry.kubernetes.Call` promises, in a thread of `trio.to_thread`."""
        try:
            return trio.from_thread.run(partial(self._bounded, do))
        except trio.TooSlowError as error:
            raise RegistryAwayError from error
        except KubeError as error:
            if error.reason in _AWAY:
                self._log.warning("the registry was not asked", why=str(error))
                raise RegistryAwayError from error
            raise StateError(str(error)) from error

    async def _bounded(self, do: Callable[[Store], Awaitable[T]]) -> T:
        with trio.fail_after(CALL_MAX):
            return await do(self.store)

    def problems(self) -> list[str]:
        """Sentences an operator should read."""
        told = list(self._spoiled.values())
        if self._importing:
            told.append(f"this gateway's own registry is not in the cluster yet: {self._importing}")
        if self._ca_problem:
            told.append(self._ca_problem)
        if problem := self.nodes.problem or self.secrets.problem:
            age = max(self.nodes.age(), self.secrets.age())
            told.append(
                f"the cluster's registry was not heard for {age:.0f} s; joins, renewals and commands wait:"
                f" {problem}"
            )
        for node, why in list(self.queue.problems.items())[:1]:
            told.append(f"what node {node} says of itself is not in the cluster's registry yet: {why}")
        return told

    async def run(self, registry: KubernetesRegistry) -> None:
        """Until cancelled."""
        self._registry = registry
        token = trio.lowlevel.current_trio_token()
        if self._imported is not None:
            await self._import(registry, self._imported)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.nodes.run)
            nursery.start_soon(self.secrets.run)
            await self.nodes.synced.wait()
            await self.secrets.synced.wait()
            self._doubtful.update(await self._copied(partial(self._copy_all, registry)))
            registry.on_note = lambda node: token.run_sync_soon(self.queue.add, node)
            for node in registry.noted():
                self.queue.add(node)
            nursery.start_soon(self.queue.run)
            while True:
                await self._reread(registry)
                with trio.move_on_after(AGAIN if self._doubtful else math.inf):
                    await self._news.wait()
                await trio.sleep(SETTLE)
                self._news = trio.Event()
                changed, self._nodes = self._nodes, {}
                secrets, self._secrets = self._secrets, False
                copied = partial(self._copy, registry, changed, secrets=secrets)
                self._doubtful.update(await self._copied(copied))

    # What the API server tells

    def _node_changed(self, before: ConfigMap | None, after: ConfigMap | None) -> None:
        obj = after or before
        assert obj is not None
        self._nodes[obj.metadata.name] = before, after
        self._news.set()

    def _secret_changed(self, before: Secret | None, after: Secret | None) -> None:
        obj = after or before
        if obj is not None and kind_of(obj) in ("credential", "ca"):
            self._secrets = True
            self._news.set()

    async def _copied(self, copy: Callable[[], T]) -> T:
        """What `copy` returns; it runs in a thread, again and again while the disk does not take it."""
        told = ""
        while True:
            try:
                return await trio.to_thread.run_sync(copy)
            except StateError as error:
                if str(error) != told:
                    told = str(error)
                    self._log.error("registry", why=told)
                await trio.sleep(AGAIN)

    def _copy_all(self, registry: KubernetesRegistry) -> list[str]:
        self._nodes = {}  # first: what changes from now on is copied again
        objects = list(self.nodes.objects.values())
        self._take(registry, objects)
        missing = registry.missing({obj.metadata.name for obj in objects})
        doubtful = registry.forget(dict.fromkeys(missing, 0), now=time.time())
        self._copy_secrets(registry)
        return doubtful

    def _copy(
        self,
        registry: KubernetesRegistry,
        changed: dict[str, tuple[ConfigMap | None, ConfigMap | None]],
        *,
        secrets: bool,
    ) -> list[str]:
        """The nodes that have to be read anew: their removal may be older than what the copy has."""
        gone: dict[str, int] = {}
        for name, (before, after) in changed.items():
            self._spoiled.pop(name, None)
            if after is None and before is not None and (node := _readable(before)) is not None:
                gone[node.name] = version_of(before)
        self._take(registry, [after for _, after in changed.values() if after is not None])
        doubtful = registry.forget(gone, now=time.time())
        if secrets:
            self._copy_secrets(registry)
        return doubtful

    def _take(self, registry: KubernetesRegistry, objects: list[ConfigMap]) -> None:
        for name, problem in registry.take(objects, now=time.time()).items():
            self._spoiled[name] = f"{problem}; its node stays as it was known before"

    def _copy_secrets(self, registry: KubernetesRegistry) -> None:
        secrets = list(self.secrets.objects.values())
        held, names, current = [], set(), None
        for obj in secrets:
            name = obj.metadata.name
            self._spoiled.pop(name, None)
            try:
                if kind_of(obj) == "credential":
                    names.add(name)
                    held.append(read_credential(obj))
                elif kind_of(obj) == "ca" and name == CA_NAME:
                    current = read_ca(obj)
            except ValueError as error:
                self._spoiled[name] = str(error)
        registry.take_credentials(held)
        registry.forget_credentials(names)
        if current is None:
            self._ca_problem = (
                f"the Secret {self.store.namespace}/{CA_NAME} is not there, or no CA: restore it, or restart"
                " a gateway, which makes it again from its copy"
            )
        else:
            try:
                self._taken(current)
                self._ca_problem = ""
            except StateError as error:
                self._ca_problem = f"the cluster's CA was not taken: {error}"

    async def _reread(self, registry: KubernetesRegistry) -> None:
        """Asks about the doubtful nodes; who gets no answer stays one."""
        for name in sorted(self._doubtful):
            try:
                obj = await self.store.client.get(
                    CONFIG_MAPS, node_object_name(name), namespace=self.store.namespace
                )
            except KubeError as error:
                if error.reason != "not-found":
                    return
                await self._copied(partial(registry.forget, {name: sys.maxsize}, now=time.time()))
            else:
                await self._copied(partial(registry.take, [obj], now=time.time()))
            self._doubtful.discard(name)

    # What the API server is told

    async def _write(self, name: str) -> None:
        """Writes what was heard of a node, if its object says something else."""
        registry = self._registry
        assert registry is not None
        noted = registry.noted().get(name)
        if noted is None:
            return
        obj = self.nodes.get(f"{self.store.namespace}/{node_object_name(name)}")
        if obj is None:
            if registry.node(name) is not None:
                raise KubeError("conflict", f"node {name} has joined just now")  # its object is on its way
            registry.written(name, noted)
            return
        try:
            after = await self.store.note(obj, noted)
        except ValueError as error:
            raise KubeError("invalid", str(error)) from error
        if after is not obj:
            await trio.to_thread.run_sync(lambda: registry.take([after], now=time.time()))
            if self.nodes.get(after.metadata.key) is None:  # gone meanwhile, and perhaps since before that
                self._doubtful.add(name)
                self._news.set()
        registry.written(name, noted)

    async def _import(self, registry: KubernetesRegistry, imported: Callable[[], None]) -> None:
        while True:
            try:
                nodes, tokens, credentials = await trio.to_thread.run_sync(registry.export)
                await self._create_all(nodes)
                for token in tokens:
                    if token.role == "node" and token.expires > time.time():
                        await self.store.import_token(token)
                for credential in credentials:
                    await self.store.import_credential(credential)
                await trio.to_thread.run_sync(imported)
                self._importing = ""
                self._log.info("imported", nodes=len(nodes), credentials=len(credentials))
                return
            except* (KubeError, StateError) as group:
                why = str(group.exceptions[0])
            if why != self._importing:
                self._log.warning("not imported yet", why=why)
            self._importing = why
            await trio.sleep(AGAIN * (0.5 + random.random()))

    async def _create_all(self, nodes: list[SharedNode]) -> None:
        limit = trio.CapacityLimiter(IMPORTERS)

        async def create(node: SharedNode) -> None:
            async with limit:
                await self.store.import_node(node)

        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(create, node)


def _readable(obj: ConfigMap) -> SharedNode | None:
    try:
        return read_node(obj)
    except ValueError:
        return None
