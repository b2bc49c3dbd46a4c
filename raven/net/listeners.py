"""TCP listeners of the daemons, with an error that tells who is in the way.

An empty host listens on every address, IPv4 and IPv6. The caller owns what is returned and closes it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import trio

from raven.errors import ConfigError

BACKLOG = 1024  # connections; after a gateway restart every agent of a large site dials at once


async def open_listeners(what: str, host: str, port: int) -> list[trio.SocketListener]:
    """Listens for TCP at `host`:`port`; ConfigError, opening with `what`, tells why that cannot be."""
    shown = f"{what} {f'[{host}]' if ':' in host else host or '*'}:{port}"
    try:
        return await trio.open_tcp_listeners(port, host=host or None, backlog=BACKLOG)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            holders = await trio.to_thread.run_sync(lambda: list(port_holders(port)))
            who = f"held by {', '.join(holders)}" if holders else f"`ss -ltnp sport = :{port}` shows by whom"
            raise ConfigError(f"{shown}: the port is in use; {who}") from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(f"{shown}: no such address here; `ip address` lists them") from error
        if error.errno == errno.EACCES:
            why = "a port below 1024 needs CAP_NET_BIND_SERVICE" if port < 1024 else "not permitted"
            raise ConfigError(f"{shown}: {why}") from error
        raise ConfigError(f"{shown}: cannot listen there: {error.strerror or error}") from error


def address_of(listeners: list[trio.SocketListener]) -> tuple[str, int]:
    """Host and port of the first listener: the port that port 0 became."""
    host, port = listeners[0].socket.getsockname()[:2]
    return host, port


def port_holders(port: int) -> Iterator[str]:
    """The processes that listen on TCP `port`, as `nginx (pid 12)`, as far as /proc lets this user see."""
    links = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for process in Path("/proc").glob("[0-9]*") if links else ():
        try:
            if any(str(fd.readlink()) in links for fd in (process / "fd").iterdir()):
                yield f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue  # another user's process, or one that has just ended


def _listening_inodes(port: int) -> Iterator[str]:
    # proc(5), /proc/net/tcp: local address HEX_IP:HEX_PORT, state 0A is LISTEN, the tenth column the inode.
    for table in ("tcp", "tcp6"):
        try:
            lines = Path("/proc/self/net", table).read_text().splitlines()[1:]
        except OSError:
            continue
        for columns in map(str.split, lines):
            if columns[3] == "0A" and int(columns[1].rpartition(":")[2], 16) == port:
                yield columns[9]
