"""Which tests may fail once in CI, and how many of them: what runs real programs shares a machine's time.

A test that waits for another process can meet a busy moment that it was not written for. In CI it runs once
more, and the summary names it; more than `RERUNS_MAX` of them fail the run. The layers that decide and never
wait have no such excuse, and are never run again. Nor is anything outside CI: there one wants to see it.
"""

import os
from pathlib import Path
from typing import Final

import pytest

RERUNS_MAX: Final = 3  # in one run of thousands
# Tests of what has no clock, no socket and no process: a failure there is a failure.
_PURE: Final = frozenset({"control", "ip", "mux", "oam", "pki", "topology", "wg"})


def may_fail_once(path: Path, root: Path) -> bool:
    """Whether the tests of this file depend on what else the machine does."""
    parts = path.relative_to(root / "tests").parts
    return len(parts) > 1 and parts[0] not in _PURE


def allow_reruns(items: list[pytest.Item], root: Path) -> None:
    """Marks the tests that CI runs once more when they fail."""
    if os.environ.get("CI", "") in ("", "false"):
        return
    again = pytest.mark.flaky(reruns=1)
    for item in items:
        if may_fail_once(item.path, root):
            item.add_marker(again)


def complaint(config: pytest.Config) -> str | None:
    """What is wrong with the number of tests that ran again, of all processes."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    again = len(reporter.stats.get("rerun", ())) if reporter is not None else 0
    if again <= RERUNS_MAX:
        return None
    return f"{again} tests had to run again, more than {RERUNS_MAX}: that is no busy moment"
