"""What the gateway says of itself: the snapshot that ravenctl shows and the families that Prometheus scrapes.

Reads what the parts keep and changes nothing.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import msgspec
import trio

from gateway.parts import Parts
from gateway.tunnels import NodeTunnel
from raven import __version__
from raven.net.open_streams import listed
from raven.net.probe import ProbeError
from raven.net.tunnel import PING_MAX, TunnelLost
from raven.registry.interface import NodeRecord
from raven.status import (
    GatewaySnapshot,
    Lane,
    NodeStatus,
    PeerGateway,
    PingResult,
    Streams,
    judged,
    node_status,
)

if TYPE_CHECKING:
    from raven.metrics import Family


def snapshot(of: Parts) -> GatewaySnapshot:
    """All there is to know now."""
    problems = [*of.problems, *of.oam.problems(), *of.network.problems()]
    if of.ca_problem:
        problems.append(of.ca_problem)
    if of.kubernetes is not None:
        problems += of.kubernetes.problems()
    if of.following is not None:
        problems += of.following.problems()
    if of.sharing is not None:
        problems += of.sharing.problems()
    if of.audit.dropped:
        problems.append(f"{of.audit.dropped} audit lines are in the log only: the registry did not take them")
    return GatewaySnapshot(
        name=of.state.name,
        cluster=of.state.cluster,
        software=__version__,
        pid=os.getpid(),
        uptime_s=time.monotonic() - of.started,
        draining=of.draining,
        advertise=str(of.advertise),
        listeners=of.listening,
        packets=of.network.lane(),
        offloads=dict(of.network.offloads()),
        gateways=_gateways(of),
        nodes=[_node(of, record) for record in of.registry.nodes()],
        refused=dict(of.server.refused),
        problems=problems,
        tasks=trio.lowlevel.current_statistics().tasks_living,
    )


def _gateways(of: Parts) -> list[PeerGateway]:
    """The other gateways of the list, as far as this one sees them."""
    found = []
    for known in of.broadcast.gateways.gateways:
        if known.name == of.state.name:
            continue
        if of.following is not None:
            followed = known.address == str(of.following.followed)
            lane = of.following.lane() if followed else Lane(state="off", detail="not watched from here")
        elif of.followers is None:
            lane = Lane(state="off", detail="not watched from here")
        elif (follower := of.followers.connected.get(known.name)) is not None:
            tunnel = follower.tunnel
            lane = Lane(
                state="up",
                evidence_age_s=max(0.0, trio.current_time() - tunnel.last_heard),
                rtt_ms=None if tunnel.rtt is None else tunnel.rtt * 1e3,
            )
        else:
            lane = Lane(state="down", detail="it does not follow now: is it stopped, or cut off?")
        found.append(PeerGateway(name=known.name, address=known.address, lane=judged(lane)))
    return found


def _node(of: Parts, record: NodeRecord) -> NodeStatus:
    live = of.table.live(record.name)
    last_seen: float | None = None
    if live is not None:
        last_seen = live.evidence_age()
    elif record.last_seen is not None:
        last_seen = max(0.0, time.time() - record.last_seen)
    return node_status(
        record.name,
        stream=_stream_lane(live, last_seen),
        packets=_packet_lane(of, record.name, live),
        last_seen_s=last_seen,
        pod_cidrs=list(live.pod_cidrs if live is not None else record.pod_cidrs),
        address=live.address if live is not None else "",
        software=live.software if live is not None else record.software,
        streams=live.tunnel.streams_open if live is not None else 0,
    )


def _stream_lane(live: NodeTunnel | None, last_seen: float | None) -> Lane:
    if live is None:
        detail = "it joined, and never connected" if last_seen is None else "it has no tunnel"
        return Lane(state="down", evidence_age_s=last_seen, detail=detail)
    tunnel = live.tunnel
    if (since := tunnel.suspended_since) is not None:
        return Lane(
            state="reconnecting",
            evidence_age_s=last_seen,
            detail=f"its connection broke {trio.current_time() - since:.0f} s ago; its streams wait for it",
            bytes_in=tunnel.bytes_in,
            bytes_out=tunnel.bytes_out,
        )
    return Lane(
        state="up",
        evidence_age_s=last_seen,
        rtt_ms=None if tunnel.rtt is None else tunnel.rtt * 1e3,
        bytes_in=tunnel.bytes_in,
        bytes_out=tunnel.bytes_out,
    )


def _packet_lane(of: Parts, name: str, live: NodeTunnel | None) -> Lane:
    if live is not None and live.hello.packets is None:
        return Lane(state="off", detail=live.hello.no_packets_reason or "the agent brings no packets")
    lane = of.network.node_lane(name)
    if live is not None and live.report is not None and live.report.problem and lane.state != "up":
        told = f"the agent says: {live.report.problem}"
        return msgspec.structs.replace(lane, detail=f"{lane.detail}; {told}" if lane.detail else told)
    return lane


def streams(of: Parts) -> Streams:
    """Every stream that is open now."""
    return Streams(
        at=trio.current_time(),
        streams=[
            stream
            for live in of.table.connected()
            for stream in listed(live.tunnel, node=live.node, opener=True)
        ],
    )


async def ping(of: Parts, name: str) -> PingResult | str:
    """A round trip through each lane, or a sentence when there is no such node."""
    record = of.registry.node(name)
    if record is None:
        return f"no node named {name} has joined this gateway; `ravenctl nodes` lists those that did"
    live = of.table.live(name)
    stream_rtt: float | None = None
    stream_problem = _stream_lane(None, record.last_seen).detail
    if live is not None and live.tunnel.suspended_since is not None:
        stream_problem = _stream_lane(live, live.evidence_age()).detail
    elif live is not None:
        try:
            with trio.fail_after(PING_MAX):
                stream_rtt = 1e3 * await live.tunnel.ping()
        except TunnelLost as error:
            stream_problem = str(error)
        except trio.TooSlowError:
            stream_problem = f"no answer within {PING_MAX:.0f} s"
    packets = _packet_lane(of, name, live)
    packet_rtt: float | None = None
    packet_problem = packets.detail
    if packets.state != "off":
        try:
            packet_rtt = 1e3 * await of.network.ping(name)
        except ProbeError as error:
            packet_problem = str(error)
    return PingResult(
        node=name,
        stream_rtt_ms=stream_rtt,
        stream_problem="" if stream_rtt is not None else stream_problem,
        packet_rtt_ms=packet_rtt,
        packet_problem="" if packet_rtt is not None else packet_problem,
        packet_off=packets.state == "off",
    )


def families(of: Parts) -> Iterator[Family]:
    """What a scrape of the gateway gives."""
    from raven.metrics import Family, by, single

    connected = of.table.connected()
    lanes = {live.node: of.network.node_lane(live.node) for live in connected}
    server = of.server
    yield single("tunnels", "Agents connected now.", len(connected))
    yield single("streams", "Streams open now.", sum(live.tunnel.streams_open for live in connected))
    yield single("handshakes_pending", "Connections that have yet to say who they are.", server.strangers)
    yield single("tunnels_accepted", "Tunnels that came about.", server.accepted, kind="counter")
    yield by("reason", "connections_refused", "Agents' connections turned away.", server.refused)
    yield by("reason", "tunnels_ended", "Tunnels that ended.", server.lost)
    yield by("verdict", "oam_requests", "O&M requests that ended.", of.audit.verdicts)
    yield by("reason", "oam_broken", "O&M requests that broke off.", of.oam.requests.broken)
    yield by("reason", "oam_refused", "O&M connections turned away.", of.oam.entries.refused)
    askers = Counter(request.asker.identity for request in of.oam.requests.live)
    yield Family(
        "oam_requests_open",
        "O&M requests under way, by who asks.",
        "gauge",
        ("asker",),
        {(asker,): count for asker, count in askers.items()},
    )
    yield single("oam_connections", "O&M connections open now.", of.oam.proxy.connections)
    yield single("audit_lines_dropped", "Lines not in the registry.", of.audit.dropped, kind="counter")
    yield _per_node(
        "tunnel_bytes",
        "Bytes of a node's tunnel since it connected.",
        ((live.node, live.tunnel.bytes_in, live.tunnel.bytes_out) for live in connected),
    )
    yield _per_node(
        "packet_bytes",
        "Bytes of a node's packets since its device came up.",
        ((node, lane.bytes_in, lane.bytes_out) for node, lane in lanes.items()),
    )
    yield Family(
        "tunnel_evidence_age_seconds",
        "Since the node was last heard.",
        "gauge",
        ("node",),
        {(live.node,): live.evidence_age() for live in connected},
    )
    yield Family(
        "tunnel_rtt_seconds",
        "Round trip of the stream lane.",
        "gauge",
        ("node",),
        {(live.node,): live.tunnel.rtt for live in connected if live.tunnel.rtt is not None},
    )
    yield Family(
        "packet_handshake_age_seconds",
        "Since the node's last WireGuard handshake.",
        "gauge",
        ("node",),
        {(node,): age for node, lane in lanes.items() if (age := lane.handshake_age_s) is not None},
    )
    yield Family(
        "packet_mtu_bytes",
        "Largest packet that fits the path to the node.",
        "gauge",
        ("node",),
        {(node,): lane.mtu for node, lane in lanes.items() if lane.mtu is not None},
    )
    yield by(
        "offload",
        "packet_offload",
        "Whether an offload of the gateway's device is on.",
        {name: float(not why) for name, why in of.network.offloads().items()},
        kind="gauge",
    )
    yield by(
        "reason", "packets_dropped", "Packets the gateway's device dropped.", dict(of.network.counters())
    )


def _per_node(name: str, help: str, rows: Iterable[tuple[str, int, int]]) -> Family:
    from raven.metrics import Family

    samples: dict[tuple[str, ...], float] = {}
    for node, received, sent in rows:
        samples[node, "in"], samples[node, "out"] = received, sent
    return Family(name, help, "counter", ("node", "direction"), samples)
