"""What every test may count on: the markers mean what they say, and a run that was ended clears up.

A test marked `netns` is skipped where no namespace can be made. With RAVEN_REQUIRE_NETNS=1, or
RAVEN_REQUIRE_KUBE=1 for what runs on Kubernetes, as `.ci/run` sets them, a skipped test is a failed one
whatever it lacks: green must not mean that nobody looked.
"""

import functools
import os
import re
import signal
from collections.abc import Generator
from pathlib import Path
from types import FrameType

import hypothesis
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.lab.world import missing

# A single example that meets a busy moment of a shared machine is no failure; pytest bounds the whole test.
hypothesis.settings.register_profile("raven", deadline=None)
hypothesis.settings.load_profile("raven")

REQUIRED = [
    variable
    for variable in ("RAVEN_REQUIRE_NETNS", "RAVEN_REQUIRE_KUBE")
    if os.environ.get(variable, "") not in ("", "0")
]
_why_not = functools.cache(missing)


def pytest_configure(config: pytest.Config) -> None:
    """SIGTERM becomes Ctrl-C, so that fixtures remove the namespaces and processes they made."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The quick tests first, so that a mistake in them is seen before the namespaces are built; among several
    processes last, since one of them has nothing else to do.
    """
    shared_out = hasattr(config, "workerinput")  # this is one of the processes of pytest-xdist
    items.sort(key=lambda item: (item.get_closest_marker("netns") is not None) != shared_out)


class _Shares(LoadScopeScheduling):
    """One process takes every file with namespaces and daemons in it, one after the other, since these need a
    core to themselves; the others share the rest, file by file.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "heavy" if _is_heavy(self.config.rootpath / file) else file


@functools.cache
def _is_heavy(file: Path) -> bool:
    return re.search(r"\bmark\.(netns|interop)\b", file.read_text()) is not None


@pytest.hookimpl(optionalhook=True)  # one may run without xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _Shares(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("netns") is not None and (reason := _why_not()):
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if REQUIRED and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although {REQUIRED[0]} is set: {report.longrepr}"
    return report
