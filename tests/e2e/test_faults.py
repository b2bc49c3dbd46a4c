"""Faults of the network, of the daemons and of strangers: who notices, who suffers, how it ends.

cloud-pod ── cloud ── internet ──✂── nat-a ── site-a ── pod-a
               ▲                      (site-b goes on)
               └── strangers with garbage
"""

import json
import os
import random
import signal
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import Lab
from tests.lab import programs, raven
from tests.lab.errors import LabError
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.netns


def test_a_pulled_uplink_and_a_transfer_that_lives_through_it(lab: Lab) -> None:
    command = programs.iperf_command(lab.a.pod_address, seconds=14)
    transfer = lab.world.cloud_pod.start(*command, name="through-the-outage")
    programs.ping(lab.world.cloud_pod, lab.a.pod_address)
    lab.world.set_uplink("a", up=False)
    with pytest.raises(LabError):
        programs.ping(lab.world.cloud_pod, lab.a.pod_address)
    assert lab.gateway.status_of("http://site-b:8080/name") == (200, "site-b")
    time.sleep(4)  # the outage itself; nothing is synchronised by it
    lab.world.set_uplink("a", up=True)
    programs.ping_until(lab.world.cloud_pod, lab.a.pod_address, seconds=10)
    wait_until(lambda: lab.gateway.status_of("http://site-a:8080/name")[0] == 200, what="streams", seconds=15)
    assert transfer.wait(40) == 0
    result = programs.iperf_result(transfer.text())
    assert min(result.seconds) == 0
    assert result.seconds[-1] > 0
    lab.gateway.wait_for("site-a")


