"""Asks a userspace WireGuard device what `wg` has no word for. All namespaces share one directory."""

import socket

from raven.wg.configuration import Status
from raven.wg.uapi import COUNTERS, STATUS
from raven.wg.uapi_answers import parse_counters_untrusted, parse_status_untrusted
from tests.lab.leftovers import WIREGUARD


def ask(interface: str, *lines: str) -> str:
    """The answer to one request."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        client.connect(str(WIREGUARD / f"{interface}.sock"))
        client.sendall("\n".join((*lines, "", "")).encode())
        answer = b""
        while not answer.endswith(b"\n\n"):
            piece = client.recv(65536)
            assert piece, answer
            answer += piece
        return answer.decode()


def counters(interface: str) -> dict[str, int]:
    """Drops by reason."""
    return parse_counters_untrusted(ask(interface, COUNTERS))


def status(interface: str) -> Status:
    """What a `raven-wg` knows beside WireGuard."""
    return parse_status_untrusted(ask(interface, STATUS))
