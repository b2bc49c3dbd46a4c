"""Opens the registry that a state directory stands for, for a command: its own file, or its cluster's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from raven.registry.gateway_state import registry_path
from raven.registry.shared_state import read_shared_file
from raven.registry.sqlite import SqliteRegistry, open_existing


@contextlib.contextmanager
def opened(directory: Path, *, now: float) -> Iterator[SqliteRegistry]:
    """Whether the gateway runs or not; StateError where there is no registry, or it does not answer."""
    shared = read_shared_file(directory, now=now)
    if shared is None:
        with open_existing(registry_path(directory), now=now) as own:
            yield own
        return
    from raven.registry.kubernetes_start import open_for_commands  # who has no cluster does not pay for it

    with contextlib.closing(open_for_commands(directory, shared, now=now)) as registry:
        yield registry
