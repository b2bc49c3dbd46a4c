"""One of several gateways leads: it holds a Lease, renews it, and stops acting well before another may start.

The rules are client-go's: a candidate takes a Lease only after it has seen it unrenewed for a whole lease
duration *by its own monotonic clock*, so clocks that differ or jump elect nobody. The leader gives up when
it could not renew for `RENEW_WITHIN`, which is shorter. A holder that the cluster says is gone is not waited
for. Two leaders can still overlap, while one is paused or is gone only for the others; then the resource
versions in every write let one win.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
import trio
from structlog.typing import FilteringBoundLogger

from raven.kube.client import Client
from raven.kube.errors import KubeError
from raven.kube.objects import Meta, timestamp
from raven.kube.resources import LEASES, Lease, LeaseSpec

LEASE = 15.0  # seconds a Lease lasts without being renewed, as client-go has it by default
RENEW_WITHIN = 10.0  # seconds; a leader that could not renew for so long stops
RETRY = 2.0  # seconds between two looks at the Lease


@dataclass(slots=True)
class _Seen:
    """The Lease as last read, and when it first looked like that."""

    lease: Lease
    since: float  # trio.current_time()


class Elector:
    """Takes part in one election."""

    def __init__(
        self,
        client: Client,
        *,
        namespace: str,
        name: str,
        identity: str,
        wall: Callable[[], float],
        log: FilteringBoundLogger,
        jitter: Callable[[], float] = random.random,
        is_gone: Callable[[str], bool] = lambda holder: False,
    ) -> None:
        """`is_gone` tells of a holder that need not be waited for. It must not be true of two candidates
        at once, each in the other's eyes: they would take the Lease from each other for ever.
        """
        self.identity = identity
        self.leading = False
        self.problem = ""  # a sentence while it cannot take part, or when it stopped leading
        self._client, self._namespace, self._name = client, namespace, name
        self._wall, self._jitter, self._is_gone = wall, jitter, is_gone
        self._seen: _Seen | None = None
        self._log = log

    @property
    def leader(self) -> str:
        """Who leads, as far as was seen; "" for nobody."""
        return (self._seen.lease.spec.holder_identity or "") if self._seen else ""

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Runs `lead` whenever this one leads, and cancels it when it does not any more; until cancelled.

        Cancelled, it gives the Lease back, so that another need not wait.
        """
        while True:
            await self._acquire()
            self.leading = True
            self._log.info("leading", lease=self._name)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(lead)
                    await self._renew_while_it_works()
                    nursery.cancel_scope.cancel()
                self._log.warning("no longer leading", lease=self._name, why=self.problem)
            finally:
                self.leading = False
                with trio.move_on_after(RETRY, shield=True):
                    await self._release()

    async def _acquire(self) -> None:
        while not await self._try():  # noqa: ASYNC110 -- the Lease is in the API server
            await trio.sleep(RETRY * (1 + 0.2 * self._jitter()))

    async def _renew_while_it_works(self) -> None:
        renewed = trio.current_time()
        while trio.current_time() < renewed + RENEW_WITHIN:
            await trio.sleep(RETRY)
            began = trio.current_time()
            with trio.move_on_at(renewed + RENEW_WITHIN):
                if await self._try():
                    renewed = began  # when it was asked for: the answer may have taken long
                elif self.leader not in ("", self.identity):
                    self.problem = f"{self.leader} has taken the Lease"
                    return

    async def _try(self) -> bool:
        """One attempt to take or renew; whether we hold it now."""
        if self.leading and self._seen is not None and self.leader == self.identity:
            # Who leads knows what the Lease looks like. If not, the resource version tells.
            lease: Lease | None = self._seen.lease
        else:  # a candidate, or a leader that has met another's write
            try:
                lease = await self._client.get(LEASES, self._name, namespace=self._namespace)
            except KubeError as error:
                if error.reason != "not-found":
                    return self._failed(error)
                lease = None
        try:
            if lease is None:
                fresh = Lease(
                    metadata=Meta(name=self._name, namespace=self._namespace), spec=self._spec(LeaseSpec())
                )
                self._note(await self._client.create(LEASES, fresh))
            else:
                self._note(lease)
                assert self._seen is not None
                if not self._may_take(self._seen):
                    self.problem = ""
                    return False
                taken = msgspec.structs.replace(lease, spec=self._spec(lease.spec))
                self._note(await self._client.patch(LEASES, lease, taken))
        except KubeError as error:
            return self._failed(error)
        self.problem = ""
        return True

    def _may_take(self, seen: _Seen) -> bool:
        holder = seen.lease.spec.holder_identity
        if not holder or holder == self.identity or self._is_gone(holder):
            return True
        life = max(LEASE, float(seen.lease.spec.lease_duration_seconds or 0))
        return trio.current_time() >= seen.since + life

    def _spec(self, old: LeaseSpec) -> LeaseSpec:
        now = timestamp(self._wall(), micro=True)
        same = old.holder_identity == self.identity
        return LeaseSpec(
            holder_identity=self.identity,
            lease_duration_seconds=int(LEASE),
            acquire_time=old.acquire_time if same else now,
            renew_time=now,
            lease_transitions=(old.lease_transitions or 0) + (0 if same or not old.holder_identity else 1),
        )

    def _note(self, lease: Lease) -> None:
        if self._seen is None or self._seen.lease.spec != lease.spec:
            self._seen = _Seen(lease, trio.current_time())
        else:
            self._seen.lease = lease

    def _failed(self, error: KubeError) -> bool:
        if error.reason not in ("conflict", "exists"):  # those are the election, and another's turn
            if str(error) != self.problem:
                self._log.warning("lease", why=str(error))
            self.problem = str(error)
        if error.reason in ("conflict", "not-found"):
            self._seen = None  # it is not what we thought: read it
        return False

    async def _release(self) -> None:
        """A Lease of one second that nobody holds, if we still do."""
        if self._seen is None or self.leader != self.identity:
            return
        lease = self._seen.lease
        free = msgspec.structs.replace(
            lease,
            spec=msgspec.structs.replace(lease.spec, holder_identity="", lease_duration_seconds=1),
        )
        try:
            self._note(await self._client.patch(LEASES, lease, free))
        except KubeError as error:
            self.problem = str(error)
