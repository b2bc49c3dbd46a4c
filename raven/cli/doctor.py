"""`ravenctl doctor`: every hop that can be seen from this host, and a verdict.

Whether it looks as an agent's or a gateway's host does, the daemon that answers decides, or else what lies in
the state directory. It changes nothing, and goes on where a daemon does not answer.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import trio

from raven.cli import findings
from raven.cli.client import fail
from raven.config import Address
from raven.diagnosis import agent_host, gateway_host, packet_host
from raven.diagnosis.finding import Finding
from raven.diagnosis.own_state import Role, role_of
from raven.errors import RavenError, StateError
from raven.net.proxy import ways_by
from raven.net.status_socket import SnapshotRequest, ask
from raven.places import AGENT_SOCKET, GATEWAY_SOCKET, STATE_DIRECTORY
from raven.status import AgentSnapshot, GatewaySnapshot

_INTERFACES = {"agent": "raven0", "gateway": "raven-gw"}
_NOTHING = "no daemon answers and there is no state to look at; try --socket, --state-dir or --gateway"


def doctor(
    socket: Path | None,
    *,
    state_dir: Path | None,
    gateways: Sequence[Address],
    target: str,
    interface: str,
    proxy: str | None,
    json: bool,
) -> int:
    """Looks, prints and judges; the exit code: 0 all well, 1 something broken, 2 could not run."""
    try:
        found = trio.run(_examine, socket, state_dir, gateways, target, interface, proxy)
    except RavenError as error:
        fail(str(error))
    return findings.show(found, json=json)


async def _examine(
    socket: Path | None,
    state_dir: Path | None,
    gateways: Sequence[Address],
    target: str,
    interface: str,
    proxy: str | None,
) -> list[Finding]:
    ways = ways_by(proxy, os.environ)
    snapshot, absent = await _snapshot(socket)
    directory = state_dir or STATE_DIRECTORY
    here: Path | None
    role = role_of(directory)
    if snapshot is not None:
        running: Role = "gateway" if isinstance(snapshot, GatewaySnapshot) else "agent"
        # The default directory may be another daemon's, or nobody's; a given one is meant.
        here = directory if state_dir is not None or role == running else None
        role = running
    elif role:
        here = directory
    elif state_dir is not None:
        here, role = state_dir, "agent"
    elif gateways:
        here, role = None, "agent"
    else:
        absence = "; ".join(absent)
        hint = ", or sudo" if "ermission denied" in absence else ""
        raise StateError(f"{_NOTHING}{hint}\n  {absence}")
    if (
        "ermission denied" in "".join(absent)
        and not gateways
        and here
        and not os.access(here, os.R_OK | os.X_OK)
    ):
        raise StateError(f"this user may look at neither daemon nor state; use sudo\n  {absent[-1]}")
    # Each daemon has its own socket: on a gateway nobody misses the agent's.
    absence = "; ".join(absent if socket is not None else absent[:1] if role == "gateway" else absent[1:])
    device = interface or await packet_host.own_interface(here, _INTERFACES[role])
    if role == "gateway":
        return await gateway_host.examine(
            directory=here,
            snapshot=snapshot if isinstance(snapshot, GatewaySnapshot) else None,
            absence=absence,
            gateways=gateways,
            wanted=target,
            interface=device,
        )
    return await agent_host.examine(
        ways=ways,
        by_option=proxy is not None,
        directory=here,
        snapshot=snapshot if isinstance(snapshot, AgentSnapshot) else None,
        absence=absence,
        gateways=gateways,
        wanted=target,
        interface=device,
    )


async def _snapshot(socket: Path | None) -> tuple[GatewaySnapshot | AgentSnapshot | None, list[str]]:
    """What the daemon knows, or why none tells: a gateway and an agent, in this order."""
    tried = []
    for path in [socket] if socket is not None else [GATEWAY_SOCKET, AGENT_SOCKET]:
        try:
            answer = await ask(path, SnapshotRequest(), timeout=5.0)
        except StateError as error:
            tried.append(str(error))
            continue
        if answer.snapshot is not None:
            return answer.snapshot, []
        tried.append(f"{path}: {answer.error or 'another answer than a snapshot'}")
    return None, tried
