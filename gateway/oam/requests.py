"""What every O&M entry does with a request, whatever it speaks: judges it, opens it, ends it when it must.

An entry knows how to read a request and how to say no; here are the policy, the limit of one asker, the
stream to the node, and the audit line. A request that is under way is judged again whenever the policy or a
credential has changed.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import trio

from gateway.oam.relay import tunnel_lost
from gateway.tunnels import AgentTunnel, Offline, Tunnels
from raven import log
from raven.control.messages import OpenRequest
from raven.errors import StateError
from raven.mux.codes import Priority, RefusalCode
from raven.net.source_network import network_of
from raven.net.tunnel import StreamRefused, TunnelLost
from raven.oam.asker import Asker
from raven.oam.audit import OPEN, Audit, AuditLine
from raven.oam.kubelet import KubeletRequest
from raven.oam.permits import Policy
from raven.oam.refusal import Refusal, offline_node, unknown_node
from raven.oam.target import Target, at_address

OPEN_TIMEOUT: Final = 15.0  # seconds; longer than the agent gives itself, so that its sentence comes first
EACH_MAX: Final = 1024  # requests of one asker at once; a Prometheus of 2,000 targets has some dozens
JUDGE_INTERVAL: Final = (
    20.0  # seconds between two looks at what is under way: credentials expire by themselves
)

_REASONS: Final = {
    RefusalCode.FORBIDDEN: "not-allowed",
    RefusalCode.UNREACHABLE: "unreachable",
    RefusalCode.TIMEOUT: "dial-timeout",
    RefusalCode.BUSY: "busy",
    RefusalCode.GOING_AWAY: "offline-node",
}


@dataclass(eq=False, slots=True, kw_only=True)
class Request:
    """One request, and what its audit line will say as it becomes known."""

    began: float  # trio.current_time()
    time: float  # Unix seconds
    id: str
    asker: Asker
    method: str = ""
    target: Target | None = None
    known: bool = False  # the target's node has joined
    verdict: str = "allowed"
    status: int = 0
    to_target: int = 0
    from_target: int = 0
    detail: str = ""
    told: bool = False  # by a line that says it is open
    asks: KubeletRequest | None = None  # where it could be read
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)  # cancelled when it may not go on

    def refused(self, refusal: Refusal) -> None:
        self.verdict, self.status, self.detail = refusal.reason, refusal.status, str(refusal)

    def line(self) -> AuditLine:
        target = self.target or Target("", "", 0)
        return AuditLine(
            id=self.id,
            time=self.time,
            asker=str(self.asker),
            method=self.method,
            node=target.node,
            host=target.host,
            port=target.port,
            verdict=self.verdict,
            status=self.status,
            bytes_to_target=self.to_target,
            bytes_from_target=self.from_target,
            duration=trio.current_time() - self.began,
            detail=self.detail,
            known=self.known,
        )


class Requests:
    """All requests of a gateway. One for all entries: an asker has one limit, not one at each."""

    def __init__(
        self,
        *,
        tunnels: Tunnels,
        audit: Audit,
        policy: Callable[[], Policy],
        standing: Callable[[Asker], None] = lambda asker: None,
        wall: Callable[[], float] = time.time,
        each_max: int = EACH_MAX,
    ) -> None:
        """`standing` returns if the credentials of an asker still count; Refusal "bad-credentials" if not."""
        self._tunnels = tunnels
        self._audit = audit
        self._policy = policy
        self._standing = standing
        self._wall = wall
        self._each_max = each_max
        self._log = log.get("oam")
        self._open: Counter[str] = Counter()  # requests under way, by whose limit they count to
        self.live: set[Request] = set()
        self.refused: Counter[str] = Counter()  # requests that an entry answered itself, by reason
        self.broken: Counter[str] = Counter()  # requests that broke off after they were allowed, by reason

    def new(self, asker: Asker, method: str = "") -> Request:
        return Request(
            began=trio.current_time(),
            time=self._wall(),
            id=secrets.token_hex(6),
            asker=asker,
            method=method,
        )

    def judge(self, request: Request) -> None:
        """Returns if the asker's credentials count and the policy permits the request; Refusal otherwise.

        A connection is kept for longer than a credential may last, so each of its requests asks again.
        """
        assert request.target is not None
        self._standing(request.asker)
        target = request.target
        verb = request.asks.verb if request.asks is not None else None
        self._policy().judge(request.asker, target.node, target.host, target.port, verb)

    async def open(self, request: Request) -> trio.abc.HalfCloseableStream:
        """A stream to the target; Refusal with the sentence of whoever knows best why there is none."""
        assert request.target is not None
        target = request.target
        self.judge(request)
        tunnel = self.lookup(target.node)
        if tunnel is None:
            raise unknown_node(target.node, target.port)
        if isinstance(tunnel, Offline):
            raise offline_node(target.node, tunnel.since, self._wall())
        opening = OpenRequest(
            host=target.host,
            port=target.port,
            asker=request.asker.address,
            request=request.id,
            names=list(request.asker.names),
        )
        try:
            with trio.fail_after(OPEN_TIMEOUT):
                return await tunnel.open_stream(opening, Priority.INTERACTIVE)
        except StreamRefused as error:
            reason = _REASONS.get(error.code, "agent-error")
            raise Refusal(reason, f"node {target.node}: {error.message}") from error
        except TunnelLost as error:
            raise tunnel_lost(error) from error
        except trio.TooSlowError as error:
            raise Refusal(
                "dial-timeout",
                f"node {target.node} did not connect to the target within {OPEN_TIMEOUT:.0f} s; "
                "its uplink may be slow or just breaking, so ask again",
            ) from error

    @contextmanager
    def under_way(self, request: Request) -> Iterator[None]:
        """Around what an entry does for a request that named its target; Refusal "too-many" at its begin.

        The block is cancelled, and the request's verdict becomes the reason, when it may not go on.
        """
        limited = _limited_by(request.asker)
        if self._open[limited] >= self._each_max:
            raise Refusal(
                "too-many", f"{limited} has {self._each_max} requests open, as many as one asker may have"
            )
        self._open[limited] += 1
        self.live.add(request)
        try:
            with request.scope:
                yield
        finally:
            self.live.discard(request)
            self._open[limited] -= 1
            if not self._open[limited]:
                del self._open[limited]

    def ended(self, request: Request) -> None:
        """Writes the request's audit line, if there is anything to say: once, when all about it is known."""
        if request.target is not None or request.verdict != "allowed":
            self._audit.record(request.line())

    def judge_again(self) -> int:
        """Ends what is under way and no longer permitted; how many requests did."""
        cut = 0
        for request in [live for live in self.live if live.verdict == "allowed"]:
            try:
                self.judge(request)
            except Refusal as refusal:
                request.verdict = "withdrawn"
                request.detail = str(refusal)
                request.scope.cancel()
                cut += 1
        return cut

    async def keep_judging(self) -> None:
        """Until cancelled: credentials expire without anybody saying so."""
        while True:
            await trio.sleep(JUDGE_INTERVAL)
            self.judge_again()
            self._tell_open()

    def _tell_open(self) -> None:
        """A line for what goes on for long: its own comes at its end, and would not after a power cut."""
        now = trio.current_time()
        for request in self.live:
            if not request.told and request.verdict == "allowed" and now - request.began >= JUDGE_INTERVAL:
                request.told = True
                self._audit.record(replace(request.line(), verdict=OPEN))

    def is_node(self, name: str) -> bool:
        return self.lookup(name) is not None

    def lookup(self, name: str) -> AgentTunnel | Offline | None:
        """As `Tunnels` has it; Refusal "registry" when nobody can know."""
        with self._knowing(name):
            return self._tunnels.lookup(name)

    def locate(self, request: Request, target: Target) -> None:
        """Gives the request its target, by the node's name where it was asked for by its address; Refusal."""
        request.known = self.is_node(target.node)
        if not request.known:
            with self._knowing(target.node):
                found = at_address(target, self._tunnels.nodes_at)
            request.known, target = found != target, found
        request.target = target

    @contextmanager
    def _knowing(self, name: str) -> Iterator[None]:
        try:
            yield
        except StateError as error:
            self._log.error("registry", why=str(error))
            raise Refusal(
                "registry",
                f"the gateway cannot look up the node {name}; its log says what its registry lacks",
            ) from error

    def seen_by(self, asker: Asker) -> list[AgentTunnel]:
        """The connected nodes of which the policy permits something to `asker`; Refusal "bad-credentials"."""
        self._standing(asker)
        policy = self._policy()
        return [tunnel for tunnel in self._tunnels.connected() if policy.may_see(asker, tunnel.node)]


def _limited_by(asker: Asker) -> str:
    """Whose limit a request counts to: a name, or else the network it comes from."""
    if asker.names:
        return asker.identity
    return str(network_of(asker.source)) if asker.source is not None else asker.address
