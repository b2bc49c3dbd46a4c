"""The cluster's registry in the API server: every change a conditional write, so that of two only one wins.

A join spends its token first and writes its node then, each by the resource version that was read. Whoever
dies between leaves a token that says for which node and key it was spent: the same join once more goes on
there, at any gateway, and no other does. Nothing here keeps a copy; `kubernetes` above does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

import msgspec
import trio

from raven.kube.client import Client
from raven.kube.errors import KubeError
from raven.kube.resources import CONFIG_MAPS, SECRETS, ConfigMap, Secret
from raven.pki.renewal import renew_at
from raven.registry.interface import CertificateRecord, CredentialRecord, Issue, TokenRecord
from raven.registry.kubernetes_node import VOUCHED, Noted, SharedNode
from raven.registry.kubernetes_objects import (
    CA_NAME,
    LABEL,
    HeldToken,
    ca_data,
    ca_object,
    credential_object,
    node_object,
    node_object_name,
    read_ca,
    read_credential,
    read_node,
    read_token,
    secret_name,
    token_data,
    token_object,
    with_node,
)
from raven.registry.rules import REMEMBER, check_standing, check_token, judge_join, judge_renewal
from raven.registry.shared_ca import SharedCa

T = TypeVar("T")

TRIES = 8  # of a change that others get in the way of
PAUSE = 0.05  # seconds before the next, doubled each time, with jitter
FORGOTTEN_MAX = 50  # dead objects that one command removes on its way


class Written(NamedTuple):
    """A node's object after a change."""

    certificate: CertificateRecord
    object: ConfigMap


class _Found(NamedTuple):
    object: ConfigMap
    node: SharedNode


