"""The numbers both ends of the stream lane must agree on: priorities, and why a stream or connection ends.

All of them travel; a number is never reused for another meaning. `frames` says where each one stands.
"""

from enum import IntEnum


class Priority(IntEnum):
    """Which stream goes first when both have something to send; chosen by the opener, used by both ends."""

    INTERACTIVE = 0  # someone waits for each answer: exec, a scrape, a page
    BULK = 1  # only the total time counts: copies, log archives


class RefusalCode(IntEnum):
    """Why an OPEN was answered with RESET instead of ACCEPT."""

    FORBIDDEN = 1  # the agent's owner did not allow this target
    UNREACHABLE = 2  # the target could not be connected to
    TIMEOUT = 3  # the target did not answer in time
    BUSY = 4  # too many streams already
    BAD_REQUEST = 5  # the OPEN header makes no sense
    GOING_AWAY = 6  # the end that was asked is shutting down
    INTERNAL = 7  # a fault of the end that was asked


class ResetCode(IntEnum):
    """Why a stream that was accepted ended before both sides said FIN."""

    CLOSED = 64  # the sender wrote its last byte and reads no more; what it wrote before stays good
    ABORTED = 65  # the program behind the sender broke off (a TCP RST, a cancelled task)
    CANCELLED = 66  # the opener no longer wants an answer to its OPEN


class EndCode(IntEnum):
    """Why a GOAWAY was sent."""

    SHUTDOWN = 0  # no fault: streams may finish, no new ones are taken
    PROTOCOL = 1  # the receiver of the GOAWAY broke a rule; the connection ends at once
    INTERNAL = 2  # a fault of the sender; the connection ends at once
