"""The entry by TLS server name: reads a ClientHello, finds the node it names, and splices the bytes.

For control planes whose flags one cannot set: kube-apiserver dials a node's name, and the name leads here.
The gateway holds no key: both ends of TLS are the asker's and the kubelet's, and each verifies the other.
`raven.oam.clienthello` understands the bytes, `requests` judges and opens. What cannot be served is
answered with a TLS alert, since that is all a client can read by then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from gateway.oam.arrivals import Arrivals
from gateway.oam.requests import Request, Requests
from raven import log
from raven.errors import PeerError
from raven.net.http_pages import linger
from raven.net.splice import Copied, abort, splice
from raven.oam.asker import Asker
from raven.oam.clienthello import HELLO_MAX, HelloBuffer, fatal_alert
from raven.oam.refusal import Refusal
from raven.oam.target import Target

HELLO_TIMEOUT: Final = 10.0  # seconds until the ClientHello is whole; as long as a head may take
ALERT_TIMEOUT: Final = 2.0  # seconds to hand seven bytes to the kernel


class NameSplicer:
    """The entry for one port of the nodes, the kubelet's unless told otherwise."""

    def __init__(self, *, requests: Requests, port: int) -> None:
        self._requests = requests
        self._port = port
        self._log = log.get("names")
        self.arrivals = Arrivals()
        self.draining = False

    async def serve(
        self,
        stream: trio.abc.HalfCloseableStream,
        asker: Asker,
        *,
        greeted: Callable[[], None] = lambda: None,
    ) -> None:
        """Carries one connection until its end; closes it. Nothing an asker does raises.

        `greeted` is called when the ClientHello was there.
        """
        record = self._requests.new(asker, "TLS")
        self.arrivals.came(stream)
        try:
            await self._serve(stream, record, greeted)
        except Refusal as refusal:
            record.refused(refusal)
            await self._turn_away(stream, refusal.reason)
        except PeerError as error:
            record.verdict, record.detail = error.reason, str(error)
            await self._turn_away(stream, error.reason)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._requests.broken["asker-left"] += 1
        except Exception:
            # A bug met by one connection must not take the gateway with it.
            self._requests.broken["fault"] += 1
            self._log.exception("a connection ended by a fault of the gateway")
        finally:
            self._requests.ended(record)
            self.arrivals.arrived(stream)
            await trio.aclose_forcefully(stream)

    async def _serve(
        self, stream: trio.abc.HalfCloseableStream, record: Request, greeted: Callable[[], None]
    ) -> None:
        hello = HelloBuffer()
        name = await self._read_name(stream, hello)
        if name is None:
            return
        greeted()
        self._requests.locate(record, Target(name, "", self._port))
        if self.draining:
            raise Refusal("draining", "this gateway is shutting down; ask another one, or again in a moment")
        with self._requests.under_way(record):
            await self._carry(stream, hello, record)
        if record.scope.cancelled_caught:
            abort(stream, "withdrawn")  # nobody shall take what came for the whole

    async def _read_name(self, stream: trio.abc.ReceiveStream, hello: HelloBuffer) -> str | None:
        """The server name; None when the asker leaves before it has said one. PeerError."""
        with trio.move_on_after(HELLO_TIMEOUT):
            while True:
                data = await stream.receive_some(HELLO_MAX - len(hello.data))
                if not data:
                    return None
                hello.receive_data(data)
                if (name := hello.server_name_untrusted()) is not None:
                    return name
        raise PeerError("hello-timeout", f"no whole ClientHello within {HELLO_TIMEOUT:.0f} s")

    async def _carry(self, stream: trio.abc.HalfCloseableStream, hello: HelloBuffer, record: Request) -> None:
        """Between the asker and the kubelet until both directions have ended."""
        upstream = await self._requests.open(record)
        try:
            await upstream.send_all(hello.data)
        except trio.BrokenResourceError:
            pass  # splice will see it too, and find out more
        except BaseException:
            await trio.aclose_forcefully(upstream)
            raise
        self.arrivals.arrived(stream)
        counted = Copied()
        try:
            result = await splice(stream, upstream, counted)
        finally:
            record.to_target = len(hello.data) + counted.a_to_b
            record.from_target = counted.b_to_a
        record.detail = record.detail or result.aborted
        if result.aborted:
            self._requests.broken["aborted"] += 1

    async def _turn_away(self, stream: trio.abc.HalfCloseableStream, reason: str) -> None:
        self._requests.refused[reason] += 1
        with trio.move_on_after(ALERT_TIMEOUT):
            try:
                await stream.send_all(fatal_alert(reason))
                await linger(stream)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # left already
