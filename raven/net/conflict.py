"""Two tasks in one direction of one stream is a mistake of the caller, not something to wait for."""

from types import TracebackType

import trio


class ConflictDetector:
    """`with` it around an operation: BusyResourceError when another task is inside."""

    __slots__ = ("_busy", "_message")

    def __init__(self, message: str) -> None:
        self._busy = False
        self._message = message

    def __enter__(self) -> None:
        if self._busy:
            raise trio.BusyResourceError(self._message)
        self._busy = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._busy = False
