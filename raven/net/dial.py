"""Opens the TCP connection to a gateway: IPv4 and IPv6 raced, straight or through an HTTP proxy's CONNECT.

The running agent, `join` and the checks of ravenctl dial here, so that what a check finds is what the agent
meets. Every step has a deadline and what a proxy answers is bounded; each failure is a PeerError whose
sentence says which machine on the way did not do what.
"""

from __future__ import annotations

import os
import socket
from typing import Final

import trio

from raven.errors import PeerError
from raven.net.proxy import DIRECT, Proxy, Ways
from raven.oam.heads import AnswerHead, HeadBuffer, parse_answer_untrusted
from raven.oam.refusal import Refusal

CONNECT_MAX: Final = 10.0  # seconds for TCP, over all addresses of a name
# Seconds from CONNECT to the whole head of the answer. The proxy itself resolves and connects meanwhile: one
# address that does not answer costs it a retransmitted SYN or two before it tries the next.
ANSWER_MAX: Final = 20.0
_READ: Final = 4096  # bytes; an answer to CONNECT has some hundred

# RFC 8305, section 5: how long an address gets before the next one is tried beside it.
_RACE_DELAY: Final = 0.25  # seconds


async def dial(
    host: str,
    port: int,
    *,
    ways: Ways = DIRECT,
    connect_max: float = CONNECT_MAX,
    answer_max: float = ANSWER_MAX,
) -> trio.SocketStream:
    """A connection to `host`:`port`, which nobody has said a byte over.

    PeerError "lookup", "connect", or of a proxy "proxy-lookup", "proxy-connect", "proxy-auth",
    "proxy-forbids", "proxy-target", "proxy-answer".
    """
    if not host.isascii() or not host.isprintable() or " " in host:
        raise PeerError("lookup", f"cannot look up {host!r}: it is no host's name")
    proxy = ways.proxy_for(host, port)
    if proxy is None:
        return await _connect(host, port, connect_max)
    try:
        stream = await _connect(proxy.host, proxy.port, connect_max)
    except PeerError as error:
        raise PeerError(f"proxy-{error.reason}", f"the proxy {proxy}: {error}") from error
    try:
        with trio.fail_after(answer_max):
            await _ask(stream, proxy, host, port)
    except trio.TooSlowError as error:
        await trio.aclose_forcefully(stream)
        text = f"the proxy {proxy} did not answer CONNECT within {answer_max:.0f} s"
        raise PeerError("proxy-answer", text) from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


def os_reasons(error: OSError) -> str:
    """What went wrong at each address that was tried; trio hides them in an exception group."""
    group = error.__cause__
    causes = group.exceptions if isinstance(group, BaseExceptionGroup) else [error]
    failures = [cause for cause in causes if isinstance(cause, OSError)]
    texts = [os.strerror(cause.errno) if cause.errno else str(cause) for cause in failures]
    return "; ".join(dict.fromkeys(texts))


async def _connect(host: str, port: int, connect_max: float) -> trio.SocketStream:
    try:
        with trio.fail_after(connect_max):
            return await trio.open_tcp_stream(host, port, happy_eyeballs_delay=_RACE_DELAY)
    except socket.gaierror as error:
        raise PeerError("lookup", f"cannot look up {host}: {error.strerror}") from error
    except UnicodeError as error:
        raise PeerError("lookup", f"cannot look up {host}: {error}") from error
    except OSError as error:
        raise PeerError("connect", f"cannot connect: {os_reasons(error)}") from error
    except trio.TooSlowError as error:
        raise PeerError("connect", f"no answer within {connect_max:.0f} s") from error


async def _ask(stream: trio.SocketStream, proxy: Proxy, host: str, port: int) -> None:
    """CONNECT, and the proxy's yes."""
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    buffer = HeadBuffer(strict=False)
    try:
        await stream.send_all("\r\n".join([*lines, "", ""]).encode("ascii"))
        while (head := buffer.next_head()) is None:
            data = await stream.receive_some(_READ)
            if not data:
                raise PeerError("proxy-answer", f"the proxy {proxy} hung up instead of answering CONNECT")
            buffer.receive_data(data)
        answer = parse_answer_untrusted(head, method="CONNECT")
    except trio.BrokenResourceError as error:
        text = f"the proxy {proxy} broke the connection: {error.__cause__ or error}"
        raise PeerError("proxy-answer", text) from error
    except Refusal as refusal:
        text = f"the proxy {proxy} does not answer CONNECT in HTTP: is it an HTTP proxy?"
        raise PeerError("proxy-answer", text) from refusal
    if not 200 <= answer.status < 300:
        raise _refusal(answer, proxy, target)
    if len(buffer):
        # TLS servers never speak first, so these are the proxy's own bytes and would break the handshake.
        raise PeerError("proxy-answer", f"the proxy {proxy} sends bytes of its own behind its answer")


def _refusal(answer: AnswerHead, proxy: Proxy, target: str) -> PeerError:
    status = answer.status
    if status in (401, 407):  # tinyproxy says 401 to a wrong password
        schemes = dict.fromkeys(
            value.split(b" ")[0].decode("latin-1") for value in answer.values(b"proxy-authenticate")
        )
        asks = ", ".join(scheme for scheme in schemes if scheme.isalnum()) or "credentials"
        if schemes and not any(scheme.lower() == "basic" for scheme in schemes):
            why = f"asks for {asks}, and Raven speaks Basic only ({status})"
        elif proxy.authorization:
            why = f"does not take that user and password ({status})"
        else:
            why = f"wants a user and a password ({status}): give http://USER:PASSWORD@HOST:PORT"
        return PeerError("proxy-auth", f"the proxy {proxy} {why}")
    if status in (403, 405):
        why = f"does not let CONNECT to {target} pass ({status}): its owner has to allow it"
        return PeerError("proxy-forbids", f"the proxy {proxy} {why}")
    if status in (500, 502, 503, 504):
        return PeerError("proxy-target", f"the proxy {proxy} cannot reach {target} ({status})")
    return PeerError("proxy-answer", f"the proxy {proxy} answers CONNECT to {target} with {status}")
