"""Whether runs of datagrams arrive at one peer as single ones do: a network card or a path may spoil them.

A run leaves in one call and is cut by the kernel or the card, and both have had bugs. Whatever spoils it, the
answer is missing. So while runs of large packets are sent, a run of probes goes with them now and then, and
behind it as many probes alone: first the run, so that a full buffer on the way takes the others. A run that
is answered whole ends the check. When both that went alone were answered, and of the run not both, that is a
miss; loss makes one at times, but not `MISSES` before the first whole run: with 20 % of loss each way that
happens once in 150,000 checks. What else happened proves nothing.

There is no timer: tries are judged by the next run that is sent, so that an idle path costs nothing. Sizes
and answers are `inband`'s; above is `peer_packets`, which asks only peers that answer probes.
"""

from typing import Final

from raven.wg.inband import Probe

MISSES: Final = 12  # in one check, of at most so many tries:
TRIES_MAX: Final = 24
WAIT: Final = 1.0  # seconds that an answer may take; on a slower path nothing is judged
PAUSE: Final = 60.0  # seconds between two checks; each that passes costs four large datagrams
_RUN: Final = 0b0011  # by number: the probes of the run,
_ALONE: Final = 0b1100  # and those alone
_NUMBERS: Final = 3  # the bits of a token that hold the number


class RunCheck:
    """One peer's path."""

    __slots__ = ("_answered", "_misses", "_token", "_tries", "due")

    def __init__(self) -> None:
        self.changed()

    def changed(self) -> None:
        """Call when the peer is somewhere else now: what is known is of another path."""
        self._rest(0.0)

    def _rest(self, until: float) -> None:
        self.due = until  # a run that is sent from then on calls `judge` and `ask`
        self._token = 0
        self._answered = 0  # by number, one bit each
        self._misses = self._tries = 0

    def judge(self, now: float) -> bool:
        """Call when `due`, before `ask`: whether it is certain by now that runs are lost."""
        if not self._tries:
            return False
        whole = self._answered & _RUN == _RUN
        if not whole and self._answered & _ALONE == _ALONE:
            self._misses += 1
        lost = self._misses == MISSES
        if whole or lost or self._tries == TRIES_MAX:
            self._rest(now + PAUSE)
        return lost

    def ask(self, size: int, token: int, now: float) -> list[list[Probe]]:
        """The probes to send now, each list in one call; `size` passes, as far as is known."""
        if now < self.due:
            return []
        self._tries += 1
        self._answered = 0
        self._token = token & ~_NUMBERS
        self.due = now + WAIT
        probes = [Probe(size, self._token | number) for number in range(4)]
        return [probes[:2], probes[2:3], probes[3:]]

    def answered(self, probe: Probe) -> None:
        """Call with every authentic answer; those to other probes change nothing."""
        if self._tries and probe.token & ~_NUMBERS == self._token:
            self._answered |= 1 << (probe.token & _NUMBERS)
