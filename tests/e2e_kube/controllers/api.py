"""The API as an administrator's requests: quicker than a kubectl for each, so that thousands are made."""

import http.client
import json
import socket
import ssl
from pathlib import Path
from typing import Any

from tests.e2e_kube.control_plane import ApiServer
from tests.lab import wires
from tests.lab.errors import LabError

MERGE = "application/merge-patch+json"
_TIMEOUT = 30.0  # seconds
_NONE = (404,)


class Api:
    """One connection to `server`, made when it is needed; for one thread."""

    def __init__(self, server: ApiServer, pki: Path, *, user: str = "admin") -> None:
        self._server = server
        self._context = ssl.create_default_context(cafile=str(pki / "ca.crt"))
        self._context.load_cert_chain(pki / f"{user}.crt", pki / f"{user}.key")
        self._connection: http.client.HTTPSConnection | None = None

    def get(self, path: str) -> Any:
        """The object or list at `path`; None where there is none."""
        return self.ask("GET", path, but=_NONE)

    def items(self, path: str) -> list[Any]:
        found: list[Any] = (self.get(path) or {}).get("items") or []
        return found

    def create(self, path: str, body: Any) -> Any:
        return self.ask("POST", path, body)

    def merge(self, path: str, patch: Any) -> Any:
        """The object with an RFC 7396 merge patch applied."""
        return self.ask("PATCH", path, patch, type=MERGE)

    def delete(self, path: str) -> None:
        self.ask("DELETE", path, but=_NONE)

    def stream(self, path: str) -> http.client.HTTPResponse:
        """The answer to a GET, to be read line by line as it comes and closed."""
        if self._connection is None:
            self._connect()
        assert self._connection is not None
        self._connection.sock.settimeout(None)  # a watch may be silent
        self._connection.request("GET", path)
        return self._connection.getresponse()

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        type: str = "application/json",
        but: tuple[int, ...] = (),
    ) -> Any:
        """The answer's JSON; None for a status in `but`. LabError for every other that is no success."""
        data = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": type}
        fresh = self._connection is None
        try:
            status, answer = self._round(method, path, data, headers)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if fresh:
                raise LabError(f"{method} {path}: {error}") from error
            return self.ask(method, path, body, type=type, but=but)  # the server had closed what we kept
        if status in but:
            return None
        if status >= 300:
            raise LabError(f"{method} {path}: {status} {answer[:500].decode(errors='replace')}")
        return json.loads(answer)

    def _round(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str]
    ) -> tuple[int, bytes]:
        if self._connection is None:
            self._connect()
        assert self._connection is not None
        self._connection.request(method, path, data, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def _connect(self) -> None:
        connection = http.client.HTTPSConnection(wires.CLOUD, self._server.port, context=self._context)
        connection.sock = self._context.wrap_socket(self._dial(), server_hostname=wires.CLOUD)
        self._connection = connection

    def _dial(self) -> socket.socket:
        address = (wires.CLOUD, self._server.port)
        return self._server.machine.inside(lambda: socket.create_connection(address, _TIMEOUT))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
