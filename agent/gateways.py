"""The gateways this agent keeps tunnels to: those configured, and those that any of them tells of.

The newest list counts, whoever tells it, and is kept in the state directory, so that a restart works while
the configured gateway is away. One tunnel leads to each gateway, whatever number of addresses do: behind a
load balancer all have the same one. Who a gateway is says its certificate, never the list. A list whose
addresses nobody answers must not cost the node: then the addresses of the join count as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec
import trio

from agent.uplink import Uplink
from raven import log
from raven.config import Address, parse_dial
from raven.control.messages import GatewayList
from raven.errors import StateError
from raven.registry import files

LIST_FILE = "gateways.json"
STRANDED = 30.0  # seconds without a tunnel; a gateway that restarts is back before
_LOOK = 10.0  # seconds between two looks whether there is one

Place = tuple[Address, int]  # an address, and which of the gateways behind it


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    """gateways.json."""

    cluster: str
    told: GatewayList


class Gateways:
    """The uplinks of one agent; `make` gives the one to an address."""

    def __init__(
        self,
        configured: Sequence[Address],
        *,
        joined: Sequence[Address],
        cluster: str,
        state_dir: Path,
        make: Callable[[Address], Uplink],
        drain_seconds: float,
    ) -> None:
        """`joined` are the addresses told at the join; they count until a gateway has told a list, and again
        when no gateway has been reached for STRANDED seconds.
        """
        self._log = log.get("gateways")
        self._configured = tuple(configured)
        self._cluster = cluster
        self._path = state_dir / LIST_FILE
        self._make = make
        self._drain_seconds = drain_seconds
        self._told = self._kept = self._load()
        self._fallback = tuple(joined)
        self._joined = () if self._told is not None else self._fallback  # those that count now
        self._uplinks: dict[Place, Uplink] = {}
        self._changed = trio.Event()
        self._follow()

    @property
    def uplinks(self) -> list[Uplink]:
        return list(self._uplinks.values())

    def learn(self, told: GatewayList) -> None:
        """Called with every list a gateway tells; an older one, or none at all, changes nothing.

        Unless the newest led nowhere: whoever told it may have made up its revision as well.
        """
        if not told.gateways:
            return
        if (newest := self._told) is not None and told.revision <= newest.revision:
            led_nowhere = bool(self._joined)
            if not led_nowhere or told.gateways == newest.gateways:
                return
        self._told, self._joined = told, ()
        self._change()

    async def run(self) -> None:
        """Keeps a tunnel to each gateway until cancelled."""
        running: dict[Place, tuple[Uplink, trio.CancelScope]] = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_list)
            nursery.start_soon(self._fall_back)
            while True:
                changed = self._changed
                for place, uplink in self._uplinks.items():
                    if place not in running:
                        running[place] = uplink, trio.CancelScope()
                        nursery.start_soon(self._run_one, *running[place])
                for place in running.keys() - self._uplinks.keys():
                    nursery.start_soon(self._leave, *running.pop(place))
                await changed.wait()

    async def drain(self) -> None:
        """Tells every gateway that we go away and lets the streams finish; the caller bounds it."""
        async with trio.open_nursery() as nursery:
            for uplink in self._uplinks.values():
                nursery.start_soon(uplink.drain, "the agent is shutting down")

    async def _run_one(self, uplink: Uplink, scope: trio.CancelScope) -> None:
        with scope:
            await uplink.run()

    async def _leave(self, uplink: Uplink, scope: trio.CancelScope) -> None:
        """Gives the streams of a gateway that was taken off the list the time that a drain has."""
        with trio.move_on_after(self._drain_seconds):
            await uplink.drain("the gateway is not on the list any more")
        scope.cancel()

    async def _fall_back(self) -> None:
        """Counts the addresses of the join when nobody is reached, until a gateway tells a newer list."""
        reached = trio.current_time()
        while self._fallback:
            await trio.sleep(_LOOK)
            if self._joined or any(uplink.tunnel is not None for uplink in self.uplinks):
                reached = trio.current_time()
            elif trio.current_time() - reached >= STRANDED:
                self._log.warning(
                    "no gateway of the list is reached: the addresses of the join count as well",
                    seconds=round(trio.current_time() - reached),
                )
                self._joined = self._fallback
                self._change()

    def _change(self) -> None:
        self._follow()
        self._changed.set()
        self._changed = trio.Event()

    def _follow(self) -> None:
        """Makes the uplinks those that are wanted; the ones that stay are not touched."""
        wanted = self._places()
        for place in [place for place in self._uplinks if place not in wanted]:
            self._log.info("gateway left the list", gateway=str(place[0]))
            del self._uplinks[place]
        for place, name in wanted.items():
            if place not in self._uplinks:
                self._log.info("gateway to dial", gateway=str(place[0]), name=name)
                self._uplinks[place] = self._make(place[0])
            self._uplinks[place].expected = name

    def _places(self) -> dict[Place, str]:
        """As many uplinks to an address as there are gateways behind it, configured ones first.

        With the name of who is expected there; "" where it is not known, or one of several.
        """
        names: dict[Address, list[str]] = {address: [] for address in (*self._configured, *self._joined)}
        for gateway in self._told.gateways if self._told is not None else ():
            try:
                names.setdefault(parse_dial(gateway.address), []).append(gateway.name)
            except ValueError as error:
                self._log.warning(
                    "a gateway of the list cannot be dialled", name=gateway.name, why=str(error)
                )
        return {
            (address, turn): behind[0] if len(behind) == 1 else ""
            for address, behind in names.items()
            for turn in range(max(1, len(behind)))
        }

    def _load(self) -> GatewayList | None:
        if not self._path.exists():
            return None
        try:
            kept = msgspec.json.decode(files.read(self._path), type=_Kept)
        except (StateError, msgspec.DecodeError, RecursionError) as error:
            # As good as none: the gateway of the join tells it again.
            self._log.warning(
                "the kept list of gateways cannot be used", file=str(self._path), why=str(error)
            )
            return None
        return kept.told if kept.cluster == self._cluster else None

    async def _keep_list(self) -> None:
        """Writes each new list; of several that come while the disk is busy, the last."""
        while True:
            changed = self._changed
            if (newest := self._told) is not self._kept and newest is not None:
                self._kept = newest
                data = msgspec.json.encode(_Kept(cluster=self._cluster, told=newest))
                try:
                    await trio.to_thread.run_sync(partial(files.write, self._path, data))
                except StateError as error:
                    self._log.warning("the list of gateways is not kept", why=str(error))
            else:
                await changed.wait()
