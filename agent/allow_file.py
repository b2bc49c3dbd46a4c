"""The agent's allow list, followed in its configuration file while the agent runs.

Of the file only `allow` and `node_address` take effect at once; what else changed waits for the next start,
and the status says so. A file that cannot be used changes nothing: the list before stays.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from agent.options import AgentOptions
from raven import log
from raven.errors import ConfigError
from raven.net.watched_file import WatchedFile

INTERVAL: Final = 5.0  # seconds between two looks: a device on a battery wakes up for each
_LIVE: Final = ("allow", "node_address")


class AllowFile:
    """The configuration file of a running agent, if it has one."""

    def __init__(
        self,
        options: AgentOptions,
        path: Path | None,
        load: Callable[[], AgentOptions] | None,
        apply: Callable[[AgentOptions], int],
    ) -> None:
        """`apply` puts a list into force and says how many streams ended by it."""
        self._started = options
        self._now = options
        self._watched = None if path is None or load is None else WatchedFile(path, interval=INTERVAL)
        self._load = load
        self._apply = apply
        self._problem = ""  # why the newest file is not in force
        self._waiting: list[str] = []  # keys that need a restart
        self._log = log.get("allow")

    def problems(self) -> list[str]:
        waiting = f"{', '.join(self._waiting)} changed in the file: takes effect at the next start"
        return [*filter(None, [self._problem]), *([waiting] if self._waiting else [])]

    def reload(self) -> None:
        """Reads the file again at the next chance, changed or not."""
        if self._watched is not None:
            self._watched.nudge()

    async def follow(self) -> None:
        """Until cancelled."""
        if self._watched is None or self._load is None:
            return
        while True:
            await self._watched.changed()
            try:
                options = self._load()
            except ConfigError as error:
                self._problem = f"the allow list before is still in force: {error}"
                self._log.error("configuration not taken", why=str(error))
                continue
            self._problem = ""
            self._waiting = [
                key
                for key in (field.name for field in msgspec.structs.fields(AgentOptions))
                if key not in _LIVE and getattr(options, key) != getattr(self._started, key)
            ]
            if any(getattr(options, key) != getattr(self._now, key) for key in _LIVE):
                cut = self._apply(options)
                self._log.info("allow list taken", rules=len(options.allow), cut=cut)
            self._now = options
