"""What the agent says of itself: the snapshot that ravenctl shows and the families that Prometheus scrapes.

Reads what the parts keep and changes nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import msgspec
import trio

from agent.parts import Parts
from agent.uplink import Uplink
from raven import __version__
from raven.net.open_streams import listed
from raven.net.probe import ProbeError
from raven.net.tunnel import PING_MAX, TunnelLost
from raven.status import AgentSnapshot, PingResult, Streams, UplinkStatus, judged

if TYPE_CHECKING:
    from raven.metrics import Family


def snapshot(of: Parts) -> AgentSnapshot:
    """All there is to know now."""
    return AgentSnapshot(
        node=of.state.node,
        cluster=of.state.cluster,
        software=__version__,
        pid=os.getpid(),
        uptime_s=time.monotonic() - of.started,
        draining=of.draining,
        uplinks=[uplink_status(uplink) for uplink in of.uplinks],
        packets=judged(of.network.lane()),
        offloads=dict(of.network.offloads()),
        pod_cidrs=list(of.options.pod_cidr),
        allow=[str(rule) for rule in of.dialer.allow.rules],
        refused=dict(of.dialer.refused),
        problems=[*of.problems, *of.allow_file.problems(), *of.renewal.problems(), *of.network.problems()],
        tasks=trio.lowlevel.current_statistics().tasks_living,
    )


def streams(of: Parts) -> Streams:
    """Every stream that is open now."""
    return Streams(
        at=trio.current_time(),
        streams=[
            stream
            for uplink in of.uplinks
            if uplink.tunnel is not None
            for stream in listed(uplink.tunnel, node=of.state.node, opener=False)
        ],
    )


def uplink_status(uplink: Uplink) -> UplinkStatus:
    status = uplink.status()
    return msgspec.structs.replace(status, lane=judged(status.lane))


async def ping(of: Parts, name: str) -> PingResult | str:
    """A round trip to a gateway through each lane, or a sentence when it is none of ours."""
    found = [
        uplink
        for uplink in of.uplinks
        if name in ("gateway", uplink.status().name, str(uplink.address), uplink.address.host)
    ]
    if not found:
        known = ", ".join(str(uplink.address) for uplink in of.uplinks)
        return f"this agent has no gateway {name}; it has {known}"
    stream_rtt: float | None = None
    stream_problem = ""
    try:
        with trio.fail_after(PING_MAX):
            stream_rtt = 1e3 * await found[0].ping()
    except TunnelLost as error:
        stream_problem = str(error)
    except trio.TooSlowError:
        stream_problem = f"no answer within {PING_MAX:.0f} s"
    packets = of.network.lane()
    packet_rtt: float | None = None
    packet_problem = packets.detail
    if packets.state != "off":
        try:
            packet_rtt = 1e3 * await of.network.ping()
        except ProbeError as error:
            packet_problem = str(error)
    return PingResult(
        node=name,
        stream_rtt_ms=stream_rtt,
        stream_problem=stream_problem,
        packet_rtt_ms=packet_rtt,
        packet_problem="" if packet_rtt is not None else packet_problem,
        packet_off=packets.state == "off",
    )


def families(of: Parts) -> Iterator[Family]:
    """What a scrape of the agent gives."""
    from raven.metrics import Family, by, single

    uplinks = [uplink_status(uplink) for uplink in of.uplinks]
    packets = judged(of.network.lane())
    yield Family(
        "tunnel_up",
        "Whether the tunnel to a gateway is up, on fresh evidence.",
        "gauge",
        ("gateway",),
        {(uplink.gateway,): float(uplink.lane.state == "up") for uplink in uplinks},
    )
    yield Family(
        "tunnels_connected",
        "Tunnels to a gateway that came about.",
        "counter",
        ("gateway",),
        {(str(uplink.address),): uplink.connects for uplink in of.uplinks},
    )
    yield Family(
        "tunnel_rtt_seconds",
        "Round trip of the stream lane.",
        "gauge",
        ("gateway",),
        {(uplink.gateway,): rtt / 1e3 for uplink in uplinks if (rtt := uplink.lane.rtt_ms) is not None},
    )
    samples: dict[tuple[str, ...], float] = {}
    for uplink in uplinks:
        samples[uplink.gateway, "in"] = uplink.lane.bytes_in
        samples[uplink.gateway, "out"] = uplink.lane.bytes_out
    yield Family("tunnel_bytes", "Bytes of the stream lane.", "counter", ("gateway", "direction"), samples)
    yield single("streams", "Streams open now.", sum(uplink.streams for uplink in uplinks))
    yield by("reason", "streams_refused", "Streams turned away.", of.dialer.refused)
    yield single("packet_lane_up", "Whether packets pass, on fresh evidence.", float(packets.state == "up"))
    yield by(
        "direction",
        "packet_bytes",
        "Bytes of the packet lane.",
        {"in": packets.bytes_in, "out": packets.bytes_out},
    )
    if packets.handshake_age_s is not None:
        yield single(
            "packet_handshake_age_seconds", "Since the last WireGuard handshake.", packets.handshake_age_s
        )
    if packets.mtu is not None:
        yield single("packet_mtu_bytes", "Largest packet that fits the path to the gateway.", packets.mtu)
    yield by("reason", "packets_dropped", "Packets this device dropped.", dict(of.network.counters()))
    yield by(
        "offload",
        "packet_offload",
        "Whether an offload of the device is on.",
        {name: float(not why) for name, why in of.network.offloads().items()},
        kind="gauge",
    )
