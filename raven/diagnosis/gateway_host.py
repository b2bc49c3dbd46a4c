"""What a gateway's host can see: its state, its listeners, its nodes, its packets, a request through it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import trio

from raven.config import Address
from raven.diagnosis import judge, lanes, packet_host, target, way
from raven.diagnosis.finding import Finding, Result
from raven.diagnosis.own_state import NEW_CERTIFICATE, OwnState, read_state, registry
from raven.spans import age
from raven.status import GatewaySnapshot

_CONNECT_MAX = 5.0  # seconds, on this very host
_SOON = 30 * 86400.0  # seconds; the CA lasts ten years, and every node has to hear of its end


async def examine(
    *,
    directory: Path | None,
    snapshot: GatewaySnapshot | None,
    absence: str,
    gateways: Sequence[Address],
    wanted: str,
    interface: str,
) -> list[Finding]:
    """Everything; arguments as of `agent_host.examine`. `gateways` replace the advertised address."""
    asked = target.parse(wanted) if wanted else None
    found: list[Finding] = []
    state: OwnState | None = None
    if directory is not None:
        state = read_state(directory, "gateway")
        found += [*state.findings, *_certificates(state)]
        if (directory / "registry.sqlite").exists():
            found.append(registry(directory / "registry.sqlite", now=time.time()))
    if snapshot is None:
        found.append(lanes.no_daemon("raven-gateway", absence))
        return found
    up = f"process {snapshot.pid}, up {age(snapshot.uptime_s)}, raven {snapshot.software}"
    found.append(Finding(hop="daemon", result="ok", about="raven-gateway", said=up))
    found += await _listeners(snapshot)
    found += await _advertised(snapshot, state, gateways)
    only = asked.node if asked is not None else ""
    found += [*lanes.nodes(snapshot, only=only), *lanes.problems(snapshot)]
    entry = _address(snapshot.listeners.get("O&M", ""))
    if asked is not None and entry is not None:
        found.append(await target.through(entry, asked))
    found.append(lanes.packets(snapshot))
    if snapshot.packets.state != "off":
        cidrs = [cidr for node in snapshot.nodes for cidr in node.pod_cidrs]
        found += lanes.node_packets(snapshot, only=only)
        found += await packet_host.examine(
            interface=interface,
            process=snapshot.pid,
            failed=lanes.has_failed(snapshot.packets),
            pod_cidrs=cidrs,
            hub=True,
        )
    return found


def _certificates(state: OwnState) -> list[Finding]:
    found, now = [], time.time()
    if state.ca is not None:
        left = state.ca.not_valid_after_utc.timestamp() - now
        about = str(state.directory / "ca.crt")
        if left < 0:
            said = f"the cluster's CA expired {age(-left)} ago"
            step = "check this machine's clock; the CA's end is the end of every certificate"
            found.append(Finding(hop="certificate", result="broken", about=about, said=said, next=step))
        else:
            said = f"the cluster's CA, good for another {age(left)}"
            result: Result = "ok" if left > _SOON else "note"
            found.append(Finding(hop="certificate", result=result, about=about, said=said))
    if state.leaf is not None:
        about = str(state.directory / "gateway.crt")
        found.append(judge.certificate(state.leaf, now=now, about=about, rejoin=NEW_CERTIFICATE["gateway"]))
    return found


async def _listeners(snapshot: GatewaySnapshot) -> list[Finding]:
    """A connection to everything that listens on TCP."""
    found = []
    for what, text in snapshot.listeners.items():
        address = _address(text)
        if address is None:
            continue  # the Unix socket, which has answered
        try:
            with trio.fail_after(_CONNECT_MAX):
                stream = await trio.open_tcp_stream(address.host or "localhost", address.port)
            await trio.aclose_forcefully(stream)
        except (OSError, trio.TooSlowError) as error:
            why = "no answer" if isinstance(error, trio.TooSlowError) else str(error)
            step = (
                "a firewall of this host drops it, or the daemon hangs: `journalctl -u raven-gateway -n 50`"
            )
            said = f"{what} does not accept connections: {why}"
            found.append(Finding(hop="listener", result="broken", about=text, said=said, next=step))
        else:
            found.append(Finding(hop="listener", result="ok", about=text, said=f"{what} accepts connections"))
    return found


async def _advertised(
    snapshot: GatewaySnapshot, state: OwnState | None, given: Sequence[Address]
) -> list[Finding]:
    """Where agents are told to dial, tried from here; clouds often do not route that back, so only noted."""
    dialled = list(given)
    if not dialled and (address := _address(snapshot.advertise)) is not None:
        dialled = [address]
    found = way.findings(await way.to(dialled), ca=state.ca if state else None, cluster=snapshot.cluster)
    return found if given else way.noted(found)


def _address(text: str) -> Address | None:
    with suppress(ValueError):
        return Address.parse(text)
    return None
