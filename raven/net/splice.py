"""Joins two streams: what one reads the other writes, both ways, until both directions have ended."""

from dataclasses import dataclass

from trio.abc import HalfCloseableStream


@dataclass(frozen=True, slots=True)
class SpliceResult:
    """How a splice ended: bytes carried each way, and a sentence when one side broke off."""

    bytes_a_to_b: int
    bytes_b_to_a: int
    aborted: str = ""


async def splice(a: HalfCloseableStream, b: HalfCloseableStream) -> SpliceResult:
    """Copies until both ends have said EOF; half-closes and aborts propagate. Closes both streams, always."""
    raise NotImplementedError