class Store:
    """The objects of one namespace. Raises KubeError, and RefusedError where a rule says no."""

    def __init__(self, client: Client, namespace: str, *, jitter: Callable[[], float]) -> None:
        self.client = client
        self.namespace = namespace
        self._jitter = jitter

    # Nodes

    async def enrol(
        self,
        *,
        token_id: str,
        secret: bytes,
        node: str,
        key_hash: bytes,
        now: float,
        issue: Issue,
    ) -> Written:
        """As `Registry.enrol` promises."""

        async def once() -> Written:
            obj = await self._secret(secret_name("token", token_id))
            held = _readable(read_token, obj) if obj is not None else None
            token = check_token(held.record if held is not None else None, secret, role="node")
            assert obj is not None
            assert held is not None
            found = await self._find(node)
            spent = (
                token.used_by == node
                and held.used_key == key_hash
                and not (found is not None and found.node.has_joined_by(token_id))
            )
            newest = found.node.newest() if found is not None else None
            earlier = judge_join(token, newest, node=node, key_hash=key_hash, now=now, redeemed=spent)
            if earlier is not None:
                assert found is not None
                return Written(earlier, found.object)
            if not spent:
                used = dataclasses.replace(token, uses=token.uses + 1, used=now, used_by=node)
                await self._write_secret(obj, token_data(HeldToken(used, key_hash)))
            return await self._join(found, node, token_id, token.pod_cidrs, now=now, issue=issue)

        return await self._insist(once)

    async def admit(self, node: str, *, key_hash: bytes, now: float, issue: Issue) -> Written:
        """The certificate of a node that the cluster vouches for; its earlier ones end.

        The same once more gets the same, as long as it need not be renewed.
        """

        async def once() -> Written:
            found = await self._find(node)
            if found is not None:
                last = found.node.newest()
                earlier = last.certificate
                if (
                    earlier is not None
                    and (last.token_id, earlier.key_hash) == (VOUCHED, key_hash)
                    and now < renew_at(earlier.not_before, earlier.not_after)
                ):
                    return Written(earlier, found.object)
            return await self._join(found, node, VOUCHED, (), now=now, issue=issue)

        return await self._insist(once)

    async def renew(
        self, *, node: str, serial: str, key_hash: bytes, now: float, issue: Issue, due: bool
    ) -> Written:
        """As `Registry.renew` promises."""

        async def once() -> Written:
            found = await self._find(node)
            shown = check_standing(
                found.node.find(serial) if found is not None else None, node=node, known=found is not None
            )
            assert found is not None
            newest = found.node.newest().certificate
            assert newest is not None
            earlier = judge_renewal(shown, newest, node=node, key_hash=key_hash, now=now, due=due)
            if earlier is not None:
                return Written(earlier, found.object)
            certificate = issue(node)
            changed = found.node.renewed(certificate, shown=serial, now=now)
            return Written(certificate, await self._write_node(found.object, changed))

        return await self._insist(once)

    async def allow_pods(self, name: str, cidrs: tuple[str, ...]) -> ConfigMap | None:
        """None where there is no such node."""

        async def once() -> ConfigMap | None:
            found = await self._find(name)
            if found is None:
                return None
            return await self._write_node(found.object, msgspec.structs.replace(found.node, pod_allow=cidrs))

        return await self._insist(once)

    async def remove_node(self, name: str) -> bool:
        """False where there is no such node. A token that it was about to join with is spent for good."""
        for obj, held in await self.tokens():
            if held.record.used_by == name and held.used_key and not held.record.reusable:
                await self._settle(obj.metadata.name)
        try:
            obj_ = await self.client.get(CONFIG_MAPS, node_object_name(name), namespace=self.namespace)
        except KubeError as error:
            if error.reason == "not-found":
                return False
            raise
        await self.client.delete(CONFIG_MAPS, obj_)
        return True

    async def note(self, obj: ConfigMap, noted: Noted) -> ConfigMap:
        """The object with what was heard of its node; KubeError "conflict" when `obj` is not the newest."""
        before = read_node(obj)
        after = noted.on(before)
        return obj if after == before else await self._write_node(obj, after)

    async def import_node(self, node: SharedNode) -> None:
        """Creates the node unless there is one of that name."""
        await self._create_if_absent(
            self.client.create(CONFIG_MAPS, node_object(node, namespace=self.namespace))
        )

    # Tokens and credentials

    async def add_token(self, token: TokenRecord) -> None:
        await self.client.create(SECRETS, token_object(HeldToken(token), namespace=self.namespace))
        dead = [obj for obj, held in await self.tokens() if held.record.expires < token.created - REMEMBER]
        await self._forget(dead)

    async def tokens(self) -> list[tuple[Secret, HeldToken]]:
        """Every one that can be read."""
        return [(obj, held) for obj in await self._secrets("token") if (held := _readable(read_token, obj))]

    async def remove_token(self, token_id: str) -> bool:
        obj = await self._secret(secret_name("token", token_id))
        if obj is not None:
            await self.client.delete(SECRETS, obj)
        return obj is not None

    async def import_token(self, token: TokenRecord) -> None:
        new = token_object(HeldToken(token), namespace=self.namespace)
        await self._create_if_absent(self.client.create(SECRETS, new))

    async def add_credential(self, record: CredentialRecord) -> None:
        await self.client.create(SECRETS, credential_object(record, namespace=self.namespace))
        await self._forget(
            [
                obj
                for obj in await self._secrets("credential")
                if (held := _readable(read_credential, obj)) and held.expires < record.created - REMEMBER
            ]
        )

    async def import_credential(self, record: CredentialRecord) -> None:
        new = credential_object(record, namespace=self.namespace)
        await self._create_if_absent(self.client.create(SECRETS, new))

    async def credentials(self) -> list[CredentialRecord]:
        """Every one that can be read."""
        found = (_readable(read_credential, obj) for obj in await self._secrets("credential"))
        return [record for record in found if record is not None]

    async def revoke_credential(self, credential_id: str, *, now: float) -> CredentialRecord | None:
        """What it is now; None where there is none, or it was revoked before."""

        async def once() -> CredentialRecord | None:
            obj = await self._secret(secret_name("credential", credential_id))
            record = _readable(read_credential, obj) if obj is not None else None
            if obj is None or record is None or record.revoked is not None:
                return None
            revoked = dataclasses.replace(record, revoked=now)
            await self._write_secret(obj, credential_object(revoked, namespace=self.namespace).data)
            return revoked

        return await self._insist(once)

    # The CA

    async def ca(self) -> SharedCa | None:
        """None where there is none yet. KubeError "unreadable" for one that is no CA."""
        obj = await self._secret(CA_NAME)
        return None if obj is None else _shared_ca(obj)

    async def create_ca(self, ca: SharedCa) -> tuple[SharedCa, bool]:
        """The cluster's CA, and whether it is this one: the first gateway's wins."""
        try:
            await self.client.create(SECRETS, ca_object(ca, namespace=self.namespace))
        except KubeError as error:
            if error.reason != "exists":
                raise
            found = await self.ca()
            if found is None:
                raise
            return found, False
        return ca, True

    async def change_ca(self, change: Callable[[SharedCa], SharedCa]) -> SharedCa:
        """Replaces the CA by what `change` makes of it; KubeError "not-found" where there is none."""

        async def once() -> SharedCa:
            obj = await self.client.get(SECRETS, CA_NAME, namespace=self.namespace)
            changed = change(_shared_ca(obj))
            await self._write_secret(obj, ca_data(changed))
            return changed

        return await self._insist(once)

    # Below: one object each

    async def _join(
        self,
        found: _Found | None,
        node: str,
        token_id: str,
        pod_cidrs: tuple[str, ...],
        *,
        now: float,
        issue: Issue,
    ) -> Written:
        certificate = issue(node)
        before = found.node if found is not None else SharedNode(name=node, created=now)
        changed = before.rejoined(certificate, token=token_id, pod_allow=pod_cidrs, now=now)
        if found is not None:
            return Written(certificate, await self._write_node(found.object, changed))
        new = node_object(changed, namespace=self.namespace)
        return Written(certificate, await self.client.create(CONFIG_MAPS, new))

    async def _find(self, name: str) -> _Found | None:
        try:
            obj = await self.client.get(CONFIG_MAPS, node_object_name(name), namespace=self.namespace)
        except KubeError as error:
            if error.reason == "not-found":
                return None
            raise
        try:
            return _Found(obj, read_node(obj))
        except ValueError as error:
            raise KubeError("unreadable", str(error)) from error

    async def _write_node(self, obj: ConfigMap, node: SharedNode) -> ConfigMap:
        return await self.client.patch(CONFIG_MAPS, obj, with_node(obj, node))

    async def _secret(self, name: str) -> Secret | None:
        try:
            return await self.client.get(SECRETS, name, namespace=self.namespace)
        except KubeError as error:
            if error.reason == "not-found":
                return None
            raise

    async def _secrets(self, kind: str) -> list[Secret]:
        selector = f"{LABEL}={kind}"
        return (await self.client.list(SECRETS, namespace=self.namespace, selector=selector)).items

    async def _write_secret(self, obj: Secret, data: dict[str, str]) -> Secret:
        return await self.client.patch(SECRETS, obj, msgspec.structs.replace(obj, data=data))

    async def _settle(self, name: str) -> None:
        """Nobody goes on with a join that had spent this token."""

        async def once() -> None:
            obj = await self.client.get(SECRETS, name, namespace=self.namespace)
            held = read_token(obj)
            await self._write_secret(obj, token_data(HeldToken(held.record)))

        await self._insist(once)

    async def _forget(self, objects: list[Secret]) -> None:
        for obj in objects[:FORGOTTEN_MAX]:
            await self.client.delete(SECRETS, obj)

    async def _create_if_absent(self, creation: Awaitable[object]) -> None:
        try:
            await creation
        except KubeError as error:
            if error.reason != "exists":
                raise

    async def _insist(self, once: Callable[[], Awaitable[T]]) -> T:
        """Reads and writes again while others write between; KubeError "conflict" when they do not let up."""
        pause = PAUSE
        for _ in range(TRIES - 1):
            try:
                return await once()
            except KubeError as error:
                if error.reason not in ("conflict", "exists"):
                    raise
            await trio.sleep(pause * (0.5 + self._jitter()))
            pause *= 2
        return await once()


def _shared_ca(obj: Secret) -> SharedCa:
    try:
        return read_ca(obj)
    except ValueError as error:
        raise KubeError("unreadable", str(error)) from error


def _readable(read: Callable[[Secret], T], obj: Secret) -> T | None:
    """None for an object that somebody spoiled: it counts as one that is not there."""
    try:
        return read(obj)
    except ValueError:
        return None