def test_what_strangers_send_is_counted_and_hurts_nobody(lab: Lab) -> None:
    """Garbage, half a handshake, a wrong ALPN and no certificate, while a file comes through."""
    host, _, port = raven.AGENTS.rpartition(":")

    def dial() -> socket.socket:
        return socket.create_connection((host, int(port)), timeout=5)

    def plain(data: bytes) -> None:
        with lab.world.internet.inside(dial) as stranger:
            stranger.sendall(data)
            stranger.settimeout(3)
            try:
                while stranger.recv(4096):
                    pass
            except OSError:
                return  # reset or still silent: both fine, the listener owes a stranger nothing

    def tls(alpn: str) -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_alpn_protocols([alpn])
        try:
            with context.wrap_socket(lab.world.internet.inside(dial)) as stranger:
                stranger.settimeout(3)
                stranger.sendall(b"\xff" * 4096)
                while stranger.recv(4096):
                    pass
        except OSError:
            return

    noise = random.Random(1)
    hello = ssl_client_hello()
    garbage = [noise.randbytes(noise.randrange(1, 5000)) for _ in range(10)]
    with ThreadPoolExecutor(max_workers=8) as pool:
        download = pool.submit(lab.download, lab.a)
        strangers = [pool.submit(plain, data) for data in [*garbage, hello, hello[: len(hello) // 2]]]
        strangers += [pool.submit(tls, alpn) for alpn in ("h2", "raven/1", "raven-join/1")]
        for stranger in strangers:
            stranger.result()
        assert download.result() == lab.digest
    said = lab.gateway.ctl_json("status")
    assert sum(said["refused"].values()) >= 5, said["refused"]
    lab.gateway.wait_for("site-a", "site-b")


def test_a_second_gateway_on_the_same_port_names_who_holds_it(lab: Lab) -> None:
    process = raven.gateway(lab.world, "--no-packets", name="second").start()
    assert process.wait(15) != 0
    assert raven.AGENTS.rpartition(":")[2] in process.text()
    assert "raven-gateway" in process.text()
    assert "Traceback" not in process.text()


def test_a_gateway_restart_under_load(lab: Lab) -> None:
    """Downloads that run get the drain; new ones work as soon as the gateway is back."""
    arriving = lab.arriving(lab.a)
    arriving.unlink(missing_ok=True)
    try:
        with ThreadPoolExecutor() as pool:
            running = pool.submit(lab.download, lab.a, "--limit-rate", "8M")
            wait_until(lambda: arriving.exists() and arriving.stat().st_size > 0, what="bytes", seconds=10)
            assert lab.gateway.stop(15) == 0
            assert running.result() == lab.digest
    finally:
        lab.gateway.start()
        lab.gateway.ready()
    lab.gateway.wait_for("site-a", "site-b", seconds=30)
    assert lab.download(lab.b) == lab.digest
    programs.ping_until(lab.world.cloud_pod, lab.a.pod_address, seconds=10)


def test_a_killed_gateway_is_replaced_without_losing_a_pods_connection(lab: Lab) -> None:
    """raven-wg outlives its control plane: SIGKILL to the gateway, and the packets go on."""
    transfer = lab.world.cloud_pod.start(
        *programs.iperf_command(lab.a.pod_address, seconds=8), name="through-the-crash"
    )
    assert lab.gateway.process is not None
    os.kill(lab.gateway.process.pid, signal.SIGKILL)
    lab.gateway.process.wait(5)
    lab.gateway.start()
    lab.gateway.ready()
    lab.gateway.wait_for("site-a", "site-b", seconds=30)
    assert transfer.wait(30) == 0
    assert min(programs.iperf_result(transfer.text()).seconds) > 0


def test_the_state_of_a_node_that_fell_silent_ages(lab: Lab) -> None:
    """The machine freezes: nothing closes the tunnel, so only the age of the evidence tells."""
    agent = lab.agents["b"]
    assert agent.process is not None
    agent.process.send_signal(signal.SIGSTOP)
    try:
        wait_until(
            lambda: lab.gateway.nodes()["site-b"]["last_seen_s"] > 5, what="the evidence to age", seconds=30
        )
        wait_until(lambda: not lab.gateway.nodes()["site-b"]["connected"], what="no connected", seconds=45)
        said = lab.gateway.ctl("status", check=False)
        assert said.code == 1
    finally:
        agent.process.send_signal(signal.SIGCONT)
    lab.gateway.wait_for("site-b", seconds=30)


def test_a_corrupted_registry_stops_the_start_and_is_kept(lab: Lab) -> None:
    spare = raven.gateway(lab.world, "--no-packets", name="spare")
    registry = spare.state / "registry.sqlite"
    command = spare.command()
    assert lab.world.cloud.run(*command, check=False).code != 0  # makes the state, then finds the ports taken
    registry.write_bytes(b"\0not a database" * 1000)
    said = lab.world.cloud.run(*command, check=False)
    assert said.code != 0
    assert str(registry) in said.out + said.err
    assert list(spare.state.glob("registry.sqlite.corrupt-*"))


def test_stopping_leaves_every_host_as_it_was_found(lab: Lab) -> None:
    """Runs last: links, addresses, routes, rules, sysctls and files are those of a host without Raven."""
    machines = [lab.world.cloud, lab.a.machine]
    for daemon in (*lab.agents.values(), lab.gateway):
        assert daemon.stop() == 0, daemon.log()[-2000:]
        assert not daemon.socket.exists()
    for machine in machines:
        links = {link["ifname"] for link in json.loads(machine.run("ip", "-j", "link").out)}
        assert links == {"lo", "eth0", "pods"}
        for family in ("-4", "-6"):
            routes = json.loads(machine.run("ip", "-j", family, "route", "show", "table", "all").out)
            assert {route["dev"] for route in routes if "dev" in route} <= links
            assert not [route for route in routes if route.get("protocol") in ("82", "raven")]
            rules = json.loads(machine.run("ip", "-j", family, "rule").out)
            assert {rule["table"] for rule in rules} <= {"local", "main", "default"}
        assert "raven" not in machine.run("nft", "list", "tables").out
    assert not list(Path("/var/run/wireguard").glob(f"{lab.world.prefix}*"))


def ssl_client_hello() -> bytes:
    """A real ClientHello, as OpenSSL would send it to anybody."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="gateway").do_handshake()
    return outgoing.read()
