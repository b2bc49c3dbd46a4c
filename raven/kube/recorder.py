"""Tells what was done in Events, where `kubectl describe` shows it. The same thing again only raises a count.

Events are a courtesy: one that cannot be written is dropped, and nobody waits for it.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

import trio
from structlog.typing import FilteringBoundLogger

from raven.kube.client import Client
from raven.kube.errors import KubeError
from raven.kube.objects import Kind, Meta, Resource, timestamp
from raven.kube.resources import EVENTS, Event, EventSource, ObjectReference

WAITING_MAX = 256  # Events not yet sent; past it they are dropped, as an API server that is away gets none
REMEMBERED_MAX = 2048  # Events whose count can go up; at 200 bytes each
REPEAT = 300.0  # seconds between two counts of the same: a thing that flaps shall not fill etcd
COMPONENT = "raven-gateway"
_MESSAGE_MAX = 1024  # characters; the API server's own bound


class Recorder:
    """Sends Events one after the other in `run`."""

    def __init__(
        self, client: Client, *, instance: str, wall: Callable[[], float], log: FilteringBoundLogger
    ) -> None:
        self.dropped = 0
        self._client, self._instance, self._wall, self._log = client, instance, wall, log
        self._send, self._receive = trio.open_memory_channel[Event](WAITING_MAX)
        self._sent: OrderedDict[str, tuple[Event, float]] = OrderedDict()  # name: as it is, when

    def record(
        self,
        kind: Kind[Resource],
        about: Resource,
        type: Literal["Normal", "Warning"],
        reason: str,
        message: str,
    ) -> None:
        """Queues one Event about an object; `reason` is one word in CamelCase."""
        metadata = about.metadata
        now = timestamp(self._wall())
        digest = hashlib.sha256(f"{kind.kind}/{metadata.uid}/{reason}/{message}".encode()).hexdigest()[:16]
        event = Event(
            # Events about what has no namespace live in "default".
            metadata=Meta(name=f"{metadata.name}.{digest}", namespace=metadata.namespace or "default"),
            involved_object=ObjectReference(
                api_version=kind.api_version,
                kind=kind.kind,
                name=metadata.name,
                namespace=metadata.namespace,
                uid=metadata.uid,
            ),
            reason=reason,
            message=message[:_MESSAGE_MAX],
            type=type,
            count=1,
            source=EventSource(component=COMPONENT),
            first_timestamp=now,
            last_timestamp=now,
            reporting_component=COMPONENT,
            reporting_instance=self._instance,
        )
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            self.dropped += 1

    async def run(self) -> None:
        """Until cancelled."""
        async for event in self._receive:
            try:
                await self._tell(event)
            except KubeError as error:
                self.dropped += 1
                self._log.info("event not recorded", about=event.involved_object.name, why=str(error))

    async def _tell(self, event: Event) -> None:
        name, now = event.metadata.name, trio.current_time()
        held, since = self._sent.get(name, (None, 0.0))
        if held is None:
            try:
                self._remember(name, await self._client.create(EVENTS, event), now)
                return
            except KubeError as error:
                if error.reason != "exists":
                    raise
            held = await self._client.get(EVENTS, name, namespace=event.metadata.namespace)
            self._remember(name, held, now)
        elif now < since + REPEAT:
            return
        patch = {"count": held.count + 1, "lastTimestamp": event.last_timestamp}
        try:
            self._remember(name, await self._client.merge(EVENTS, held, patch), now)
        except KubeError as error:
            if error.reason != "not-found":  # it has expired: the next one starts anew
                raise
            del self._sent[name]

    def _remember(self, name: str, event: Event, now: float) -> None:
        self._sent[name] = event, now
        self._sent.move_to_end(name)
        if len(self._sent) > REMEMBERED_MAX:
            self._sent.popitem(last=False)
