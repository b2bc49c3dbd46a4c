"""The API without kubectl: requests as administrator, thousands of them, and exec over a WebSocket.

kubectl speaks SPDY for exec until 1.30; browsers and other clients speak WebSocket, in the subprotocol
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

from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

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

    @contextmanager
    def open_exec(self, pod: str, *command: str) -> Iterator["Exec"]:
        """A command in `pod` with its standard streams; leaving the block hangs up."""
        query = [("stdin", "1"), ("stdout", "1"), ("stderr", "1"), *(("command", word) for word in command)]
        with self._open(f"{pod}/exec?{urlencode(query)}") as running:
            yield running

    @contextmanager
    def open_forward(self, pod: str, port: int) -> Iterator["Exec"]:
        """A connection to a port of `pod`: its data is on channel 0; leaving the block hangs up."""
        with self._open(f"{pod}/portforward?ports={port}") as forwarded:
            for _ in range(2):  # each channel says its port first
                message = forwarded.receive()
                if message is None or message[1] != port.to_bytes(2, "little"):
                    raise LabError(f"forwarding port {port} of {pod}: {message}")
            yield forwarded

    @contextmanager
    def _open(self, what: str) -> Iterator["Exec"]:
        url = f"{self._server.url}/api/v1/namespaces/default/pods/{what}"
        with self._context.wrap_socket(self._dial(), server_hostname=wires.CLOUD) as peer:
            yield Exec(peer, url.replace("https://", "wss://"))

    def exec(self, pod: str, *command: str, text: str = "") -> tuple[int, str]:
        """Exit status and standard output of a command that reads `text`, which it must not wait beyond."""
        out = b""
        status: dict[str, Any] = {}
        with self.open_exec(pod, *command) as running:
            if text:
                running.send(text.encode())
            while message := running.receive():
                channel, content = message
                if channel == STDOUT:
                    out += content
                elif channel == ERROR:
                    status = json.loads(content)
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


class Exec:
    """A command over a WebSocket; one thread uses it, since an SSLSocket is not for two."""

    def __init__(self, peer: ssl.SSLSocket, url: str) -> None:
        self._peer = peer
        self._protocol = ClientProtocol(parse_uri(url), subprotocols=[Subprotocol("v4.channel.k8s.io")])
        self._frames: list[Frame] = []
        self._protocol.send_request(self._protocol.connect())
        self._flush()
        while self._protocol.state is State.CONNECTING and self._read():
            pass
        # By now it may be closing: a short command's whole answer can come with the handshake's.
        if self._protocol.state is State.CONNECTING or self._protocol.handshake_exc is not None:
            raise LabError(f"no WebSocket: {self._protocol.handshake_exc}")

    def send(self, content: bytes) -> None:
        """To the command's standard input."""
        self._protocol.send_binary(bytes([STDIN]) + content)
        self._flush()

    def receive(self) -> tuple[int, bytes] | None:
        """Channel and content of the next message that has any; None at the end."""
        while True:
            while not self._frames:
                if not self._read():
                    return None
            frame = self._frames.pop(0)
            if frame.opcode is Opcode.CLOSE:
                return None
            if frame.opcode is Opcode.BINARY and len(frame.data) > 1:
                return frame.data[0], bytes(frame.data[1:])

    def _read(self) -> bool:
        """Takes what comes next; whether anything did."""
        data = self._peer.recv(1 << 16)
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        self._frames += [event for event in self._protocol.events_received() if isinstance(event, Frame)]
        self._flush()
        return bool(data)

    def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._peer.sendall(data)
