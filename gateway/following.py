"""The following end: keeps this gateway's copy of the registry, and asks for what takes the CA.

Beside the lanes, never in their way: while the followed gateway is away, everybody who has joined goes on
as before, by the last copy; joins and renewals wait. Nothing that goes wrong here leaves `run`.
"""

from __future__ import annotations

import base64
import itertools
import random
import ssl
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from gateway.own_certificate import OwnCertificate
from raven import __version__, log
from raven.config import Address
from raven.control.copies import (
    VERSION,
    AskJoin,
    AskOwn,
    AskRenewal,
    Copy,
    FollowerHello,
    FromFollower,
    Issued,
    NotIssued,
    Trusted,
    Used,
    decode_followed_untrusted,
)
from raven.control.messages import JoinRequest, encode
from raven.errors import PeerError, RavenError, RefusedError, StateError
from raven.net.backoff import backoff
from raven.net.dial import dial
from raven.net.proxy import DIRECT, Ways
from raven.net.tls import ca_label, check_gateway, follower_context
from raven.net.tls_stream import TLSStream, client_handshake
from raven.net.tunnel import Tunnel, TunnelLost
from raven.registry.gateway_state import GatewayState
from raven.registry.interface import CertificateRecord
from raven.registry.sqlite import SqliteRegistry
from raven.status import Lane, LaneState

HANDSHAKE_MAX = 10.0  # seconds
ANSWER_MAX = 20.0  # seconds; the followed gateway waits for its disk
PAGES_MAX = 2000  # of one copy: a million nodes


class CopiedRegistry(SqliteRegistry):
    """The copy: what agents show here is told to the gateway it comes from."""

    def __init__(self, path: Path, *, now: float) -> None:
        super().__init__(path, now=now)
        self.on_use: Callable[[str, str], None] = lambda node, serial: None

    def record_use(self, *, node: str, serial: str, now: float) -> None:
        super().record_use(node=node, serial=serial, now=now)
        self.on_use(node, serial)


