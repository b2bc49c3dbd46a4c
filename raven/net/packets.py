"""One end of the packet lane: holds a device, and the host's routes over it, to a plan.

The gateway's and the agent's `network` say what is planned and read how it goes. What goes wrong here is a
sentence in `problem` (nothing passes) or `warnings` (something does not), and is tried again; nothing but
cancellation ends `run`. It looks again every few seconds, so what another hand changes is put right.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import trio

from raven.errors import RavenError
from raven.keys import PrivateKey, PublicKey
from raven.net.adoption import Adopted, adopt_or_start
from raven.net.device import UAPI_DIRECTORY, Device, DeviceError, NoDevice
from raven.net.device_plan import observed, parse_endpoint, peer_change
from raven.net.probe import Prober
from raven.topology.model import IPNetwork, probe_address
from raven.topology.plan import Plan, diff
from raven.wg import configuration as wg

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from raven.net.netlink import HostInterface

T = TypeVar("T")

LOOK_INTERVAL = 10.0  # seconds between two looks at the device; also how old the state below may be
HOST_LOOKS = 6  # looks at the device for one at the host's routes, which costs more
# Seconds between two changes of the device, in which more of them gather. Short beside the time after which
# agents are told of each other: a handshake that comes before its peer is known is tried again 5 s later.
SETTLE = 0.05
BACKOFF_MIN, BACKOFF_MAX = 0.5, 120.0  # seconds; each new try may start a Python process on a small board
PATIENCE = 6  # looks in a row that may fail before a device is given up; a minute
_LAST_WORDS = 0.5  # seconds between a broken answer and the end of the process, at most
CLEAN_UP_MAX = 15.0  # seconds for leaving the host as it was found; systemd gives 90 to everything


class PacketLane:
    """The device `interface` and what the host needs to use it."""

    def __init__(
        self,
        *,
        interface: str,
        private_key: PrivateKey,
        public_key: PublicKey,
        listen_port: int,
        own_networks: Sequence[IPNetwork],
        state_dir: Path,
        log: FilteringBoundLogger,
        backend: str = "auto",
        program: Sequence[str] | None = None,
        directory: Path = UAPI_DIRECTORY,
    ) -> None:
        """`listen_port` 0 leaves it to the device. `program` stands in for `raven-wg -f`."""
        self.interface = interface
        self.problem = ""  # why no packets pass; "" while they do, and before the first attempt has ended
        self.warnings: list[str] = []  # what does not work although packets pass
        self.held = False  # the device has been held to a plan at least once
        self.state: wg.DeviceState | None = None  # as of the last look; None: there is no device now
        self.counters: Mapping[str, int] = {}  # drops of the device by reason, as of the last look
        self.peers: Mapping[PublicKey, wg.PeerState] = {}  # as of the last look
        self.device_status: wg.Status | None = None  # what a `raven-wg` tells of itself, as of the last look
        self.looked = 0.0  # trio.current_time() of the last look
        self.prober = Prober(probe_address(public_key))
        self._private_key = private_key
        self._listen_port = listen_port
        self._own_networks = tuple(own_networks)
        self._state_dir = state_dir
        self._log = log
        self._backend = backend
        self._program = program
        self._directory = directory
        self._plan = Plan()
        self._prescribed: dict[PublicKey, str] = {}  # endpoints given since the device is held
        self._stale: set[PublicKey] = set()  # peers that may have lost their keys
        self._wake = trio.Event()
        self._look = trio.Event()
        self._changed = trio.Event()
        self._threads = trio.CapacityLimiter(1)  # netlink calls, one after the other

    def follow(self, plan: Plan) -> None:
        """Called with every new plan; takes effect within a moment, or once there is a device."""
        if plan != self._plan:
            self._plan = plan
            self._wake.set()

    def reset_endpoint(self, key: PublicKey) -> None:
        """Called when the peer has been silent for too long: its planned endpoint counts again."""
        self._prescribed.pop(key, None)
        self._wake.set()

    def rekey(self, key: PublicKey) -> None:
        """Called when the peer's keys seem lost, or the way to it is another: a handshake starts now."""
        self._stale.add(key)
        self._wake.set()

    def mtu(self, key: PublicKey) -> int | None:
        """Bytes of the largest packet to the peer, as of the last look; None when the device does not say."""
        known = self.device_status.peers.get(key) if self.device_status is not None else None
        return known.mtu if known is not None else None

    def look_soon(self) -> None:
        """Called when there must be news of the device."""
        self._wake.set()

    async def next_look(self) -> None:
        """Returns when the device was looked at once more."""
        await self._look.wait()

    async def changed(self) -> None:
        """Returns when `problem`, `warnings` or `held` are no longer what they were at the call."""
        await self._changed.wait()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Holds the device to the plan until cancelled, then leaves the host as it was found.

        Started as soon as the first attempt has ended, well or not.
        """
        started = _once(task_status.started)
        backoff = BACKOFF_MIN
        while True:
            begin = trio.current_time()
            try:
                problem = await self._hold(started)
            except Exception as error:  # a bug here must not take the other lane along
                self._log.exception("the packet lane has a fault")
                problem = f"the packet lane has a fault ({type(error).__name__}); the log has the traceback"
            self._saw(None, {})
            self._say(problem, [])
            started()
            backoff = BACKOFF_MIN if trio.current_time() - begin > BACKOFF_MAX else backoff
            await trio.sleep(backoff)
            backoff = min(2 * backoff, BACKOFF_MAX)

    async def _hold(self, started: Callable[[], None]) -> str:
        """Gets a device and holds it for as long as it lives; returns why that has ended."""
        async with trio.open_nursery() as logs:
            try:
                adopted = await adopt_or_start(
                    self.interface,
                    key=self._private_key,
                    state_dir=self._state_dir,
                    nursery=logs,
                    log=self._log,
                    backend=self._backend,
                    program=self._program,
                    directory=self._directory,
                )
                host: HostInterface | None = None
                try:
                    host = await self._in_thread(lambda: _host_interface(self.interface))
                    return await self._hold_device(adopted, host, started)
                finally:
                    with trio.move_on_after(CLEAN_UP_MAX) as cleaning:
                        cleaning.shield = True
                        await self._give_back(adopted, host)
            except RavenError as error:
                return str(error)
            finally:
                logs.cancel_scope.cancel()
        raise AssertionError("unreachable")

    async def _hold_device(self, adopted: Adopted, host: HostInterface, started: Callable[[], None]) -> str:
        reason = ""
        gone = trio.Event()
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                nonlocal reason
                reason = await adopted.wait_gone()
                gone.set()
                nursery.cancel_scope.cancel()

            async def echo() -> None:
                try:
                    await self.prober.run()
                except RavenError as error:
                    self._log.warning("no packet-lane probes", why=str(error))

            nursery.start_soon(watch)
            nursery.start_soon(echo)
            try:
                await self._introduce(adopted.device, host)
                await self._keep_to_plan(adopted.device, host, started)
            except RavenError as error:
                with trio.move_on_after(_LAST_WORDS):  # its end says more than an answer that did not come
                    await gone.wait()
                reason = reason or str(error)
            nursery.cancel_scope.cancel()
        return reason

    async def _introduce(self, device: Device, host: HostInterface) -> None:
        """Gives the device its key and port, and sets its link up: peers come after, or their first
        handshake leaves from a device without a socket and is tried again 5 s later."""
        state = await device.state()
        port, other_port = self._listen_port, self._listen_port not in (0, state.listen_port)
        link = await self._in_thread(host.link)
        listens = link is not None and link.up and not other_port
        if port and not listens and not _is_free(port):
            # Asked of the kernel, because a device whose link is down takes any port and fails later.
            raise DeviceError(f"UDP port {port} is in use; `ss -lunp sport = :{port}` shows by whom")
        await device.configure(
            wg.DeviceChange(
                private_key=self._private_key if state.private_key != self._private_key else None,
                listen_port=port if other_port else None,
            )
        )
        await self._in_thread(host.bring_up)

    async def _keep_to_plan(self, device: Device, host: HostInterface, started: Callable[[], None]) -> None:
        self._prescribed.clear()
        held: Plan | None = None
        lacking: list[str] = []  # what the host lacked when it was looked at
        looks = failures = 0
        while True:
            self._wake = trio.Event()
            plan = self._plan
            look_at_host = plan != held or looks % HOST_LOOKS == 0
            try:
                found = await self._apply(device, host if look_at_host else None, plan)
            except RavenError as error:
                failures += 1
                if held is None or failures == PATIENCE or isinstance(error, NoDevice):
                    raise
                # One that is busy, or refuses a detail, still carries packets; one started anew does not.
                self._say("", [*lacking, f"the device is not as planned: {error}"], held=True)
            else:
                held, failures = plan, 0
                lacking = lacking if found is None else found
                self._say("", lacking, held=True)
            looks += 1
            started()
            await trio.sleep(SETTLE)
            with trio.move_on_after(LOOK_INTERVAL):
                await self._wake.wait()

    async def _apply(self, device: Device, host: HostInterface | None, plan: Plan) -> list[str] | None:
        """Makes device and host what `plan` says, in the order that `Changes` asks for.

        Returns what the host lacks; None when it was not looked at.
        """
        state, status = await device.state(), await device.status()
        self.device_status = status
        holds = observed(state, plan, self._prescribed, status)
        changes = diff(holds, plan)
        if changes.peers_changed:
            before = {peer.public_key: peer for peer in holds.peers}
            await device.configure(
                wg.DeviceChange(
                    peers=[
                        peer_change(change, before.get(change.public_key), raven=status is not None)
                        for change in changes.peers_changed
                    ]
                )
            )
            self._prescribed |= {
                change.public_key: change.endpoint
                for change in changes.peers_changed
                if change.endpoint is not None
            }
        warnings = None if host is None else await self._hold_host(host, plan)
        if changes.peers_removed:
            gone = [wg.PeerChange(public_key=key, remove=True) for key in sorted(changes.peers_removed)]
            await device.configure(wg.DeviceChange(peers=gone))
            for key in changes.peers_removed:
                self._prescribed.pop(key, None)
        stale, self._stale = self._stale, set()
        for key in stale & {peer.public_key for peer in plan.peers}:
            self._log.info("new keys asked for", peer=key.to_base64())
            await device.rekey(key)
        self._saw(await device.state() if changes else state, await device.counters())
        return warnings

    async def _hold_host(self, host: HostInterface, plan: Plan) -> list[str]:
        from raven.net.netlink import Wanted

        want = Wanted(
            address=plan.address,
            routes=frozenset(route.destination for route in plan.routes),
            own_networks=self._own_networks,
            endpoints=frozenset(
                ipaddress.ip_address(endpoint.host)
                for peer in plan.peers
                if (endpoint := parse_endpoint(peer.endpoint)) is not None
            ),
        )
        return await self._in_thread(lambda: host.hold(want))

    async def _give_back(self, adopted: Adopted, host: HostInterface | None) -> None:
        """Leaves the host as it was found; where our process ends, link, addresses and routes go with it."""
        if adopted.process is None and host is not None:
            try:
                await self._in_thread(host.release)
                if not adopted.found.up:
                    await self._in_thread(host.set_down)
            except RavenError as error:
                self._log.warning("routes may be left", interface=self.interface, why=str(error))
        await adopted.give_back()

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(call, limiter=self._threads)

    def _saw(self, state: wg.DeviceState | None, counters: Mapping[str, int]) -> None:
        self.state, self.counters, self.looked = state, counters, trio.current_time()
        self.peers = {peer.public_key: peer for peer in state.peers} if state is not None else {}
        if state is None:
            self.device_status = None
        self._look.set()
        self._look = trio.Event()

    def _say(self, problem: str, warnings: list[str], *, held: bool = False) -> None:
        if (problem, warnings, self.held or held) == (self.problem, self.warnings, self.held):
            return
        if problem != self.problem and problem:
            self._log.warning("packets do not pass", why=problem)
        elif problem != self.problem or (held and not self.held):
            self._log.info("packets may pass", interface=self.interface)
        for warning in warnings:
            if warning not in self.warnings:
                self._log.warning("packets pass in part", why=warning)
        self.problem, self.warnings, self.held = problem, warnings, self.held or held
        self._changed.set()
        self._changed = trio.Event()


def _host_interface(name: str) -> HostInterface:
    from raven.net.netlink import HostInterface  # here for its price; see there

    return HostInterface(name)


def _is_free(port: int) -> bool:
    """Whether a device could listen on UDP `port`, over IPv4 and, where there is any, IPv6."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as attempt:
                if family == socket.AF_INET6:
                    attempt.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                attempt.bind(("", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
    return True


def _once(call: Callable[[], None]) -> Callable[[], None]:
    called = False

    def first() -> None:
        nonlocal called
        if not called:
            called = True
            call()

    return first
