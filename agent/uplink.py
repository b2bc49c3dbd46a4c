"""Keeps one tunnel to one gateway: dial, handshake, hello, serve, and again after a back-off.

There is no state machine: where the code stands is the state, and each step leaves a sentence for the
status. Nothing that a network or a gateway does ends `run`. Streams go to the dialer, maps to the packet
lane; neither can hold the other up.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import trio

from agent.carrying import Carrying, Reached, addresses
from agent.claims import Claims, Elsewhere
from agent.network import AgentNetwork
from agent.renewal import Renewal
from raven import log
from raven.config import Address
from raven.control.messages import (
    VERSION,
    AgentHello,
    GatewayHello,
    GatewayList,
    NetworkMap,
    PacketReport,
    Renewed,
    RenewRefused,
    decode_control_untrusted,
    encode,
)
from raven.errors import PeerError, RavenError
from raven.mux.connection import Limits
from raven.mux.keepalive import Keepalive
from raven.net.backoff import backoff
from raven.net.busy import WAIT_MAX, Busy, heed_untrusted
from raven.net.dial import dial
from raven.net.path_changes import PathChanges
from raven.net.proxy import DIRECT, Ways
from raven.net.tls import Peer, check_gateway, handshake_problem
from raven.net.tls_stream import client_handshake
from raven.net.tunnel import Carriage, IncomingStream, Tunnel, TunnelLost
from raven.status import Lane, LaneState, UplinkStatus

HANDSHAKE_MAX = 10.0  # seconds
HELLO_MAX = 10.0  # seconds until the gateway has answered the hello
# The gateway's further hellos that wait, each with a CA of at most 32 kB: one for every change of its CA.
HELLOS_WAITING = 8
RETURN_MAX = 5.0  # seconds: the bound of waits for the next connection of a tunnel whose streams wait
STAND_BY_MAX = 600.0  # seconds: the bound of waits where the gateway has a tunnel by another address
SETTLED = 30.0  # seconds a tunnel must have lived for the next wait to be short again


@dataclass(eq=False, kw_only=True)
class Uplink:
    """The tunnel to the gateway at `address`, whether there is one now or not."""

    address: Address
    cluster: str
    network: AgentNetwork
    renewal: Renewal
    accept: Callable[[IncomingStream], Awaitable[None]]  # serves one stream the gateway opens
    hello: Callable[[], AgentHello]  # what this node says about itself now
    grace: float = 0.0  # seconds the streams wait for another connection after theirs broke
    ways: Ways = DIRECT
    learn: Callable[[GatewayList], None] = lambda told: None  # takes what gateways there are
    claims: Claims = field(default_factory=Claims)  # shared by the uplinks of an agent
    expected: str = ""  # the gateway's name, as the list has it; "" where that is not known
    changed: Callable[[], None] = lambda: None  # called when the lane's state has changed
    chance: Callable[[], float] = random.random
    attempts: int = 0  # failed in a row
    connects: int = 0  # tunnels that came about, ever
    lost_bytes: list[int] = field(default_factory=lambda: [0, 0])  # in and out, of tunnels that ended

    def __post_init__(self) -> None:
        self._log = log.get("uplink")
        self._tunnel: Tunnel | None = None  # after the gateway's hello, until the tunnel's end
        self._gateway = ""
        self._state: LaneState = "starting"
        self._doing = "not dialled yet"
        self._last_heard: float | None = None
        self._told = ""  # the problem that was logged last
        self._proxy = str(self.ways.proxy_for(*self.address) or "")
        self._keepalive = Keepalive()  # what the path has taught outlives every tunnel
        self._spare: Reached | None = None  # where the gateway began anew instead of going on

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            began = trio.current_time()
            try:
                problem = await self._attempt()
            except Elsewhere as error:
                await self._stand_by(str(error))
                continue
            except Busy as error:
                # No failure: the gateway is there, or will be. What it says spreads those who come.
                self._now("down", f"gateway {self.address}: {error}")
                await trio.sleep(error.seconds + self.chance())
                continue
            except Exception:
                # A bug met by one tunnel must not take the other tunnels and the packet lane with it.
                self._log.exception("tunnel ended by a fault of the agent", gateway=str(self.address))
                problem = f"gateway {self.address}: a fault of the agent; its log has the traceback"
            if self._spare is not None:
                self._tell(problem)
                continue
            if trio.current_time() - began > SETTLED:
                self.attempts = 0
            wait = backoff(self.attempts, self.chance())
            self.attempts += 1
            self._now("down", f"{problem}; next attempt in {max(1, round(wait))} s")
            self._tell(problem)
            await trio.sleep(wait)

    async def _stand_by(self, why: str) -> None:
        """Looks again when a tunnel of this agent ends, or now and then: the address may lead elsewhere."""
        self._now("off", why)
        with trio.move_on_after(backoff(self.attempts, self.chance(), most=STAND_BY_MAX)):
            await self.claims.given_up.wait()
        self.attempts += 1

    async def drain(self, why: str) -> None:
        """Tells the gateway that we go away and lets the streams finish; the caller bounds it."""
        if self._tunnel is not None:
            await self._tunnel.drain(why)

    def status(self) -> UplinkStatus:
        tunnel = self._tunnel
        heard = tunnel.last_heard if tunnel is not None else self._last_heard
        return UplinkStatus(
            gateway=str(self.address),
            name=self._gateway,
            proxy=self._proxy,
            lane=Lane(
                state=self._state,
                evidence_age_s=None if heard is None else max(0.0, trio.current_time() - heard),
                rtt_ms=None if tunnel is None or tunnel.rtt is None else tunnel.rtt * 1e3,
                detail=self._doing,
                bytes_in=self.lost_bytes[0] + (tunnel.bytes_in if tunnel is not None else 0),
                bytes_out=self.lost_bytes[1] + (tunnel.bytes_out if tunnel is not None else 0),
            ),
            streams=tunnel.streams_open if tunnel is not None else 0,
            attempts=self.attempts,
        )

    @property
    def tunnel(self) -> Tunnel | None:
        """After the gateway's hello, until the tunnel's end."""
        return self._tunnel

    async def ping(self) -> float:
        """Seconds of a round trip to the gateway; TunnelLost without a tunnel."""
        if self._tunnel is None:
            raise TunnelLost("down", self._doing)
        return await self._tunnel.ping()

    async def _attempt(self) -> str:
        """One tunnel, from dialling to its end; a sentence about why it ended."""
        try:
            self.claims.check(self.expected, self)
            reached, self._spare = self._spare or await self._reach(), None
            self._step("waiting for the gateway's hello")
            try:
                tunnel = Tunnel(
                    reached.carriage,
                    initiator=True,
                    peer=f"gateway {self.address}",
                    limits=Limits(grace=self.grace),
                    keepalive=self._keepalive,
                )
                await self._serve(tunnel, reached)
            finally:
                self.claims.give_up(self)
            if tunnel.back:
                away = Busy(min(WAIT_MAX, tunnel.back), why="is shutting down")
                self._log.info("disconnected", gateway=str(self.address), why=str(away))
                raise away
            return f"gateway {self.address} said goodbye"
        except (Elsewhere, Busy):
            raise
        except TunnelLost as error:
            # A gateway judges our certificate when the handshake is over for us: its alert comes with the
            # first bytes, deep inside.
            alert = _tls_cause(error)
            return f"gateway {self.address}: {handshake_problem(alert)}" if alert else str(error)
        except RavenError as error:
            return f"gateway {self.address}: {error}"

    async def _reach(self) -> Reached:
        """A connection to this uplink's gateway. RavenError."""
        self._step("dialling")
        transport = await dial(*self.address, ways=self.ways)
        self._step("shaking hands")
        renewals = self.renewal.renewals
        stream = await client_handshake(
            transport,
            self.renewal.context,
            server_hostname=self.renewal.server_name,
            timeout=HANDSHAKE_MAX,
            look=heed_untrusted,
        )
        try:
            peer = check_gateway(stream, cluster=self.cluster)
            self.claims.take(peer.identity.name, self)
            local, remote = addresses(stream)
        except PeerError:
            await trio.aclose_forcefully(stream)
            raise
        return Reached(Carriage(stream), peer, renewals, local, remote)

    async def _serve(self, tunnel: Tunnel, reached: Reached) -> None:
        lost: TunnelLost | None = None
        greeted = trio.Event()

        async def accept(incoming: IncomingStream) -> None:
            if not greeted.is_set():
                await greeted.wait()  # by then its certificate is known to count
            await self.accept(incoming)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._converse, tunnel, reached.peer, reached.renewals, greeted, nursery)
            if self.grace > 0:
                nursery.start_soon(self._keep_carried, tunnel, reached)
            try:
                await tunnel.run(accept)
            except TunnelLost as error:
                lost = error
            finally:
                self._ended(tunnel)
                self.network.gateway_lost(reached.peer.identity.name)
            nursery.cancel_scope.cancel()
        if lost is not None:
            raise lost

    async def _keep_carried(self, tunnel: Tunnel, reached: Reached) -> None:
        carrying = Carrying(
            reach=self._reach,
            backoff=lambda attempts: backoff(attempts, self.chance(), most=RETURN_MAX),
            broke=partial(self._broke, tunnel, reached.peer.identity.name),
            returned=partial(self._returned, tunnel, reached.peer.identity.name),
            problem=lambda text: self._tell(f"gateway {self.address}: {text}"),
        )
        try:
            changes: PathChanges | None = PathChanges()
        except OSError as error:
            self._log.warning("changes of this machine's addresses are not noticed", why=str(error))
            changes = None
        try:
            self._spare = await carrying.run(tunnel, reached, changes)
        finally:
            if changes is not None:
                changes.close()

    def _broke(self, tunnel: Tunnel, gateway: str) -> None:
        self.network.gateway_broke(gateway)
        if tunnel is self._tunnel:
            self._now("reconnecting", "the connection broke; its streams wait for the next one")

    def _returned(self, tunnel: Tunnel, gateway: str) -> None:
        self.network.gateway_returned(gateway)
        self._told = ""
        if tunnel is self._tunnel:
            self._now("up", "")
        self._log.info("the tunnel goes on over another connection", gateway=str(self.address))

    def _ended(self, tunnel: Tunnel) -> None:
        self._tunnel = None
        self._last_heard = tunnel.last_heard
        self.lost_bytes[0] += tunnel.bytes_in
        self.lost_bytes[1] += tunnel.bytes_out

    async def _converse(
        self, tunnel: Tunnel, peer: Peer, renewals: int, greeted: trio.Event, nursery: trio.Nursery
    ) -> None:
        """The control messages of one tunnel; what the gateway does wrong ends it with the reason."""
        hellos, told = trio.open_memory_channel[GatewayHello](HELLOS_WAITING)
        try:
            hello = self.hello()
            with trio.fail_after(HELLO_MAX):
                await tunnel.send_control(encode(hello))
                greeting = await _receive_hello(tunnel)
            self.renewal.check_time(peer, greeting)
            if greeting.renew_only:
                self._step("renewing the certificate, which has expired")
                nursery.start_soon(self.renewal.renew_expired, tunnel, greeting, renewals)
            else:
                self._greeted(tunnel, greeting)
                greeted.set()
                nursery.start_soon(self._hear, told)
                nursery.start_soon(self._report_changes, tunnel, hello)
                nursery.start_soon(self.renewal.keep, tunnel, greeting, renewals)
            async for data in tunnel.control:
                match decode_control_untrusted(data):
                    case NetworkMap() as message:
                        self.network.take_map(message, gateway=peer.identity.name)
                    case GatewayList() as message:
                        self.learn(message)
                    case GatewayHello() as message if greeted.is_set():
                        hellos.send_nowait(message)
                    case (Renewed() | RenewRefused()) as message:
                        self.renewal.answered(tunnel, message)
                    case message:
                        raise PeerError("bad-control", f"a gateway does not send {type(message).__name__}")
        except (TunnelLost, trio.EndOfChannel):
            return  # `Tunnel.run` tells why
        except trio.WouldBlock:
            tunnel.abort("bad-control", f"the gateway said {HELLOS_WAITING} hellos in one breath")
        except trio.TooSlowError:
            tunnel.abort("hello-timeout", f"the gateway did not answer our hello within {HELLO_MAX:.0f} s")
        except PeerError as error:
            tunnel.abort(error.reason, str(error))

    async def _hear(self, told: trio.MemoryReceiveChannel[GatewayHello]) -> None:
        """What the gateway says again, one after the other: each may cost a child process."""
        async for hello in told:
            await self.renewal.hear(hello)

    def _greeted(self, tunnel: Tunnel, hello: GatewayHello) -> None:
        self._tunnel, self._gateway = tunnel, hello.gateway
        self.network.gateway_reached(hello.gateway, tunnel)
        self.connects += 1
        self._now("up", "")
        self.network.greeted()
        self._told = ""
        self._log.info("connected", gateway=str(self.address), name=hello.gateway, software=hello.software)

    async def _report_changes(self, tunnel: Tunnel, hello: AgentHello) -> None:
        """Says again whatever part of our hello or report is no longer what the gateway was told."""
        report: PacketReport | None = None
        try:
            while True:
                if (newer := self.hello()) != hello:
                    hello = newer
                    await tunnel.send_control(encode(hello))
                elif (other := self.network.report()) != report:
                    report = other
                    await tunnel.send_control(encode(report))
                else:
                    await self.network.changed()
        except TunnelLost:
            return

    def _step(self, doing: str) -> None:
        """Records where the code stands; a lane that is down or off stays so until the gateway's hello."""
        if self._state not in ("down", "off"):
            self._now("starting", doing)

    def _now(self, state: LaneState, doing: str) -> None:
        self._state, self._doing = state, doing
        self.changed()

    def _tell(self, problem: str) -> None:
        # An uplink may be away for days: the log gets each problem once, the status has it all the time.
        if problem != self._told:
            self._told = problem
            self._log.warning("no tunnel", problem=problem)


async def _receive_hello(tunnel: Tunnel) -> GatewayHello:
    message = decode_control_untrusted(await tunnel.control.receive())
    if not isinstance(message, GatewayHello):
        kind = type(message).__name__
        raise PeerError("bad-control", f"the first message is a {kind}, expected GatewayHello")
    if message.version != VERSION:
        raise PeerError("wrong-version", f"it speaks control version {message.version}, this agent {VERSION}")
    return message


def _tls_cause(error: BaseException) -> ssl.SSLError | None:
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, ssl.SSLError):
        seen = seen.__cause__ or seen.__context__
    return seen
