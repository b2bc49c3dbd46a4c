"""Serves the fake API server over TCP, for daemons that run as processes of their own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import h11
import httpx
import trio

from tests.kube.fake import FakeApi


@asynccontextmanager
async def served(api: FakeApi) -> AsyncIterator[str]:
    """The URL while it serves."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, partial(_serve, api), 0, host="127.0.0.1"))
        host, port = listeners[0].socket.getsockname()[:2]
        yield f"http://{host}:{port}"
        nursery.cancel_scope.cancel()


def kubeconfig(path: Path, url: str) -> Path:
    """A kubeconfig for it."""
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u", "namespace": "kube-system"}}],
        "clusters": [{"name": "k", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    path.write_text(json.dumps(config))
    return path


async def _serve(api: FakeApi, stream: trio.SocketStream) -> None:
    connection = h11.Connection(h11.SERVER)
    try:
        while True:
            request, body = None, b""
            while True:
                event = connection.next_event()
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some())
                elif isinstance(event, h11.Request):
                    request = event
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    break
                else:
                    return
            assert request is not None
            asked = httpx.Request(
                request.method.decode(), "http://fake" + request.target.decode(), content=body
            )
            answer = await api.handle_async_request(asked)
            headers = [("Content-Type", "application/json"), *answer.headers.items()]
            kept = [(name, value) for name, value in headers if name.lower() != "content-length"]
            await stream.send_all(connection.send(h11.Response(status_code=answer.status_code, headers=kept)))
            assert isinstance(answer.stream, httpx.AsyncByteStream)
            async for part in answer.stream:
                await stream.send_all(connection.send(h11.Data(data=part)))
            await stream.send_all(connection.send(h11.EndOfMessage()))
            if connection.our_state is h11.MUST_CLOSE:
                return
            connection.start_next_cycle()
    except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
        return
    finally:
        await trio.aclose_forcefully(stream)
