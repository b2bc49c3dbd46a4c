"""The way of one request, hop by hop, for `ravenctl trace`: a real stream to the target, opened and closed.

Each hop is timed by itself: the tunnel by a ping of its own, the target by the agent that connected to it.
The gateway's policy judges whoever asks at the status socket as it does at the O&M entries.
"""

from __future__ import annotations

import time

import trio

from gateway.parts import Parts
from gateway.tunnels import NodeTunnel
from raven.control.messages import decode_opened_untrusted
from raven.errors import PeerError
from raven.net.status_socket import TraceRequest
from raven.net.tunnel import PING_MAX, TunnelLost, TunnelStream
from raven.oam.asker import Asker
from raven.oam.refusal import Refusal
from raven.oam.target import Target
from raven.spans import age
from raven.status import Hop, TraceResult


async def trace(of: Parts, request: TraceRequest, asker: Asker) -> TraceResult | str:
    """The hops as far as the request comes, or a sentence when there is no such node."""
    record = of.registry.node(request.node)
    if record is None:
        return f"no node named {request.node} has joined this gateway; `ravenctl nodes` lists those that did"
    oam = of.listening.get("O&M", "")
    hops = [
        Hop(
            name="gateway",
            who=f"raven://{of.state.cluster}/gateway/{of.state.name}",
            detail=f"takes requests at {oam}" if oam else "takes no requests: it has no O&M entry",
        )
    ]
    live = of.table.live(request.node)
    hops.append(await _node(of, request.node, live, record.last_seen))
    if live is not None and request.port and not hops[-1].problem:
        hops.append(await _target(of, request, asker))
    return TraceResult(node=request.node, hops=hops)


async def _node(of: Parts, node: str, live: NodeTunnel | None, last_seen: float | None) -> Hop:
    who = f"raven://{of.state.cluster}/node/{node}"
    if live is None:
        since = (
            "it never connected" if last_seen is None else f"last heard {age(time.time() - last_seen)} ago"
        )
        return Hop(name="node", who=who, problem=f"it has no tunnel; {since}")
    if (lost := live.tunnel.suspended_since) is not None:
        gap = trio.current_time() - lost
        return Hop(
            name="node", who=who, problem=f"its connection broke {gap:.0f} s ago, and it is not back yet"
        )
    detail = f"from {live.address}, raven {live.software}, certificate for {age(live.expires - time.time())}"
    try:
        with trio.fail_after(PING_MAX):
            rtt = await live.tunnel.ping()
    except TunnelLost as error:
        return Hop(name="node", who=who, detail=detail, problem=str(error))
    except trio.TooSlowError:
        return Hop(name="node", who=who, detail=detail, problem=f"no answer within {PING_MAX:.0f} s")
    return Hop(name="node", who=who, rtt_ms=1e3 * rtt, detail=detail)


async def _target(of: Parts, request: TraceRequest, asker: Asker) -> Hop:
    """Connects to the target as a request would, judged and audited like one, and sends nothing."""
    requests = of.oam.requests
    record = requests.new(asker, "TRACE")
    seconds = None
    try:
        requests.locate(record, Target(request.node, request.host, request.port))
        with requests.under_way(record):
            stream = await requests.open(record)
            assert isinstance(stream, TunnelStream)
            stream.close()
            seconds = decode_opened_untrusted(stream.header).seconds
    except Refusal as refusal:
        record.refused(refusal)
    except PeerError:
        pass  # an agent of a version that does not say how long it took
    finally:
        requests.ended(record)
    host = f"[{request.host}]" if ":" in request.host else request.host or request.node
    who = f"{host}:{request.port}"
    if record.verdict != "allowed":
        return Hop(name="target", who=who, problem=record.detail)
    return Hop(
        name="target",
        who=who,
        rtt_ms=None if seconds is None else 1e3 * seconds,
        detail="policy and owner allow it, and it took the connection",
    )
