"""Many agents on one gateway process: back after its restart, and what each costs while idle.

The agents are real ones as far as the gateway can see: certificates of their own, TLS, the agent's own
uplink with its back-off. They share one process, because a thousand interpreters would measure the machine.

    python -m bench.storm GATEWAY-STATE DIRECTORY HOST:PORT COUNT        runs that many, until its end
"""

import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import trio

from agent.network import AgentNetwork
from agent.renewal import Renewal
from agent.uplink import Uplink
from bench.table import Row
from gateway.admin.token import add_token
from gateway.join import certificate_record
from raven.config import Address
from raven.control.messages import VERSION, AgentHello
from raven.keys import PrivateKey
from raven.net.end import EndOptions
from raven.net.tunnel import IncomingStream
from raven.pki.csr import key_hash, key_pem, new_key
from raven.pki.token import parse_token_untrusted
from raven.registry.agent_state import AgentFile, open_agent, write_agent_file
from raven.registry.ca_rotation import load_authority, load_cluster
from raven.registry.gateway_state import registry_path
from raven.registry.interface import CertificateRecord
from raven.registry.sqlite import SqliteRegistry
from raven.registry.wg_key import write_wg_key
from raven.wg.primitives import DhPrivateKey
from tests.lab import raven
from tests.lab.process import Process
from tests.lab.raven import Gateway
from tests.lab.waiting import wait_until
from tests.lab.world import World

RETURNING = 1000  # agents that come back after a restart
IDLE = 2000  # agents whose cost is measured
_IDLE = 30.0  # seconds of idleness
_JOIN_MAX = 300.0  # seconds for all to connect the first time; making their keys is most of it


def measure(rounds: int) -> Iterator[Row]:
    """One round whatever `rounds` says: each figure is over all agents already."""
    with World(sites=("a",)) as world:
        gateway = raven.gateway(world, "--no-packets")
        process = gateway.start()
        gateway.ready()
        base = process.resident_bytes()
        storm = _agents(world, gateway, RETURNING)
        _wait(gateway, RETURNING, _JOIN_MAX)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(5)
        began = time.monotonic()
        gateway.start()
        gateway.ready()
        _wait(gateway, RETURNING, _JOIN_MAX)
        yield Row(
            what=f"{RETURNING} agents back after a gateway's restart",
            unit="s",
            ours=time.monotonic() - began,
            higher_is_better=False,
            goal=30,
        )
        storm.stop()
        gateway.stop(20)
        process = gateway.start()
        gateway.ready()
        base = process.resident_bytes()
        _agents(world, gateway, IDLE)
        _wait(gateway, IDLE, _JOIN_MAX)
        before, began = process.cpu_seconds(), time.monotonic()
        time.sleep(_IDLE)
        yield Row(
            what=f"gateway with {IDLE} idle agents, CPU",
            unit="%",
            ours=(process.cpu_seconds() - before) / (time.monotonic() - began) * 100,
            higher_is_better=False,
            goal=5,
        )
        yield Row(
            what=f"gateway's memory for each of {IDLE} idle agents",
            unit="kB",
            ours=(process.resident_bytes() - base) / IDLE / 1e3,
            higher_is_better=False,
            goal=60,
        )


def _agents(world: World, gateway: Gateway, count: int) -> Process:
    return world.sites["a"].machine.start(
        *(sys.executable, "-m", "bench.storm", str(gateway.state), str(world.directory / "storm")),
        *(raven.AGENTS, str(count)),
        name=f"storm-{count}",
    )


def _wait(gateway: Gateway, count: int, seconds: float) -> None:
    process = gateway.process
    assert process is not None

    def connected() -> bool:
        # To ask a gateway that has its hands full of so many costs it more than they do; count sockets first.
        if len(os.listdir(f"/proc/{process.pid}/fd")) < count:
            return False
        return len([node for node in gateway.nodes().values() if node["connected"]]) >= count

    wait_until(connected, what=f"{count} agents", seconds=seconds)


def make_states(gateway: Path, directory: Path, count: int) -> list[Path]:
    """Directories of joined nodes, as `raven-agent join` leaves them; those that are there stay."""
    now = time.time()
    authority = load_authority(gateway, load_cluster(gateway))
    registry = SqliteRegistry(registry_path(gateway), now=now, create=False)
    token = parse_token_untrusted(add_token(registry, authority.pin, reusable=True, now=now))
    states = []
    for number in range(count):
        name = f"edge-{number}"
        state = directory / name
        states.append(state)
        if (state / "agent.json").exists():
            continue
        state.mkdir(mode=0o700, parents=True)
        key, wg_key = new_key(os.urandom), PrivateKey.clamped(os.urandom(32))
        leaf = authority.issue_node(name, key.public_key(), now=now, random=os.urandom)
        record = certificate_record(leaf, now=now)
        registry.enrol(
            token_id=token.id,
            secret=token.secret,
            node=name,
            key_hash=key_hash(key.public_key()),
            now=now,
            issue=partial(_issued, record),
        )
        for file, content in (
            ("node.key", key_pem(key)),
            ("node.crt", leaf.pem.encode()),
            ("ca.crt", authority.certificate_pem.encode()),
        ):
            (state / file).touch(mode=0o600)
            (state / file).write_bytes(content)
        write_wg_key(state / "wg.key", wg_key)
        write_agent_file(
            state / "agent.json",
            AgentFile(
                node=name,
                cluster=authority.cluster,
                gateways=["gateway:1"],
                wg_public_key=DhPrivateKey(wg_key).public.to_base64(),
            ),
        )
    registry.close()
    return states


def _issued(record: CertificateRecord, node: str) -> CertificateRecord:
    return record


def _said(hello: AgentHello) -> AgentHello:
    return hello


async def run(states: list[Path], gateway: Address) -> None:
    """An uplink for each state, until cancelled."""

    async def refuse(incoming: IncomingStream) -> None:
        return

    async with trio.open_nursery() as nursery:
        for directory in states:
            state = open_agent(directory, now=time.time())
            network = AgentNetwork(
                EndOptions(
                    private_key=state.wg_private_key,
                    public_key=state.wg_public_key,
                    listen_port=0,
                    pod_cidrs=[],
                    interface="none",
                    state_dir=directory,
                    off="not in this benchmark",
                ),
                node=state.node,
            )
            hello = AgentHello(
                version=VERSION,
                node=state.node,
                software="storm",
                packets=None,
                no_packets_reason="not in this benchmark",
            )
            uplink = Uplink(
                address=gateway,
                cluster=state.cluster,
                network=network,
                renewal=Renewal(state),
                accept=refuse,
                hello=partial(_said, hello),
            )
            nursery.start_soon(uplink.run)


if __name__ == "__main__":
    gateway_state, directory, address, count = sys.argv[1:]
    # Each agent holds its socket and the lock of its state.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    made = make_states(Path(gateway_state), Path(directory), int(count))
    trio.run(run, made, Address.parse(address))
