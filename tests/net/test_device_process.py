"""Why a device cannot be started, and that its process is known again."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
import trio
from structlog.testing import capture_logs
from structlog.typing import EventDict

from raven.net import device_process
from raven.net.device_process import DeviceProcess, start_blocker
from tests.lab.machine import Machine
from tests.net.hosts import host
from tests.net.lanes import Lane, hub


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with host(tmp_path) as made:
        yield made


@pytest.mark.netns
def test_without_the_capability_the_sentence_says_so(machine: Machine) -> None:
    lane = hub(machine, None)
    lane.start("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin")
    assert lane.status().problem.startswith("no CAP_NET_ADMIN: run as root")
    assert lane.stop() == 0


@pytest.mark.netns
def test_without_tun_the_sentence_says_so(machine: Machine) -> None:
    lane = hub(machine, None)
    lane.start("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /dev/net && exec "$@"', "sh")
    assert lane.status().problem.startswith("/dev/net/tun is not there")
    assert lane.stop() == 0


@pytest.mark.netns
def test_a_device_that_cannot_start_tells_why_in_its_own_words(machine: Machine) -> None:
    lane = hub(machine, ["sh", "-c", "echo the board has no cipher >&2; exit 3"])
    lane.start()
    assert lane.status().problem == "raven-wg ended with 3: the board has no cipher"
    assert lane.stop() == 0
    lane = Lane(machine, "missing", program=["/nowhere/raven-wg"])
    lane.start()
    assert lane.status().problem == "/nowhere/raven-wg cannot be run: No such file or directory"
    assert lane.stop() == 0


def test_without_the_program_the_sentence_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert start_blocker() == f"raven-wg is neither beside {tmp_path}/python nor on the PATH"


async def test_a_process_is_found_by_pid_and_start_time_and_a_stranger_is_not() -> None:
    process = await DeviceProcess.start(["sleep", "60"])
    found = DeviceProcess.find(process.pid, process.start_time)
    assert found is not None
    assert DeviceProcess.find(process.pid, process.start_time + 1) is None
    assert DeviceProcess.find(0, 0) is None
    async with trio.open_nursery() as nursery:

        async def ended() -> None:
            assert await found.wait_ended() == "raven-wg ended"

        nursery.start_soon(ended)
        await process.stop()
    await found.close()
    await process.close()


async def test_what_it_says_goes_into_the_log_and_its_last_lines_into_the_reason() -> None:
    process = await DeviceProcess.start(
        ["sh", "-c", "for n in 1 2 3 4; do echo line $n >&2; done; printf 'half a line' >&2; kill -9 $$"]
    )
    with capture_logs() as lines:
        await process.follow(structlog.get_logger())
    assert [line["says"] for line in lines] == ["line 1", "line 2", "line 3", "line 4", "half a line"]
    assert await process.wait_ended() == "raven-wg was killed by signal 9: line 3 / line 4 / half a line"
    await process.close()


async def test_one_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_process, "STOP_MAX", 0.2)
    ready = trio.Event()

    def hear(logger: object, method: str, event: EventDict) -> EventDict:
        ready.set()
        raise structlog.DropEvent

    process = await DeviceProcess.start(["sh", "-c", "trap '' TERM; echo ready >&2; read x </dev/zero"])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(process.follow, structlog.wrap_logger(None, processors=[hear]))
        await ready.wait()
        await process.stop()
        nursery.cancel_scope.cancel()
    assert await process.wait_ended() == "raven-wg was killed by signal 9: ready"
    await process.close()
