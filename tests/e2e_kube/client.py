"""The API without kubectl: requests as administrator, thousands of them, and exec over a WebSocket.

kubectl speaks SPDY for exec until 1.31; browsers and other clients speak WebSocket, in the subprotocol
v4.channel.k8s.io: the first byte of every message is its channel.
"""

import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.e2e_kube.control_plane import ApiServer
from tests.lab import wires
from tests.lab.errors import LabError

STDIN, STDOUT, STDERR, ERROR = range(4)  # channels
_TIMEOUT = 30.0  # seconds


class Client:
    """An administrator at `server`; its sockets are made in the cloud."""

    def __init__(self, server: ApiServer, pki: Path) -> None:
        self._server = server
        self._context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._context.load_cert_chain(pki / "admin.crt", pki / "admin.key")

    def get(self, path: str) -> bytes:
        """The body of a GET on a connection of its own; LabError for a status other than 200."""
        with self.answer(path) as answer:
            return answer.read()

    @contextmanager
    def answer(self, path: str) -> Iterator[http.client.HTTPResponse]:
        """The answer to a GET as it comes; leaving the block hangs up."""
        connection = http.client.HTTPSConnection(wires.CLOUD, self._server.port, context=self._context)
        connection.sock = self._context.wrap_socket(self._dial(), server_hostname=wires.CLOUD)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status != 200:
                body = answer.read().decode(errors="replace")
                raise LabError(f"GET {path}: {answer.status} {body}")
            yield answer
            answer.close()
        finally:
            connection.close()

    def open_exec(self, pod: str, *command: str) -> ClientConnection:
        """A WebSocket to a command in `pod`, its standard streams attached."""
        query = [("stdin", "1"), ("stdout", "1"), ("stderr", "1"), *(("command", word) for word in command)]
        url = f"{self._server.url}/api/v1/namespaces/default/pods/{pod}/exec?{urlencode(query)}"
        return connect(
            url.replace("https://", "wss://"),
            sock=self._dial(),
            ssl=self._context,
            subprotocols=[Subprotocol("v4.channel.k8s.io")],
            compression=None,
            proxy=None,
            open_timeout=_TIMEOUT,
        )

    def exec(self, pod: str, *command: str, text: str = "") -> tuple[int, str]:
        """Exit status and standard output of a command that reads `text`, which it must not wait beyond."""
        out = b""
        status: dict[str, Any] = {}
        with self.open_exec(pod, *command) as peer:
            if text:
                peer.send(bytes([STDIN]) + text.encode())
            for message in peer:
                assert isinstance(message, bytes)
                if message[0] == STDOUT:
                    out += message[1:]
                elif message[0] == ERROR:
                    status = json.loads(message[1:])
        if status.get("status") == "Success":
            return 0, out.decode()
        causes = status.get("details", {}).get("causes", [])
        codes = [int(cause["message"]) for cause in causes if cause["reason"] == "ExitCode"]
        if not codes:
            raise LabError(f"exec {' '.join(command)}: {status or 'no status'}")
        return codes[0], out.decode()

    def _dial(self) -> socket.socket:
        address = (wires.CLOUD, self._server.port)
        return self._server.machine.inside(lambda: socket.create_connection(address, _TIMEOUT))
