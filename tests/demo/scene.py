"""What the steps of the demo share: the lab, Raven's daemons in it, and the servers at the sites."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path

from tests.lab import programs, raven
from tests.lab.errors import LabError
from tests.lab.programs import Prometheus, SshServer
from tests.lab.raven import Agent, Gateway
from tests.lab.world import World


@dataclasses.dataclass(slots=True)
class Scene:
    """The lab while the demo runs; later fields are filled by the steps that start them."""

    world: World
    gateway: Gateway
    agents: list[Agent]
    ssh: SshServer | None = None
    prometheus: Prometheus | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """One row: what it shows, the command that was run, and a function that returns what came back."""

    title: str
    shown: str
    run: Callable[[Scene], str]
    vital: bool = False  # without it nothing after it can hold
    last: bool = False  # after it nothing is left to look at


def build(world: World) -> Scene:
    """The servers that a site and a pod have anyway, and Raven's daemons, not yet started."""
    for site in world.sites.values():
        programs.node_exporter(site.machine)
        programs.iperf_server(site.pod)
    return Scene(world, raven.gateway(world), [raven.agent(site) for site in world.sites.values()])


def expect(holds: bool, otherwise: str) -> None:
    """LabError saying what came back `otherwise`."""
    if not holds:
        raise LabError(otherwise.strip() or "nothing came back")


def copyable(scene: Scene) -> list[tuple[str, str]]:
    """Commands to paste into a root shell beside the demo, each with what it does."""
    cloud, pod, site = scene.world.cloud, scene.world.cloud_pod, scene.world.sites["a"]
    wg = site.machine.interface
    ravenctl = str(Path(sys.executable).with_name("ravenctl"))  # a root shell does not search there
    lines = [
        ("an exporter at a site", cloud.shown(*raven.curl_command(f"http://{site.name}:9100/metrics"))),
        ("a pod at a site", pod.shown("ping", "-c", "3", site.pod_address)),
        ("ravenctl", cloud.shown(ravenctl, "--socket", str(scene.gateway.socket), "status")),
        ("WireGuard's view", site.machine.shown("wg", "show", wg)),
        (
            "pull site-a's cable",
            f"ip -n {scene.world.internet.namespace} link set to-a down   # and up again",
        ),
    ]
    if scene.ssh is not None:
        lines.insert(1, ("a shell at a site", cloud.shown(*ssh_command(scene.ssh, site.name))))
    if scene.prometheus is not None:
        url = "http://127.0.0.1:9090/api/v1/query?query=up"
        lines.insert(2, ("what Prometheus sees", cloud.shown("curl", "-s", url)))
    return lines


def ssh_command(server: SshServer, node: str, *options: str) -> tuple[str, ...]:
    """ssh to a node by CONNECT through the gateway."""
    return ("ssh", "-F", _by_connect(server), *options, node)


def scp_command(server: SshServer, source: str, target: str, *options: str) -> tuple[str, ...]:
    """scp the same way; of the two paths the remote one is NODE:PATH."""
    return ("scp", "-F", _by_connect(server), *options, source, target)


def _by_connect(server: SshServer) -> str:
    """ssh's configuration; nc is Debian's netcat-openbsd."""
    return str(server.client_configuration(f"nc -X connect -x {raven.OAM} %h %p"))


def prometheus_configuration(discovery: str) -> str:
    """What an operator writes: where to learn the nodes, and the proxy to reach them by."""
    return json.dumps(  # JSON is YAML
        {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s"},
            "scrape_configs": [
                {
                    "job_name": "edge",
                    "proxy_url": f"http://{raven.OAM}",
                    "http_sd_configs": [{"url": discovery, "refresh_interval": "1s"}],
                }
            ],
        }
    )
