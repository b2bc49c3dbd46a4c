"""The certificate this node dials with: when it is due, how it is replaced, and what time it is.

One for all uplinks: whichever has a tunnel when the certificate is due asks over it. The gateway tells how
many seconds are left, so that no clock of this machine plays a part. What takes `cryptography` runs in a
child process (`agent.renew`). A renewal that fails is a sentence in the status and is tried again, with the
same key: so an answer that comes after all is put in place as well, over whichever tunnel.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
import trio

from raven import log
from raven.control.messages import GatewayHello, Renewed, RenewRefused, RenewRequest, encode
from raven.errors import PeerError, RavenError, RefusedError, StateError
from raven.net.tls import Peer, agent_context, ca_label
from raven.net.tunnel import Tunnel, TunnelLost
from raven.pki.renewal import is_believable, is_valid_at
from raven.registry import files
from raven.registry.agent_state import AgentState, read_agent_file

CHILD = (sys.executable, "-P", "-m", "agent.renew")  # -P: the working directory is no place to import from
CHILD_MAX = 60.0  # seconds; half a second on a good machine, and a small one may be swapping
ANSWER_MAX = 30.0  # seconds; the gateway waits for its disk
PAUSE_MIN = 60.0  # seconds between two renewals, whatever the gateway says
RETRY_MAX = 3600.0  # seconds: the bound of every wait after some failures
SKEW_MAX = 3600.0  # seconds a clock may be wrong without a word; as much as certificates are dated back


class Renewal:
    """Keeps the certificate of `state` young, and its CA the gateway's."""

    def __init__(
        self,
        state: AgentState,
        *,
        child: Sequence[str] = CHILD,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._state = state
        self._child = child
        self._chance = chance
        self._floor = state.time_floor
        self._turn = trio.Lock()  # one renewal at a time, over whichever tunnel
        self._due = 0.0  # trio.current_time()
        self._request = ""  # the CSR, until it was granted
        self._failures = 0  # in a row
        self._problem = ""
        self._skew = 0.0  # seconds the gateway's clock is ahead of ours
        self._asked: tuple[Tunnel, trio.MemorySendChannel[Renewed | RenewRefused]] | None = None
        self._owing: weakref.WeakSet[Tunnel] = weakref.WeakSet()  # asked, and no answer until now
        self._late: Renewed | None = None  # came when nobody waited any more, to be put in place
        self._log = log.get("renewal")
        self.context = agent_context(state)  # for the next dial
        self._cas = _read_cas(state)
        self._sooner = trio.Event()  # set when `_due` has come nearer
        self.renewals = 0  # certificates that were put in place; a tunnel dialled before has an older one

    @property
    def server_name(self) -> str:
        """What to say in the handshake, so that a gateway with two CAs shows the one we know."""
        return ca_label(self._cas)

    def problems(self) -> list[str]:
        """Sentences an operator should read."""
        found = [self._problem] if self._problem else []
        if abs(self._skew) > SKEW_MAX:
            ahead = "behind" if self._skew > 0 else "ahead of"
            found.append(f"this machine's clock is {_span(abs(self._skew))} {ahead} the gateway's")
        return found

    def check_time(self, peer: Peer, hello: GatewayHello) -> None:
        """Judges the gateway's certificate by the time the gateway tells, now.

        PeerError "certificate-time" when it does not count, or when it cannot be so early.
        """
        if not is_believable(hello.now, self._floor):
            raise PeerError(
                "certificate-time",
                f"it says that it is {_date(hello.now)}, and our certificate was issued after"
                f" {_date(self._floor)}: its clock is wrong, or it is none of our gateways",
            )
        if not is_valid_at(hello.now, peer.not_before, peer.not_after):
            raise PeerError(
                "certificate-time",
                f"its certificate counts from {_date(peer.not_before)} to {_date(peer.not_after)},"
                f" and by its own clock it is {_date(hello.now)}",
            )
        self._skew = hello.now - time.time()

    async def keep(self, tunnel: Tunnel, hello: GatewayHello, renewals: int) -> None:
        """Renews over `tunnel` whenever it is due, until cancelled or the tunnel is lost.

        `renewals` is what the counter said when the tunnel was dialled: what the gateway says of an older
        certificate does not matter any more.
        """
        await self._follow_ca(hello)
        if hello.renew_in is None:
            return
        if renewals == self.renewals:
            self._due = trio.current_time() + hello.renew_in
        try:
            while True:
                with trio.CancelScope(deadline=self._due):
                    await self._sooner.wait()
                async with self._turn:
                    if trio.current_time() >= self._due:
                        self._due = trio.current_time() + await self._attempt(tunnel)
        except TunnelLost:
            return

    async def hear(self, hello: GatewayHello) -> None:
        """Called with what the gateway says again over a tunnel that is up: it has another CA now."""
        await self._follow_ca(hello)
        if hello.renew_in is not None:
            self._make_due(hello.renew_in)

    async def renew_expired(self, tunnel: Tunnel, hello: GatewayHello, renewals: int) -> None:
        """Renews over a tunnel that is good for nothing else, and ends it."""
        await self._follow_ca(hello)
        try:
            async with self._turn:
                if renewals == self.renewals:
                    self._due = trio.current_time() + await self._attempt(tunnel)
        except TunnelLost:
            return
        if renewals == self.renewals:
            tunnel.abort("not-renewed", self._problem)
        else:
            await tunnel.drain("the certificate is renewed")

    def answered(self, tunnel: Tunnel, answer: Renewed | RenewRefused) -> None:
        """Called with what the gateway says to a request; PeerError "bad-control" when there was none.

        A certificate that comes too late, over a tunnel that was away for a while, is put in place all the
        same: the gateway may take it for the one we have. A refusal that does costs nothing but itself.
        """
        if tunnel not in self._owing:
            raise PeerError("bad-control", "the gateway answers a renewal that nobody asked for")
        self._owing.discard(tunnel)
        if self._asked is not None and (self._asked[0] is tunnel or isinstance(answer, Renewed)):
            self._asked[1].send_nowait(answer)  # whichever gateway it is of: the request is one
            self._asked = None
        elif isinstance(answer, Renewed) and self._request:
            self._late = answer
            self._make_due(0.0)

    def _make_due(self, seconds: float) -> None:
        self._due = min(self._due, trio.current_time() + seconds)
        self._sooner.set()
        self._sooner = trio.Event()

    async def _follow_ca(self, hello: GatewayHello) -> None:
        """Lets a child judge what the gateway says of its CA, where that is news."""
        async with self._turn:
            single = self._cas.count("BEGIN CERTIFICATE") == 1
            if not hello.ca_pem or (
                ca_label(hello.ca_pem) == self.server_name and (hello.ca_overlap or single)
            ):
                return
            said = {"ca_pem": hello.ca_pem, "link_pem": hello.ca_link_pem, "overlap": hello.ca_overlap}
            try:
                with trio.CancelScope(shield=True):
                    await self._run("trust", msgspec.json.encode(said).decode())
                self._cas = _read_cas(self._state)
                self.context = agent_context(self._state)
                self._log.info("took the gateway's word on its CA", knows=self._cas.count("BEGIN CERT"))
            except (RavenError, OSError) as error:
                self._failed(error)

    async def _attempt(self, tunnel: Tunnel) -> float:
        """One renewal, well or not; seconds until the next. TunnelLost."""
        answer, self._late = self._late, None
        try:
            if not self._request:
                self._request = await self._run("request")
            if answer is None:
                answer = await self._ask(tunnel)
            # A cancellation in the middle would leave the new pair on disk and the old one in use.
            with trio.CancelScope(shield=True):
                await self._run("install", answer.certificate_pem)
            self._use()
        except TunnelLost:
            raise
        except (RavenError, OSError) as error:
            return self._failed(error)
        self._request, self._late, self._problem, self._failures = "", None, "", 0
        self.renewals += 1
        self._log.info("certificate renewed", next_days=round(answer.renew_in / 86400, 1))
        return max(PAUSE_MIN, answer.renew_in)

    async def _ask(self, tunnel: Tunnel) -> Renewed:
        send, receive = trio.open_memory_channel[Renewed | RenewRefused](1)
        self._asked = (tunnel, send)
        try:
            with trio.fail_after(ANSWER_MAX):
                if tunnel not in self._owing:  # what was sent arrives: once more would not be sooner
                    await tunnel.send_control(encode(RenewRequest(csr_pem=self._request)))
                    self._owing.add(tunnel)
                answer = await receive.receive()
        except trio.TooSlowError as error:
            raise PeerError("timeout", f"no answer within {ANSWER_MAX:.0f} s") from error
        finally:
            self._asked = None
        if isinstance(answer, RenewRefused):
            raise RefusedError(answer.reason, f"the gateway refuses: {answer.message}")
        return answer

    async def _run(self, command: str, given: str = "") -> str:
        """What the child printed; StateError with its complaint."""
        with trio.move_on_after(CHILD_MAX) as scope:
            done = await trio.run_process(
                [*self._child, command, str(self._state.directory)],
                stdin=given.encode(),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                # The child holds the directory too, should it outlive us.
                pass_fds=(self._state.lock.fileno(),),
            )
        if scope.cancelled_caught:
            raise StateError(f"{self._state.directory}: {command} did not end within {CHILD_MAX:.0f} s")
        _check(done)
        return done.stdout.decode()

    def _use(self) -> None:
        """Everything dialled from now on shows the certificate on disk."""
        self.context = agent_context(self._state)
        self._floor = read_agent_file(self._state.directory, now=time.time()).time_floor

    def _failed(self, error: Exception) -> float:
        problem = f"the certificate was not renewed: {error}"
        if problem != self._problem:
            self._problem = problem
            self._log.warning("certificate not renewed", why=str(error))
        self._failures += 1
        most = min(RETRY_MAX, PAUSE_MIN * 2.0 ** min(self._failures, 10))
        return PAUSE_MIN + self._chance() * (most - PAUSE_MIN)


def _read_cas(state: AgentState) -> str:
    return files.read(state.ca).decode("ascii", "replace")


def _check(done: subprocess.CompletedProcess[bytes]) -> None:
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").splitlines() or [f"exit code {done.returncode}"]
        raise StateError(lines[-1])


def _span(seconds: float) -> str:
    for unit, length in (("years", 365.25 * 86400), ("days", 86400)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 3600:.0f} hours"


def _date(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
