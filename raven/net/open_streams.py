"""The streams of a tunnel as `ravenctl top` shows them, at either end of it."""

from __future__ import annotations

import trio

from raven.control.messages import decode_open_untrusted
from raven.errors import PeerError
from raven.net.tunnel import Tunnel
from raven.net.tunnel_stream import TunnelStream
from raven.status import StreamStatus


def listed(tunnel: Tunnel, *, node: str, opener: bool) -> list[StreamStatus]:
    """What each open stream carries now, oldest first; `opener` says that this end asked for them."""
    streams = sorted(tunnel.streams(), key=lambda stream: stream.began)
    return [
        status
        for stream in streams
        if (status := _status(tunnel, stream, node=node, opener=opener)) is not None
    ]


def _status(tunnel: Tunnel, stream: TunnelStream, *, node: str, opener: bool) -> StreamStatus | None:
    usage = stream.usage()
    if usage is None:
        return None
    try:
        request = decode_open_untrusted(stream.opening)
    except PeerError:
        return None  # about to be refused
    host = f"[{request.host}]" if ":" in request.host else request.host or node
    return StreamStatus(
        id=f"{id(tunnel):x}-{stream.stream}",
        node=node,
        target=f"{host}:{request.port}",
        asker=f"{request.names[0]} at {request.asker}" if request.names else request.asker,
        request=request.request,
        priority=stream.priority.name.lower(),
        age_s=trio.current_time() - stream.began,
        bytes_to_target=usage.sent if opener else usage.received,
        bytes_from_target=usage.received if opener else usage.sent,
        window=usage.window,
        queue=usage.queue,
    )
