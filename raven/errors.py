"""The exceptions Raven raises on purpose, so that a caller can tell whose fault it was.

Every message says what was wrong, where, and what was expected. `LocalError` is a mistake of the calling
code; `PeerError` is something the other end of a connection did; the rest name a thing the operator can mend.
"""


class RavenError(Exception):
    """What `except` catches to turn any deliberate failure of Raven into one line for its user."""


class LocalError(RavenError):
    """The calling code broke a rule of the interface it called."""


class PeerError(RavenError):
    """The other end broke a protocol; `reason` is a short constant word that counters are keyed by."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class ConfigError(RavenError):
    """A configured value cannot be used: names the file or flag, the key, the value and what was expected."""


class StateError(RavenError):
    """A file of the state directory cannot be read or written; names the file."""


class RefusedError(RavenError):
    """A request was understood and refused; `reason` is a short constant word, the message says why."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
