"""What a daemon knows about itself, as values. `raven.net.status_socket` serves and reads them.

A state never travels without the age of the evidence for it. Whoever may open the socket may read it all, so
no secret belongs into a snapshot.
"""

from __future__ import annotations

from typing import Literal

import msgspec

# docs/operations.md explains each to the operator.
LaneState = Literal[
    "up",  # the other end proved lately that it is there
    "starting",  # everything is set up, no probe has been answered yet
    "reconnecting",  # its connection broke, its streams wait for the next one; `detail` says since when
    "stale",  # nothing says that it is down, but the last answer is too old to say "up"
    "down",  # it was tried and failed; `detail` says how
    "off",  # nobody tries; `detail` says why
]

EVIDENCE_MAX_AGE = 60.0  # seconds; an idle tunnel is probed every 50 s at most, and a dead one ends by then


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One lane to one node or gateway: a state, and how old the proof of it is."""

    state: LaneState
    evidence_age_s: float | None = None  # seconds since the other end last proved to be there; None: never
    evidence_max_s: float = EVIDENCE_MAX_AGE  # seconds that may be, for "up"
    rtt_ms: float | None = None  # of the last answered probe
    detail: str = ""  # a sentence: why it is not up, or what to know although it is
    bytes_in: int = 0
    bytes_out: int = 0
    handshake_age_s: float | None = None  # packet lane: since the last WireGuard handshake
    mtu: int | None = None  # packet lane: bytes of the largest packet that fits the path, where it is known


def judged(lane: Lane) -> Lane:
    """The lane, no better than its evidence, which for "up" is at most `evidence_max_s` old."""
    if lane.state != "up":
        return lane
    if lane.evidence_age_s is None:
        return msgspec.structs.replace(lane, state="starting", detail=lane.detail or "no probe answered yet")
    if lane.evidence_age_s < lane.evidence_max_s:
        return lane
    detail = lane.detail or f"nothing was heard for {lane.evidence_age_s:.0f} s"
    return msgspec.structs.replace(lane, state="stale", detail=detail)


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A node as the gateway sees it; `ravenctl nodes -o json` prints these."""

    name: str
    connected: bool  # the stream lane is up, on fresh evidence
    last_seen_s: float | None  # seconds since it was last heard; None: never
    rtt_ms: float | None  # of the stream lane
    stream_lane: LaneState
    packet_lane: LaneState
    pod_cidrs: list[str]
    address: str  # where its tunnel comes from; "" without one
    software: str
    streams: int  # open now
    stream: Lane
    packets: Lane


def node_status(
    name: str,
    *,
    stream: Lane,
    packets: Lane,
    last_seen_s: float | None,
    pod_cidrs: list[str],
    address: str = "",
    software: str = "",
    streams: int = 0,
) -> NodeStatus:
    """The node's status after both lanes were judged by their evidence."""
    stream, packets = judged(stream), judged(packets)
    return NodeStatus(
        name=name,
        connected=stream.state == "up",
        last_seen_s=last_seen_s,
        rtt_ms=stream.rtt_ms if stream.state == "up" else None,
        stream_lane=stream.state,
        packet_lane=packets.state,
        pod_cidrs=pod_cidrs,
        address=address,
        software=software,
        streams=streams,
        stream=stream,
        packets=packets,
    )


class PeerGateway(msgspec.Struct, frozen=True, kw_only=True):
    """Another gateway of the cluster, as one that follows it or is followed by it sees it."""

    name: str
    address: str  # where agents dial it
    lane: Lane


class GatewaySnapshot(msgspec.Struct, frozen=True, kw_only=True, tag_field="role", tag="gateway"):
    name: str
    cluster: str
    software: str
    pid: int
    uptime_s: float
    draining: bool
    advertise: str
    listeners: dict[str, str]  # what listens: its address
    packets: Lane  # the gateway's own device
    offloads: dict[str, str] = {}  # of that device, by name: "" is on, else why it is off
    nodes: list[NodeStatus]
    refused: dict[str, int]  # connections turned away since the start, by reason
    problems: list[str]  # sentences an operator should read
    tasks: int = 0  # of the event loop, alive now; for whoever looks for a leak
    gateways: list[PeerGateway] = msgspec.field(default_factory=list)  # the others


class UplinkStatus(msgspec.Struct, frozen=True, kw_only=True):
    """An agent's tunnel to one gateway."""

    gateway: str  # the address dialled
    name: str  # the gateway's own name; "" before its first hello
    lane: Lane
    streams: int
    attempts: int  # failed in a row
    proxy: str = ""  # HOST:PORT of the HTTP proxy on the way; "" where there is none


class AgentSnapshot(msgspec.Struct, frozen=True, kw_only=True, tag_field="role", tag="agent"):
    node: str
    cluster: str
    software: str
    pid: int
    uptime_s: float
    draining: bool
    uplinks: list[UplinkStatus]
    packets: Lane
    offloads: dict[str, str] = {}  # of its device, by name: "" is on, else why it is off
    pod_cidrs: list[str]
    allow: list[str]
    refused: dict[str, int]  # streams turned away since the start, by reason
    problems: list[str]
    tasks: int = 0  # of the event loop, alive now


class PingResult(msgspec.Struct, frozen=True, kw_only=True):
    """One round trip through each lane; a lane without a time has a problem, or is off."""

    node: str
    stream_rtt_ms: float | None = None
    stream_problem: str = ""
    packet_rtt_ms: float | None = None
    packet_problem: str = ""
    packet_off: bool = False  # nobody wants packets there, so nothing is wrong


class Happening(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a daemon's log; `ravenctl events` makes a sentence of it."""

    time: float  # Unix seconds
    level: str  # debug, info, warning, error
    area: str  # which part of the daemon speaks
    what: str  # what happened, in constant words
    details: dict[str, str]


class StreamStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that is open now. Rates come from two of these with the same `id`."""

    id: str  # of the tunnel and the stream in it, as long as it lives
    node: str
    target: str  # node:PORT, or HOST:PORT behind the node
    asker: str  # who asked for it
    request: str  # as in the audit lines
    priority: str
    age_s: float
    bytes_to_target: int
    bytes_from_target: int
    window: int  # bytes that the reader of the busier direction lets its sender send ahead
    queue: int  # bytes that wait in this process, both directions


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """All streams at one moment."""

    at: float  # seconds, monotonic
    streams: list[StreamStatus]


class Hop(msgspec.Struct, frozen=True, kw_only=True):
    """One station of a request, and what it took to get there from the one before."""

    name: str  # gateway, node, target
    who: str  # its identity or address
    rtt_ms: float | None = None  # from the hop before; None: not measured, or broken
    detail: str = ""
    problem: str = ""  # a sentence; the request ends here


class TraceResult(msgspec.Struct, frozen=True, kw_only=True):
    """The way of one request, as far as it came."""

    node: str
    hops: list[Hop]
