"""The steps of the demo in the order they are told; each drives a real program and says what came back."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.demo.scene import Scene, Step, expect, prometheus_configuration, scp_command, ssh_command
from tests.lab import programs, raven, wires
from tests.lab.errors import LabError
from tests.lab.machine import Machine
from tests.lab.shell import Shell
from tests.lab.waiting import wait_until

OUTAGE = 5.0  # seconds without a cable
_IPERF = 2  # seconds of each measurement
_COPY = 16 << 20  # bytes
_COPY_RATE = 32_000  # kbit/s, as scp takes it: four seconds, so that the change comes in the middle
# On a terminal of its own, as who types has it, but for the echo and the prompt.
_REMOTE_SHELL = "stty -echo; echo ready; exec env PS1= sh"
_GOES_ON = "goes on over another connection"  # the agent's log
_LIVES_THROUGH = 18.0  # seconds of the stream that lives through the outage: before, without, and after


def start_gateway(scene: Scene) -> str:
    scene.gateway.start()
    scene.gateway.ready()
    return f"agents dial {raven.AGENTS}, the HTTP proxy is {raven.OAM}"


def cannot_dial(scene: Scene) -> str:
    """The reason for everything that follows: from the cloud, a site is not there."""
    for site in scene.world.sites.values():
        for address in (wires.SITE, site.nat_address):
            answer = scene.world.cloud.run("curl", "-sS", "-m", "1", f"http://{address}:9100/", check=False)
            expect(answer.code in (7, 28), f"{address} answered the cloud: {answer.out}{answer.err}")
    return f"no route to {wires.SITE}; no answer from either NAT"


def join(scene: Scene) -> str:
    for agent in scene.agents:
        agent.join(scene.gateway.token("--node", agent.name))
        agent.start()
    names = [agent.name for agent in scene.agents]
    scene.gateway.wait_for(*names, lanes=["stream_lane"])
    return f"{' and '.join(names)} have certificates and are connected"


def status(scene: Scene) -> str:
    scene.gateway.wait_for(*(agent.name for agent in scene.agents))
    said = scene.gateway.ctl("status").out
    parts = []
    for agent in scene.agents:
        expect(agent.name in said, said)
        pinged = scene.gateway.ctl_json("ping", agent.name)
        times = [pinged[f"{lane}_rtt_ms"] for lane in ("stream", "packet")]
        expect(None not in times, json.dumps(pinged))
        parts.append(f"{agent.name}: stream {times[0]:.1f} ms, packet {times[1]:.1f} ms")
    return "; ".join(parts)


def exporter(letter: str) -> Callable[[Scene], str]:
    def run(scene: Scene) -> str:
        name = scene.world.sites[letter].name
        code, body = scene.gateway.status_of(f"http://{name}:9100/metrics")
        mark = f'nodename="{name}"'
        expect(code == 200 and mark in body, f"HTTP {code} {body[:200]}")
        samples = sum(not line.startswith("#") for line in body.splitlines())
        return f"HTTP 200, {samples} samples, {mark}"

    return run


def prometheus(scene: Scene) -> str:
    """Debian's Prometheus learns the nodes from the gateway and scrapes them through it."""
    server = programs.prometheus(
        scene.world.cloud, prometheus_configuration(f"http://{raven.OAM}/sd?port=9100")
    )
    scene.prometheus = server
    expected = {f"{agent.name}:9100" for agent in scene.agents}

    def all_up() -> bool:
        targets = server.targets()
        return {t["labels"]["instance"] for t in targets if t["health"] == "up"} == expected

    try:
        wait_until(all_up, what="both targets to be up", seconds=20)
    except LabError as error:
        raise LabError(f"{error}: {[(t['scrapeUrl'], t['lastError']) for t in server.targets()]}") from None
    return f"up: {', '.join(sorted(expected))}"


def ssh(scene: Scene) -> str:
    site = scene.world.sites["a"]
    scene.ssh = programs.sshd(site.machine)
    said = scene.world.cloud.run(*ssh_command(scene.ssh, site.name), "hostname; whoami").out.split()
    expect(said == [site.name, "root"], f"ssh said {said}")
    return f"{said[1]}@{said[0]}"


def refused(scene: Scene) -> str:
    """The site's owner decides: port 22 is not on the agent's list, whatever the cloud asks."""
    code, body = scene.gateway.status_of("http://site-b:22/")
    expect(code == 403, f"HTTP {code} {body[:200]}")
    return f"HTTP {code}: {body.strip().splitlines()[0].removeprefix('node site-b: ')}"


def ping(source: Callable[[Scene], Machine], addresses: tuple[str, str]) -> Callable[[Scene], str]:
    def run(scene: Scene) -> str:
        for address in addresses:  # a first packet may wait for a handshake
            programs.ping_until(source(scene), address, seconds=10)
        times = [programs.ping(source(scene), address) for address in addresses]
        return f"IPv4 {times[0]:.2f} ms, IPv6 {times[1]:.2f} ms"

    return run


