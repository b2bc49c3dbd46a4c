"""A time that moves while somebody waits for it."""

from collections.abc import Callable
from typing import Final

import trio

# After a busy time bytes may wait in a socket that make the alarm a false one; their reader goes first.
_PASSES: Final = 3


class Alarm:
    """Calls `ring` whenever the time has come that `when` names, trio.current_time(); ends at None.

    The time may move either way; whoever may have moved it to an earlier one calls `look`.
    """

    def __init__(self, when: Callable[[], float | None], ring: Callable[[], None]) -> None:
        self._when = when
        self._ring = ring
        self._moved = trio.Event()
        self._at = float("-inf")  # what `run` waits for

    def look(self) -> None:
        """Costs next to nothing where the time is the same or a later one: `run` asks again by itself."""
        at = self._when()
        if at is None or at < self._at:
            self._moved.set()

    async def run(self) -> None:
        while (at := self._when()) is not None:
            self._at, self._moved = at, trio.Event()
            with trio.move_on_at(at):
                await self._moved.wait()
            if trio.current_time() >= at:
                for _ in range(_PASSES):
                    await trio.lowlevel.checkpoint()
                self._ring()
