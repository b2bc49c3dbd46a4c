"""The policy that is in force: from a file that may change at any time, or the default.

A file that cannot be used changes nothing: the policy before stays, and log and status say what is wrong.
At the start there is no policy before, so there a broken file ends the gateway.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from raven import log
from raven.errors import ConfigError
from raven.net.watched_file import WatchedFile
from raven.oam.permits import FILE_MAX, Policy, default_policy


def read_policy(path: Path) -> Policy:
    """The policy in the file; ConfigError with a line for each problem."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_MAX + 1)
        if len(data) > FILE_MAX:
            raise ConfigError(f"{path}: larger than {FILE_MAX} bytes, so not a policy")
        return Policy.parse(data.decode(), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; expected a readable policy") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; expected TOML") from error


class PolicyFile:
    """What O&M asks before every request."""

    def __init__(self, path: Path | None) -> None:
        """ConfigError when there is a path and no policy at it."""
        self._watched = None if path is None else WatchedFile(path)
        self.policy = default_policy() if path is None else read_policy(path)
        self.problem = ""  # why the newest file is not in force
        self._log = log.get("policy")

    @property
    def shown(self) -> str:
        return "default" if self._watched is None else str(self._watched.path)

    def reload(self) -> None:
        """Reads the file again at the next chance, changed or not."""
        if self._watched is not None:
            self._watched.nudge()

    async def follow(self, took_effect: Callable[[], None]) -> None:
        """Until cancelled; `took_effect` is called after another policy came into force."""
        if self._watched is None:
            return
        while True:
            await self._watched.changed()
            try:
                self.policy = read_policy(self._watched.path)
            except ConfigError as error:
                self.problem = f"the policy before is still in force: {error}"
                self._log.error("policy not taken", why=str(error))
                continue
            self.problem = ""
            self._log.info("policy taken", file=str(self._watched.path), permits=len(self.policy.permits))
            took_effect()
