"""The terminating entry: ends TLS in front of the kubelets, so that a policy can tell logs from exec.

Off unless configured, because here the gateway reads what the other entries only carry, and holds a kubelet
client certificate. It is an HTTP proxy with other routes: the TLS server name is the node, the path tells the
verb (`raven.oam.kubelet`), and the stream to the node speaks TLS again, with the kubelet's certificate
verified, always. Upgrades (SPDY, WebSocket) pass once the verdict is known.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import trio

from gateway.oam.connect import HttpProxy
from gateway.oam.requests import Request, Requests
from raven import log
from raven.errors import StateError
from raven.net.tls import handshake_problem
from raven.net.tls_over_stream import TLSOverStream
from raven.net.tls_stream import TLSStream
from raven.oam.heads import RequestHead
from raven.oam.kubelet import kubelet_request_untrusted
from raven.oam.refusal import Refusal
from raven.oam.target import Route, Target, host_of_authority

KUBELET_TLS_TIMEOUT: Final = 15.0  # seconds; the edge may be three slow round trips away


class KubeletProxy(HttpProxy):
    """The entry for one port of the nodes. `context` gives what to show to kubelets and whom to believe."""

    def __init__(self, *, requests: Requests, port: int, context: Callable[[], ssl.SSLContext]) -> None:
        super().__init__(requests=requests)
        self._port = port
        self._context = context

    def _find_route(
        self, stream: trio.abc.HalfCloseableStream, request: RequestHead, record: Request
    ) -> Route:
        """By the name the asker dialled, and the path; there are no pages here. Refusal "bad-target".

        The Host header names the node where nothing else does. kube-apiserver's node proxy passes the Host of
        its own client on, so it is no match for a server name.
        """
        if request.method == "CONNECT":
            raise Refusal("bad-target", "this entry takes requests for a kubelet, not CONNECT")
        record.asks = kubelet_request_untrusted(request.target)
        record.detail = str(record.asks)
        hosts = request.values(b"host")
        if len(hosts) != 1:
            raise Refusal("bad-target", "expected one Host header")
        authority = hosts[0].decode("latin-1")
        dialled = stream.socket.server_hostname if isinstance(stream, TLSStream) else None
        node = host_of_authority(dialled or authority)
        return Route(Target(node, "", self._port), path=request.target, authority=authority)

    async def _open(self, record: Request) -> trio.abc.HalfCloseableStream:
        """TLS to the kubelet of the node, verified by the node's name."""
        assert record.target is not None
        upstream = await super()._open(record)
        secured = TLSOverStream(upstream, self._context(), server_hostname=record.target.node)
        try:
            with trio.fail_after(KUBELET_TLS_TIMEOUT):
                await secured.handshake()
        except trio.BrokenResourceError as error:
            await trio.aclose_forcefully(secured)
            raise Refusal(
                "bad-kubelet-tls",
                f"TLS with the kubelet of node {record.target.node}: {handshake_problem(error)}; it has to "
                "show a certificate for that name, by the CA in --kubelet-ca",
            ) from error
        except trio.TooSlowError as error:
            await trio.aclose_forcefully(secured)
            raise Refusal(
                "dial-timeout",
                f"no TLS handshake with the kubelet of node {record.target.node} within "
                f"{KUBELET_TLS_TIMEOUT:.0f} s",
            ) from error
        except BaseException:
            await trio.aclose_forcefully(secured)
            raise
        return secured


class Reloaded:
    """A TLS context from files that others renew: made again when one of them has changed."""

    def __init__(self, make: Callable[[], ssl.SSLContext], files: Sequence[Path]) -> None:
        """StateError when the files cannot be used now."""
        self._make = make
        self._files = files
        self._log = log.get("oam")
        self._seen = self._times()
        self._context = make()

    def __call__(self) -> ssl.SSLContext:
        """The context of the files as they are, or as they last made sense."""
        if (now := self._times()) != self._seen:
            self._seen = now
            try:
                self._context = self._make()
                self._log.info("reloaded", files=", ".join(map(str, self._files)))
            except StateError as error:
                self._log.error("kept the certificates from before", why=str(error))
        return self._context

    def _times(self) -> list[int]:
        return [path.stat().st_mtime_ns if path.exists() else 0 for path in self._files]
