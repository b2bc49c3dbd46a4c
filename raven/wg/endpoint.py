"""Where a peer is reached: numeric addresses, as the socket layer gives and takes them.

Shared by the protocol, its UAPI and whoever configures a device, so it imports nothing.
"""

from typing import NamedTuple


class Endpoint(NamedTuple):
    """One end of the outer path. Compared by value; the protocol never looks inside."""

    host: str  # numeric IPv4 or IPv6, without brackets or zone
    port: int
    scope: int = 0  # interface index of a link-local IPv6 host, 0 elsewhere
    source: str = ""  # local address that the peer contacted and that answers leave from; "" is unknown

    def __str__(self) -> str:
        """`1.2.3.4:5` or `[fe80::1%2]:5`, as the UAPI spells an endpoint."""
        if ":" not in self.host:
            return f"{self.host}:{self.port}"
        zone = f"%{self.scope}" if self.scope else ""
        return f"[{self.host}{zone}]:{self.port}"

    def same_place(self, other: "Endpoint | None") -> bool:
        """Whether both name one remote address and port, from whatever local address."""
        return other is not None and self[:3] == other[:3]
