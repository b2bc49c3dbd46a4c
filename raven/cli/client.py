"""Which daemon a command talks to, and how the two of them can fail to meet."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NoReturn, overload

import click
import trio

from raven.errors import StateError
from raven.net.status_socket import Answer, Request, SnapshotRequest, ask
from raven.places import AGENT_SOCKET, GATEWAY_SOCKET
from raven.status import AgentSnapshot, GatewaySnapshot, Happening, PingResult, Streams, TraceResult
from raven.terminal import printable_lines

EXIT_DOWN = 1  # the daemon answered, and something it watches is not well
EXIT_USAGE = 2  # no daemon answered, or the command makes no sense to it


def fail(message: str, code: int = EXIT_USAGE) -> NoReturn:
    """Ends the command with a line on standard error."""
    click.echo(f"ravenctl: {printable_lines(message)}", err=True)
    raise SystemExit(code)


def query(socket: Path | None, request: Request) -> Answer:
    """The daemon's answer: the one at `socket`, else this machine's gateway, else its agent.

    Without an answer the command ends, and says what to try next.
    """
    tried = []
    for path in [socket] if socket is not None else [GATEWAY_SOCKET, AGENT_SOCKET]:
        try:
            return trio.run(ask, path, request)
        except StateError as error:
            tried.append(str(error))
            if isinstance(error.__cause__, PermissionError):
                fail(f"{error}; use sudo, or join the group that --socket-group names")
            if not isinstance(error.__cause__, FileNotFoundError):
                break
    hint = "is the daemon running? `systemctl status raven-gateway raven-agent` tells"
    if socket is None:
        hint += "; --socket names a socket that is elsewhere"
    fail("\n  ".join([*tried, hint]))


def snapshot(socket: Path | None) -> GatewaySnapshot | AgentSnapshot:
    """What the daemon knows now."""
    return answered(query(socket, SnapshotRequest()), "snapshot")


@overload
def answered(answer: Answer, what: Literal["snapshot"]) -> GatewaySnapshot | AgentSnapshot: ...
@overload
def answered(answer: Answer, what: Literal["ping"]) -> PingResult: ...
@overload
def answered(answer: Answer, what: Literal["trace"]) -> TraceResult: ...
@overload
def answered(answer: Answer, what: Literal["streams"]) -> Streams: ...
@overload
def answered(answer: Answer, what: Literal["events"]) -> list[Happening]: ...
def answered(answer: Answer, what: str) -> object:
    """The part of the answer that was asked for; without it the command ends with the daemon's reason."""
    part: object = getattr(answer, what)
    if part is None:
        fail(answer.error or "the daemon answered something else; is its version another?")
    return part
