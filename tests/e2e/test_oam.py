"""O&M through the gateway: who is reached, who is not, and what the asker is told.

  curl ── CONNECT or absolute URL ──▶ gateway ══ tunnel ══▶ agent ──▶ exporter, nginx, sshd
(cloud)                              (cloud)               (site)     (site, or a LAN device)
"""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.demo.scene import prometheus_configuration, ssh_command
from tests.e2e.conftest import Lab
from tests.lab import programs, raven, wires
from tests.lab.waiting import wait_until

pytestmark = pytest.mark.netns


def test_the_same_port_at_the_same_private_address_of_both_sites(lab: Lab) -> None:
    for site in (lab.a, lab.b):
        code, body = lab.gateway.status_of(f"http://{site.name}:9100/metrics")
        assert code == 200
        assert f'nodename="{site.name}"' in body
        assert lab.gateway.status_of(f"http://{site.name}:8080/name", "-p") == (200, site.name)  # CONNECT


def test_ssh_comes_through_connect(lab: Lab) -> None:
    server = programs.sshd(lab.a.machine)
    said = lab.world.cloud.run(*ssh_command(server, lab.a.name), "hostname && cat", text="typed\n").out
    assert said == "site-a\ntyped\n"


def test_a_large_file_arrives_whole_from_both_sites_at_once(lab: Lab) -> None:
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(lab.download, (lab.a, lab.b))) == [lab.digest] * 2


def test_prometheus_finds_and_scrapes_both(lab: Lab) -> None:
    server = programs.prometheus(lab.world.cloud, prometheus_configuration(f"http://{raven.OAM}/sd"))

    def both() -> bool:
        return {t["labels"]["instance"] for t in server.targets() if t["health"] == "up"} == {
            "site-a:9100",
            "site-b:9100",
        }

    wait_until(both, what="both targets", seconds=20)
    server.process.stop()


def test_an_unknown_node_is_a_502_with_its_name(lab: Lab) -> None:
    code, body = lab.gateway.status_of("http://site-x:9100/metrics")
    assert (code, "site-x" in body) == (502, True), body
    connect = lab.gateway.curl("https://site-x:9100/")
    assert "502" in connect.err


def test_a_target_the_agent_does_not_allow_is_a_403_with_the_reason(lab: Lab) -> None:
    code, body = lab.gateway.status_of("http://site-a:22/")
    assert code == 403
    assert "node:22" in body or "22" in body
    refused = lab.agents["a"].ctl_json("status")["refused"]
    assert sum(refused.values()) >= 1


def test_a_port_where_nobody_listens_is_a_502(lab: Lab) -> None:
    programs_port = "http://site-b:2222/"  # allowed, and no sshd runs at site-b
    code, body = lab.gateway.status_of(programs_port)
    assert code == 502
    assert "refused" in body.lower()


def test_a_lan_device_behind_a_node_needs_the_owners_word(lab: Lab) -> None:
    """The pod stands for a device on the site's LAN: it has no agent."""
    root = lab.world.directory / "device"
    root.mkdir()
    (root / "name").write_text("device behind site-b")
    programs.nginx(lab.b.pod, root)
    url = f"http://{lab.b.pod_address}:8080/name"
    assert lab.gateway.status_of(url, "-H", "Raven-Node: site-b")[0] == 403
    agent = lab.agents["b"]
    before = list(agent.options)
    agent.options += ["--allow", f"{lab.b.pod_address}:8080"]
    _restart(lab, "b")
    try:
        assert lab.gateway.status_of(url, "-H", "Raven-Node: site-b") == (200, "device behind site-b")
        via = f"http://{lab.b.pod_address}.via.site-b:8080/name"
        assert lab.gateway.status_of(via) == (200, "device behind site-b")
        assert lab.gateway.status_of(f"{url}?nodeName=site-b") == (200, "device behind site-b")
    finally:
        agent.options[:] = before
        _restart(lab, "b")


def test_an_offline_node_is_a_503_that_says_since_when(lab: Lab) -> None:
    assert lab.agents["b"].stop() == 0
    try:
        wait_until(
            lambda: not lab.gateway.nodes()["site-b"]["connected"], what="site-b to be gone", seconds=5
        )
        code, body = lab.gateway.status_of("http://site-b:9100/metrics")
        assert code == 503
        assert "site-b" in body
        assert time.strftime("%Y-%m-%d", time.gmtime()) in body or "since" in body, body
        assert lab.gateway.status_of("http://site-a:9100/metrics")[0] == 200
    finally:
        lab.agents["b"].start()
        lab.gateway.wait_for("site-b")


def test_an_upload_and_a_keep_alive_connection(lab: Lab) -> None:
    """Two requests on one proxy connection; nginx answers a POST to a file with 405, body read or not."""
    url = "http://site-a:8080/name"
    answer = lab.gateway.curl(url, url, "-v")
    assert answer.out == "site-asite-a"
    assert answer.err.count("Connected to") == 1, answer.err
    posted = lab.gateway.curl(url, "--data", "x" * 100_000, "-o", "/dev/null", "-w", "%{http_code}")
    assert posted.out == "405"


def test_each_request_leaves_an_audit_line_on_both_ends(lab: Lab) -> None:
    lab.gateway.status_of("http://site-a:9100/audited")
    for daemon in (lab.gateway, lab.agents["a"]):
        lines = [json.loads(line) for line in daemon.log().splitlines() if line.startswith("{")]
        told = [line for line in lines if line.get("asker") and "9100" in line.get("target", "")]
        assert told, lines[-20:]
        assert told[-1].keys() >= {"sent", "received", "seconds"}


def test_the_site_cannot_be_dialled_without_raven(lab: Lab) -> None:
    for address in (wires.SITE, lab.a.nat_address):
        direct = lab.world.cloud.run("curl", "-sS", "-m", "1", f"http://{address}:9100/", check=False)
        assert direct.code in (7, 28)


def _restart(lab: Lab, letter: str) -> None:
    assert lab.agents[letter].stop() == 0
    lab.agents[letter].start()
    lab.gateway.wait_for(lab.agents[letter].name)