class Following:
    """One gateway's tie to the gateway it follows. An `Enroller`, and who renews."""

    def __init__(
        self,
        *,
        state: GatewayState,
        registry: CopiedRegistry,
        followed: Address,
        advertise: Address,
        changed: Callable[[], None],
        renewed: Callable[[], None],
        ways: Ways = DIRECT,
    ) -> None:
        """`changed` is called with every new copy, `renewed` when gateway.crt or the CA was replaced."""
        self.followed = followed
        self._state = state
        self._registry = registry
        self._advertise = advertise
        self._changed = changed
        self._own = OwnCertificate(state, ask=self._ask_own, renewed=renewed)
        self._ways = ways
        self._log = log.get("follow")
        self._tunnel: Tunnel | None = None
        self._answers: dict[int, trio.MemorySendChannel[Issued | NotIssued]] = {}
        self._numbers = itertools.count(1)
        self._lane_state: LaneState = "starting"
        self._doing = "not dialled yet"
        self._told = ""
        self._copied: float | None = None  # trio.current_time() when the copy was known to be whole
        registry.on_use = self._note_use

    @property
    def ca_pem(self) -> str:
        return self._state.ca_pem

    @property
    def cluster(self) -> str:
        return self._state.cluster

    async def run(self) -> None:
        """Until cancelled."""
        attempts = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._own.run)
            while True:
                copied = self._copied
                problem = await self._attempt()
                attempts = 0 if self._copied != copied else attempts + 1
                wait = backoff(attempts, random.random())
                self._lane_state = "down"
                self._doing = f"{problem}; next attempt in {max(1, round(wait))} s"
                if problem != self._told:
                    self._told = problem
                    self._log.warning("the followed gateway is away", problem=problem)
                await trio.sleep(wait)

    def lane(self) -> Lane:
        """The tie to the followed gateway."""
        tunnel = self._tunnel
        return Lane(
            state=self._lane_state,
            evidence_age_s=None if tunnel is None else max(0.0, trio.current_time() - tunnel.last_heard),
            rtt_ms=None if tunnel is None or tunnel.rtt is None else tunnel.rtt * 1e3,
            detail=self._doing,
            bytes_in=tunnel.bytes_in if tunnel is not None else 0,
            bytes_out=tunnel.bytes_out if tunnel is not None else 0,
        )

    def problems(self) -> list[str]:
        """Sentences an operator should read."""
        if self._lane_state != "down":
            return []
        return [f"joins and renewals wait for the gateway with the CA, {self.followed}: {self._doing}"]

    async def enrol(self, request: JoinRequest, *, asker: str, now: float) -> str:
        """As `Enroller` promises."""
        if request.role != "node":
            raise RefusedError("follows", f"this gateway follows {self.followed}; have gateways join there")
        question = AskJoin(
            number=next(self._numbers),
            token=request.token,
            node=request.node,
            csr_pem=request.csr_pem,
            asker=asker,
        )
        record = await self._ask(question, question.number)
        await trio.to_thread.run_sync(partial(self._registry.adopt, record, now=now))
        return record.pem

    async def renew(
        self, csr_pem: str, *, node: str, serial: str, address: str, now: float
    ) -> CertificateRecord:
        """As `gateway.tunnel_server.Renew` promises."""
        question = AskRenewal(
            number=next(self._numbers), node=node, serial=serial, csr_pem=csr_pem, asker=address
        )
        record = await self._ask(question, question.number)
        await trio.to_thread.run_sync(partial(self._registry.adopt, record, now=now))
        return record

    async def _ask(self, question: FromFollower, number: int) -> CertificateRecord:
        away = RefusedError(
            "ca-away", f"the gateway with the CA, {self.followed}, cannot be reached from here now; try again"
        )
        if self._tunnel is None:
            raise away
        send, receive = trio.open_memory_channel[Issued | NotIssued](1)
        self._answers[number] = send
        try:
            with trio.fail_after(ANSWER_MAX):
                await self._tunnel.send_control(encode(question))
                answer = await receive.receive()
        except (trio.TooSlowError, trio.EndOfChannel, TunnelLost) as error:
            raise away from error
        finally:
            self._answers.pop(number, None)
        if isinstance(answer, NotIssued):
            raise RefusedError(answer.reason, answer.message)
        return CertificateRecord(
            serial=answer.serial,
            node=answer.node,
            key_hash=base64.b64decode(answer.key_hash),
            not_before=answer.not_before,
            not_after=answer.not_after,
            issued=answer.issued,
            pem=answer.pem,
        )

    def _note_use(self, node: str, serial: str) -> None:
        """Told if there is room and a tunnel; the next connection of the node tells again."""
        if self._tunnel is not None and self._tunnel.lost is None:
            message = Used(node=node, serial=serial, when=time.time())
            if self._tunnel.connection.send_control(encode(message)):
                self._tunnel.flush()

    async def _attempt(self) -> str:
        """One connection, from dialling to its end; a sentence about why it ended."""
        try:
            self._step("dialling")
            transport = await dial(*self.followed, ways=self._ways)
            self._step("shaking hands")
            stream = await client_handshake(
                transport,
                self._context(),
                server_hostname=ca_label(self._state.ca_pem),
                timeout=HANDSHAKE_MAX,
            )
            await self._serve(stream)
            return f"gateway {self.followed} said goodbye"
        except RavenError as error:
            return str(error) if isinstance(error, TunnelLost) else f"gateway {self.followed}: {error}"
        except Exception:
            self._log.exception("following ended by a fault of this gateway")
            return "a fault of this gateway; its log has the traceback"

    def _context(self) -> ssl.SSLContext:
        return follower_context(self._state)

    def _step(self, doing: str) -> None:
        if self._lane_state != "down":
            self._doing = doing

    async def _serve(self, stream: TLSStream) -> None:
        try:
            check_gateway(stream, cluster=self._state.cluster)
        except PeerError:
            await trio.aclose_forcefully(stream)
            raise
        tunnel = Tunnel(stream, initiator=True, peer=f"gateway {self.followed}")
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._converse, tunnel)
                try:
                    await tunnel.run(None)
                finally:
                    nursery.cancel_scope.cancel()
        except* TunnelLost as group:
            raise group.exceptions[0] from None
        finally:
            self._tunnel = None
            for waiting in self._answers.values():
                waiting.close()

    async def _converse(self, tunnel: Tunnel) -> None:
        pages: list[Copy] = []
        try:
            hello = FollowerHello(
                version=VERSION,
                gateway=self._state.name,
                address=str(self._advertise),
                software=__version__,
            )
            await tunnel.send_control(encode(hello))
            async for data in tunnel.control:
                match decode_followed_untrusted(data):
                    case Copy() as page:
                        pages.append(page)
                        if len(pages) > PAGES_MAX:
                            raise PeerError("bad-control", f"a copy of more than {PAGES_MAX} pages")
                        if not page.more:
                            await trio.to_thread.run_sync(self._registry.take_copy, pages)
                            pages = []
                            self._copied_all(tunnel)
                    case Trusted() as said:
                        self._own.hear(said)
                    case answer:
                        if (waiting := self._answers.pop(answer.number, None)) is not None:
                            waiting.send_nowait(answer)
        except (TunnelLost, trio.EndOfChannel):
            return
        except PeerError as error:
            tunnel.abort(error.reason, str(error))
        except StateError as error:
            self._log.error("registry", why=str(error))
            tunnel.abort("registry", f"the copy cannot be kept: {error}")

    def _copied_all(self, tunnel: Tunnel) -> None:
        if self._tunnel is not tunnel:
            self._tunnel = tunnel
            self._log.info("following", gateway=str(self.followed))
        self._copied = trio.current_time()
        self._lane_state, self._doing, self._told = "up", "", ""
        self._changed()

    async def _ask_own(self, csr_pem: str) -> CertificateRecord:
        question = AskOwn(number=next(self._numbers), csr_pem=csr_pem)
        return await self._ask(question, question.number)
