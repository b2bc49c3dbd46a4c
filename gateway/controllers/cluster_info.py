"""Keeps the ConfigMap that joining edges read at what the gateways are: cluster, CA, addresses.

Level-triggered like the other controllers: whoever changes or deletes it finds it back as it shall be, and
what others put beside our keys stays.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from structlog.typing import FilteringBoundLogger

from raven.kube.client import Client
from raven.kube.cluster_info import NAME, NAMESPACE, ClusterInfo
from raven.kube.objects import Meta
from raven.kube.resources import CONFIG_MAPS, ConfigMap
from raven.kube.watch import Cache


class ClusterInfoReconciler:
    """`wanted` is asked each time; it is quick and may change whenever it likes."""

    def __init__(
        self, client: Client, *, wanted: Callable[[], ClusterInfo], log: FilteringBoundLogger
    ) -> None:
        self._client, self._wanted = client, wanted
        self.cache = Cache(
            client, CONFIG_MAPS, namespace=NAMESPACE, field_selector=f"metadata.name={NAME}", log=log
        )

    def is_due(self) -> bool:
        """Whether what is there, as far as it was heard, differs from what shall be."""
        return self.cache.synced.is_set() and not self._is_there(self._held())

    async def __call__(self) -> str:
        """What was done, for the log; "" for nothing."""
        held, data = self._held(), self._wanted().data()
        if not self.cache.synced.is_set() or self._is_there(held):
            return ""
        if held is None:
            meta = Meta(name=NAME, namespace=NAMESPACE)
            made = await self._client.create(CONFIG_MAPS, ConfigMap(metadata=meta, data=data))
        else:
            new = msgspec.structs.replace(held, data={**held.data, **data})
            made = await self._client.patch(CONFIG_MAPS, held, new)
        self.cache.took(made)
        return f"published {NAMESPACE}/{NAME}"

    def _held(self) -> ConfigMap | None:
        return self.cache.get(f"{NAMESPACE}/{NAME}")

    def _is_there(self, held: ConfigMap | None) -> bool:
        return held is not None and self._wanted().data().items() <= held.data.items()
