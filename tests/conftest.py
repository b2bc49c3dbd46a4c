"""What every test may count on: the markers mean what they say, and a run that was ended clears up.

A test marked `netns` is skipped where no namespace can be made. With RAVEN_REQUIRE_NETNS=1, as `.ci/run` sets
it, a skipped `netns` or `interop` test is a failed one: green must not mean that nobody looked. The same goes
for `kube` and RAVEN_REQUIRE_KUBE.
"""

import functools
import os
import signal
from collections.abc import Generator
from types import FrameType

import hypothesis
import pytest

from tests.lab.world import missing

# A single example that meets a busy moment of a shared machine is no failure; pytest bounds the whole test.
hypothesis.settings.register_profile("raven", deadline=None)
hypothesis.settings.load_profile("raven")

_MARKS = {"RAVEN_REQUIRE_NETNS": ("netns", "interop"), "RAVEN_REQUIRE_KUBE": ("kube",)}
REQUIRED = {
    mark: variable
    for variable, marks in _MARKS.items()
    if os.environ.get(variable, "") not in ("", "0")
    for mark in marks
}
_why_not = functools.cache(missing)


def pytest_configure(config: pytest.Config) -> None:
    """SIGTERM becomes Ctrl-C, so that fixtures remove the namespaces and processes they made."""

    def end(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The quick tests first, so that a mistake in them is seen before the namespaces are built.

    Among several processes one takes all that is made of namespaces and daemons, from the start and one after
    the other, since these need a core to themselves; the others share the rest, file by file.
    """
    shared_out = hasattr(config, "workerinput")  # this is one of several processes of pytest-xdist
    items.sort(key=lambda item: _is_heavy(item) != shared_out)
    for item in items:
        group = "heavy" if _is_heavy(item) else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(group))


def _is_heavy(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(mark) is not None for mark in ("netns", "interop"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("netns") is not None and (reason := _why_not()):
        pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    required = [name for mark, name in REQUIRED.items() if item.get_closest_marker(mark)]
    if required and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped although {required[0]} is set: {report.longrepr}"
    return report
