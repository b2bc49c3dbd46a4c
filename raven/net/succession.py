"""The transports of one tunnel, one after another: which is next, and do both ends mean the same connection.

`raven.net.tunnel` owns the connection and says when it is over; `transport_driver` carries it while one
transport lives. `frames` has the rules of the RESUME that begins each.
"""

import os
from hmac import compare_digest
from typing import Final, Protocol

import trio

from raven.errors import PeerError
from raven.mux.resume import Resume
from raven.net.transport_driver import Carriage, Owner, TransportDriver

GREETING_MAX: Final = 10.0  # seconds for the other end's RESUME; what a TLS handshake gets


class Successor(Owner, Protocol):
    """What this needs of its tunnel."""

    def lose(self, reason: str, message: str, *, cause: Exception | None = None) -> None:
        """The tunnel has ended; the first reason counts."""


class Succession:
    """The transports of `owner`, beginning with `first`."""

    def __init__(self, owner: Successor, first: Carriage, *, initiator: bool) -> None:
        self.driver: TransportDriver | None = None  # of the transport now
        self.known = False  # the peer has said its first RESUME: from now on it would know another transport
        self.resumed = 0  # how often the connection went on over another transport
        self.unresumed: Carriage | None = None  # a transport on which the peer began anew
        self.news = trio.Event()  # set, and replaced, when there is another transport, or none any more
        self._owner = owner
        self._initiator = initiator
        self._next: Carriage | None = first
        self._id = os.urandom(16)
        self._number = 0  # of the newest transport
        self._closed = False

    def fits(self, theirs: Resume) -> bool:
        """Whether a transport on which the peer said this is the next one."""
        known = compare_digest(theirs.connection, self._id)
        return known and theirs.transport > self._number and not self._owner.connection.ended

    async def carry(self, carriage: Carriage) -> None:
        """Hands over the next transport; returns when the ends have found each other on it, or will not."""
        waiting, self._next = self._next, carriage
        if waiting is not None:
            await waiting.drop()
        if self.driver is not None:
            self.driver.scope.cancel()
        self.change()
        if self._closed:
            await carriage.drop()
        await carriage.settled.wait()

    def change(self) -> None:
        """Wakes whoever waits for news."""
        self.news.set()
        self.news = trio.Event()

    def answered(self, theirs: Resume) -> None:
        """The peer's answer to our RESUME; PeerError when it does not fit."""
        if theirs.connection != self._id or theirs.transport not in (0, self._number):
            raise PeerError("wrong-resume", "the other end answered with the RESUME of another connection")
        self.known = True

    async def run(self) -> None:
        """Carries the connection until it needs no transport any more."""
        owner = self._owner
        if owner.connection.ended and self._next is not None:  # before it began: only the reason is said
            self.driver, self._next = TransportDriver(self._next, owner), None
            await self.driver.run(ours=None, hear_theirs=False)
        while not (owner.done or owner.connection.ended):
            while self._next is None:
                if owner.done:
                    return
                await self.news.wait()
            carriage, self._next = self._next, None
            try:
                await self._carry_one(carriage)
            finally:
                carriage.settled.set()
            if owner.done or owner.connection.ended or self.unresumed is not None:
                return
            await self._give_up()

    async def close(self, *, graceful: bool) -> None:
        """No transport is needed any more; the one there is closes."""
        self._closed = True
        self.change()
        if self.driver is not None and self.unresumed is None:
            await self.driver.close(graceful=graceful)
        if self._next is not None:
            await self._next.drop()

    async def _carry_one(self, carriage: Carriage) -> None:
        driver = self.driver = TransportDriver(carriage, self._owner)
        with driver.scope:
            suspended = self._owner.connection.suspended_since is not None
            first = self._initiator and carriage.theirs is None and not suspended
            if not first and not await self._greet(driver, carriage.theirs):
                return
            carriage.settled.set()
            self.change()
            self._owner.flush()
            ours = self._position() if first or not self._initiator else None
            await driver.run(ours=ours, hear_theirs=first)

    async def _greet(self, driver: TransportDriver, theirs: Resume | None) -> bool:
        """Whether both ends know what the transport is for. The first of an initiator learns it later."""
        suspended = self._owner.connection.suspended_since is not None
        try:
            with trio.fail_after(GREETING_MAX):
                if suspended:
                    return await self._find_each_other(driver, theirs)
                theirs = theirs or await driver.hear()
                self._id, self.known = theirs.connection, True
                return True
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            if not suspended:
                why = f"{error.__cause__ or error}" or f"no RESUME within {GREETING_MAX:.0f} s"
                self._owner.lose("transport", why, cause=error)
            return False
        except PeerError as error:
            self._owner.lose(error.reason, str(error), cause=error)
            return False

    async def _find_each_other(self, driver: TransportDriver, theirs: Resume | None) -> bool:
        """The RESUMEs of a transport that is not the first; whether the connection goes on."""
        if self._initiator:
            self._number += 1
            theirs = await driver.greet(self._position())
            self.answered(theirs)
            if theirs.transport == 0:
                self.unresumed = driver.hand_over(theirs)
                text = "the other end does not know this connection any more, so it restarted"
                self._owner.lose("not-resumed", text)
                return False
        elif theirs is None or not self.fits(theirs):
            return False
        else:
            self._number = theirs.transport
        self.resumed += 1
        self._owner.connection.transport_came(theirs.received, trio.current_time())
        return True

    async def _give_up(self) -> None:
        """The transport broke, or another one waits; the connection may not know yet."""
        assert self.driver is not None
        lost = PeerError("transport", "it gave way to another transport")
        self._owner.connection.transport_lost(lost, trio.current_time())
        self._owner.flush()
        await self.driver.close(graceful=False)
        self.driver = None

    def _position(self) -> Resume:
        """Our RESUME now."""
        return Resume(self._id, self._number, self._owner.connection.received)
