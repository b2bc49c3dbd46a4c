"""The program as a user runs it: bad starts, the background, `wg`, `wg-quick`, and every way to end it."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raven import __version__
from raven.dataplane.main import main
from raven.dataplane.trial import leave_result
from raven.dataplane.uapi import DIRECTORY
from tests.lab.machine import Machine, Result
from tests.lab.waiting import wait_until

KEY = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
PEER = "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg="


def stopped(machine: Machine, process_alive: Callable[[], bool]) -> None:
    """Waits until the process ended, then looks for what it may have left."""
    wait_until(lambda: not process_alive(), what="raven-wg to end", seconds=10)
    assert not (DIRECTORY / f"{machine.interface}.sock").exists()
    assert machine.run("ip", "link", "show", machine.interface, check=False).code == 1


def pids_in(machine: Machine) -> list[str]:
    return subprocess.check_output(["ip", "netns", "pids", machine.namespace], text=True).split()


def one_line(result: Result) -> str:
    """The only line of an error, exit status 1."""
    assert result.code == 1
    assert result.out == ""
    (line,) = result.err.splitlines()
    return line


@pytest.mark.parametrize("flags", [["-f"], []], ids=["foreground", "background"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a-name-of-sixteen", "is no interface name"),
        ("a/b", "is no interface name"),
        ("wg%d", "is no interface name"),
        ("", "is no interface name"),
    ],
)
def test_a_bad_name_is_one_clear_line(name: str, words: str, flags: list[str]) -> None:
    path = Path(sys.executable).with_name("raven-wg")
    done = subprocess.run([path, *flags, name], capture_output=True, text=True, timeout=20, check=False)
    assert words in one_line(Result(done.returncode, done.stdout, done.stderr))


@pytest.mark.netns
def test_offloads_are_tried_for_others_and_the_result_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["raven-wg", "--try-offloads"])
    path = tmp_path / "trial.json"
    monkeypatch.setattr("raven.dataplane.trial.leave_result", lambda: leave_result(path))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert json.loads(path.read_text())["failures"] == {}
    path = tmp_path / "missing" / "trial.json"
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == f"raven-wg: {path}: No such file or directory"


def test_it_loads_nothing_of_the_daemons_loop_or_log() -> None:
    loading = "import sys, raven.dataplane.engine, raven.dataplane.main, raven.dataplane.uapi"
    code = f"{loading}; sys.exit(not {{'trio', 'structlog', 'pyroute2'}}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_its_version() -> None:
    path = Path(sys.executable).with_name("raven-wg")
    done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == f"raven-wg {__version__}\n"


@pytest.mark.netns
@pytest.mark.parametrize("flags", [["-f"], []], ids=["foreground", "background"])
def test_a_name_that_is_taken(machine: Machine, flags: list[str]) -> None:
    line = one_line(machine.run("raven-wg", *flags, "lo", check=False))
    assert line == "raven-wg: lo: exists and is no TUN link"


@pytest.mark.netns
def test_missing_privileges(machine: Machine) -> None:
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) is not installed")
    bounded = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "raven-wg", "-f")
    line = one_line(machine.run(*bounded, machine.interface, check=False))
    assert line == f"raven-wg: {machine.interface}: needs root or CAP_NET_ADMIN"


@pytest.mark.netns
@pytest.mark.parametrize(
    ("level", "said"), [("loud", "raven-wg: LOG_LEVEL='loud' is taken for error; known: verbose"), ("", "")]
)
def test_an_unknown_log_level_is_no_reason_not_to_start(machine: Machine, level: str, said: str) -> None:
    result = machine.run("env", f"LOG_LEVEL={level}", "raven-wg", machine.interface)
    assert result.err.startswith(said)
    assert len(result.err.splitlines()) == bool(said)
    assert machine.run("wg", "show", machine.interface).code == 0
    (pid,) = pids_in(machine)
    (DIRECTORY / f"{machine.interface}.sock").unlink()
    stopped(machine, lambda: Path("/proc", pid).exists())


@pytest.mark.netns
@pytest.mark.parametrize("ending", ["SIGTERM", "SIGINT", "link", "socket"])
def test_every_end_leaves_nothing(machine: Machine, ending: str) -> None:
    process = machine.start("raven-wg", "-f", machine.interface)
    socket = DIRECTORY / f"{machine.interface}.sock"
    wait_until(socket.exists, what="the socket", seconds=15)
    machine.run("ip", "link", "set", machine.interface, "up")
    if ending == "link":
        machine.run("ip", "link", "del", machine.interface)
    elif ending == "socket":
        socket.unlink()
    else:
        process.send_signal(signal.Signals[ending])
    stopped(machine, lambda: process.alive)
    assert process.wait(0) == 0
    assert process.text() == ""


@pytest.mark.netns
def test_the_background(machine: Machine) -> None:
    """The command returns once the socket answers; a second one is refused; deleting the socket ends it."""
    assert machine.run("raven-wg", machine.interface) == Result(0, "", "")
    assert machine.run("wg", "show", machine.interface).code == 0
    line = one_line(machine.run("raven-wg", machine.interface, check=False))
    assert line == f"raven-wg: {machine.interface}: another process has it"
    pids = pids_in(machine)
    assert len(pids) == 1
    (DIRECTORY / f"{machine.interface}.sock").unlink()
    stopped(machine, lambda: Path("/proc", pids[0]).exists())


@pytest.mark.netns
def test_wg_set_and_show(machine: Machine) -> None:
    machine.run("raven-wg", machine.interface)
    configuration = machine.directory / "wg.conf"
    configuration.write_text(
        f"[Interface]\nPrivateKey = {KEY}\nListenPort = 4711\nFwMark = 0x20\n"
        f"[Peer]\nPublicKey = {PEER}\nPresharedKey = {KEY}\nAllowedIPs = 10.0.0.0/8, fd00::/8\n"
        "Endpoint = [2001:db8::1]:99\nPersistentKeepalive = 7\n"
    )
    machine.run("wg", "setconf", machine.interface, str(configuration))
    shown = machine.run("wg", "showconf", machine.interface).out
    for line in configuration.read_text().splitlines():
        assert line in shown.splitlines()
    machine.run("wg", "set", machine.interface, "listen-port", "4712", "peer", PEER, "remove")
    dump = machine.run("wg", "show", machine.interface, "dump").out.splitlines()
    assert [line.split("\t")[2:] for line in dump] == [["4712", "0x20"]]


@pytest.mark.netns
def test_a_link_local_endpoint_survives_showconf_and_setconf(machine: Machine) -> None:
    machine.run("raven-wg", machine.interface)
    endpoint = "[fe80::1%lo]:99"
    machine.run("wg", "set", machine.interface, "peer", PEER, "endpoint", endpoint)
    shown = machine.run("wg", "showconf", machine.interface).out
    assert f"Endpoint = {endpoint}" in shown.splitlines()
    configuration = machine.directory / "wg.conf"
    configuration.write_text(shown)
    for command in ("setconf", "syncconf"):
        machine.run("wg", command, machine.interface, str(configuration))
    assert machine.run("wg", "showconf", machine.interface).out == shown


@pytest.mark.netns
def test_a_port_in_use_is_refused_and_changes_nothing(machine: Machine) -> None:
    machine.run("raven-wg", machine.interface)
    machine.run("ip", "link", "set", machine.interface, "up")
    port = machine.run("wg", "show", machine.interface, "listen-port").out.strip()
    second = machine.interface[:-1] + "2"
    machine.run("raven-wg", second)
    machine.run("ip", "link", "set", second, "up")
    refused = machine.run("wg", "set", second, "listen-port", port, "fwmark", "9", check=False)
    assert refused.code == 1
    assert "Address already in use" in refused.err
    assert machine.run("wg", "show", second, "fwmark").out.strip() == "off"


@pytest.mark.netns
def test_wg_quick(machine: Machine) -> None:
    if shutil.which("wg-quick") is None:
        pytest.skip("wg-quick (wireguard-tools) is not installed")
    configuration = machine.directory / f"{machine.interface}.conf"
    configuration.write_text(
        f"[Interface]\nPrivateKey = {KEY}\nAddress = 10.0.0.1/24, fd00::1/64\nMTU = 1400\n"
        f"[Peer]\nPublicKey = {PEER}\nAllowedIPs = 10.1.0.0/16\n"
    )
    configuration.chmod(0o600)
    quick = ("env", "WG_QUICK_USERSPACE_IMPLEMENTATION=raven-wg", "wg-quick")
    machine.run(*quick, "up", str(configuration))
    assert machine.run("wg", "show", machine.interface, "peers").out.strip() == PEER
    assert "mtu 1400" in machine.run("ip", "link", "show", machine.interface).out
    assert "10.1.0.0/16" in machine.run("ip", "route").out
    pids = pids_in(machine)
    machine.run(*quick, "down", str(configuration))
    stopped(machine, lambda: any(Path("/proc", pid).exists() for pid in pids))
