"""The first word of a node on its tunnel, and the last one to a connection that gets none.

`gateway.tunnel_server` decides who is which; these only read, check and answer.
"""

from __future__ import annotations

from typing import Final

import trio

from raven.control.messages import VERSION, AgentHello, decode_control_untrusted
from raven.errors import PeerError
from raven.keys import PublicKey
from raven.mux.codes import EndCode
from raven.mux.connection import Connection
from raven.net.tls_stream import TLSStream
from raven.net.tunnel import Tunnel

DISMISS_MAX: Final = 2.0  # seconds to deliver the sentence that says why
DISMISS_BYTES: Final = 1 << 16


async def receive_hello(tunnel: Tunnel, node: str) -> AgentHello:
    """The node's hello; PeerError when it is none, or another node's. The caller bounds the time."""
    message = decode_control_untrusted(await tunnel.control.receive())
    if not isinstance(message, AgentHello):
        kind = type(message).__name__
        raise PeerError("bad-control", f"the first message is a {kind}, expected AgentHello")
    return checked(message, node)


def checked(hello: AgentHello, node: str) -> AgentHello:
    """The hello, if it is one that the node with this certificate may say; PeerError."""
    if hello.node != node:
        raise PeerError("wrong-node", f"the hello names node {hello.node}, the certificate {node}")
    if hello.version != VERSION:
        raise PeerError(
            "wrong-version", f"the agent speaks control version {hello.version}, this gateway {VERSION}"
        )
    if hello.packets is not None:
        try:
            PublicKey.from_base64(hello.packets.public_key)
        except ValueError as error:
            raise PeerError("bad-control", f"the offered public key: {error}") from error
    return hello


async def dismiss(stream: TLSStream, message: str) -> None:
    """Says why in a GOAWAY, and closes; reads on for a moment, lest a reset overtake the sentence."""
    connection = Connection(initiator=False, now=trio.current_time())
    connection.go_away(EndCode.PROTOCOL, message)
    try:
        with trio.move_on_after(DISMISS_MAX):
            await stream.send_all(connection.data_to_send(DISMISS_BYTES))
            while await stream.receive_some(DISMISS_BYTES):
                pass
    except trio.BrokenResourceError:
        pass  # it has gone already
    finally:
        await trio.aclose_forcefully(stream)