def iperf(source: Callable[[Scene], Machine], addresses: tuple[str, str]) -> Callable[[Scene], str]:
    def run(scene: Scene) -> str:
        rates = [programs.iperf(source(scene), address, seconds=_IPERF).gigabits for address in addresses]
        return f"IPv4 {rates[0]:.2f} Gb/s, IPv6 {rates[1]:.2f} Gb/s"

    return run


def wg_show(scene: Scene) -> str:
    """WireGuard's own tool, on the devices of the cloud and of both sites."""
    seen = ""
    machines = [scene.world.cloud, *(site.machine for site in scene.world.sites.values())]
    for machine in machines:
        lines = machine.run("wg", "show", machine.interface, "dump").out.splitlines()[1:]
        fields = [line.split("\t") for line in lines]
        shaken = [peer for peer in fields if peer[4] != "0"]
        expect(bool(shaken) and len(shaken) == len(fields), f"{machine.name}: {fields}")
        if machine is scene.world.cloud:
            seen = " and ".join(peer[2] for peer in shaken)
    return f"all peers shook hands; the cloud sees {seen}"


def changed_uplink(scene: Scene) -> str:
    """Another address for the site and a router that forgets, under a shell and a copy."""
    if scene.ssh is None:
        raise LabError("there is no sshd at site-a: the step that starts it has failed")
    site, cloud, agent = scene.world.sites["a"], scene.world.cloud, scene.agents[0]
    original, copy = scene.world.directory / "original", scene.world.directory / "copy"
    content = os.urandom(_COPY)
    original.write_bytes(content)
    scp = scp_command(scene.ssh, f"{site.name}:{original}", str(copy), "-l", str(_COPY_RATE))
    changes = agent.log().count(_GOES_ON)
    with Shell(cloud, *ssh_command(scene.ssh, site.name, "-tt"), _REMOTE_SHELL) as shell:
        expect(shell.hear(seconds=15) == "ready", "the shell said something else first")
        shell_id = shell.ask("kept=$$; echo $$", seconds=15)
        copying = cloud.start(*scp, name="scp-through-the-change")
        wait_until(
            lambda: copy.exists() and 0 < copy.stat().st_size < _COPY / 2,
            what="the copy to begin",
            seconds=15,
        )
        site.nat.run("conntrack", "-F")
        wires.move_site(site.machine, wires.SITE, wires.SITE_MOVED)
        try:
            changed = time.monotonic()
            answer = shell.ask("echo $kept", seconds=20)
            pause = time.monotonic() - changed
            expect(answer == shell_id, f"shell {shell_id} answered {answer!r}")
            expect(copying.wait(60) == 0, f"scp: {copying.tail(3)}")
        finally:
            wires.move_site(site.machine, wires.SITE_MOVED, wires.SITE)
        expect(shell.ask("echo $kept; exit", seconds=20) == shell_id, "the shell is gone after the way back")
    expect(agent.log().count(_GOES_ON) > changes, "the agent noticed no change")
    digest = hashlib.sha256(copy.read_bytes()).hexdigest()
    expect(digest == hashlib.sha256(content).hexdigest(), f"{copy.stat().st_size} bytes came, not the same")
    scene.gateway.wait_for(site.name)
    return (
        f"the same shell answered {pause:.1f} s after the change; {_COPY >> 20} MiB arrived whole, "
        f"SHA-256 {digest[:8]}... at both ends"
    )


def outage(scene: Scene) -> str:
    """Five seconds without a cable in the middle of the network, under a running transfer."""
    site = scene.world.sites["a"]
    pod = scene.world.cloud_pod
    programs.ping_until(pod, site.pod_address, seconds=15)
    command = programs.iperf_command(site.pod_address, seconds=_LIVES_THROUGH)
    transfer = pod.start(*command, name="iperf3-through-the-outage")
    wait_until(lambda: _established(pod, 5201), what="iperf3 to connect", seconds=5)
    time.sleep(2)  # some of it before the outage, as the story says
    scene.world.set_uplink(site.letter, up=False)
    try:
        time.sleep(OUTAGE)
    finally:
        scene.world.set_uplink(site.letter, up=True)
    plugged = time.monotonic()
    programs.ping_until(pod, site.pod_address, seconds=15)
    packets = time.monotonic() - plugged
    wait_until(
        lambda: scene.gateway.curl(f"http://{site.name}:9100/", "-f", "-o", "/dev/null", seconds=2).code == 0,
        what="the stream lane to answer",
        seconds=20,
    )
    streams = time.monotonic() - plugged
    code = transfer.wait(_LIVES_THROUGH + 20)
    result = programs.iperf_result(transfer.text())
    expect(code == 0 and min(result.seconds) < 0.001 < result.seconds[-1], f"{code} {result}")
    return (
        f"packets back after {packets:.1f} s, streams after {streams:.1f} s; "
        f"the same TCP connection went on at {result.seconds[-1]:.2f} Gb/s"
    )


