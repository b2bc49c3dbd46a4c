"""The stream lane beside other ways to a port behind a NAT. `python -m bench.streams` prints the whole table.

    client, cloud ── way ── NAT ── way ── server, edge

All ways stand at once between the same namespaces; what is not measured is idle. Target and client take part
of the two cores.
"""

from bench.streams.summary import measure

__all__ = ["measure"]
