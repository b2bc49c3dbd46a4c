"""Many of everything, whole and broken off: afterwards the daemons hold what they held before."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e_kube import ways
from tests.e2e_kube.client import Client
from tests.e2e_kube.cluster import Cluster
from tests.e2e_kube.raven import Raven
from tests.lab.waiting import wait_until

MANY = int(os.environ.get("RAVEN_KUBE_MANY", "300"))  # requests in all; 10,000 take a quarter of an hour
AT_ONCE = 8
BACK = 20.0  # seconds for the last connections to end


def descriptors(raven_up: Raven) -> dict[str, int]:
    daemons = {"gateway": raven_up.gateway.process, **{a.name: a.process for a in raven_up.agents.values()}}
    found = {}
    for name, process in daemons.items():
        assert process is not None
        found[name] = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
    return found


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ways.WAYS)
def test_many_requests_leave_nothing_behind(cluster: Cluster, name: str, raven_up: Raven) -> None:
    """By an API server of its own: with it end the connections to kubelets that it keeps for reuse."""
    before = descriptors(raven_up)
    server = ways.WAYS[name](cluster)
    try:
        _ask(Client(server, cluster.pki))
    finally:
        server.stop()

    def back() -> bool:
        return all(now <= before[daemon] for daemon, now in descriptors(raven_up).items())

    wait_until(back, what=f"{before} descriptors again, now {descriptors(raven_up)}", seconds=BACK)


def _ask(client: Client) -> None:
    pod = "/api/v1/namespaces/default/pods/ticker-site-"

    def logs(letter: str) -> None:
        assert client.get(f"{pod}{letter}/log?tailLines=1").startswith(b"tick ")

    def execute(letter: str) -> None:
        assert client.exec(f"ticker-site-{letter}", "cat", "/www/name") == (0, f"site-{letter}\n")

    def node(letter: str) -> None:
        assert client.get(f"/api/v1/nodes/site-{letter}/proxy/healthz") == b"ok"

    def broken_logs(letter: str) -> None:
        with client.answer(f"{pod}{letter}/log?follow=true&tailLines=1") as answer:
            assert answer.read(5) == b"tick "

    def broken_exec(letter: str) -> None:
        with client.open_exec(f"ticker-site-{letter}", "cat") as cat:
            cat.send(b"hello\n")

    kinds: list[Callable[[str], None]] = [logs, execute, node, broken_logs, broken_exec]

    def one(number: int) -> None:
        kinds[number % len(kinds)]("ab"[number // len(kinds) % 2])

    with ThreadPoolExecutor(AT_ONCE) as threads:
        list(threads.map(one, range(MANY)))