def doctor(scene: Scene) -> str:
    """At the site whose cable is out: the command for the engineer with a problem at night."""
    agent = scene.agents[0]
    scene.world.set_uplink("a", up=False)
    try:
        said = agent.ctl("doctor", "--wg-interface", agent.machine.interface, check=False)
    finally:
        scene.world.set_uplink("a", up=True)
    verdict = next((line for line in said.out.splitlines() if line.startswith("verdict:")), said.err)
    expect(said.code == 1 and raven.AGENTS in verdict, f"{said.code} {verdict}")
    return verdict.removeprefix("verdict: ")


def _established(machine: Machine, port: int) -> bool:
    """Whether the machine has a TCP connection to `port`."""
    table = machine.inside(lambda: Path("/proc/thread-self/net/tcp").read_text())
    ends = (line.split()[2:4] for line in table.splitlines()[1:])
    return any(int(remote.rpartition(":")[2], 16) == port and state == "01" for remote, state in ends)


def stop(scene: Scene) -> str:
    """SIGTERM drains both daemons and takes back what they laid on their hosts."""
    for daemon in (*scene.agents, scene.gateway):
        code = daemon.stop()
        expect(code == 0, f"{daemon.name} ended with {code}: {daemon.log()[-300:]}")
        found = daemon.machine.run("ip", "-j", "route", "show", "proto", "82").out
        expect(not json.loads(found or "[]"), f"{daemon.name} left routes {found}")
        links = {link["ifname"] for link in json.loads(daemon.machine.run("ip", "-j", "link").out)}
        expect(daemon.machine.interface not in links, f"{daemon.name} left its link")
    return "exit status 0 three times; no link or route of theirs is left"


def story(*, once: bool) -> list[Step]:
    """All steps; the last one only where nobody wants to look around afterwards."""

    def cloud_pod(scene: Scene) -> Machine:
        return scene.world.cloud_pod

    def pod_a(scene: Scene) -> Machine:
        return scene.world.sites["a"].pod

    proxy = "-x GATEWAY"
    a, b = ((wires.pod_address(number), wires.pod_address6(number)) for number in (1, 2))
    steps = [
        Step("the cloud cannot dial a site", f"curl http://{wires.SITE}:9100/, ...", cannot_dial),
        Step("the gateway starts", "raven-gateway run", start_gateway, vital=True),
        Step("sites join by token", "raven-agent join; raven-agent run", join, vital=True),
        Step("both lanes are up", "ravenctl status; ravenctl ping NODE", status),
        Step("node exporter at site-a", f"curl {proxy} http://site-a:9100/metrics", exporter("a")),
        Step("node exporter at site-b", f"curl {proxy} http://site-b:9100/metrics", exporter("b")),
        Step("Prometheus scrapes both", "prometheus (proxy_url, http_sd_configs)", prometheus),
        Step("a shell at site-a", "ssh -o ProxyCommand='nc -X connect ...'", ssh),
        Step("what the site does not allow", f"curl {proxy} http://site-b:22/", refused),
        Step("cloud pod to pod-a", f"ping {a[0]}; {a[1]}", ping(cloud_pod, a)),
        Step("cloud pod to pod-b", f"ping {b[0]}; {b[1]}", ping(cloud_pod, b)),
        Step("pod-a to pod-b, by the gateway", f"ping {b[0]}; {b[1]}", ping(pod_a, b)),
        Step("cloud pod to pod-a", f"iperf3 -C cubic -c {a[0]}; ...", iperf(cloud_pod, a)),
        Step("cloud pod to pod-b", f"iperf3 -C cubic -c {b[0]}; ...", iperf(cloud_pod, b)),
        Step("pod-a to pod-b, by the gateway", f"iperf3 -C cubic -c {b[0]}; ...", iperf(pod_a, b)),
        Step("WireGuard's own tool agrees", "wg show", wg_show),
        Step(
            "a shell and a copy live through a changed uplink",
            f"ssh, scp; conntrack -F; ip addr add {wires.SITE_MOVED}, del {wires.SITE}",
            changed_uplink,
        ),
        Step("site-a's cable is out: what is it?", "ravenctl doctor, at site-a", doctor),
        Step(
            f"site-a's cable is out for {OUTAGE:.0f} s",
            "ip link set to-a down; iperf3 runs on",
            outage,
        ),
    ]
    if once:
        steps.append(Step("everything stops", "SIGTERM to agents and gateway", stop, last=True))
    return steps
