"""The registry that the gateways of a Kubernetes cluster share, as one of them sees it.

Reads answer from this gateway's copy in registry.sqlite, so that everything established goes on while the API
server is away. What has to be decided once for the cluster (joins, renewals, tokens, removals) goes to the
`Store`, and comes back into the copy before the call returns. What a node tells about itself is copied at
once, and written to the cluster when there is time. The audit is this gateway's own.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Protocol, TypeVar

from raven.errors import RefusedError
from raven.keys import PublicKey
from raven.kube.resources import ConfigMap
from raven.registry import kubernetes_copy as copy
from raven.registry.interface import (
    AuditRecord,
    CertificateRecord,
    CredentialRecord,
    Issue,
    TokenRecord,
)
from raven.registry.kubernetes_node import Noted, Said, SharedNode
from raven.registry.kubernetes_objects import node_object_name, read_node, secret_name
from raven.registry.kubernetes_store import Store, Written
from raven.registry.sqlite import SqliteRegistry

T = TypeVar("T")
ENDED_MAX: Final = (
    1000  # answers to our own writes are seconds late at most; so many nodes do not go in that time
)


class Call(Protocol):
    """Has the store do something while the thread waits; RegistryAwayError, RefusedError, StateError."""

    def __call__(self, do: Callable[[Store], Awaitable[T]]) -> T: ...


class RegistryAwayError(RefusedError):
    """The API server cannot be asked now; what was asked for may be asked for again."""

    def __init__(self) -> None:
        super().__init__(
            "registry-away",
            "the API server, which holds this cluster's registry, cannot be reached from this gateway now;"
            " try again",
        )


class KubernetesRegistry(SqliteRegistry):
    """A `Registry` whose calls that promise durability wait for the API server: never on the event loop."""

    def __init__(self, path: Path, *, now: float, call: Call, create: bool = True) -> None:
        super().__init__(path, now=now, create=create)
        self.on_note: Callable[[str], None] = lambda node: None  # told whenever `noted` has something new
        self._call = call
        self._lock = threading.Lock()
        self._noted: dict[str, Noted] = {}
        self._versions: dict[str, int] = {}  # resource version of each node's object in the copy
        self._ended: dict[str, int] = {}  # the same of objects that are gone, the last ENDED_MAX

    # What nodes say

    def record_hello(
        self,
        name: str,
        *,
        public_key: PublicKey | None,
        pod_cidrs: Sequence[str],
        software: str,
        now: float,
        address: str = "",
    ) -> None:
        super().record_hello(
            name, public_key=public_key, pod_cidrs=pod_cidrs, software=software, now=now, address=address
        )
        self._note(name, Noted(said=Said.of(public_key, pod_cidrs, software=software, address=address)))

    def record_use(self, *, node: str, serial: str, now: float) -> None:
        super().record_use(node=node, serial=serial, now=now)
        self._note(node, Noted(used=(serial, now)))

    def noted(self) -> dict[str, Noted]:
        """What was heard of nodes since, and may not be in the cluster yet."""
        with self._lock:
            return dict(self._noted)

    def written(self, node: str, noted: Noted) -> None:
        """Called when the cluster has that; what was heard meanwhile stays noted."""
        with self._lock:
            if self._noted.get(node) is noted:
                del self._noted[node]

    def _note(self, node: str, noted: Noted) -> None:
        with self._lock:
            self._noted[node] = noted.after(self._noted.get(node))
        self.on_note(node)

    # What is decided once for the cluster

    def enrol(
        self,
        *,
        token_id: str,
        secret: bytes,
        node: str,
        key_hash: bytes,
        now: float,
        issue: Issue,
        asker: str = "",
    ) -> CertificateRecord:
        joined = partial(
            Store.enrol,
            token_id=token_id,
            secret=secret,
            node=node,
            key_hash=key_hash,
            now=now,
            issue=issue,
        )
        return self._issued(self._call(joined), "join", token_id, asker=asker, now=now)

    def admit(
        self, node: str, *, key_hash: bytes, now: float, issue: Issue, asker: str = ""
    ) -> CertificateRecord:
        """The certificate of a node that the cluster itself vouches for; its earlier ones end. Durable."""
        admitted = partial(Store.admit, node=node, key_hash=key_hash, now=now, issue=issue)
        return self._issued(self._call(admitted), "join", "", asker=asker, now=now)

    def renew(
        self,
        *,
        node: str,
        serial: str,
        key_hash: bytes,
        now: float,
        issue: Issue,
        asker: str = "",
        due: bool = False,
    ) -> CertificateRecord:
        renewed = partial(
            Store.renew, node=node, serial=serial, key_hash=key_hash, now=now, issue=issue, due=due
        )
        written = self._call(renewed)
        return self._issued(written, "renew", written.certificate.serial, asker=asker, now=now)

    def allow_pods(self, name: str, cidrs: Sequence[str]) -> bool:
        obj = self._call(lambda store: store.allow_pods(name, tuple(cidrs)))
        if obj is not None:
            self.take([obj], now=time.time())
        return obj is not None

    def remove_node(self, name: str, *, now: float) -> bool:
        there = self._call(lambda store: store.remove_node(name))
        # Even where the cluster did not have it: then this copy should not either.
        return super().remove_node(name, now=now) or there

    def add_token(self, token: TokenRecord) -> None:
        if token.role != "node":
            raise _no_followers()
        self._call(lambda store: store.add_token(token))

    def tokens(self) -> list[TokenRecord]:
        records = [held.record for _, held in self._call(lambda store: store.tokens())]
        return sorted(records, key=lambda token: (-token.created, token.id))

    def remove_token(self, token_id: str) -> bool:
        return self._call(lambda store: store.remove_token(token_id))

    def add_credential(self, credential: CredentialRecord) -> None:
        self._call(lambda store: store.add_credential(credential))
        self.take_credentials([credential])

    def revoke_credential(self, credential_id: str, *, now: float) -> bool:
        revoked = self._call(lambda store: store.revoke_credential(credential_id, now=now))
        if revoked is not None:
            self.take_credentials([revoked])
        return revoked is not None

    def enrol_gateway(
        self,
        *,
        token_id: str,
        secret: bytes,
        name: str,
        address: str,
        key_hash: bytes,
        now: float,
        asker: str = "",
    ) -> None:
        raise _no_followers()

    def remove_gateway(self, name: str, *, now: float) -> bool:
        raise RefusedError(
            "listed-elsewhere",
            f"the Gateways in Kubernetes say which gateways agents dial; take {name} out of theirs",
        )

    def _issued(
        self, written: Written, event: str, target: str, *, asker: str, now: float
    ) -> CertificateRecord:
        certificate, obj = written
        self.take([obj], now=now)
        self.append_audit(
            [
                AuditRecord(
                    time=now,
                    event=event,
                    node=certificate.node,
                    asker=asker,
                    target=target,
                    verdict="allowed",
                )
            ]
        )
        return certificate

    # The copy

    def take(self, objects: Iterable[ConfigMap], *, now: float) -> dict[str, str]:
        """Copies nodes' objects; what is wrong with those that cannot be used, whose nodes stay as they were.

        An object that is older than what the copy has is left alone, and so is one that is gone since: an
        answer to our own write may come after the word that the node was removed.
        """
        nodes, spoiled = [], {}
        for obj in objects:
            try:
                node = read_node(obj)
            except ValueError as error:
                spoiled[obj.metadata.name] = str(error)
                continue
            with self._lock:
                version = version_of(obj)
                if version >= self._versions.get(node.name, 0) and version > self._ended.get(node.name, -1):
                    self._versions[node.name] = version
                    known = self._noted.get(node.name)
                    nodes.append(node if known is None else known.on(node))
        if nodes:
            with self._database.transaction(durable=False) as connection:
                for node in nodes:
                    copy.put_node(connection, node, now=now)
        return spoiled

    def forget(self, nodes: Mapping[str, int], *, now: float) -> list[str]:
        """Removes nodes whose objects are gone; each with the version of the object that is.

        Returns those left alone, because the copy has them from a newer object than that.
        """
        with self._lock:
            gone = [name for name, version in nodes.items() if version >= self._versions.get(name, 0)]
            for name in gone:
                # Whoever asked and was told that there is none names no version.
                told = 0 if nodes[name] == sys.maxsize else nodes[name]
                self._ended[name] = max(self._versions.pop(name, 0), self._ended.pop(name, 0), told)
                self._noted.pop(name, None)
            while len(self._ended) > ENDED_MAX:
                del self._ended[next(iter(self._ended))]
        if gone:
            with self._database.transaction(durable=False) as connection:
                for name in gone:
                    copy.remove_node(connection, name, now=now)
        return [name for name in nodes if name not in gone]

    def missing(self, object_names: set[str]) -> list[str]:
        """The nodes of the copy that have no object of these names."""
        return [node.name for node in self.nodes() if node_object_name(node.name) not in object_names]

    def take_credentials(self, records: Sequence[CredentialRecord]) -> None:
        if records:
            with self._database.transaction(durable=False) as connection:
                for record in records:
                    copy.put_credential(connection, record)

    def forget_credentials(self, object_names: set[str]) -> None:
        """Removes those that have no object of these names."""
        gone = [
            record.id
            for record in self.credentials()
            if secret_name("credential", record.id) not in object_names
        ]
        if gone:
            with self._database.transaction(durable=False) as connection:
                for credential_id in gone:
                    copy.remove_credential(connection, credential_id)

    def export(self) -> tuple[list[SharedNode], list[TokenRecord], list[CredentialRecord]]:
        """All that the directory holds, for a cluster that has no registry yet."""
        return copy.export_nodes(self._database), super().tokens(), self.credentials()


def _no_followers() -> RefusedError:
    return RefusedError(
        "no-followers", "the gateways of this cluster share its registry in Kubernetes, and do not join"
    )


def version_of(obj: ConfigMap) -> int:
    """Opaque by contract; numbers of one counter in etcd. Others are all taken for equally new."""
    text = obj.metadata.resource_version
    return int(text) if text.isdigit() else 0
