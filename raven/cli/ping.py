"""`ravenctl ping NODE`: a round trip through both lanes, a few times."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from raven.cli import render
from raven.cli.client import EXIT_DOWN, answered, query
from raven.net.status_socket import PingRequest
from raven.status import PingResult


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What `-o json` prints: the best round trip of each lane, and all of them."""

    node: str
    stream_rtt_ms: float | None
    packet_rtt_ms: float | None
    pings: list[PingResult]


def ping(socket: Path | None, node: str, *, count: int, interval: float, json: bool) -> int:
    """Pings and prints as it goes; the exit code."""
    results: list[PingResult] = []
    for turn in range(count):
        if turn:
            time.sleep(interval)
        results.append(answered(query(socket, PingRequest(node=node)), "ping"))
        if not json:
            render.say(_line(results[-1]))
    if json:
        stream = [result.stream_rtt_ms for result in results if result.stream_rtt_ms is not None]
        packet = [result.packet_rtt_ms for result in results if result.packet_rtt_ms is not None]
        render.print_json(
            Report(
                node=node,
                stream_rtt_ms=min(stream, default=None),
                packet_rtt_ms=min(packet, default=None),
                pings=results,
            )
        )
    return EXIT_DOWN if any(map(_failed, results)) else 0


def _failed(result: PingResult) -> bool:
    return result.stream_rtt_ms is None or (result.packet_rtt_ms is None and not result.packet_off)


def _line(result: PingResult) -> str:
    def part(rtt: float | None, state: str, problem: str) -> str:
        return render.milliseconds(rtt) if rtt is not None else f"{state}: {problem}"

    stream = part(result.stream_rtt_ms, "down", result.stream_problem)
    packet = part(result.packet_rtt_ms, "off" if result.packet_off else "down", result.packet_problem)
    return f"{result.node}: stream lane {stream}; packet lane {packet}"
