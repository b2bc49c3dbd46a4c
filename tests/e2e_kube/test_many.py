"""Many of everything, whole and broken off: afterwards the daemons hold what they held before.

Requests go through an API server as kubectl's do: a few by kubectl itself, over SPDY, the others by a client
that speaks the same API over WebSockets and costs no process. `make soak-kube` makes ten thousand of them.
"""

import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e_kube import ways
from tests.e2e_kube.client import Client
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.control_plane import ApiServer
from tests.e2e_kube.raven import Raven
from tests.e2e_kube.terminal import Running
from tests.lab.errors import LabError
from tests.lab.raven import Daemon
from tests.lab.waiting import wait_until
from tests.soak.__main__ import look, rest
from tests.soak.growth import Look, grown

MANY = int(os.environ.get("RAVEN_KUBE_MANY", "500"))  # requests in all, shared by the ways
TURNS = 6  # looks at what the daemons hold; the first third is warm-up
KUBECTL = 25  # of so many requests one is a kubectl
AT_ONCE = 8
KEPT = 4  # streams that an API server keeps open to the kubelets of two nodes, to use them again
BACK = 20.0  # seconds for the last connections to end
_SECONDS_EACH = 2.0  # at most, on a busy machine

Visit = Callable[[str], None]  # the letter of a site


@pytest.mark.timeout(300 + MANY * _SECONDS_EACH)
@pytest.mark.parametrize("name", ways.WAYS)
def test_many_requests_leave_nothing_behind(cluster: Cluster, name: str, raven_up: Raven) -> None:
    """By an API server of its own: with it end the connections to kubelets that it keeps for reuse."""
    daemons: list[Daemon] = [raven_up.gateway, *raven_up.agents.values()]
    before = _descriptors(daemons)
    looks: dict[str, list[Look]] = {daemon.name: [] for daemon in daemons}
    server = ways.WAYS[name](cluster)
    visits = _visits(server, cluster.pki)
    count = MANY // len(ways.WAYS)
    try:
        for turn in range(TURNS):
            _ask(visits, range(count * turn // TURNS, count * (turn + 1) // TURNS))
            rest(daemons, kept=KEPT)
            for daemon in daemons:
                looks[daemon.name].append(look(daemon))
    finally:
        server.stop()
    wait_until(
        lambda: all(now <= before[daemon] for daemon, now in _descriptors(daemons).items()),
        what=f"{before} descriptors again, now {_descriptors(daemons)}",
        seconds=BACK,
    )
    rest(daemons)
    problems = [
        problem
        for daemon, seen in looks.items()
        for problem in grown(daemon, [*seen, look(next(one for one in daemons if one.name == daemon))])
    ]
    assert problems == []


def _descriptors(daemons: Sequence[Daemon]) -> dict[str, int]:
    found = {}
    for daemon in daemons:
        assert daemon.process is not None
        found[daemon.name] = len(list(Path(f"/proc/{daemon.process.pid}/fd").iterdir()))
    return found


def _ask(visits: tuple[Sequence[Visit], Sequence[Visit]], numbers: range) -> None:
    """Side by side; the choice depends on the number alone."""
    cheap, dear = visits

    def one(number: int) -> None:
        kinds = dear if number % KUBECTL == 0 else cheap
        random.Random(number).choice(kinds)("ab"[number % 2])

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(one, numbers))


def _visits(server: ApiServer, pki: Path) -> tuple[Sequence[Visit], Sequence[Visit]]:
    """What is asked by the client, and by kubectl: whole, or broken off at either end."""
    client, pod = Client(server, pki), "/api/v1/namespaces/default/pods/ticker-site-"

    def logs(letter: str) -> None:
        assert client.get(f"{pod}{letter}/log?tailLines=1").startswith(b"tick ")

    def execute(letter: str) -> None:
        assert client.exec(f"ticker-site-{letter}", "cat", "/www/name") == (0, f"site-{letter}\n")

    def node(letter: str) -> None:
        assert client.get(f"/api/v1/nodes/site-{letter}/proxy/healthz") == b"ok"

    def forward(letter: str) -> None:
        said = b""
        with client.open_forward(f"ticker-site-{letter}", 8080) as forwarded:
            forwarded.send(b"GET /name HTTP/1.0\r\n\r\n")
            while not said.endswith(f"site-{letter}\n".encode()):
                message = forwarded.receive()
                assert message is not None, said
                said += message[1]

    def broken_logs(letter: str) -> None:
        with client.answer(f"{pod}{letter}/log?follow=true&tailLines=1") as answer:
            assert answer.read(5) == b"tick "

    def broken_exec(letter: str) -> None:
        with client.open_exec(f"ticker-site-{letter}", "cat") as cat:
            cat.send(b"hello\n")

    def broken_at_the_edge(letter: str) -> None:
        """The command is killed over there."""
        try:
            code, _ = client.exec(f"ticker-site-{letter}", "sh", "-c", "kill -9 $$")
        except LabError:
            return  # containerd of 1.20's time has no status for it
        assert code == 137

    def kubectl_logs(letter: str) -> None:
        assert server.kubectl("logs", "--tail=1", f"ticker-site-{letter}").out.startswith("tick ")

    def kubectl_exec(letter: str) -> None:
        asked = ("exec", f"ticker-site-{letter}", "--", "cat", "/www/name")
        assert server.kubectl(*asked).out == f"site-{letter}\n"

    def kubectl_killed(letter: str) -> None:
        script = "echo up; cat"
        with Running(server, "exec", "-i", f"ticker-site-{letter}", "--", "sh", "-c", script) as shell:
            shell.until("up\n")
            shell.kill()

    def kubectl_forward(letter: str) -> None:
        with Running(server, "port-forward", f"ticker-site-{letter}", ":8080") as forwarded:
            port = forwarded.until("->").split("127.0.0.1:")[1].split()[0]
            url = f"http://127.0.0.1:{port}/name"
            assert server.machine.run("curl", "-sS", "-m", "20", url, seconds=30).out == f"site-{letter}\n"
            forwarded.interrupt()
            forwarded.wait()

    cheap = [logs, execute, node, forward, broken_logs, broken_exec, broken_at_the_edge]
    return cheap, [kubectl_logs, kubectl_exec, kubectl_killed, kubectl_forward]
