"""Raven's own daemons in the lab, run by their commands as an operator runs them."""

import json
from collections.abc import Sequence
from typing import Any

from tests.lab import wires
from tests.lab.errors import LabError
from tests.lab.machine import Machine, Result
from tests.lab.process import Process
from tests.lab.waiting import wait_until
from tests.lab.world import Site, World

AGENTS = f"{wires.CLOUD}:10262"  # where agents dial
OAM = "127.0.0.1:10264"  # the HTTP proxy, for programs on the gateway's machine
ALLOW = ("node:9100", "node:2222", "node:8080")  # what the sites' owners let the cloud reach


class Daemon:
    """One daemon: its machine, its state directory and the options it runs with."""

    program: str

    def __init__(self, machine: Machine, *, name: str, options: Sequence[str] = ()) -> None:
        self.machine = machine
        self.name = name
        self.state = machine.directory / name
        self.socket = machine.directory / f"{name}.sock"
        self.options = list(options)
        self.process: Process | None = None

    def command(self) -> tuple[str, ...]:
        """The command that runs it."""
        return (
            *(self.program, "run", "--state-dir", str(self.state), "--socket", str(self.socket)),
            *("--wg-interface", self.machine.interface, "--metrics-listen", "off"),
            *self.options,
        )

    def start(self) -> Process:
        self.process = self.machine.start(*self.command(), name=f"{self.program}@{self.name}")
        return self.process

    def stop(self, seconds: float = 8) -> int:
        """SIGTERM, and the exit status."""
        assert self.process is not None
        return self.process.stop(seconds)

    def log(self) -> str:
        return self.process.text() if self.process else ""

    def ctl(self, *arguments: str, check: bool = True) -> Result:
        """What `ravenctl` prints about this daemon."""
        return self.machine.run("ravenctl", "--socket", str(self.socket), *arguments, check=check)

    def ctl_json(self, *arguments: str, check: bool = True) -> Any:
        """The same for programs; without `check` even where something is down."""
        return json.loads(self.ctl(*arguments, "-o", "json", check=check).out)


class Gateway(Daemon):
    program = "raven-gateway"

    def __init__(
        self, machine: Machine, *, name: str, options: Sequence[str] = (), host: str = wires.CLOUD
    ) -> None:
        """`host` is where the machine is dialled from everywhere."""
        super().__init__(machine, name=name, options=options)
        self.host = host
        self.agents = f"{host}:{AGENTS.rpartition(':')[2]}"

    def follow(self, first: "Gateway") -> None:
        """Joins as one more gateway at the `first`."""
        token = first.token("--gateway", self.name)
        self.machine.run(
            *(self.program, "join", "--state-dir", str(self.state), "--gateway", first.agents),
            *("--advertise", self.agents, "--name", self.name, "--token", token),
        )

    def command(self) -> tuple[str, ...]:
        return (
            *super().command(),
            *("--agents-listen", f"0.0.0.0:{AGENTS.rpartition(':')[2]}", "--advertise", self.agents),
            *("--oam-listen", OAM, "--wg-listen", f"{self.host}:4500", "--name", self.name),
        )

    def ready(self, seconds: float = 15) -> "Gateway":
        """Itself, once agents and O&M clients are let in."""
        assert self.process is not None
        for address in (AGENTS, OAM):
            self.process.ready(int(address.rpartition(":")[2]), seconds=seconds)
        return self

    def token(self, *options: str) -> str:
        """A join token, as the operator would make one."""
        command = ("raven-gateway", "token", "create", "--state-dir", str(self.state), *options)
        return self.machine.run(*command).out.strip()

    def nodes(self) -> dict[str, dict[str, Any]]:
        """`ravenctl nodes -o json`, by name."""
        return {node["name"]: node for node in self.ctl_json("nodes")}

    def wait_for(
        self, *names: str, lanes: Sequence[str] = ("stream_lane", "packet_lane"), seconds: float = 20
    ) -> None:
        """Returns when all of `lanes` of the nodes are up; LabError shows what ravenctl says instead."""
        last: dict[str, dict[str, Any]] = {}

        def up() -> bool:
            last.update(self.nodes())
            return all(name in last and last[name][lane] == "up" for name in names for lane in lanes)

        try:
            wait_until(up, what=f"{', '.join(lanes)} of {', '.join(names)}", seconds=seconds)
        except LabError as error:
            said = [
                f"{node['name']} {part} {node[part]['state']}: {node[part]['detail']}"
                for node in last.values()
                for part in ("stream", "packets")
                if node[part]["state"] != "up"
            ]
            raise LabError(f"{error}; ravenctl says {'; '.join(said) or 'that no node has joined'}") from None

    def curl(self, url: str, *options: str, seconds: float = 10) -> Result:
        """`curl` through the gateway's proxy, from its own machine; never fails, the caller looks."""
        return self.machine.run(
            *curl_command(url, *options, seconds=seconds), seconds=seconds + 5, check=False
        )

    def status_of(self, url: str, *options: str) -> tuple[int, str]:
        """HTTP status and body of a GET through the proxy."""
        answer = self.curl(url, "-w", "\n%{http_code}", *options)
        body, _, status = answer.out.rpartition("\n")
        return int(status or 0), body


def curl_command(url: str, *options: str, seconds: float = 10) -> tuple[str, ...]:
    """curl through the gateway's proxy, quiet but for errors."""
    return ("curl", "-sS", "-m", f"{seconds:g}", "-x", f"http://{OAM}", *options, url)


class Agent(Daemon):
    program = "raven-agent"

    def join_command(self, token: str, *options: str, gateway: str = AGENTS) -> tuple[str, ...]:
        return (
            *(self.program, "join", "--state-dir", str(self.state)),
            *("--gateway", gateway, "--token", token, "--node", self.name, *options),
        )

    def join(self, token: str, *options: str, gateway: str = AGENTS, check: bool = True) -> Result:
        return self.machine.run(*self.join_command(token, *options, gateway=gateway), check=check)


def gateway(world: World, *options: str, name: str = "gateway") -> Gateway:
    """The gateway of the cloud, not yet started; it announces the cloud's pods."""
    cidrs = [word for cidr in wires.pod_cidrs(0) for word in ("--pod-cidr", cidr)]
    ranges = [word for cidr in wires.POD_RANGES for word in ("--pod-range", cidr)]
    return Gateway(world.cloud, name=name, options=[*cidrs, *ranges, *options])


def agent(site: Site, *options: str, name: str = "", pod_cidrs: Sequence[str] | None = None) -> Agent:
    """The agent of a site, not yet joined; it announces the site's pods and allows `ALLOW`."""
    cidrs = site.pod_cidrs if pod_cidrs is None else pod_cidrs
    words = [word for cidr in cidrs for word in ("--pod-cidr", cidr)]
    words += [word for rule in ALLOW for word in ("--allow", rule)]
    return Agent(site.machine, name=name or site.name, options=[*words, *options])


def up(world: World, *options: str, name: str = "gateway") -> tuple[Gateway, dict[str, Agent]]:
    """A gateway and an agent at every site, joined, running and connected, packet lane and all."""
    centre = gateway(world, *options, name=name)
    centre.start()
    centre.ready()
    agents = {letter: agent(site) for letter, site in world.sites.items()}
    for one in agents.values():
        one.join(centre.token("--node", one.name))
        one.start()
    centre.wait_for(*(one.name for one in agents.values()))
    return centre, agents
