"""A file that takes effect when it changes: looked at every second, and at once on SIGHUP.

Without inotify, which does not see what happens on the other side of a mount, and says nothing of a
directory that was swapped, as Kubernetes does with a ConfigMap.
"""

from pathlib import Path
from typing import Final

import trio

INTERVAL: Final = 1.0  # seconds between two looks; each is one stat


class WatchedFile:
    """Tells when the file at `path` may have changed."""

    def __init__(self, path: Path, *, interval: float = INTERVAL) -> None:
        self.path = path
        self._interval = interval
        self._nudged = trio.Event()
        self._seen = self._look()

    def nudge(self) -> None:
        """The next `changed` returns, whatever the file looks like."""
        self._nudged.set()

    async def changed(self) -> None:
        """Returns once the file is another than at the last return, or somebody nudged."""
        while not self._nudged.is_set():
            now = self._look()
            if now != self._seen:
                # Whoever writes in place is seen half done; what has come to rest for a moment is whole.
                await trio.sleep(self._interval / 4)
                if self._look() == now:
                    self._seen = now
                    return
                continue
            with trio.move_on_after(self._interval):
                await self._nudged.wait()
        self._nudged = trio.Event()
        self._seen = self._look()

    def _look(self) -> tuple[int, ...] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
